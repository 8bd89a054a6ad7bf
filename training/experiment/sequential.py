"""Looking every day: intervals that hold at all looks together, whenever one stops.

Most of α is spent up to the planned end by a spending function (Lan and DeMets 1983; the power family of Kim
and DeMets 1987), so that a look costs little; the rest pays for a normal mixture (Robbins 1970; Howard,
Ramdas, McAuliffe and Sekhon 2021), which holds for ever after. Together the chance that any look is wrong is
at most α.

Boundaries are of a Brownian motion at the variances V of the summed contrast. A unit's days go along with
each other, so that the real process holds on to its past more than a Brownian motion does, and by Slepian's
lemma crosses no more often. A mixture alone would need 3.03 standard errors where this needs about 2.1,
which is the difference between 65 % and 90 % power at one and a half times the sample of a single look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, pi, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ALPHA: Final = 0.05
AFTER: Final = 0.1  # of α, for looks after the planned end
POWER: Final = 2.0  # of the spending function: 1 early, 3 late
LEAST_P: Final = 1e-8
_GRID: Final = 201  # of the half from 0 up: everything is symmetric
_REACH: Final = 6.0  # standard deviations


@dataclass(frozen=True, slots=True)
class Looks:
    """One experiment's looks. `fraction`: how much of the plan has passed, in (0, …); past 1 it is over.

    `variance`: V of the summed contrast at each look, in any unit, rising.
    """

    fraction: tuple[float, ...]
    variance: tuple[float, ...]
    alpha: float = ALPHA

    def __post_init__(self) -> None:
        if len(self.fraction) != len(self.variance) or not self.fraction:
            raise ValueError("each look has a fraction of the plan and a variance")
        if any(b < a for a, b in zip(self.fraction, self.fraction[1:], strict=False)):
            raise ValueError("looks are in the order of time")


def critical(looks: Looks) -> Floats:
    """(looks,) how many standard errors the estimate of each look has to be away from zero."""
    found: Floats = boundaries(looks, np.array([looks.alpha]))[0]
    return found


def boundaries(looks: Looks, alphas: Floats) -> Floats:
    """(alphas, looks) the same for each of several α in place of the looks' own."""
    inside = sum(part <= 1 + 1e-9 for part in looks.fraction)
    found = np.empty((len(alphas), len(looks.fraction)))
    if inside:
        spent = alphas * (1 - AFTER)
        found[:, :inside] = spending(looks.fraction[:inside], looks.variance[:inside], spent)
    at_end = looks.variance[max(inside - 1, 0)]
    for at in range(inside, len(looks.fraction)):
        found[:, at] = [mixture(looks.variance[at], at_end, alpha * AFTER) for alpha in alphas.tolist()]
    return found


def judged(z: float, looks: Looks) -> tuple[Floats, float]:
    """`critical`, and the smallest α whose boundary the last look's z crosses.

    The last interval leaves out zero exactly where that is below the looks' α. Valid at whichever look one
    stops; LEAST_P is told for less. Between boundaries of 48 α, and of the looks' own, its logarithm goes by
    the square of z, of which it is all but linear.
    """
    alphas = np.unique(np.append(np.geomspace(LEAST_P, 1.0, 48), looks.alpha))
    found = boundaries(looks, alphas)
    squares = found[::-1, -1] ** 2  # rising, for falling α
    p = float(np.exp(np.interp(z * z, squares, np.log(alphas[::-1]))))
    return found[int(np.searchsorted(alphas, looks.alpha))], p


def p_value(z: float, looks: Looks) -> float:
    return judged(z, looks)[1]


def spending(fraction: Sequence[float], variance: Sequence[float], alphas: Floats) -> Floats:
    """(alphas, looks) two-sided boundaries, in standard errors, by numerical integration (Armitage et al.
    1969).
    """
    v = _rising(variance)
    spent = np.minimum(np.asarray(fraction, np.float64), 1.0) ** POWER
    found = np.empty((len(alphas), len(v)))
    grid = np.linspace(0, _REACH, _GRID) * sqrt(v[0])
    density = np.tile(np.exp(-0.5 * grid**2 / v[0]) / sqrt(2 * pi * v[0]), (len(alphas), 1))
    used = np.zeros(len(alphas))
    for look in range(len(v)):
        if look:
            fresh = np.linspace(0, _REACH, _GRID) * sqrt(v[look])
            step = sqrt(max(v[look] - v[look - 1], 0.0))
            density = _moved(density, grid, fresh, step)
            grid = fresh
        allowed = np.maximum(alphas * spent[look] - used, 1e-12)
        bound = np.array([_bound(one, grid, some) for one, some in zip(density, allowed, strict=True)])
        used += allowed
        found[:, look] = bound / sqrt(v[look])
        density = np.where(grid <= bound[:, None], density, 0.0)
    return found


def mixture(variance: float, tuned_to: float, alpha: float) -> float:
    """The normal mixture's boundary in standard errors: it holds at every V, tightest near `tuned_to`."""
    rho = tuned_to / (-2 * log(alpha) + log(-2 * log(alpha)) + 1)
    return sqrt((variance + rho) / variance * log((variance + rho) / (rho * alpha**2)))


def _rising(variance: Sequence[float]) -> Floats:
    v = np.maximum.accumulate(np.maximum(np.asarray(variance, np.float64), 1e-300))
    scaled: Floats = v / v[-1] + 1e-9 * np.arange(1, len(v) + 1)
    return scaled


def _moved(density: Floats, grid: Floats, fresh: Floats, step: float) -> Floats:
    """(n, grid) symmetric densities after an increment of standard deviation `step`, on another grid."""
    width = grid[1] - grid[0]
    if step < 2 * width:  # a look that brings next to nothing: the kernel is narrower than the grid
        return np.stack([np.interp(fresh, grid, one, right=0.0) for one in density])
    near, far = ((grid[:, None] + side * fresh) / step for side in (-1.0, 1.0))  # from x, and from -x
    kernel = np.exp(-0.5 * near * near) + np.exp(-0.5 * far * far)
    kernel[0] *= 0.5  # 0 is one point
    moved: Floats = density @ kernel * (width / (step * sqrt(2 * pi)))
    return moved


def _bound(density: Floats, grid: Floats, allowed: float) -> float:
    """b with P(|S| > b) = allowed under a symmetric density: from outside inwards, by the trapezium rule."""
    pieces = 0.5 * (density[1:] + density[:-1]) * np.diff(grid)
    beyond = 2 * np.append(np.cumsum(pieces[::-1])[::-1], 0.0)  # beyond x[i]
    if beyond[0] <= allowed:
        return float(grid[0])
    return float(np.interp(-allowed, -beyond, grid))
