"""Guardrails' tests: whether an arm makes a metric worse than is tolerated, looked at as often as one likes.

What is rare and bad, a page that fails, is tested by units' first failures (`guard_failures`), exactly. Every
metric is tested by sums: per guard and arm one contrast, the arm's rate less (1 + tolerance) times the
control's, for a metric that is worse when higher. Sums of units are compared, so pages of one customer count
as one observation; a ratio's error is by the delta method. The boundary is a normal mixture over the
information gathered (Robbins 1970; asymptotic confidence sequences: Waudby-Smith, Arbour, Sinha, Kennedy and
Ramdas 2021), one-sided: under a true null it is crossed at any look with probability at most α. Nothing is
said before there is enough to be normal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log, sqrt
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.experiment import Guardrail
from serving.guard_drawn import Drawn, DrawnFailures
from serving.guard_failures import FirstFailures, Fresh

ALPHA: Final = 0.05  # of an experiment, all its arms, guards and looks together
LEAST_UNITS: Final = 100  # of an arm
LEAST_EVENTS: Final = 20  # units of both arms together in which the metric's event happened
TUNED_TO: Final = 1_000  # units of an arm at which the boundary is tightest
COLUMNS: Final = (
    *("one", "pages", "errors", "lower", "asked", "filled", "ms"),
    *("displays", "clicks", "dismissals", "conversions", "value", "complaints"),
)
"""Of a unit, summed over its pages and events since it was first met. `one` is 1."""
AT: Final = {name: at for at, name in enumerate(COLUMNS)}
Floats = NDArray[np.float64]


class Rate(NamedTuple):
    """Sum of `top` over sum of `bottom`."""

    top: str
    bottom: str = "one"


RATES: Final = {
    "errors": Rate("errors", "pages"),  # pages on which a rung or a stage failed
    "lower_rungs": Rate("lower", "pages"),
    "latency": Rate("ms", "pages"),
    "fill": Rate("filled", "asked"),
    "dismissal_rate": Rate("dismissals", "displays"),
    "dismissals": Rate("dismissals"),
    "ctr": Rate("clicks", "displays"),
    "clicks": Rate("clicks"),
    "conversions": Rate("conversions"),
    "value": Rate("value"),
    "complaints": Rate("complaints"),
}
"""Metrics that can be told within seconds, by name; a plan may name others of `metric_names`, which reports
look after."""

USUAL: Final = (
    Guardrail(metric="errors", tolerance=0.0),
    Guardrail(metric="latency", tolerance=0.25),
    Guardrail(metric="fill", tolerance=0.02),
    Guardrail(metric="dismissal_rate", tolerance=0.25),
    Guardrail(metric="value", tolerance=0.25),
)
"""What every experiment is watched for; one that declares a metric itself is held to its own tolerance."""
FIRSTS: Final = ("errors", "lower_rungs")  # metrics of single pages, tested by first failures too
MOST: Final = "errors"  # the metric whose first failures have most of α: it has to be seen first
OF_MOST: Final = 0.7


class Sums(NamedTuple):
    """Of the units of one arm. `first` (K,) sums, `second` (K, K) of products, `met` (K,) units above 0."""

    first: Floats
    second: Floats
    met: Floats

    @classmethod
    def of(cls, units: Floats, weight: Floats | None = None) -> Sums:
        """`units` (n, K) as COLUMNS. `weight` (n,): of units that were met with chances of their own, in
        inverse proportion to them."""
        met = (units > 0).sum(axis=0).astype(np.float64)
        units = units if weight is None else units * weight[:, None]
        return cls(units.sum(axis=0), units.T @ units, met)

    @property
    def units(self) -> float:
        """How many; of weighted ones, as many as would say as much; 0 before the first."""
        squares = float(self.second[0, 0])
        return float(self.first[0]) ** 2 / squares if squares > 0 else 0.0

    def rate(self, rate: Rate) -> tuple[float, float]:
        """The ratio of the sums, and its variance over units. (nan, nan) where the bottom is nothing."""
        top, bottom = AT[rate.top], AT[rate.bottom]
        n, below = self.units, float(self.first[bottom])
        if n < 2 or below <= 0:
            return float("nan"), float("nan")
        ratio = float(self.first[top]) / below
        cross = self.second
        left = cross[top, top] - 2 * ratio * cross[top, bottom] + ratio * ratio * cross[bottom, bottom]
        return ratio, max(float(left), 0.0) / below**2 * n / (n - 1)


class Look(NamedTuple):
    """One test of one arm now. `z` beyond `needed`: breached. nan: not enough to say anything.

    `z` is in standard errors; of `first` failures it is the logarithm of a bet's worth.
    """

    metric: str
    control: float
    arm: float
    z: float
    needed: float
    tolerance: float
    units: float  # of the arm
    first: bool = False

    @property
    def breached(self) -> bool:
        return self.z > self.needed

    @property
    def told(self) -> str:
        change = (self.arm / self.control - 1) if self.control else float("inf")
        scale = "log of a bet on first failures" if self.first else "z"
        return (
            f"{self.metric} {self.arm:.4g} against the control's {self.control:.4g} ({change:+.0%}; tolerated"
            f" {self.tolerance:.0%}): {scale} {self.z:.2f} above {self.needed:.2f}"
            f" after {self.units:.0f} units"
        )


@dataclass(slots=True)
class Watched:
    """The guards of one arm against its control. `alpha`: of this arm, all its guards together."""

    guards: Sequence[Guardrail]
    alpha: float
    drawn: bool = False  # arms are drawn hour by hour
    _rho: dict[str, float] = field(default_factory=dict)  # by metric, fixed at the first look
    _seen: dict[str, float] = field(default_factory=dict)  # the most information so far
    _firsts: dict[str, FirstFailures | DrawnFailures] = field(default_factory=dict)

    def look(
        self, arm: Sums, control: Sums, fresh: Mapping[str, tuple[Fresh, Fresh] | Drawn] = {}
    ) -> list[Look]:
        """`fresh`: by metric of FIRSTS, what the step brought in the arm and in the control."""
        for guard in self._by_firsts():
            if guard.metric not in self._firsts:
                made = (DrawnFailures.of if self.drawn else FirstFailures)(guard.tolerance)
                self._firsts[guard.metric] = made
            test, step = self._firsts[guard.metric], fresh.get(guard.metric)
            if isinstance(test, DrawnFailures):
                if isinstance(step, Drawn):
                    test.take(step)
            elif step is not None:
                test.take(*step)
        firsts = [self._first(one, arm, control) for one in self._by_firsts()]
        return firsts + [self._look(one, arm, control) for one in self._watched()]

    def _watched(self) -> list[Guardrail]:
        return [one for one in self.guards if one.metric in RATES]

    def _by_firsts(self) -> list[Guardrail]:
        return [one for one in self.guards if one.metric in FIRSTS]

    def _first(self, guard: Guardrail, arm: Sums, control: Sums) -> Look:
        name, test = guard.metric, self._firsts[guard.metric]
        (own, _), (usual, _) = arm.rate(RATES[name]), control.rate(RATES[name])
        told, needed = test.evidence if test.began else float("nan"), -log(self._share(name, True))
        return Look(name, usual, own, told, needed, guard.tolerance, arm.units, True)

    def _look(self, guard: Guardrail, arm: Sums, control: Sums) -> Look:
        rate, name = RATES[guard.metric], guard.metric
        (own, own_error), (usual, error) = arm.rate(rate), control.rate(rate)
        sign = 1.0 if guard.harm == "higher" else -1.0
        factor = 1.0 + sign * guard.tolerance
        events = float(arm.met[AT[rate.top]] + control.met[AT[rate.top]])
        none = Look(name, usual, own, float("nan"), float("nan"), guard.tolerance, arm.units)
        if min(arm.units, control.units) < LEAST_UNITS or events < LEAST_EVENTS:
            return none
        spread = _together(own_error, arm.units, factor**2 * error, control.units)
        if not spread > 0:
            return none
        information = max(1.0 / spread, self._seen.get(name, 0.0))
        self._seen[name] = information
        alpha = 2 * self._share(name)  # of a two-sided mixture
        if name not in self._rho:
            each = information / (1 / (1 / arm.units + 1 / control.units))  # of a unit
            self._rho[name] = tuned(each * TUNED_TO / 2, alpha)
        needed = boundary(information, self._rho[name], alpha)
        return none._replace(z=sign * (own - factor * usual) / sqrt(spread), needed=needed)

    def _share(self, metric: str, first: bool = False) -> float:
        """Of the arm's alpha: OF_MOST for the first failures of MOST, the rest for all other tests alike."""
        tests = len(self._watched()) + len(self._by_firsts())
        if all(one.metric != MOST for one in self._by_firsts()):
            return self.alpha / tests
        if first and metric == MOST:
            return self.alpha * OF_MOST
        return self.alpha * (1 - OF_MOST) / (tests - 1)


def _together(error: float, units: float, other: float, others: float) -> float:
    """The variance of the difference of two means of so many units, from each one's own; or, where that is
    more, as if units of both were alike: an arm of a tenth of the units has seldom met the few that have
    nearly all the value, and believes itself exact.
    """
    alike = (error * units**2 + other * others**2) / (units + others)  # of a unit
    return max(error + other, alike * (1 / units + 1 / others))


def guards_of(declared: Sequence[Guardrail]) -> tuple[Guardrail, ...]:
    """Those that are watched: what the experiment says, and the usual ones that it does not mention."""
    named = {one.metric for one in declared}
    return (*declared, *(one for one in USUAL if one.metric not in named))


def tuned(information: float, alpha: float) -> float:
    """The mixture's variance for which the boundary is tightest at this much information."""
    return information / (-2 * log(alpha) + log(-2 * log(alpha) + 1))


def boundary(information: float, rho: float, alpha: float) -> float:
    """Standard errors that a two-sided mixture of level α allows; one side has half of the level."""
    return sqrt((information + rho) / information * log((information + rho) / (rho * alpha**2)))
