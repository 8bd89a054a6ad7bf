"""Meters on Valkey or Redis. All keys carry one tag: the campaigns' side of the ledger is one server's.

lg:m:{lg}:<meter>                  unit -> total
lg:mh:{lg}:<meter>:<UTC day>       unit@hour -> units, for 40 days
lg:mm:{lg}:<meter>:<unit>:<slice>  who was counted, for an hour
lg:mt:{lg}:<member>:<part>           told: a part of what a process counted, for an hour
lg:fl:{lg}:<minute>                meter, unit -> expected of (e) and arrived from (a) pages of that minute
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgpack

from features.ledger import pool_ttl_s
from features.meters import (
    DAY_S,
    FLIGHT_KEPT_S,
    FLIGHT_SLICE_S,
    HOUR_S,
    HOURS_KEPT_S,
    UNITS,
    Count,
    Flights,
    Meters,
    Reading,
    Sum,
    flying,
)
from features.redis_address import parse_address
from features.redis_ledger import MEMBERS_S
from features.redis_resp import RespLink, Script
from features.store import StoreUnavailable

MOST: Final = 400  # counts a script, so that none holds the server for long
READ_AT_ONCE: Final = 100  # meters

# ARGV[1]: for each count [members, total, hours, flight, hour's field, flight's field, member, amount], the
# first four indices of KEYS; ARGV[2]: for each key its time to live. Sums are written once.
_COUNT: Final = Script("""
local lives, sums, order = cmsgpack.unpack(ARGV[2]), {}, {}
local function add(key, name, amount)
  local at = key .. ':' .. name
  if not sums[at] then
    sums[at] = {key, name, 0}
    order[#order + 1] = sums[at]
  end
  sums[at][3] = sums[at][3] + amount
end
for _, one in ipairs(cmsgpack.unpack(ARGV[1])) do
  if redis.call('SADD', KEYS[one[1]], one[7]) == 1 then
    add(one[2], one[9], one[8])
    add(one[3], one[5], one[8])
    add(one[4], one[6], one[8])
  end
end
for _, sum in ipairs(order) do
  redis.call('HINCRBYFLOAT', KEYS[sum[1]], sum[2], string.format('%.17g', sum[3]))
end
for i, ttl in ipairs(lives) do redis.call('EXPIRE', KEYS[i], ttl) end
""")

# KEYS[1]: told before, or not; ARGV: for each sum [total's key, hours' key, hour's field, unit, amount]; for
# each key its time to live.
_ADD: Final = Script("""
local lives = cmsgpack.unpack(ARGV[2])
if not redis.call('SET', KEYS[1], '', 'NX', 'EX', lives[1]) then return end
for _, one in ipairs(cmsgpack.unpack(ARGV[1])) do
  local amount = string.format('%.17g', one[5])
  redis.call('HINCRBYFLOAT', KEYS[one[1]], one[4], amount)
  redis.call('HINCRBYFLOAT', KEYS[one[2]], one[3], amount)
end
for i = 2, #KEYS do redis.call('EXPIRE', KEYS[i], lives[i]) end
""")

# ARGV: the fields to read of every key; of each the numbers in their order, false where there is none.
_LATELY: Final = Script("""
local fields, found = cmsgpack.unpack(ARGV[1]), {}
for i, key in ipairs(KEYS) do
  local told = redis.call('HMGET', key, unpack(fields))
  for j = 1, #fields do told[j] = told[j] and tonumber(told[j]) end
  found[i] = told
end
return cmsgpack.pack(found)
""")

# ARGV: for each [key, field, amount]; then a time to live.
_EXPECT: Final = Script("""
for _, one in ipairs(cmsgpack.unpack(ARGV[1])) do
  redis.call('HINCRBYFLOAT', KEYS[one[1]], one[2], string.format('%.17g', one[3]))
end
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[2]) end
""")


class RedisMeters(Meters):
    """Of one event loop; shares the link of the live role, which its owner closes."""

    def __init__(self, link: RespLink) -> None:
        self._link = link
        self._waiting: list[tuple[asyncio.Future[None], Sequence[Count]]] = []
        self._writing: set[asyncio.Task[None]] = set()
        self._flights = Flights()

    @classmethod
    def at(cls, url: str) -> RedisMeters:
        return cls(RespLink(parse_address(url)))

    async def count(self, counts: Sequence[Count]) -> None:
        if not counts:
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._send)
        self._waiting.append((future, counts))
        await future

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        task = asyncio.get_running_loop().create_task(self._write(waiting))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self, waiting: list[tuple[asyncio.Future[None], Sequence[Count]]]) -> None:
        counts = [one for _, some in waiting for one in some]
        problem: StoreUnavailable | None = None
        try:
            for at in range(0, len(counts), MOST):
                await self._count(counts[at : at + MOST])
        except StoreUnavailable as away:
            problem = away
        for future, _ in waiting:
            if future.done():
                continue
            if problem is None:
                future.set_result(None)
            else:
                future.set_exception(problem)

    async def _count(self, counts: Sequence[Count]) -> None:
        keys: dict[bytes, tuple[int, int]] = {}

        def index(key: str, ttl_s: int) -> int:
            return keys.setdefault(key.encode(), (len(keys) + 1, ttl_s))[0]

        told = [
            [
                index(f"lg:mm:{{lg}}:{one.meter}:{one.unit}:{one.slice}", MEMBERS_S),
                index(_total(one.meter), pool_ttl_s(one.meter)),
                index(_hours(one.meter, one.hour // 24), HOURS_KEPT_S),
                index(_flight(int(one.decided_at // FLIGHT_SLICE_S)), FLIGHT_KEPT_S + FLIGHT_SLICE_S),
                f"{one.unit}@{one.hour}",
                f"{one.meter}\0{one.unit}\0a",
                one.member,
                one.amount,
                one.unit,
            ]
            for one in counts
        ]
        lives = [ttl_s for _, ttl_s in keys.values()]
        await _COUNT.run(self._link, tuple(keys), _packed(told), _packed(lives))

    async def add(self, member: str, sums: Sequence[Sum]) -> None:
        for part, at in enumerate(range(0, len(sums), MOST)):
            await self._add(f"lg:mt:{{lg}}:{member}:{part}", sums[at : at + MOST])

    async def _add(self, told: str, sums: Sequence[Sum]) -> None:
        keys = {told: (1, MEMBERS_S)}

        def index(key: str, ttl_s: int) -> int:
            return keys.setdefault(key, (len(keys) + 1, ttl_s))[0]

        rows = [
            (
                index(_total(one.meter), pool_ttl_s(one.meter)),
                index(_hours(one.meter, one.hour // 24), HOURS_KEPT_S),
                f"{one.unit}@{one.hour}",
                one.unit,
                one.amount,
            )
            for one in sums
        ]
        lives = [ttl_s for _, ttl_s in keys.values()]
        await _ADD.run(self._link, tuple(key.encode() for key in keys), _packed(rows), _packed(lives))

    def expect(self, meter: str, unit: str, decided_at: float, amount: float) -> None:
        self._flights.add(meter, unit, decided_at, amount)

    async def flush(self) -> None:
        held = self._flights.taken()
        if not held:
            return
        keys: dict[bytes, int] = {}
        told = [
            [keys.setdefault(_flight(at).encode(), len(keys) + 1), f"{meter}\0{unit}\0e", amount]
            for (at, meter, unit), amount in held.items()
        ]
        await _EXPECT.run(self._link, tuple(keys), _packed(told), FLIGHT_KEPT_S + FLIGHT_SLICE_S)

    async def read(self, meters: Sequence[str], *, days: int = 1) -> dict[str, dict[str, Reading]]:
        now = await self._now()
        slices = range((now - FLIGHT_KEPT_S) // FLIGHT_SLICE_S + 1, now // FLIGHT_SLICE_S + 2)
        flights = await self._hashes([_flight(at) for at in slices])
        totals = await self._hashes([_total(meter) for meter in meters])
        hours = await self.hours(meters, days=days)
        found: dict[str, dict[str, Reading]] = {}
        for row, meter in enumerate(meters):
            of_units = hours.get(meter, {})
            for unit in UNITS:
                name = f"{meter}\0{unit}\0".encode()
                flight = flying(flights, name + b"e", name + b"a")
                total = totals[row].get(unit.encode())
                if total is not None or flight:
                    found.setdefault(meter, {})[unit] = Reading(total or 0.0, flight, of_units.get(unit, {}))
        return found

    async def hours(self, meters: Sequence[str], *, days: int = 1) -> dict[str, dict[str, dict[int, float]]]:
        today = await self._now() // DAY_S
        of_days = await self._hashes(
            [_hours(meter, day) for meter in meters for day in range(today - days + 1, today + 1)]
        )
        told = {meter: _by_unit(of_days[row * days : (row + 1) * days]) for row, meter in enumerate(meters)}
        return {meter: units for meter, units in told.items() if units}

    async def lately(self, meters: Sequence[str]) -> dict[str, dict[str, dict[int, float]]]:
        hour = await self._now() // HOUR_S
        found: dict[str, dict[str, dict[int, float]]] = {}
        for at in range(0, len(meters), READ_AT_ONCE):
            some = meters[at : at + READ_AT_ONCE]
            for one in (hour - 1, hour):
                keys = tuple(_hours(meter, one // 24).encode() for meter in some)
                fields = [f"{unit}@{one}" for unit in UNITS]
                told = msgpack.unpackb(await _LATELY.run(self._link, keys, _packed(fields)))
                for meter, amounts in zip(some, told, strict=True):
                    for unit, amount in zip(UNITS, amounts, strict=True):
                        if amount is not False:
                            found.setdefault(meter, {}).setdefault(unit, {})[one] = float(amount)
        return found

    async def _now(self) -> int:
        seconds, _ = await self._link.command(b"TIME")
        return int(seconds)

    async def _hashes(self, keys: Sequence[str]) -> list[dict[bytes, float]]:
        flat = await self._link.commands([(b"HGETALL", key.encode()) for key in keys])
        return [dict(zip(one[::2], map(float, one[1::2]), strict=True)) for one in flat]


def _by_unit(days: Sequence[dict[bytes, float]]) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for fields in days:
        for name, amount in fields.items():
            unit, _, hour = name.decode().partition("@")
            found.setdefault(unit, {})[int(hour)] = amount
    return found


def _total(meter: str) -> str:
    return f"lg:m:{{lg}}:{meter}"


def _hours(meter: str, day: int) -> str:
    return f"lg:mh:{{lg}}:{meter}:{day}"


def _flight(at: int) -> str:
    return f"lg:fl:{{lg}}:{at}"


def _packed(value: Any) -> bytes:
    argument: bytes = msgpack.packb(value, use_bin_type=False)
    return argument
