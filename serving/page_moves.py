"""Which items could take whose places, what each move would win, and rounds of moves that win together.

A graph over the places that may change and the outside of the page; a move wins, nearly, what its item is
worth in its new place and what those between win or lose as they move up or down. A round of moves that wins
is a positive cycle (Bellman and Ford); without interactions a page without one cannot be improved.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from features.compiled import jit, loops
from serving.page_fill import (
    factor,
    lend,
    shrunk,
    variant,
)
from serving.page_state import (
    AWAY,
    BEFORE,
    CAND,
    CATEGORY,
    CROSS,
    CROSSING,
    EACH,
    F8,
    FILLED,
    FIRST,
    FIXED,
    FREE,
    GAIN,
    HAVE,
    I8,
    INSIDE,
    INTERRUPTION,
    KIND,
    KINDS,
    LEAST,
    LEAST_KIND,
    LENGTH,
    MASK,
    MOST,
    NONE,
    NUM,
    OFFER,
    ONLY,
    OPEN,
    ORGANICALLY,
    PER_CATEGORY,
    PER_KIND,
    PRICE,
    RATE,
    STABLE,
    SUITS,
    SWITCHING,
    TOP,
    TOTAL,
    WHERE,
    number,
    suits,
)

# Rows of mi. Of places that may change: slot and position; the move that ends the best chain there; scratch.
M_SLOT, M_AT, M_CAME, M_PATH = 0, 1, 2, 3
# Of moves: the place whose item moves (their number: from outside), the place that it takes, the item.
# … and the offer by which it is to stand there, -1 organically.
M_SOURCE, M_TARGET, M_ITEM, M_BY = 4, 5, 6, 7
# Of items the slots refused; the first place of each slot; of places kind, category and item of what stands
# there (-1 nothing yet); M_OUT + s: a slot's best unplaced item by kind; M_OUT + S + s: categories of what
# stands in a slot; M_OUT + 2S + s: offers of the items of M_OUT + s. Of counters the place that uses one and
# adds least by it, -1 none.
M_BANNED, M_FIRST, M_KIND, M_CATEGORY, M_STANDS, M_HOLDS, M_OUT = 8, 9, 10, 11, 12, 13, 14
# Rows of mf. Of moves what they win; of places the best chain, rate, gain, and sums of what moving down or up
# by one wins; M_FRESH + s: worth of the items of M_OUT + s; M_FRESH + S + s: worth of a category in a slot;
# M_FRESH + 2S: what a category's placements in all slots lose by one more of it, and then win by one less.
M_WON, M_BEST, M_RATE, M_GAIN, M_DOWN, M_UP, M_FRESH = 0, 1, 2, 3, 4, 5, 6
LOOK: Final = 16
FEW: Final = 24  # pages on which no more places than this may change are searched to the end
DEEP: Final = 8  # slots that one round of moves may pass


@jit
def scratch(pi: I8, mix: I8) -> tuple[I8, F8, I8, F8]:
    """Room for slots as they were before a step (ki, kf), and for the moves of a search (mi, mf)."""
    places, kinds = 0, pi[0, NUM, KINDS]
    for s in range(len(pi)):
        places += pi[s, NUM, OPEN]
    width = max(places * (places + 2 + kinds), mix.shape[1])
    ki, kf = np.empty((len(pi), 3, pi.shape[2]), np.int64), np.empty((len(pi), pi.shape[2]), np.float64)
    mi = np.empty((M_OUT + 3 * len(pi), width), np.int64)
    return ki, kf, mi, np.empty((M_FRESH + 2 * len(pi) + 2, width), np.float64)


@loops
def outsiders(pi: I8, pf: F8, order: I8, mix: I8, ti: I8, tf: F8, mi: I8, mf: F8, s: int) -> None:
    """The best unplaced item of each kind for a slot."""
    mi[M_OUT + s, : pi[0, NUM, KINDS]] = -1
    idle = 0  # items in a row that were no better than what was met before
    for at in range(pi[s, NUM, LENGTH]):
        i = order[s, at]
        if mix[WHERE, i] >= 0 or suits(mi[M_BANNED, i], s):
            continue
        idle += 1
        if idle > LOOK:
            break
        kind = ti[KIND, i]
        u = mi[M_OUT + s, kind]
        if u >= 0 and tf[TOP, i] <= mf[M_FRESH + s, kind] * factor(pf, mix, s, ti[CATEGORY, u]):
            continue
        o, each = variant(pi, mix, ti, tf, i, s, False)
        if o == NONE:
            continue
        by = factor(pf, mix, s, ti[CATEGORY, i])
        if u < 0 or each * by > mf[M_FRESH + s, kind] * factor(pf, mix, s, ti[CATEGORY, u]):
            mi[M_OUT + s, kind], mf[M_FRESH + s, kind] = i, each
            mi[M_OUT + 2 * len(pi) + s, kind] = o
            idle = 0


@loops
def _factor(pf: F8, s: int, c: int, inside: int, away: int) -> float:
    if c == 0:
        return 1.0
    return float(pf[s, INSIDE, max(inside, 0)] * pf[s, AWAY, max(away, 0)])


@loops
def _ripple(
    pi: I8, pf: F8, mix: I8, ti: I8, mi: I8, mf: F8, i: int, s: int, k: int, t: int, there: float
) -> float:
    """What others of its category win, nearly, when item i moves from (s, k) to slot t; -1 is outside."""
    c = ti[CATEGORY, i]
    if c == 0 or mix[TOTAL, c] == (1 if s >= 0 else 0):
        return 0.0
    won = 0.0
    if pi[0, NUM, CROSSING]:
        of, slots = M_FRESH + len(pi), len(pi)
        here = mf[of + s, c] if s >= 0 else 0.0
        other = mf[of + t, c] if t >= 0 and mix[t, c] > 0 else 0.0
        if s < 0:  # one more on the page
            won -= mf[of + slots, c] - other * (1 - pf[t, PRICE, CROSS])
        elif t < 0:  # one less
            won += mf[of + slots + 1, c] - here * (1 / pf[s, PRICE, CROSS] - 1)
        else:
            won -= (here - pf[s, RATE, k] * pf[s, GAIN, k]) * (1 - pf[s, PRICE, CROSS])
            won += other * (1 / pf[t, PRICE, CROSS] - 1)
    stands = M_OUT + len(pi)
    if s >= 0 and mix[s, c] > 1:
        for q in range(k + 1, pi[s, NUM, FILLED]):
            if mi[stands + s, q] == c:
                won += pf[s, RATE, q] * pf[s, GAIN, q] * (1 / pf[s, INSIDE, 1] - 1)
    if t >= 0 and mix[t, c] > 0:
        for q in range(pi[t, NUM, FILLED]):
            if mi[stands + t, q] == c and pf[t, GAIN, q] < there:
                won -= pf[t, RATE, q] * pf[t, GAIN, q] * (1 - pf[t, INSIDE, 1])
    return won


@loops
def _there(pi: I8, pf: F8, mix: I8, ti: I8, mi: I8, t: int, i: int, each: float, without: int) -> float:
    """What item i would be worth per display in slot t, when one of its category (1) leaves it or not (0)."""
    c = ti[CATEGORY, i]
    if c == 0:
        return each
    better = -without
    stands = M_OUT + len(pi) + t
    for q in range(pi[t, NUM, FILLED] if mix[t, c] > 0 else 0):
        better += 1 if mi[stands, q] == c and pf[t, EACH, q] >= each else 0
    away = mix[TOTAL, c] - mix[t, c] - (1 if mix[WHERE, i] >= 0 and mix[WHERE, i] != t else 0)
    return shrunk(each, _factor(pf, t, c, better, away))


@loops
def _list_places(pi: I8, pf: F8, ti: I8, mi: I8, mf: F8) -> int:
    """The places that may change, with the sums that tell what moving up or down is worth: their number."""
    places, slots = 0, len(pi)
    for s in range(slots):
        for k in range(pi[s, NUM, FILLED]):
            c = ti[CATEGORY, pi[s, CAND, k]]
            mf[M_FRESH + slots + s, c] = mf[M_FRESH + 2 * slots, c] = mf[M_FRESH + 2 * slots + 1, c] = 0.0
            mi[M_OUT + slots + s, k] = c
    for s in range(slots):
        mi[M_FIRST, s] = places
        more, less = 1 - pf[s, PRICE, CROSS], 1 / pf[s, PRICE, CROSS] - 1
        for k in range(pi[s, NUM, FILLED]):
            rate, gain = pf[s, RATE, k], pf[s, GAIN, k]
            c = ti[CATEGORY, pi[s, CAND, k]]
            mf[M_FRESH + slots + s, c] += rate * gain
            mf[M_FRESH + 2 * slots, c] += rate * gain * more
            mf[M_FRESH + 2 * slots + 1, c] += rate * gain * less
            if pi[s, FIXED, k] != FREE:
                continue
            i = pi[s, CAND, k]
            mi[M_SLOT, places], mi[M_AT, places], mi[M_STANDS, places] = s, k, i
            mi[M_KIND, places], mi[M_CATEGORY, places] = ti[KIND, i], ti[CATEGORY, i]
            mf[M_RATE, places], mf[M_GAIN, places] = rate, gain
            mf[M_DOWN, places], mf[M_UP, places] = 0.0, 0.0
            if places > mi[M_FIRST, s]:
                step = mf[M_RATE, places - 1] - rate
                mf[M_DOWN, places] = mf[M_DOWN, places - 1] - step * mf[M_GAIN, places - 1]
                mf[M_UP, places] = mf[M_UP, places - 1] + step * gain
            places += 1
        k = pi[s, NUM, FILLED]
        if k < pi[s, NUM, OPEN] and places - mi[M_FIRST, s] == k:  # a pin stays where it is
            mi[M_SLOT, places], mi[M_AT, places], mi[M_STANDS, places] = s, k, -1
            mi[M_KIND, places] = mi[M_CATEGORY, places] = -1
            mf[M_RATE, places], mf[M_GAIN, places] = pf[s, RATE, k], 0.0
            mf[M_DOWN, places], mf[M_UP, places] = 0.0, 0.0
            if places > mi[M_FIRST, s]:
                step = mf[M_RATE, places - 1] - pf[s, RATE, k]
                mf[M_DOWN, places] = mf[M_DOWN, places - 1] - step * mf[M_GAIN, places - 1]
                mf[M_UP, places] = mf[M_UP, places - 1]
            places += 1
    mi[M_FIRST, slots] = places
    return places


@loops
def into(
    pi: I8, pf: F8, mix: I8, ti: I8, mi: I8, mf: F8, found: int, p: int, i: int, o: int, each: float, t: int
) -> int:
    """Note the moves of item i (at place p, or outside) by offer o into the places of slot t: those that
    break no limit of the slot more than it was broken.

    What a move wins: what the item is worth where it then stands, what those between win or lose as they move
    up or down, less what stood there; nearly, for the items of the same category.
    """
    low, high, places = mi[M_FIRST, t], mi[M_FIRST, t + 1], mi[M_FIRST, len(pi)]
    c, kind = ti[CATEGORY, i], ti[KIND, i]
    there, ripple, better = each, 0.0, 0
    if c > 0:
        there = _there(pi, pf, mix, ti, mi, t, i, each, number(0))
        s = mi[M_SLOT, p] if p < places else number(-1)
        k = mi[M_AT, p] if p < places else number(-1)
        if mix[TOTAL, c] > (1 if s >= 0 else 0):
            ripple = _ripple(pi, pf, mix, ti, mi, mf, i, s, k, t, there)
    hard, full = pi[t, HAVE, kind] >= pi[t, MOST, kind], pi[t, HAVE, kind] >= pi[t, NUM, PER_KIND]
    crowded = c > 0 and mix[t, c] >= pi[t, NUM, PER_CATEGORY]
    stable, switching = pi[t, NUM, STABLE] > 0, pf[t, PRICE, SWITCHING]
    at = low
    while at < high and mf[M_GAIN, at] >= there:
        at += 1
    for q in range(low, high):
        other, same = mi[M_KIND, q], c > 0 and mi[M_CATEGORY, q] == c
        if other < 0:  # an empty place: what is only preferred yields
            if hard:
                continue
        else:
            if crowded and not same and not _over(pi, mix, t, mi[M_CATEGORY, q], number(-1)):
                continue
            if other != kind and (
                hard
                or (full and not _over(pi, mix, t, number(0), other))
                or pi[t, HAVE, other] <= pi[t, LEAST_KIND, other]
            ):
                continue
        worth, better = there, at
        if same and pf[t, EACH, mi[M_AT, q]] >= each:
            worth = _there(pi, pf, mix, ti, mi, t, i, each, number(1))
            while better > low and mf[M_GAIN, better - 1] < worth:
                better -= 1
        won = ripple - mf[M_RATE, q] * mf[M_GAIN, q]
        won -= pf[t, PRICE, INTERRUPTION] if pi[t, NUM, FILLED] == 0 else 0.0
        if stable:
            k, j = mi[M_AT, q], mi[M_STANDS, q]
            won += mf[M_RATE, q] * worth
            won -= switching * ((1 if pi[t, BEFORE, k] == j else 0) - (1 if pi[t, BEFORE, k] == i else 0))
        elif better <= q:
            won += mf[M_RATE, better] * worth + mf[M_DOWN, q] - mf[M_DOWN, better]
        else:
            won += mf[M_RATE, better - 1] * worth + mf[M_UP, better - 1] - mf[M_UP, q]
        mi[M_SOURCE, found], mi[M_TARGET, found], mi[M_ITEM, found], mf[M_WON, found] = p, q, i, won
        mi[M_BY, found] = o
        found += 1
    return found


@loops
def _over(pi: I8, mix: I8, s: int, c: int, kind: int) -> bool:
    """Whether a slot holds more of a category (0 none) or of a kind (-1 none) than it prefers."""
    return bool(
        (c > 0 and mix[s, c] > pi[s, NUM, PER_CATEGORY])
        or (kind >= 0 and pi[s, HAVE, kind] > pi[s, NUM, PER_KIND])
    )


@loops
def list_moves(pi: I8, pf: F8, mix: I8, ti: I8, tf: F8, mi: I8, mf: F8) -> tuple[int, int]:
    """The places that may change, and every move between them that is allowed: their numbers."""
    places, found, slots = _list_places(pi, pf, ti, mi, mf), number(0), len(pi)
    for p in range(places):
        s, k = mi[M_SLOT, p], mi[M_AT, p]
        if mi[M_STANDS, p] < 0:
            mi[M_SOURCE, found], mi[M_TARGET, found], mi[M_ITEM, found], mf[M_WON, found] = p, places, -1, 0.0
            found += 1
            continue
        i, o, c = pi[s, CAND, k], pi[s, OFFER, k], ti[CATEGORY, pi[s, CAND, k]]
        others = ti[MASK, i] & ~(np.int64(1) << np.int64(s)) & ~mi[M_BANNED, i]
        for t in range(slots if others else 0):
            if not (others >> t) & 1 or mi[M_FIRST, t] == mi[M_FIRST, t + 1]:
                continue
            by, each = o, pf[s, EACH, k]
            if places <= FEW:
                lend(mix, ti, i, o, number(1))
            if pi[t, NUM, ONLY] >= 0 or not suits(ti[SUITS, o] if o >= 0 else ti[ORGANICALLY, i], t):
                by, each = variant(pi, mix, ti, tf, i, t, False)
            elif ti[FIRST, i] >= 0 and (o < 0 or places <= FEW):
                other, worth = variant(pi, mix, ti, tf, i, t, False)
                if worth > each:
                    by, each = other, worth
            if places <= FEW:
                lend(mix, ti, i, o, number(-1))
            if each > LEAST:
                found = into(pi, pf, mix, ti, mi, mf, found, p, i, by, each, t)
        won = 0.0
        if c > 0 and mix[TOTAL, c] > 1:
            won = _ripple(pi, pf, mix, ti, mi, mf, i, s, k, number(-1), 0.0)
        mi[M_SOURCE, found], mi[M_TARGET, found], mi[M_ITEM, found], mf[M_WON, found] = p, places, i, won
        found += 1
    empty = False
    for p in range(places):
        empty = empty or mi[M_STANDS, p] < 0
    for s in range(slots if empty else 0):  # a place may be left empty if another one is filled
        last = mi[M_FIRST, s + 1] - 1
        if mi[M_FIRST, s + 1] - mi[M_FIRST, s] < pi[s, NUM, FILLED]:  # a pin stays where it is
            continue
        for q in range(mi[M_FIRST, s], mi[M_FIRST, s + 1]):
            if mi[M_STANDS, q] >= 0:
                won = mf[M_UP, last] - mf[M_UP, q] - mf[M_RATE, q] * mf[M_GAIN, q]
                won += pf[s, PRICE, INTERRUPTION] if pi[s, NUM, FILLED] == 1 else 0.0
                mi[M_SOURCE, found], mi[M_TARGET, found], mi[M_ITEM, found], mf[M_WON, found] = (
                    places,
                    q,
                    -1,
                    won,
                )
                found += 1
    for s in range(slots):
        for kind in range(pi[0, NUM, KINDS]):
            u = mi[M_OUT + s, kind]
            if u >= 0:
                by, each = mi[M_OUT + 2 * slots + s, kind], mf[M_FRESH + s, kind]
                found = into(pi, pf, mix, ti, mi, mf, found, places, u, by, each, s)
    return places, found


@loops
def cycle(mi: I8, mf: F8, places: int, found: int, least: float) -> int:
    """A round of moves that wins, by Bellman and Ford: its length, its moves in `path`; 0 none."""
    for p in range(places + 1):
        mf[M_BEST, p], mi[M_CAME, p] = 0.0, -1
    for _ in range(DEEP):
        changed = False
        for e in range(found):
            p, q = mi[M_SOURCE, e], mi[M_TARGET, e]
            if mf[M_BEST, p] + mf[M_WON, e] <= mf[M_BEST, q] + least:
                continue
            length, back = 1, p
            mi[M_PATH, 0] = e
            while back != q and mi[M_CAME, back] >= 0 and length <= places:
                mi[M_PATH, length] = mi[M_CAME, back]
                back = mi[M_SOURCE, mi[M_CAME, back]]
                length += 1
            if back == q:
                return length
            mf[M_BEST, q], mi[M_CAME, q] = mf[M_BEST, p] + mf[M_WON, e], e
            changed = True
        if not changed:
            break
    return 0
