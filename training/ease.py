"""EASE (Steck 2019): the item-item weights that best rebuild everybody's items, in closed form.

    min_B |X - X B|² + l2 |B|²  with diag B = 0:    P = (Xᵀ X + l2 I)⁻¹,  B_ij = -P_ij / P_jj

with X (users, items) of ones. One dense inverse of the catalogue's size: about n² · 4 bytes (8 below
`DOUBLE_UP_TO` items) and n³ operations. Of a large catalogue the `top` weights of each item are served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits

from serving.domain import Scores
from serving.models import EaseModel, Neighbours
from training.model import NEVER, Effort, Params, Positives, TrainData
from training.neighbours import prior_shares

MOST_ITEMS = 20_000  # above, the items that fewest have get no weights: only popularity ranks them
DOUBLE_UP_TO = 6_000
_BLOCK = 512


@dataclass(slots=True)
class Ease:
    """Tries the ridge (an inverse each), and how fast a history fades.

    All weights are served of a catalogue of at most `whole_up_to` items, else the `top` of each.

    The inverse is kept between trials on the same window that do not change it.
    """

    ridges: tuple[float, ...] = (300.0, 1000.0, 100.0, 30.0)
    pseudos: tuple[float, ...] = (0.01,)
    half_lives: tuple[float, ...] = (NEVER, 30.0)
    top: int = 200
    whole_up_to: int = 4_000
    name: ClassVar[str] = "ease"
    _fitted: tuple[Positives, tuple[float, int], Neighbours | Scores] | None = field(default=None, repr=False)

    def trials(self) -> Sequence[Params]:
        return [
            {"l2": l2, "pseudo": pseudo, "half_life_days": half_life}
            for l2, half_life, pseudo in product(self.ridges, self.half_lives, self.pseudos)
        ]

    def fit(self, data: TrainData, params: Params, effort: Effort) -> EaseModel:
        had = everything_had(data)
        wanted = params["l2"], int(params.get("most", MOST_ITEMS))
        if self._fitted is None or self._fitted[0] is not data.positives or self._fitted[1] != wanted:
            if data.n_items <= self.whole_up_to:
                whole = fit_whole(had, wanted[0], effort.threads)
                self._fitted = (data.positives, wanted, whole)
            else:
                weights = fit_weights(had, wanted[0], self.top, effort.threads, wanted[1])
                self._fitted = (data.positives, wanted, weights)
        found = self._fitted[2]
        segments, prior = prior_shares(data, had, damping=0.0)
        if isinstance(found, Neighbours):
            return EaseModel(found, prior, segments, data.kinds, pseudo=params["pseudo"])
        none = Neighbours(
            np.zeros(data.n_items + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
        )
        return EaseModel(none, prior, segments, data.kinds, pseudo=params["pseudo"], whole=found)


def everything_had(data: TrainData) -> sparse.csr_array:
    """Who had what: (n_users, n_items) of ones."""
    cell = np.unique(data.positives.user.astype(np.int64) * data.n_items + data.positives.item)
    user, item = np.divmod(cell, data.n_items)
    return sparse.csr_array(
        (np.ones(len(cell), np.float32), (user, item)), shape=(data.n_users, data.n_items)
    )


def fit_weights(
    had: sparse.csr_array, l2: float, top: int, threads: int = 1, most: int = MOST_ITEMS
) -> Neighbours:
    """B as a table by source item, best first; of each target the `top` weights of largest size. Only the
    `most` items that most users have get any.

    Raises ValueError where `l2` is not positive or the inverse is not finite.
    """
    chosen, inverse = _solved(had, l2, threads, most)
    source, target, weight = _largest(inverse, top)
    order = np.lexsort((-weight, source))
    lengths = np.zeros(had.shape[1], np.int64)
    lengths[chosen] = np.bincount(source, minlength=len(chosen))
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    return Neighbours(indptr, chosen[target[order]].astype(np.int32), weight[order])


def fit_whole(had: sparse.csr_array, l2: float, threads: int = 1) -> Scores:
    """B as a matrix (source, target) f4. Raises as `fit_weights` does."""
    chosen, inverse = _solved(had, l2, threads)
    weights = (-inverse / inverse.diagonal()).astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    found = np.zeros((had.shape[1],) * 2, np.float32)
    found[np.ix_(chosen, chosen)] = weights
    return found


def _solved(
    had: sparse.csr_array, l2: float, threads: int, most: int = MOST_ITEMS
) -> tuple[NDArray[np.intp], NDArray[np.floating]]:
    """The items that somebody has, at most `most`, and their P."""
    if not l2 > 0:
        raise ValueError(f"EASE needs an l2 above 0, not {l2}")
    users = np.bincount(had.indices, minlength=had.shape[1])
    chosen = np.sort(np.argsort(-users, kind="stable")[: min(most, int((users > 0).sum()))])
    with threadpool_limits(limits=threads, user_api="blas"):
        return chosen, _inverse(had[:, chosen], l2)


def _inverse(had: sparse.csr_array, l2: float) -> NDArray[np.floating]:
    """(XᵀX + l2 I)⁻¹, symmetric, in one array of the catalogue's size."""
    n = had.shape[1]
    wide = n <= DOUBLE_UP_TO
    system = np.empty((n, n), np.float64 if wide else np.float32, order="F")
    columns = had.T.tocsr()
    for start in range(0, n, _BLOCK):
        system[start : start + _BLOCK] = (columns[start : start + _BLOCK] @ had).toarray()
    system.flat[:: n + 1] += l2
    factor, invert = (lapack.dpotrf, lapack.dpotri) if wide else (lapack.spotrf, lapack.spotri)
    system, failed = factor(system, lower=1, overwrite_a=1)
    if not failed:
        system, failed = invert(system, lower=1, overwrite_c=1)
    if failed or not np.isfinite(system.diagonal()).all():
        raise ValueError(f"EASE cannot be solved with l2 {l2:g} over {n:,} items: raise l2")
    for start in range(0, n, _BLOCK):  # the upper triangle from the lower
        end = min(start + _BLOCK, n)
        corner = np.tril(system[start:end, start:end])
        system[start:end, start:end] = corner + np.tril(corner, -1).T
        system[start:end, end:] = system[end:, start:end].T
    found: NDArray[np.floating] = system
    return found


def _largest(
    inverse: NDArray[np.floating], top: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """(source, target, weight) of the `top` weights of largest size of each target; zeros are left out."""
    n = len(inverse)
    keep = min(top or n, n)
    parts: list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]] = []
    for start in range(0, n, _BLOCK):
        block = -inverse[start : start + _BLOCK] / inverse.diagonal()[start : start + _BLOCK, None]
        rows = np.arange(len(block))
        block[rows, rows + start] = 0.0
        size = -np.abs(block)
        at = (
            np.argpartition(size, keep - 1, axis=1)[:, :keep]
            if keep < n
            else np.tile(np.arange(n), (len(rows), 1))
        )
        weight = np.take_along_axis(block, at, axis=1).astype(np.float32)
        target = np.repeat(rows + start, keep)
        kept = weight.ravel() != 0
        parts.append((at.ravel()[kept], target[kept], weight.ravel()[kept]))
    source, target, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    return source, target, weight
