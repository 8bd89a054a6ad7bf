"""Who holds a campaign's last placement: the item for which it is worth most, on the page or beyond.

A counter that is spent ties places that have nothing else in common, so no round of moves passes it on.
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
    lift,
    only_spent,
    put,
)
from serving.page_moves import (
    M_AT,
    M_BANNED,
    M_FIRST,
    M_FRESH,
    M_GAIN,
    M_HOLDS,
    M_OUT,
    M_RATE,
    M_SLOT,
    M_STANDS,
    M_TARGET,
    M_WON,
    into,
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
    I8,
    KINDS,
    NUM,
    OFF,
    OFFER,
    ONLY,
    ORGANIC,
    ORGANICALLY,
    RATE,
    SUITS,
    USES,
    WHERE,
    WORTH,
    number,
    suits,
)
from serving.page_steps import breaches, keep, settle, stand

PASSES: Final = 4  # of a counter that are tried, the most promising first


@loops
def retag(pi: I8, pf: F8, mix: I8, ti: I8, tf: F8, ki: I8, kf: F8, worth: float) -> float:
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
        keep(pi, pf, ki, kf, s)
        keep(pi, pf, ki, kf, t)
        lift(pi, mix, ti, t, q)
        lift(pi, mix, ti, s, k)
        done = stand(pi, pf, mix, ti, tf, s, k, i) and stand(pi, pf, mix, ti, tf, t, q, j)
        worth = settle(pi, pf, mix, ti, ki, kf, 1 << s | 1 << t, done, worth)
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
def pass_on(
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
            keep(pi, pf, ki, kf, slot)
            slack += breaches(pi, mix, ti, slot)
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
        slack -= breaches(pi, mix, ti, slot) if suits(touched, slot) else 0
    return settle(pi, pf, mix, ti, ki, kf, touched, done and slack >= 0, worth)
