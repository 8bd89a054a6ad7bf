"""The plan: surfaces and slots as operators declare them, checked whole before anything runs by them.

`Plan` is the typed text (YAML or JSON), immutable and hashed; `compile_plan` joins it with a catalogue: which
rows each slot may hold, which of them are open to everybody, what stands in when nothing else may be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from features.events import ACTIONS
from features.ids import KIND_CODE, KINDS, LAYOUTS, key32
from serving.catalogue import Code, Id, Kind, Layout
from serving.domain import Rows
from serving.reasons import STATIC

MAX_SLOTS: Final = 64  # a row's slots are the bits of one u8
MOST_SLOTS_CHECKED: Final = 10  # of a surface jointly: 2^10 subsets


class PlanError(ValueError):
    """A plan that cannot be run; says where, what is wrong, and what to do."""

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        super().__init__(f"plan, {path}: {problem}; {remedy}")
        self.path, self.problem, self.remedy = path, problem, remedy


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SlotSpec(_Model):
    """One named place. `refresh` and `valid_for_s` tell the client how long it may keep what it was given."""

    name: Code
    layout: Layout
    size: Annotated[int, Field(ge=1, le=100)]
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)]
    refresh: Literal["view", "session", "day"] = "view"
    valid_for_s: Annotated[int, Field(ge=10, le=86_400)] = 600
    per_category: Annotated[int, Field(ge=1)] | None = None  # None: as the layout's recipe says
    fallback: tuple[Id, ...] = ()
    explore: Annotated[float, Field(ge=0, le=0)] = 0.0  # nothing is drawn in this version

    @model_validator(mode="after")
    def _says_each_thing_once(self) -> Self:
        for field in ("kinds", "fallback"):
            values: tuple[str, ...] = getattr(self, field)
            if len(set(values)) < len(values):
                raise ValueError(f"`{field}` may not name a thing twice")
        return self


class Plan(_Model):
    name: Code
    surfaces: Annotated[dict[Code, Annotated[tuple[Code, ...], Field(min_length=1)]], Field(min_length=1)]
    slots: Annotated[tuple[SlotSpec, ...], Field(min_length=1, max_length=MAX_SLOTS)]
    actions: tuple[Code, ...] = ACTIONS
    regions: dict[Code, tuple[Code, ...]] = Field(default_factory=dict)  # city -> areas that contain it

    @model_validator(mode="after")
    def _refers_to_what_exists(self) -> Self:
        names = [slot.name for slot in self.slots]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"duplicate slot {name!r}: slot names are unique")
        for surface, slots in self.surfaces.items():
            for slot in slots:
                if slot not in names:
                    raise ValueError(f"surface {surface!r} names the unknown slot {slot!r}")
            if len(set(slots)) < len(slots):
                raise ValueError(f"surface {surface!r} names a slot twice")
        return self

    @cached_property
    def version(self) -> str:
        """Twelve hex digits of the whole content."""
        return blake2b(self.model_dump_json().encode(), digest_size=6).hexdigest()


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

    @property
    def bit(self) -> int:
        return 1 << self.index


@dataclass(frozen=True, slots=True, eq=False)
class CompiledPlan:
    plan: Plan
    slots: Mapping[str, CompiledSlot]
    surfaces: Mapping[str, tuple[CompiledSlot, ...]]
    members: NDArray[np.uint64]  # (n rows,) a bit per slot that may hold the row
    actions: frozenset[str]
    areas: Mapping[int, tuple[int, ...]]  # key32 of a city -> keys of the areas that contain it
    problems: tuple[PlanError, ...]

    @property
    def version(self) -> str:
        return self.plan.version


class Stock(NamedTuple):
    """The catalogue as the compiler needs it: n rows."""

    row: Callable[[str], int | None]
    kinds: NDArray[np.uint8]
    layouts: NDArray[np.uint8]
    rules: NDArray[np.uint32]  # serving.filters.rules_of: 0 = open to everybody, always
    ranked: Rows  # all rows, most popular first


def load_plan(path: str | Path) -> Plan:
    """A plan from a YAML (or JSON) file. Raises PlanError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(str(path), f"cannot be read ({error})", "name a readable UTF-8 file") from error
    return parse_plan(text, str(path))


