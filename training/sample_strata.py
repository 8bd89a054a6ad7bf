"""Which page views go into the replay sample: an even spread over surface, org, day and hour.

Half of the places go to groups (surface × org) by their page views, half by the root of them, so that a small
branch's pages are enough to say something of; weights make up for it. Within a group every k-th page in
order of day, hour and time is taken.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.sample_columns import RANKS

SPANS_S = (86_400.0, 7 * 86_400.0, 28 * 86_400.0)
assert len(SPANS_S) == len(RANKS)


def chosen(
    group: NDArray[np.integer[Any]], at: NDArray[np.float64], most: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(page views taken, ascending; how many each stands for). `group` (N,) number of surface × org."""
    n = len(group)
    if n <= most:
        return np.arange(n), np.ones(n, np.float32)
    groups, which, sizes = np.unique(group, return_inverse=True, return_counts=True)
    share = 0.5 * sizes / n + 0.5 * np.sqrt(sizes) / np.sqrt(sizes).sum()
    take = np.minimum(np.maximum(np.floor(share * most), 1), sizes).astype(np.int64)
    order = np.lexsort((at, which))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    rng = np.random.default_rng([seed, n, most])
    begins = rng.random(len(groups))
    picked, weights = [], []
    for g in range(len(groups)):
        every = sizes[g] / take[g]
        places = ((np.arange(take[g]) + begins[g]) * every).astype(np.int64)
        picked.append(order[starts[g] + np.minimum(places, sizes[g] - 1)])
        weights.append(np.full(take[g], every, np.float32))
    taken, weight = np.concatenate(picked), np.concatenate(weights)
    back = np.argsort(taken, kind="stable")
    return taken[back], weight[back]


def earlier(subject: NDArray[np.uint64], at: NDArray[np.float64]) -> NDArray[np.int32]:
    """(N, RANKS) page views of the same subject in the spans before each."""
    order = np.lexsort((at, subject))
    owner, when = subject[order], at[order]
    found = np.zeros((len(at), len(SPANS_S)), np.int32)
    first = np.searchsorted(owner, owner, side="left")
    # Subjects one after another on one axis of time, further apart than the longest span.
    number = np.cumsum(np.r_[False, owner[1:] != owner[:-1]]) if len(owner) else np.zeros(0)
    begin = float(when.min()) if len(when) else 0.0
    wide = (float(when.max()) - begin if len(when) else 0.0) + 2 * SPANS_S[-1]
    axis = number * wide + (when - begin)
    for w, span in enumerate(SPANS_S):
        since = np.searchsorted(axis, axis - span, side="right")
        found[order, w] = np.arange(len(axis)) - np.maximum(since, first)
    return found
