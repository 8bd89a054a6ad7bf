"""What scoring needs to know of each permitted candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from features.transforms import Lookup, fatigue_of
from serving.bundle import ServedModel
from serving.domain import Candidates, Column
from serving.pipeline import Hydrator, Page


@dataclass(frozen=True)
class Affinity(Hydrator):
    """`model`: the model's score, NaN where it knows nothing of the item."""

    model: ServedModel

    def enabled(self, page: Page) -> bool:
        return page.taste is not None

    def columns(self, page: Page, candidates: Candidates) -> Mapping[str, Column]:
        if page.taste is None:
            return {}
        rows = candidates.rows
        if page.scores is not None and len(rows) and int(rows[-1]) < len(page.scores):
            return {"model": page.scores.take(rows)}
        return {"model": self.model.score(page.taste, rows)}


@dataclass(frozen=True)
class Fatigue(Hydrator):
    """`fatigue`: how often it was displayed lately without an answer; not of who refused personalisation."""

    lookup: Lookup  # rows of item keys

    def enabled(self, page: Page) -> bool:
        contact = page.query.customer.contact
        return page.query.profiling and contact is not None and len(contact) > 0

    def columns(self, page: Page, candidates: Candidates) -> Mapping[str, Column]:
        contact = page.query.customer.contact
        if contact is None or not len(candidates):
            return {}
        return {"fatigue": fatigue_of(contact, candidates.rows, self.lookup, page.query.now)}
