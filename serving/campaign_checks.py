"""One campaign checked against what the plan declares: names, flight, tier, promises, limits, places."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date
from math import inf
from typing import Final

from features.ids import CHANNELS
from serving.calendar import Calendar, calendar_of, zone
from serving.campaign import Campaign, Cap, Goal, where_of
from serving.orgs import Orgs
from serving.plan_error import PlanError
from serving.plan_text import Plan, SlotSpec, Surfaces

WITH_GOALS: Final = ("guaranteed", "share")
BY_VALUE: Final = ("guaranteed", "share", "standard")
STOCK_QUOTA: Final = "stock"  # the quota that a benefit's stock is compiled to

At = Callable[[str], str]  # a field's path


@dataclass(frozen=True, slots=True)
class Known:
    """What a campaign may name."""

    slots: Mapping[str, SlotSpec]
    orgs: Orgs
    audiences: Collection[str]
    holidays: Mapping[str, tuple[date, ...]]
    surfaces: Surfaces
    shown_on: Mapping[str, tuple[str, ...]]  # slot -> surfaces and templates that have it
    campaigns: Mapping[str, Campaign]

    @classmethod
    def of(cls, plan: Plan, orgs: Orgs) -> Known:
        surfaces = Surfaces(plan)
        shown_on: dict[str, tuple[str, ...]] = {slot.name: () for slot in plan.slots}
        for name, slots in surfaces.all().items():
            for slot in slots:
                shown_on[slot] = (*shown_on[slot], name)
        return cls(
            slots={slot.name: slot for slot in plan.slots},
            orgs=orgs,
            audiences=plan.audiences.keys(),
            holidays=plan.holidays,
            surfaces=surfaces,
            shown_on=shown_on,
            campaigns={one.id: one for one in plan.campaigns},
        )


def check_campaign(index: int, one: Campaign, known: Known) -> Calendar:
    """The campaign's calendar. Raises PlanError for the first defect."""

    def at(field: str) -> str:
        return where_of("campaigns", index, one.id, field)

    _check_names(one, known, at)
    _check_slots(one, known, at)
    calendar = calendar_in(one, known.orgs, known.holidays, at)
    _check_goals(one, calendar, at)
    _check_quotas(one, at)
    _check_goals_fit_quotas(one, calendar, at)
    for place, cap in enumerate(one.caps):
        _check_cap(cap, one, known, lambda field, place=place: at(f"caps.{place}.{field}"))  # type: ignore[misc]
    _check_places(one, known, at)
    _check_money(one, calendar, at)
    return calendar


def calendar_in(
    one: Campaign, orgs: Orgs, holidays: Mapping[str, tuple[date, ...]], at: At = lambda field: field
) -> Calendar:
    """The flight in its own zone, else its org's. Raises PlanError."""
    flight = one.flight
    tz = flight.tz or orgs.zones[one.org]
    try:
        zone(tz)
    except ValueError as error:
        raise PlanError(at("flight.tz"), str(error), "name one such as Asia/Shanghai") from None
    if flight.holidays is not None and flight.holidays not in holidays:
        problem = f"{flight.holidays!r} is no list of `holidays`"
        raise PlanError(at("flight.holidays"), problem, f"name {some(holidays)}")
    try:
        return calendar_of(flight, tz, holidays[flight.holidays] if flight.holidays else ())
    except PlanError as error:
        raise PlanError(at(error.path), error.problem, error.remedy) from None


def reached(one: Campaign, orgs: Orgs) -> str:
    """The org whose customers (and those below it) a campaign is for."""
    return one.customers_of or orgs.customers(one.org)


def some(names: Collection[str]) -> str:
    """A few of the names, for a remedy."""
    shown = sorted(names)[:8]
    return (
        f"one of {', '.join(shown)}{' …' if len(names) > len(shown) else ''}"
        if shown
        else "nothing: there is none"
    )


