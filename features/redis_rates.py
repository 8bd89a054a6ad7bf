"""Token buckets and day quotas on Valkey or Redis: `rt:{name}` is one hash, changed by one script.

t  tokens     a  when they were counted, seconds     d  UTC day     u  units used on that day
"""

from __future__ import annotations

from typing import Final

from features.rates import KEPT_S, NOTHING_BACK, Back, Granted, RateTerms
from features.redis_resp import RespLink, Script

# ARGV: rate, burst, units a day, wanted, given back, the day they were leased on. The server's own clock.
_LEASE: Final = Script(f"""
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local rate, burst, daily = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local want, back, back_day = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local held = redis.call('HMGET', KEYS[1], 't', 'a', 'd', 'u')
local day = math.floor(now / 86400)
local tokens, at = tonumber(held[1]) or burst, tonumber(held[2]) or now
local used = tonumber(held[3]) == day and tonumber(held[4]) or 0
if rate > 0 then
  tokens = math.min(burst, tokens + math.max(0, now - at) * rate + back)
else
  tokens = want
end
if back_day == day then used = math.max(0, used - back) end
local units = math.min(want, math.floor(tokens))
if daily > 0 then units = math.min(units, daily - used) end
units = math.max(0, units)
redis.call('HSET', KEYS[1], 't', string.format('%.17g', tokens - units), 'a', string.format('%.17g', now),
  'd', day, 'u', used + units)
redis.call('EXPIRE', KEYS[1], {KEPT_S})
local wait, spent = 0, 0
if units == 0 then
  if daily > 0 and used >= daily then
    wait, spent = (day + 1) * 86400 - now, 1
  elseif rate > 0 then
    wait = (1 - tokens) / rate
  end
end
return {{units, day, string.format('%.17g', wait), spent}}
""")


class RedisRates:
    """Of one event loop; shares the link of the live role, which its owner closes."""

    def __init__(self, link: RespLink) -> None:
        self._link = link

    async def lease(self, name: str, terms: RateTerms, want: int, back: Back = NOTHING_BACK) -> Granted:
        key = b"rt:{%s}" % name.encode()
        told = (repr(float(terms.per_s)), terms.burst, terms.per_day, want, back.units, back.day)
        units, day, wait_s, spent = await _LEASE.run(self._link, (key,), *told)
        return Granted(int(units), int(day), float(wait_s), bool(spent))
