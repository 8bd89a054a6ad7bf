"""The nouns of a decision: columns until selection, plain objects after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from features.customer import Customer
    from serving.experiments import Assigned
    from serving.ghosts import Ghost
    from serving.plan import CompiledSlot

Rows = NDArray[np.int32]  # dense item numbers: the bundle's, then the overlay's; valid within one Live
Scores = NDArray[np.float32]
Mask = NDArray[np.bool_]
Drops = NDArray[np.uint32]  # per candidate one bit per serving.reasons.Drop; 0 = permitted
Index = NDArray[np.intp]  # positions within a Candidates
Column = NDArray[Any]

Effort = Literal["full", "light", "cached", "popular", "fallback"]
EFFORTS: Final[tuple[Effort, ...]] = ("full", "light", "cached", "popular", "fallback")

# Flags of a placement, as they stand in the page token.
EXPLORING: Final = 1
PINNED: Final = 2
BACKFILLED: Final = 4


class ContractError(AssertionError):
    """A stage broke its contract. A bug, so it is never tolerated."""


@dataclass(frozen=True, slots=True)
class Context:
    """Where and how the page is asked for. Zero or None is "not known" and denies what is restricted."""

    channel: int = 0  # features.ids.CHANNEL_CODE
    app_version: int = 0  # serving.catalogue.pack_version
    edition: str = "standard"
    locale: str = "zh-CN"
    city: int = 0  # key32 of the city code
    location: str | None = None  # geohash
    auth_level: int = 0  # index in serving.catalogue.AUTH_LEVELS
    entry: str | None = None


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """A slot to fill: `count` places (None: the slot's size), never with the items in `exclude`."""

    spec: CompiledSlot
    count: int
    exclude: frozenset[int] = frozenset()  # key64 of items


@dataclass(frozen=True, slots=True)
class Query:
    """A request made whole: everything a decision may depend on, and nothing else."""

    decision_id: str
    subject: str
    surface: str
    slots: tuple[SlotRequest, ...]
    context: Context
    customer: Customer
    now: float  # POSIX seconds, UTC
    anchor_row: int | None = None
    profiling: bool = True
    explain: bool = False
    device: str | None = None  # the visitor's subject beside a user's
    reserved: bytes = b""  # what other pages of this customer have reserved, as the ledger keeps it
    spent: frozenset[str] = frozenset()  # quotas of which this replica holds no unit
    capped: bool = True  # whether anything that is capped may be shown: the ledger answers
    owner: int = 0  # key32 of the org whose instance of a template the surface is; 0 none
    tagged: bool = True  # whether the price tags of rules are worked out: the page is the same without


class Proposal(NamedTuple):
    """Rows, and the source's own score for each; of a row proposed twice the better counts."""

    rows: Rows
    score: Scores


NOTHING: Final = Proposal(np.empty(0, np.int32), np.empty(0, np.float32))


class Facts:
    """The ITEM columns of some rows, gathered one by one as they are asked for: `facts["risk_class"]`."""

    __slots__ = ("_at", "_columns", "_rows")

    def __init__(self, columns: Mapping[str, Column], rows: Rows) -> None:
        """`columns`: every ITEM field of all rows, contiguous."""
        self._columns, self._rows = columns, rows
        self._at: Index | None = None

    def __getitem__(self, field: str) -> Column:
        if self._at is None:
            self._at = self._rows.astype(np.intp)  # NumPy gathers by its own index type twice as fast
        gathered: Column = self._columns[field].take(self._at, axis=0)
        return gathered

    def of(self, rows: Rows) -> Facts:
        """The same columns for other rows."""
        return Facts(self._columns, rows)


@dataclass(slots=True, eq=False)
class Candidates:
    """Items as parallel columns, one entry per row in each. Rows are unique and ascending.

    Nobody changes one that is made. (To freeze it would cost a microsecond each, and a page makes four.)
    """

    rows: Rows
    origin: NDArray[np.uint32]  # bit s is set when source s proposed the row
    score: Scores
    items: Facts
    columns: Mapping[str, Column] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Index | Mask) -> Candidates:
        if index.dtype == np.bool_:
            self._check("mask", index)
            index = index.nonzero()[0]
        columns = {name: column.take(index) for name, column in self.columns.items()}
        rows, origin, score = self.rows.take(index), self.origin.take(index), self.score.take(index)
        return Candidates(rows, origin, score, self.items.of(rows), columns)

    def scored(self, score: Scores) -> Candidates:
        self._check("score", score)
        return Candidates(self.rows, self.origin, score, self.items, self.columns)

    def widened(self, columns: Mapping[str, Column]) -> Candidates:
        for name, column in columns.items():
            self._check(name, column)
        merged = {**self.columns, **columns}
        return Candidates(self.rows, self.origin, self.score, self.items, merged)

    def _check(self, name: str, column: Column) -> None:
        if len(column) != len(self):
            raise ContractError(f"{name} has {len(column)} entries for {len(self)} candidates")


