"""Pages as columns out: places with their tags and stand-ins, one page or many."""

from __future__ import annotations

import numpy as np

from features.compiled import jit, loops, unlocked
from serving.page_fill import allowed, allowed_alone, factor, fits, lift, put, shrunk
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
    S_PLACES,
    SUITS,
    TOP,
    U1,
    WHERE,
    WORTH,
    Input,
    suits,
)
from serving.page_tags import base_worth, factor_at, note, rule_of, rules_on, without
from serving.page_whole import best_page


@jit
def spares(pi: I8, pf: F8, order: I8, mix: I8, ti: I8, tf: F8, never: U1, item: I4, offer: I4) -> None:
    """For each capped place the best uncapped stand-in, distinct from all that stands or stands in. `never`
    (m,) 1, or empty: offers that are none.
    """
    used = np.zeros(pi[0, NUM, ITEMS], np.uint8)
    at = 0
    for s in range(len(pi)):
        for k in range(pi[s, NUM, FILLED]):
            i, o = pi[s, CAND, k], pi[s, OFFER, k]
            if ti[ITEM_CAPPED, i] or (o >= 0 and ti[OFFER_CAPPED, o]):
                each, fixed = pf[s, EACH, k], pi[s, FIXED, k]
                lift(pi, mix, ti, s, k)
                item[at], offer[at] = _stand_in(pi, pf, order, mix, ti, tf, never, s, i, used)
                put(pi, pf, mix, ti, s, k, i, o, each)
                pi[s, FIXED, k] = fixed
                if item[at] >= 0:
                    used[item[at]] = 1
            at += 1


@loops
def _stand_in(
    pi: I8, pf: F8, order: I8, mix: I8, ti: I8, tf: F8, never: U1, s: int, own: int, used: U1
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
            o, each = _uncapped(pi, mix, ti, tf, never, i, s)
            worth = shrunk(each, factor(pf, mix, s, ti[CATEGORY, i]))
            if o != NONE and (worth > most or (worth == most and i == own)):
                best, by, most = i, o, worth
        if best >= 0:
            return best, by
    return -1, -1


@loops
def _uncapped(pi: I8, mix: I8, ti: I8, tf: F8, never: U1, i: int, s: int) -> tuple[int, float]:
    """How an item is worth most in a slot without a reservation: offer, -1 or NONE; its worth."""
    best, worth = NONE, -1e300
    if pi[s, NUM, ONLY] < 0 and suits(ti[ORGANICALLY, i], s) and allowed_alone(mix, ti, i):
        best, worth = -1, tf[ORGANIC, i]
    o = ti[FIRST, i]
    while o >= 0:
        may = ti[OFFER_CAPPED, o] == 0 and not mix[OFF, o] and suits(ti[SUITS, o], s)
        may = may and not (len(never) and never[o])
        may = may and (pi[s, NUM, ONLY] < 0 or pi[s, NUM, ONLY] == ti[CAMPAIGN, o])
        if may and tf[WORTH, o] > worth and allowed(mix, ti, o):
            best, worth = o, tf[WORTH, o]
        o = ti[FOLLOWING, o]
    return best, worth


@loops
def _columns(pi: I8, pf: F8, mix: I8, ti: I8, tf: F8, whole: I4, parts: F4, seen: F4) -> int:
    """Write the places, one after another, by the rows of `whole` and `parts`: how many they are."""
    at = 0
    for s in range(len(pi)):
        for k in range(pi[s, NUM, FILLED]):
            i, o = pi[s, CAND, k], pi[s, OFFER, k]
            whole[0, at], whole[1, at], whole[2, at], whole[3, at] = s, k, i, o
            whole[4, at] = rule_of(pi, ti, tf, s, k)
            whole[5, at] = ti[CAMPAIGN, o] if whole[4, at] else -1
            whole[6, at] = whole[7, at] = -1
            parts[0, at] = pf[s, EACH, k]
            parts[1, at] = tf[BASE, o] if o >= 0 else tf[ORGANIC, i]
            parts[2, at] = pf[s, RATE, k] * factor_at(pi, pf, mix, ti, s, k)
            parts[3, at], seen[at] = 0.0, pf[s, RATE, k]
            at += 1
    return at


@unlocked
def solve_each(given: Input, bounds: I8, tags: bool, never: U1) -> tuple[I8, I4, F4, F8, I4]:
    """Pages whose columns stand one after another.

    `bounds` (B + 1, 4): where each page's options, offers, counters and held places begin. `never` (m,) 1, or
    empty: offers that stand in nowhere. Out: where each
    page's places begin (B + 1); (8, p) slot, position, candidate, offer, rule, by, spare candidate, spare
    offer; (4, p) value, base, factor with the rate, tag; the pages' worth (B,); the options of each page, by
    what they can be worth at most.
    """
    pages, most = len(bounds) - 1, 0
    for s in range(len(given.slots)):
        most += given.slots[s, S_PLACES]
    whole, parts = np.empty((8, pages * most), np.int32), np.empty((4, pages * most), np.float32)
    at, worth, seen = np.zeros(pages + 1, np.int64), np.zeros(pages, np.float64), np.empty(most, np.float32)
    ranked = np.empty(len(given.value), np.int32)
    for b in range(pages):
        page = _page(given, bounds, b)
        trial, run, now = page, 0, 0.0
        rules = np.empty((0, 3), np.int64)
        low = high = at[b]
        while run <= len(rules):  # the page; then, for tags, the page without each of its rules
            state, value = best_page(trial)
            pi, pf, order, mix, ti, tf = state
            base = base_worth(pi, pf, mix, ti, tf) if tags else 0.0
            if run == 0:
                high = low + _columns(pi, pf, mix, ti, tf, whole[:, low:], parts[:, low:], seen)
                at[b + 1], worth[b], now = high, value, base
                ranked[bounds[b, 0] : bounds[b + 1, 0]] = order[len(pi)]
                if tags:
                    rules = rules_on(pi, pf, mix, ti, tf, whole[4, low:high], whole[5, low:high])
                not_these = never[bounds[b, 1] : bounds[b + 1, 1]] if len(never) else never
                spares(pi, pf, order, mix, ti, tf, not_these, whole[6, low:high], whole[7, low:high])
            else:
                code, who, noted = rules[run - 1]
                tag, rule, by = parts[3, low:high], whole[4, low:high], whole[5, low:high]
                note(base - now, code, who, noted, tag, rule, by, seen)
            if run < len(rules):
                trial = without(page, rules[run, 0], rules[run, 1])
            run += 1
    return at, whole[:, : at[pages]].copy(), parts[:, : at[pages]].copy(), worth, ranked


@jit
def _page(given: Input, bounds: I8, b: int) -> Input:
    """The columns of one page of many."""
    i, o, r, h = bounds[b]
    j, q, z, e = bounds[b + 1]
    return Input(
        given.slots,
        given.slots_f,
        given.options[i:j],
        given.value[i:j],
        given.offers[o:q],
        given.offers_f[o:q],
        given.room[r:z],
        given.limits[r:z],
        given.held[h:e],
    )
