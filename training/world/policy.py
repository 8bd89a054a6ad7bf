"""Who decides the pages: the port, and the logging policy that makes the synthetic bank's past."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from features.ids import KIND_CODE
from training.world.catalogue import Catalogue
from training.world.customers import SEGMENTS, Customers
from training.world.layout import Layout
from training.world.rows import CLICKED, DISPLAYED, Rows
from training.world.traffic import permitted


class Policy(Protocol):
    """Decides a day's pages and learns from what arrived. Deterministic given `rng`."""

    def decide(
        self, rng: np.random.Generator, customers: NDArray[np.int64], at: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """(pages, places) item rows for pages of `customers` at `at`; -1 leaves a place empty."""

    def learn(self, rows: Rows) -> None:
        """What arrived since the last call."""


class SegmentPopularity:
    """Popular in the customer's segment, with noise: what a bank without a recommender does, more or less.

    Each day, for each segment, TEMPLATES pages are drawn by Gumbel noise over log click rates (so an item's
    chance is its smoothed rate to the power 1 / temperature); a page request takes one of them at random
    and drops what it may not show.
    """

    TEMPLATES: Final = 48
    SMOOTHING: Final = 40.0  # displays that the prior guess is worth
    POPUPS: Final = 0.5  # share of pages that have a pop-up

    def __init__(
        self,
        rng: np.random.Generator,
        catalogue: Catalogue,
        customers: Customers,
        layout: Layout,
        temperature: float = 1.0,
    ) -> None:
        self._catalogue, self._customers, self._layout = catalogue, customers, layout
        self._temperature = temperature
        self._segment = customers.segment
        guess = 0.05 * np.exp(rng.normal(0, 0.8, len(catalogue)))
        self._clicks = np.tile(guess * self.SMOOTHING, (SEGMENTS, 1))
        self._shown = np.full((SEGMENTS, len(catalogue)), self.SMOOTHING)
        self._pools = [
            np.flatnonzero(np.isin(catalogue.kind, [KIND_CODE[kind] for kind in slot.kinds]))
            for slot in layout.slots
        ]
        self._widths = [
            min(slot.size * 2 + 6, len(pool)) for slot, pool in zip(layout.slots, self._pools, strict=True)
        ]

    def decide(
        self, rng: np.random.Generator, customers: NDArray[np.int64], at: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        pages = np.full((len(customers), self._layout.places), -1, np.int64)
        if not len(customers):
            return pages
        templates = self._templates(rng, float(at.min()))
        chosen = templates[self._segment[customers], rng.integers(0, self.TEMPLATES, len(customers))]
        fine = permitted(self._catalogue, self._customers, customers, chosen, at)
        first = 0
        for index, (slot, width) in enumerate(zip(self._layout.slots, self._widths, strict=True)):
            part, may = chosen[:, first : first + width], fine[:, first : first + width]
            size = min(slot.size, width)
            order = np.argsort(~may, axis=1, kind="stable")[:, :size]
            picked = np.where(np.take_along_axis(may, order, 1), np.take_along_axis(part, order, 1), -1)
            if slot.layout == "popup":
                picked[rng.random(len(pages)) >= self.POPUPS] = -1
            columns = self._layout.columns(index)
            pages[:, columns.start : columns.start + size] = picked
            first += width
        return pages

    def learn(self, rows: Rows) -> None:
        for counts, what in ((self._shown, DISPLAYED), (self._clicks, CLICKED)):
            some = rows[(rows["what"] == what) & (rows["item"] >= 0)]
            cell = self._segment[some["customer"]] * len(self._catalogue) + some["item"]
            counts += np.bincount(cell, minlength=counts.size).reshape(counts.shape)

    def _templates(self, rng: np.random.Generator, now: float) -> NDArray[np.int64]:
        """(segments, TEMPLATES, candidates): per slot its candidates in order; none twice in a template."""
        open_now = (self._catalogue.starts <= now) & (now < self._catalogue.ends)
        score = np.log(self._clicks / self._shown) / self._temperature
        score[:, ~open_now] = -np.inf
        found = np.empty((SEGMENTS, self.TEMPLATES, sum(self._widths)), np.int64)
        for segment in range(SEGMENTS):
            noisy = score[segment] + rng.gumbel(0, 1, (self.TEMPLATES, len(self._catalogue)))
            first = 0
            for pool, width in zip(self._pools, self._widths, strict=True):
                values = noisy[:, pool]
                top = np.argpartition(-values, width - 1, axis=1)[:, :width]
                top = np.take_along_axis(top, np.argsort(-np.take_along_axis(values, top, 1), axis=1), 1)
                rows = pool[top]
                found[segment, :, first : first + width] = rows
                np.put_along_axis(noisy, rows, -np.inf, axis=1)
                first += width
        return found
