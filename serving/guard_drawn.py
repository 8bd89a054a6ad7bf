"""The guard's test for failures where arms are drawn hour by hour by chances that move.

An adaptive experiment sends each customer each hour to an arm by chances that depend on their segment and on
what was learned by then, so arms differ in whom and when they meet, and counts of them cannot be compared.
But of every customer and hour the draw's own chances are logged. If the arm changes nothing, whether the
first page of the hour fails does not depend on what was drawn: of a page that failed in the arm or in the
control it was the arm's with probability π = p / (p + q), of their two chances. Under an arm that fails ρ
times as often it is ρπ / (ρπ + 1 - π), and the product of the ratio of the two over failures is a test
martingale (Ville), exact however the chances came about, as long as they came before the draw; ρ is a ratio
of rates here, so that a tolerance needs no estimate. Later pages of the hour are not looked at: nothing is
drawn anew for them. The bet is that of `guard_failures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from serving.guard_failures import RATIOS, Bet, Floats


class Drawn(NamedTuple):
    """Failures of a step: of each whether it was in the arm, and π."""

    in_arm: Sequence[bool] = ()
    chance: Sequence[float] = ()


@dataclass(slots=True)
class DrawnFailures:
    """One arm against its control. `tolerance`: by how much the arm's rate may be higher."""

    tolerance: float
    _bet: Bet

    @classmethod
    def of(cls, tolerance: float) -> DrawnFailures:
        return cls(tolerance, Bet())

    def take(self, step: Drawn) -> None:
        least = 1.0 + self.tolerance
        for in_arm, chance in zip(step.in_arm, step.chance, strict=True):
            self._bet.place(log_ratio(in_arm, chance, least * RATIOS, least), 1)

    @property
    def began(self) -> bool:
        return self._bet.failures > 0

    @property
    def evidence(self) -> float:
        return self._bet.evidence


def log_ratio(in_arm: bool, chance: float, ratios: Floats, least: float) -> Floats:
    """The logarithm of the likelihood of one failure's arm under each ratio of rates, over that under
    `least`."""
    told: Floats = np.log(least * chance + 1 - chance) - np.log(ratios * chance + 1 - chance)
    return told + np.log(ratios / least) if in_arm else told
