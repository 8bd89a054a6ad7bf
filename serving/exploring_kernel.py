"""The loop of exploration: runners-up, draws and what stands at the drawn places, of a whole page at once.

Places come in page order; each takes the two best candidates left of its winner's kind that its slot may
hold freely, so what one place takes is nobody else's. Ties go to the lower row. The draw is by 53 bits of a
hash of the decision's bits and the place, the one that divides units of experiments.

The allocation has ranked the candidates already. Lists by kind made in its order are all but sorted, and are
made no further than places ask: they ask of the first few only what the slot may hold.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import loops
from serving.page_state import I_CAPPED, I_KIND, I_MEMBERS, I_ROOM, O_CANDIDATE
from serving.seats import BASE, CAMPAIGN, CAPPED, RESERVES, ROW, RULED, VALUE
from serving.splitting_kernel import part as part_of

RUNNERS: Final = 2  # of a place
NOTHING: Final = -2  # instead of a creative: nothing of the row can ever be rendered in the layout
ASK: Final = -3  # not known yet, or not the same at all times
HOPE: Final = (
    2.0  # deviations by which the second runner-up may be better than thought, where new ones are tried
)
LEAST: Final = 1e-3  # a chance below this is not worth a lottery: its weight would be a thousand

# Of a slot; P(displayed | slot, position) from SHOWN on.
BIT, EXPLORE, NEW, BUDGET, LAYOUT, RESERVED_WHOLE, SHOWN = range(7)
# Of a place: its runners-up among the candidates, −1 none; which was drawn; the chance of the first and of
# the second, 0 without a lottery; that of what stands there. Then of the drawn places, one after another: the
# place, and what now stands there. Then of places where a creative is drawn, one after another: the creative
# and the place as one number (the first times the places, and the second), its choice
# (serving.creatives_kernel; −1 unknown), and which of it.
FIRST, SECOND, TURN, CHANCE, OTHER, PROPENSITY = range(6)
PLACE, NOW_ROW, NOW_ORIGIN, NOW_CREATIVE, NOW_SCORE, NOW_VALUE, NOW_TAG = range(6, 13)
DRAW_SEAT, DRAW_CHOICE, DRAW_TURN = range(13, 16)
TOLD: Final = 16

LISTS: Final = 256  # one for each kind
_UNASKED: Final = -1  # the end of a list that no place asks for
_MORE: Final = -2  # instead of a candidate
_TAKEN, _OFFERED = 1, 2  # of a candidate: it is nobody's runner-up; a campaign has it
CHUNK: Final = 24  # candidates listed at once
# Rows of scratch: of candidates by _TAKEN …; of lists; from there on lists by value, then by
# hope.
_GONE, _END, _HEAD, _HOPEFUL, _LISTED = range(5)
SCRATCH: Final = _LISTED + 2 * LISTS


@loops
def hold(
    rows: NDArray[np.int32],
    value: NDArray[np.float32],
    options: NDArray[np.int64],
    score: NDArray[np.float32],
    origin: NDArray[np.uint32],
    items: NDArray[Any],
    slot_of: NDArray[np.int32],
    candidate: NDArray[np.int32],
    whole: NDArray[np.int64],
    parts: NDArray[np.float64],
    ranked: NDArray[np.int32],
    spares: NDArray[np.int32],
    offered: NDArray[np.int64],
    slots: NDArray[np.float64],
    banned: NDArray[np.bool_],
    bits: int,
    salts: NDArray[np.uint64],
    scratch: NDArray[np.int32],
    told: NDArray[np.float64],
) -> tuple[int, int]:
    """How many lotteries are held and how many of them drew a runner-up; the first is less than 0 where of a
    runner-up it is to be asked first whether it can be rendered.

    `rows` … `origin` are the n candidates', rows ascending; `items` (rows,) LOTTERY_ITEM of the whole
    catalogue. `slot_of` … `ranked`: serving.seats.Grid, of p places; `spares`: rows that stand by; `offered`:
    the market's offers. `slots` (s, SHOWN + k) by BIT … (the number of the bit; RESERVED_WHOLE: whatever
    stands there needs a reservation, drawn or not). `banned` (s, n): what a slot may not hold; (0, 0):
    nothing. `bits`: 64 random bits, signed. `scratch`: (SCRATCH, at least n and LISTS).

    Fills `told` (TOLD, p) by FIRST …
    """
    gone, end, head, hopeful = scratch[_GONE], scratch[_END], scratch[_HEAD], scratch[_HOPEFUL]
    listed, hoped = scratch[_LISTED : _LISTED + LISTS], scratch[_LISTED + LISTS :]
    lists = _asked_for(items, slot_of, whole, slots, end)
    _place(rows, candidate, spares, offered, gone)
    news, n = 0.0, len(ranked)
    pulled, bound = 0, np.float32(np.inf)
    for slot in range(len(slots)):
        news += slots[slot, NEW]
    if news > 0:
        pulled, bound = _pull(value, options, ranked, gone, lists, listed, end, 0, n)
        _by_hope(rows, value, items, lists, listed, end, hoped)
    held, turned, asked, position, before = 0, 0, False, 0, -1
    for at in range(len(slot_of)):
        slot = slot_of[at]
        position += 1
        if slot != before:
            before, position = slot, 0
            for one in range(lists):
                head[one] = hopeful[one] = 0
        told[FIRST, at] = told[SECOND, at] = -1
        told[TURN, at], told[CHANCE, at], told[OTHER, at], told[PROPENSITY, at] = 0, 0.0, 0.0, 1.0
        if not _holds(slot, at, whole, slots):
            continue
        explore, new, budget = slots[slot, EXPLORE], slots[slot, NEW], slots[slot, BUDGET]
        bit, layout = np.uint64(slots[slot, BIT]), int(slots[slot, LAYOUT])
        kind = int(items[whole[ROW, at]].kind)
        one, after = _next(
            listed[kind], head[kind], end[kind], bound, value, gone, rows, items, bit, layout, banned, slot
        )
        while one == _MORE:
            pulled, bound = _pull(value, options, ranked, gone, lists, listed, end, pulled, pulled + CHUNK)
            one, after = _next(
                listed[kind], after, end[kind], bound, value, gone, rows, items, bit, layout, banned, slot
            )
        if one < 0:
            continue
        gone[one] |= _TAKEN
        if new > 0:  # the second: what may be the best after all
            two, beyond = _next(
                hoped[kind], hopeful[kind], end[kind], bound, value, gone, rows, items, bit, layout, banned,
                slot,
            )  # fmt: skip
        else:
            two, beyond = _MORE, after
            while two == _MORE:
                two, beyond = _next(
                    listed[kind], beyond, end[kind], bound, value, gone, rows, items, bit, layout, banned,
                    slot,
                )  # fmt: skip
                if two == _MORE:
                    pulled, bound = _pull(
                        value, options, ranked, gone, lists, listed, end, pulled, pulled + CHUNK
                    )
        gone[one] &= ~_TAKEN
        best, second = one, two
        total, count = value[one], 1  # of 32 bits, as the values are: logged chances depend on it
        if two >= 0:
            total += value[two]
            count = 2
        own = parts[VALUE, at]
        part, loss = explore, own - total / count
        if loss > 0 and budget < 1:
            part = min(part, max(0.0, budget * own / loss))
        each = other = every = part / count
        if new > 0:
            winner = items[whole[ROW, at]].unsure
            each = tried(own, winner, value[one], items[rows[one]].unsure, each, new / count)
            other = (
                tried(own, winner, value[two], items[rows[two]].unsure, other, new / count)
                if count > 1
                else 0.0
            )
            less = afforded(own, value[one], value[two], each, other, budget)
            each, other = each * less, other * less
            if other < LEAST:
                two, other, count = -1, 0.0, 1
            if each < LEAST:
                one, two, each, other, count = two, -1, other, 0.0, 1
        if each < LEAST:  # no lottery: both are left for other places
            continue
        gone[one] |= _TAKEN
        if two >= 0:
            gone[two] |= _TAKEN
        if gone[best] & _TAKEN:
            head[kind] = after
            if second < 0 or gone[second] & _TAKEN:
                if new > 0:
                    hopeful[kind] = beyond
                else:
                    head[kind] = beyond
        every = each * count if each == other or count == 1 else each + other
        told[FIRST, at], told[SECOND, at] = one, two
        told[CHANCE, at], told[OTHER, at] = each, other if count > 1 else 0.0
        u = part_of(np.uint64(bits) ^ salts[at]) - (1.0 - every)
        held += 1
        asked |= items[rows[one]].picks[layout] == ASK or (two >= 0 and items[rows[two]].picks[layout] == ASK)
        if u < 0:
            told[PROPENSITY, at] = 1.0 - every
            continue
        turn = 2 if u >= each and count > 1 else 1
        now = two if turn == 2 else one
        told[TURN, at], told[PROPENSITY, at] = turn, other if turn == 2 else each
        told[PLACE, turned], told[NOW_ROW, turned] = at, rows[now]
        told[NOW_ORIGIN, turned], told[NOW_CREATIVE, turned] = origin[now], items[rows[now]].picks[layout]
        told[NOW_SCORE, turned], told[NOW_VALUE, turned] = score[now], value[now]
        lost = parts[BASE, at] - np.float64(value[now])
        told[NOW_TAG, turned] = lost * slots[slot, SHOWN + position]
        turned += 1
    return (-held if asked else held), turned


@loops
def _next(
    listed: NDArray[np.int32],
    begun: int,
    end: int,
    bound: np.float32,
    value: NDArray[np.float32],
    gone: NDArray[np.int32],
    rows: NDArray[np.int32],
    items: NDArray[Any],
    bit: np.uint64,
    layout: int,
    banned: NDArray[np.bool_],
    slot: int,
) -> tuple[int, int]:
    """The first of a list that is left and that the slot may hold, −1 none, _MORE where more is to be listed
    first; and where to go on. What is not listed yet is worth `bound` at most; −inf: all is."""
    for j in range(begun, end):
        i = listed[j]
        if not value[i] > bound:
            return _MORE, j
        item = items[rows[i]]
        if gone[i] & _TAKEN or (item.members >> bit) & np.uint64(1) == 0 or item.picks[layout] == NOTHING:
            continue
        if len(banned) and banned[slot, i]:
            continue
        return i, j + 1
    return (-1 if bound == -np.inf else _MORE), end


@loops
def tried(own: float, unsure: float, worth: float, doubt: float, least: float, most: float) -> float:
    """How often a runner-up is shown in the winner's place: as often as a draw of both would put it first,
    from `least` to `most`; `least` where the model's word is taken for both.

    `own`, `worth`: CNY per display of the winner and the runner-up; `unsure`, `doubt`: their relative
    deviations. Both are taken as normal.
    """
    spread = math.hypot(own * np.float64(unsure), np.float64(worth) * np.float64(doubt))
    if not spread > 0:
        return least
    return max(least, min(0.5 * math.erfc((own - worth) / (spread * math.sqrt(2.0))), most))


@loops
def afforded(own: float, one: float, two: float, each: float, other: float, budget: float) -> float:
    """The part of the chances whose expected cost stays within the budget, a part of the winner's worth."""
    loss = each * (own - one) + (other * (own - two) if other > 0 else 0.0)
    if budget < 1 and loss > budget * own:
        return max(0.0, budget * own / loss)
    return 1.0


