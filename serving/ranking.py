"""The stage that ranks: the customer, the moment and the best candidates to probabilities of a click.

Of more than MOST candidates those that the blend holds best take part, kind by kind in the measure of the
places that may take them; the others keep the blend's score, brought to the level of their kind. What the
bank's own models say counts in both, as far as they are believed (`serving.trust`). Where the
bundle has no ranker the stage is not there; where it fails the blend's scores stand, and the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS
from features.ranking import FEATURES, OF_PAGE, Facts, matrix
from features.ranking_kernel import logistic
from serving.domain import Candidates, Column, Index, Rows, Scores, SlotRequest
from serving.pipeline import Page, Scorer
from serving.ranker import ByKind, Ranker
from serving.reasons import Lift
from serving.tables import Popular
from serving.trust import shifted

MOST: Final = 100

_LIFTS: Final[Mapping[Lift, tuple[str, ...]]] = {
    Lift.INTEREST: ("interest", "same_category", "same_area", "same_kind", "model"),
    Lift.RECENT: ("own_interest", "since_touched", "since_click", "category_clicks"),
    Lift.DRAWS_CLICKS: ("item_clicks", "item_evidence", "item_conversions", "popularity"),
    Lift.MOMENT: ("hour", "weekday", "month_day", "area_hour", "channel"),
    Lift.SUITS: (*OF_PAGE[3:12], "means", "min_amount", "rate", "risk_class", "price"),
    Lift.RESTED: (
        "shown_1d",
        "shown_7d",
        "shown_30d",
        "tired",
        "since_shown",
        "since_dismissal",
        "category_shown",
    ),
    Lift.FRESH: ("age_days",),
}
"""Which features speak through which reason."""
_AT: Final = {lift: np.array([FEATURES.index(name) for name in names]) for lift, names in _LIFTS.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Signals:
    """What a page knows, as the ranker's matrix: the one way there in service, in training and in replay.

    `scale` (mean, deviation) of the model's scores: another fit speaks in another unit.
    """

    facts: Facts
    popular: Popular
    scale: tuple[float, float]
    _shares: dict[int, Scores] = field(default_factory=dict, repr=False)  # log share of every row by segment

    def matrix(self, page: Page, candidates: Candidates) -> NDArray[np.float32]:
        """(features, n) f4 for candidates of the bundle's rows, after the hydrators."""
        query = page.query
        model, share = candidates.columns.get("model"), self._share(page.segment)
        channel = query.context.channel
        return matrix(
            query.customer, query.now, channel, candidates.rows, model, self.scale, share, self.facts
        )

    def _share(self, segment: int) -> Scores:
        found = self._shares.get(segment)
        if found is None:
            if len(self._shares) >= 512:
                self._shares.clear()
            every = np.arange(len(self.facts.keys), dtype=np.int32)
            found = self._shares[segment] = self.popular.log_share(segment, every)
        return found


