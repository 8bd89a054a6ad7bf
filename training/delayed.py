"""Conversions that arrive late, learnt before all of them are known (Badanidiyuru et al. 2021).

    P(converted) = Σ over delay buckets of P(converted within the bucket)

each bucket's model on the displays that are old enough to know it, so that the newest displays already teach
what converts at once, and only the slow part is learnt from older ones. Beside it, to compare: waiting until
a display has seen the whole horizon, and taking for a no what has not come yet.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from features.transforms import DAY
from serving.ranker import Answer
from training.ranker_fit import Floats, Rows, Setting, boosted, level_of, logistic, raw_of

EDGES: Final = (0.0, 1 / 24, 1.0, 3.0, 7.0, 14.0)  # days after the page
HORIZON_S: Final = EDGES[-1] * DAY

Way = Literal["buckets", "waiting", "negative"]
WAYS: Final[tuple[Way, ...]] = ("buckets", "waiting", "negative")


def chances(rows: Rows, now: float, start: Answer, setting: Setting, way: Way = "buckets") -> Floats:
    """(m,) P(converted within the horizon | displayed), learnt from what was known at `now`.

    `start` gives the log-odds that every model begins from. Nothing that arrived after `now` is looked at.
    """
    known = rows.converted <= now
    delay = np.where(known, rows.converted - rows.at, np.inf)
    age = now - rows.at
    every = np.ones(rows.size, np.bool_)
    if way == "negative":
        return _learnt(rows, known & (delay <= HORIZON_S), every, start, setting)
    if way == "waiting":
        return _learnt(rows, delay <= HORIZON_S, age >= HORIZON_S, start, setting)
    total = np.zeros(rows.size)
    for low, high in pairwise(EDGES):
        there = (delay > low * DAY) & (delay <= high * DAY) if low else delay <= high * DAY
        total += _learnt(rows, there, age >= high * DAY, start, setting)
    return np.minimum(total, 1.0 - 1e-6)


def _learnt(
    rows: Rows, label: NDArray[np.bool_], mature: NDArray[np.bool_], start: Answer, setting: Setting
) -> Floats:
    """A model of the mature rows, asked about all of them; where none is mature or positive, never."""
    if not (label & mature).any():
        return np.zeros(rows.size)
    base = raw_of(start, rows)
    base += level_of(base[mature], label[mature].astype(np.float64))
    columns = np.ascontiguousarray(rows.matrix.T)
    model = boosted(columns[mature], label[mature].astype(np.float64), base[mature], setting, large=False)
    return logistic(base + model.predict(columns, raw_score=True, num_threads=setting.threads))
