"""What operators write: campaigns and their parts, orgs, exclusion groups, contact rules, the value table.

Text only: checked field by field here, as a whole in `serving.plan_checks`, compiled in `serving.campaigns`.
Money is CNY. Times carry an offset; dates are days in the flight's zone.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from serving.catalogue import Code, Id, Kind

DEFAULT_TZ: Final = "Asia/Shanghai"
DEFAULT_ORG: Final = "head"  # of a plan that declares no orgs
WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
PENALTIES: Final = {"mandatory": 0.0, "guaranteed": 2.0, "share": 1.0, "standard": 0.0, "house": 0.0}
LEAST_LEVER, MOST_LEVER = 0.2, 5.0
LONGEST_WINDOW_S: Final = 400 * 86_400

Tier = Literal["mandatory", "guaranteed", "share", "standard", "house"]
Unit = Literal["displayed", "clicked", "converted", "CNY"]
Counted = Literal["displayed", "clicked", "dismissed", "converted"]
Pacing = Literal["even", "asap", "front_loaded"]
Scope = Literal["item", "creative", "campaign", "category", "slot", "channel", "org"]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Calendric = Literal["", "day", "week", "month", "session", "ever"]

Least1 = Annotated[int, Field(ge=1, le=2**31 - 1)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Money = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Worth = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Loss = Annotated[float, Field(ge=-1e9, le=0, allow_inf_nan=False)]  # a dismissal never earns


class TextModel(BaseModel):
    """Part of a plan's text: immutable, and no name that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class Window(NamedTuple):
    """`seconds` long and rolling, or a calendar span ("day" … "ever"; seconds 0)."""

    seconds: float
    calendar: Calendric


_SPANS: Final = ("day", "week", "month", "session", "ever")
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def parse_window(text: str) -> Window:
    """ "12h" -> (43,200, ""); "week" -> (0, "week"). ValueError when it is neither."""
    if text in _SPANS:
        return Window(0.0, text)  # type: ignore[arg-type]  # one of _SPANS
    found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    if not found:
        raise ValueError(f"{text!r} is no window: say 30m, 12h, 7d, day, week, month, session or ever")
    seconds = int(found[1]) * _UNITS[found[2]]
    if seconds > LONGEST_WINDOW_S:
        raise ValueError(f"{text!r} is longer than 400 days: say ever")
    return Window(float(seconds), "")


def _window(text: str) -> str:
    parse_window(text)
    return text


def _moment(value: object) -> object:
    """A day stays a day; a time must carry an offset (checked by the type)."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        return date.fromisoformat(value)
    if isinstance(value, str):
        return datetime.fromisoformat(value)
    if isinstance(value, date):
        return value
    raise ValueError("a date (2026-11-01) or a time with an offset (2026-11-01T09:00:00+08:00) is needed")


def _aware(value: date) -> date:
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ValueError("the time needs an offset, such as +08:00")
    return value


WindowText = Annotated[str, AfterValidator(_window)]
Moment = Annotated[datetime | date, BeforeValidator(_moment), AfterValidator(_aware)]


class Org(TextModel):
    """A node of the tree of head office, branches and partners."""

    id: Code
    name: str = ""
    parent: Code | None = Field(None, description="None: the root, of which there is one")
    tz: str | None = Field(None, description="IANA zone of its days and flights; None: the parent's")
    kind: Literal["org", "partner"] = Field(
        "org", description="a partner has no customers of its own: its parent's are meant"
    )


class Outcomes(TextModel):
    """CNY of one item's outcomes; None: as its kind says."""

    click: Worth | None = None
    convert: Worth | None = None
    dismiss: Loss | None = None


class Values(TextModel):
    """The value table: what an outcome is worth to the bank, by kind, and of single items."""

    version: Code
    click: Worth | dict[Kind, Worth] = Field(
        0.0, description="CNY of a click, for all kinds or by kind; 0 where not named"
    )
    convert: Worth | dict[Kind, Worth] = Field(0.0, description="CNY of a conversion")
    dismiss: Loss | dict[Kind, Loss] = Field(0.0, description="CNY of a dismissal, 0 or below")
    items: dict[Id, Outcomes] = Field(
        default_factory=dict, description="single items that differ from their kind"
    )


class Flight(TextModel):
    """When a campaign runs."""

    from_: Moment | None = Field(None, alias="from", description="first day, or a time; None: always so far")
    until: Moment | None = Field(
        None, description="exclusive end: the day after the last, or a time; None: no end"
    )
    tz: str | None = Field(None, description="IANA zone of dates, weekdays and hours; None: the org's")
    weekdays: tuple[Weekday, ...] | None = Field(None, description="None: every day")
    hours: (
        tuple[tuple[Annotated[int, Field(ge=0, le=23)], Annotated[int, Field(ge=1, le=24)]], ...] | None
    ) = Field(
        None, description="[[9, 12], [14, 21]]: from 9:00 to 12:00 and from 14:00 to 21:00; None: all day"
    )
    holidays: Code | None = Field(None, description="a list of the plan's `holidays`")
    on_holidays: Literal["skip", "only", "any"] = Field("any", description="what the list does; any: nothing")


class Goal(TextModel):
    """At least so many units in the flight, or a share of a slot's displays in each day."""

    unit: Unit = "displayed"
    at_least: Annotated[float, Field(ge=1, le=1e12, allow_inf_nan=False)] | None = None
    share: Share | None = Field(None, description="of the slot's displays in a day, over the org's customers")
    slot: Code | None = Field(None, description="the slot that the share is of")

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if (self.at_least is None) == (self.share is None):
            raise ValueError("a goal has either `at_least` or `share`")
        if (self.share is None) != (self.slot is None):
            raise ValueError("a share is of a `slot`, and only a share")
        if self.share is not None and self.unit != "displayed":
            raise ValueError("a share is of displays: leave `unit` out")
        return self