@loops
def _holds(slot: int, at: int, whole: NDArray[np.int64], slots: NDArray[np.float64]) -> bool:
    """Whether a place may have a lottery: no campaign, rule or reservation of its own is behind it."""
    behind = whole[CAPPED, at]
    if slots[slot, EXPLORE] + slots[slot, NEW] <= 0 or whole[CAMPAIGN, at] >= 0 or behind & RULED:
        return False
    return bool(behind & RESERVES == 0 or slots[slot, RESERVED_WHOLE] != 0)


@loops
def _asked_for(
    items: NDArray[Any],
    slot_of: NDArray[np.int32],
    whole: NDArray[np.int64],
    slots: NDArray[np.float64],
    end: NDArray[np.int32],
) -> int:
    """Begin the lists of kinds that places have lotteries over; how many lists there are, with the others."""
    lists = 0
    for at in range(len(slot_of)):
        if not _holds(slot_of[at], at, whole, slots):
            continue
        kind = int(items[whole[ROW, at]].kind)
        while lists <= kind:
            end[lists] = _UNASKED
            lists += 1
        end[kind] = 0
    return lists


@loops
def _place(
    rows: NDArray[np.int32],
    candidate: NDArray[np.int32],
    spares: NDArray[np.int32],
    offered: NDArray[np.int64],
    gone: NDArray[np.int32],
) -> None:
    """Mark in `gone` the candidates that are on the page or stand by, and those that campaigns have."""
    n = len(rows)
    gone[:n] = 0
    for o in range(len(offered)):
        gone[offered[o, O_CANDIDATE]] = _OFFERED
    for at in range(len(candidate)):
        if candidate[at] >= 0:
            gone[candidate[at]] |= _TAKEN
    for row in spares:
        i = np.searchsorted(rows, row)
        if i < n and rows[i] == row:
            gone[i] |= _TAKEN


