"""The plan as operators write it: one typed, immutable, hashed value. See k8s/plan.yaml for every field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from functools import cached_property
from hashlib import blake2b
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from features.events import ACTIONS
from serving.audience_rules import Rule
from serving.campaign import Campaign, ContactRule, Exclusion, Money, Org, Share, TextModel, Values
from serving.catalogue import Code, Id, Kind, Layout
from serving.experiment import Experiments

MAX_SLOTS: Final = 64  # a row's slots are the bits of one u8
MOST_GROUPS: Final = 64
MOST_CAMPAIGNS: Final = 10_000
LEAST_RATE: Final = 0.02  # no place is assumed to be seen less often
FIRST_RATES: Final[Mapping[str, tuple[float, float]]] = {
    "banner": (1.0, 0.55),
    "icon_grid": (1.0, 0.98),
    "shelf": (0.9, 0.85),
    "popup": (1.0, 1.0),
    "feed": (0.8, 0.88),
    "push": (1.0, 1.0),
    "search_hint": (1.0, 0.9),
}
"""P(displayed | page delivered) by layout until measured: the first place's, and a factor for each next."""

Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class SlotSpec(TextModel):
    """One named place. `refresh` and `valid_for_s` tell the client how long it may keep what it was given."""

    name: Code
    layout: Layout
    size: Annotated[int, Field(ge=1, le=100)]
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)]
    refresh: Literal["view", "session", "day"] = "view"
    valid_for_s: Annotated[int, Field(ge=10, le=86_400)] = 600
    per_category: Annotated[int, Field(ge=1)] | None = Field(
        None, description="None: as the layout's recipe says"
    )
    fallback: tuple[Id, ...] = Field((), description="open items that stand in first, in this order")
    explore: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = Field(
        0.0,
        description="part of the displays in which a runner-up is tried, where no campaign or rule stands",
    )
    explore_new: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = Field(
        0.0,
        description="at most this part of the displays tries a runner-up that few have seen, as often as it "
        "may be the better one (Thompson sampling); 0: new items are tried like all others",
    )
    explore_budget: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        1.0,
        description="the most that exploring a place may cost, of its worth, in expectation; 1: no matter",
    )
    owner: Code | None = Field(None, description="the org whose slot it is; None: head office")
    shares: dict[Code, Share] = Field(
        default_factory=dict, description="org -> part of the displays to its customers that is its to fill"
    )
    switching_cost: Money = Field(
        0.0, description="CNY a changed place must bring; 0: the slot need not be stable"
    )
    interruption: Money = Field(
        0.0, description="CNY that showing anything costs; above 0 the slot may stay empty"
    )
    display_rates: tuple[Rate, ...] | None = Field(
        None, description="P(displayed) by position, never rising; None: measured, or the layout's"
    )
    diminish: Rate = Field(
        0.9, description="factor on the worth for each earlier item of its category in the slot"
    )
    cross: Rate = Field(1.0, description="the same for each in another slot of the page; 1 until measured")
    kinds_least: dict[Kind, Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict, description="places that each kind gets at least"
    )
    kinds_most: dict[Kind, Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict, description="places that each kind gets at most"
    )

    @model_validator(mode="after")
    def _says_each_thing_once(self) -> Self:
        for field in ("kinds", "fallback"):
            values: tuple[str, ...] = getattr(self, field)
            if len(set(values)) < len(values):
                raise ValueError(f"`{field}` may not name a thing twice")
        return self

    @property
    def rates(self) -> tuple[float, ...]:
        """P(displayed) of each position: as declared, else assumed of the layout."""
        if self.display_rates is not None:
            return self.display_rates
        first, factor = FIRST_RATES[self.layout]
        return tuple(max(LEAST_RATE, first * factor**at) for at in range(self.size))