class Quota(TextModel):
    """At most so many units: exact for displays, bounded for the rest."""

    id: Id
    unit: Unit = "displayed"
    at_most: Annotated[float, Field(ge=1, le=1e12, allow_inf_nan=False)]
    per: Literal["flight", "day"] = Field("flight", description="day: each day of the flight's zone")


class Limit(TextModel):
    """At most `most` events in the window, of one subject."""

    event: Counted = "displayed"
    most: Annotated[int, Field(ge=1, le=255)] = Field(description="the contact history keeps 256 entries")
    window: WindowText = Field(
        description="rolling 30m, 12h, 7d; day, week, month (the customer's zone); session; ever"
    )
    subject: Literal["customer", "device"] = Field(
        "customer", description="a device's days are in UTC: it has no zone"
    )
    scope: Scope
    of: tuple[Code, ...] = Field(
        (), description="names of that scope, counted together; none: each by itself"
    )
    min_gap_s: Annotated[int, Field(ge=0, le=LONGEST_WINDOW_S)] = Field(
        0, description="seconds between two such events"
    )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if len(set(self.of)) < len(self.of):
            raise ValueError("`of` may not name a thing twice")
        span = parse_window(self.window)
        if span.seconds and self.min_gap_s > span.seconds:
            raise ValueError("`min_gap_s` is longer than the window: widen the window")
        return self


class Cap(Limit):
    """A limit on one campaign's placements."""

    scope: Scope = "campaign"


class ContactRule(Limit):
    """A limit on everything that is shown, organic placements included."""

    id: Id


class Benefit(TextModel):
    """What the bank pays when the campaign's offer is used."""

    cost: Money = Field(description="CNY per use")
    stock: Least1 | None = Field(
        None, description="uses to give away in the flight; kept as the quota `stock`"
    )


class Lever(TextModel):
    """A factor on the campaign's value, answered for by somebody, for a time."""

    factor: Annotated[float, Field(ge=LEAST_LEVER, le=MOST_LEVER, allow_inf_nan=False)]
    owner: Code
    reason: Annotated[str, Field(min_length=1, max_length=500)]
    until: AwareDatetime


class Exclusion(TextModel):
    """Things of which at most `most` may stand on one page together."""

    id: Id
    campaigns: tuple[Id, ...] = ()
    items: tuple[Id, ...] = ()
    categories: tuple[Code, ...] = Field(
        (), description="category paths, or top categories for all below them"
    )
    most: Least1 = 1


class Campaign(TextModel):
    """An operator's instruction: items into slots, for an audience, in a flight, under limits."""

    id: Id
    name: Annotated[str, Field(max_length=200)] = ""
    org: Code = DEFAULT_ORG
    owner: Annotated[str, Field(max_length=64)] = ""
    items: Annotated[tuple[Id, ...], Field(min_length=1, max_length=500)]
    creatives: dict[Id, Annotated[tuple[Id, ...], Field(min_length=1)]] = Field(
        default_factory=dict, description="item -> the only creatives of it that the campaign may use"
    )
    slots: Annotated[tuple[Code, ...], Field(min_length=1)]
    surfaces: tuple[Code, ...] = Field(
        (), description="none: wherever the slots are; may name templates and instances"
    )
    audience: Code | None = Field(None, description="a name of `audiences`; None: everybody")
    customers_of: Code | None = Field(
        None, description="customers of this org and below; None: the campaign's org's"
    )
    flight: Flight = Flight()
    tier: Tier = "standard"
    penalty: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = Field(
        None, description="CNY per unit short of the goal: the most it may outbid; None: the tier's"
    )
    pacing: Pacing = "even"
    goals: Annotated[tuple[Goal, ...], Field(max_length=8)] = ()
    quotas: Annotated[tuple[Quota, ...], Field(max_length=8)] = ()
    caps: Annotated[tuple[Cap, ...], Field(max_length=8)] = ()
    values: Outcomes = Outcomes()
    benefit: Benefit | None = None
    lever: Lever | None = None
    pin: dict[Code, Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict, description="slot -> the position (from 0) that is its own where it may show"
    )
    roadblock: bool = Field(False, description="in all of its slots of a page, or in none")
    per_page: Least1 | None = Field(
        None, description="placements on one page; None: 1, of a roadblock one per slot"
    )
    ghost: Annotated[float, Field(ge=0, le=0.05, allow_inf_nan=False)] | None = Field(
        None,
        description="part of its customers who are never shown it, so that its lift is known;"
        " None: the plan's `experiments.ghosts`",
    )
    exclusive: bool = Field(False, description="its items are shown by campaigns only")
    state: Literal["live", "paused"] = "live"

    @property
    def penalty_cny(self) -> float:
        """Per unit short: what it names, else its tier's."""
        return PENALTIES[self.tier] if self.penalty is None else self.penalty

    @property
    def most_on_page(self) -> int:
        if self.per_page is not None:
            return self.per_page
        return len(self.slots) if self.roadblock else 1


def where_of(kind: str, index: int, name: str, field: str = "") -> str:
    """A path that names its thing: `campaigns.3.items.0 (c12)`."""
    return f"{kind}.{index}{'.' + field if field else ''} ({name})"