class Placement(NamedTuple):
    """One item at one place. Texts: `live.of(decision).texts[row]`; slot: `query.slots[slot]`."""

    slot: int  # index in query.slots
    position: int  # from 0 within the slot
    row: int
    key: int  # key64 of the item
    score: float
    origin: int  # bit per source of serving.surfaces.SOURCES
    reason: int  # serving.reasons.Reason
    creative: int  # index in the item's creatives; -1: its own title
    creative_key: int  # key32; 0 with its own title
    flags: int
    propensity: float = 1.0
    campaign: int = -1  # index in live.plan.campaigns; -1: organic
    campaign_key: int = 0  # key32
    value: float = 0.0  # CNY per display, with lever and prices
    base: float = 0.0  # the same without them
    tag: float = 0.0  # CNY that the page forgoes by the rule that put it here
    rule: int = 0  # serving.page.RULES; 0 none
    by: int = -1  # campaign that the rule is of
    capped: bool = False  # shown only if the ledger reserves it
    shown: float = 1.0  # P(displayed | slot, position)
    units: tuple[float, float, float] = (1.0, 0.0, 0.0)  # expected displays, clicks, conversions


@dataclass(frozen=True, slots=True)
class Lottery:
    """What was drawn at a place: the finite set, and the probability of each."""

    place: int  # index in the page
    keys: tuple[int, ...]  # key64 of the items, the deterministic winner first
    probabilities: tuple[float, ...]
    drawn: int  # which of them


class ArmDraw(NamedTuple):
    """What was drawn of an adaptive experiment."""

    experiment: str
    arms: tuple[str, ...]
    probabilities: tuple[float, ...]
    drawn: int


class Met(NamedTuple):
    """What campaigns met on the way to a page; indices of the plan's campaigns."""

    running: NDArray[np.int32]  # those that might have been on it
    looked_at: NDArray[np.int32]  # the campaign of each offer looked at
    drops: NDArray[np.uint32]  # what dropped each of these offers' items
    permitted: NDArray[np.int32]  # those that stood for a place
    full: NDArray[np.int32]  # of these, those that caps leave no place
    spent: NDArray[np.int32]  # not running, because a quota is spent


class Refused(NamedTuple):
    """A capped placement that was not shown, and why: cap, quota, ledger (it could not be asked)."""

    place: int  # index in the page as it was decided
    campaign: int
    why: str


@dataclass(frozen=True, slots=True)
class Explained:
    """What `explain` adds: every candidate met, what dropped it, and the terms of its score."""

    rows: Rows
    origin: NDArray[np.uint32]
    drops: Drops
    score: Scores
    terms: Mapping[str, Column]
    slots: Sequence[Mapping[str, int]]  # per slot of the query: drop code -> number of candidates


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, with the versions needed to replay it, explain it and learn from it."""

    query: Query
    bundle: str
    plan: str
    overlay_seq: int
    effort: Effort
    placements: Sequence[Placement]  # in page order: by slot, then by position
    degraded: tuple[str, ...] = ()  # views that were missing, stages that failed open
    drops: Mapping[str, int] = field(default_factory=dict)  # drop code -> candidates of the page
    explained: Explained | None = None
    cached: Rows | None = None  # what the rung `cached` was given: the rows of the page before
    prices: str | None = None  # version
    spares: Mapping[int, Placement] = field(default_factory=dict)  # uncapped stand-ins, by index in the page
    lotteries: Sequence[Lottery] = ()
    refused: tuple[Refused, ...] = ()  # what the ledger or a lease did not give
    met: Met | None = None
    arms: tuple[Assigned, ...] = ()  # of experiments, by layer
    draws: Sequence[Lottery] = ()  # of creatives, by the bandit: `keys` are key32s
    arm_draws: tuple[ArmDraw, ...] = ()  # of adaptive experiments
    learned: str | None = None  # version of the bandit
    ghosts: tuple[Ghost, ...] = ()  # what campaigns held out from this customer would have got
    idle: tuple[str, ...] = ()  # layers whose arms could make no difference to this page

    @property
    def valid_until(self) -> float:
        """When what is not yet displayed lapses: the shortest of the slots' validities."""
        return self.query.now + min((s.spec.valid_for_s for s in self.query.slots), default=600)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of places filled in each slot of the query."""
        filled = [0] * len(self.query.slots)
        for placement in self.placements:
            filled[placement.slot] += 1
        return tuple(filled)

    @property
    def rows(self) -> Rows:
        """The placed rows in page order, of `live.of(decision)`; the `cached` rung takes the Live's own."""
        return np.array([placement.row for placement in self.placements], np.int32)
