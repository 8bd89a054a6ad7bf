"""What sources propose, by loops: neighbours of a few rows, and what is new."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.compiled import loops

I4 = NDArray[np.int32]
F4 = NDArray[np.float32]


def beside(rows: I4, k: int, indptr: NDArray[np.int64], neighbours: I4, weights: F4) -> tuple[I4, F4]:
    """Of each of a few rows its first `k` neighbours, one row after the other; of one beyond the table none.

    `neighbours` and `weights` of row i from `indptr[i]` to `indptr[i + 1]`, best first.
    """
    found, score = np.empty(len(rows) * k, np.int32), np.empty(len(rows) * k, np.float32)
    many = _beside(rows, k, indptr, neighbours, weights, found, score)
    return found[:many], score[:many]


@loops
def _beside(
    rows: I4, k: int, indptr: NDArray[np.int64], neighbours: I4, weights: F4, found: I4, score: F4
) -> int:
    many = 0
    for j in range(len(rows)):
        if 0 <= rows[j] < len(indptr) - 1:
            start = indptr[rows[j]]
            for at in range(start, min(indptr[rows[j] + 1], start + k)):
                found[many], score[many] = neighbours[at], weights[at]
                many += 1
    return many


def lately_published(rows: I4, at: NDArray[np.float64], now: float, within_s: float) -> tuple[I4, F4]:
    """Those `rows` (n,) that were published `at` (POSIX seconds) less than `within_s` ago, and how fresh each
    is: 1 now, 0 then. Infinite: just now, whenever that is.
    """
    found, score = np.empty(len(rows), np.int32), np.empty(len(rows), np.float32)
    many = _lately(rows, at, now, within_s, found, score)
    return found[:many], score[:many]


@loops
def _lately(rows: I4, at: NDArray[np.float64], now: float, within_s: float, found: I4, score: F4) -> int:
    many = 0
    for j in range(len(rows)):
        if at[j] == np.inf or now - within_s < at[j] <= now:
            found[many], score[many] = rows[j], 1 - (now - min(at[j], now)) / within_s
            many += 1
    return many
