"""A page in a few microseconds: places by falling display rate, each to what is worth most there.

`serving.page.solve` looks further and takes ten times as long; over a whole sample its answer is wanted for
sums alone. So the sums are taken from these pages, and corrected by what `solve_many` makes of some of them
(`training.booking_priced.corrected`). Roadblocks and the least places of a kind are left to the correction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import unlocked
from serving.page import HOUSE, MANDATORY, Batch

F8 = NDArray[np.float64]
F4 = NDArray[np.float32]
I8 = NDArray[np.int64]
I4 = NDArray[np.int32]
U8 = NDArray[np.uint64]
U1 = NDArray[np.uint8]


class Sums(NamedTuple):
    """Weighted; units are displays, clicks and conversions of tagged placements."""

    units: F8  # (3, C)
    value: F8  # (C,) base value of tagged placements, with interactions
    organic: F8  # (1,) base value of the others
    shown: F8  # (S,) displays of anything by slot of the page
    worth: F8  # (B,) the objective, unweighted


def quick_sums(
    batch: Batch,
    net: F4,
    p: F4,
    used: F4,
    weight: F8,
    campaigns: int,
    places: NDArray[np.int32] | None = None,
) -> Sums:
    """`net` (m,) offers at their prices. `places` (B, S, K), where given, is filled with the offer placed
    within the page, -1 organic, -2 none.
    """
    slots, options, offers = batch.slots, batch.options, batch.offers
    pages, (many, depth) = len(batch.option_at) - 1, slots.rates.shape
    sums = Sums(np.zeros((3, campaigns)), np.zeros(campaigns), np.zeros(1), np.zeros(many), np.zeros(pages))
    if places is None:
        places = np.zeros((0, many, depth), np.int32)
    flat = np.where(np.arange(depth) < slots.count[:, None], slots.rates, -1.0).ravel()
    order = np.argsort(-flat, kind="stable")[: int(slots.count.sum())].astype(np.int32)
    _fill(
        order, slots.bit, slots.count, slots.rates, slots.diminish, slots.cross, slots.interruption,
        slots.per_category, slots.per_kind, slots.kind_most, options.members, options.value, options.category,
        options.kind,
        options.room, batch.option_at, offers.candidate, offers.campaign, offers.slots, net, offers.base,
        offers.band, offers.pin_slot, offers.pin, offers.room, batch.offer_at, batch.room, batch.room_at,
        p, used, weight, *sums, places,
    )  # fmt: skip
    return sums


@unlocked
def _fill(
    order: I4, bit: U8, count: I4, rates: F4, diminish: F4, cross: F4, interruption: F4, per_category: I4,
    per_kind: I4,
    kind_most: U1, members: U8, value: F4, category: I4, kind: U1, option_room: I4, option_at: I8,
    candidate: I4, campaign: I4, offer_slots: U8, net: F4, base: F4, band: U1, pin_slot: I4, pin: I4,
    room: I4, offer_at: I8, room_left: I4, room_at: I8, p: F4, used: F4, weight: F8, units: F8, own: F8,
    organic: F8, shown: F8, worth: F8, places: I4,
) -> None:  # fmt: skip
    slots, depth = rates.shape
    widest, rooms = 1, 1
    for b in range(len(worth)):
        widest = max(widest, option_at[b + 1] - option_at[b])
        rooms = max(rooms, room_at[b + 1] - room_at[b])
    best, by = np.empty((slots, widest)), np.empty((slots, widest), np.int64)
    free, left = np.empty(widest, np.bool_), np.empty(rooms, np.int32)
    same, everywhere = np.empty((slots, widest + 1), np.int32), np.empty(widest + 1, np.int32)
    of_kind = np.empty((slots, kind_most.shape[1]), np.int32)
    at, what = np.empty((slots, depth), np.int32), np.empty((slots, depth), np.int64)
    house = False
    for o in range(len(band)):
        house = house or band[o] == HOUSE
    for b in range(len(worth)):
        first, n = option_at[b], option_at[b + 1] - option_at[b]
        low, high = offer_at[b], offer_at[b + 1]
        for s in range(slots):
            for i in range(n):
                there = (members[first + i] & bit[s]) != 0
                best[s, i] = value[first + i] if there else -np.inf
                by[s, i] = -1
                same[s, i] = 0
            same[s, n] = 0
            of_kind[s, :] = 0
            at[s, :] = -1
        free[:n] = True
        everywhere[: n + 1] = 0
        left[: room_at[b + 1] - room_at[b]] = room_left[room_at[b] : room_at[b + 1]]
        for o in range(low, high):
            if band[o] != 1 or pin_slot[o] >= 0:
                continue
            i = candidate[o]
            for s in range(slots):
                if (offer_slots[o] & bit[s]) != 0 and net[o] >= best[s, i]:
                    best[s, i], by[s, i] = net[o], o
        for o in range(low, high):  # what is placed by rule: mandatory, and pins at their place
            i = candidate[o]
            if not free[i] or (band[o] != MANDATORY and pin_slot[o] < 0) or not _room(o, room, left):
                continue
            if band[o] != MANDATORY and net[o] <= 0:
                continue
            for place in order:
                s = place // depth
                k = place - s * depth
                pinned = pin_slot[o] < 0 or (s == pin_slot[o] and k == pin[o])
                if pinned and at[s, k] < 0 and (offer_slots[o] & bit[s]) != 0:
                    at[s, k], what[s, k], free[i] = i, o, False
                    _use(o, room, left)
                    same[s, category[first + i]] += 1
                    everywhere[category[first + i]] += 1
                    of_kind[s, kind[first + i]] += 1
                    break
        for turn in range(2):
            for place in order:
                s = place // depth
                k = place - s * depth
                if at[s, k] >= 0:
                    continue
                if turn == 1 and house:
                    for o in range(low, high):
                        if band[o] == HOUSE and free[candidate[o]] and (offer_slots[o] & bit[s]) != 0:
                            i = candidate[o]
                            best[s, i] = max(best[s, i], net[o])
                            by[s, i] = o
                top, won = -np.inf, -1
                for i in range(n):
                    gain = best[s, i]
                    if gain <= top or not free[i]:
                        continue
                    c = category[first + i]
                    if c > 0 and everywhere[c] > 0:
                        if turn == 0 and same[s, c] >= per_category[s]:
                            continue
                        if gain > 0:
                            gain *= diminish[s] ** same[s, c] * cross[s] ** (everywhere[c] - same[s, c])
                    held = of_kind[s, kind[first + i]]
                    if gain <= top or held >= kind_most[s, kind[first + i]]:
                        continue
                    if turn == 0 and held >= per_kind[s]:
                        continue
                    o = by[s, i]
                    if o >= 0 and not _room(o, room, left):
                        there = (members[first + i] & bit[s]) != 0
                        best[s, i], by[s, i] = (value[first + i] if there else -np.inf), -1
                        if best[s, i] <= top:
                            continue
                        gain, o = best[s, i], -1
                    if o < 0 and not _option_room(first + i, option_room, left):
                        continue
                    top, won = gain, i
                if won < 0:
                    continue
                o = by[s, won]
                at[s, k], what[s, k], free[won] = won, o, False
                if o >= 0:
                    _use(o, room, left)
                if option_room[first + won, 0] >= 0:
                    left[option_room[first + won, 0]] -= 1
                c = category[first + won]
                same[s, c] += 1
                everywhere[c] += 1
                of_kind[s, kind[first + won]] += 1
        total = 0.0
        for s in range(slots):
            whole = 0.0
            for turn in range(2):  # first what the slot is worth, then, if it is worth showing, its sums
                same[s, : n + 1] = 0
                for k in range(count[s]):
                    i = at[s, k]
                    if i < 0:
                        continue
                    c = category[first + i]
                    shrink = 1.0
                    if c > 0:
                        shrink = diminish[s] ** same[s, c]
                        same[s, c] += 1
                    o = what[s, k]
                    gain = net[o] if o >= 0 else value[first + i]
                    if turn == 0:
                        whole += rates[s, k] * (gain * shrink if gain > 0 else gain)
                        continue
                    worthy = base[o] if o >= 0 else value[first + i]
                    share = weight[b] * rates[s, k] * (worthy * shrink if worthy > 0 else worthy)
                    seen = weight[b] * rates[s, k]
                    shown[s] += seen
                    if o < 0:
                        organic[0] += share
                        continue
                    c = campaign[o]
                    own[c] += share
                    units[0, c] += seen
                    units[1, c] += seen * p[o]
                    units[2, c] += seen * used[o]
                if turn == 0:
                    if interruption[s] > 0 and whole <= interruption[s]:
                        break
                    total += whole - interruption[s] * (whole != 0)
            if b < len(places):
                for k in range(depth):
                    places[b, s, k] = -2 if at[s, k] < 0 else what[s, k] - low if what[s, k] >= 0 else -1
        worth[b] = total


@unlocked
def _room(o: int, room: I4, left: I4) -> bool:
    full = False
    for r in range(room.shape[1]):
        full = full or (room[o, r] >= 0 and left[room[o, r]] <= 0)
    return not full


@unlocked
def _option_room(i: int, room: I4, left: I4) -> bool:
    return not ((room[i, 0] >= 0 and left[room[i, 0]] <= 0) or (room[i, 1] >= 0 and left[room[i, 1]] <= 0))


@unlocked
def _use(o: int, room: I4, left: I4) -> None:
    for r in range(room.shape[1]):
        if room[o, r] >= 0:
            left[room[o, r]] -= 1
