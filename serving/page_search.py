"""From the filled page to a better one: rounds of moves, replacements, positions, and who holds a counter.

Every accepted step raises the page's exact worth (estimates only decide what is tried), so the search ends,
and never below the page that it began with.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from features.compiled import loops
from serving.page_counters import pass_on, retag
from serving.page_fill import (
    allowed,
    allowed_alone,
    fits,
    lend,
    lift,
    page_worth,
    put,
    slot_worth,
    variant,
)
from serving.page_moves import (
    FEW,
    M_AT,
    M_BANNED,
    M_BY,
    M_CATEGORY,
    M_GAIN,
    M_ITEM,
    M_PATH,
    M_RATE,
    M_SLOT,
    M_SOURCE,
    M_STANDS,
    M_TARGET,
    M_WON,
    cycle,
    list_moves,
    outsiders,
)
from serving.page_state import (
    CAND,
    EACH,
    F8,
    FILLED,
    FIXED,
    FREE,
    I8,
    ITEMS,
    LEAST,
    NONE,
    NUM,
    OFFER,
    ONLY,
    ORGANIC,
    STABLE,
    WHERE,
    WORTH,
    number,
    suits,
)
from serving.page_steps import SURE, breaches, keep, settle

TRIES: Final = 24
TURNS: Final = 2
EVERY: Final = -1  # bits of all slots
SMALL: Final = 3e-4  # of the page: a smaller gain is not looked for, but on pages of FEW places


@loops
def _turn_round(
    pi: I8,
    pf: F8,
    mix: I8,
    ti: I8,
    tf: F8,
    ki: I8,
    kf: F8,
    mi: I8,
    length: int,
    places: int,
    worth: float,
) -> float:
    """Make the moves in `path`: the new worth, or the old one, undone."""
    touched, slack = number(0), number(0)
    for e in range(length):
        p = mi[M_SOURCE, mi[M_PATH, e]]
        if p < places and not suits(touched, mi[M_SLOT, p]):
            touched |= 1 << mi[M_SLOT, p]
            keep(pi, pf, ki, kf, mi[M_SLOT, p])
            slack += breaches(pi, mix, ti, mi[M_SLOT, p]) if places <= FEW else 0
    for e in range(length):
        p = mi[M_SOURCE, mi[M_PATH, e]]
        if p < places and mi[M_STANDS, p] >= 0:
            lift(pi, mix, ti, mi[M_SLOT, p], mi[M_AT, p])
    done = length > 0
    for e in range(length):
        q, i = mi[M_TARGET, mi[M_PATH, e]], mi[M_ITEM, mi[M_PATH, e]]
        if q < places and i >= 0 and done:
            s, by = mi[M_SLOT, q], mi[M_BY, mi[M_PATH, e]]
            done = mix[WHERE, i] < 0 and _seat(pi, pf, mix, ti, tf, s, mi[M_AT, q], i, by, places > FEW)
    for e in range(length if done else 0):
        q, i = mi[M_TARGET, mi[M_PATH, e]], mi[M_ITEM, mi[M_PATH, e]]
        if q < places and i >= 0:
            _better(pi, pf, mix, ti, tf, mi[M_SLOT, q], mi[M_AT, q], i)
    for s in range(len(pi) if done and places <= FEW else 0):
        slack -= breaches(pi, mix, ti, s) if suits(touched, s) else 0
    return settle(pi, pf, mix, ti, ki, kf, touched, done and slack >= 0, worth)


@loops
def _seat(pi: I8, pf: F8, mix: I8, ti: I8, tf: F8, s: int, k: int, i: int, by: int, strict: bool) -> bool:
    """Place an item by the offer that a move counts on, else by the best that is left."""
    if not fits(pi, mix, ti, s, i, strict):
        return False
    o, each = by, LEAST
    if pi[s, NUM, ONLY] >= 0 or not (allowed(mix, ti, o) if o >= 0 else allowed_alone(mix, ti, i)):
        o, each = variant(pi, mix, ti, tf, i, s, False)
    else:
        each = tf[WORTH, o] if o >= 0 else tf[ORGANIC, i]
    if o == NONE:
        return False
    put(pi, pf, mix, ti, s, k, i, o, each)
    return True


@loops
def _better(pi: I8, pf: F8, mix: I8, ti: I8, tf: F8, s: int, k: int, i: int) -> None:
    """Show an item by a better offer, if its counters have room now."""
    o, each = variant(pi, mix, ti, tf, i, s, False)
    if o != NONE and each > pf[s, EACH, k]:
        lift(pi, mix, ti, s, k)
        put(pi, pf, mix, ti, s, k, i, o, each)


@loops
def _ban(mi: I8, mf: F8, length: int, places: int, found: int) -> int:
    """Do not try the first move of a round into a slot again: the slot's bit. The other moves stay listed."""
    if places <= FEW:  # this move alone: in another round it may win yet
        mf[M_WON, mi[M_PATH, 0]] = LEAST
        e = mi[M_PATH, 0]
        if mi[M_SOURCE, e] < places or mi[M_TARGET, e] >= places:
            return 0
    for at in range(length):
        e = mi[M_PATH, at]
        if mi[M_TARGET, e] < places and mi[M_ITEM, e] >= 0:
            s, i = mi[M_SLOT, mi[M_TARGET, e]], mi[M_ITEM, e]
            mi[M_BANNED, i] |= np.int64(1) << np.int64(s)
            for move in range(found):
                q = mi[M_TARGET, move]
                if mi[M_ITEM, move] == i and q < places and mi[M_SLOT, q] == s:
                    mf[M_WON, move] = LEAST
            return int(np.int64(1) << np.int64(s))
    return 0


