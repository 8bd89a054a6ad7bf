"""The whole page: what stands by rule, the rest by worth, pop-ups that are worth it, roadblocks."""

from __future__ import annotations

from typing import Final

import numpy as np

from features.compiled import jit, loops
from serving.page_fill import (
    allowed,
    factor,
    fill,
    fits,
    free_place,
    lift,
    page_worth,
    put,
    shrunk,
    slot_worth,
    tidy,
)
from serving.page_moves import scratch
from serving.page_search import improve
from serving.page_state import (
    BAND,
    BEFORE,
    CAMPAIGN,
    CAND,
    CANDIDATE,
    CATEGORY,
    DEALS,
    EACH,
    F8,
    FILLED,
    FIXED,
    FREE,
    GAIN,
    I8,
    INTERRUPTION,
    LEADING,
    LEAST,
    MASK,
    NUM,
    O_BAND,
    O_CAMPAIGN,
    O_ROADBLOCK,
    OFF,
    ONLY,
    OPEN,
    PIN,
    PIN_SLOT,
    PINNED,
    PRICE,
    RATE,
    ROADBLOCK,
    STABLE,
    SUITS,
    U1,
    WHERE,
    WORTH,
    Input,
    State,
    number,
    prepare,
    suits,
)
from serving.page_steps import SURE, stand

LIKELY: Final = 1.5  # a pop-up that is worth more than so many times its items elsewhere stays open


@loops
def place_by_rule(pi: I8, pf: F8, mix: I8, ti: I8, tf: F8) -> None:
    """Pins at their positions; mandatory offers where they are seen most; what stood there before."""
    m, slots = pi[0, NUM, DEALS], len(pi)
    for turn in range(2):
        for o in range(m):
            s, k = ti[PIN_SLOT, o], ti[PIN, o]
            if s < 0 or (ti[BAND, o] == 0) != (turn == 0) or not _may(pi, mix, ti, o, s):
                continue
            if k < pi[s, NUM, OPEN] and pi[s, CAND, k] < 0:
                put(pi, pf, mix, ti, s, k, ti[CANDIDATE, o], o, tf[WORTH, o])
                pi[s, FIXED, k] = PINNED
    for o in range(m):
        if ti[BAND, o] != 0:
            continue
        best = number(-1)
        for s in range(slots):
            k = free_place(pi, s)
            if k < 0 or not _may(pi, mix, ti, o, s):
                continue
            if best < 0 or pf[s, RATE, k] > pf[best, RATE, free_place(pi, best)]:
                best = s
        if best >= 0:
            i, k = ti[CANDIDATE, o], free_place(pi, best)
            put(pi, pf, mix, ti, best, k, i, o, tf[WORTH, o])
            pi[best, FIXED, k] = LEADING
    for s in range(slots):
        if not pi[s, NUM, STABLE]:
            continue
        for k in range(pi[s, NUM, OPEN]):
            i = pi[s, BEFORE, k]
            if i >= 0 and pi[s, CAND, k] < 0 and mix[WHERE, i] < 0 and suits(ti[MASK, i], s):
                stand(pi, pf, mix, ti, tf, s, k, i)


@loops
def _may(pi: I8, mix: I8, ti: I8, o: int, s: int) -> bool:
    """Whether an offer may be placed by rule in a slot."""
    i = ti[CANDIDATE, o]
    return bool(
        not mix[OFF, o]
        and mix[WHERE, i] < 0
        and suits(ti[SUITS, o], s)
        and (pi[s, NUM, ONLY] < 0 or pi[s, NUM, ONLY] == ti[CAMPAIGN, o])
        and fits(pi, mix, ti, s, i, False)
        and allowed(mix, ti, o)
    )


@loops
def _fill_free(pi: I8, pf: F8, order: I8, mix: I8, ti: I8, tf: F8, house: int) -> bool:
    """Fill the free places, first within every limit; whether there were any."""
    short = False
    for s in range(len(pi)):
        short = short or pi[s, NUM, FILLED] < pi[s, NUM, OPEN]
    if short:
        for turn in range(2):
            fill(pi, pf, order, mix, ti, tf, turn == 0, house == 1)
        for s in range(len(pi)):
            tidy(pi, pf, mix, ti, s)
    return short


