"""From the filled page to a better one: rounds of moves, replacements, positions, and who holds a counter.

Every accepted step raises the page's exact worth (estimates only decide what is tried), so the search ends,
and never below the page that it began with.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from features.compiled import loops
from serving.page_fill import (
    allowed,
    allowed_alone,
    factor,
    find,
    fits,
    lend,
    lift,
    only_spent,
    page_worth,
    put,
    slot_worth,
    tidy,
    variant,
)
from serving.page_moves import (
    FEW,
    M_AT,
    M_BANNED,
    M_BY,
    M_CATEGORY,
    M_FIRST,
    M_FRESH,
    M_GAIN,
    M_HOLDS,
    M_ITEM,
    M_OUT,
    M_PATH,
    M_RATE,
    M_SLOT,
    M_SOURCE,
    M_STANDS,
    M_TARGET,
    M_WON,
    cycle,
    into,
    list_moves,
    outsiders,
)
from serving.page_state import (
    BAND,
    CAND,
    CANDIDATE,
    CATEGORY,
    DEALS,
    EACH,
    F8,
    FILLED,
    FIRST,
    FIXED,
    FOLLOWING,
    FREE,
    GAIN,
    HAVE,
    I8,
    ITEMS,
    KINDS,
    LEAST,
    LEAST_KIND,
    NONE,
    NUM,
    OFF,
    OFFER,
    ONLY,
    OPEN,
    ORGANIC,
    ORGANICALLY,
    PER_CATEGORY,
    PER_KIND,
    RATE,
    STABLE,
    SUITS,
    TALLY,
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
SMALL: Final = 3e-4  # of the page: a smaller gain is not looked for, but on pages of FEW places
PASSES: Final = 4  # of a counter that are tried, the most promising first


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
    touched, slack = number(0), number(0)
    for e in range(length):
        p = mi[M_SOURCE, mi[M_PATH, e]]
        if p < places and not suits(touched, mi[M_SLOT, p]):
            touched |= 1 << mi[M_SLOT, p]
            _keep(pi, pf, ki, kf, mi[M_SLOT, p])
            slack += _breaches(pi, mix, ti, mi[M_SLOT, p]) if places <= FEW else 0
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
        slack -= _breaches(pi, mix, ti, s) if suits(touched, s) else 0
    return _settle(pi, pf, mix, ti, ki, kf, touched, done and slack >= 0, worth)


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
def _breaches(pi: I8, mix: I8, ti: I8, s: int) -> int:
    """How many items a slot holds beyond what it prefers of their categories and kinds, and lacks of kinds
    that it must have; less those it holds, for what is preferred yields before a place stays empty."""
    if pi[s, NUM, ONLY] >= 0:
        return 0
    many = -pi[s, NUM, FILLED]
    for k in range(pi[s, NUM, OPEN]):
        c = ti[CATEGORY, pi[s, CAND, k]] if pi[s, CAND, k] >= 0 else 0
        if c > 0:
            mix[TALLY, c] += 1
            many += 1 if mix[TALLY, c] > pi[s, NUM, PER_CATEGORY] else 0
    for k in range(pi[s, NUM, OPEN]):
        if pi[s, CAND, k] >= 0:
            mix[TALLY, ti[CATEGORY, pi[s, CAND, k]]] = 0
    for kind in range(pi[s, NUM, KINDS]):
        many += max(0, int(pi[s, HAVE, kind] - pi[s, NUM, PER_KIND]))
        many += max(0, int(pi[s, LEAST_KIND, kind] - pi[s, HAVE, kind]))
    return int(many)


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
def _pass_on(
    pi: I8,
    pf: F8,
    order: I8,
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
    least: float,
) -> float:
    """Pass a spent counter on to an item that is not on the page, where it wins more than its holder loses,
    whose place goes to the best there is without it: the new worth, or the old one.

    No round of moves finds that: the two places that change need have nothing in common but the counter.
    """
    _hold(pi, ti, mi, mf, places)
    for _ in range(PASSES):
        o, s, k, h, won = number(-1), 0, 0, 0, least
        for at in range(pi[0, NUM, DEALS]):
            i = ti[CANDIDATE, at]
            if mix[WHERE, i] >= 0 or mix[OFF, at] or ti[BAND, at] != 1:
                continue
            counter = only_spent(mix, ti, USES, 8, at)
            holds = mi[M_HOLDS, counter] if counter >= 0 else -1
            for slot in range(len(pi) if holds >= 0 else 0):
                low, high = mi[M_FIRST, slot], mi[M_FIRST, slot + 1]
                if low == high or tf[WORTH, at] <= mf[M_GAIN, high - 1] or not suits(ti[SUITS, at], slot):
                    continue
                if suits(mi[M_BANNED, i], slot) or pi[slot, NUM, ONLY] >= 0:
                    continue
                end = into(pi, pf, mix, ti, mi, mf, found, places, i, at, tf[WORTH, at], slot)
                for e in range(found, end):
                    new, here = mf[M_WON, e], mi[M_TARGET, e]
                    if new > won and here != holds:
                        new -= _left(pi, pf, mix, ti, tf, mi, mf, mi[M_SLOT, holds], mi[M_AT, holds], counter)
                    if new > won:
                        o, s, k, h, won = at, slot, mi[M_AT, here], holds, new
        if o < 0:
            break
        new = _passed_on(pi, pf, order, mix, ti, tf, ki, kf, o, s, k, mi[M_SLOT, h], mi[M_AT, h], worth)
        if new > worth:
            return new
        mi[M_BANNED, ti[CANDIDATE, o]] |= np.int64(1) << np.int64(s)
    return worth


@loops
def _hold(pi: I8, ti: I8, mi: I8, mf: F8, places: int) -> None:
    """Note who holds each counter that is spent."""
    for o in range(pi[0, NUM, DEALS]):
        for j in range(USES, USES + 8):
            if ti[j, o] < 0:
                break
            mi[M_HOLDS, ti[j, o]] = -1
    for p in range(places):
        o = pi[mi[M_SLOT, p], OFFER, mi[M_AT, p]] if mi[M_STANDS, p] >= 0 else -1
        for j in range(USES, USES + 8 if o >= 0 else USES):
            if ti[j, o] < 0:
                break
            best = mi[M_HOLDS, ti[j, o]]
            if best < 0 or mf[M_RATE, p] * mf[M_GAIN, p] < mf[M_RATE, best] * mf[M_GAIN, best]:
                mi[M_HOLDS, ti[j, o]] = p


@loops
def _left(pi: I8, pf: F8, mix: I8, ti: I8, tf: F8, mi: I8, mf: F8, s: int, k: int, counter: int) -> float:
    """What a place loses, nearly, when what stands there may not use a counter any more."""
    best, i = 0.0, pi[s, CAND, k]
    if suits(ti[ORGANICALLY, i], s) and allowed_alone(mix, ti, i):
        best = tf[ORGANIC, i]
    o = ti[FIRST, i]
    while o >= 0:
        free = ti[BAND, o] == 1 and not mix[OFF, o] and suits(ti[SUITS, o], s) and tf[WORTH, o] > best
        for j in range(8 if free else 0):
            free = free and ti[USES + j, o] != counter
        if free and (o == pi[s, OFFER, k] or allowed(mix, ti, o)):
            best = tf[WORTH, o]
        o = ti[FOLLOWING, o]
    each = pf[s, EACH, k]
    best *= pf[s, GAIN, k] / each if each > 0 else 1.0
    for kind in range(pi[0, NUM, KINDS]):
        if mi[M_OUT + s, kind] >= 0:
            best = max(best, mf[M_FRESH + s, kind] * factor(pf, mix, s, ti[CATEGORY, mi[M_OUT + s, kind]]))
    return float(pf[s, RATE, k] * (pf[s, GAIN, k] - best))


@loops
def _passed_on(
    pi: I8,
    pf: F8,
    order: I8,
    mix: I8,
    ti: I8,
    tf: F8,
    ki: I8,
    kf: F8,
    o: int,
    s: int,
    k: int,
    t: int,
    q: int,
    worth: float,
) -> float:
    """Place the item of offer o at (s, k) and what adds most at (t, q): the new worth, or the old, undone."""
    touched = 1 << s | 1 << t
    slack = number(0)
    for slot in range(len(pi)):
        if suits(touched, slot):
            _keep(pi, pf, ki, kf, slot)
            slack += _breaches(pi, mix, ti, slot)
    lift(pi, mix, ti, t, q)
    if pi[s, CAND, k] >= 0:
        lift(pi, mix, ti, s, k)
    i = ti[CANDIDATE, o]
    done = fits(pi, mix, ti, s, i, False) and allowed(mix, ti, o)
    if done:
        put(pi, pf, mix, ti, s, k, i, o, tf[WORTH, o])
    if done and (s != t or k != q):
        j, by, each, _ = find(pi, pf, order, mix, ti, tf, t, q, True, False, 0)
        if j >= 0:
            put(pi, pf, mix, ti, t, q, j, by, each)
    for slot in range(len(pi) if done else 0):
        slack -= _breaches(pi, mix, ti, slot) if suits(touched, slot) else 0
    return _settle(pi, pf, mix, ti, ki, kf, touched, done and slack >= 0, worth)


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
                new = worth
                if places <= FEW:
                    new = _exchange(pi, pf, mix, ti, tf, ki, kf, mi, mf, places, found, worth)
                if places <= FEW and new <= worth:
                    new = _pass_on(pi, pf, order, mix, ti, tf, ki, kf, mi, mf, places, found, worth, least)
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
