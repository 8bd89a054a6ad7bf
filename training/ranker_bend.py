"""What calibration adds beside slope and level: a bend of the log-odds, slot by slot.

A click on a place that was looked at comes also by mistake or by trust in the place (Agarwal et al. 2019), so
the log-odds of what nobody wants end at a floor of their own in each slot, and above it those of the wanted
rise more steeply than a small forest on top of products tells. A line cannot say that: a piecewise-linear
one can, and it still ranks as before.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.ranking_kernel import KNOTS, LOWEST, PART

Floats = NDArray[np.float64]
BEND_RIDGE: Final = 30.0  # what a change of steepness weighs, in sums of p (1 - p)
NEAR_RIDGE: Final = 1.0  # … and being off what all slots say
FLATTEST: Final = 0.1  # of a line's steepness that a bend leaves: who was ahead stays ahead


def bend_of(raw: Floats, label: Floats, towards: Floats) -> Floats:
    """(KNOTS,) what to add to log-odds `raw` (m,) at the knots: the likeliest whose steepness hardly changes
    from knot to knot, drawn `towards` another. `label` (m,) in [0, 1].
    """
    curved = np.diff(np.eye(KNOTS), 2, axis=0)
    ridge = BEND_RIDGE * curved.T @ curved + NEAR_RIDGE * np.eye(KNOTS)
    at = np.clip((raw - LOWEST) / PART, 0.0, KNOTS - 1.0)
    knot = np.minimum(at.astype(np.int64), KNOTS - 2)
    right = at - knot
    left = 1.0 - right
    found = towards.copy()
    for _ in range(30 if len(raw) else 0):
        p = 1.0 / (1.0 + np.exp(-(raw + left * found[knot] + right * found[knot + 1])))
        miss, weight = label - p, p * (1.0 - p)
        push = _at(knot, left * miss) + _at(knot + 1, right * miss) - ridge @ (found - towards)
        beside = _at(knot, left * right * weight)[:-1]
        curve = np.diag(_at(knot, left**2 * weight) + _at(knot + 1, right**2 * weight))
        curve += np.diag(beside, 1) + np.diag(beside, -1)
        step = np.clip(np.linalg.solve(curve + ridge, push), -1.0, 1.0)
        found += step
        if float(np.abs(step).max()) < 1e-8:
            break
    return rising(found)


def rising(bend: Floats) -> Floats:
    """The bend, nowhere so steep downwards that what is ahead would fall behind."""
    steps = np.maximum(np.diff(bend), (FLATTEST - 1.0) * PART)
    return np.concatenate([bend[:1], bend[0] + np.cumsum(steps)])


def bent(raw: Floats, bend: Floats) -> Floats:
    """`raw` (m,) with what the bend adds."""
    found: Floats = raw + np.interp(raw, LOWEST + PART * np.arange(KNOTS), bend)
    return found


def _at(knot: NDArray[np.int64], value: Floats) -> Floats:
    found: Floats = np.bincount(knot, value, KNOTS).astype(np.float64)
    return found
