"""Where candidates come from. A source proposes once for the whole page, for each kind that is wanted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS
from features.transforms import EventWeights, History, Lookup, history, tokens
from features.views import HISTORY_KEEP
from serving.best import best_of_kinds
from serving.bundle import Neighbours, Popular, ServedModel
from serving.domain import NOTHING, Proposal, Rows, Scores
from serving.pipeline import Demand, Page, Source, Understanding
from serving.proposing import beside, lately_published

EXACT_UP_TO: Final = 20_000  # items; above, the model's own index answers
MOST_HEADS: Final = 2_000  # tables times sets of kinds kept by a source
NEW_FOR_S: Final = 30 * 86_400.0
NEW_KEPT: Final = 8  # of a kind, the latest
CELLS: Final = (6, 5, 4)  # geohash prefixes tried, about 1 km, 5 km and 20 to 40 km wide


@dataclass(frozen=True)
class Taste(Understanding):
    """The history from the live log, and what the model makes of it and of the profile.

    The item that the customer is looking at counts as the last thing they did. What they did decays up to
    the end of what the bundle learned from, not beyond: a bundle of old data serves as well as a fresh one.
    """

    model: ServedModel
    weights: EventWeights
    lookup: Lookup
    until: float = math.inf  # POSIX seconds

    def understand(self, page: Page) -> None:
        customer = page.query.customer
        if customer.recent is not None and len(customer.recent):
            now = min(page.query.now, self.until)
            page.history = history(customer.recent[-HISTORY_KEEP:], self.lookup, now, self.weights)
        page.history = _looking_at(page.history, page.query.anchor_row)
        said = tokens(*customer.profile[:2]) if customer.profile is not None else _NO_TOKENS
        page.taste = self.model.represent(page.history, said, page.segment)


def _looking_at(past: History, anchor: int | None) -> History:
    if anchor is None:
        return past
    before = past.rows != anchor
    rows = np.append(past.rows[before], np.int32(anchor))
    weights = np.append(past.weights[before], np.float32(1 + past.weights[~before].sum()))
    return History(rows.astype(np.int32), weights.astype(np.float32))


_NO_TOKENS: Final = np.empty(0, np.uint32)


class _OfTaste(Source):
    def enabled(self, page: Page) -> bool:
        return page.taste is not None


@dataclass(frozen=True)
class NearestToCustomer(_OfTaste):
    """The model's best of each kind: exactly below `EXACT_UP_TO` items, else by its index.

    Items that nobody may be shown are not looked at.
    """

    model: ServedModel
    by_kind: tuple[Rows, ...]  # the bundle's rows that somebody may be shown
    _rows: Rows = field(init=False)
    _ends: NDArray[np.int64] = field(init=False)
    _wants: dict[Demand, NDArray[np.int64]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        lengths = [len(rows) for rows in self.by_kind]
        object.__setattr__(self, "_rows", np.concatenate(self.by_kind))
        object.__setattr__(self, "_ends", np.cumsum(lengths, dtype=np.int64))

    def propose(self, page: Page) -> Proposal:
        if page.taste is None:
            return NOTHING
        if self.model.n_items > EXACT_UP_TO:
            return _joined(self.model.nearest(page.taste, k, kind) for kind, k in page.demand)
        page.scores = scores = self.model.score_all(page.taste)
        return Proposal(*best_of_kinds(scores, self._rows, self._ends, self._wanted(page.demand)))

    def _wanted(self, demand: Demand) -> NDArray[np.int64]:
        """(kinds,) how many of each; the same for all pages of one shape."""
        wants = self._wants.get(demand)
        if wants is None:
            if len(self._wants) >= MOST_HEADS:
                self._wants.clear()
            wants = np.zeros(len(self._ends), np.int64)
            for kind, k in demand:
                wants[kind] = k
            self._wants[demand] = wants
        return wants


@dataclass(frozen=True)
class NearestToAnchor(Source):
    """What goes with the item that the customer is looking at."""

    neighbours: Neighbours
    k: int = 60

    def enabled(self, page: Page) -> bool:
        return page.query.anchor_row is not None

    def propose(self, page: Page) -> Proposal:
        row = page.query.anchor_row
        return NOTHING if row is None else self.neighbours.similar(row, self.k)


@dataclass(frozen=True)
class NearestToRecent(Source):
    """What goes with the last few items that the customer was drawn to."""

    neighbours: Neighbours
    last: int = 3
    k: int = 16

    def enabled(self, page: Page) -> bool:
        return len(page.history.rows) > 0

    def propose(self, page: Page) -> Proposal:
        near = self.neighbours
        recent = page.history.rows[-self.last :]
        return Proposal(*beside(recent, self.k, near.indptr, near.rows, near.weights))


class _Popular(Source):
    """The head of a table (kinds, kept) of rows, best first, for every kind that is wanted.

    The same for all who share the table and want the same kinds, so it is cut once.
    """

    share: ClassVar[float] = 1.0  # of what is wanted

    def __init__(self, popular: Popular) -> None:
        self.popular = popular
        self._cut: dict[tuple[int, Demand], Proposal] = {}

    def _head(self, page: Page, table: int, rows: Rows, scores: Scores) -> Proposal:
        """`rows` and `scores` (tables, kinds, kept), of which the table's number is wanted."""
        found = self._cut.get((table, page.demand))
        if found is None:
            at = _heads(page.demand, self.share, rows.shape[2])
            mine, score = rows[table].ravel()[at], scores[table].ravel()[at]
            if len(self._cut) >= MOST_HEADS:
                self._cut.clear()
            found = self._cut[table, page.demand] = Proposal(mine[mine >= 0], score[mine >= 0])
        return found


