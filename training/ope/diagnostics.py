"""Whether a log can tell anything about a policy: weights, effective sample, support.

An estimate is refused where its effective sample is too small, for then neither it nor its interval means
anything: on the Open Bandit data, uniform-random from the Bernoulli-TS log has 656 effective rounds of 10,000
and says 0.0030 where 0.0046 is true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.ope.estimators import Logged, Parts, Slates

LEAST_EFFECTIVE: Final = 100.0  # rounds
LEAST_SHARE: Final = 0.1  # of all rounds: the weights' deviation is three times their mean
LEAST_CUSTOMERS: Final = 30  # effective ones: fewer, drawn anew, say little of how others differ
MEAN_WEIGHT: Final = (0.9, 1.1)
LEAST_SUPPORT: Final = 0.99
MOST_ONE: Final = 0.05  # of all weight, on one round
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    rounds: int
    effective: float
    mean_weight: float
    mean_error: float  # of the mean weight, which is 1 where the chances are right
    largest: float
    support: float  # part of the target's chances on what could be shown; 1 where it is not known to be less
    nothing: float  # part of the places that the target leaves empty: known to earn 0
    warnings: tuple[str, ...]
    refused: bool


def effective_sample(weight: Floats) -> float:
    """Kish 1965: how many rounds of weight 1 are as good; 0 without any weight."""
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares else 0.0


def diagnose(seen: Logged) -> Diagnosis:
    weight, mass, n = seen.weight, seen.mass, len(seen)
    effective, mean = effective_sample(weight), float(mass.mean())
    error = Parts(mass).by(seen.unit).error
    nothing = 0.0 if seen.nothing is None else float(seen.nothing.mean())
    shown = n * (1 - nothing)  # only what is shown must be seen
    largest = float(weight.max())
    support = 1.0 if seen.supported is None else float(seen.supported.mean())
    refused = nothing < 1 and effective < max(LEAST_EFFECTIVE, LEAST_SHARE * shown)
    warnings = []
    customers = float("inf") if seen.unit is None else effective_sample(Parts(mass).by(seen.unit).top)
    if customers < LEAST_CUSTOMERS:
        refused = True
        warnings.append(f"refused: of {customers:,.0f} customers alone; an interval needs {LEAST_CUSTOMERS}")
    elif refused:
        warnings.append(
            f"refused: an effective sample of {effective:,.0f} in {n:,} rounds; log with more exploration, or"
            " evaluate a policy nearer to the one that was logged"
        )
    if not MEAN_WEIGHT[0] <= mean <= MEAN_WEIGHT[1] and abs(mean - 1) > 2 * error:
        warnings.append(
            f"the mean weight is {mean:.3f}, not 1: the logged chances are not those that were drawn by, or"
            " the target shows what was never logged"
        )
    if support < LEAST_SUPPORT:
        warnings.append(
            f"{1 - support:.1%} of what the target shows could not have been shown: what it is worth there"
            " is not known"
        )
    if weight.sum() > 0 and largest / weight.sum() > MOST_ONE:
        warnings.append(f"one round carries {largest / weight.sum():.0%} of all weight")
    return Diagnosis(n, effective, mean, error, largest, support, nothing, tuple(warnings), refused)


@dataclass(frozen=True, slots=True)
class Chained:
    """Whether the cascade form can be believed in one slot: weights are products over its places."""

    slot: str
    effective: float  # pages
    mean_weight: float
    warnings: tuple[str, ...]


def diagnose_chain(seen: Slates) -> Chained:
    """The pages on which the slot held a lottery, by the weight of all its places. What is left empty is
    known, and weighs 1."""
    held = (seen.logged != 1).any(axis=1)
    ratio = seen.target / seen.logged
    whole = np.prod(ratio if seen.nothing is None else np.where(seen.nothing > 0, 1.0, ratio), axis=1)
    weight, unit = whole[held], None if seen.unit is None else seen.unit[held]
    n, effective, mean = len(weight), effective_sample(weight), float(weight.mean())
    where = f"the cascade in {seen.slot}" if seen.slot else "the cascade"
    warnings = []
    if effective < max(LEAST_EFFECTIVE, LEAST_SHARE * n):
        warnings.append(
            f"{where} is refused: an effective sample of {effective:,.0f} in {n:,} pages, for its places in"
            " order are as rare as all of them together; take the independent form, or a policy nearer to the"
            " log"
        )
    if not MEAN_WEIGHT[0] <= mean <= MEAN_WEIGHT[1] and abs(mean - 1) > 2 * Parts(weight).by(unit).error:
        warnings.append(f"the mean weight of {where} is {mean:.3f}, not 1: it shows what was never logged")
    return Chained(seen.slot, effective, mean, tuple(warnings))
