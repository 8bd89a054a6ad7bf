"""When the traffic comes, and how much of a goal should be delivered by when.

`Season` is the forecast of page views by hour of the week and day of the month; `Timeline` sums it over the
open calendar time of many flights at once; `target` is where each flight's delivery should stand. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

PACINGS: Final = ("even", "asap", "front_loaded")
EVEN, ASAP, FRONT_LOADED = range(3)
HOURS: Final = 168
HOUR_S: Final = 3600.0
SOONEST: Final = 0.25  # `asap`: no earlier than after this part of the flight's traffic ...
TIGHT: Final = 1.5  # ... and never needing more than 1/1.5 of the traffic that there is until then
FRONT: Final = 1.5
_MONDAY: Final = 4 * 86_400.0  # 1970-01-05

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Season:
    """Relative traffic: an hour of the week (UTC, from Monday) times a factor of the day of the month."""

    hours: Floats  # (168,), mean 1
    days: Floats  # (32,), by day of the month; 1 where nothing is known
    zone_s: float = 0.0  # the day of the month is read this many seconds east of UTC

    def weights(self, start: float, step_s: float, count: int) -> Floats:
        """(count,) relative traffic of the steps from `start` (POSIX s), each taken at its middle."""
        middle = start + (np.arange(count) + 0.5) * step_s
        hour = ((middle - _MONDAY) // HOUR_S).astype(np.int64) % HOURS
        day = _day_of_month(middle + self.zone_s)
        weights: Floats = self.hours[hour] * self.days[day] * (step_s / HOUR_S)
        return weights


FLAT: Final = Season(np.ones(HOURS), np.ones(32))


def fit_season(counts: Floats, start: float, *, zone_s: float = 0.0, special: float = 0.15) -> Season:
    """From page views per hour (n,), the first beginning at `start`. Needs a week; less gives `FLAT`.

    An hour of the week is its median over the weeks, so that a payday that fell on a Sunday does not make all
    Sundays busy. A day of the month counts only where its days differ from that by more than `special`.
    """
    if len(counts) < HOURS or not counts.sum() > 0:
        return FLAT
    times = start + (np.arange(len(counts)) + 0.5) * HOUR_S
    hour = ((times - _MONDAY) // HOUR_S).astype(np.int64) % HOURS
    hours = np.array([np.median(counts[hour == one]) for one in range(HOURS)])
    if not hours.sum() > 0:
        return FLAT
    day = _day_of_month(times + zone_s)
    expected = np.bincount(day, hours[hour], 32)
    days = np.divide(np.bincount(day, counts, 32), expected, out=np.ones(32), where=expected > 0)
    days = np.where(np.abs(days - 1.0) > special, days, 1.0)
    return Season(hours / hours.mean(), days, zone_s)


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Eligible traffic of G flights, summed from the beginning of each, at T + 1 instants."""

    start: float
    step_s: float
    sums: Floats  # (G, T + 1), ascending from 0

    def at(self, now: float) -> tuple[Floats, Floats]:
        """Eligible traffic (passed, whole), (G,) each; passed is linear within a step."""
        last = self.sums.shape[1] - 1
        place = min(max((now - self.start) / self.step_s, 0.0), float(last))
        low = min(int(place), last - 1)
        part = place - low
        passed = self.sums[:, low] * (1.0 - part) + self.sums[:, low + 1] * part
        return passed, self.sums[:, -1]


def timeline(weights: Floats, is_open: NDArray[np.bool_], start: float, step_s: float) -> Timeline:
    """Of `weights` (T,) and, per flight, whether each step is open (G, T)."""
    if weights.ndim != 1 or is_open.shape[1:] != weights.shape:
        raise ValueError(f"weights {weights.shape} and openings {is_open.shape} do not fit")
    sums = np.zeros((len(is_open), len(weights) + 1))
    np.cumsum(np.where(is_open, np.maximum(weights, 0.0), 0.0), axis=1, out=sums[:, 1:])
    return Timeline(start, step_s, sums)


def target(part: Floats, pacing: NDArray[np.uint8], asap_by: Floats) -> Floats:
    """Share of the goal due when `part` in [0, 1] of the flight's eligible traffic has passed, (G,).

    even: t; front_loaded: 1 − (1 − t)^1.5; asap: t / asap_by.
    """
    part = np.clip(part, 0.0, 1.0)
    front = 1.0 - (1.0 - part) ** FRONT
    soon = np.minimum(part / np.clip(asap_by, 1e-3, 1.0), 1.0)
    return np.where(pacing == EVEN, part, np.where(pacing == ASAP, soon, front))


def asap_by(wanted: Floats, eligible: Floats) -> Floats:
    """The part of the flight's traffic after which an `asap` goal can be done, without taking all of it."""
    need = np.divide(wanted, eligible, out=np.zeros_like(wanted), where=eligible > 0)
    return np.clip(TIGHT * need, SOONEST, 1.0)


def _day_of_month(times: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    days, back = np.unique((times // 86_400.0).astype(np.int64), return_inverse=True)
    first = datetime(1970, 1, 1, tzinfo=UTC)
    return np.array([(first + timedelta(days=int(day))).day for day in days], np.int64)[back]
