"""The live store on Valkey or Redis: one script per change, so that an event counts once whatever is retried.

The scripts touch the keys of one customer, except `link`, which has two: it needs one server, not a
cluster. They use what Redis 6.2 and Valkey have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from features.live_store import (
    CONTACT_FORM,
    CONTACT_LAST,
    DECISION_TTL_S,
    LIVE_TTL_S,
    PATCH_TRIES,
    RECENT_BYTES,
    RECENT_FORM,
    RECENT_IDENTITY,
    RECENT_LAST,
    UNIT_TTL_S,
    LiveStore,
    check_entries,
    decision_key,
    decisions_key,
    device_key,
    live_keys,
)
from features.redis_address import parse_address
from features.redis_resp import RespLink, Script
from features.redis_store import Fetcher
from features.reservations import (
    CONTACT_BYTES,
    CONTACT_IDENTITY,
    DISPLAYED,
    FLAGS_AT,
    HELD,
    LATE,
    ON_DEVICE,
    RESERVATION_BYTES,
    RESERVED,
    SHOWN,
    WHAT_AT,
)
from features.store import StoreConflict

MANY: Final = 24  # more new entries than this are looked up in a table, made of the whole log first

# What the scripts share. A log is searched for a few identities by plain find; a hit counts at the start of
# an entry only. `whole` cuts the torn end of a log off. (A full contact log, server time: 1 entry 25 µs,
# 40 130 µs.)
_LOGS: Final = f"""
local ROW = {RESERVATION_BYTES}
local function whole(log, size)
  return string.sub(log, 1, #log - #log % size)
end
local function holds(log, identity, size)
  local at = string.find(log, identity, 1, true)
  while at and (at - 1) % size ~= 0 do
    at = string.find(log, identity, at + 1, true)
  end
  return at
end
local function fresh_of(log, new, size, identity)
  local seen, fresh, many = {{}}, {{}}, #new > {MANY} * size
  for at = 1, many and #log or 0, size do
    seen[string.sub(log, at, at + identity - 1)] = true
  end
  for at = 1, #new, size do
    local own = string.sub(new, at, at + identity - 1)
    if not seen[own] and (many or not holds(log, own, size)) then
      seen[own] = true
      fresh[#fresh + 1] = string.sub(new, at, at + size - 1)
    end
  end
  return fresh
end
local function uncounted(log, at)  -- a display that no cap counted
  return string.byte(log, at + {WHAT_AT}) == {DISPLAYED}
    and bit.band(string.byte(log, at + {FLAGS_AT}), {RESERVED}) == 0
end
local function keep(key, log, size, last)
  local excess, at, kept = #log / size - last, 1, {{}}
  while size == {CONTACT_BYTES} and excess > 0 and at <= #log do
    if uncounted(log, at) then
      excess = excess - 1
    else
      kept[#kept + 1] = string.sub(log, at, at + size - 1)
    end
    at = at + size
  end
  log = table.concat(kept) .. string.sub(log, at)
  redis.call('SET', key, string.sub(log, -last * size), 'EX', {LIVE_TTL_S})
end
"""

# A display takes the row that its place was held by; one that was to be held and is not any more is late.
_APPEND: Final = Script(
    _LOGS
    + f"""
local rows, changed, now
local function held(identity, state)
  local at = string.find(rows, identity, 1, true)
  while at do
    if (at - 1) % ROW == 0 and string.byte(rows, at + ROW - 1) == state then return at end
    at = string.find(rows, identity, at + 1, true)
  end
end
local function judged(entry, state)
  if string.byte(entry, {WHAT_AT + 1}) ~= {DISPLAYED} then return entry end
  local at = #rows > 0 and held(string.sub(entry, 1, {CONTACT_IDENTITY}), state)
  if at then
    rows = string.sub(rows, 1, at + ROW - 2) .. string.char({SHOWN}) .. string.sub(rows, at + ROW)
    changed = true
    now = now or tonumber(redis.call('TIME')[1])
    if struct.unpack('<I4', rows, at + {CONTACT_BYTES}) > now then return entry end
  end
  local flags = string.byte(entry, {FLAGS_AT + 1})
  if bit.band(flags, {RESERVED}) == 0 then return entry end
  return string.sub(entry, 1, {FLAGS_AT}) .. string.char(bit.bor(flags, {LATE}))
    .. string.sub(entry, {FLAGS_AT + 2})
end
local function add(key, new, size, identity, last, state)
  if #new == 0 then return end
  local log = whole(redis.call('GET', key) or '', size)
  local fresh = fresh_of(log, new, size, identity)
  if state then
    rows = rows or whole(redis.call('GET', KEYS[3]) or '', ROW)
    for i, entry in ipairs(fresh) do fresh[i] = judged(entry, state) end
  end
  keep(key, log .. table.concat(fresh), size, last)
end
add(KEYS[1], ARGV[1], {RECENT_BYTES}, {RECENT_IDENTITY}, {RECENT_LAST})
add(KEYS[2], ARGV[2], {CONTACT_BYTES}, {CONTACT_IDENTITY}, {CONTACT_LAST}, {HELD})
add(KEYS[4], ARGV[3], {CONTACT_BYTES}, {CONTACT_IDENTITY}, {CONTACT_LAST}, {ON_DEVICE})
if changed then redis.call('SET', KEYS[3], rows, 'KEEPTTL') end
"""
)

# KEYS: the visitor's recent, contact, rows; the user's; the units of both. ARGV: the visitor.
_LINK: Final = Script(
    _LOGS
    + f"""
local function empty(first, second)
  return redis.call('STRLEN', first) + redis.call('STRLEN', second) == 0
end
if not empty(KEYS[1], KEYS[2]) and empty(KEYS[4], KEYS[5]) then
  redis.call('SET', KEYS[8], redis.call('GET', KEYS[7]) or ARGV[1], 'NX', 'EX', {UNIT_TTL_S})
end
local function merge(source, target, size, identity, last, form, offset)
  local other = whole(redis.call('GET', source) or '', size)
  if #other == 0 then
    return
  end
  local log = whole(redis.call('GET', target) or '', size)
  log = log .. table.concat(fresh_of(log, other, size, identity))
  local entries = {{}}
  for at = 1, #log, size do
    local entry = string.sub(log, at, at + size - 1)
    entries[#entries + 1] = {{struct.unpack(form, entry, offset), at, entry}}
  end
  table.sort(entries, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    return a[2] < b[2]
  end)
  for i, entry in ipairs(entries) do
    entries[i] = entry[3]
  end
  keep(target, table.concat(entries), size, last)
end
merge(KEYS[1], KEYS[4], {RECENT_BYTES}, {RECENT_IDENTITY}, {RECENT_LAST}, '<d', 17)
merge(KEYS[2], KEYS[5], {CONTACT_BYTES}, {CONTACT_IDENTITY}, {CONTACT_LAST}, '<I4', 13)
local other = whole(redis.call('GET', KEYS[3]) or '', ROW)
local own = whole(redis.call('GET', KEYS[6]) or '', ROW)
if #other + #own == 0 then return end
local now = tonumber(redis.call('TIME')[1])
local met, rows, known, last = redis.call('GET', KEYS[5]) or '', {{}}, {{}}, 0
local function take(log, ours)
  for at = 1, #log, ROW do
    local row, identity = string.sub(log, at, at + ROW - 1), string.sub(log, at, at + {CONTACT_IDENTITY - 1})
    local expires, held = struct.unpack('<I4', row, {CONTACT_BYTES + 1}), string.byte(row, ROW) == {HELD}
    if expires > now and (ours or held and not known[identity]) then
      known[identity] = true
      if held and holds(met, identity, {CONTACT_BYTES}) then
        row = string.sub(row, 1, ROW - 1) .. string.char({SHOWN})
      end
      rows[#rows + 1] = row
      last = math.max(last, expires)
    end
  end
end
take(own, true)
take(other, false)
if #rows > 0 then redis.call('SET', KEYS[6], table.concat(rows), 'EX', last - now + 1) end
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
return gone + redis.call('DEL', unpack(KEYS, 2))
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

    async def append(
        self, subject: str, *, recent: bytes = b"", contact: bytes = b"", device: bytes = b""
    ) -> None:
        check_entries(recent, RECENT_FORM)
        check_entries(contact, CONTACT_FORM)
        check_entries(device, CONTACT_FORM)
        if recent or contact or device:
            keys = live_keys(subject)
            into = (keys.recent, keys.contact, keys.reserved, device_key(subject))
            await _APPEND.run(self._link, into, recent, contact, device)

    async def link(self, visitor: str, user: str) -> None:
        theirs, ours = live_keys(visitor), live_keys(user)
        keys = (theirs.recent, theirs.contact, theirs.reserved, ours.recent, ours.contact, ours.reserved)
        await _LINK.run(self._link, (*keys, theirs.unit, ours.unit), visitor.encode())

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
        gone: int = await _FORGET.run(
            self._link, (decisions_key(subject), *live_keys(subject), device_key(subject))
        )
        return gone

    async def close(self) -> None:
        await self._link.close()