def _check_names(one: Campaign, known: Known, at: At) -> None:
    for org, field in ((one.org, "org"), (one.customers_of, "customers_of")):
        if org is not None and org not in known.orgs:
            raise PlanError(at(field), f"{org!r} is no org of the plan", f"name {some(known.orgs.lineages)}")
    own = known.orgs.customers(one.org)
    if one.customers_of is not None and not known.orgs.covers(own, one.customers_of):
        problem = f"{one.customers_of!r} is neither {own!r} nor below it"
        raise PlanError(at("customers_of"), problem, "name an org of its own branch")
    if one.audience is not None and one.audience not in known.audiences:
        raise PlanError(at("audience"), f"{one.audience!r} is no audience", f"name {some(known.audiences)}")
    for field in ("items", "slots", "surfaces"):
        names: tuple[str, ...] = getattr(one, field)
        for place, name in enumerate(names):
            if name in names[:place]:
                raise PlanError(at(f"{field}.{place}"), f"{name!r} is there twice", "remove one")
    for item, creatives in one.creatives.items():
        if item not in one.items:
            raise PlanError(at(f"creatives.{item}"), "is none of the campaign's items", "add it to `items`")
        if len(set(creatives)) < len(creatives):
            raise PlanError(at(f"creatives.{item}"), "names a creative twice", "remove one")


def _check_slots(one: Campaign, known: Known, at: At) -> None:
    for place, name in enumerate(one.surfaces):
        if known.surfaces.slots(name) is None:
            problem = f"{name!r} is no surface, template or instance"
            raise PlanError(at(f"surfaces.{place}"), problem, f"name {some(known.surfaces.all())}")
    for place, name in enumerate(one.slots):
        if name not in known.slots:
            raise PlanError(at(f"slots.{place}"), f"{name!r} is no slot", f"name {some(known.slots)}")
        there = [known.surfaces.slots(surface) or () for surface in one.surfaces or known.shown_on[name]]
        if not any(name in slots for slots in there):
            raise PlanError(
                at(f"slots.{place}"), f"{name!r} is on none of its surfaces", "add a surface, or remove it"
            )
        if not _may_use(one, known.slots[name], known):
            problem = f"{one.org!r} neither owns {name!r} nor has a share of it"
            raise PlanError(at(f"slots.{place}"), problem, "have a share delegated in the slot's `shares`")


def _may_use(one: Campaign, slot: SlotSpec, known: Known) -> bool:
    """An org uses what is its own or of an org below it, shares of its own or of an org above it, and the
    instances of templates that are its own.
    """
    orgs = known.orgs
    if any(holder in slot.shares for holder in orgs.lineages[one.org]):
        return True
    if any(orgs.covers(one.org, holder) for holder in (slot.owner or orgs.root, *slot.shares)):
        return True
    found = [known.surfaces.find(surface) for surface in one.surfaces]
    own = [each is not None and each[1] is not None and orgs.covers(one.org, each[1]) for each in found]
    return bool(own) and all(own)


def _check_goals(one: Campaign, calendar: Calendar, at: At) -> None:
    if one.goals and one.tier not in WITH_GOALS:
        raise PlanError(at("goals"), f"the tier {one.tier} promises nothing", "make it guaranteed or share")
    if not one.goals and one.tier in WITH_GOALS:
        raise PlanError(at("goals"), f"the tier {one.tier} needs a goal", "add one, or make it standard")
    if one.penalty is not None and not one.goals:
        raise PlanError(at("penalty"), "there is no goal to fall short of", "remove it, or add a goal")
    seen: set[tuple[str, str | None]] = set()
    for place, goal in enumerate(one.goals):
        path = at(f"goals.{place}")
        if (goal.unit, goal.slot) in seen:
            raise PlanError(path, "there is another goal in the same unit", "keep one of them")
        seen.add((goal.unit, goal.slot))
        _check_goal(one, goal, calendar, path)


def _check_goal(one: Campaign, goal: Goal, calendar: Calendar, path: str) -> None:
    if goal.share is None and one.tier == "share":
        raise PlanError(
            path, "the tier share promises shares", "say `share` and `slot`, or make it guaranteed"
        )
    if goal.slot is not None and goal.slot not in one.slots:
        raise PlanError(path, f"{goal.slot!r} is none of the campaign's slots", f"name {some(one.slots)}")
    if goal.share is None and (calendar.start == -inf or calendar.end == inf):
        raise PlanError(path, "a number of units needs a flight with an end", "say `from` and `until`")
    if goal.at_least is not None and goal.unit != "CNY" and goal.at_least != int(goal.at_least):
        raise PlanError(path, f"{goal.at_least} is no whole number of units", "round it")


