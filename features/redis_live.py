"""The live store on Valkey or Redis: one script per change, so that an event counts once whatever is retried.

The scripts touch the keys of one customer, except `link`, which has two: it needs one server, not a
cluster. They use what Redis 6.2 and Valkey have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from features.live_store import (
    CONTACT_IDENTITY,
    CONTACT_LAST,
    DECISION_TTL_S,
    ENTRY_BYTES,
    LIVE_TTL_S,
    PATCH_TRIES,
    RECENT_IDENTITY,
    RECENT_LAST,
    LiveStore,
    check_entries,
    decision_key,
    decisions_key,
    live_keys,
)
from features.redis_address import parse_address
from features.redis_resp import RespLink, Script
from features.redis_store import Fetcher
from features.store import StoreConflict

MANY: Final = 24  # more new entries than this are looked up in a table, made of the whole log first

# What both scripts share. A log is searched for a few identities by plain find; a hit counts at the start
# of an entry only. `whole` cuts the torn end of a log off. (A full contact log, server time: 1 entry 25 µs,
# 40 130 µs.)
_LOGS: Final = f"""
local SIZE = {ENTRY_BYTES}
local function whole(log)
  return string.sub(log, 1, #log - #log % SIZE)
end
local function holds(log, identity)
  local at = string.find(log, identity, 1, true)
  while at and (at - 1) % SIZE ~= 0 do
    at = string.find(log, identity, at + 1, true)
  end
  return at
end
local function union(log, new, identity)
  local seen, fresh, many = {{}}, {{}}, #new > {MANY * ENTRY_BYTES}
  for at = 1, many and #log or 0, SIZE do
    seen[string.sub(log, at, at + identity - 1)] = true
  end
  for at = 1, #new, SIZE do
    local own = string.sub(new, at, at + identity - 1)
    if not seen[own] and (many or not holds(log, own)) then
      seen[own] = true
      fresh[#fresh + 1] = string.sub(new, at, at + SIZE - 1)
    end
  end
  return log .. table.concat(fresh)
end
local function keep(key, log, last)
  redis.call('SET', key, string.sub(log, -last * SIZE), 'EX', {LIVE_TTL_S})
end
"""

_APPEND: Final = Script(
    _LOGS
    + f"""
local function add(key, new, identity, last)
  if #new > 0 then
    keep(key, union(whole(redis.call('GET', key) or ''), new, identity), last)
  end
end
add(KEYS[1], ARGV[1], {RECENT_IDENTITY}, {RECENT_LAST})
add(KEYS[2], ARGV[2], {CONTACT_IDENTITY}, {CONTACT_LAST})
"""
)

_LINK: Final = Script(
    _LOGS
    + f"""
local function merge(source, target, identity, last, form, offset)
  local other = whole(redis.call('GET', source) or '')
  if #other == 0 then
    return
  end
  local log = union(whole(redis.call('GET', target) or ''), other, identity)
  local entries = {{}}
  for at = 1, #log, SIZE do
    local entry = string.sub(log, at, at + SIZE - 1)
    entries[#entries + 1] = {{struct.unpack(form, entry, offset), at, entry}}
  end
  table.sort(entries, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    return a[2] < b[2]
  end)
  for i, entry in ipairs(entries) do
    entries[i] = entry[3]
  end
  keep(target, table.concat(entries), last)
end
merge(KEYS[1], KEYS[3], {RECENT_IDENTITY}, {RECENT_LAST}, '<d', 17)
merge(KEYS[2], KEYS[4], {CONTACT_IDENTITY}, {CONTACT_LAST}, '<I4', 13)
"""
)

# ARGV: whether there was a patch, that patch, the new one.
_SWAP: Final = Script(
    f"""
local old = redis.call('GET', KEYS[1])
if (old or '') ~= ARGV[2] or (old and '1' or '0') ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[3], 'EX', {LIVE_TTL_S})
return 1
"""
)

# The index holds every decision's key by the time it dies, by the store's own clock.
_REMEMBER: Final = Script("""
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2]) then
  return redis.call('GET', KEYS[1])
end
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('ZADD', KEYS[2], now + ARGV[2] + 1, KEYS[1])
if redis.call('TTL', KEYS[2]) < tonumber(ARGV[2]) then
  redis.call('EXPIRE', KEYS[2], ARGV[2] + 1)
end
return false
""")

_FORGET: Final = Script("""
local gone = 0
for _, key in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  gone = gone + redis.call('DEL', key)
end
redis.call('DEL', KEYS[1])
return gone + redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
""")


class RedisLiveStore(LiveStore):
    """Several stores may share a fetcher; `close` closes it for all of them."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._link = fetcher.link

    @classmethod
    def at(cls, url: str) -> RedisLiveStore:
        return cls(Fetcher(RespLink(parse_address(url))))

    async def fetch(self, keys: Sequence[bytes], timeout_s: float | None = None) -> list[bytes | None]:
        return await self._fetcher.fetch(keys, timeout_s)

    async def append(self, subject: str, *, recent: bytes = b"", contact: bytes = b"") -> None:
        check_entries(recent)
        check_entries(contact)
        if recent or contact:
            keys = live_keys(subject)
            await _APPEND.run(self._link, (keys.recent, keys.contact), recent, contact)

    async def link(self, visitor: str, user: str) -> None:
        theirs, ours = live_keys(visitor), live_keys(user)
        await _LINK.run(self._link, (theirs.recent, theirs.contact, ours.recent, ours.contact))

    async def patch(self, subject: str, change: Callable[[bytes | None], bytes]) -> None:
        key = live_keys(subject).patch
        for _ in range(PATCH_TRIES):
            old = (await self._fetcher.fetch((key,)))[0]
            was = b"0" if old is None else b"1"
            if await _SWAP.run(self._link, (key,), was, old or b"", change(old)):
                return
        raise StoreConflict(
            f"the patch of one customer changed {PATCH_TRIES} times while it was being written"
        )

    async def remember(
        self, subject: str, decision_id: str, blob: bytes, ttl_s: int = DECISION_TTL_S
    ) -> bytes:
        keys = (decision_key(subject, decision_id), decisions_key(subject))
        stands: bytes | None = await _REMEMBER.run(self._link, keys, blob, ttl_s)
        return blob if stands is None else stands

    async def forget(self, subject: str) -> int:
        gone: int = await _FORGET.run(self._link, (decisions_key(subject), *live_keys(subject)))
        return gone

    async def close(self) -> None:
        await self._link.close()
