"""Control on Valkey or Redis: the hash `control`, and the overlay's bodies and order beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import orjson

from features.redis_address import parse_address
from features.redis_resp import RespLink, Script
from serving.control import (
    PACER,
    POLLED,
    Control,
    ControlError,
    ControlState,
    Kill,
    OverlayEntry,
    OverlayKind,
    Payload,
    check_candidate,
    check_kill,
    check_overlay,
    check_pointer,
)
from serving.prices import Prices

HASH: Final = b"control"
BODIES: Final = b"control:overlay"  # hash: "kind:id" -> "seq payload"
ORDER: Final = b"control:overlay:order"  # sorted set: "kind:id" by seq
PRICES: Final = b"control:prices"  # the blob
STATE: Final = b"control:pacer"  # what the next pacer continues from
FENCES: Final = b"control:fences"  # hash: name -> the last fencing number
PAGE: Final = 1000

# ARGV: the version of the prices held, then the fields. The blob comes along when there is a newer one.
_POLL: Final = Script("""
local values = redis.call('HMGET', KEYS[1], unpack(ARGV, 2))
local version = redis.call('HGET', KEYS[1], 'prices')
local blob = false
if version and version ~= ARGV[1] then blob = redis.call('GET', KEYS[2]) end
values[#ARGV] = blob
return values
""")

# KEYS: leader, fences. ARGV: name, candidate, milliseconds. The store's seconds keep the numbers growing
# when what it knew is lost.
_LEAD: Final = Script("""
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[2] then return false end
local fence = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
if not leader then
  fence = math.max(fence + 1, tonumber(redis.call('TIME')[1]))
  redis.call('HSET', KEYS[2], ARGV[1], string.format('%d', fence))
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return fence
""")

_RESIGN: Final = Script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
""")

# KEYS: leader, fences, control, prices, state. ARGV: name, fence, version, blob, state.
_PRICE: Final = Script("""
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[4], ARGV[4])
redis.call('SET', KEYS[5], ARGV[5])
redis.call('HSET', KEYS[3], 'prices', ARGV[3])
return 1
""")

# ARGV: name, payload, name, payload, … Sequence numbers survive a trim: they live in the hash.
_PUT: Final = Script("""
local seq = tonumber(redis.call('HGET', KEYS[1], 'overlay_seq') or '0')
for i = 1, #ARGV, 2 do
  seq = seq + 1
  redis.call('HSET', KEYS[2], ARGV[i], seq .. ' ' .. ARGV[i + 1])
  redis.call('ZADD', KEYS[3], seq, ARGV[i])
end
redis.call('HSET', KEYS[1], 'overlay_seq', seq)
return seq
""")

_TRIM: Final = Script("""
local names = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, 1000)
for _, name in ipairs(names) do
  redis.call('HDEL', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
end
return #names
""")

# ARGV: the switch, and whether to throw it. Two operators at once lose nothing.
_KILL: Final = Script("""
local kills = cjson.decode(redis.call('HGET', KEYS[1], 'kills') or '[]')
local left = {}
for _, kill in ipairs(kills) do
  if kill ~= ARGV[1] then left[#left + 1] = kill end
end
if ARGV[2] == '1' then left[#left + 1] = ARGV[1] end
if #left == 0 then
  redis.call('HDEL', KEYS[1], 'kills')
else
  redis.call('HSET', KEYS[1], 'kills', cjson.encode(left))
end
""")


