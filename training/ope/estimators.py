"""What another policy would have earned, from pages that were shown by a policy whose chances were logged.

Per round i: reward r, the logged chance p of what was shown, the target's chance π of the same, weight w =
π/p; q, what a model of rewards says of what was shown, v = Σ_a π(a) q(a), what it says of the target.

    ips     mean of w·r                          Horvitz and Thompson 1952: no bias where π > 0 implies p > 0
    snips   Σ w·r / Σ w                          Swaminathan and Joachims 2015: bias of 1/n, much less
                                             variance
    dm      mean of v                        as good as the model
    dr      mean of v + w·(r − q)            Dudík, Langford and Li 2011: right where either is

Slates of K places, each with its own reward: `independent` sums single places by their own weights (Li et al.
2018), right where a place's reward depends on its own item alone; `cascade` takes the places of one slot in
order, the weight of a place being the product of those up to it (McInerney et al. 2020), right where it
depends on those above it. Its doubly robust form (Kiyohara et al. 2022) needs Q, what a model says of this
place's reward *and* of all below it under the target, V = Σ_a π(a) Q(a):

    Σ_k  w_1…w_k · (r_k − Q_k)  +  w_1…w_(k−1) · V_k

With r_k + V_(k+1) − Q_k of mean 0 where the model is right, whatever the weights: with a place's own q and v
instead it would be unbiased by right weights, but not right by a right model alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Logged:
    """n rounds of one place each. Every column is (n,) f8."""

    reward: Floats
    logged: Floats  # P(shown | round) of the policy that showed it, above 0
    target: Floats  # of the policy in question
    model: Floats | None = None  # q
    expected: Floats | None = None  # v
    supported: Floats | None = None  # part of the target's chances on what the logging policy could show
    bound: Floats | None = None  # the largest weight that the round could have had, whatever was drawn
    unit: Codes | None = None  # whose rounds they are, 0 … : customers are independent, their rounds are not
    nothing: Floats | None = None  # the target's chance of leaving the place empty, which is worth 0 for sure

    def __post_init__(self) -> None:
        if len(self.reward) == 0:
            raise ValueError("no rounds were logged")
        if not (self.logged > 0).all():
            raise ValueError("a logged chance is 0: what was shown had one, so the log is not what was drawn")
        for name in ("logged", "target", "model", "expected", "supported", "bound", "unit", "nothing"):
            column = getattr(self, name)
            if column is not None and column.shape != self.reward.shape:
                raise ValueError(f"{name} has {column.shape} entries for {self.reward.shape} rewards")

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def weight(self) -> Floats:
        return self.target / self.logged

    @property
    def mass(self) -> Floats:
        """The weight and what is left empty: 1 in the mean where the chances are right."""
        return self.weight if self.nothing is None else self.weight + self.nothing


@dataclass(frozen=True, slots=True)
class Slates:
    """n pages of one slot's K places in order, columns (n, K). Where nothing stands: reward 0, chances 1."""

    reward: Floats
    logged: Floats
    target: Floats
    model: Floats | None = None  # q: of this place's own reward
    expected: Floats | None = None  # v
    onward: Floats | None = None  # Q: of the rewards here and below, given what stands down to here
    ahead: Floats | None = None  # V: the mean of Q over what the target would put here
    unit: Codes | None = None  # (n,) whose pages they are
    nothing: Floats | None = None  # 1 where the target leaves a place empty, which is worth 0 for sure
    slot: str = ""

    @property
    def chain(self) -> Floats:
        """(n, K) weights of the cascade: of all places down to each."""
        return np.cumprod(self.target / self.logged, axis=1, dtype=np.float64)


def onwards(q: Floats, v: Floats) -> tuple[Floats, Floats]:
    """Q and V, (n, K), of a model in which a place's reward depends on its own item, under a target whose
    places are drawn independently: below there is what the target is worth there, whatever stands above."""
    ahead: Floats = v[:, ::-1].cumsum(axis=1)[:, ::-1]
    return q + ahead - v, ahead


@dataclass(frozen=True, slots=True)
class Parts:
    """An estimate as a mean of one number a round, or as a ratio of two means."""

    top: Floats
    bottom: Floats = field(default_factory=lambda: np.ones(1))

    @property
    def value(self) -> float:
        bottom = float(self.bottom.mean())
        return float(self.top.mean()) / bottom if bottom else 0.0

    @property
    def error(self) -> float:
        """Of the value, by the delta method; infinite for one number alone."""
        n, bottom = len(self.top), np.broadcast_to(self.bottom, self.top.shape)
        if n < 2 or not bottom.any():
            return float("inf")
        spread = self.top - self.value * bottom
        return sqrt(float((spread**2).sum()) * n / (n - 1)) / abs(float(bottom.sum()))

    def by(self, unit: Codes | None) -> Parts:
        """The same value as a ratio of sums over each unit (n,), which are independent of each other."""
        if unit is None:
            return self
        bottom = np.broadcast_to(self.bottom, self.top.shape)
        top, below = (np.bincount(unit, one).astype(np.float64) for one in (self.top, bottom))
        return Parts(top, below)


def ips(seen: Logged) -> Parts:
    return Parts(seen.weight * seen.reward)


def snips(seen: Logged) -> Parts:
    return Parts(seen.weight * seen.reward, seen.mass)


def dm(seen: Logged) -> Parts:
    return Parts(_needed(seen.expected, "expected"))


def dr(seen: Logged) -> Parts:
    residual = seen.reward - _needed(seen.model, "model")
    return Parts(_needed(seen.expected, "expected") + seen.weight * residual)


ESTIMATORS = {"ips": ips, "snips": snips, "dm": dm, "dr": dr}


def independent(seen: Slates) -> Parts:
    """The value of a page. With `model` and `expected` doubly robust, place by place."""
    weight = seen.target / seen.logged
    if seen.model is None or seen.expected is None:
        return Parts((weight * seen.reward).sum(axis=1))
    return Parts((seen.expected + weight * (seen.reward - seen.model)).sum(axis=1))


def cascade(seen: Slates) -> Parts:
    """The value of a page under the cascade; with `onward` and `ahead` doubly robust."""
    weight = seen.chain
    if seen.onward is None or seen.ahead is None:
        return Parts((weight * seen.reward).sum(axis=1))
    before = np.column_stack([np.ones(len(weight)), weight[:, :-1]])
    return Parts((weight * (seen.reward - seen.onward) + before * seen.ahead).sum(axis=1))


def summed(slots: Sequence[Parts]) -> Parts:
    """The value of whole pages, by that of each of their slots on the same pages."""
    return Parts(np.sum([one.top for one in slots], axis=0))


def _needed(column: Floats | None, name: str) -> Floats:
    if column is None:
        raise ValueError(f"this estimator needs the reward model's column `{name}`")
    return column
