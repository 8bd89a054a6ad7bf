"""What scoring needs to know of each permitted candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from features.transforms import fatigue
from serving.bundle import Popular, ServedModel
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
            return {"model": page.scores[rows]}
        return {"model": self.model.score(page.taste, rows)}


@dataclass(frozen=True)
class Popularity(Hydrator):
    """`popularity`: the log of the item's share in the customer's segment."""

    popular: Popular

    def columns(self, page: Page, candidates: Candidates) -> Mapping[str, Column]:
        return {"popularity": self.popular.log_share(page.segment, candidates.rows)}


class Fatigue(Hydrator):
    """`fatigue`: how often it was displayed lately without an answer."""

    def enabled(self, page: Page) -> bool:
        contact = page.query.customer.contact
        return contact is not None and len(contact) > 0

    def columns(self, page: Page, candidates: Candidates) -> Mapping[str, Column]:
        contact = page.query.customer.contact
        if contact is None:
            return {}
        keys = candidates.items["key"]
        return {"fatigue": fatigue(contact, keys, page.query.now)}
