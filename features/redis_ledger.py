"""The ledger on Valkey or Redis: one script a page and subject, a few for epoch and quotas.

    lv:res:{u:42}        a subject's rows of views.RESERVATION; dies with the last of them
    lg:epoch             n, and the run of the server that opened it; one on each server of a shard map
    lg:q:{lg}:<quota>    a pool: c confirmed, l late, v longest validity + 60, o:<bucket> outstanding
    lg:qm:{lg}:<quota>:<bucket>   who was confirmed, for an hour

A server's run changes with every start and failover; the connection is asked for it once after each opening.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgpack

from features import reserving as asks
from features.ids import decision_mark
from features.ledger import (
    BUCKET_S,
    NO_EPOCH,
    STOP_S,
    Lease,
    Ledger,
    Pool,
    Reserved,
    Reserving,
    Shown,
    bucket_ends,
    pool_ttl_s,
    verify,
)
from features.live_store import CONTACT_LAST, device_key, live_keys
from features.redis_address import parse_address
from features.redis_resp import RespLink, Script
from features.reservations import (
    CONTACT_BYTES,
    GRACE_S,
    HELD,
    NO_CHOICE,
    ON_DEVICE,
    REFUSED,
    RESERVATION_BYTES,
    WHAT_AT,
)
from features.store import StoreUnavailable

EPOCH: Final = b"lg:epoch"
MEMBERS_S: Final = 3600  # longer than a duplicate of an event is applied again

# Counting: the log is searched for a key's bytes; a hit counts where the field lies. What was found is kept
# for the page's other places and caps. (`fenliu bench race` prints the server's time over a full log.)
_RESERVE: Final = Script(f"""
local ROW, ENTRY = {RESERVATION_BYTES}, {CONTACT_BYTES}
local sub, byte, find, get = string.sub, string.byte, string.find, redis.call
local ask = cmsgpack.unpack(ARGV[1])
local epoch, mark, attempt, scope, life, mine = ask[1], ask[2], ask[3], ask[4], ask[5], ask[6]
local checks, places = ask[7], ask[8]
if tonumber(get('HGET', KEYS[4], 'n')) ~= epoch then return 0 end
local now = tonumber(get('TIME')[1])
local function u4(text, at)
  local a, b, c, d = byte(text, at, at + 3)
  return a + b * 256 + c * 65536 + d * 16777216
end

