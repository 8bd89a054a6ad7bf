"""Tables that answer without knowing the customer: what is popular where, and what goes with an item."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.domain import NOTHING, Proposal, Rows, Scores
from serving.taste import KindRows, best_rows, load_array, save_arrays, scores_of

_FLOOR = 1e-9  # the share of an item nobody has touched, so that its logarithm stays finite


@dataclass(frozen=True, slots=True)
class Popular:
    """Decayed shares of what people did, smoothed towards everybody's.

    `shares` (1 + segments, n_items) f4: row 0 is everybody, row i the segment `segments[i - 1]`; each row
    sums to 1 over all items. `top_rows`/`top_scores` (1 + segments, kinds, K): the best of each, padded with
    row -1. `cities` (C,) u4 ascending with `city_rows`/`city_scores` (C, kinds, K). A share is the
    probability that the next thing such a person does is with that item.
    """

    shares: Scores
    segments: NDArray[np.uint16]
    top_rows: Rows
    top_scores: Scores
    cities: NDArray[np.uint32]
    city_rows: Rows
    city_scores: Scores

    @property
    def n_items(self) -> int:
        return int(self.shares.shape[1])

    def row_of(self, segment: int) -> int:
        """The table row of a segment; 0 (everybody) where it is not known."""
        return place_of(self.segments, segment) + 1

    def top(self, segment: int, city: int, kind: int, k: int) -> Proposal:
        """The most popular items of a kind, best first (at most K, as published).

        With `city` 0: in the segment (everybody where the segment is 0 or not known). With another
        city: there; nothing at all for a city without a table, so that no reason "popular here" is untrue.
        """
        if city:
            at = place_of(self.cities, city)
            if at < 0:
                return NOTHING
            rows, scores = self.city_rows[at, kind, :k], self.city_scores[at, kind, :k]
        else:
            table = self.row_of(segment)
            rows, scores = self.top_rows[table, kind, :k], self.top_scores[table, kind, :k]
        kept = rows >= 0
        return Proposal(rows, scores) if kept.all() else Proposal(rows[kept], scores[kept])

    def share(self, segment: int, rows: Rows) -> Scores:
        """The share of each row in the segment; NaN for rows that came after the bundle."""
        return scores_of(self.shares[self.row_of(segment)], rows)

    def log_share(self, segment: int, rows: Rows) -> Scores:
        """Its logarithm, floored so that an item nobody has touched has a finite one."""
        found: Scores = np.log(self.share(segment, rows) + np.float32(_FLOOR))
        return found

    def save(self, folder: Path) -> None:
        save_arrays(folder, **{name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def load(cls, folder: Path) -> Popular:
        part: dict[str, Any] = {name: load_array(folder, name) for name in cls.__slots__}
        return cls(**part)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """For each item the up to 200 others most likely for people who had it, best first (CSR).

    `weights` are conditional probabilities p(j | i), divided by p(j) to the power that training chose.
    """

    indptr: NDArray[np.int64]
    rows: Rows
    weights: Scores

    @property
    def n_items(self) -> int:
        return len(self.indptr) - 1

    def similar(self, row: int, k: int) -> Proposal:
        """At most `k` neighbours of an item, best first; none for an item that came after the bundle."""
        if not 0 <= row < self.n_items:
            return NOTHING
        start = int(self.indptr[row])
        end = min(int(self.indptr[row + 1]), start + k)
        return Proposal(self.rows[start:end], self.weights[start:end])

    def gather(self, rows: Rows, weights: Scores) -> Scores:
        """Sum of `weights[i]` times the neighbour weights of `rows[i]`, per item: (n_items,) f4."""
        starts = self.indptr[rows]
        lengths = self.indptr[rows + 1] - starts
        total = int(lengths.sum())
        if not total:
            return np.zeros(self.n_items, np.float32)
        before = np.cumsum(lengths) - lengths
        at = np.arange(total) + np.repeat(starts - before, lengths)
        spread = self.weights[at] * np.repeat(weights, lengths)
        return np.bincount(self.rows[at], spread, self.n_items).astype(np.float32)

    def save(self, folder: Path) -> None:
        save_arrays(folder, indptr=self.indptr, rows=self.rows, weights=self.weights)

    @classmethod
    def load(cls, folder: Path) -> Neighbours:
        part: dict[str, Any] = {name: load_array(folder, name) for name in cls.__slots__}
        return cls(**part)


def place_of(codes: NDArray[np.unsignedinteger], code: int) -> int:
    """Where `code` stands in ascending `codes`; -1 where it does not."""
    if not 0 < code <= np.iinfo(codes.dtype).max:
        return -1
    at = int(np.searchsorted(codes, codes.dtype.type(code)))
    return at if at < len(codes) and int(codes[at]) == code else -1


def top_table(table: Scores, kinds: KindRows, k: int) -> tuple[Rows, Scores]:
    """The `k` best of each kind for each row of `table` (r, n_items): both (r, kinds, k), -1 padded.

    Items with a score of 0 or less are left out: nobody has touched them.
    """
    shape = (len(table), len(kinds.rows), k)
    rows, scores = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    for r, values in enumerate(table):
        for kind, members in enumerate(kinds.rows):
            at = best_rows(values[members], k)
            at = at[values[members[at]] > 0]
            rows[r, kind, : len(at)] = members[at]
            scores[r, kind, : len(at)] = values[members[at]]
    return rows, scores
