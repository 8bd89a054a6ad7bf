"""New items: how far a model's word about each can be trusted, and what the last minutes told of it.

What is predicted of an item that few clicks have taught is off by a factor. That factor has a gamma prior of
mean 1 whose shape counts clicks: `PRIOR` for what attributes tell (an error of about a half), and those that
the bundle learned from. Clicks are Poisson around what was predicted for the very customers who were shown
the item, so the posterior's mean is (shape + clicks) / (shape + clicks predicted), its relative deviation
1 / √(shape + clicks) (Gelman et al., Bayesian Data Analysis, 3rd ed., 2.6). The learner sums both by the
minute; with another bundle, which was taught anew, they begin from nothing.

Thompson sampling (Thompson 1933; Chapelle and Li 2011) shows an item as often as a draw from the posteriors
would put it first; `serving.exploring_kernel` has that chance for two in closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

PRIOR: Final = 4.0  # clicks
KNOWN: Final = 100.0  # clicks from which on the model's word is taken as it is
PREDICTS: Final = ("full", "light")  # rungs whose scores are chances of a click; of the others only an order


class Newcomers(NamedTuple):
    """By row. `shape`: of the factor's prior; `mean`: of its posterior, None while nothing was told."""

    shape: NDArray[np.float32]
    unsure: NDArray[np.float32]  # its relative deviation; 0 what is known
    mean: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, clicks: NDArray[np.floating], rows: int) -> Newcomers:
        """`clicks` of the bundle's rows, not a number where not known; what was put since has met none."""
        met = np.zeros(rows, np.float32)
        met[: len(clicks)] = np.maximum(np.nan_to_num(clicks, nan=0.0, posinf=KNOWN, neginf=0.0), 0.0)
        return cls(met + np.float32(PRIOR), _unsure(met + np.float32(PRIOR)))

    def told(
        self,
        counts: Mapping[int, tuple[float, float]],
        rows_of: Callable[[NDArray[np.uint64]], NDArray[np.int32]],
    ) -> Newcomers:
        """After so many clicks (predicted, met) of items by key; `rows_of` has −1 for what is not there."""
        if not counts:
            return self._replace(unsure=_unsure(self.shape), mean=None)
        rows = rows_of(np.fromiter(counts, np.uint64, len(counts)))
        there = rows >= 0
        rows, (predicted, met) = rows[there], np.array(list(counts.values()), np.float32)[there].T
        mean, shape = np.ones_like(self.shape), self.shape.copy()
        mean[rows] = (self.shape[rows] + met) / (self.shape[rows] + predicted)
        shape[rows] += met
        return self._replace(unsure=_unsure(shape), mean=mean)


def _unsure(shape: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(shape < KNOWN, 1.0 / np.sqrt(shape), 0.0).astype(np.float32)
