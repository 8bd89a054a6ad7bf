"""Arms compared: means and ratios per unit with their variances, adjusted by what was known before (CUPED).

A unit is what was assigned, and the only thing that is independent: every variance is over units. A ratio
(clicks per display) is of sums over units. Two of them are compared by their linear form at the ratio of both
arms together, whose sums are what the ratios differ by: exactly as large as it seems where nothing differs,
also for few units. Each arm's own ratio (the delta method: Deng, Knoblich and Lu 2018) follows the units that
weigh most in it, and so is too near to them. For the same reason units of no arm are taken to be less spread
out than those of both. Relative intervals are Fieller's (1954), which leave out zero exactly where the
difference's own does.

CUPED (Deng, Xu, Kohavi and Walker 2013) takes θ·(x − mean x) off, with x the same metric before the
experiment: no bias, and a variance smaller by the square of their correlation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite, nan, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
LEAST_UNITS: Final = 2


@dataclass(frozen=True, slots=True)
class Moments:
    """Of one arm: units, means and the covariance matrix of a unit's columns (numerator, denominator, x)."""

    n: int
    mean: Floats  # (k,)
    covariance: Floats  # (k, k), of units, not of means

    @classmethod
    def of(cls, columns: Sequence[Floats]) -> Moments:
        """Of (n,) columns."""
        table = np.vstack(columns)
        n = table.shape[1]
        if n < LEAST_UNITS:
            return cls(n, table.mean(axis=1) if n else np.zeros(len(table)), np.full((len(table),) * 2, nan))
        return cls(n, table.mean(axis=1), np.atleast_2d(np.cov(table)))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its variance, as a large sample has it."""

    value: float
    variance: float

    @property
    def error(self) -> float:
        return sqrt(self.variance) if self.variance >= 0 else nan

    def interval(self, z: float) -> tuple[float, float]:
        return self.value - z * self.error, self.value + z * self.error


@dataclass(frozen=True, slots=True)
class Difference:
    """Treatment less control. `information`: the variance of the sum over units that it is made of, which
    grows from day to day as a walk's does; of a ratio the difference's own does not, for its denominators
    grow too.
    """

    control: Estimate
    treatment: Estimate
    absolute: Estimate
    information: float
    reduction: float = 0.0  # part of the variance that the adjustment took away

    @property
    def relative(self) -> float:
        """Over the control's value; nan where that is nothing."""
        before = self.control.value
        return self.absolute.value / before if before and isfinite(before) else nan

    def relative_interval(self, z: float) -> tuple[float, float]:
        """Fieller's: every change r for which treatment − (1 + r)·control is within z errors of zero. (nan,
        nan) where no change is ruled out; without an upper end where the control may be nothing.
        """
        c, t = self.control, self.treatment
        together = (c.variance + t.variance - self.absolute.variance) / 2  # nothing where units are one arm's
        square, beyond = c.value**2 - z**2 * c.variance, t.value**2 - z**2 * t.variance
        product = c.value * t.value - z**2 * together
        under = product**2 - square * beyond
        if not (c.value and isfinite(under) and under >= 0 and self.absolute.variance > 0):
            return nan, nan
        if square > 0:
            return (product - sqrt(under)) / square - 1, (product + sqrt(under)) / square - 1
        if beyond > 0 and product > 0:  # the treatment is not nothing, the control may be
            return beyond / (product + sqrt(under)) - 1, inf
        return nan, nan

    @property
    def z(self) -> float:
        return self.absolute.value / self.absolute.error if self.absolute.variance > 0 else 0.0

    @property
    def p(self) -> float:
        """Two-sided, for one look at a time fixed beforehand."""
        return float(2 * stats.norm.sf(abs(self.z)))


def difference(control: Moments, treatment: Moments, *, ratio: bool = False) -> Difference:
    """Unadjusted: of the first column, or of the first over the second."""
    arms, scale = _linear(control, treatment) if ratio else ((control, treatment), 1.0)
    spreads = [float(one.covariance[0, 0]) for one in arms]
    return _compared(arms, [float(one.mean[0]) for one in arms], spreads, scale)


