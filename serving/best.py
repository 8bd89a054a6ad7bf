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
    total, longest, start = 0, 0, 0
    for kind in range(len(ends)):
        total += min(wants[kind], ends[kind] - start)
        longest = max(longest, ends[kind] - start)
        start = ends[kind]
    out, score, some = np.empty(total, np.int32), np.empty(total, np.float32), np.empty(longest, np.uint32)
    n, start = 0, 0
    for kind in range(len(ends)):
        end, keep = ends[kind], wants[kind]
        if keep >= end - start:
            for at in range(start, end):
                out[n], score[n] = rows[at], scores[rows[at]]
                n += 1
        elif keep > 0:
            cut, level = _cut(scores, rows, start, end, keep, some)
            for at in range(start, end):
                place = some[at - start]
                level -= 1 if place == cut else 0
                if place > cut or (place == cut and level >= 0):
                    out[n], score[n] = rows[at], scores[rows[at]]
                    n += 1
        start = end
    return out, score


@jit
def _cut(
    scores: F4, rows: NDArray[np.int32], start: int, end: int, keep: int, some: NDArray[np.uint32]
) -> tuple[np.uint32, int]:
    """The lowest place in the order (`_ordered`) that gets in, and how many with it do. `some`: scratch.

    The keep-th largest by its bytes, the highest first: counts and no comparisons, which a processor would
    guess wrong every other time.
    """
    for k in range(end - start):
        some[k] = _ordered(scores[rows[start + k]])
    found, same, left = np.uint32(0), np.uint32(0), keep
    counts = np.empty(256, np.int64)
    for shift in (24, 16, 8, 0):
        counts[:] = 0
        for k in range(end - start):
            byte = (some[k] >> np.uint32(shift)) & np.uint32(255)
            counts[byte] += (some[k] & same) == found
        byte = 255
        while counts[byte] < left:
            left -= counts[byte]
            byte -= 1
        found |= np.uint32(byte) << np.uint32(shift)
        same |= np.uint32(255) << np.uint32(shift)
    return found, left


@jit
def _ordered(score: np.float32) -> np.uint32:
    """A number that is the higher the higher the score (IEEE 754 binary32); NaN as minus infinity."""
    known = score if score == score else np.float32(-np.inf)
    bits = np.float32(known + np.float32(0)).view(np.uint32)  # −0 counts as 0
    return ~bits if bits >> np.uint32(31) else bits | np.uint32(0x80000000)
