"""What was delivered: units by meter (a campaign, or a slot's displays of one day), each placement once.

An event's counts are written before it is acknowledged, and again when a young duplicate arrives: a member
set knows who was counted. Beside the delivered stands what is expected of pages decided lately (`expect`):
summed by replicas, not exact, lost with them, and gone after a quarter of an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol
from zoneinfo import ZoneInfo

from features.events import Event
from features.ids import decision_key64
from features.ledger import Shown, bucket_of, pack_member, quota_on

UNITS: Final = ("displayed", "clicked", "converted", "cny")
HOUR_S: Final = 3600
DAY_S: Final = 86_400
SLICE_S: Final = 1800  # members are kept by the event's own time
FLIGHT_SLICE_S: Final = 60
FLIGHT_KEPT_S: Final = 900
HOURS_KEPT_S: Final = 40 * DAY_S


class Count(NamedTuple):
    """`amount` units of one placement. `told_at`: occurred_at as the client tells it, the same each time."""

    meter: str
    unit: str
    amount: float
    member: bytes
    at: float
    told_at: float
    decided_at: float

    @property
    def slice(self) -> int:
        return int(self.told_at // SLICE_S)

    @property
    def hour(self) -> int:
        return int(self.at // HOUR_S)


class Sum(NamedTuple):
    """`amount` units that one process counted until `at`: of many placements, so without their members."""

    meter: str
    unit: str
    amount: float
    at: float

    @property
    def hour(self) -> int:
        return int(self.at // HOUR_S)


class Reading(NamedTuple):
    """Units of one meter. `hours`: hour since 1970 -> units; `in_flight`: still expected of recent pages."""

    total: float = 0.0
    in_flight: float = 0.0
    hours: Mapping[int, float] = {}


class Booked(NamedTuple):
    """What displays of one campaign count for. `units`: those its goals and quotas are in; `quotas`: the
    `displayed` ones as (name, per, zone)."""

    meter: str
    units: frozenset[str]
    quotas: tuple[tuple[str, str, ZoneInfo], ...] = ()


class ShareMeter(NamedTuple):
    """Displays in a slot and day: of customers of `orgs` (empty: all), of `campaign` (0: anything)."""

    name: str
    orgs: frozenset[int]
    campaign: int
    zone: ZoneInfo


class Tally(NamedTuple):
    counts: list[Count]
    shown: list[Shown]


class Meters(Protocol):
    """Raises StoreUnavailable."""

    async def count(self, counts: Sequence[Count]) -> None:
        """Count each (meter, unit, member) once, however often it is told. One script a tick of the loop."""
        ...

    async def add(self, member: str, sums: Sequence[Sum]) -> None:
        """Add all sums of this member once, however often it tells them: the same ones in the same order."""
        ...

    def expect(self, meter: str, unit: str, decided_at: float, amount: float) -> None:
        """Units expected of a page just decided; kept here until `flush`."""
        ...

    async def flush(self) -> None:
        """Send what was expected since the last time; what cannot be sent is dropped."""
        ...

    async def read(self, meters: Sequence[str], *, days: int = 1) -> dict[str, dict[str, Reading]]:
        """By meter and unit: totals, in flight, and the hours of the last `days` UTC days. Absent: none."""
        ...

    async def hours(self, meters: Sequence[str], *, days: int = 1) -> dict[str, dict[str, dict[int, float]]]:
        """The hours of `read` alone, a small part of its cost."""
        ...

    async def lately(self, meters: Sequence[str]) -> dict[str, dict[str, dict[int, float]]]:
        """Of `hours`, this one and the one before: what pacing reads each second."""
        ...


def tally(
    events: Iterable[Event], booked: Mapping[int, Booked], shares: Mapping[int, Sequence[ShareMeter]]
) -> Tally:
    """What events count for. `booked` by campaign key32, `shares` by slot key32."""
    counts: list[Count] = []
    shown: dict[tuple[str, int, bool], list[bytes]] = {}
    for event in events:
        if event.decision_id is None or event.decided_at is None or event.type == "dismissed":
            continue
        key = decision_key64(event.subject, event.decision_id)
        for item, slot, campaign, *_ in event.places.tolist():
            own = booked.get(campaign) if campaign else None
            measures = shares.get(slot, ()) if event.type == "displayed" else ()
            if own is None and not measures:
                continue
            who = pack_member(key, item)
            if own is not None:
                counts += _counts(event, own, who)
                if event.type == "displayed":
                    for quota, per, zone in own.quotas:
                        name = quota_on(quota, per, event.decided_at, zone)
                        at = (name, bucket_of(event.decided_at), event.late)
                        shown.setdefault(at, []).append(who)
            counts += [
                _count(event, share_meter(one, event.at), "displayed", 1.0, who)
                for one in measures
                if one.campaign in (0, campaign) and (not one.orgs or event.org in one.orgs)
            ]
    return Tally(counts, [Shown(q, bucket, tuple(who), late) for (q, bucket, late), who in shown.items()])


def share_meter(share: ShareMeter, at: float) -> str:
    """The meter of the day of `at` in the share's zone."""
    return f"{share.name}@{datetime.fromtimestamp(at, share.zone):%Y%m%d}"