def parse_plan(text: str | bytes, where: str = "text") -> Plan:
    """A plan from YAML (or JSON) text. Raises PlanError."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PlanError(where, f"is not YAML ({' '.join(str(error).split())})", "correct the text") from None
    return check_plan(raw)


def check_plan(raw: Any) -> Plan:
    """A plan from JSON-like data. Raises PlanError."""
    try:
        return Plan.model_validate(raw)
    except ValidationError as bad:
        first = bad.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join(str(part) for part in first["loc"]) or "the whole"
        remedies = {"extra_forbidden": "remove it or correct its name", "missing": "add it"}
        raise PlanError(path, first["msg"], remedies.get(first["type"], "correct the value")) from None


def compile_plan(plan: Plan, stock: Stock, *, strict: bool = True) -> CompiledPlan:
    """The plan over a catalogue. Raises the first PlanError; with `strict` False lists all in `problems`.

    Not strict, a fallback that may not stand in is left out, and a slot may be short of open items.
    """
    problems: list[PlanError] = []
    members = np.zeros(len(stock.kinds), np.uint64)
    compiled: dict[str, CompiledSlot] = {}
    for index, spec in enumerate(plan.slots):
        slot = _compile_slot(index, spec, stock, problems)
        members[slot.wide] |= np.uint64(slot.bit)
        compiled[spec.name] = slot
    surfaces = {name: tuple(compiled[slot] for slot in slots) for name, slots in plan.surfaces.items()}
    for name, slots in surfaces.items():
        _check_page(name, slots, members, stock.rules, problems)
    if strict and problems:
        raise problems[0]
    areas = {key32(city): tuple(key32(area) for area in within) for city, within in plan.regions.items()}
    return CompiledPlan(plan, compiled, surfaces, members, frozenset(plan.actions), areas, tuple(problems))


def _compile_slot(index: int, spec: SlotSpec, stock: Stock, problems: list[PlanError]) -> CompiledSlot:
    kinds = tuple(KIND_CODE[kind] for kind in spec.kinds)
    layout = LAYOUTS.index(spec.layout)
    fits = np.isin(stock.kinds, kinds) & ((stock.layouts >> np.uint8(layout)) & 1).astype(np.bool_)
    ranked = stock.ranked
    wide = ranked[(fits & ((stock.rules & np.uint32(STATIC)) == 0))[ranked]]
    free = ranked[(fits & (stock.rules == 0))[ranked]]
    fallback = [_fallback(index, spec, item, fits, stock, problems) for item in spec.fallback]
    return CompiledSlot(
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
        fallback=np.array([row for row in fallback if row is not None], np.int32),
        wide=wide,
        open=free,
    )


def _fallback(
    index: int, spec: SlotSpec, item: str, fits: NDArray[np.bool_], stock: Stock, problems: list[PlanError]
) -> int | None:
    """The row of a fallback item, when it may be shown in the slot to everybody."""
    row, problem = stock.row(item), ""
    if row is None:
        problem = "is not in the catalogue"
    elif not fits[row]:
        problem = f"is of a kind or layout that {spec.name} does not take"
    elif stock.rules[row]:
        problem = "is not open: not everybody may be shown it"
    if problem:
        path = f"slots.{index}.fallback ({spec.name})"
        problems.append(PlanError(path, f"item {item!r} {problem}", "name an open item of the slot's kinds"))
        return None
    return row


def _check_page(
    surface: str,
    slots: Sequence[CompiledSlot],
    members: NDArray[np.uint64],
    rules: NDArray[np.uint32],
    problems: list[PlanError],
) -> None:
    """Hall's condition: no set of slots may need more open items than there are for all of them together."""
    patterns, counts = np.unique(members[rules == 0], return_counts=True)
    together = len(slots) if len(slots) <= MOST_SLOTS_CHECKED else 1
    for size in range(1, together + 1):
        for group in combinations(slots, size):
            bits = np.uint64(sum(slot.bit for slot in group))
            there, wanted = int(counts[(patterns & bits) != 0].sum()), sum(slot.size for slot in group)
            if there < wanted:
                names = " + ".join(slot.name for slot in group)
                problem = f"{names}: {wanted} places, but only {there} open items of their kinds and layouts"
                remedy = "make the slot smaller, add kinds, or add items that need no permission"
                problems.append(PlanError(f"surfaces.{surface}", problem, remedy))
                return


CANONICAL: Final[tuple[tuple[str, str, int, tuple[str, ...]], ...]] = (
    ("home.banner", "banner", 5, ("activity", "content", "benefit")),
    ("home.grid", "icon_grid", 10, ("function",)),
    ("home.shelf", "shelf", 8, ("product",)),
    ("home.popup", "popup", 1, ("activity", "benefit", "content")),
    ("home.benefits", "shelf", 4, ("benefit",)),
    ("home.feed", "feed", 12, ("content", "product", "activity", "service")),
)
"""The canonical homepage: 6 slots, 40 places."""


def default_plan(kind_counts: Mapping[str, int]) -> Plan:
    """A plan that fits a catalogue: the canonical homepage, or a shelf and a feed of a third of it."""
    present = tuple(kind for kind in KINDS if kind_counts.get(kind, 0) > 0)
    if not present:
        raise PlanError("surfaces.home", "the catalogue is empty", "load items first")
    if _canonical_fits(kind_counts):
        return _home("canonical", CANONICAL)
    places = min(20, max(1, sum(kind_counts[kind] for kind in present) // 3))
    shelf = min(8, (places + 1) // 2)
    slots = [("home.shelf", "shelf", shelf, present), ("home.feed", "feed", places - shelf, present)]
    return _home("sized-to-catalogue", [slot for slot in slots if slot[2] > 0])


def _canonical_fits(kind_counts: Mapping[str, int]) -> bool:
    """Thrice the places of every kind, so that there is something to choose from."""
    demand = {kind: sum(size for _, _, size, kinds in CANONICAL if kind in kinds) for kind in KINDS}
    return all(kind_counts.get(kind, 0) >= 3 * max(1, demand[kind] // 2) for kind in KINDS)


def _home(name: str, slots: Sequence[tuple[str, str, int, tuple[str, ...]]]) -> Plan:
    declared = [
        {"name": slot, "layout": layout, "size": size, "kinds": list(kinds)}
        for slot, layout, size, kinds in slots
    ]
    return check_plan({"name": name, "surfaces": {"home": [slot[0] for slot in slots]}, "slots": declared})
