"""The source of the bank's own models: what their imported scores propose, until they expire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from features.transforms import Lookup
from serving.domain import NOTHING, Proposal
from serving.pipeline import Page, Source

OF_A_MODEL: Final = 16  # proposed at most, the best


@dataclass(frozen=True)
class External(Source):
    """The best items of each model. Its score is the place among the model's own: models do not compare,
    and what is shown is ranked by the bundle's blend as everything is.
    """

    lookup: Lookup

    def enabled(self, page: Page) -> bool:
        return len(page.query.customer.external) > 0

    def propose(self, page: Page) -> Proposal:
        held = page.query.customer.external
        held = held[(held["expires"] > page.query.now) & np.isfinite(held["score"])]
        rows = self.lookup(held["item"])
        held, rows = held[rows >= 0], rows[rows >= 0]
        if not len(rows):
            return NOTHING
        order = np.lexsort((rows, -held["score"], held["model"]))
        model = held["model"][order]
        first = np.searchsorted(model, model)
        place = np.arange(len(order)) - first
        kept = place < OF_A_MODEL
        score = 1.0 / (1.0 + place[kept])
        rows, score = rows[order][kept], score.astype(np.float32)
        best = np.lexsort((-score, rows))  # an item that several models name is proposed once
        once = best[np.append(True, rows[best][1:] != rows[best][:-1])]
        return Proposal(rows[once].astype(np.int32), score[once])
