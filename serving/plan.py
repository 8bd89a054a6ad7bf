"""The plan joined with a catalogue: which rows each slot may hold, which of them are open to everybody, what
stands in when nothing else may be shown, and what every campaign offers where.

The text is `Plan` (serving.plan_text), checked whole by `check_plan` before anything runs by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ids import KIND_CODE, KINDS, LAYOUTS, key32
from features.tags import TagDictionary
from serving.audience import NO_TAGS, CompiledAudiences, compile_audiences
from serving.campaign import Values
from serving.campaign_columns import Compiler
from serving.campaigns import Campaigns
from serving.catalogue import Layout
from serving.domain import Rows
from serving.orgs import Orgs, orgs_of
from serving.plan_default import default_plan as default_plan
from serving.plan_error import PlanError as PlanError
from serving.plan_read import check_plan as check_plan
from serving.plan_read import load_plan as load_plan
from serving.plan_read import parse_plan as parse_plan
from serving.plan_text import MAX_SLOTS as MAX_SLOTS
from serving.plan_text import Plan as Plan
from serving.plan_text import SlotSpec as SlotSpec
from serving.plan_text import Surfaces
from serving.reasons import CLOSING, STATIC
from serving.texts import CreativeText

MOST_SLOTS_CHECKED: Final = 10  # of a surface jointly: 2^10 subsets
NO_LIMIT: Final = 255  # in kinds_most


@dataclass(frozen=True, slots=True, eq=False)
class CompiledSlot:
    """A slot over the rows of one catalogue. Row lists are most popular first."""

    index: int  # in the plan
    name: str
    key: int
    layout: Layout
    layout_code: int
    size: int
    kinds: tuple[int, ...]
    refresh: str
    valid_for_s: int
    per_category: int | None
    fallback: Rows  # in the operators' order
    wide: Rows  # every row that somebody may be shown here
    open: Rows  # rows that everybody may be shown here
    owner: str  # org
    rates: NDArray[np.float32]  # (size,) P(displayed) by position, never rising
    shown: tuple[float, ...]  # the same, as plain numbers
    measured: bool  # False: the rates are assumed of the layout, and measured ones are better
    diminish: float
    cross: float
    interruption: float  # CNY
    switching_cost: float  # CNY
    explore: float
    explore_new: float
    explore_budget: float
    kinds_least: NDArray[np.uint8]  # (6,) by kind
    kinds_most: NDArray[np.uint8]  # (6,) by kind; NO_LIMIT

    @property
    def bit(self) -> int:
        return 1 << self.index


@dataclass(frozen=True, slots=True, eq=False)
class CompiledPlan:
    plan: Plan
    slots: Mapping[str, CompiledSlot]
    surfaces: Mapping[str, tuple[CompiledSlot, ...]]
    members: NDArray[np.uint64]  # (n rows,) a bit per slot that may hold the row without a campaign
    placeable: NDArray[np.uint64]  # (n rows,) the same, and rows that only campaigns may show
    templates: Mapping[str, tuple[CompiledSlot, ...]]
    campaigns: Campaigns
    audiences: CompiledAudiences
    values: Values | None  # None: a click is worth 1 CNY, nothing else anything
    orgs: Orgs
    lineages: Mapping[int, tuple[int, ...]]  # key32 of an org -> keys of it and of those above it
    names: Surfaces
    actions: frozenset[str]
    areas: Mapping[int, tuple[int, ...]]  # key32 of a city -> keys of the areas that contain it
    problems: tuple[PlanError, ...]

    @property
    def version(self) -> str:
        return self.plan.version

    @property
    def may_be_empty(self) -> frozenset[str]:
        """Slots that the operators want empty rather than filled at any price: where showing something costs,
        and those under a contact rule, which nothing may fill when the ledger is away."""
        caps, rules = self.campaigns.caps, self.campaigns.contact_rules
        ruled = [caps[index] for index in rules if caps[index].scope == "slot"]
        every = any(not rule.keys for rule in ruled)
        keys = {key for rule in ruled for key in rule.keys}
        return frozenset(
            slot.name for slot in self.slots.values() if slot.interruption > 0 or every or slot.key in keys
        )

    def surface(self, name: str) -> tuple[tuple[CompiledSlot, ...], str | None] | None:
        """Slots, and the org whose contents stand there: exact names first, then templates. None: unknown."""
        exact = self.surfaces.get(name)
        if exact is not None:
            return exact, None
        found = self.names.find(name)
        return None if found is None or found[2] is None else (self.templates[found[2]], found[1])

    def called(self, name: str) -> tuple[str, ...]:
        """The names under which `Campaigns.surfaces` may mean a surface: its own and its template's."""
        found = self.names.find(name)
        return (name,) if found is None or found[2] is None else (name, found[2])