@loops
def _pull(
    value: NDArray[np.float32],
    options: NDArray[np.int64],
    ranked: NDArray[np.int32],
    gone: NDArray[np.int32],
    lists: int,
    listed: NDArray[np.int32],
    end: NDArray[np.int32],
    begin: int,
    until: int,
) -> tuple[int, np.float32]:
    """The candidates from `begin` of `ranked` on into the lists of kinds asked for, by descending value, then
    by row: but what a limit counts, is worth nothing or is taken. Up to where, and what those behind can be
    worth at most.

    `ranked` is in that order but for what a campaign makes worth more than its value: few places to go back,
    and what no campaign has bounds all behind it.
    """
    bound, until = np.float32(np.inf), min(until, len(ranked))
    for at in range(begin, until):
        i = ranked[at]
        if not gone[i] & _OFFERED and np.isfinite(value[i]):
            bound = value[i]
        kind = options[i, I_KIND]
        if kind >= lists or end[kind] == _UNASKED or gone[i] & _TAKEN or not value[i] > 0:
            continue
        if options[i, I_CAPPED] != 0 or options[i, I_ROOM] >= 0 or options[i, I_ROOM + 1] >= 0:
            continue
        if not options[i, I_MEMBERS]:  # only a campaign proposed it that this customer is held out from
            continue
        q = end[kind]
        end[kind] += 1
        while q > 0 and (
            value[listed[kind, q - 1]] < value[i]
            or (value[listed[kind, q - 1]] == value[i] and listed[kind, q - 1] > i)
        ):
            listed[kind, q] = listed[kind, q - 1]
            q -= 1
        listed[kind, q] = i
    if until == len(ranked):
        bound = np.float32(-np.inf)
    return until, bound


@loops
def _by_hope(
    rows: NDArray[np.int32],
    value: NDArray[np.float32],
    items: NDArray[Any],
    lists: int,
    listed: NDArray[np.int32],
    end: NDArray[np.int32],
    hoped: NDArray[np.int32],
) -> None:
    """The same lists by what each may be worth after all; what is equal stays in its order."""
    for one in range(lists):
        for j in range(end[one]):
            i, q = listed[one, j], j
            hope = value[i] * (1 + HOPE * items[rows[i]].unsure)
            while q > 0:
                other = hoped[one, q - 1]
                if value[other] * (1 + HOPE * items[rows[other]].unsure) >= hope:
                    break
                hoped[one, q] = other
                q -= 1
            hoped[one, q] = i
