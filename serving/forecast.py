"""Page views still to come, by stream (surface × org): the week's shape, paydays, holidays, today.

An hour's expectation is level × shape of the hour of the week × factor of the day of the month × factor of a
holiday; each is shrunk: a stream with few views has the shape of all of them, and all of them, with few
hours, are flat. Today's actual views over expected correct the next hours, less the further ahead. Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.curves import FLAT, HOUR_S, HOURS, Floats, Season, fit_season

FORGET_S: Final = 3_600.0  # of today's actual and expected views: older ones count less
FADE_S: Final = 6 * 3_600.0  # of today's deviation, ahead
LEVEL_H: Final = 14 * 24.0  # a stream's level remembers about so many hours
SHAPE_VIEWS: Final = 2_000.0  # a stream's own shape counts half at so many views
HOLIDAY_H: Final = 24.0  # hours of holidays after which their factor counts half
TODAY_VIEWS: Final = 50.0  # expected views after which today's ratio counts half
RATIO: Final = (0.2, 5.0)
_MONDAY: Final = 4 * 86_400.0  # 1970-01-05


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """Expected views of S streams. `level` is views per hour; `ratio` today's actual over expected."""

    level: Floats  # (S,), > 0: of a stream never seen too little to matter
    shapes: Floats  # (S, 168) by hour of the week in UTC, mean 1
    days: Floats  # (32,) by day of the month
    holiday: float = 1.0
    holidays: frozenset[int] = frozenset()  # ordinals of local dates
    zone_s: float = 0.0  # days are read this many seconds east of UTC
    ratio: float = 1.0
    at: float = 0.0  # when `ratio` was seen, POSIX seconds

    def expected(self, start: float, hours: int) -> Floats:
        """(S, hours) views of the hours from `start` (a whole hour), without today's correction."""
        middle = _middles(start, hours)
        return np.asarray(self.level[:, None] * self.shapes[:, _hour_of_week(middle)] * self._days(middle))

    def views(self, start: float, hours: int) -> Floats:
        """The same, with today's correction of the hours that are not yet over."""
        ahead = _middles(start, hours) - self.at
        fade = np.where(ahead > -0.5 * HOUR_S, np.exp(-np.maximum(ahead, 0.0) / FADE_S), 0.0)
        return np.asarray(self.expected(start, hours) * (1.0 + (self.ratio - 1.0) * fade))

    def left(self, now: float, until: float, mask: NDArray[np.bool_] | None = None) -> float:
        """Views expected in [now, until) of the streams in `mask` (S,); of all without one."""
        if until <= now:
            return 0.0
        first = now // HOUR_S * HOUR_S
        hours = int(-(-(until - first) // HOUR_S))
        views = self.views(first, hours)
        begins = first + np.arange(hours) * HOUR_S
        part = (np.minimum(begins + HOUR_S, until) - np.maximum(begins, now)) / HOUR_S
        whole = views.sum(axis=0) if mask is None else views[mask].sum(axis=0)
        return float((whole * part).sum())

    def curve(self, start: float, hours: int, mask: NDArray[np.bool_] | None = None) -> Floats:
        """(hours + 1,) share of the span's views that has come by each whole hour: from 0 to 1."""
        views = self.expected(start, hours)
        whole = views.sum(axis=0) if mask is None else views[mask].sum(axis=0)
        sums = np.concatenate([[0.0], np.cumsum(whole)])
        return np.asarray(sums / sums[-1]) if sums[-1] > 0 else np.linspace(0.0, 1.0, hours + 1)

    def corrected(self, came: Floats, start: float, now: float) -> Forecast:
        """By the views of all streams in the last hours, (n,) from `start`; the last may still be running.

        An hour counts by how much of it is over and, exponentially, by how long ago it was.
        """
        middle = _middles(start, len(came))
        over = np.clip((now - middle) / HOUR_S + 0.5, 0.0, 1.0)
        counts = np.exp(-np.maximum(now - middle, 0.0) / FORGET_S)
        due = float((self.expected(start, len(came)).sum(axis=0) * over * counts).sum())
        seen = float((np.maximum(came, 0.0) * (over > 0) * counts).sum())
        ratio = (seen + TODAY_VIEWS) / (due + TODAY_VIEWS)
        return replace(self, ratio=float(np.clip(ratio, *RATIO)), at=now)

    def _days(self, times: Floats) -> Floats:
        ordinals, back = np.unique(((times + self.zone_s) // 86_400.0).astype(np.int64), return_inverse=True)
        factors = [self._day(int(ordinal)) for ordinal in ordinals]
        return np.asarray(np.array(factors, np.float64)[back])

    def _day(self, days: int) -> float:
        day = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=days)).date()
        if day.toordinal() in self.holidays:
            return self.holiday
        return float(self.days[day.day])


def flat(streams: int) -> Forecast:
    """Of which nothing is known: as many views every hour, too few to outweigh the first that come."""
    return Forecast(np.full(streams, 1.0), np.ones((streams, HOURS)), np.ones(32))


def fit_forecast(
    counts: Floats, start: float, *, zone_s: float = 0.0, holidays: Collection[int] = ()
) -> Forecast:
    """From page views per stream and hour, (S, n) from `start` (a whole hour). Few hours: flat.

    `holidays`: ordinals of dates in the zone `zone_s` seconds east of UTC; they are kept out of the week's
    shape and have a factor of their own.
    """
    streams, hours = counts.shape
    if not hours or not streams:
        return flat(streams)
    middle = _middles(start, hours)
    free = _holidays(middle + zone_s, holidays)
    season = _season(counts.sum(axis=0), start, free, zone_s)
    slot = _hour_of_week(middle)
    base: Floats = np.asarray(season.hours[slot] * season.days[_month_days(middle + zone_s)])
    age = np.exp(-(hours - 1 - np.arange(hours)) / LEVEL_H) * ~free
    due = max(float((base * age).sum()), 1e-9)
    level = (counts * age).sum(axis=1) / due if age.any() else counts.mean(axis=1)
    level = np.maximum(level, 1e-6)
    return Forecast(
        level=level,
        shapes=_shapes(counts * ~free, slot, season, base * ~free, level),
        days=season.days,
        holiday=_holiday(counts.sum(axis=0), base * level.sum(), free),
        holidays=frozenset(holidays),
        zone_s=zone_s,
    )


def _season(total: Floats, start: float, free: NDArray[np.bool_], zone_s: float) -> Season:
    """The shape of all streams; the hours of holidays are taken to have been ordinary ones."""
    if len(total) < HOURS or not total.sum() > 0:
        return FLAT
    if not free.any() or free.all():
        return fit_season(total, start, zone_s=zone_s)
    slot = _hour_of_week(_middles(start, len(total)))
    sums = np.bincount(slot, np.where(free, 0.0, total), HOURS)
    seen = np.bincount(slot, ~free, HOURS)
    ordinary = np.divide(sums, seen, out=np.full(HOURS, total[~free].mean()), where=seen > 0)
    return fit_season(np.where(free, ordinary[slot], total), start, zone_s=zone_s)


def _shapes(counts: Floats, slot: NDArray[np.int64], season: Season, base: Floats, level: Floats) -> Floats:
    """Each stream's own shape, shrunk to that of all by its number of views."""
    if len(slot) < HOURS:
        return np.tile(season.hours, (len(counts), 1))
    own = np.zeros((len(counts), HOURS))
    due = np.zeros((len(counts), HOURS))
    for stream, column in enumerate(counts):
        own[stream] = np.bincount(slot, column, HOURS)
        due[stream] = np.bincount(slot, base * level[stream], HOURS)
    prior = SHAPE_VIEWS / HOURS
    shapes = season.hours * (own + prior) / (due + prior)
    return np.asarray(shapes / np.maximum(shapes.mean(axis=1, keepdims=True), 1e-12))


def _holiday(total: Floats, due: Floats, free: NDArray[np.bool_]) -> float:
    if not free.any():
        return 1.0
    typical = HOLIDAY_H * float(due.mean())
    ratio = (float(total[free].sum()) + typical) / max(float(due[free].sum()) + typical, 1e-9)
    return float(np.clip(ratio, *RATIO))


def _middles(start: float, hours: int) -> Floats:
    return np.asarray(start + (np.arange(hours) + 0.5) * HOUR_S, np.float64)


def _hour_of_week(times: Floats) -> NDArray[np.int64]:
    return np.asarray(((times - _MONDAY) // HOUR_S).astype(np.int64) % HOURS)


def _month_days(times: Floats) -> NDArray[np.int64]:
    days, back = np.unique((times // 86_400.0).astype(np.int64), return_inverse=True)
    first = datetime(1970, 1, 1, tzinfo=UTC)
    return np.array([(first + timedelta(days=int(day))).day for day in days], np.int64)[back]


def _holidays(times: Floats, holidays: Collection[int]) -> NDArray[np.bool_]:
    if not holidays:
        return np.zeros(len(times), np.bool_)
    epoch = datetime(1970, 1, 1, tzinfo=UTC).toordinal()
    return np.isin((times // 86_400.0).astype(np.int64) + epoch, np.array(sorted(holidays), np.int64))