@loops
def _doubtful(pi: I8, pf: F8, mix: I8, ti: I8, s: int) -> bool:
    """Whether a slot that interrupts may be better left empty: nothing is there by rule, and it wins little
    more than its items might elsewhere."""
    if pf[s, PRICE, INTERRUPTION] <= 0 or pi[s, NUM, FILLED] == 0:
        return False
    for k in range(pi[s, NUM, FILLED]):
        if pi[s, FIXED, k] != FREE:
            return False
    return bool(slot_worth(pi, pf, mix, ti, s) <= LIKELY * _elsewhere(pi, pf, mix, ti, s))


@loops
def _elsewhere(pi: I8, pf: F8, mix: I8, ti: I8, s: int) -> float:
    """What the items of a slot would win, nearly, if each came into the slot that has most use for it."""
    every = 0.0
    for k in range(pi[s, NUM, FILLED]):
        best, i = 0.0, pi[s, CAND, k]
        for t in range(len(pi)):
            if t == s or not suits(ti[MASK, i], t):
                continue
            won, carried = 0.0, shrunk(pf[s, EACH, k], factor(pf, mix, t, ti[CATEGORY, i]))
            for q in range(pi[t, NUM, FILLED]):
                if pi[t, FIXED, q] == FREE and carried > pf[t, GAIN, q]:
                    won += pf[t, RATE, q] * (carried - pf[t, GAIN, q])
                    carried = pf[t, GAIN, q]
            if pi[t, NUM, FILLED] < pi[t, NUM, OPEN]:
                won += pf[t, RATE, pi[t, NUM, FILLED]] * carried
            best = max(best, won)
        every += best
    return every


@loops
def _close(pi: I8, mix: I8, ti: I8, s: int) -> None:
    for k in range(pi[s, NUM, FILLED]):
        lift(pi, mix, ti, s, k)
    pi[s, NUM, OPEN] = 0


@loops
def _block(pi: I8, mix: I8, ti: I8, blocking: U1) -> None:
    """Roadblocks that are taken have their slots to themselves; others are off."""
    for o in range(pi[0, NUM, DEALS]):
        if not ti[ROADBLOCK, o]:
            continue
        if not blocking[o]:
            mix[OFF, o] = 1
            continue
        for s in range(len(pi)):
            if suits(ti[SUITS, o], s) and pi[s, NUM, ONLY] < 0:
                pi[s, NUM, ONLY] = ti[CAMPAIGN, o]


@loops
def _next_block(offers: I8, blocking: U1, tried: U1, trial: U1) -> bool:
    """Into `trial`: what blocks already, and the next campaign whose roadblock was not tried."""
    for o in range(len(offers)):
        if not offers[o, O_ROADBLOCK] or tried[o]:
            continue
        for other in range(len(offers)):
            trial[other] = blocking[other]
            if offers[other, O_ROADBLOCK] and offers[other, O_CAMPAIGN] == offers[o, O_CAMPAIGN]:
                trial[other] = tried[other] = 1
        return True
    return False


@jit
def best_page(given: Input) -> tuple[State, float]:
    """The page and its worth: a roadblock that is not mandatory is taken whole where that is worth more."""
    offers, m = given.offers, len(given.offers)
    blocking, tried, trial = np.zeros(m, np.uint8), np.zeros(m, np.uint8), np.zeros(m, np.uint8)
    for o in range(m):
        if offers[o, O_ROADBLOCK] and offers[o, O_BAND] == 0:
            blocking[o] = tried[o] = trial[o] = 1
    best = page = prepare(given)
    ki, kf, mi, mf = scratch(page.pi, page.mix)
    most = LEAST
    while True:
        pi, pf, order, mix, ti, tf = page
        _block(pi, mix, ti, trial)
        place_by_rule(pi, pf, mix, ti, tf)
        _fill_free(pi, pf, order, mix, ti, tf, number(0))
        worth, s = LEAST, -1
        while True:  # as it is; then with each pop-up closed that may not be worth its interruption
            new = improve(page.pi, page.pf, order, page.mix, ti, tf, ki, kf, mi, mf)
            if new > worth + SURE:
                pi, pf, mix, worth = page.pi, page.pf, page.mix, new
            s += 1
            while s < len(pi) and not _doubtful(pi, pf, mix, ti, s):
                s += 1
            if s >= len(pi):
                break
            page = State(pi.copy(), pf.copy(), order, mix.copy(), ti, tf)
            _close(page.pi, page.mix, ti, s)
        if _fill_free(pi, pf, order, mix, ti, tf, number(1)):  # house offers last
            worth = page_worth(pi, pf, mix, ti)
        if worth > most + SURE:
            best, most = State(pi, pf, order, mix, ti, tf), worth
            blocking[:] = trial
        if not _next_block(offers, blocking, tried, trial):
            return best, most
        page = prepare(given)
