"""The union of what sources propose, and of it what nothing drops, by loops."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import loops

I4 = NDArray[np.int32]
F4 = NDArray[np.float32]
U4 = NDArray[np.uint32]
I8 = NDArray[np.int64]
U8 = NDArray[np.uint64]

_ONE: Final = np.uint64(1)


def union(parts: Sequence[tuple[int, I4, F4]], n: int) -> tuple[I4, U4, F4]:
    """The distinct rows, ascending; of each the bits of all that proposed it and its best score.

    `parts`: of each source its bit, rows and scores; at least one row. `n`: rows that there are; IndexError
    for one beyond. A score that is not known (NaN) gives way to one that is.
    """
    rows = np.concatenate([rows for _, rows, _ in parts])
    scores = np.concatenate([score for *_, score in parts]).astype(np.float32, copy=False)
    ends = accumulate([len(rows) for _, rows, _ in parts])
    given = np.array([[*ends], [1 << bit for bit, *_ in parts]])
    words, before = np.zeros(n // 64 + 1, np.uint64), np.empty(n // 64 + 1, np.int64)
    found, origin = np.empty(len(rows), np.int32), np.zeros(len(rows), np.uint32)
    best = np.empty(len(rows), np.float32)
    many = _united(rows, scores, given, n, words, before, found, origin, best)
    if many < 0:
        raise IndexError(f"a row outside of 0 to {n - 1}")
    return found[:many], origin[:many], best[:many]


@loops
def _united(
    rows: I4, scores: F4, given: I8, n: int, words: U8, before: I8, found: I4, origin: U4, best: F4
) -> int:
    """How many are distinct; −1 where a row is not there.

    Rows are marked in a set of bits (`words`, zero): read from the first to the last it is in order, so that
    nothing is sorted, and the marks before a row's own are its place.
    """
    for j in range(len(rows)):
        if rows[j] < 0 or rows[j] >= n:
            return -1
        words[rows[j] >> 6] |= _ONE << np.uint64(rows[j] & 63)
    many = 0
    for w in range(len(words)):
        before[w] = many
        left = words[w]
        while left:
            lowest = left & (~left + _ONE)
            found[many] = np.int32(w << 6) + np.int32(_marks(lowest - _ONE))
            many += 1
            left ^= lowest
    start = 0
    for part in range(given.shape[1]):
        end, bit = given[0, part], np.uint32(given[1, part])
        for j in range(start, end):
            row = rows[j]
            below = words[row >> 6] & ((_ONE << np.uint64(row & 63)) - _ONE)
            at = before[row >> 6] + np.int64(_marks(below))
            held = best[at]
            if not origin[at] or scores[j] > held or held != held:
                best[at] = scores[j]
            origin[at] |= bit
        start = end
    return many


@loops
def _marks(word: np.uint64) -> np.uint64:
    """How many bits are set: by twos, fours and eights, then summed by a product."""
    word -= (word >> _ONE) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


def undropped(rows: I4, origin: U4, score: F4, drops: U4) -> tuple[I4, U4, F4]:
    """Those that nothing drops, in their order."""
    n = len(rows)
    kept, whence, best = np.empty(n, np.int32), np.empty(n, np.uint32), np.empty(n, np.float32)
    many = _undropped(rows, origin, score, drops, kept, whence, best)
    return kept[:many], whence[:many], best[:many]


@loops
def _undropped(rows: I4, origin: U4, score: F4, drops: U4, kept: I4, whence: U4, best: F4) -> int:
    many = 0
    for j in range(len(rows)):  # written whatever it is, and counted where it stays: no branch to guess
        kept[many], whence[many], best[many] = rows[j], origin[j], score[j]
        many += drops[j] == 0
    return many