@loops
def _reorder(pi: I8, pf: F8, mix: I8, ti: I8, s: int, worth: float) -> float:
    """In a stable slot: exchange positions where that is worth the switching."""
    old = slot_worth(pi, pf, mix, ti, s)
    for a in range(pi[s, NUM, FILLED]):
        for b in range(a + 1, pi[s, NUM, FILLED]):
            if pi[s, FIXED, a] != FREE or pi[s, FIXED, b] != FREE:
                continue
            _turn(pi, pf, s, a, b)
            new = slot_worth(pi, pf, mix, ti, s)
            if new > old + SURE:
                worth += new - old
                old = new
            else:
                _turn(pi, pf, s, a, b)
    slot_worth(pi, pf, mix, ti, s)
    return worth


@loops
def _turn(pi: I8, pf: F8, s: int, a: int, b: int) -> None:
    cand, offer, each = pi[s, CAND], pi[s, OFFER], pf[s, EACH]
    cand[a], cand[b] = cand[b], cand[a]
    offer[a], offer[b] = offer[b], offer[a]
    each[a], each[b] = each[b], each[a]


@loops
def _exchange(
    pi: I8,
    pf: F8,
    mix: I8,
    ti: I8,
    tf: F8,
    ki: I8,
    kf: F8,
    mi: I8,
    mf: F8,
    places: int,
    found: int,
    worth: float,
) -> float:
    """Let two items of a category in two slots change places: the new worth, or the old one. All others of
    the category lose by the one what they win by the other, which moves judged one by one do not see.
    """
    mi[M_PATH, 0], mi[M_PATH, 1] = found, found + 1
    for p in range(places):
        c = mi[M_CATEGORY, p]
        for q in range(p + 1, places if c > 0 else 0):
            s, t = mi[M_SLOT, p], mi[M_SLOT, q]
            if mi[M_CATEGORY, q] != c or s == t or pi[s, NUM, ONLY] >= 0 or pi[t, NUM, ONLY] >= 0:
                continue
            i, j, k, at = mi[M_STANDS, p], mi[M_STANDS, q], mi[M_AT, p], mi[M_AT, q]
            lend(mix, ti, i, pi[s, OFFER, k], number(1))
            lend(mix, ti, j, pi[t, OFFER, at], number(1))
            mi[M_BY, found], there = variant(pi, mix, ti, tf, i, t, False)
            mi[M_BY, found + 1], here = variant(pi, mix, ti, tf, j, s, False)
            lend(mix, ti, i, pi[s, OFFER, k], number(-1))
            lend(mix, ti, j, pi[t, OFFER, at], number(-1))
            if pf[s, EACH, k] <= 0 or pf[t, EACH, at] <= 0 or there <= 0 or here <= 0:
                continue
            won = mf[M_RATE, p] * mf[M_GAIN, p] * (here / pf[s, EACH, k] - 1)
            won += mf[M_RATE, q] * mf[M_GAIN, q] * (there / pf[t, EACH, at] - 1)
            if won <= SURE:
                continue
            mi[M_SOURCE, found], mi[M_TARGET, found], mi[M_ITEM, found] = p, q, i
            mi[M_SOURCE, found + 1], mi[M_TARGET, found + 1], mi[M_ITEM, found + 1] = q, p, j
            new = _turn_round(pi, pf, mix, ti, tf, ki, kf, mi, 2, places, worth)
            if new > worth:
                return new
    return worth


