"""Pages as columns out: places with their tags and stand-ins, one page or many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit
from serving.page_fill import (
    allowed,
    factor,
    fits,
    lift,
    put,
    shrunk,
)
from serving.page_state import (
    BASE,
    CAMPAIGN,
    CAND,
    CATEGORY,
    EACH,
    F4,
    F8,
    FILLED,
    FIRST,
    FIXED,
    FOLLOWING,
    I4,
    I8,
    ITEM_CAPPED,
    ITEM_ROOM,
    ITEMS,
    LENGTH,
    NONE,
    NUM,
    OFF,
    OFFER,
    OFFER_CAPPED,
    ONLY,
    ORGANIC,
    ORGANICALLY,
    RATE,
    SUITS,
    TOP,
    U1,
    USES,
    WHERE,
    WORTH,
    Input,
    suits,
)
from serving.page_tags import (
    factor_at,
    price,
)
from serving.page_whole import (
    best_page,
)


@jit
def spares(pi: I4, pf: F8, order: I4, mix: I4, ti: I8, tf: F8, item: I4, offer: I4) -> None:
    """For each capped place the best uncapped stand-in, distinct from all that stands or stands in."""
    used = np.zeros(pi[0, NUM, ITEMS], np.uint8)
    at = 0
    for s in range(len(pi)):
        for k in range(pi[s, NUM, FILLED]):
            i, o = pi[s, CAND, k], pi[s, OFFER, k]
            if ti[ITEM_CAPPED, i] or (o >= 0 and ti[OFFER_CAPPED, o]):
                each, fixed = pf[s, EACH, k], pi[s, FIXED, k]
                lift(pi, mix, ti, s, k)
                item[at], offer[at] = _stand_in(pi, pf, order, mix, ti, tf, s, i, used)
                put(pi, pf, mix, ti, s, k, i, o, each, fixed)
                if item[at] >= 0:
                    used[item[at]] = 1
            at += 1


@jit
def _stand_in(
    pi: I4, pf: F8, order: I4, mix: I4, ti: I8, tf: F8, s: int, own: int, used: U1
) -> tuple[int, int]:
    """An item and offer that need no reservation; limits of category and kind yield where they must."""
    for turn in range(2):
        best, by, most = -1, -1, -1e300
        for at in range(pi[s, NUM, LENGTH]):
            i = order[s, at]
            if best >= 0 and tf[TOP, i] <= most:
                break
            if mix[WHERE, i] >= 0 or used[i] or ti[ITEM_CAPPED, i]:
                continue
            if not fits(pi, mix, ti, s, i, turn == 0):
                continue
            o, each = _uncapped(pi, mix, ti, tf, i, s)
            worth = shrunk(each, factor(pf, mix, s, ti[CATEGORY, i]))
            if o != NONE and (worth > most or (worth == most and i == own)):
                best, by, most = i, o, worth
        if best >= 0:
            return best, by
    return -1, -1


@jit
def _uncapped(pi: I4, mix: I4, ti: I8, tf: F8, i: int, s: int) -> tuple[int, float]:
    """How an item is worth most in a slot without a reservation: offer, -1 or NONE; its worth."""
    best, worth = NONE, -1e300
    if pi[s, NUM, ONLY] < 0 and suits(ti[ORGANICALLY, i], s) and allowed(mix, ti, ITEM_ROOM, 2, i):
        best, worth = -1, tf[ORGANIC, i]
    o = ti[FIRST, i]
    while o >= 0:
        may = ti[OFFER_CAPPED, o] == 0 and not mix[OFF, o] and suits(ti[SUITS, o], s)
        may = may and (pi[s, NUM, ONLY] < 0 or pi[s, NUM, ONLY] == ti[CAMPAIGN, o])
        if may and tf[WORTH, o] > worth and allowed(mix, ti, USES, 8, o):
            best, worth = o, tf[WORTH, o]
        o = ti[FOLLOWING, o]
    return best, worth


@jit
def solve_one(given: Input, tags: bool) -> tuple[I4, F4, float]:
    """One page as (8, p) integers (slot, position, candidate, offer, rule, by, spare candidate, spare offer)
    and (4, p) numbers (value, base, factor with the rate, tag), and its worth."""
    state, worth = best_page(given)
    pi, pf, order, mix, ti, tf = state
    places = 0
    for s in range(len(pi)):
        places += pi[s, NUM, FILLED]
    whole, parts = np.full((8, places), -1, np.int32), np.zeros((4, places), np.float32)
    whole[4] = 0
    at = 0
    for s in range(len(pi)):
        for k in range(pi[s, NUM, FILLED]):
            i, o = pi[s, CAND, k], pi[s, OFFER, k]
            whole[0, at], whole[1, at], whole[2, at], whole[3, at] = s, k, i, o
            parts[0, at] = pf[s, EACH, k]
            parts[1, at] = tf[BASE, o] if o >= 0 else tf[ORGANIC, i]
            parts[2, at] = pf[s, RATE, k] * factor_at(pi, pf, mix, ti, s, k)
            at += 1
    if tags:
        price(pi, pf, order, mix, ti, tf, parts[3], whole[4], whole[5])
    spares(pi, pf, order, mix, ti, tf, whole[6], whole[7])
    return whole, parts, worth


@jit
def solve_each(
    given: Input, options: I8, offers: I8, rooms: I8, held: I8, tags: bool
) -> tuple[I8, I4, F4, NDArray[np.float64]]:
    """Many pages whose columns stand one after another between these bounds: where each page's places begin
    (B + 1), their columns as `solve_one` gives them, and the pages' worth (B,)."""
    pages = len(options) - 1
    most = 0
    for s in range(len(given.places)):
        most += given.places[s]
    whole, parts = np.empty((8, pages * most), np.int32), np.empty((4, pages * most), np.float32)
    at, worth = np.zeros(pages + 1, np.int64), np.zeros(pages, np.float64)
    for b in range(pages):
        one, other, worth[b] = solve_one(_page(given, options, offers, rooms, held, b), tags)
        at[b + 1] = at[b] + one.shape[1]
        whole[:, at[b] : at[b + 1]] = one
        parts[:, at[b] : at[b + 1]] = other
    return at, whole[:, : at[pages]].copy(), parts[:, : at[pages]].copy(), worth


@jit
def _page(given: Input, options: I8, offers: I8, rooms: I8, held: I8, b: int) -> Input:
    """The columns of one page of many."""
    i, j, o, q = options[b], options[b + 1], offers[b], offers[b + 1]
    return Input(
        given.bit, given.places, given.rates, given.origins, given.per_category, given.per_kind,
        given.diminish, given.cross, given.interruption, given.switching, given.kind_least, given.kind_most,
        given.members[i:j], given.origin[i:j], given.value[i:j], given.category[i:j], given.kind[i:j],
        given.item_room[i:j], given.item_capped[i:j],
        given.candidate[o:q], given.campaign[o:q], given.offer_slots[o:q], given.priced[o:q],
        given.base[o:q], given.band[o:q], given.pin_slot[o:q], given.pin[o:q], given.offer_room[o:q],
        given.offer_capped[o:q], given.roadblock[o:q], given.boost[o:q], given.promise[o:q],
        given.room[rooms[b] : rooms[b + 1]], given.limits[rooms[b] : rooms[b + 1]],
        given.held[held[b] : held[b + 1]],
    )  # fmt: skip
