"""The rule form of an audience, as it is written in a plan: small, typed, checked where it enters.

    {all: [RULE, ...]}   {any: [RULE, ...]}   {not: RULE}   {audience: NAME}      set algebra
    {field: assets, at_least: 50000, below: 200000}     a number of the profile; one bound or both
    {field: star_level, is: 5}   {field: city, in: ["310000", "110000"]}   {field: gender, is: female}
    {field: kind_affinity.product, at_least: 0.3}   {field: payroll, is: true}
    {field: holdings, has: p9}   {field: consents, has: marketing}
    {attribute: job, is: teacher}   {attribute: job, in: [teacher, doctor]}       other categorical facts
    {tag: high_net_worth}                               a tag of the tag dictionary
    {member: vip2026}   {member: 17}                    an uploaded list, a look-alike, a batch audience
    {score: churn, at_least: 0.8}                       an imported model score
    {did: viewed, kind: product, within: 7d, at_least: 2}   live behaviour; also clicked, converted, dismissed
    {days_since: login, at_least: 30}                   nothing of the sort in the last 30 days

A rule is true, false or unknown (Kleene's logic), and who is in the audience is for whom it is TRUE: what is
not known denies, also under `not`. Nobody reads a numeric score per request: a customer's record has no place
for one, so `score` is evaluated offline into a membership (training.audiences), once per threshold. A score
that the bank imports in bands is an `attribute`, one as yes or no a `tag`: these are read per request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import combinations
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, model_validator

from features.events import ACTIONS
from features.ids import KINDS, check_id, key32, key64
from features.views import BLOCKED, CONSENTS, OFFERS, PROFILE, withheld

MOST_RULES: Final = 200  # parts of one `all` or `any`
MOST_VALUES: Final = 1000  # values of one `in`
GENDERS: Final = {"not_said": 0, "female": 1, "male": 2, "other": 3}
FLAGS: Final = ("profiling", "blocked", "payroll")
KEYS: Final = ("org", "city", "tz")
SETS: Final = ("holdings", "consents")
AFFINITIES: Final = tuple(f"kind_affinity.{kind}" for kind in KINDS)
NUMBERS: Final = (
    *(field.name for field in PROFILE.fields if not field.shape and field.name not in (*FLAGS, *KEYS, *SETS)),
    *AFFINITIES,
)
FIELDS: Final = (*NUMBERS, *FLAGS, *KEYS, *SETS)
ANSWERS: Final = ("clicked", "converted", "dismissed")
_UNITS: Final = {"m": 60.0, "h": 3600.0, "d": 86_400.0}

Name = Annotated[str, Field(min_length=1, max_length=64)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Value = bool | int | Finite | Name
Values = Annotated[tuple[Value, ...], Field(min_length=1, max_length=MOST_VALUES)]
Parts = Annotated[tuple["Rule", ...], Field(min_length=1, max_length=MOST_RULES)]
Days = Annotated[float, Field(gt=0, le=3650)]


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class AllOf(_Rule):
    all: Parts


class AnyOf(_Rule):
    any: Parts


class Not(_Rule):
    not_: Rule = Field(alias="not")


class Named(_Rule):
    """Another audience of the plan."""

    audience: Name


class Member(_Rule):
    """In a list, by name, or in a batch audience by its number (1 to 65,535)."""

    member: Annotated[int, Field(ge=1, le=65_535)] | Name


class Profile(_Rule):
    """A PROFILE field. `at_least` and `below` may go together; `is`, `in` and `has` stand alone."""

    field: Name
    at_least: Finite | None = None
    below: Finite | None = None
    is_: Value | None = Field(default=None, alias="is")
    in_: Values | None = Field(default=None, alias="in")
    has: Name | None = None

    @model_validator(mode="after")
    def _fits_the_field(self) -> Self:
        if self.field not in FIELDS:
            raise ValueError(f"the profile has no field {self.field!r}; name one of {', '.join(FIELDS)}")
        given = [name for name in _OPERATORS if getattr(self, name) is not None]
        if given not in (["at_least"], ["below"], ["at_least", "below"], ["is_"], ["in_"], ["has"]):
            raise ValueError("give at_least, below or both, or one of `is`, `in`, `has`")
        fitting = _fitting(self.field)
        if given[0] not in fitting:
            allowed = ", ".join(name.rstrip("_") for name in fitting)
            raise ValueError(f"{self.field} takes {allowed}, not {given[0].rstrip('_')}")
        if self.at_least is not None and self.below is not None and not self.at_least < self.below:
            raise ValueError("at_least must be less than below")
        for value in self.values:
            number_of(self.field, value)
        if self.has is not None:
            element_of(self.field, self.has)
        return self

    @property
    def values(self) -> tuple[Value, ...]:
        """What `is` or `in` names."""
        return (self.is_,) if self.is_ is not None else self.in_ or ()


class Attribute(_Rule):
    """A categorical fact that PROFILE has no field for, by column name and value.

    False only where another value of the same name is known (one that some rule or the compiler's dictionary
    names): a customer without any is unknown.
    """

    attribute: Name
    is_: Name | None = Field(default=None, alias="is")
    in_: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MOST_VALUES)] | None = Field(
        default=None, alias="in"
    )

    @model_validator(mode="after")
    def _has_values(self) -> Self:
        if (self.is_ is None) == (self.in_ is None):
            raise ValueError("give one of `is` and `in`")
        return self

    @property
    def values(self) -> tuple[str, ...]:
        return (self.is_,) if self.is_ is not None else self.in_ or ()


class Tagged(_Rule):
    """A tag; unknown for who switched it off."""

    tag: Name


class Score(_Rule):
    """An imported score; unknown for who has none."""

    score: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$")]
    at_least: Finite


class Did(_Rule):
    """At least `at_least` such events in the last `within` (as 30m, 12h or 7d), as the live log has them.

    `category`: the whole path or its first part. The log keeps the last 128 events: where it may have lost
    some of the window, "fewer than" is unknown.
    """

    did: Name
    within: Annotated[str, Field(pattern=r"^[1-9]\d{0,4}[mhd]$")]
    at_least: Annotated[int, Field(ge=1, le=64)] = 1
    item: Name | None = None
    category: Name | None = None
    kind: Literal["function", "product", "activity", "content", "benefit", "service"] | None = None

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        check_did(self.did)
        if sum(one is not None for one in (self.item, self.category, self.kind)) > 1:
            raise ValueError("give at most one of item, category and kind")
        if self.item is not None:
            check_id(self.item, "item")
        return self


class DaysSince(_Rule):
    """Days since the last such event; never counts as longer ago than the log reaches back."""

    days_since: Name
    at_least: Days | None = None
    below: Days | None = None

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        check_did(self.days_since)
        if self.at_least is None and self.below is None:
            raise ValueError("give at_least, below or both")
        if self.at_least is not None and self.below is not None and not self.at_least < self.below:
            raise ValueError("at_least must be less than below")
        return self


_FORMS: Final[Mapping[str, type[_Rule]]] = {
    "all": AllOf,
    "any": AnyOf,
    "not": Not,
    "audience": Named,
    "member": Member,
    "field": Profile,
    "attribute": Attribute,
    "tag": Tagged,
    "score": Score,
    "did": Did,
    "days_since": DaysSince,
}
_FORM_OF: Final = {form: name for name, form in _FORMS.items()}
_OPERATORS: Final = ("at_least", "below", "is_", "in_", "has")


def _form(value: Any) -> str | None:
    """Which form a rule has: the first of the forms' words among its keys."""
    if isinstance(value, Mapping):
        return next((name for name in _FORMS if name in value or (name == "not" and "not_" in value)), None)
    return _FORM_OF.get(type(value))