class Template(TextModel):
    """A surface for many instances: they inherit its slots, and what stands in them is their org's."""

    slots: Annotated[tuple[Code, ...], Field(min_length=1)]
    orgs: dict[Code, Code] = Field(
        default_factory=dict,
        description="instance -> its org; none: every instance is served, without an org",
    )


class Plan(TextModel):
    """The whole operator configuration. Made by `check_plan`, which checks it as a whole."""

    name: Code
    surfaces: Annotated[dict[Code, Annotated[tuple[Code, ...], Field(min_length=1)]], Field(min_length=1)]
    slots: Annotated[tuple[SlotSpec, ...], Field(min_length=1, max_length=MAX_SLOTS)]
    actions: tuple[Code, ...] = ACTIONS
    regions: dict[Code, tuple[Code, ...]] = Field(default_factory=dict)  # city -> areas that contain it
    templates: dict[Code, Template] = Field(
        default_factory=dict, description='"outlet/{id}" -> its slots and orgs'
    )
    values: Values | None = Field(
        None, description="what outcomes are worth; None: a click 1 CNY, nothing else"
    )
    orgs: tuple[Org, ...] = Field((), description="head office, branches, partners; none: head office alone")
    holidays: dict[Code, tuple[date, ...]] = Field(default_factory=dict, description="named lists of dates")
    audiences: dict[Code, Rule] = Field(default_factory=dict, description="name -> rule")
    exclusions: Annotated[tuple[Exclusion, ...], Field(max_length=MOST_GROUPS)] = ()
    contact_rules: Annotated[tuple[ContactRule, ...], Field(max_length=32)] = ()
    campaigns: Annotated[tuple[Campaign, ...], Field(max_length=MOST_CAMPAIGNS)] = ()
    experiments: Experiments | None = Field(None, description="what is compared, on whom")

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
        """Twelve hex digits of the whole content.

        What is as by default does not count, so that a field that is added with a default changes no version.
        """
        return blake2b(self.model_dump_json(exclude_defaults=True).encode(), digest_size=6).hexdigest()


_TEMPLATE: Final = re.compile(r"([^{}/]+/)*\{[a-z_]+\}(/[^{}/]+)*")


def is_template(name: str) -> bool:
    """Whether exactly one whole segment of a name is open: `outlet/{id}`."""
    return _TEMPLATE.fullmatch(name) is not None


def instance_of(template: str, surface: str) -> str | None:
    """ "001" for the surface `outlet/001` of the template `outlet/{id}`; None when it is none of it."""
    wanted, given = template.split("/"), surface.split("/")
    if len(wanted) != len(given):
        return None
    found = None
    for pattern, segment in zip(wanted, given, strict=True):
        if pattern.startswith("{"):
            found = segment or None
        elif pattern != segment:
            return None
    return found


class Surfaces:
    """Surfaces by name: exact ones first, then templates in the plan's order."""

    def __init__(self, plan: Plan) -> None:
        self._exact: Mapping[str, tuple[str, ...]] = plan.surfaces
        self._templates: Mapping[str, Template] = plan.templates

    def find(self, name: str) -> tuple[tuple[str, ...], str | None, str | None] | None:
        """Slot names, the instance's org, the template; None where the plan has no such surface."""
        if name in self._exact:
            return self._exact[name], None, None
        for pattern, template in self._templates.items():
            instance = instance_of(pattern, name)
            if instance is None:
                continue
            if not template.orgs:
                return template.slots, None, pattern
            if instance in template.orgs:
                return template.slots, template.orgs[instance], pattern
        return None

    def slots(self, name: str) -> tuple[str, ...] | None:
        """Of a surface, of an instance, or of a template by its own name."""
        if name in self._templates:
            return self._templates[name].slots
        found = self.find(name)
        return None if found is None else found[0]

    def all(self) -> dict[str, tuple[str, ...]]:
        """Exact surfaces and templates, by their names."""
        return {**self._exact, **{name: one.slots for name, one in self._templates.items()}}
