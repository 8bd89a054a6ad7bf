"""The whole page: what stands by rule, the rest by worth, pop-ups that are worth it, roadblocks."""

from __future__ import annotations

from typing import Final

import numpy as np

from features.compiled import jit
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
from serving.page_moves import (
    scratch,
)
from serving.page_search import (
    SURE,
    TRIES,
    improve,
    stand,
)
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
    I4,
    I8,
    INTERRUPTION,
    LEADING,
    MASK,
    NUM,
    OFF,
    ONLY,
    OPEN,
    PIN,
    PIN_SLOT,
    PINNED,
    PRICE,
    RATE,
    STABLE,
    SUITS,
    U1,
    USES,
    WHERE,
    WORTH,
    Input,
    State,
    prepare,
    suits,
)

LIKELY: Final = 1.5  # a pop-up that is worth more than so many times its items elsewhere stays open


@jit
def place_by_rule(pi: I4, pf: F8, mix: I4, ti: I8, tf: F8) -> None:
    """Pins at their positions; mandatory offers where they are seen most; what stood there before."""
    m, slots = pi[0, NUM, DEALS], len(pi)
    for turn in range(2):
        for o in range(m):
            s, k = ti[PIN_SLOT, o], ti[PIN, o]
            if s < 0 or (ti[BAND, o] == 0) != (turn == 0) or not _may(pi, mix, ti, o, s):
                continue
            if k < pi[s, NUM, OPEN] and pi[s, CAND, k] < 0:
                put(pi, pf, mix, ti, s, k, ti[CANDIDATE, o], o, tf[WORTH, o], PINNED)
    for o in range(m):
        if ti[BAND, o] != 0:
            continue
        best = -1
        for s in range(slots):
            k = free_place(pi, s)
            if k < 0 or not _may(pi, mix, ti, o, s):
                continue
            if best < 0 or pf[s, RATE, k] > pf[best, RATE, free_place(pi, best)]:
                best = s
        if best >= 0:
            put(
                pi,
                pf,
                mix,
                ti,
                best,
                free_place(pi, best),
                ti[CANDIDATE, o],
                o,
                tf[WORTH, o],
                LEADING,
            )
    for s in range(slots):
        if not pi[s, NUM, STABLE]:
            continue
        for k in range(pi[s, NUM, OPEN]):
            i = pi[s, BEFORE, k]
            if i >= 0 and pi[s, CAND, k] < 0 and mix[WHERE, i] < 0 and suits(ti[MASK, i], s):
                stand(pi, pf, mix, ti, tf, s, k, i)


@jit
def _may(pi: I4, mix: I4, ti: I8, o: int, s: int) -> bool:
    """Whether an offer may be placed by rule in a slot."""
    i = ti[CANDIDATE, o]
    return bool(
        not mix[OFF, o]
        and mix[WHERE, i] < 0
        and suits(ti[SUITS, o], s)
        and (pi[s, NUM, ONLY] < 0 or pi[s, NUM, ONLY] == ti[CAMPAIGN, o])
        and fits(pi, mix, ti, s, i, False)
        and allowed(mix, ti, USES, 8, o)
    )


@jit
def finish(
    pi: I4, pf: F8, order: I4, mix: I4, ti: I8, tf: F8, ki: I4, kf: F8, mi: I8, mf: F8, tries: int
) -> float:
    """Fill what is free, improve, close the pop-ups that are not worth it; house offers last."""
    fill(pi, pf, order, mix, ti, tf, True, False)
    fill(pi, pf, order, mix, ti, tf, False, False)
    for s in range(len(pi)):
        tidy(pi, pf, mix, ti, s)
    worth = improve(pi, pf, order, mix, ti, tf, ki, kf, mi, mf, tries)
    worth = _close(pi, pf, order, mix, ti, tf, ki, kf, mi, mf, tries, worth)
    short = False
    for s in range(len(pi)):
        short = short or pi[s, NUM, FILLED] < pi[s, NUM, OPEN]
    if short:
        fill(pi, pf, order, mix, ti, tf, True, True)
        fill(pi, pf, order, mix, ti, tf, False, True)
        for s in range(len(pi)):
            tidy(pi, pf, mix, ti, s)
        worth = page_worth(pi, pf, mix, ti)
    return worth


@jit
def _close(
    pi: I4,
    pf: F8,
    order: I4,
    mix: I4,
    ti: I8,
    tf: F8,
    ki: I4,
    kf: F8,
    mi: I8,
    mf: F8,
    tries: int,
    worth: float,
) -> float:
    """Leave a slot that interrupts empty, where its items do more elsewhere."""
    for s in range(len(pi)):
        if pf[s, PRICE, INTERRUPTION] <= 0 or pi[s, NUM, FILLED] == 0:
            continue
        by_rule = False
        for k in range(pi[s, NUM, FILLED]):
            by_rule = by_rule or pi[s, FIXED, k] != FREE
        if by_rule:
            continue
        net = slot_worth(pi, pf, mix, ti, s)
        if net > LIKELY * _elsewhere(pi, pf, mix, ti, s):
            continue
        trial = copy_of(pi, pf, order, mix, ti, tf)
        for k in range(pi[s, NUM, FILLED]):
            lift(trial.pi, trial.mix, trial.ti, s, k)
        trial.pi[s, NUM, OPEN] = 0
        new = improve(trial.pi, trial.pf, trial.order, trial.mix, trial.ti, trial.tf, ki, kf, mi, mf, tries)
        if new > worth + SURE:
            pi[:], pf[:], mix[:] = trial.pi, trial.pf, trial.mix
            worth = new
    page_worth(pi, pf, mix, ti)
    return worth


@jit
def _elsewhere(pi: I4, pf: F8, mix: I4, ti: I8, s: int) -> float:
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
            best = max(best, won)
        every += best
    return every


@jit
def copy_of(pi: I4, pf: F8, order: I4, mix: I4, ti: I8, tf: F8) -> State:
    """The same page, to be changed aside; what never changes is shared."""
    return State(pi.copy(), pf.copy(), order, mix.copy(), ti, tf.copy())


@jit
def attempt(given: Input, blocking: U1) -> tuple[State, float]:
    """The page with the roadblocks of these offers (m,), and its worth."""
    state = prepare(given)
    pi, pf, order, mix, ti, tf = state
    for o in range(len(given.roadblock)):
        if not given.roadblock[o]:
            continue
        if not blocking[o]:
            mix[OFF, o] = 1
            continue
        for s in range(len(pi)):
            if suits(ti[SUITS, o], s) and pi[s, NUM, ONLY] < 0:
                pi[s, NUM, ONLY] = ti[CAMPAIGN, o]
    place_by_rule(pi, pf, mix, ti, tf)
    return state, finish(pi, pf, order, mix, ti, tf, *scratch(pi, mix), TRIES)


@jit
def best_page(given: Input) -> tuple[State, float]:
    """The page: a roadblock that is not mandatory is taken whole where that is worth more, or not."""
    m = len(given.roadblock)
    blocking, tried = np.zeros(len(given.candidate), np.uint8), np.zeros(len(given.candidate), np.uint8)
    for o in range(m):
        if given.roadblock[o] and given.band[o] == 0:
            blocking[o] = tried[o] = 1
    state, worth = attempt(given, blocking)
    for o in range(m):
        if not given.roadblock[o] or tried[o]:
            continue
        trial = blocking.copy()
        for other in range(o, m):
            if given.roadblock[other] and given.campaign[other] == given.campaign[o]:
                trial[other] = tried[other] = 1
        page, new = attempt(given, trial)
        if new > worth + SURE:
            state, worth, blocking = page, new, trial
    return state, worth
