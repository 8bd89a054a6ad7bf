"""The loop of exploration: runners-up, draws and what stands at the drawn places, of a whole page at once.

Places come in page order; each takes the two best candidates left of its winner's kind that its slot may
hold freely, so what one place takes is nobody else's. Ties go to the lower row. The draw is by 53 bits of a
hash of the decision's bits and the place, the one that divides units of experiments.

Written without branches on what differs from page to page: a wrongly predicted one costs more than a dozen
sums. All places of a slot and kind ask the same of a candidate, so whoever may stand there is found once, as
one whole number whose order is that of the values, then of the rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit
from serving.seats import BASE, CAMPAIGN, CAPPED, RESERVES, ROW, RULED, VALUE
from serving.splitting_kernel import part as part_of

RUNNERS: Final = 2  # of a place
NOTHING: Final = -2  # instead of a creative: nothing of the row can ever be rendered in the layout
ASK: Final = -3  # not known yet, or not the same at all times
LEAST: Final = 1e-3  # a chance below this is not worth a lottery: its weight would be a thousand

BIT, EXPLORE, BUDGET, LAYOUT, RESERVED_WHOLE = range(5)  # of a slot
# Of a place: its runners-up among the candidates, −1 none; which was drawn. Then of the drawn places, one
# after another: the place, and the row, origin and creative that now stand there.
FIRST, SECOND, TURN, PLACE, NOW_ROW, NOW_ORIGIN, NOW_CREATIVE = range(7)
# Of a place: the chance of each runner-up, 0 without a lottery; that of what stands there. Then of the drawn
# places: score, value and tag of what now stands there.
CHANCE, PROPENSITY, NOW_SCORE, NOW_VALUE, NOW_TAG = range(5)
_LOW: Final = 0xFFFFFFFF


@jit
def hold(
    rows: NDArray[np.int32],
    value: NDArray[np.float32],
    capped: NDArray[np.uint8],
    room: NDArray[np.int32],
    score: NDArray[np.float32],
    origin: NDArray[np.uint32],
    kinds: NDArray[np.uint8],
    members: NDArray[np.uint64],
    picks: NDArray[np.int16],
    slot_of: NDArray[np.int32],
    candidate: NDArray[np.int32],
    whole: NDArray[np.int64],
    parts: NDArray[np.float64],
    spares: NDArray[np.int32],
    slots: NDArray[np.float64],
    shown: NDArray[np.float64],
    banned: NDArray[np.bool_],
    bits: np.uint64,
    salts: NDArray[np.uint64],
    lots: NDArray[np.int64],
    chances: NDArray[np.float64],
) -> tuple[int, int]:
    """How many lotteries are held and how many of them drew a runner-up; the first is less than 0 where of a
    runner-up it is to be asked first whether it can be rendered.

    `rows` … `origin` are the candidates', rows ascending; `kinds`, `members` and `picks` (layouts, rows) are
    of the whole catalogue. `slot_of` … `parts`: serving.seats.Grid; `spares`: rows that stand by. `slots`
    (s, 5) by BIT … (the number of the bit; RESERVED_WHOLE: whatever stands there needs a reservation, drawn
    or not); `shown` (s, k) P(displayed | slot, position). `banned` (s, n): what a slot may not hold; (0, 0):
    nothing.

    Fills `lots` (7, p) by FIRST … and `chances` (5, p) by CHANCE …
    """
    n, p = len(rows), len(slot_of)
    left = np.empty(n, np.bool_)
    for i in range(n):
        free = (capped[i] == 0) & (value[i] > 0)
        for k in range(room.shape[1]):
            free &= room[i, k] < 0
        left[i] = free
    for at in range(p):  # what is on the page, or stands by, is nobody's runner-up
        if candidate[at] >= 0:
            left[candidate[at]] = False
    for row in spares:
        i = np.searchsorted(rows, row)
        if i < n and rows[i] == row:
            left[i] = False
    begins = np.zeros(258, np.int64)  # the free candidates by kind, each in the order of rows
    for i in range(n):
        begins[int(kinds[rows[i]]) + 2] += left[i]
    for kind in range(1, 257):
        begins[kind + 1] += begins[kind]
    order = np.empty(n + 1, np.int64)  # the last is where what is not free goes
    for i in range(n):
        kind = int(kinds[rows[i]]) + 1
        order[begins[kind] if left[i] else n] = i
        begins[kind] += left[i]
    raw, best, who = value.view(np.int32), np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    of, ends = np.full(256, -1, np.int32), np.empty(256, np.int64)  # the slot that best[begins:ends] is for
    held, turned, asked, position, before = 0, 0, False, 0, -1
    for at in range(p):
        slot = slot_of[at]
        position = position + 1 if slot == before else 0
        before = slot
        lots[FIRST, at] = lots[SECOND, at] = -1
        lots[TURN, at] = 0
        chances[CHANCE, at], chances[PROPENSITY, at] = 0.0, 1.0
        explore, budget = slots[slot, EXPLORE], slots[slot, BUDGET]
        behind = whole[CAPPED, at]
        if explore <= 0 or whole[CAMPAIGN, at] >= 0 or behind & RULED:
            continue
        if behind & RESERVES and slots[slot, RESERVED_WHOLE] == 0:
            continue
        layout = int(slots[slot, LAYOUT])
        kind = int(kinds[whole[ROW, at]])
        begin = begins[kind]
        if of[kind] != slot:
            of[kind] = slot
            bit, end = np.uint64(slots[slot, BIT]), begin
            for j in range(begin, begins[kind + 1]):
                i = order[j]
                row = rows[i]
                good = left[i] & (picks[layout, row] != NOTHING) & ((members[row] >> bit) & np.uint64(1) != 0)
                if len(banned):
                    good &= not banned[slot, i]
                best[end], who[end] = (np.int64(raw[i]) << 32) | (_LOW - end), i
                end += good
            ends[kind] = end
        first = second = np.int64(-1)
        for j in range(begin, ends[kind]):
            second = max(second, min(first, best[j]))
            first = max(first, best[j])
        if first < 0:
            continue
        one, two = int(who[_LOW - (first & _LOW)]), -1
        best[_LOW - (first & _LOW)] = -1
        left[one] = False
        total, count = value[one], 1  # of 32 bits, as the values are: logged chances depend on it
        if second >= 0:
            two = int(who[_LOW - (second & _LOW)])
            best[_LOW - (second & _LOW)] = -1
            left[two] = False
            total += value[two]
            count = 2
        own = parts[VALUE, at]
        part, loss = explore, own - total / count
        if loss > 0 and budget < 1:
            part = min(part, max(0.0, budget * own / loss))
        chance = part / count
        if chance < LEAST:
            continue
        lots[FIRST, at], lots[SECOND, at], chances[CHANCE, at] = one, two, chance
        u = part_of(bits ^ salts[at]) - (1.0 - chance * count)
        held += 1
        asked |= picks[layout, rows[one]] == ASK or (two >= 0 and picks[layout, rows[two]] == ASK)
        turn = int(u >= 0) + int((u >= chance) & (count > 1))
        lots[TURN, at] = turn
        chances[PROPENSITY, at] = chance if turn else 1.0 - chance * count
        now = two if turn == 2 else one
        lots[PLACE, turned], lots[NOW_ROW, turned] = at, rows[now]
        lots[NOW_ORIGIN, turned], lots[NOW_CREATIVE, turned] = origin[now], picks[layout, rows[now]]
        chances[NOW_SCORE, turned], chances[NOW_VALUE, turned] = score[now], value[now]
        chances[NOW_TAG, turned] = (parts[BASE, at] - np.float64(value[now])) * shown[slot, position]
        turned += turn > 0
    return (-held if asked else held), turned
