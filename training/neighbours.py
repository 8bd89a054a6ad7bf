"""Neighbours by conditional probability: for people who had i, how likely is j. Top 200 per item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from serving.models import NeighbourModel, Neighbours
from training.model import Effort, Params, Positives, TrainData

TOP = 200
LONGEST = 300  # items of one user that are counted, the latest: a crawler's history would cost its square
_BLOCK = 512  # rows of the co-occurrence matrix held at once


@dataclass(slots=True)
class NeighboursByProbability:
    """Tries how far to discount popular neighbours, the pull to popularity, and how fast a history fades.

    weight(i -> j) = n_ij / (n_i + shrink) / p_j ** damping, with p_j the share of users who have j.
    Counts and tables are kept between trials on the same window that do not change them.
    """

    dampings: tuple[float, ...] = (0.3, 0.0)
    shrinks: tuple[float, ...] = (10.0,)
    pseudos: tuple[float, ...] = (0.05, 1.0, 10.0)
    half_lives: tuple[float, ...] = (365.0, 30.0)
    name: ClassVar[str] = "neighbours"
    _counted: tuple[Positives, sparse.csr_array, sparse.csr_array] | None = field(default=None, repr=False)
    _built: tuple[tuple[float, float], Neighbours, NDArray[np.uint16], NDArray[np.float32]] | None = field(
        default=None, repr=False
    )

    def trials(self) -> Sequence[Params]:
        grid = product(self.shrinks, self.dampings, self.half_lives, self.pseudos)
        return [
            {"damping": damping, "shrink": shrink, "pseudo": pseudo, "half_life_days": half_life}
            for shrink, damping, half_life, pseudo in grid
        ]

    def fit(self, data: TrainData, params: Params, effort: Effort) -> NeighbourModel:  # noqa: ARG002
        if self._counted is None or self._counted[0] is not data.positives:
            had = owned(data)
            self._counted = (data.positives, had, cooccurrence(had))
            self._built = None
        _, had, together = self._counted
        wanted = (params["damping"], params["shrink"])
        if self._built is None or self._built[0] != wanted:
            prior = prior_shares(data, had, params["damping"])
            self._built = (wanted, build_neighbours(had, together, *wanted), *prior)
        _, neighbours, segments, prior_table = self._built
        return NeighbourModel(neighbours, prior_table, segments, data.kinds, pseudo=params["pseudo"])


def owned(data: TrainData) -> sparse.csr_array:
    """Who had what: (n_users, n_items) of ones; of a user's items only the `LONGEST` latest."""
    p = data.positives
    last_first = np.arange(len(p))[::-1]
    cell = p.user[last_first].astype(np.int64) * data.n_items + p.item[last_first]
    cell, first = np.unique(cell, return_index=True)
    user, item, age = cell // data.n_items, cell % data.n_items, first
    order = np.lexsort((age, user))
    starts = np.searchsorted(user[order], np.arange(data.n_users))
    place = np.arange(len(order)) - starts[user[order]]
    kept = np.sort(order[place < LONGEST])
    ones = np.ones(len(kept), np.float32)
    return sparse.csr_array((ones, (user[kept], item[kept])), shape=(data.n_users, data.n_items))


def cooccurrence(had: sparse.csr_array) -> sparse.csr_array:
    """n_ij, the users who had both, for i != j: (n_items, n_items); per row the 4 * TOP highest counts."""
    columns = had.T.tocsr()
    blocks = []
    for start in range(0, had.shape[1], _BLOCK):
        block = (columns[start : start + _BLOCK] @ had).tocsr()
        block.sort_indices()
        blocks.append(_thinned(block, start, 4 * TOP))
    stacked: sparse.csr_array = sparse.vstack(blocks, format="csr")
    return stacked


def _thinned(block: sparse.csr_array, start: int, keep: int) -> sparse.csr_array:
    """Without the diagonal, and with at most `keep` entries a row; ties go to the lower item row."""
    row = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    off = block.indices != row + start
    row, column, count = row[off], block.indices[off], block.data[off]
    chosen = np.sort(_first_per_row(row, count, block.shape[0], keep))
    return sparse.csr_array((count[chosen], (row[chosen], column[chosen])), shape=block.shape)


def _first_per_row(
    row: NDArray[np.intp], value: NDArray[np.float32], rows: int, keep: int
) -> NDArray[np.intp]:
    """Positions of the `keep` highest values of each row, row by row, best first; ties in the order given.

    One sort by one integer: the bits of positive floats are ordered as the floats are.
    """
    falling = np.int64(0x7FFFFFFF) - value.view(np.int32)
    order = np.argsort((row.astype(np.int64) << 32) | falling, kind="stable")
    starts = np.searchsorted(row, np.arange(rows))  # `row` ascends
    place = np.arange(len(order)) - starts[row[order]]
    found: NDArray[np.intp] = order[place < keep]
    return found


def build_neighbours(
    had: sparse.csr_array, together: sparse.csr_array, damping: float, shrink: float, top: int = TOP
) -> Neighbours:
    """The `top` neighbours of each item by weight, best first."""
    n_items = had.shape[1]
    users = np.bincount(had.indices, minlength=n_items).astype(np.float64)
    probability = users / max(int((np.diff(had.indptr) > 0).sum()), 1)
    row = np.repeat(np.arange(n_items), np.diff(together.indptr))
    column = together.indices
    weight = together.data / (users[row] + shrink)
    if damping:
        weight = weight / probability[column] ** damping
    value = weight.astype(np.float32)
    chosen = _first_per_row(row, value, n_items, top)
    lengths = np.bincount(row[chosen], minlength=n_items)
    indptr = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    return Neighbours(indptr, column[chosen].astype(np.int32), value[chosen])


def prior_shares(
    data: TrainData, had: sparse.csr_array, damping: float, smoothing: float = 50.0
) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """p(a person of the segment has j), smoothed to everybody's, on the neighbour weights' scale."""
    users = np.diff(had.indptr)
    active = users > 0
    everybody = np.asarray(had.sum(axis=0)).ravel() / max(int(active.sum()), 1)
    segments = np.unique(data.customers.segment)
    segments = segments[segments > 0]
    table = np.empty((len(segments) + 1, data.n_items))
    table[0] = everybody
    for place, segment in enumerate(segments):
        members = np.flatnonzero((data.customers.segment == segment) & active)
        counts = np.asarray(had[members].sum(axis=0)).ravel()
        table[place + 1] = (counts + smoothing * everybody) / (len(members) + smoothing)
    overall = np.maximum(everybody, 1e-12)
    return segments, (table / overall**damping).astype(np.float32)