class Ranked(Scorer):
    """P(clicked | displayed at the first place of the first slot that takes it), by the bundle's ranker."""

    def __init__(self, ranker: Ranker, popular: Popular, kinds: NDArray[np.uint8]) -> None:
        """`kinds` of all rows, those put since the bundle too: these are not ranked yet."""
        self.ranker = ranker
        self.signals = Signals(ranker.facts, popular, ranker.scale)
        self._kinds = np.minimum(kinds, len(KINDS)).astype(np.uint8)
        self._keys = ranker.facts.keys
        self._tables: dict[tuple[tuple[int, tuple[int, ...]], ...], ByKind] = {}

    def score(self, page: Page, candidates: Candidates) -> Scores:
        said, told, blended = page.query.customer.external, None, candidates.score
        if len(said):
            told = self.ranker.trust.shifts(said, page.query.now, self._keys, candidates.rows)
        if told is None:
            return self._ranked(page, candidates, blended)
        return shifted(self._ranked(page, candidates, shifted(blended, told)), told)

    def _ranked(self, page: Page, candidates: Candidates, promise: Scores) -> Scores:
        """`promise` (n,) says who takes part."""
        if 0 < len(candidates) <= MOST and candidates.rows[-1] < len(self.ranker):  # all do
            mine = self.odds(page, candidates)
            logistic(mine)
            return mine
        chosen = chosen_of(candidates.rows, promise, self._kinds, page.demand, len(self.ranker))
        if not len(chosen):
            return candidates.score
        mine = self.odds(page, candidates.take(chosen))
        logistic(mine)
        return levelled(candidates, chosen, mine, self._kinds)

    def odds(self, page: Page, some: Candidates, known: NDArray[np.float32] | None = None) -> Scores:
        """(n,) calibrated log-odds of a click, each at the place that its kind is compared at."""
        found = self.signals.matrix(page, some) if known is None else known
        table = self._table(page.query.slots)
        return self.ranker.click.by_kind(found, some.rows, self._kinds, table, len(OF_PAGE))

    def terms(self, page: Page, candidates: Candidates) -> Mapping[str, Column]:
        """What each reason adds to the log-odds: the score less what it were with those features neutral."""
        inside = np.flatnonzero(candidates.rows < len(self.ranker))
        some = candidates.take(inside)
        known = self.signals.matrix(page, some)
        whole = self.odds(page, some, known)
        found: dict[str, Column] = {}
        for lift, features in _AT.items():
            without = known.copy()
            without[features] = self.ranker.neutral[features][:, None]
            column = np.full(len(candidates), np.nan, np.float32)
            column[inside] = whole - self.odds(page, some, without)
            found[lift.code] = column
        return found

    def _table(self, slots: Sequence[SlotRequest]) -> ByKind:
        key = tuple([(asked.spec.index, asked.spec.kinds) for asked in slots])
        found = self._tables.get(key)
        if found is None:
            click, first = self.ranker.click, np.full(len(KINDS) + 1, len(self.ranker.slots), np.intp)
            for asked in reversed(slots):
                first[list(asked.spec.kinds)] = self.ranker.code(asked.spec.name)
            every = np.arange(len(first))
            lines = click.slope[first, every], click.level[first, every]
            found = ByKind(click.place[first, 0], click.floor[first, 0], *lines, click.bend[first])
            if len(self._tables) >= 256:
                self._tables.clear()
            self._tables[key] = found
        return found


def chosen_of(
    rows: Rows, score: Scores, kinds: NDArray[np.uint8], demand: Sequence[tuple[int, int]], inside: int
) -> Index:
    """Positions of those that are ranked, ascending: at most MOST, of rows below `inside`."""
    known = int(np.searchsorted(rows, inside))  # rows ascend
    if known <= MOST:
        return np.arange(known)
    code = kinds.take(rows[:known])
    wanted = np.zeros(len(KINDS) + 1)
    for kind, count in demand:
        wanted[kind] = count
    there = np.bincount(code, minlength=len(wanted))
    wanted = np.minimum(wanted, there)
    share = np.floor(wanted * min(1.0, MOST / max(wanted.sum(), 1.0))).astype(np.intp)
    order = np.lexsort((-np.nan_to_num(score[:known]), code))
    turn = np.arange(known) - np.repeat(np.cumsum(there) - there, there)
    kept: Index = np.sort(order[turn < share[code[order]]])
    return kept


def levelled(candidates: Candidates, chosen: Index, mine: Scores, kinds: NDArray[np.uint8]) -> Scores:
    """The whole column: those chosen as ranked, the rest at the blend's score times their kind's ratio."""
    score = np.nan_to_num(candidates.score).astype(np.float64)
    code = kinds.take(candidates.rows)
    width = len(KINDS) + 1
    ranked = np.bincount(code[chosen], mine, width)
    blended = np.bincount(code[chosen], score[chosen], width)
    ratio = np.divide(ranked, blended, out=np.ones(width), where=blended > 0)
    found: Scores = np.minimum(score * ratio[code], 1.0).astype(np.float32)
    found[chosen] = mine
    return found