Rule = Annotated[
    Annotated[AllOf, Tag("all")]
    | Annotated[AnyOf, Tag("any")]
    | Annotated[Not, Tag("not")]
    | Annotated[Named, Tag("audience")]
    | Annotated[Member, Tag("member")]
    | Annotated[Profile, Tag("field")]
    | Annotated[Attribute, Tag("attribute")]
    | Annotated[Tagged, Tag("tag")]
    | Annotated[Score, Tag("score")]
    | Annotated[Did, Tag("did")]
    | Annotated[DaysSince, Tag("days_since")],
    Discriminator(
        _form,
        custom_error_type="not_a_rule",
        custom_error_message=f"a rule is an object with one of {', '.join(_FORMS)}",
    ),
]
"""A rule of an audience, for Pydantic models that hold some."""

for _one in (AllOf, AnyOf, Not):
    _one.model_rebuild()

_ADAPTER: Final[TypeAdapter[Any]] = TypeAdapter(Rule)


def parse_rule(raw: Any) -> Rule:
    """A rule from JSON-like data. Raises pydantic.ValidationError."""
    rule: Rule = _ADAPTER.validate_python(raw)
    return rule


def seconds_of(window: str) -> float:
    """Seconds of 30m, 12h, 7d. ValueError for anything else."""
    found = re.fullmatch(r"([1-9]\d{0,4})([mhd])", window)
    if found is None:
        raise ValueError(f"a window is a number and m, h or d, such as 7d, not {window!r}")
    return int(found[1]) * _UNITS[found[2]]


def check_did(name: str) -> None:
    """ValueError for what the live log of a customer's own doing never holds."""
    if name in ("displayed", "served", "linked", "outcome", "acted"):
        raise ValueError(
            f"{name} is not what a customer does; name {', '.join(ANSWERS)} or an action such as {ACTIONS[0]}"
        )


def number_of(field: str, value: Value) -> float:
    """What a field of NUMBERS, FLAGS or KEYS holds when it is `value`. ValueError for what it cannot be."""
    if field in KEYS:
        if not isinstance(value, str):
            raise ValueError(f"{field} is compared with text, not {value!r}; put it in quotes")
        return float(key32(value))
    if field in FLAGS:
        if not isinstance(value, bool) and value not in (0, 1):
            raise ValueError(f"{field} is true or false, not {value!r}")
        return float(value)
    if field == "gender" and isinstance(value, str):
        if value not in GENDERS:
            raise ValueError(f"gender is one of {', '.join(GENDERS)}, not {value!r}")
        return float(GENDERS[value])
    if isinstance(value, bool | str):
        raise ValueError(f"{field} is a number, not {value!r}")
    return float(value)


def numbers_of(field: str, value: Value) -> tuple[float, ...]:
    """Everything that a field holds when it is `value`: a customer may have kinds of offers withheld and be
    blocked or not, see `features.views.withheld`."""
    if field != "blocked":
        return (number_of(field, value),)
    wanted = bool(number_of(field, value))
    sums = (sum(some) for n in range(len(OFFERS) + 1) for some in combinations(map(withheld, OFFERS), n))
    return tuple(sorted(float(bits | BLOCKED if wanted else bits) for bits in sums))


def element_of(field: str, name: str) -> int:
    """What `holdings` (key64) or `consents` (the bit's number) holds for a name. ValueError."""
    if field == "holdings":
        return key64(check_id(name, "item"))
    if name not in CONSENTS:
        raise ValueError(f"consents are {', '.join(CONSENTS)}, not {name!r}")
    return CONSENTS.index(name)


def _fitting(field: str) -> tuple[str, ...]:
    if field in SETS:
        return ("has",)
    return ("is_", "in_") if field in (*KEYS, *FLAGS) else ("at_least", "below", "is_", "in_")
