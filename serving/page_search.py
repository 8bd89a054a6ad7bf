"""From the filled page to a better one: rounds of moves, replacements, positions, and who holds a counter.

Every accepted step raises the page's exact worth (estimates only decide what is tried), so the search ends,
and never below the page that it began with.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from features.compiled import loops
from serving.page_fill import (
    fits,
    lift,
    only_spent,
    page_worth,
    put,
    slot_worth,
    tidy,
    variant,
)
from serving.page_moves import (
    M_AT,
    M_BANNED,
    M_ITEM,
    M_PATH,
    M_SLOT,
    M_SOURCE,
    M_TARGET,
    M_WON,
    cycle,
    list_moves,
    outsiders,
)
from serving.page_state import (
    BAND,
    CAND,
    CANDIDATE,
    DEALS,
    EACH,
    F8,
    FILLED,
    FIXED,
    FREE,
    GAIN,
    I8,
    ITEMS,
    LEAST,
    NONE,
    NUM,
    OFF,
    OFFER,
    OPEN,
    RATE,
    STABLE,
    SUITS,
    USES,
    WHERE,
    WORTH,
    number,
    suits,
)

TRIES: Final = 24
TURNS: Final = 2
EVERY: Final = -1  # bits of all slots
SURE: Final = 1e-9  # CNY; a smaller gain is rounding
SMALL: Final = 3e-4  # of the page: a smaller gain is not looked for …
FEW: Final = 24  # … where more places than this may change


@loops
def _keep(pi: I8, pf: F8, ki: I8, kf: F8, s: int) -> None:
    for k in range(pi[s, NUM, OPEN]):
        kf[s, k] = pf[s, EACH, k]
        for row in range(3):
            ki[s, row, k] = pi[s, row, k]


@loops
def _restore(pi: I8, pf: F8, mix: I8, ti: I8, ki: I8, kf: F8, touched: int) -> None:
    """Undo: the slots whose bit is set stand as they were kept."""
    for s in range(len(pi)):
        if suits(touched, s):
            for k in range(pi[s, NUM, OPEN]):
                if pi[s, CAND, k] >= 0:
                    lift(pi, mix, ti, s, k)
    for s in range(len(pi)):
        if suits(touched, s):
            for k in range(pi[s, NUM, OPEN]):
                i, o = ki[s, CAND, k], ki[s, OFFER, k]
                if i >= 0:
                    put(pi, pf, mix, ti, s, k, i, o, kf[s, k])
                    pi[s, FIXED, k] = ki[s, FIXED, k]


@loops
def stand(pi: I8, pf: F8, mix: I8, ti: I8, tf: F8, s: int, k: int, i: int) -> bool:
    """Place an item where it may stand."""
    if not fits(pi, mix, ti, s, i, True):
        return False
    o, each = variant(pi, mix, ti, tf, i, s, False)
    if o == NONE:
        return False
    put(pi, pf, mix, ti, s, k, i, o, each)
    return True


@loops
def _settle(pi: I8, pf: F8, mix: I8, ti: I8, ki: I8, kf: F8, touched: int, done: bool, worth: float) -> float:
    """Keep a step where it wins: the new worth. Else undo it: the old one."""
    if done:
        for s in range(len(pi)):
            if suits(touched, s):
                tidy(pi, pf, mix, ti, s)
        new = page_worth(pi, pf, mix, ti)
        if new > worth + SURE:
            return new
    _restore(pi, pf, mix, ti, ki, kf, touched)
    page_worth(pi, pf, mix, ti)
    return worth


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
    touched = number(0)
    for e in range(length):
        p = mi[M_SOURCE, mi[M_PATH, e]]
        if p < places and not suits(touched, mi[M_SLOT, p]):
            touched |= 1 << mi[M_SLOT, p]
            _keep(pi, pf, ki, kf, mi[M_SLOT, p])
    for e in range(length):
        p = mi[M_SOURCE, mi[M_PATH, e]]
        if p < places:
            lift(pi, mix, ti, mi[M_SLOT, p], mi[M_AT, p])
    done = length > 0
    for e in range(length):
        q, i = mi[M_TARGET, mi[M_PATH, e]], mi[M_ITEM, mi[M_PATH, e]]
        if q < places and done:
            done = mix[WHERE, i] < 0 and stand(pi, pf, mix, ti, tf, mi[M_SLOT, q], mi[M_AT, q], i)
    return _settle(pi, pf, mix, ti, ki, kf, touched, done, worth)


@loops
def _ban(mi: I8, mf: F8, length: int, places: int, found: int) -> int:
    """Do not try the first move of a round into a slot again: the slot's bit. The other moves stay listed."""
    for at in range(length):
        e = mi[M_PATH, at]
        if mi[M_TARGET, e] < places:
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
def _retag(pi: I8, pf: F8, mix: I8, ti: I8, tf: F8, ki: I8, kf: F8, worth: float) -> float:
    """Give a campaign's last placement to the item for which it is worth most: others show without it."""
    for o in range(pi[0, NUM, DEALS]):
        i = ti[CANDIDATE, o]
        s = mix[WHERE, i]
        if s < 0 or mix[OFF, o] or ti[BAND, o] != 1 or not suits(ti[SUITS, o], s):
            continue
        counter = only_spent(mix, ti, USES, 8, o)
        k = 0
        while pi[s, CAND, k] != i:
            k += 1
        if counter < 0 or pi[s, FIXED, k] != FREE or tf[WORTH, o] <= pf[s, EACH, k]:
            continue
        t, q = _holder(pi, pf, ti, counter)
        if t < 0 or (t == s and q == k):  # it holds the counter itself
            continue
        j = pi[t, CAND, q]
        _keep(pi, pf, ki, kf, s)
        _keep(pi, pf, ki, kf, t)
        lift(pi, mix, ti, t, q)
        lift(pi, mix, ti, s, k)
        done = stand(pi, pf, mix, ti, tf, s, k, i) and stand(pi, pf, mix, ti, tf, t, q, j)
        worth = _settle(pi, pf, mix, ti, ki, kf, 1 << s | 1 << t, done, worth)
    return worth


@loops
def _holder(pi: I8, pf: F8, ti: I8, counter: int) -> tuple[int, int]:
    """The placement that uses a counter and adds least, -1 none."""
    slot, at, least = -1, -1, 0.0
    for t in range(len(pi)):
        for q in range(pi[t, NUM, FILLED]):
            o = pi[t, OFFER, q]
            if o < 0 or pi[t, FIXED, q] != FREE:
                continue
            uses = False
            for j in range(8):
                uses = uses or ti[USES + j, o] == counter
            adds = pf[t, RATE, q] * pf[t, GAIN, q]
            if uses and (slot < 0 or adds < least):
                slot, at, least = t, q, adds
    return slot, at


@loops
def improve(pi: I8, pf: F8, order: I8, mix: I8, ti: I8, tf: F8, ki: I8, kf: F8, mi: I8, mf: F8) -> float:
    """Move items round, between slots and from outside, until nothing is won. Returns the page's worth."""
    worth = page_worth(pi, pf, mix, ti)
    mi[M_BANNED, : pi[0, NUM, ITEMS]] = 0
    for turn in range(TURNS):
        start = worth
        worth = _retag(pi, pf, mix, ti, tf, ki, kf, worth)
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
                if stale == 0:
                    break
                listed = False  # a slot's best unplaced item was refused: what comes after it
                continue
            new = _turn_round(pi, pf, mix, ti, tf, ki, kf, mi, length, places, worth)
            if new > worth:
                listed, stale = False, _passed(mi, length, places)
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
