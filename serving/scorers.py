"""From columns to one score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from features.events import WHAT
from serving.blend import TERMS, Blend
from serving.catalogue import REPEATS
from serving.domain import Candidates, Column, Scores
from serving.pipeline import Page, Scorer

AFTER_MATURITY: Final = REPEATS.index("after_maturity")
LAST: Final = np.float32(1e-4)  # below every score that a blend gives to what can be wanted


@dataclass(frozen=True)
class Blended(Scorer):
    """The bundle's blend. A column that could not be had counts as not known."""

    blend: Blend

    def score(self, page: Page, candidates: Candidates) -> Scores:  # noqa: ARG002
        return self.blend.score(candidates.items["kind"], *_inputs(candidates))

    def terms(self, page: Page, candidates: Candidates) -> Mapping[str, Column]:  # noqa: ARG002
        table = self.blend.terms(candidates.items["kind"], *_inputs(candidates))
        return {name: table[:, i] for i, name in enumerate(TERMS)}


@dataclass(frozen=True)
class HeldLast(Scorer):
    """What is held and may be bought again after its maturity is offered only when nothing else is left.

    Relevance, not permission (`repeat: never` is that): where holdings are not known, nothing changes.
    """

    def score(self, page: Page, candidates: Candidates) -> Scores:
        customer = page.query.customer
        again = candidates.items["repeat"] == AFTER_MATURITY
        if not again.any() or not customer.knows("holdings"):
            return candidates.score
        held = customer.get("holdings")
        if customer.contact is not None:
            bought = customer.contact["item"][customer.contact["what"] == WHAT["converted"]]
            held = np.concatenate((held, bought))
        owned = again & np.isin(candidates.items["key"], held)
        last: Scores = np.where(owned, candidates.score * LAST, candidates.score).astype(np.float32)
        return last


def _inputs(candidates: Candidates) -> tuple[Scores, Scores, Scores]:
    columns, n = candidates.columns, len(candidates)
    unknown = np.full(n, np.nan, np.float32)
    return (
        columns.get("model", unknown),
        columns.get("popularity", unknown),
        columns.get("fatigue", np.zeros(n, np.float32)),
    )
