"""The best of each kind, by loops."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit

F4 = NDArray[np.float32]


@jit
def best_of_kinds(
    scores: F4, rows: NDArray[np.int32], ends: NDArray[np.int64], wants: NDArray[np.int64]
) -> tuple[NDArray[np.int32], F4]:
    """Of each kind the rows with the highest scores, and these, in the order of `rows`.

    `rows`: kind by kind, each up to its `ends`; `wants`: how many of each. Ties go to the first of them, and
    what is not known (NaN) comes only where nothing else is left.
    """
    total, most, start = 0, 1, 0
    for kind in range(len(ends)):
        total += min(wants[kind], ends[kind] - start)
        most = max(most, wants[kind])
        start = ends[kind]
    out, score, heap = np.empty(total, np.int32), np.empty(total, np.float32), np.empty(most, np.float32)
    n, start = 0, 0
    for kind in range(len(ends)):
        end, keep = ends[kind], wants[kind]
        if keep >= end - start:
            for at in range(start, end):
                out[n], score[n] = rows[at], scores[rows[at]]
                n += 1
        elif keep > 0:
            cut, level = _cut(scores, rows, start, end, keep, heap)
            for at in range(start, end):
                one = scores[rows[at]]
                known = one if one == one else np.float32(-np.inf)
                level -= 1 if known == cut else 0
                if known > cut or (known == cut and level >= 0):
                    out[n], score[n] = rows[at], one
                    n += 1
        start = end
    return out, score


@jit
def _cut(
    scores: F4, rows: NDArray[np.int32], start: int, end: int, keep: int, heap: F4
) -> tuple[np.float32, int]:
    """The lowest score that gets in, and how many with it do. `heap`: scratch, a min-heap of the best."""
    lowest = np.float32(-np.inf)
    for k in range(keep):
        heap[k] = lowest
    for at in range(start, end):
        one = scores[rows[at]]
        if one > heap[0]:
            k = 0
            while True:  # sift down
                child = 2 * k + 1
                if child >= keep:
                    break
                if child + 1 < keep and heap[child + 1] < heap[child]:
                    child += 1
                if heap[child] >= one:
                    break
                heap[k] = heap[child]
                k = child
            heap[k] = one
    level = 0
    for k in range(keep):
        level += 1 if heap[k] == heap[0] else 0
    return heap[0], level
