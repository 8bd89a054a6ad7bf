"""The sample's pages at the times that are booked, and how many page views each stands for there.

A page of the past stands for hours to come of the same stream (surface × org) and hour of the week. The pages
of an hour of the week are dealt to its hours of the span by their forecast page views; hours of the week that
the sample does not have are made up for by the stream's other pages, streams that it does not have by all.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.ids import key32
from serving.calendar import Calendar
from serving.forecast import Forecast, fit_forecast
from serving.pace_plan import Territory
from training.booking_pages import Spread
from training.sample_columns import Sample

HOUR_S: Final = 3600.0
HOURS: Final = 168
LONGEST_S: Final = 92 * 86_400.0
SHORTEST_S: Final = 7 * 86_400.0


def span_of(calendars: Sequence[Calendar], now: float) -> tuple[float, float]:
    """From now to the end of the last flight; at least a week, at most LONGEST_S. Whole hours."""
    ends = [one.end for one in calendars if one.end != float("inf")]
    until = min(max([now + SHORTEST_S, *ends]), now + LONGEST_S)
    return floor(now / HOUR_S) * HOUR_S, ceil(until / HOUR_S) * HOUR_S


def streams_of(sample: Sample, territory: Territory) -> NDArray[np.int64]:
    """(n,) the stream of each page, -1 where the plan has none. A template's instances count under it."""
    place = {(surface, key32(org) if org else 0): at for at, (surface, org) in enumerate(territory.streams)}
    folders = {name.partition("/")[0]: name for name in territory.surfaces if "/" in name}

    def named(surface: str) -> str:
        return surface if surface in territory.surfaces else folders.get(surface.partition("/")[0], surface)

    names = [named(shape.surface) for shape in sample.shapes]
    both = np.stack([sample.shape.astype(np.int64), sample.org.astype(np.int64)], axis=1)
    kinds, which = np.unique(both, axis=0, return_inverse=True)
    found = [
        place.get((names[shape], org), place.get((names[shape], 0), -1)) for shape, org in kinds.tolist()
    ]
    return np.array(found, np.int64)[which.ravel()]


def forecast_of(sample: Sample, territory: Territory) -> Forecast:
    """The sample's own weeks carried on: what is used where no forecast is handed in."""
    first = floor(sample.since / HOUR_S)
    hours = max(ceil(sample.until / HOUR_S) - first, 1)
    counts = np.zeros((len(territory.streams), hours))
    stream = streams_of(sample, territory)
    hour = np.clip((sample.at // HOUR_S).astype(np.int64) - first, 0, hours - 1)
    here = stream >= 0
    np.add.at(counts, (stream[here], hour[here]), sample.weight[here])
    return fit_forecast(counts, first * HOUR_S)


def spread_of(sample: Sample, territory: Territory, forecast: Forecast, span: tuple[float, float]) -> Spread:
    """Pages dealt over [since, until), whole hours."""
    start, count = span[0], max(int((span[1] - span[0]) // HOUR_S), 1)
    views = forecast.views(start, count)
    stream = streams_of(sample, territory)
    at, weight = np.full(len(sample), start), np.zeros(len(sample))
    of_week = int(start // HOUR_S) % HOURS
    hour_of = (of_week + np.arange(count)) % HOURS
    page_hour = ((sample.at // HOUR_S).astype(np.int64)) % HOURS
    into = sample.at % HOUR_S
    for s in range(len(views)):
        mine = np.flatnonzero(stream == s)
        if not len(mine):
            continue
        for w in range(HOURS):
            pages, hours = mine[page_hour[mine] == w], np.flatnonzero(hour_of == w)
            if not len(pages) or not len(hours):
                continue
            share = np.asarray(sample.weight[pages], np.float64)
            middle = (np.cumsum(share) - 0.5 * share) / share.sum()
            sums = np.cumsum(views[s, hours])
            dealt = np.minimum(np.searchsorted(sums, middle * sums[-1]), len(hours) - 1)
            at[pages] = start + hours[dealt] * HOUR_S + into[pages]
            weight[pages] = share / share.sum() * sums[-1]
        have = float(weight[mine].sum())
        if have > 0:
            weight[mine] *= float(views[s].sum()) / have
    missing = float(views.sum()) - float(weight.sum())
    if weight.sum() > 0 and missing > 0:
        weight *= 1.0 + missing / float(weight.sum())
    return Spread(at, weight)
