"""From columns to one score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.events import WHAT
from serving.blend import TERMS, Blend, Looks, probability
from serving.catalogue import REPEATS
from serving.domain import Candidates, Column, Rows, Scores
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
        self._blend, self._popular, self._kinds = blend, popular, kinds
        by_term = blend.coefficients.T[:, kinds]
        self._slope, self._tires = (np.ascontiguousarray(by_term[TERMS.index(t)]) for t in _OF_CUSTOMER)
        self._tables = {code: place + 1 for place, code in enumerate(popular.segments.tolist())}
        self._constant: dict[int, tuple[Scores, Scores]] = {}  # by the row of the popularity table

    def score(self, page: Page, candidates: Candidates) -> Scores:
        rows, columns = candidates.rows, candidates.columns
        logit = self._logit(page, rows, columns.get("model"))
        fatigue = columns.get("fatigue")
        if fatigue is not None:
            logit += self._tires.take(rows) * fatigue
        return probability(logit)

    def looks(self, page: Page) -> Looks:
        """What the page knows already of every row, before fatigue: for a look, not a place."""
        table = self._tables.get(page.segment, 0)
        if table not in self._constant:
            self._constant[table] = self._of(page.segment)
        without, with_model = self._constant[table]
        return Looks(_NO_SCORES if page.scores is None else page.scores, self._slope, with_model, without)

    def _logit(self, page: Page, rows: Rows, model: Scores | None) -> Scores:
        table = self._tables.get(page.segment, 0)
        if table not in self._constant:
            self._constant[table] = self._of(page.segment)
        without, with_model = self._constant[table]
        if model is None:
            return without.take(rows)
        logit: Scores = self._slope.take(rows)
        logit *= model
        logit += with_model.take(rows)
        unknown = np.isnan(model)
        if unknown.any():
            logit[unknown] = without.take(rows[unknown])
        return logit

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
