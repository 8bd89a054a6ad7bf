"""The union of what sources propose, by loops."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit

F4 = NDArray[np.float32]
U4 = NDArray[np.uint32]
I8 = NDArray[np.int64]


@jit
def union(
    rows: NDArray[np.int32], scores: F4, order: I8, ends: I8, bits: U4
) -> tuple[NDArray[np.int32], U4, F4]:
    """The distinct rows, ascending; of each the bits of all that proposed it and its best score.

    `rows` and `scores`: proposals one after another, each up to its `ends`, of the source `bits`; `order`
    sorts the rows. A score that is not known (NaN) gives way to one that is.
    """
    n = len(rows)
    bit = np.empty(n, np.uint32)
    start = 0
    for part in range(len(ends)):
        for at in range(start, ends[part]):
            bit[at] = bits[part]
        start = ends[part]
    out, origin, best = np.empty(n, np.int32), np.zeros(n, np.uint32), np.empty(n, np.float32)
    many = 0
    for j in range(n):
        at = order[j]
        if many and out[many - 1] == rows[at]:
            held = best[many - 1]
            if scores[at] > held or held != held:
                best[many - 1] = scores[at]
            origin[many - 1] |= bit[at]
            continue
        out[many], origin[many], best[many] = rows[at], bit[at], scores[at]
        many += 1
    return out[:many], origin[:many], best[:many]