class RedisControl(Control):
    """Several stores may share a link; `close` closes it for all of them."""

    def __init__(self, link: RespLink) -> None:
        self._link = link

    @classmethod
    def at(cls, url: str) -> RedisControl:
        return cls(RespLink(parse_address(url)))

    async def poll(self, prices: str | None = None) -> ControlState:
        blob: bytes | None = None
        values: list[bytes | None]
        if prices is None:
            values = await self._link.command(b"HMGET", HASH, *POLLED)
        else:
            *values, blob = await _POLL.run(self._link, (HASH, PRICES), prices, *POLLED)
        found = {
            name: value.decode() for name, value in zip(POLLED, values, strict=True) if value is not None
        }
        seq, kills = found.pop("overlay_seq", "0"), found.pop("kills", "[]")
        return ControlState(**found, overlay_seq=_int(seq), kills=_kills(kills), blob=blob)

    async def lead(self, name: str, candidate: str, ttl_s: float) -> int | None:
        check_candidate(name, candidate, ttl_s)
        keys = (_leader(name), FENCES)
        fence: int | None = await _LEAD.run(self._link, keys, name, candidate, max(1, int(1000 * ttl_s)))
        return fence

    async def resign(self, name: str, candidate: str) -> None:
        await _RESIGN.run(self._link, (_leader(name),), candidate)

    async def put_prices(self, prices: Prices, state: bytes = b"") -> bool:
        keys = (_leader(PACER), FENCES, HASH, PRICES, STATE)
        blob = prices.encode()
        done = await _PRICE.run(self._link, keys, PACER, prices.fence, prices.version, blob, state)
        return bool(done)

    async def pacer_state(self) -> bytes:
        state: bytes | None = await self._link.command(b"GET", STATE)
        return state or b""

    async def set(self, field: str, value: str | None) -> None:
        name = check_pointer(field)
        if value is None:
            await self._link.command(b"HDEL", HASH, name)
        else:
            await self._link.command(b"HSET", HASH, name, value)

    async def kill(self, kill: Kill) -> None:
        await _KILL.run(self._link, (HASH,), _switch(kill), 1)

    async def revive(self, kill: Kill) -> None:
        await _KILL.run(self._link, (HASH,), _switch(kill), 0)

    async def overlay_put(self, entries: Sequence[tuple[OverlayKind, str, Payload | None]]) -> int:
        check_overlay(entries)
        if not entries:
            return 0
        arguments = [
            part
            for kind, entry_id, payload in entries
            for part in (f"{kind}:{entry_id}", orjson.dumps(payload))
        ]
        seq: int = await _PUT.run(self._link, (HASH, BODIES, ORDER), *arguments)
        return seq

    async def overlay_since(self, seq: int) -> list[OverlayEntry]:
        names: list[bytes] = await self._link.command(b"ZRANGEBYSCORE", ORDER, f"({seq}", b"+inf")
        entries = []
        for at in range(0, len(names), PAGE):
            some = names[at : at + PAGE]
            bodies: list[bytes | None] = await self._link.command(b"HMGET", BODIES, *some)
            # A body carries its own number: one put again since the names were read comes with the newer.
            entries += [
                _entry(name, body) for name, body in zip(some, bodies, strict=True) if body is not None
            ]
        return sorted(entries, key=lambda entry: entry.seq)

    async def overlay_trim(self, upto: int) -> int:
        gone = 0
        while some := await _TRIM.run(self._link, (BODIES, ORDER), upto):
            gone += some
        return gone

    async def close(self) -> None:
        await self._link.close()


def _leader(name: str) -> bytes:
    return b"control:leader:" + name.encode()


def _entry(name: bytes, body: bytes) -> OverlayEntry:
    kind, _, entry_id = name.decode().partition(":")
    seq, _, payload = body.partition(b" ")
    return OverlayEntry(int(seq), cast("OverlayKind", kind), entry_id, orjson.loads(payload))


def _switch(kill: Kill) -> str:
    check_kill(kill)
    return f"{kill.scope}:{kill.id}"


def _kills(text: str) -> tuple[Kill, ...]:
    try:
        switches = (switch.partition(":") for switch in orjson.loads(text))
        return tuple(check_kill(Kill(scope, kill_id)) for scope, _, kill_id in switches)
    except (orjson.JSONDecodeError, AttributeError, TypeError) as error:
        raise ControlError(f"control's `kills` cannot be read: {error}") from error


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ControlError(f"control's `overlay_seq` is not a number: {text[:40]!r}") from None
