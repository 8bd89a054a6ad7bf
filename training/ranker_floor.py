"""Clicks that a place gets whatever stands there: by mistake, or by trust in the place.

    P(clicked | displayed) = f + (1 − f) · σ(odds),  f by place

(the trust bias of Agarwal et al. 2019, as a noisy-or). Without it what nobody wants is foretold too few
clicks, and interest, fit and fatigue count for less than they do, for in the log-odds they fade towards the
floor. The floors are learnt beside the trees: between two of them, by expectation and maximisation of the
noisy-or, what part of the clicks was the place's alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FIRST: Final = 0.3  # of a place's clicks that are the floor's, before anything is known
SLOT_CLICKS: Final = 1.0  # expected clicks that FIRST counts for in a slot, a third of them by the floor
PLACE_CLICKS: Final = 20.0  # … and a slot's share in each of its places
MOST: Final = 0.9
EVERY: Final = 2  # trees between two looks at the floors
LAST: Final = 5  # looks after the last tree
SHIFTS: Final = 6
PLACE_WEIGHT: Final = 5.0  # expected answers that a place's first estimate counts for


class Floors:
    """Floors of slots x positions, `cell` (m,) = slot · positions + position of what is learnt from."""

    def __init__(self, draw: Floats, cell: NDArray[np.int64], *, learnt: bool = True) -> None:
        """`draw` (slots, positions): clicks per display of an average item. Without `learnt` no floor."""
        self._draw, self._cell = draw.ravel(), cell
        self._positions, self._learnt = draw.shape[1], learnt
        self._shown = self._draw * np.bincount(cell, minlength=draw.size)
        self._share = np.full(draw.size, FIRST if learnt else 0.0)

    @property
    def table(self) -> Floats:
        """(slots, positions) probabilities."""
        return np.minimum(self._share * self._draw, MOST).reshape(-1, self._positions)

    @property
    def of(self) -> Floats:
        """(m,) of what is learnt from."""
        found: Floats = self.table.ravel()[self._cell]
        return found

    def look(self, odds: Floats, label: Floats) -> None:
        """One step of expectation and maximisation, given log-odds (m,) above the floors."""
        if not self._learnt:
            return
        floor = self.of
        own = np.bincount(self._cell, label * floor / noisy(odds, floor), len(self._draw))
        slots = (-1, self._positions)
        of_slot = own.reshape(slots).sum(axis=1) + SLOT_CLICKS
        due = self._shown.reshape(slots).sum(axis=1) + SLOT_CLICKS / FIRST
        share = np.repeat(of_slot / due, self._positions)
        self._share = share * (own + PLACE_CLICKS) / (share * self._shown + PLACE_CLICKS)

    def objective(self, label: Floats) -> Callable[[Floats, Any], tuple[Floats, Floats]]:
        """Gradient and curvature (Fisher's) of the log loss, for a learner of log-odds above the floors."""
        rounds = 0

        def asked(odds: Floats, _: Any) -> tuple[Floats, Floats]:
            nonlocal rounds
            rounds += 1
            if rounds % EVERY == 0:
                self.look(odds, label)
            floor = self.of
            p, rise = noisy(odds, floor), risen(odds, floor)
            spread = p * (1.0 - p)
            return (p - label) * rise / spread, np.maximum(rise * rise / spread, 1e-9)

        return asked

    def level(self, odds: Floats, label: Floats) -> float:
        """What to add to all log-odds so that all add up to the labels."""
        floor, level = self.of, 0.0
        for _ in range(30):
            miss = (label - noisy(odds + level, floor)).sum()
            step = float(miss / max(risen(odds + level, floor).sum(), 1e-9))
            level += min(max(step, -1.0), 1.0)
            if abs(step) < 1e-9:
                break
        return level

    def shifts(self, odds: Floats, label: Floats) -> Floats:
        """(slots, positions) what to add to each place's log-odds so that each adds up, drawn to nothing."""
        floor, found = self.of, np.zeros(len(self._draw))
        for _ in range(SHIFTS):
            now = odds + found[self._cell]
            miss = np.bincount(self._cell, label - noisy(now, floor), len(found))
            rise = np.bincount(self._cell, risen(now, floor), len(found))
            found += np.clip((miss - PLACE_WEIGHT * found) / (rise + PLACE_WEIGHT), -0.5, 0.5)
        return found.reshape(-1, self._positions)


def noisy(odds: Floats, floor: Floats) -> Floats:
    """(m,) probabilities."""
    return np.clip(floor + (1.0 - floor) * _logistic(odds), 1e-9, 1.0 - 1e-9)


def risen(odds: Floats, floor: Floats) -> Floats:
    """(m,) how they rise with the log-odds."""
    plain = _logistic(odds)
    return (1.0 - floor) * plain * (1.0 - plain)


def _logistic(odds: Floats) -> Floats:
    found: Floats = 1.0 / (1.0 + np.exp(-np.clip(odds, -30.0, 30.0)))
    return found