class PopularInSegment(_Popular):
    """Of everybody where the segment is not known."""

    share = 0.5

    def __init__(self, popular: Popular) -> None:
        super().__init__(popular)
        self._tables = {code: place + 1 for place, code in enumerate(popular.segments.tolist())}

    def propose(self, page: Page) -> Proposal:
        table = self._tables.get(page.segment, 0)
        return self._head(page, table, self.popular.top_rows, self.popular.top_scores)


class PopularWithEverybody(_Popular):
    """For the rung that does not look at the customer."""

    def propose(self, page: Page) -> Proposal:
        return self._head(page, 0, self.popular.top_rows, self.popular.top_scores)


class PopularInCity(_Popular):
    share = 0.25

    def __init__(self, popular: Popular) -> None:
        super().__init__(popular)
        self._tables = {code: place for place, code in enumerate(popular.cities.tolist())}

    def enabled(self, page: Page) -> bool:
        return page.city in self._tables

    def propose(self, page: Page) -> Proposal:
        return self._head(page, self._tables[page.city], self.popular.city_rows, self.popular.city_scores)


def _heads(demand: Demand, share: float, kept: int) -> NDArray[np.intp]:
    """Where the first few of each wanted kind stand in a raveled (kinds, kept) table."""
    return np.concatenate(
        [np.arange(kind * kept, kind * kept + min(kept, max(4, round(k * share)))) for kind, k in demand]
        or [np.empty(0, np.intp)]
    )


class NearLocation(Source):
    """Items in the same geohash cell, the smallest cell first; within a cell the most popular first."""

    def __init__(self, ranked: Rows, locations: NDArray[np.bytes_], k: int = 20) -> None:
        """`ranked`: the rows to consider, most popular first; `locations` of all rows."""
        self._k = k
        self._cells: dict[bytes, list[int]] = {}
        placed = ranked[locations[ranked] != b""]
        for row, place in zip(placed.tolist(), locations[placed].tolist(), strict=True):
            for size in CELLS:
                if len(place) >= size:
                    self._cells.setdefault(place[:size], []).append(row)

    def enabled(self, page: Page) -> bool:
        return bool(self._cells) and page.query.context.location is not None

    def propose(self, page: Page) -> Proposal:
        here = (page.query.context.location or "").encode()
        found: dict[int, float] = {}
        for size in CELLS:
            if len(here) >= size and len(found) < self._k:
                for row in self._cells.get(here[:size], ())[: self._k]:
                    found.setdefault(row, size / max(CELLS))
        rows = list(found)[: self._k]
        score = [found[row] for row in rows]
        return Proposal(np.array(rows, np.int32), np.array(score, np.float32))


class New(Source):
    """Published in the last 30 days, or put since the bundle: what no history can speak for yet."""

    def __init__(self, rows: Rows, kinds: NDArray[np.uint8], published: NDArray[np.float64]) -> None:
        """`rows` to consider; `kinds` and `published` (POSIX seconds, infinite: just now) of all rows."""
        latest = rows[np.argsort(-published[rows], kind="stable")]
        kept = [latest[kinds[latest] == kind][:NEW_KEPT] for kind in range(len(KINDS))]
        self._rows = np.concatenate(kept)
        self._at = np.asarray(published[self._rows], np.float64)

    def propose(self, page: Page) -> Proposal:
        if not len(self._rows):
            return NOTHING
        return Proposal(*lately_published(self._rows, self._at, page.query.now, NEW_FOR_S))


@dataclass(frozen=True)
class Cached(Source):
    """The customer's last page, in its order."""

    n_rows: int

    def enabled(self, page: Page) -> bool:
        return page.cached is not None

    def propose(self, page: Page) -> Proposal:
        cached = page.cached if page.cached is not None else NOTHING.rows
        rows = cached[(cached >= 0) & (cached < self.n_rows)]
        _, first = np.unique(rows, return_index=True)
        rows = rows[np.sort(first)].astype(np.int32)
        return Proposal(rows, np.linspace(1, 0.5, len(rows), dtype=np.float32))


def _joined(parts: Iterable[Proposal | tuple[Rows, Scores]]) -> Proposal:
    """Several proposals as one."""
    parts = [part for part in parts if len(part[0])]
    if not parts:
        return NOTHING
    return Proposal(np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))
