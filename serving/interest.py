"""What was touched a moment ago counts at once, also where the model that serves knows no history.

A model by popularity alone may be the best on later data (a tiny catalogue, mostly new customers), and yet
the next page has to answer what the customer just did. How much it lifts is assumed, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from serving.domain import Candidates, Scores
from serving.pipeline import Page, Scorer
from serving.tables import Neighbours

LAST: Final = 3  # items of the history that count
NEIGHBOURS: Final = 50
LIFT: Final = 1.0  # log-odds for the item itself, and for its nearest neighbour


@dataclass(frozen=True)
class RecentInterest(Scorer):
    """Lifts the last items of the history, and what goes with them by how closely it does."""

    neighbours: Neighbours

    def enabled(self, page: Page) -> bool:
        return len(page.history.rows) > 0

    def score(self, page: Page, candidates: Candidates) -> Scores:
        lift = np.exp(LIFT * self.related(page, candidates))
        odds = candidates.score * lift
        lifted: Scores = (odds / (1 - candidates.score + odds)).astype(np.float32)
        return lifted

    def related(self, page: Page, candidates: Candidates) -> Scores:
        """(n,) f4 in [0, 1]: the closest tie to any of the last items; 1 for such an item itself."""
        found = np.zeros(len(candidates), np.float32)
        for row in page.history.rows[-LAST:].tolist():
            near = self.neighbours.similar(row, NEIGHBOURS)
            rows = np.append(near.rows, np.int32(row))
            ties = np.append(near.score / near.score[0] if len(near.score) else near.score, np.float32(1))
            at = np.minimum(np.searchsorted(candidates.rows, rows), max(len(candidates) - 1, 0))
            hit = candidates.rows[at] == rows if len(candidates) else np.zeros(len(rows), np.bool_)
            np.maximum.at(found, at[hit], ties[hit])
        return found