local held, kept, own, all, answer, known = get('GET', KEYS[2]) or '', {{}}, {{}}, {{}}, {{}}, false
local last = now + life
for at = 1, #held - ROW + 1, ROW do
  local row = sub(held, at, at + ROW - 1)
  local expires = u4(row, 41)
  if expires > now then
    local state = byte(row, 56)
    if sub(row, 9, 12) == mark and byte(row, 55) == attempt then
      known = true
      local choice = byte(row, 54)
      answer[byte(row, 53) + 1] = (state == {REFUSED} or choice == {NO_CHOICE}) and -1 or choice
    elseif sub(row, 45, 48) ~= scope or u4(row, 49) ~= epoch then
      kept[#kept + 1] = row
      if expires > last then last = expires end
      if state == {HELD} then own[#own + 1] = row end
      if state == {HELD} or state == {ON_DEVICE} then all[#all + 1] = row end
    end
  end
end
if known then
  for i = 1, #places do answer[i] = answer[i] or -1 end
  return {{0, unpack(answer, 1, #places)}}
end

local met = get('GET', KEYS[1]) or ''
met = sub(met, 1, #met - #met % ENTRY)
local logs, lives = {{[false] = met}}, {{[false] = table.concat(own), [true] = table.concat(all)}}
local function log_of(wide)
  local log = logs[wide]
  if not log then
    log = met .. (get('GET', KEYS[3]) or '')
    logs[wide] = log
  end
  return log
end
local scanned = {{}}
local function times(check, key)
  local name = check.log .. key
  local found = scanned[name]
  if found then return found end
  local log, event, offset = log_of(check[8]), check[1], check[2]
  local size, n = #log, 0
  found = {{}}
  scanned[name] = found
  if check[3] == 1 then  -- a single byte is found everywhere
    for at = 1 + offset, size, ENTRY do
      if sub(log, at, at) == key and byte(log, at - offset + {WHAT_AT}) == event then
        n = n + 1
        found[n] = u4(log, at - offset + 12)
      end
    end
    return found
  end
  local at = find(log, key, 1 + offset, true)
  while at do
    local row = at - offset
    if (row - 1) % ENTRY == 0 then
      if byte(log, row + {WHAT_AT}) == event then
        n = n + 1
        found[n] = u4(log, row + 12)
      end
      at = find(log, key, at + ENTRY, true)
    else
      at = find(log, key, at + 1, true)
    end
  end
  return found
end
local function confirmed(check, key)
  local known = check.seen[key]
  if known then return known[1], known[2] end
  local n, latest, since = 0, 0, check.since
  for _, at in ipairs(times(check, key)) do
    if at > latest then latest = at end
    if at >= since then n = n + 1 end
  end
  check.seen[key] = {{n, latest}}
  return n, latest
end
local function outstanding(live, key, offset)
  local n, at = 0, find(live, key, 1 + offset, true)
  while at do
    if (at - offset - 1) % ROW == 0 then
      n = n + 1
      at = find(live, key, at + ROW, true)
    else
      at = find(live, key, at + 1, true)
    end
  end
  return n
end

local short = 0
for _, check in ipairs(checks) do
  check.seen = {{}}
  check.log = check[1] .. ',' .. check[2] .. (check[8] and 'd' or 'c')
  check.since = check[6]
  if check[5] > 0 and now - check[5] > check.since then check.since = now - check[5] end
end
local function allowed(check, entry)
  if check.since > now then return false end
  if not check.short then
    local log = log_of(check[8])
    check.short = #met >= {CONTACT_LAST} * ENTRY and u4(met, 13) > check.since
    if check.short then short = short + 1 end
  end
  local offset, gap, keys, n, waits = check[2], check[7], check[9], 0, 0
  if #keys == 0 then keys = {{sub(entry, offset + 1, offset + check[3])}} end
  for _, key in ipairs(keys) do
    local counted, latest = confirmed(check, key)
    n = n + counted
    if gap > 0 and latest + gap > now then return false end
    if check[1] == 1 then waits = waits + outstanding(lives[check[8]], key, offset) end
  end
  return n + waits < check[4] and not (gap > 0 and waits > 0)
end
local function fits(wish)
  for _, cap in ipairs(wish[2]) do
    if not allowed(checks[cap], wish[1]) then return false end
  end
  return true
end

local function tail(place, choice, state)
  return struct.pack('<I4', now + life) .. scope
    .. struct.pack('<I4BBBB', epoch, place, choice, attempt, state)
end
for i, place in ipairs(places) do
  answer[i] = -1
  for j, wish in ipairs(place) do
    if fits(wish) then
      local entry = wish[1]
      local row = sub(entry, 1, 12) .. struct.pack('<I4', now) .. sub(entry, 17) .. tail(i - 1, j - 1, mine)
      answer[i] = j - 1
      kept[#kept + 1] = row
      lives[true] = lives[true] .. row
      if mine == {HELD} then lives[false] = lives[false] .. row end
      break
    end
  end
  if answer[i] < 0 then
    kept[#kept + 1] = string.rep('\\0', 8) .. mark .. string.rep('\\0', 28)
      .. tail(i - 1, {NO_CHOICE}, {REFUSED})
  end
end
get('SET', KEYS[2], table.concat(kept), 'EX', last - now + 1)
return {{short, unpack(answer, 1, #places)}}
""")

# ARGV: the identities (item and mark) to release.
_RELEASE: Final = Script(f"""
local rows, changed = redis.call('GET', KEYS[1]) or '', false
for _, identity in ipairs(ARGV) do
  local at = string.find(rows, identity, 1, true)
  while at do
    local state = string.byte(rows, at + {RESERVATION_BYTES - 1})
    if (at - 1) % {RESERVATION_BYTES} == 0 and (state == {HELD} or state == {ON_DEVICE}) then
      rows = string.sub(rows, 1, at + {RESERVATION_BYTES - 2}) .. string.char({REFUSED})
        .. string.sub(rows, at + {RESERVATION_BYTES})
      changed = true
    end
    at = string.find(rows, identity, at + 1, true)
  end
end
if changed then redis.call('SET', KEYS[1], rows, 'KEEPTTL') end
""")

# ARGV: the server's run; what to do where there is no epoch: '' nothing, 'first' open one, 'new' in any case.
_EPOCH: Final = Script("""
local n, run = tonumber(redis.call('HGET', KEYS[1], 'n')), redis.call('HGET', KEYS[1], 'run')
if not n and ARGV[2] == '' then return 0 end
if n and run == ARGV[1] and ARGV[2] ~= 'new' then return n end
n = math.max((n or 0) + 1, tonumber(redis.call('TIME')[1]))
redis.call('HSET', KEYS[1], 'n', n, 'run', ARGV[1])
return n
""")

_POOL: Final = f"""
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1e6
local function ended(bucket, life)
  return (bucket + 1) * {BUCKET_S} + life <= now
end
"""

# KEYS: pool, epoch. ARGV: epoch, limit, want, bucket, how long its rest outlives it, the pool's TTL.
_LEASE: Final = Script(
    _POOL
    + f"""
local pool, bucket = KEYS[1], tonumber(ARGV[4])
if redis.call('HGET', KEYS[2], 'n') ~= ARGV[1] then return 0 end
local present = math.floor((now + {STOP_S}) / {BUCKET_S})
if bucket ~= present and bucket ~= present + 1 then return 0 end
local of, used, life = redis.call('HGETALL', pool), 0, tonumber(ARGV[5])
for i = 1, #of, 2 do
  if of[i] == 'v' then life = math.max(life, of[i + 1]) end
end
for i = 1, #of, 2 do
  local name = of[i]
  if string.sub(name, 1, 2) == 'o:' and ended(tonumber(string.sub(name, 3)), life) then
    redis.call('HDEL', pool, name)
  elseif name ~= 'v' then
    used = used + of[i + 1]
  end
end
local left = tonumber(ARGV[2]) - used
if left <= 0 then return 0 end
local units = math.min(tonumber(ARGV[3]), math.ceil(left / 4))
redis.call('HSET', pool, 'v', life)
redis.call('HINCRBY', pool, 'o:' .. bucket, units)
redis.call('EXPIRE', pool, ARGV[6])
return {{units, tostring((bucket + 1) * {BUCKET_S} - now)}}
"""
)

# KEYS: pool, epoch. ARGV: epoch, bucket, units.
_GIVE_BACK: Final = Script("""
if redis.call('HGET', KEYS[2], 'n') ~= ARGV[1] then return 0 end
local out = tonumber(redis.call('HGET', KEYS[1], 'o:' .. ARGV[2]) or 0)
local units = math.min(out, tonumber(ARGV[3]))
if units > 0 then redis.call('HINCRBY', KEYS[1], 'o:' .. ARGV[2], -units) end
return units
""")

# KEYS: pool and members by turns. ARGV[1]: for each [bucket, late, [member ...], the pool's TTL, rebuilding].
_CONFIRM: Final = Script(
    _POOL
    + f"""
for i, shown in ipairs(cmsgpack.unpack(ARGV[1])) do
  local pool, members = KEYS[2 * i - 1], KEYS[2 * i]
  local bucket, late, fresh = shown[1], shown[2], 0
  for _, member in ipairs(shown[3]) do fresh = fresh + redis.call('SADD', members, member) end
  redis.call('EXPIRE', members, {MEMBERS_S})
  if fresh > 0 then
    local field, intime = 'o:' .. string.format('%d', bucket), 0
    if not ended(bucket, tonumber(redis.call('HGET', pool, 'v') or 0)) then
      intime = math.min(fresh, tonumber(redis.call('HGET', pool, field) or 0))
    end
    if intime > 0 then redis.call('HINCRBY', pool, field, -intime) end
    if late then intime = 0 elseif shown[5] then intime = fresh end
    if intime > 0 then redis.call('HINCRBY', pool, 'c', intime) end
    if fresh > intime then redis.call('HINCRBY', pool, 'l', fresh - intime) end
    redis.call('EXPIRE', pool, shown[4])
  end
end
"""
)


class RedisLedger(Ledger):
    """Shares the link of the live role; `close` closes it."""

    def __init__(self, link: RespLink, *, grace_s: int = GRACE_S) -> None:
        """`grace_s`: how long what a page reserved outlives it; shorter in a bench only."""
        self._link, self._grace_s = link, grace_s
        self._epoch, self._opening = NO_EPOCH, -1

    @classmethod
    def at(cls, url: str) -> RedisLedger:
        return cls(RespLink(parse_address(url)))

    @property
    def epoch(self) -> int:
        return self._epoch if self._link.up and self._link.openings == self._opening else NO_EPOCH

    async def see_epoch(self) -> int:
        return self.epoch or await self._look(b"")

    async def open_epoch(self, *, known: bool) -> int:
        return await self._look(b"" if known else b"first")

    async def renew_epoch(self) -> int:
        return await self._look(b"new")

    async def _look(self, missing: bytes) -> int:
        if not self._link.up:
            await self._link.connected()
        opening = self._link.openings
        run = _run_of(await self._link.command(b"INFO", b"server"))
        number: int = await _EPOCH.run(self._link, (EPOCH,), run, missing)
        if opening != self._link.openings:
            raise StoreUnavailable("the connection to the store changed while its epoch was being read")
        self._epoch, self._opening = number, opening
        return number

    async def reserve(self, subject: str, reserving: Reserving, device: str | None = None) -> Reserved:
        verify(reserving)
        own = asks.decided_for(subject, reserving, device)
        taken = await self._reserve(subject, subject, own, on_device=False)
        if device is None or own is reserving or not taken.current:
            return taken
        part, at = asks.device_part(subject, reserving, taken)
        if not part.places:
            return taken
        there = await self._reserve(subject, device, part, on_device=True)
        whole, refused = asks.joined(taken, there, at)
        items = [reserving.places[i][choice].item for i, choice in refused.items()]
        if items:
            await self.release(subject, reserving.decision_id, items)
        return whole

    async def _reserve(self, owner: str, subject: str, asked: Reserving, *, on_device: bool) -> Reserved:
        none = Reserved((-1,) * len(asked.places), False)
        if asked.epoch == NO_EPOCH or asked.epoch != self.epoch:
            return none
        keys = live_keys(subject)
        where = (keys.contact, keys.reserved, device_key(subject), EPOCH)
        answer = await _RESERVE.run(
            self._link, where, asks.packed(owner, asked, self._grace_s, on_device=on_device)
        )
        return none if answer == 0 else Reserved(tuple(answer[1:]), True, answer[0])

    async def release(self, subject: str, decision_id: str, items: Sequence[int]) -> None:
        mark = decision_mark(subject, decision_id).to_bytes(4, "little")
        identities = [item.to_bytes(8, "little") + mark for item in items]
        if identities:
            await _RELEASE.run(self._link, (live_keys(subject).reserved,), *identities)

    async def lease(self, quota: str, at_most: int, want: int, bucket: int, valid_s: float) -> Lease | None:
        epoch = self.epoch
        if epoch == NO_EPOCH:
            return None
        life = asks.lasts(valid_s, self._grace_s)
        answer: Any = await _LEASE.run(
            self._link, (pool_key(quota), EPOCH), epoch, at_most, want, bucket, life, pool_ttl_s(quota)
        )
        return Lease(quota, bucket, answer[0], epoch, float(answer[1])) if answer else None

    async def give_back(self, lease: Lease, unspent: int) -> None:
        if unspent > 0 and lease.epoch == self.epoch:
            keys = (pool_key(lease.quota), EPOCH)
            await _GIVE_BACK.run(self._link, keys, lease.epoch, lease.bucket, unspent)

    async def confirm(self, shown: Sequence[Shown], *, rebuilding: bool = False) -> None:
        keys: list[bytes] = []
        for one in shown:
            keys += (pool_key(one.quota), members_key(one.quota, one.bucket))
        if keys:
            told = [[one.bucket, one.late, one.members, pool_ttl_s(one.quota), rebuilding] for one in shown]
            await _CONFIRM.run(self._link, tuple(keys), msgpack.packb(told, use_bin_type=False))

    async def pools(self, quotas: Sequence[str]) -> dict[str, Pool]:
        now = await self.now()
        return {quota: _pool(await self._link.command(b"HGETALL", pool_key(quota)), now) for quota in quotas}

    async def now(self) -> float:
        seconds, micros = await self._link.command(b"TIME")
        return int(seconds) + int(micros) / 1e6

    async def close(self) -> None:
        await self._link.close()


def pool_key(quota: str) -> bytes:
    return f"lg:q:{{lg}}:{quota}".encode()


def members_key(quota: str, bucket: int) -> bytes:
    return f"lg:qm:{{lg}}:{quota}:{bucket}".encode()


def _run_of(info: bytes) -> bytes:
    for line in info.splitlines():
        if line.startswith(b"run_id:"):
            return line[7:]
    raise StoreUnavailable("the store's INFO names no run_id: the ledger cannot tell one server from another")


def _pool(flat: Sequence[bytes], now: float) -> Pool:
    of = dict(zip(flat[::2], flat[1::2], strict=True))
    life = int(of.get(b"v", 0))
    out = sum(
        int(units)
        for name, units in of.items()
        if name.startswith(b"o:") and bucket_ends(int(name[2:])) + life > now
    )
    return Pool(int(of.get(b"c", 0)), int(of.get(b"l", 0)), out)