def adjusted(control: Moments, treatment: Moments, *, ratio: bool = False) -> Difference:
    """With the columns after the first (or, of a ratio, after the second) as what was known before.

    θ is of both arms together; what does not vary adjusts nothing.
    """
    plain = difference(control, treatment, ratio=ratio)
    known = len(control.mean) > (2 if ratio else 1)
    if not known or min(control.n, treatment.n) < LEAST_UNITS or not isfinite(plain.absolute.variance):
        return plain
    arms, scale = _linear(control, treatment) if ratio else ((control, treatment), 1.0)
    theta = np.linalg.lstsq(*_before(_pooled(arms)), rcond=1e-10)[0]
    centre = (arms[0].n * arms[0].mean[1:] + arms[1].n * arms[1].mean[1:]) / (arms[0].n + arms[1].n)
    means, spreads = [], []
    for one in arms:
        shift = float(theta @ (one.mean[1:] - centre))
        inner, cross = _before(one.covariance)
        spread = one.covariance[0, 0] - 2 * theta @ cross + theta @ inner @ theta
        means.append(float(one.mean[0]) - shift)
        spreads.append(max(float(spread), 0.0))
    found = _compared(arms, means, spreads, scale)
    was = plain.absolute.variance
    return replace(found, reduction=1 - found.absolute.variance / was if was > 0 else 0.0)


def _linear(control: Moments, treatment: Moments) -> tuple[tuple[Moments, Moments], float]:
    """A ratio's columns (top, bottom, x…) as (linear form, x…), whose mean is the arm's own ratio; and the
    denominator of a unit that the differences of forms are multiplied with, to be sums again.

    With R the ratio of both arms together, top − R·bottom over a denominator that the arms share: its means
    differ by exactly what the ratios do.
    """
    arms, n = (control, treatment), control.n + treatment.n
    bottoms = [float(one.mean[1]) for one in arms]
    top = sum(one.n * float(one.mean[0]) for one in arms)
    bottom = sum(one.n * float(one.mean[1]) for one in arms)
    scale = bottoms[0] * bottoms[1] * n / bottom if bottom else 0.0
    k = len(control.mean) - 1
    weights = np.zeros((k, k + 1))
    weights[0, :2] = np.array([1.0, -top / bottom]) / scale if scale else nan
    weights[1:, 2:] = np.eye(k - 1)
    made = []
    for one, below in zip(arms, bottoms, strict=True):
        mean = np.array([one.mean[0] / below if below else nan, *one.mean[2:]])
        made.append(Moments(one.n, mean, weights @ one.covariance @ weights.T))
    return (made[0], made[1]), scale


def _pooled(arms: tuple[Moments, Moments]) -> Floats:
    control, treatment = arms
    both: Floats = control.n * control.covariance + treatment.n * treatment.covariance
    return both / (control.n + treatment.n)


def _before(covariance: Floats) -> tuple[Floats, Floats]:
    """Of what was known before: its own part of a covariance, and that with the first column."""
    return covariance[1:, 1:], covariance[1:, 0]


def _compared(
    arms: tuple[Moments, Moments], means: Sequence[float], spreads: Sequence[float], scale: float
) -> Difference:
    """`spreads`: the variance of a unit, by arm. Where both arms' units together are more spread out than
    that says, theirs is taken: a tenth of the units has seldom met the few that matter most, and believes
    itself exact.
    """
    sizes = [max(one.n, 1) for one in arms]
    each = [spread / n for spread, n in zip(spreads, sizes, strict=True)]
    pooled = sum(spread * n for spread, n in zip(spreads, sizes, strict=True)) / sum(sizes)
    alike = [pooled / n for n in sizes]
    control, treatment = map(Estimate, means, alike if sum(alike) > sum(each) else each)
    absolute = Estimate(treatment.value - control.value, treatment.variance + control.variance)
    n = arms[0].n * arms[1].n / max(arms[0].n + arms[1].n, 1)
    return Difference(control, treatment, absolute, (n * scale) ** 2 * absolute.variance)


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusted p-values that hold the share of false discoveries (Benjamini and Hochberg 1995)."""
    order = sorted(range(len(p)), key=lambda at: -p[at])
    found, best = [1.0] * len(p), inf
    for rank, at in enumerate(order):
        best = min(best, p[at] * len(p) / (len(p) - rank), 1.0)
        found[at] = best
    return found
