"""Alternating least squares for implicit feedback (Hu, Koren, Volinsky 2008), by the `implicit` library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits

from serving.models import Prior, VectorModel
from serving.taste import evidence
from training.model import Effort, Params, Positives, TrainData, decayed
from training.placing import placed
from training.prior import fit_prior, precise

_FIT = ("factors", "iterations", "regularization", "alpha", "half_life_days")  # what the factors depend on
FEWEST_EVENTS = 3  # items a user needs for the factors to say something about the profile's part


@dataclass(frozen=True, slots=True)
class Factors:
    """One fit: item vectors (n_items, d), user vectors (n_users, d), their Gram matrix, the plain prior."""

    items: NDArray[np.float32]
    users: NDArray[np.float32]
    gram: NDArray[np.float64]
    prior: Prior


@dataclass(slots=True)
class ImplicitALS:
    """Tries regularisation with confidence (a fit each), then the prior's strength (only a fold-in each).

    `strength` is tau relative to the mean eigenvalue of YtY, so that it means the same on every data set.
    The factors are kept between trials on the same window that differ in `strength` only.
    """

    factors: int = 64
    iterations: int = 12
    settings: tuple[tuple[float, float], ...] = ((3.0, 1.0), (100.0, 10.0), (30.0, 3.0))
    strengths: tuple[float, ...] = (1.0, 0.1)
    half_lives: tuple[float, ...] = (365.0, 30.0)
    name: ClassVar[str] = "als"
    _fitted: tuple[Positives, tuple[float, ...], Factors] | None = field(default=None, repr=False)

    def trials(self) -> Sequence[Params]:
        return [
            {
                "factors": float(self.factors),
                "iterations": float(self.iterations),
                "regularization": regularization,
                "alpha": alpha,
                "half_life_days": half_life,
                "strength": strength,
            }
            for half_life in self.half_lives
            for regularization, alpha in self.settings
            for strength in self.strengths
        ]

    def fit(self, data: TrainData, params: Params, effort: Effort) -> VectorModel:
        wanted = tuple(
            params[name] for name in ("factors", "iterations", "regularization", "alpha", "half_life_days")
        )
        if self._fitted is None or self._fitted[0] is not data.positives or self._fitted[1] != wanted:
            self._fitted = (data.positives, wanted, fit_factors(data, params, effort))
        return served(self._fitted[2], data.kinds, params)


def served(found: Factors, kinds: NDArray[np.uint8], params: Params) -> VectorModel:
    """The model the service asks, with exact search; `training.index` gives it its index when published."""
    width = found.items.shape[1]
    tau = params["strength"] * max(float(np.trace(found.gram)) / width, 1e-6)
    prior = precise(found.prior, found.gram, params["regularization"], tau)
    return VectorModel(
        found.items,
        kinds,
        prior,
        regularization=params["regularization"],
        tau=tau,
        alpha=params["alpha"],
        gram=found.gram,
    )


def fit_factors(data: TrainData, params: Params, effort: Effort) -> Factors:
    """Matrix, factors and prior of one window. Raises ValueError where the fit is not finite."""
    with threadpool_limits(limits=1, user_api="blas"):
        matrix = confidence(data, params["alpha"], params["half_life_days"])
        users, items = factorise(matrix, params, effort)
        if not (np.isfinite(users).all() and np.isfinite(items).all()):
            raise ValueError(
                f"ALS gave factors that are not finite with {dict(params)}; raise the regularization"
            )
        items[np.diff(matrix.tocsc().indptr) == 0] = 0.0  # nobody met it: none rather than a random one
        items = placed(items, data.had_by(), data.traits, seed=effort.seed)
        active = np.diff(matrix.indptr) >= FEWEST_EVENTS
        wide = items.astype(np.float64)
        return Factors(items, users, wide.T @ wide, fit_prior(users, active, data.customers))


def confidence(data: TrainData, alpha: float, half_life_days: float) -> sparse.csr_matrix:
    """1 + alpha log(1 + decayed weight) of each user and item that met: (n_users, n_items) f4."""
    weight = decayed(data.positives, data.now, half_life_days)
    shape = (data.n_users, data.n_items)
    cell = (data.positives.user, data.positives.item)
    matrix = sparse.csr_matrix((weight, cell), shape=shape, dtype=np.float32)
    matrix.sum_duplicates()
    matrix.data = (1.0 + alpha * evidence(matrix.data)).astype(np.float32)
    return matrix


def width_of(params: Params, users: int, items: int) -> int:
    """Factors that the data can bear: of 24 products no 64, or every customer is fitted exactly."""
    return int(max(2, min(params["factors"], users, items // 4)))


def factorise(
    matrix: sparse.csr_matrix, params: Params, effort: Effort
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The ALS step, matrix in memory to (user, item) factors: timed by `fenliu bench loop`."""
    with threadpool_limits(limits=1, user_api="blas"):  # implicit's own threads do the work
        fitting = AlternatingLeastSquares(
            factors=width_of(params, *matrix.shape),
            regularization=params["regularization"],
            alpha=1.0,  # the matrix holds confidences already
            iterations=int(params["iterations"]),
            num_threads=effort.threads,
            random_state=effort.seed,
        )
        fitting.fit(matrix, show_progress=False)
    return np.asarray(fitting.user_factors, np.float32), np.asarray(fitting.item_factors, np.float32)
