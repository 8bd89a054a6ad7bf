"""Runs the stages of a decision over columns, once for the whole page.

    understand -> propose -> merge -> permit -> hydrate -> score

A stage returns only what it is responsible for: a source rows, a filter a mask, a hydrator columns, a scorer
scores. So none of them can drop, reorder or invent a candidate by accident. Everything here is pure and
synchronous: whatever had to be awaited was awaited before. Relevance fails open, permission never.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final, ParamSpec, TypeVar

import numpy as np

from features.transforms import NO_HISTORY, History
from serving.domain import (
    NOTHING,
    Candidates,
    Column,
    ContractError,
    Drops,
    Facts,
    Index,
    Mask,
    Proposal,
    Query,
    Rows,
    Scores,
)
from serving.reasons import Drop
from serving.stepping import Steps, whole
from serving.taste import Taste

if TYPE_CHECKING:
    from serving.permission import Permission
    from serving.prices import PriceColumns
    from serving.uplift import PerClick

P = ParamSpec("P")
T = TypeVar("T")

Ranked = tuple[Candidates, Candidates, Drops]
Demand = tuple[tuple[int, int], ...]  # (item kind, how many of it may be placed), by kind


@dataclass(slots=True)
class Trace:
    """What happened in one run: which stages failed open, and, where a timer is given, how long each took."""

    timer: Callable[[], float] | None = None
    steps: list[tuple[str, int, float]] = field(default_factory=list)  # stage, candidates met, seconds
    failed: list[str] = field(default_factory=list)

    def note(self, name: str, met: int, start: float) -> None:
        if self.timer is not None:
            self.steps.append((name, met, self.timer() - start))

    def start(self) -> float:
        return self.timer() if self.timer is not None else 0.0


def _no_offers() -> Index:
    return np.empty(0, np.intp)


def _no_prices() -> Scores:
    return np.empty((0, 3), np.float32)


@dataclass(slots=True)
class Page:
    """What the stages of one decision share about the request. Made once, by `decide`."""

    query: Query
    demand: Demand
    segment: int
    city: int  # key32, of the context or else the profile; 0 unknown
    areas: tuple[int, ...]  # the city and the wider areas that contain it
    cached: Rows | None = None
    history: History = NO_HISTORY
    taste: Taste | None = None
    scores: Scores | None = None  # the model's score of every bundle row, when a source has computed them
    owner: int = 0  # key32 of the org whose instance of a template the surface is
    bits: int = 0  # of the plan's slots that are asked for
    price: PriceColumns | None = None
    prices: Scores = field(default_factory=_no_prices)  # (campaigns, 3) CNY per display, click, conversion
    measured: PerClick | None = None  # what a click adds for this customer, where it was measured
    running: Mask | None = None  # (campaigns,) those that may be on this page
    eligible: Mask | None = None  # the same if no arm of an experiment paused any
    spent: list[int] = field(default_factory=list)  # campaigns that would run, were their quotas not spent
    offers: Index = field(default_factory=_no_offers)  # in the offer table, those looked at closely


class Stage(ABC):  # noqa: B024 - what a step does is declared by the kinds of stage below
    """A named step. When it fails it is skipped and counted, unless it says otherwise."""

    fails_open: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return type(self).__name__

    def enabled(self, page: Page) -> bool:  # noqa: ARG002 - stages that depend on the page override it
        return True


class Understanding(Stage):
    @abstractmethod
    def understand(self, page: Page) -> None:
        """Set what later stages read from the page: the history and the taste."""


class Source(Stage):
    @abstractmethod
    def propose(self, page: Page) -> Proposal:
        """Rows, and the source's own score for each."""


class Filter(Stage):
    """One permission rule. Asked only about the candidates that are under it."""

    fails_open = False
    rule: ClassVar[Drop]
    views: ClassVar[tuple[str, ...]] = ()  # what it needs to know of the customer

    @abstractmethod
    def denies(self, page: Page, items: Facts) -> Mask | bool:
        """True for each of the items that may not be shown, or one answer for all under the rule.

        Unknown denies: what is not known is answered with True.
        """

    def cause(self, items: Facts) -> Callable[[Page], Hashable] | None:  # noqa: ARG002
        """All that an answer about these items depends on, when that takes few values; else None.

        Pages with the same cause are answered alike, so the answer is worked out once. `items` are all
        those under the rule.
        """
        return None

    def listed(self, items: Facts) -> Callable[[Page], Sequence[int] | None] | None:  # noqa: ARG002
        """The same answer as a short list, where that is quicker to give than a mask; else None.

        Positions of those of `items` (all under the rule) that are denied; None: all of them.
        """
        return None


