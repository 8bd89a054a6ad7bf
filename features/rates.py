"""How fast, and how much a day, somebody may ask: a token bucket and a day's quota a name, in the store.

Replicas do not ask the store for each request: they lease units ahead (`serving.limits`). The port, and the
twin in memory for tests and for a store that is away.
"""

from __future__ import annotations

from collections.abc import Callable
from math import floor
from typing import Final, NamedTuple, Protocol

DAY_S: Final = 86_400
KEPT_S: Final = 2 * DAY_S


class RateTerms(NamedTuple):
    """`per_s` units a second, up to `burst` at once; `per_day` units a UTC day. 0: no such limit."""

    per_s: float = 0.0
    burst: int = 0
    per_day: int = 0


class Granted(NamedTuple):
    """`units` to spend. With none, `wait_s` until there may be some, and whether the day's quota is why."""

    units: int
    day: int
    wait_s: float = 0.0
    by_quota: bool = False


class Back(NamedTuple):
    """Units that were leased on a UTC day and not spent."""

    units: int
    day: int


NOTHING_BACK: Final = Back(0, 0)


class Rates(Protocol):
    """`want` units at most, after taking `back` in. Raises StoreUnavailable."""

    async def lease(self, name: str, terms: RateTerms, want: int, back: Back = NOTHING_BACK) -> Granted: ...


class _Bucket(NamedTuple):
    tokens: float
    at: float
    day: int
    used: int


class MemoryRates:
    """Of one process. `clock`: POSIX seconds."""

    def __init__(self, clock: Callable[[], float], most: int = 100_000) -> None:
        self._clock, self._most = clock, most
        self._buckets: dict[str, _Bucket] = {}

    async def lease(self, name: str, terms: RateTerms, want: int, back: Back = NOTHING_BACK) -> Granted:
        now = self._clock()
        day = int(now // DAY_S)
        held = self._buckets.get(name) or _Bucket(terms.burst, now, day, 0)
        filled = held.tokens + max(0.0, now - held.at) * terms.per_s + back.units
        tokens = min(float(terms.burst), filled) if terms.per_s else float(want)
        used = held.used if held.day == day else 0
        if back.day == day:
            used = max(0, used - back.units)
        spent = terms.per_day > 0 and used >= terms.per_day
        units = min(want, floor(tokens), terms.per_day - used if terms.per_day else want)
        units = max(0, units)
        if len(self._buckets) >= self._most:
            self._buckets.pop(next(iter(self._buckets)))
        self._buckets[name] = _Bucket(tokens - units, now, day, used + units)
        if units:
            return Granted(units, day)
        wait_s = (day + 1) * DAY_S - now if spent else (1 - tokens) / terms.per_s if terms.per_s else 0.0
        return Granted(0, day, wait_s, spent)