def _counts(event: Event, own: Booked, who: bytes) -> list[Count]:
    found = [_count(event, own.meter, event.type, 1.0, who)] if event.type in own.units else []
    if event.type == "converted" and "cny" in own.units and event.currency in (None, "CNY") and event.amount:
        found.append(_count(event, own.meter, "cny", event.amount, who))
    return found


def _count(event: Event, meter: str, unit: str, amount: float, who: bytes) -> Count:
    return Count(meter, unit, amount, who, event.at, event.occurred_at, event.decided_at or event.at)


class Flights:
    """What was expected and not sent yet: (slice, meter, unit) -> units."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, str, str], float] = {}

    def add(self, meter: str, unit: str, decided_at: float, amount: float) -> None:
        at = (int(decided_at // FLIGHT_SLICE_S), meter, unit)
        self._held[at] = self._held.get(at, 0.0) + amount

    def taken(self) -> dict[tuple[int, str, str], float]:
        held, self._held = self._held, {}
        return held


@dataclass(slots=True)
class _Sums:
    totals: dict[tuple[str, str], float] = field(default_factory=dict)
    hours: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    expected: dict[tuple[int, str, str], float] = field(default_factory=dict)
    arrived: dict[tuple[int, str, str], float] = field(default_factory=dict)


class MemoryMeters(Meters):
    """Everything in this process; members are kept for good."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sums = _Sums()
        self._members: set[tuple[str, str, int, bytes]] = set()
        self._added: set[str] = set()
        self._flights = Flights()

    async def count(self, counts: Sequence[Count]) -> None:
        sums = self._sums
        for one in counts:
            who = (one.meter, one.unit, one.slice, one.member)
            if who in self._members:
                continue
            self._members.add(who)
            name = (one.meter, one.unit)
            self._sum(one)
            at = (int(one.decided_at // FLIGHT_SLICE_S), *name)
            sums.arrived[at] = sums.arrived.get(at, 0.0) + one.amount

    async def add(self, member: str, sums: Sequence[Sum]) -> None:
        if member not in self._added:
            self._added.add(member)
            for one in sums:
                self._sum(one)

    def _sum(self, one: Count | Sum) -> None:
        name = (one.meter, one.unit)
        self._sums.totals[name] = self._sums.totals.get(name, 0.0) + one.amount
        hours = self._sums.hours.setdefault(name, {})
        hours[one.hour] = hours.get(one.hour, 0.0) + one.amount

    def expect(self, meter: str, unit: str, decided_at: float, amount: float) -> None:
        self._flights.add(meter, unit, decided_at, amount)

    async def flush(self) -> None:
        for at, amount in self._flights.taken().items():
            self._sums.expected[at] = self._sums.expected.get(at, 0.0) + amount

    async def read(self, meters: Sequence[str], *, days: int = 1) -> dict[str, dict[str, Reading]]:
        now, sums = self._clock(), self._sums
        told = await self.hours(meters, days=days)
        live = range(int((now - FLIGHT_KEPT_S) // FLIGHT_SLICE_S) + 1, int(now // FLIGHT_SLICE_S) + 2)
        found: dict[str, dict[str, Reading]] = {}
        for meter in meters:
            for unit in UNITS:
                name = (meter, unit)
                flight = sum(
                    max(sums.expected.get((at, *name), 0.0) - sums.arrived.get((at, *name), 0.0), 0.0)
                    for at in live
                )
                if name in sums.totals or flight:
                    hours = told.get(meter, {}).get(unit, {})
                    found.setdefault(meter, {})[unit] = Reading(sums.totals.get(name, 0.0), flight, hours)
        return found

    async def hours(self, meters: Sequence[str], *, days: int = 1) -> dict[str, dict[str, dict[int, float]]]:
        first = (int(self._clock() // DAY_S) - days + 1) * 24
        found: dict[str, dict[str, dict[int, float]]] = {}
        for meter in meters:
            for unit in UNITS:
                if held := self._sums.hours.get((meter, unit)):
                    young = {hour: amount for hour, amount in held.items() if hour >= first}
                    found.setdefault(meter, {})[unit] = young
        return found

    async def lately(self, meters: Sequence[str]) -> dict[str, dict[str, dict[int, float]]]:
        first = int(self._clock() // HOUR_S) - 1
        found: dict[str, dict[str, dict[int, float]]] = {}
        for meter, units in (await self.hours(meters, days=2)).items():
            for unit, held in units.items():
                if young := {hour: amount for hour, amount in held.items() if hour >= first}:
                    found.setdefault(meter, {})[unit] = young
        return found


def flying(slices: Iterable[Mapping[Any, float]], expected: Any, arrived: Any) -> float:
    """What is still to come: by slice, for one that brought more than expected says nothing of the others."""
    return sum(max(one.get(expected, 0.0) - one.get(arrived, 0.0), 0.0) for one in slices)
