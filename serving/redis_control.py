"""Control on Valkey or Redis: the hash `control`, and the overlay's bodies and order beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import orjson

from features.redis_address import parse_address
from features.redis_resp import RespLink, Script
from serving.control import (
    POLLED,
    Control,
    ControlError,
    ControlState,
    Kill,
    OverlayEntry,
    OverlayKind,
    Payload,
    check_kill,
    check_overlay,
    check_pointer,
)

HASH: Final = b"control"
BODIES: Final = b"control:overlay"  # hash: "kind:id" -> "seq payload"
ORDER: Final = b"control:overlay:order"  # sorted set: "kind:id" by seq
PAGE: Final = 1000

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

    async def poll(self) -> ControlState:
        values: list[bytes | None] = await self._link.command(b"HMGET", HASH, *POLLED)
        found = {
            name: value.decode() for name, value in zip(POLLED, values, strict=True) if value is not None
        }
        seq, kills = found.pop("overlay_seq", "0"), found.pop("kills", "[]")
        return ControlState(**found, overlay_seq=_int(seq), kills=_kills(kills))

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