class Stock(NamedTuple):
    """The catalogue as the compiler needs it: n rows."""

    row: Callable[[str], int | None]
    kinds: NDArray[np.uint8]
    layouts: NDArray[np.uint8]
    rules: NDArray[np.uint32]  # serving.filters.rules_of; none of CLOSING = open to everybody, always
    ranked: Rows  # all rows, most popular first
    creatives: Callable[[int], Sequence[CreativeText]] | None = None  # of a row; None: not checked
    categories: NDArray[np.uint32] | None = None  # key32 of the whole path; None: categories match nothing
    tops: NDArray[np.uint32] | None = None  # key32 of the first part of the path
    lists: Mapping[str, int] | None = None  # numbers of uploaded lists; None: lists and tags are not checked
    tags: TagDictionary = NO_TAGS

    def rows_of_category(self, name: str, *, whole: bool = False) -> Rows | None:
        """Rows of a category path, or (unless `whole`) of a top category. None: the stock does not say."""
        if self.categories is None:
            return None
        hit = self.categories == key32(name)
        if self.tops is not None and not whole:
            hit |= self.tops == key32(name)
        return np.flatnonzero(hit).astype(np.int32)


def compile_plan(plan: Plan, stock: Stock, *, strict: bool = True) -> CompiledPlan:
    """A checked plan over a catalogue. Raises the first PlanError; without `strict` lists all in `problems`.

    Not strict, a fallback that may not stand in and an offer whose item or creative is missing are left out,
    and a slot may be short of open items.
    """
    problems: list[PlanError] = []
    audiences = _audiences(plan, stock, problems)
    compiler = Compiler(plan, orgs := orgs_of(plan.orgs), audiences.index, stock)
    organic = np.ones(len(stock.kinds), np.bool_)
    organic[compiler.exclusive_rows()] = False
    compiled: dict[str, CompiledSlot] = {}
    fits = np.zeros(len(stock.kinds), np.uint64)
    for index, spec in enumerate(plan.slots):
        slot, takes = _compile_slot(index, spec, stock, organic, orgs, problems)
        fits[takes] |= np.uint64(slot.bit)
        compiled[spec.name] = slot
    placeable = np.where((stock.rules & np.uint32(STATIC)) == 0, fits, np.uint64(0))
    members = np.where(organic, placeable, np.uint64(0))
    surfaces = {name: tuple(map(compiled.__getitem__, slots)) for name, slots in plan.surfaces.items()}
    templates = {name: tuple(map(compiled.__getitem__, one.slots)) for name, one in plan.templates.items()}
    for name, slots in surfaces.items():
        _check_page(f"surfaces.{name}", slots, members, stock.rules, problems)
    for name, slots in templates.items():
        _check_page(f"templates.{name}", slots, members, stock.rules, problems)
    campaigns = compiler.campaigns(fits)
    problems += compiler.problems
    if strict and problems:
        raise problems[0]
    return CompiledPlan(
        plan=plan,
        slots=compiled,
        surfaces=surfaces,
        members=members,
        placeable=placeable,
        templates=templates,
        campaigns=campaigns,
        audiences=audiences,
        values=plan.values,
        orgs=orgs,
        lineages=orgs.keys(),
        names=Surfaces(plan),
        actions=frozenset(plan.actions),
        areas={key32(city): tuple(map(key32, within)) for city, within in plan.regions.items()},
        problems=tuple(problems),
    )


def _audiences(plan: Plan, stock: Stock, problems: list[PlanError]) -> CompiledAudiences:
    """A list or tag that is not known is a problem, and who needs it is in no audience (unknown denies)."""
    lists = stock.lists or {}
    made = compile_audiences(plan.audiences, lists=lists, tags=stock.tags, actions=plan.actions, strict=False)
    if stock.lists is not None:
        problems += (PlanError(each.path, each.problem, each.remedy) for each in made.problems)
    return made


