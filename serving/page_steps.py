"""A step of the search on a filled page: tried, judged by the page's exact worth, kept or undone."""

from __future__ import annotations

from typing import Final

from features.compiled import loops
from serving.page_fill import (
    fits,
    lift,
    page_worth,
    put,
    tidy,
    variant,
)
from serving.page_state import (
    CAND,
    CATEGORY,
    EACH,
    F8,
    FILLED,
    FIXED,
    HAVE,
    I8,
    KINDS,
    LEAST_KIND,
    NONE,
    NUM,
    OFFER,
    ONLY,
    OPEN,
    PER_CATEGORY,
    PER_KIND,
    TALLY,
    suits,
)

SURE: Final = 1e-9  # CNY; a smaller gain is rounding


@loops
def keep(pi: I8, pf: F8, ki: I8, kf: F8, s: int) -> None:
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
def settle(pi: I8, pf: F8, mix: I8, ti: I8, ki: I8, kf: F8, touched: int, done: bool, worth: float) -> float:
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
def breaches(pi: I8, mix: I8, ti: I8, s: int) -> int:
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