class Hydrator(Stage):
    @abstractmethod
    def columns(self, page: Page, candidates: Candidates) -> Mapping[str, Column]:
        """Columns to add, one entry per candidate."""


class Scorer(Stage):
    @abstractmethod
    def score(self, page: Page, candidates: Candidates) -> Scores:
        """The new score of each candidate; the one before is `candidates.score`."""

    def terms(self, page: Page, candidates: Candidates) -> Mapping[str, Column]:  # noqa: ARG002
        """What the score is made of, for `explain`."""
        return {}


class Selector(Stage):
    """Orders what a slot may hold. `origins`: bits of the sources that count for its layout."""

    fails_open = False
    origins: int

    @abstractmethod
    def select(self, positions: list[int]) -> list[int]:
        """Positions, best first, of what suits a slot, in the order to show it; none may be invented."""


@dataclass(frozen=True, slots=True, eq=False)
class Pipeline:
    """The stages of one rung."""

    understanding: tuple[Understanding, ...]
    sources: tuple[tuple[int, Source], ...]  # (origin bit, source)
    permission: Permission
    hydrators: tuple[Hydrator, ...]
    scorers: tuple[Scorer, ...]

    def run(self, page: Page, trace: Trace) -> Ranked:
        """(permitted and scored, everything proposed, what dropped each of the latter)."""
        return whole(self.steps(page, trace))

    def steps(self, page: Page, trace: Trace) -> Steps[Ranked]:
        """`run`, stage by stage. What a stage leaves for the next is the page's own: others come between."""
        for u in self.understanding:
            _attempt(trace, u, u.understand, None, page, 0, page)
            yield
        proposals: list[tuple[int, Proposal]] = []
        for bit, s in self.sources:
            proposals.append((bit, _attempt(trace, s, s.propose, NOTHING, page, 0, page)))
            yield
        start = trace.start()
        found = self.merge(proposals)
        trace.note("merge", len(found), start)
        yield
        start = trace.start()
        drops = self.permit(page, found.rows)
        kept = self._kept(found, drops)
        trace.note("permit", len(found), start)
        yield
        columns: dict[str, Column] = {}
        for h in self.hydrators:
            columns |= _attempt(trace, h, h.columns, _NO_COLUMNS, page, len(kept), page, kept)
            yield
        kept = kept.widened(columns)
        for sc in self.scorers:
            kept = kept.scored(_attempt(trace, sc, sc.score, kept.score, page, len(kept), page, kept))
            yield
        return kept, found, drops

    def merge(self, proposals: Sequence[tuple[int, Proposal]]) -> Candidates:
        """The union by ascending row. A row keeps its best score and the bits of all its sources."""
        from serving.union import union  # the compiler is heavy: whoever writes a stage needs none

        parts = [(bit, *p) for bit, p in proposals if len(p.rows)]
        if not parts:
            return self.candidates(NOTHING.rows)
        try:
            rows, origin, best = union(parts, len(self.permission.rules))
        except IndexError as bad:
            raise ContractError(f"a source proposed {bad}") from None
        return Candidates(rows, origin, best, Facts(self.permission.columns, rows))

    def _kept(self, found: Candidates, drops: Drops) -> Candidates:
        from serving.union import undropped

        rows, origin, score = undropped(found.rows, found.origin, found.score, drops)
        return Candidates(rows, origin, score, found.items.of(rows))

    def candidates(self, rows: Rows) -> Candidates:
        """Rows, ascending, that no source has proposed."""
        n = len(rows)
        facts = Facts(self.permission.columns, rows)
        return Candidates(rows, np.zeros(n, np.uint32), np.zeros(n, np.float32), facts)

    def permit(self, page: Page, rows: Rows) -> Drops:
        """What drops each row, 0 for what may be shown. Every rung, and every back-fill, passes here."""
        return self.permission.drops(page, rows)


_NO_COLUMNS: Final[Mapping[str, Column]] = {}


def best_first(score: Scores) -> Index:
    """Positions by descending score. Ties keep their order; what is not finite goes last."""
    return np.argsort(-np.where(np.isfinite(score), score, -np.inf), kind="stable")


def _attempt(
    trace: Trace,
    stage: Stage,
    step: Callable[P, T],
    otherwise: T,
    of: Page,
    met: int,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run one step. The only place in a decision where an unknown exception may be swallowed."""
    if not stage.enabled(of):
        return otherwise
    start = trace.start()
    try:
        result = step(*args, **kwargs)
    except ContractError:
        raise
    except Exception:
        if not stage.fails_open:
            raise
        trace.failed.append(stage.name)
        result = otherwise
    trace.note(stage.name, met, start)
    return result