def _compile_slot(
    index: int,
    spec: SlotSpec,
    stock: Stock,
    organic: NDArray[np.bool_],
    orgs: Orgs,
    problems: list[PlanError],
) -> tuple[CompiledSlot, NDArray[np.bool_]]:
    """The slot, and (n rows,) whether its kinds and layout take a row."""
    kinds = tuple(KIND_CODE[kind] for kind in spec.kinds)
    layout = LAYOUTS.index(spec.layout)
    takes = np.isin(stock.kinds, kinds) & ((stock.layouts >> np.uint8(layout)) & 1).astype(np.bool_)
    fits = takes & organic
    ranked = stock.ranked
    slot = CompiledSlot(
        index=index,
        name=spec.name,
        key=key32(spec.name),
        layout=spec.layout,
        layout_code=layout,
        size=spec.size,
        kinds=kinds,
        refresh=spec.refresh,
        valid_for_s=spec.valid_for_s,
        per_category=spec.per_category,
        fallback=_fallbacks(index, spec, takes, organic, stock, problems),
        wide=ranked[(fits & ((stock.rules & np.uint32(STATIC)) == 0))[ranked]],
        open=ranked[(fits & ((stock.rules & np.uint32(CLOSING)) == 0))[ranked]],
        owner=spec.owner or orgs.root,
        rates=np.array(spec.rates, np.float32),
        shown=tuple(np.array(spec.rates, np.float32).tolist()),
        measured=spec.display_rates is not None,
        diminish=spec.diminish,
        cross=spec.cross,
        interruption=spec.interruption,
        switching_cost=spec.switching_cost,
        explore=spec.explore,
        explore_new=spec.explore_new,
        explore_budget=spec.explore_budget,
        kinds_least=np.array([spec.kinds_least.get(kind, 0) for kind in KINDS], np.uint8),
        kinds_most=np.array([spec.kinds_most.get(kind, NO_LIMIT) for kind in KINDS], np.uint8),
    )
    return slot, takes


def _fallbacks(
    index: int,
    spec: SlotSpec,
    takes: NDArray[np.bool_],
    organic: NDArray[np.bool_],
    stock: Stock,
    problems: list[PlanError],
) -> Rows:
    found = [_fallback(index, spec, item, takes, organic, stock, problems) for item in spec.fallback]
    return np.array([row for row in found if row is not None], np.int32)


def _fallback(
    index: int,
    spec: SlotSpec,
    item: str,
    takes: NDArray[np.bool_],
    organic: NDArray[np.bool_],
    stock: Stock,
    problems: list[PlanError],
) -> int | None:
    """The row of a fallback item, when it may be shown in the slot to everybody."""
    row, problem = stock.row(item), ""
    if row is None:
        problem = "is not in the catalogue"
    elif not takes[row]:
        problem = f"is of a kind or layout that {spec.name} does not take"
    elif stock.rules[row] & np.uint32(CLOSING):
        problem = "is not open: not everybody may be shown it"
    elif not organic[row]:
        problem = "is shown by campaigns only"
    if problem:
        path = f"slots.{index}.fallback ({spec.name})"
        problems.append(PlanError(path, f"item {item!r} {problem}", "name an open item of the slot's kinds"))
        return None
    return row


def _check_page(
    path: str,
    slots: Sequence[CompiledSlot],
    members: NDArray[np.uint64],
    rules: NDArray[np.uint32],
    problems: list[PlanError],
) -> None:
    """Hall's condition: no set of slots may need more open items than there are for all of them together."""
    patterns, counts = np.unique(members[(rules & np.uint32(CLOSING)) == 0], return_counts=True)
    together = len(slots) if len(slots) <= MOST_SLOTS_CHECKED else 1
    for size in range(1, together + 1):
        for group in combinations(slots, size):
            bits = np.uint64(sum(slot.bit for slot in group))
            there, wanted = int(counts[(patterns & bits) != 0].sum()), sum(slot.size for slot in group)
            if there < wanted:
                names = " + ".join(slot.name for slot in group)
                problem = f"{names}: {wanted} places, but only {there} open items of their kinds and layouts"
                remedy = "make the slot smaller, add kinds, or add items that need no permission"
                problems.append(PlanError(path, problem, remedy))
                return
