"""The guard's test for what is rare and bad: whether units of an arm fail sooner than those of the control.

Looked at is when a unit fails for the first time, so what one customer meets again and again counts once. In
a step of the guard, of the units that had not failed yet and met a page, some fail. If the arm changes
nothing, who of these units is in which arm is chance, whatever the customers are like and whatever rate the
whole service has just then: given how many units of each arm were there and how many failed in all, the
arm's share is hypergeometric. Under an arm that multiplies the odds by ω it is Fisher's noncentral
distribution, and the product over steps of the ratio of the two is a test martingale: the safe logrank test
(ter Schure, Pérez-Ortiz, Ly and Grünwald 2021, arXiv:2011.06931). It exceeds 1/α at any look with
probability at most α (Ville), exactly, however few the failures; of tests that may be looked at always, none
needs fewer failures for the ω it is made for, but for the price of not knowing ω (a mixture).

Where the arm's rate may be higher by a tolerance, ω is that of the highest rate that the control may have:
odds are not known as well as rates are, and by the rate so far a good arm was accused up to ten times too
often where half of the pages fail.

An arm may turn bad late. Most of the bet is placed at the beginning, the rest little by little while units
fail, so that what was lost on a good past does not have to be won back first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import e, log, sqrt
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RATIOS: Final[Floats] = np.array([1.4, 1.7, 2.1, 2.8, 4.5, 12.0])  # of odds, beyond what is tolerated
SHARES: Final[Floats] = np.array([0.08, 0.20, 0.42, 0.14, 0.10, 0.06])  # of the bet on each
AT_ONCE: Final = 0.85  # of the bet is placed before the first failure
SURE: Final = 2.0  # standard errors above the control's rate, where a tolerance depends on it
PACE: Final = 20.0  # failures in which the rest of the bet is placed at about the first rate


class Fresh(NamedTuple):
    """Of one arm in one step: units that had not failed and met a page, and how many of them failed."""

    met: int = 0
    failed: int = 0


@dataclass(slots=True)
class Bet:
    """A bet of 1 on RATIOS, AT_ONCE of it placed before the first failure."""

    failures: int = 0
    _bets: Floats = field(default_factory=lambda: np.full(len(RATIOS), -np.inf))  # logarithms
    _placed: float = 0.0

    def place(self, log_ratio: Floats, failures: int) -> None:
        """What a step's failures say: by each of RATIOS the logarithm of its likelihood over the null's."""
        placed = 1.0 - (1.0 - AT_ONCE) / log(e + self.failures / PACE)
        stake = np.log(SHARES) + np.log(placed - self._placed) if placed > self._placed else -np.inf
        self._placed = placed
        self._bets = np.logaddexp(self._bets, stake) + log_ratio
        self.failures += failures

    @property
    def evidence(self) -> float:
        """The logarithm of what the bet has become."""
        return float(np.logaddexp.reduce(np.append(self._bets, np.log(1.0 - self._placed))))


@dataclass(slots=True)
class FirstFailures:
    """One arm against its control. `tolerance`: by how much the arm's rate may be higher."""

    tolerance: float
    _bet: Bet = field(default_factory=Bet)
    _met: int = 0  # of the control
    _failed: int = 0

    def take(self, arm: Fresh, control: Fresh) -> None:
        """One step of the guard."""
        self._met, self._failed = self._met + control.met, self._failed + control.failed
        failed, tolerated = arm.failed + control.failed, self._tolerated()
        if failed and arm.met and control.met and tolerated is not None:
            self._bet.place(log_ratio(arm, control, tolerated * RATIOS, tolerated), failed)
        else:
            self._bet.failures += failed

    @property
    def began(self) -> bool:
        """Whether anybody has failed."""
        return self._bet.failures > 0

    @property
    def evidence(self) -> float:
        """The logarithm of what a bet of 1 against the arm's being good has become."""
        return self._bet.evidence

    def _tolerated(self) -> float | None:
        """The tolerated ratio of rates as one of odds, by the highest that the control's rate may be; None
        where any rate of the arm's is tolerated."""
        most = 1.0 + self.tolerance
        if self.tolerance == 0:
            return 1.0
        rate = highest(self._failed, self._met)
        return most * (1 - rate) / (1 - most * rate) if most * rate < 1 else None


def highest(failed: int, met: int) -> float:
    """The upper end of Wilson's interval for a rate, SURE standard errors wide."""
    n, square = max(1, met), SURE * SURE
    middle = (failed + square / 2) / (n + square)
    return min(1.0, middle + SURE * sqrt(middle * (1 - middle) / (n + square)))


def log_ratio(arm: Fresh, control: Fresh, ratios: Floats, least: float) -> Floats:
    """The logarithm of the likelihood of how many failed in the arm, given how many in both, under odds
    multiplied by each of `ratios` over that under `least`."""
    failed = arm.failed + control.failed
    low, high = max(0, failed - control.met), min(failed, arm.met)
    at = np.arange(low, high + 1)
    step = at[1:].astype(np.float64)  # of C(arm.met, k) · C(control.met, failed − k) from k − 1 to k
    up = np.log((arm.met - step + 1) * (failed - step + 1)) - np.log(step * (control.met - failed + step))
    weight = np.concatenate([[0.0], np.cumsum(up)])

    def told(ratio: Floats) -> Floats:
        terms = weight + np.log(ratio)[:, None] * at
        most = terms.max(axis=1)
        whole: Floats = most + np.log(np.exp(terms - most[:, None]).sum(axis=1))
        return arm.failed * np.log(ratio) - whole

    found: Floats = told(ratios) - told(np.array([least]))
    return found