@loops
def improve(pi: I8, pf: F8, order: I8, mix: I8, ti: I8, tf: F8, ki: I8, kf: F8, mi: I8, mf: F8) -> float:
    """Move items round, between slots and from outside, until nothing is won. Returns the page's worth."""
    worth = page_worth(pi, pf, mix, ti)
    mi[M_BANNED, : pi[0, NUM, ITEMS]] = 0
    for turn in range(TURNS):
        start = worth
        worth = retag(pi, pf, mix, ti, tf, ki, kf, worth)
        for s in range(len(pi)):
            if pi[s, NUM, STABLE]:
                worth = _reorder(pi, pf, mix, ti, s, worth)
        if turn > 0 and worth <= start:
            break
        stale, places, found = EVERY, 0, 0
        listed = False
        for _ in range(TRIES):
            if not listed:
                for s in range(len(pi)):
                    if suits(stale, s):
                        outsiders(pi, pf, order, mix, ti, tf, mi, mf, s)
                places, found = list_moves(pi, pf, mix, ti, tf, mi, mf)
                listed, stale = True, 0
            least = SURE + (SMALL * abs(worth) if places > FEW else 0.0)
            length = cycle(mi, mf, places, found, least)
            if length == 0:
                new = worth
                if places <= FEW:
                    new = _exchange(pi, pf, mix, ti, tf, ki, kf, mi, mf, places, found, worth)
                if places <= FEW and new <= worth:
                    new = pass_on(pi, pf, order, mix, ti, tf, ki, kf, mi, mf, places, found, worth, least)
                if new > worth:
                    listed, stale, worth = False, EVERY, new
                    continue
                if stale == 0:
                    break
                listed = False  # a slot's best unplaced item was refused: what comes after it
                continue
            new = _turn_round(pi, pf, mix, ti, tf, ki, kf, mi, length, places, worth)
            if new > worth:
                listed, stale = False, _passed(mi, length, places)
                if places <= FEW:
                    mi[M_BANNED, : pi[0, NUM, ITEMS]], stale = 0, EVERY
            else:  # a limit or a counter stood in the way, or an estimate was too kind
                stale |= _ban(mi, mf, length, places, found)
            worth = new
        if worth <= start + SURE:
            break
    return page_worth(pi, pf, mix, ti)


@loops
def _passed(mi: I8, length: int, places: int) -> int:
    """The slots whose best unplaced items a round may have changed: those it passed; all, if it met any."""
    touched = 0
    for at in range(length):
        e = mi[M_PATH, at]
        if mi[M_TARGET, e] >= places:
            return EVERY
        touched |= 1 << mi[M_SLOT, mi[M_TARGET, e]]
        if mi[M_SOURCE, e] >= places:  # from outside: it may have been any slot's best
            return EVERY
    return touched
