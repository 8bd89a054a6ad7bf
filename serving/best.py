"""The best of each kind, by loops."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.compiled import loops

F4 = NDArray[np.float32]
I4 = NDArray[np.int32]
I8 = NDArray[np.int64]
U4 = NDArray[np.uint32]


def best_of_kinds(scores: F4, rows: I4, ends: I8, wants: I8) -> tuple[I4, F4]:
    """Of each kind the rows with the highest scores, and these, in the order of `rows`.

    `rows`: kind by kind, each up to its `ends`; `wants`: how many of each. Ties go to the first of them, and
    what is not known (NaN) comes only where nothing else is left.
    """
    n = len(rows)
    mine, places, at = np.empty(n, np.float32), np.empty(n, np.uint32), np.empty(n, np.int32)
    found, best = np.empty(n, np.int32), np.empty(n, np.float32)
    many = _best_of_kinds(scores, rows, ends, wants, mine, places, at, found, best)
    return found[:many], best[:many]


@loops
def _best_of_kinds(
    scores: F4, rows: I4, ends: I8, wants: I8, mine: F4, places: U4, at: I4, found: I4, best: F4
) -> int:
    """How many are found. `mine`, `places` and `at`: scratch."""
    for k in range(len(rows)):
        mine[k] = scores[rows[k]]
    for k in range(len(rows)):  # apart from the loop above: the processor does many at once
        places[k] = ordered(mine[k])
    many, start = 0, 0
    for kind in range(len(ends)):
        end, keep = ends[kind], min(wants[kind], ends[kind] - start)
        if keep > 0:
            left = above(places, start, end, keep, at)
            cut, level = cut_of(places[start : start + left], keep)
            for k in range(left):  # written whatever it is, counted where it stays: no branch to guess
                place = places[start + k]
                found[many], best[many] = rows[at[k]], mine[at[k]]
                many += (place > cut) | ((place == cut) & (level > 0))
                level -= place == cut
        start = end
    return many


@loops
def above(places: U4, start: int, end: int, keep: int, at: I4) -> int:
    """How many can be among the `keep` best: their places come first, from `start` on, and `at` says where
    they were.

    In `keep` stretches of the kind each one's best is at least the least of these bests: as many are never
    below it, and what is below is not among them. Of 1,200 about 150 are left.
    """
    bar, low = np.uint32(0xFFFFFFFF), start
    for stretch in range(keep):
        high = start + (end - start) * (stretch + 1) // keep
        top = np.uint32(0)
        for k in range(low, high):
            top = max(top, places[k])
        bar, low = min(bar, top), high
    left = 0
    for k in range(start, end):
        place = places[k]
        places[start + left], at[left] = place, k
        left += place >= bar
    return left


@loops
def cut_of(places: U4, keep: int) -> tuple[np.uint32, int]:
    """A bar that all above it get over and, of those that reach it, so many: the keep-th largest, bit by bit,
    as far as it takes to tell it from the next.

    Counts of all that is not below and no comparisons one by one, which a processor would guess wrong every
    other time.
    """
    cut = np.uint32(0)
    for bit in range(31, -1, -1):
        tried = cut | (np.uint32(1) << np.uint32(bit))
        many = np.uint32(0)  # as wide as the places: more of them at once
        for k in range(len(places)):
            many += np.uint32(places[k] >= tried)
        if many >= keep:
            cut = tried
        if many == keep:
            break
    above = 0
    for k in range(len(places)):
        above += places[k] > cut
    return cut, keep - above


@loops
def ordered(score: np.float32) -> np.uint32:
    """A number that is the higher the higher the score (IEEE 754 binary32); NaN as minus infinity."""
    known = score if score == score else np.float32(-np.inf)
    bits = np.float32(known + np.float32(0)).view(np.uint32)  # −0 counts as 0
    return ~bits if bits >> np.uint32(31) else bits | np.uint32(0x80000000)
