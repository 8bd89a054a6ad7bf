"""From columns to one score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.events import WHAT
from serving.blend import TERMS, Blend, Looks, probability_of
from serving.catalogue import REPEATS
from serving.domain import Candidates, Column, Scores
from serving.pipeline import Page, Scorer
from serving.tables import Popular

AFTER_MATURITY: Final = REPEATS.index("after_maturity")
LAST: Final = np.float32(1e-4)  # below every score that a blend gives to what can be wanted

_NO_SCORES: Final = np.zeros(0, np.float32)
_OF_CUSTOMER: Final = ("model_score", "fatigue")


class Blended(Scorer):
    """The bundle's blend. A column that could not be had counts as not known.

    What a row adds to the logit whoever asks, by its kind and its popularity in the segment, is worked out
    once per segment. `Blend.score` is the same from its terms.
    """

    def __init__(self, blend: Blend, popular: Popular, kinds: NDArray[np.uint8]) -> None:
        """`kinds` of all rows, those put since the bundle too."""
        from serving.blending import against  # the compiler is heavy: whoever reads plans needs none

        self._against = against
        self._blend, self._popular, self._kinds = blend, popular, kinds
        by_term = blend.coefficients.T[:, kinds]
        self._slope, self._tires = (np.ascontiguousarray(by_term[TERMS.index(t)]) for t in _OF_CUSTOMER)
        self._tables = {code: place + 1 for place, code in enumerate(popular.segments.tolist())}
        self._constant: dict[int, tuple[Scores, Scores]] = {}  # by the row of the popularity table

    def score(self, page: Page, candidates: Candidates) -> Scores:
        columns, (_, slope, with_model, without) = candidates.columns, self.looks(page)
        model, fatigue = columns.get("model", _NO_SCORES), columns.get("fatigue", _NO_SCORES)
        given = self._against(candidates.rows, model, fatigue, slope, with_model, without, self._tires)
        return probability_of(given)

    def looks(self, page: Page) -> Looks:
        """What the page knows already of every row, before fatigue: for a look, not a place."""
        table = self.table_of(page)
        if table not in self._constant:
            self._constant[table] = self._of(page.segment)
        without, with_model = self._constant[table]
        return Looks(_NO_SCORES if page.scores is None else page.scores, self._slope, with_model, without)

    def table_of(self, page: Page) -> int:
        """The popularity table of the customer's segment: what is the same for all who share it."""
        return self._tables.get(page.segment, 0)

    def _of(self, segment: int) -> tuple[Scores, Scores]:
        """The logit of every row before fatigue: where the model is silent, and where it says 0."""
        n = len(self._kinds)
        popularity = self._popular.log_share(segment, np.arange(n, dtype=np.int32))
        silent, zero = np.full(n, np.nan, np.float32), np.zeros(n, np.float32)
        return (
            self._blend.logit(self._kinds, silent, popularity, zero),
            self._blend.logit(self._kinds, zero, popularity, zero),
        )

    def terms(self, page: Page, candidates: Candidates) -> Mapping[str, Column]:
        n = len(candidates)
        table = self._blend.terms(
            candidates.items["kind"],
            candidates.columns.get("model", np.full(n, np.nan, np.float32)),
            self._popular.log_share(page.segment, candidates.rows),
            candidates.columns.get("fatigue", np.zeros(n, np.float32)),
        )
        return {name: table[:, i] for i, name in enumerate(TERMS)}


@dataclass(frozen=True)
class HeldLast(Scorer):
    """What is held and may be bought again after its maturity is offered only when nothing else is left.

    Relevance, not permission (`repeat: never` is that): where holdings are not known, nothing changes.
    """

    again: Mapping[int, int]  # key64 -> row of the items that may be

    @classmethod
    def of(cls, repeat: Column, keys: Column) -> HeldLast:
        rows = np.flatnonzero(repeat == AFTER_MATURITY)
        return cls(dict(zip(keys[rows].tolist(), rows.tolist(), strict=True)))

    def score(self, page: Page, candidates: Candidates) -> Scores:
        customer = page.query.customer
        if not customer.knows("holdings"):
            return candidates.score
        held: list[int] = customer.get("holdings").tolist()
        if customer.contact is not None:
            held += customer.contact["item"][customer.contact["what"] == WHAT["converted"]].tolist()
        owned = [self.again[key] for key in held if key in self.again]
        if not owned:
            return candidates.score
        last: Scores = candidates.score.copy()
        last[np.isin(candidates.rows, owned)] *= LAST
        return last
