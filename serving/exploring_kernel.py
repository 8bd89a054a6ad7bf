"""The loop of exploration: runners-up and draws of all lotteries of a page at once.

Places come in page order; each takes the two best candidates left of its winner's kind that its slot may
hold freely, so what one place takes is nobody else's. Ties go to the lower row. The draw is by 53 bits of a
hash of the decision's bits and the place: `serving.splitting.part_of`, bit for bit.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit
from features.reservations import RESERVED

RUNNERS: Final = 2  # of a place
NOTHING: Final = -2  # instead of a creative: nothing of the row can ever be rendered in the layout
ASK: Final = -3  # not known yet, or not the same at all times
LEAST: Final = 1e-3  # a chance below this is not worth a lottery: its weight would be a thousand


@jit
def hold(
    rows: NDArray[np.int32],
    value: NDArray[np.float32],
    capped: NDArray[np.uint8],
    room: NDArray[np.int32],
    kinds: NDArray[np.uint8],
    members: NDArray[np.uint64],
    picks: NDArray[np.int16],
    places: NDArray[np.float64],
    spares: NDArray[np.int32],
    slots: NDArray[np.float64],
    reserved: NDArray[np.bool_],
    banned: NDArray[np.bool_],
    bits: np.uint64,
    salts: NDArray[np.uint64],
    runner: NDArray[np.int32],
    each: NDArray[np.float64],
    drawn: NDArray[np.int8],
) -> int:
    """Fills `runner` (p, 2), −1 none, `each` (p,), 0 without a lottery, and `drawn` (p,).

    How many are held; less than 0 where of a runner-up it is to be asked first whether it can be rendered.

    `rows` … `room` are the candidates', rows ascending; `kinds`, `members` and `picks` (layouts, rows) are of
    the whole catalogue. `places` (p, 6): slot, row, value, campaign, capped, flags; `spares`: rows that stand
    by. `slots` (s, 4): bit's number, explore, budget, layout; `reserved` (s,): whatever stands there needs a
    reservation, drawn or not. `banned` (s, n): what a slot may not hold.
    """
    n, p = len(rows), len(places)
    left = np.zeros(n, np.bool_)
    for i in range(n):
        free = capped[i] == 0 and value[i] > 0
        for k in range(room.shape[1]):
            free = free and room[i, k] < 0
        left[i] = free
    for at in range(p):
        _take(left, rows, int(places[at, 1]))
    for row in spares:
        _take(left, rows, row)
    begins = np.zeros(257, np.int64)  # the free candidates by kind, each in the order of rows
    for i in range(n):
        if left[i]:
            begins[int(kinds[rows[i]]) + 1] += 1
    for kind in range(256):
        begins[kind + 1] += begins[kind]
    ends = begins[:256].copy()
    order = np.empty(begins[256], np.int64)
    for i in range(n):
        if left[i]:
            kind = int(kinds[rows[i]])
            order[ends[kind]] = i
            ends[kind] += 1
    held, asked = 0, False
    for at in range(p):
        runner[at, 0] = runner[at, 1] = -1
        each[at] = 0.0
        drawn[at] = 0
        slot = int(places[at, 0])
        explore, budget = slots[slot, 1], slots[slot, 2]
        flags = int(places[at, 5])
        if reserved[slot]:
            flags &= ~RESERVED
        if explore <= 0 or places[at, 3] >= 0 or flags or (places[at, 4] != 0 and not reserved[slot]):
            continue
        bit, layout = np.uint64(1) << np.uint64(slots[slot, 0]), int(slots[slot, 3])
        kind = int(kinds[int(places[at, 1])])
        first, second = -1, -1
        for j in range(begins[kind], begins[kind + 1]):
            i = order[j]
            row = rows[i]
            if not left[i] or members[row] & bit == 0 or banned[slot, i] or picks[layout, row] == NOTHING:
                continue
            if first < 0 or value[i] > value[first]:
                first, second = i, first
            elif second < 0 or value[i] > value[second]:
                second = i
        if first < 0:
            continue
        left[first] = False
        total, count = float(value[first]), 1
        if second >= 0:
            left[second] = False
            total += float(value[second])
            count = 2
        part, loss = explore, places[at, 2] - total / count
        if loss > 0 and budget < 1:
            part = min(part, max(0.0, budget * places[at, 2] / loss))
        chance = part / count
        if chance < LEAST:
            continue
        runner[at, 0], runner[at, 1], each[at] = first, second, chance
        x = bits ^ salts[at]
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
        u = float(x >> np.uint64(11)) * 2.0**-53 - (1.0 - chance * count)
        if u >= 0:
            drawn[at] = 1 if u < chance or count == 1 else 2
        held += 1
        if picks[layout, rows[first]] == ASK or (second >= 0 and picks[layout, rows[second]] == ASK):
            asked = True
    return -held if asked else held


@jit
def _take(left: NDArray[np.bool_], rows: NDArray[np.int32], row: int) -> None:
    """A row that is on the page, or stands by, is nobody's runner-up."""
    low, high = 0, len(rows)
    while low < high:
        middle = (low + high) // 2
        if rows[middle] < row:
            low = middle + 1
        else:
            high = middle
    if low < len(rows) and rows[low] == row:
        left[low] = False
