"""Flights as sets of instants: dates, weekdays, hours and holidays of a zone, right when its clock changes.

A local hour that a clock change repeats is open twice; one that it skips, not at all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from functools import lru_cache
from math import inf
from typing import Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

from serving.campaign import WEEKDAYS, Flight
from serving.plan_error import PlanError

BLOCK: Final = 64  # local days that are worked out together
ALL_DAY: Final = ((0, 24),)
EVERY_DAY: Final = frozenset(range(7))
LONGEST_FLIGHT_S: Final = 3_660 * 86_400.0
LONGEST_LOOK_S: Final = 400 * 86_400.0  # over which two calendars without an end are compared

OnHolidays = Literal["skip", "only", "any"]


class _Block(NamedTuple):
    """Open spans of some days, ascending and apart."""

    starts: tuple[float, ...]
    ends: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Calendar:
    """Open where start <= t < end and t's local weekday, hour and date are named. POSIX seconds."""

    tz: str = "UTC"
    start: float = -inf
    end: float = inf
    weekdays: frozenset[int] = EVERY_DAY  # 0 Monday
    hours: tuple[tuple[int, int], ...] = ALL_DAY  # [from, until), ascending and apart
    holidays: frozenset[int] = frozenset()  # ordinals of dates
    on_holidays: OnHolidays = "any"
    _blocks: dict[int, _Block] = field(default_factory=dict, repr=False, compare=False)  # a memo

    @property
    def plain(self) -> bool:
        """Open from start to end without a break."""
        every = self.weekdays == EVERY_DAY and self.hours == ALL_DAY
        return every and (self.on_holidays == "any" or (self.on_holidays == "skip" and not self.holidays))

    def open_at(self, now: float) -> bool:
        if not self.start <= now < self.end:
            return False
        if self.plain:
            return True
        if now >= self._tail:
            return True
        block = self._block(self._day(now) // BLOCK)
        at = bisect_right(block.starts, now) - 1
        return at >= 0 and now < block.ends[at]

    def next_change(self, now: float) -> float:
        """The first instant after `now` at which it opens or closes; inf when there is none."""
        for start, end in self._spans(now):
            if start > now:
                return start
            if end > now:
                return end
        return inf

    def next_open(self, now: float) -> float:
        """The first instant from `now` on at which it is open; inf when there is none."""
        return next((max(start, now) for start, end in self._spans(now) if end > now), inf)

    def seconds_open(self, since: float, until: float) -> float:
        """Seconds within [since, until) at which it is open; inf for an endless span of an endless flight."""
        since, until = max(since, self.start), min(until, self.end)
        if not since < until:
            return 0.0
        if self.on_holidays != "only" and (since == -inf or until == inf):
            return inf
        total = 0.0
        for start, end in self._spans(since):
            if start >= until:
                break
            total += max(0.0, min(end, until) - max(start, since))
        return total

    def days_open(self) -> float:
        """Local days with an open instant; inf when they do not end."""
        if self.on_holidays != "only" and (self.start == -inf or self.end == inf):
            return inf
        days = {day for start, end in self._spans(self.start) for day in self._touched(start, end)}
        return float(len(days))

    def _touched(self, start: float, end: float) -> Iterator[int]:
        return iter(range(self._day(start), self._day(end - 1e-3) + 1))

    def _spans(self, now: float) -> Iterator[tuple[float, float]]:
        """Open spans, ascending, apart and not adjoining, from the block of `now` on."""
        if now == inf:
            return
        if self.plain:
            if self.start < self.end:
                yield self.start, self.end
            return
        held: tuple[float, float] | None = None
        for number in self._numbers(now):
            block = self._block(number)
            for start, end in zip(block.starts, block.ends, strict=True):
                if held is not None and held[1] == start:
                    held = held[0], end
                    continue
                if held is not None:
                    yield held
                held = start, end
        if (tail := self._tail) < self.end:
            if held is not None and held[1] < tail:
                yield held
                held = None
            held = (held[0] if held is not None else tail), self.end
        if held is not None:
            yield held

    @property
    def _tail(self) -> float:
        """After the last holiday it skips, a calendar of all hours of all days is open to its end."""
        if self.on_holidays != "skip" or self.weekdays != EVERY_DAY or self.hours != ALL_DAY:
            return inf
        return max(self.start, _instant(self.tz, max(self.holidays) + 1, 0))

    def _numbers(self, now: float) -> Iterable[int]:
        """Numbers of the blocks from now's to the last that may hold a span."""
        since, until = max(now, self.start), min(self.end, self._tail)
        first = self._day(since) if since > -inf else 1
        last = self._day(until) if until < inf else date.max.toordinal() - BLOCK
        if self.on_holidays == "only":
            first, last = max(first, min(self.holidays, default=1)), min(last, max(self.holidays, default=0))
        return range(max(1, first - 1) // BLOCK, last // BLOCK + 1)

    def _block(self, number: int) -> _Block:
        found = self._blocks.get(number)
        if found is None:
            found = self._blocks[number] = self._make(number * BLOCK)
        return found

    def _make(self, first: int) -> _Block:
        starts: list[float] = []
        ends: list[float] = []
        tail = self._tail
        for day in range(max(1, first), first + BLOCK):
            if not self._named(day):
                continue
            for since, until in self.hours:
                start = max(self.start, _instant(self.tz, day, since))
                end = min(self.end, tail, _instant(self.tz, day, until))
                if start >= end:
                    continue
                if ends and ends[-1] == start:
                    ends[-1] = end
                else:
                    starts.append(start)
                    ends.append(end)
        return _Block(tuple(starts), tuple(ends))

    def _named(self, day: int) -> bool:
        """Whether a date (an ordinal) is among those named; an ordinal of 1 is a Monday."""
        if (day - 1) % 7 not in self.weekdays:
            return False
        return self.on_holidays == "any" or (day in self.holidays) == (self.on_holidays == "only")

    def _day(self, now: float) -> int:
        return datetime.fromtimestamp(now, zone(self.tz)).toordinal()


@lru_cache(64)
def zone(name: str) -> ZoneInfo:
    """An IANA zone. Raises ValueError when there is none of that name."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError) as error:
        raise ValueError(f"{name!r} is not an IANA time zone") from error


@lru_cache(65_536)
def _instant(tz: str, day: int, hour: int) -> float:
    """When a local hour of a date begins: a repeated one first, a skipped one at the change itself."""
    at = date.fromordinal(day + hour // 24)
    return datetime.combine(at, time(hour % 24), zone(tz)).timestamp()


def instant_of(moment: date | datetime | None, tz: str, otherwise: float) -> float:
    """POSIX seconds of a time, or of the start of a day in a zone; `otherwise` for None."""
    if moment is None:
        return otherwise
    if isinstance(moment, datetime):
        return moment.timestamp()
    return _instant(tz, moment.toordinal(), 0)


def calendar_of(flight: Flight, tz: str, holidays: Sequence[date] = ()) -> Calendar:
    """A flight in its zone. Raises PlanError (path within the flight) for one that can never be open."""
    start, end = instant_of(flight.from_, tz, -inf), instant_of(flight.until, tz, inf)
    if end <= start:
        raise PlanError(
            "flight.until", "is not later than `from`", "`until` is exclusive: the day after the last"
        )
    if flight.on_holidays != "any" and flight.holidays is None:
        raise PlanError(
            "flight.holidays", f"{flight.on_holidays} needs a list", "name one of the plan's `holidays`"
        )
    if flight.on_holidays == "only" and not holidays:
        raise PlanError(
            "flight.holidays", f"the list {flight.holidays!r} is empty", "add dates, or say `any`"
        )
    if flight.weekdays is not None and not flight.weekdays:
        raise PlanError("flight.weekdays", "names no day", "leave it out for every day")
    if inf > end - start > LONGEST_FLIGHT_S:
        raise PlanError("flight.until", "is more than ten years after `from`", "leave `until` out: no end")
    made = Calendar(
        tz=tz,
        start=start,
        end=end,
        weekdays=EVERY_DAY if flight.weekdays is None else frozenset(map(WEEKDAYS.index, flight.weekdays)),
        hours=_hours(flight.hours),
        holidays=frozenset(day.toordinal() for day in holidays)
        if flight.on_holidays != "any"
        else frozenset(),
        on_holidays=flight.on_holidays,
    )
    if made.next_open(start if start > -inf else 0.0) == inf:
        problem = "no weekday, hour and date of it ever meet between `from` and `until`"
        raise PlanError("flight", problem, "widen the dates, weekdays or hours")
    return made


def _hours(hours: Sequence[tuple[int, int]] | None) -> tuple[tuple[int, int], ...]:
    if hours is None:
        return ALL_DAY
    if not hours:
        raise PlanError("flight.hours", "names no hour", "leave it out for the whole day")
    joined: list[tuple[int, int]] = []
    for at, (since, until) in enumerate(hours):
        if since >= until:
            remedy = "for a night say two ranges: [22, 24] and [0, 6]"
            raise PlanError(f"flight.hours.{at}", f"[{since}, {until}] is empty", remedy)
    for since, until in sorted(hours):
        if joined and since <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], until)
        else:
            joined.append((since, until))
    return tuple(joined)


def meet(one: Calendar, other: Calendar, since: float = -inf) -> bool:
    """Whether both are open at some instant from `since` on; looked for over 400 days where neither ends."""
    now = max(one.start, other.start, since)
    if now == -inf:
        if one.plain or other.plain:
            return True
        now = 0.0
    listed = [_instant("UTC", day, 0) for day in (*one.holidays, *other.holidays)]
    if max(one.start, other.start, since) == -inf and listed:
        now = min(listed) - LONGEST_LOOK_S
    limit = max((now, *listed)) + LONGEST_LOOK_S
    while now < limit:
        after = max(one.next_open(now), other.next_open(now))
        if after == now:
            return True
        if after == inf:
            return False
        now = after
    return False
