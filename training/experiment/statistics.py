"""Arms compared: means and ratios per unit with their variances, adjusted by what was known before (CUPED).

A unit is what was assigned, and the only thing that is independent: every variance is over units. A ratio
(clicks per display) is of sums over units, its variance by the delta method (Deng, Knoblich and Lu 2018).
CUPED (Deng, Xu, Kohavi and Walker 2013) takes θ·(x − mean x) off, with x the same metric before the
experiment: no bias, and a variance smaller by the square of their correlation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan, sqrt
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
    """Treatment less control. `relative`: over the control's value, by the delta method."""

    control: Estimate
    treatment: Estimate
    absolute: Estimate
    relative: Estimate
    reduction: float = 0.0  # part of the variance that the adjustment took away

    @property
    def z(self) -> float:
        return self.absolute.value / self.absolute.error if self.absolute.variance > 0 else 0.0

    @property
    def p(self) -> float:
        """Two-sided, for one look at a time fixed beforehand."""
        return float(2 * stats.norm.sf(abs(self.z)))


def mean_of(arm: Moments) -> Estimate:
    """The mean of the first column."""
    return Estimate(float(arm.mean[0]), float(arm.covariance[0, 0]) / max(arm.n, 1))


def ratio_of(arm: Moments) -> Estimate:
    """First column over second, each summed over units: the delta method on their means."""
    top, bottom = float(arm.mean[0]), float(arm.mean[1])
    if bottom == 0:
        return Estimate(nan, nan)
    value = top / bottom
    c = arm.covariance
    spread = c[0, 0] - 2 * value * c[0, 1] + value**2 * c[1, 1]
    return Estimate(value, float(max(spread, 0.0)) / (bottom**2 * max(arm.n, 1)))


def difference(control: Moments, treatment: Moments, *, ratio: bool = False) -> Difference:
    """Unadjusted."""
    of = ratio_of if ratio else mean_of
    return _compared(of(control), of(treatment))


def adjusted(control: Moments, treatment: Moments, *, ratio: bool = False) -> Difference:
    """With the columns after the first (or, of a ratio, after the second) as what was known before.

    Of a ratio the adjusted column is its linear form (numerator − R·denominator) / mean denominator, which
    has the delta method's variance. θ is of both arms together; what does not vary adjusts nothing.
    """
    plain = difference(control, treatment, ratio=ratio)
    used = 2 if ratio else 1
    if len(control.mean) == used or min(control.n, treatment.n) < LEAST_UNITS:
        return plain
    arms = [_linear(one) if ratio else one for one in (control, treatment)]
    units = sum(one.n for one in arms)
    pooled = (arms[0].n * arms[0].covariance + arms[1].n * arms[1].covariance) / units
    theta = np.linalg.lstsq(pooled[1:, 1:], pooled[1:, 0], rcond=1e-10)[0]
    centre = (arms[0].n * arms[0].mean[1:] + arms[1].n * arms[1].mean[1:]) / units
    made = []
    for one, before in zip(arms, (plain.control, plain.treatment), strict=True):
        shift = float(theta @ (one.mean[1:] - centre))
        spread = (
            one.covariance[0, 0] - 2 * theta @ one.covariance[1:, 0] + theta @ one.covariance[1:, 1:] @ theta
        )
        made.append(Estimate(before.value - shift, max(float(spread), 0.0) / one.n))
    found = _compared(made[0], made[1])
    was = plain.absolute.variance
    reduction = 1 - found.absolute.variance / was if was > 0 else 0.0
    return Difference(found.control, found.treatment, found.absolute, found.relative, reduction)


def _linear(arm: Moments) -> Moments:
    """A ratio's columns (top, bottom, x…) as (linear form, x…); the mean is the ratio's."""
    ratio = ratio_of(arm).value
    weights = np.zeros((len(arm.mean) - 1, len(arm.mean)))
    weights[0, :2] = np.array([1.0, -ratio]) / arm.mean[1]
    weights[1:, 2:] = np.eye(len(arm.mean) - 2)
    mean = weights @ arm.mean
    mean[0] = ratio
    return Moments(arm.n, mean, weights @ arm.covariance @ weights.T)


def _compared(control: Estimate, treatment: Estimate) -> Difference:
    absolute = Estimate(treatment.value - control.value, treatment.variance + control.variance)
    if control.value == 0 or not np.isfinite(control.value):
        return Difference(control, treatment, absolute, Estimate(nan, nan))
    relative = absolute.value / control.value
    spread = treatment.variance / control.value**2 + control.variance * treatment.value**2 / control.value**4
    return Difference(control, treatment, absolute, Estimate(relative, spread))


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusted p-values that hold the share of false discoveries (Benjamini and Hochberg 1995)."""
    order = sorted(range(len(p)), key=lambda at: -p[at])
    found, best = [1.0] * len(p), inf
    for rank, at in enumerate(order):
        best = min(best, p[at] * len(p) / (len(p) - rank), 1.0)
        found[at] = best
    return found