def _check_quotas(one: Campaign, at: At) -> None:
    seen = {STOCK_QUOTA} if one.benefit is not None and one.benefit.stock is not None else set()
    for place, quota in enumerate(one.quotas):
        if quota.id in seen:
            raise PlanError(at(f"quotas.{place}.id"), f"{quota.id!r} is there twice", "rename one of them")
        seen.add(quota.id)
        if quota.unit != "CNY" and quota.at_most != int(quota.at_most):
            raise PlanError(at(f"quotas.{place}.at_most"), "is no whole number of units", "round it")


def _check_goals_fit_quotas(one: Campaign, calendar: Calendar, at: At) -> None:
    for place, goal in enumerate(one.goals):
        for quota in one.quotas:
            if goal.at_least is None or goal.unit != quota.unit:
                continue
            times = calendar.days_open() if quota.per == "day" else 1
            if goal.at_least > quota.at_most * times:
                problem = f"{goal.at_least:g} is more than the quota {quota.id!r} lets through"
                raise PlanError(at(f"goals.{place}.at_least"), problem, "lower the goal, or raise the quota")


def _check_cap(cap: Cap, one: Campaign, known: Known, at: At) -> None:
    """A cap of a campaign holds back its own placements: it names one of them, or can never bind."""
    names: dict[str, Collection[str]] = {
        "campaign": known.campaigns,
        "slot": known.slots,
        "org": known.orgs.lineages,
        "channel": CHANNELS,
    }
    own: dict[str, Collection[str]] = {
        "campaign": (one.id,),
        "slot": one.slots,
        "org": known.orgs.lineages[one.org],
        "item": one.items,
        "creative": [name for named in one.creatives.values() for name in named],
    }
    for place, name in enumerate(cap.of):
        if cap.scope in names and name not in names[cap.scope]:
            raise PlanError(
                at(f"of.{place}"), f"{name!r} is no {cap.scope}", f"name {some(names[cap.scope])}"
            )
    mine = own.get(cap.scope)
    if cap.of and mine and not set(cap.of) & set(mine):
        problem = f"can never bind: the campaign has none of these {cap.scope}s"
        raise PlanError(at("of"), problem, f"name {some(mine)} too, or make it a contact rule")


def _check_places(one: Campaign, known: Known, at: At) -> None:
    for slot, position in one.pin.items():
        if slot not in one.slots:
            raise PlanError(at(f"pin.{slot}"), "is none of the campaign's slots", f"name {some(one.slots)}")
        if position >= known.slots[slot].size:
            last = known.slots[slot].size - 1
            raise PlanError(at(f"pin.{slot}"), f"the slot has no position {position}", f"name 0 to {last}")
    if one.roadblock and one.pin:
        raise PlanError(
            at("roadblock"), "takes all of its slots, and a pin one place", "remove one of the two"
        )
    if not one.roadblock:
        return
    surfaces = one.surfaces or tuple(name for slot in one.slots for name in known.shown_on[slot])
    most = max(len(set(known.surfaces.slots(name) or ()) & set(one.slots)) for name in surfaces)
    if len(one.items) < most:
        problem = f"{len(one.items)} items cannot fill {most} slots of a page, where none is shown twice"
        raise PlanError(at("roadblock"), problem, "add items, or take slots away")
    if one.most_on_page < most:
        raise PlanError(at("per_page"), f"is less than its {most} slots of a page", "leave it out")


def _check_money(one: Campaign, calendar: Calendar, at: At) -> None:
    if one.benefit is not None and one.tier not in BY_VALUE:
        problem = f"the tier {one.tier} is placed whatever it costs"
        raise PlanError(at("benefit"), problem, f"make it {', '.join(BY_VALUE[:-1])} or {BY_VALUE[-1]}")
    if one.lever is not None and one.lever.until.timestamp() <= calendar.start:
        raise PlanError(
            at("lever.until"), "is before the flight begins", "remove the lever, or have it last longer"
        )
