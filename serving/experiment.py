"""What operators write of experiments: layers and domains, experiments and their arms, ramps, testers.

After Tang, Agarwal, O'Brien and Meyer, "Overlapping Experiment Infrastructure" (KDD 2010). A layer owns part
of what a plan sets; a unit is in at most one experiment of a layer, and layers divide units independently. A
domain is a fixed part of the units with layers of its own. Text only: checked as a whole in
`serving.experiment_checks`, compiled in `serving.experiment_compiling`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BeforeValidator, Field

from serving.campaign import LEAST_LEVER, MOST_LEVER, Money, Share, TextModel, Values
from serving.catalogue import Code, Id, Kind, Layout
from serving.metric_names import Direction, harm

MOST_LAYERS: Final = 16
MOST_EXPERIMENTS: Final = 64  # of a layer
MOST_ARMS: Final = 8

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Ranker = Literal["blend", "popularity"]
BundleVersion = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
Switchable = Literal[
    "nearest_to_customer",
    "nearest_to_anchor",
    "nearest_to_recent",
    "popular_in_segment",
    "popular_in_city",
    "near_location",
    "new",
]
"""Sources (of serving.surfaces) that an arm may leave out."""


class SlotChange(TextModel):
    """What an arm sets differently in a slot; None: as the plan says."""

    layout: Layout | None = None
    size: Annotated[int, Field(ge=1, le=100)] | None = None
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] | None = None
    kinds_least: dict[Kind, Annotated[int, Field(ge=0)]] | None = None
    kinds_most: dict[Kind, Annotated[int, Field(ge=0)]] | None = None
    per_category: Annotated[int, Field(ge=1)] | None = None
    explore: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] | None = None
    explore_new: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] | None = None
    explore_budget: Fraction | None = None
    switching_cost: Money | None = None
    interruption: Money | None = None
    display_rates: tuple[Rate, ...] | None = None
    diminish: Rate | None = None
    cross: Rate | None = None
    fallback: tuple[Id, ...] | None = None

    @property
    def said(self) -> dict[str, Any]:
        """The fields that are set."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}


class Changes(TextModel):
    """What an arm does differently from the plan; nothing: the arm is a control."""

    slots: dict[Code, SlotChange] = Field(default_factory=dict, description="slot -> what is set there")
    values: Values | None = Field(None, description="another value table")
    levers: dict[Id, Annotated[float, Field(ge=LEAST_LEVER, le=MOST_LEVER, allow_inf_nan=False)]] = Field(
        default_factory=dict, description="campaign -> factor on its value, in place of its own lever"
    )
    creatives: dict[Id, dict[Id, Annotated[tuple[Id, ...], Field(min_length=1)]]] = Field(
        default_factory=dict, description="campaign -> item -> the only creatives of it to use"
    )
    paused: tuple[Id, ...] = Field((), description="campaigns that are not shown")
    sources_off: tuple[Switchable, ...] = Field((), description="sources of candidates that are not asked")
    ranker: Ranker | None = Field(
        None, description="popularity: without the model's own scores; None: the bundle's blend"
    )
    bundle: BundleVersion | None = Field(
        None,
        description="a published bundle to be served from in place of the live one; None: the live one",
    )


def _off(said: object) -> object:
    """YAML 1.1 reads a bare `off` as false; as a state it can only be meant as it is written."""
    return "off" if said is False else said


class Arm(TextModel):
    """One of what is compared. The first arm of an experiment is what the others are compared with."""

    name: Code
    weight: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1.0
    changes: Changes = Changes()
    state: Annotated[Literal["live", "off"], BeforeValidator(_off)] = Field(
        "live",
        description="off: its units see the plan as it stands, and are no longer counted; a bundle of its own"
        " is not loaded",
    )


class Step(TextModel):
    """From a moment on, this part of the experiment's range is enrolled."""

    at: AwareDatetime
    enrolled: Fraction


class Guardrail(TextModel):
    """A metric that an arm may not make worse by more than `tolerance` of the control's."""

    metric: Code
    worse: Direction | None = Field(
        None, description="the direction that is worse: the metric's own, and no other"
    )
    tolerance: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.0

    @property
    def harm(self) -> Direction:
        """The direction that is worse. Of a metric that there is."""
        return harm(self.metric)


class Experiment(TextModel):
    """One question, asked of part of a layer's units."""

    name: Code
    owner: Annotated[str, Field(max_length=64)] = ""
    question: Annotated[str, Field(max_length=500)] = ""
    range: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0), description="its part of the layer: [from, to), never another experiment's at one time"
    )
    ramp: Annotated[tuple[Step, ...], Field(min_length=1, max_length=64)] = Field(
        description="its first step is its start; shares never fall, so nobody who is in goes out"
    )
    until: AwareDatetime | None = None
    audience: Code | None = Field(None, description="a name of `audiences`; None: everybody")
    unit: Literal["customer", "device"] = Field(
        "customer", description="device: by visitor_id, the same before and after login"
    )
    salt: Annotated[str, Field(max_length=64)] = Field("", description="another one divides anew")
    arms: Annotated[tuple[Arm, ...], Field(min_length=2, max_length=MOST_ARMS)]
    criterion: Code = Field("value", description="the one metric that decides")
    guardrails: Annotated[tuple[Guardrail, ...], Field(max_length=16)] = ()
    state: Literal["running", "paused"] = "running"
    adaptive: bool = Field(
        False,
        description="arms by what they earn in clicks a page, per segment of customers and told each minute"
        " (Thompson sampling), in place of fixed weights; who is in keeps an arm for an hour",
    )

    @property
    def control(self) -> Arm:
        return self.arms[0]


class Layer(TextModel):
    """Experiments that exclude each other. `holdout`: units at its end that none of them may have."""

    name: Code
    domain: Code | None = Field(None, description="None: over all units")
    holdout: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.0
    experiments: Annotated[tuple[Experiment, ...], Field(max_length=MOST_EXPERIMENTS)] = ()


class Domain(TextModel):
    """A fixed part of all units with layers of its own; parts are taken in the order of writing."""

    name: Code
    share: Share


class Experiments(TextModel):
    """All experiments of a plan."""

    salt: Annotated[str, Field(max_length=64)] = Field("", description="another one divides everybody anew")
    holdout: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = Field(
        0.0, description="part of all units that no experiment may have"
    )
    ghosts: Annotated[float, Field(ge=0, le=0.05, allow_inf_nan=False)] = Field(
        0.01,
        description="part of each campaign's customers who are never shown it, so that its lift is known;"
        " 0: of none; mandatory campaigns are shown to all; no salt changes who they are",
    )
    domains: Annotated[tuple[Domain, ...], Field(max_length=MOST_LAYERS)] = ()
    layers: Annotated[tuple[Layer, ...], Field(max_length=MOST_LAYERS)] = ()
    testers: dict[Id, dict[Code, Code]] = Field(
        default_factory=dict,
        description="user or visitor id -> layer -> EXPERIMENT/ARM, whatever hash, range or audience say;"
        " not counted",
    )
