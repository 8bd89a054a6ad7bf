"""What one page did to every campaign, added to sums by a loop: asked of every page.

What a campaign met is marked by bits in one byte, and its fate looked up by them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import loops
from serving.tallies import FIRST_DROP, What

I4 = NDArray[np.int32]
U1 = NDArray[np.uint8]
U4 = NDArray[np.uint32]
F4 = NDArray[np.float32]
F8 = NDArray[np.float64]

HERE: Final = 1
SPENT: Final = 2
LOOKED_AT: Final = 4
PERMITTED: Final = 8
FULL: Final = 16
CAP: Final = 32
QUOTA: Final = 64
PLACED: Final = 128

_ELIGIBLE: Final = int(What.ELIGIBLE)
_DROPPED: Final = int(What.DROPPED)
_REFUSED_CAP: Final = int(What.REFUSED_CAP)
_REFUSED_QUOTA: Final = int(What.REFUSED_QUOTA)
_OFFERED: Final = int(What.OFFERED)
_LOST_PRICE: Final = int(What.LOST_PRICE)
_PLACEMENTS: Final = int(What.PLACED)
_UNITS: Final = int(What.DISPLAYED)
_POTENTIAL: Final = int(What.POTENTIAL)
_FIRST_DROP: Final = FIRST_DROP


@loops
def tallied(
    sums: F8, marks: U1, masks: U4, best: F4, running: I4, spent: I4, looked_at: I4, drops: U4,
    permitted: I4, full: I4, refused: I4, why: U1, placed: I4, units: F8,
) -> None:  # fmt: skip
    """Adds to `sums` (rows of `serving.tallies`, C), as serving.domain.Met says what was met.

    `best` (C,) P(displayed) of the best place that each might have; `refused` and `why` (CAP or QUOTA) what
    was not given; `placed` (n,) campaigns and `units` (n, 3) of their places. `marks` and `masks` (C,) are
    scratch, zero before and after.
    """
    for c in running:
        marks[c] = HERE if best[c] > 0 else 0
    for c in spent:
        marks[c] = HERE | SPENT if best[c] > 0 else 0
    for i in range(len(looked_at)):
        marks[looked_at[i]] |= LOOKED_AT
        masks[looked_at[i]] |= drops[i]
    for c in permitted:
        marks[c] |= PERMITTED
    for c in full:
        marks[c] |= FULL
    for i in range(len(refused)):
        marks[refused[i]] |= why[i]
    for i in range(len(placed)):
        marks[placed[i]] |= PLACED
        sums[_PLACEMENTS, placed[i]] += 1.0
        for unit in range(3):
            if np.isfinite(units[i, unit]):  # or the sum would stay what no meter takes
                sums[_UNITS + unit, placed[i]] += units[i, unit]
    for c in range(len(marks)):
        if marks[c]:
            _fate(sums, marks[c], masks[c], best[c], c)
            marks[c], masks[c] = 0, 0


@loops
def _fate(sums: F8, met: int, mask: int, best: float, c: int) -> None:
    here, placed = met & HERE, met & PLACED
    dropped = met & LOOKED_AT and not met & PERMITTED
    capped = met & (FULL | CAP) and not placed
    spent = met & SPENT or (met & QUOTA and not placed)
    if here:
        sums[_ELIGIBLE, c] += 1.0
        sums[_POTENTIAL, c] += best
    if dropped:
        sums[_DROPPED, c] += 1.0
        bit = _FIRST_DROP
        while mask:
            if mask & 1:
                sums[bit, c] += 1.0
            mask >>= 1
            bit += 1
        return
    if capped:
        sums[_REFUSED_CAP, c] += 1.0
    if spent:
        sums[_REFUSED_QUOTA, c] += 1.0
    if here and not capped and not spent:
        sums[_OFFERED, c] += 1.0
        if not placed:
            sums[_LOST_PRICE, c] += 1.0
