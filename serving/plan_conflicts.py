"""What campaigns may do to each other: pins that meet in one place, shares that promise too much."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from serving.audience_rules import AllOf, Named, Not, Rule
from serving.calendar import Calendar, meet
from serving.campaign import Campaign, where_of
from serving.campaign_checks import reached
from serving.orgs import Orgs
from serving.plan_error import PlanError
from serving.plan_text import Plan, SlotSpec, instance_of

SLACK = 1e-9  # shares are decimal fractions


def check_pins(plan: Plan, calendars: Sequence[Calendar], orgs: Orgs) -> None:
    """Refuse two campaigns of which one customer's page at one moment would owe both the same place."""
    places: dict[tuple[str, int], list[int]] = defaultdict(list)
    for index, one in enumerate(plan.campaigns):
        for slot, position in one.pin.items():
            if one.state == "live":
                places[slot, position].append(index)
    for (slot, position), holders in places.items():
        for first, second in combinations(holders, 2):
            one, other = plan.campaigns[first], plan.campaigns[second]
            if not _apart(one, other, plan, orgs) and meet(calendars[first], calendars[second]):
                path = where_of("campaigns", second, other.id, f"pin.{slot}")
                problem = f"{other.id!r} and {one.id!r} both own position {position} of {slot} at some moment"
                remedy = "move one pin, part their flights, or let one audience be `not` the other"
                raise PlanError(path, problem, remedy)


def _apart(one: Campaign, other: Campaign, plan: Plan, orgs: Orgs) -> bool:
    """Whether no page can be meant by both, as far as the text proves it."""
    if not orgs.related(reached(one, orgs), reached(other, orgs)):
        return True
    if one.surfaces and other.surfaces and not _share_a_surface(one.surfaces, other.surfaces):
        return True
    if one.audience is None or other.audience is None:
        return False
    return _excludes(plan.audiences, one.audience, other.audience) or _excludes(
        plan.audiences, other.audience, one.audience
    )


def _share_a_surface(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    return any(a == b or instance_of(a, b) or instance_of(b, a) for a in ours for b in theirs)


def _excludes(rules: Mapping[str, Rule], audience: str, other: str) -> bool:
    """Whether being in `audience` means not being in `other`: some part that must hold is the contrary of one
    that being in `other` needs.
    """
    needed = list(_needed(rules, Named(audience=other), set()))
    held = _needed(rules, Named(audience=audience), set())
    return any(isinstance(part, Not) and part.not_ in needed for part in held)


def _needed(rules: Mapping[str, Rule], rule: Rule, seen: set[str]) -> Iterator[Rule]:
    """Everything that holds wherever `rule` does, through `all` and names, each name once."""
    yield rule
    if isinstance(rule, AllOf):
        for part in rule.all:
            yield from _needed(rules, part, seen)
    elif isinstance(rule, Named) and rule.audience not in seen:
        seen.add(rule.audience)
        yield from _needed(rules, rules[rule.audience], seen)


def check_shares(plan: Plan, calendars: Sequence[Calendar], orgs: Orgs) -> None:
    """Refuse shares of a slot that together are more than all of some customer's displays.

    A share is of the displays to its org's customers, so those of two branches side by side do not add up,
    those of an org and of one above it do. What a slot's owner delegates is not its own to promise; an org
    promises no more than was delegated to it. Flights that overlap count together, whatever their weekdays.
    """
    for index, slot in enumerate(plan.slots):
        promised = [
            (at, one, goal.share)
            for at, one in enumerate(plan.campaigns)
            for goal in one.goals
            if goal.slot == slot.name and goal.share is not None and one.state == "live"
        ]
        _check_delegated(index, slot, orgs)
        for name in orgs.lineages if promised else ():
            _check_promised(slot, name, promised, calendars, orgs)


def _check_delegated(index: int, slot: SlotSpec, orgs: Orgs) -> None:
    for org in slot.shares:
        line = orgs.lineages[orgs.customers(org)]
        held = {name: share for name, share in slot.shares.items() if orgs.customers(name) in line}
        if sum(held.values()) > 1 + SLACK:
            path = where_of("slots", index, slot.name, f"shares.{org}")
            problem = (
                f"{' + '.join(held)} of {slot.name} add up to {sum(held.values()):g} for the same customers"
            )
            raise PlanError(path, problem, "delegate at most 1 in all")


def _check_promised(
    slot: SlotSpec,
    customers: str,
    promised: Sequence[tuple[int, Campaign, float]],
    calendars: Sequence[Calendar],
    orgs: Orgs,
) -> None:
    """Of one org's customers, at every moment: per delegated share, and of what the owner kept."""
    line = orgs.lineages[customers]
    delegated = {name: share for name, share in slot.shares.items() if orgs.customers(name) in line}
    by_holder: dict[str | None, list[tuple[int, Campaign, float]]] = defaultdict(list)
    for at, one, share in promised:
        if reached(one, orgs) in line:
            holder = next((name for name in orgs.lineages[one.org] if name in slot.shares), None)
            by_holder[holder].append((at, one, share))
    for holder, theirs in by_holder.items():
        most = 1 - sum(delegated.values()) if holder is None else slot.shares[holder]
        for moment, _, _ in theirs:
            start = calendars[moment].start
            live = [each for each in theirs if calendars[each[0]].start <= start < calendars[each[0]].end]
            if sum(share for _, _, share in live) > most + SLACK:
                _raise_promised(slot, holder, most, live)


def _raise_promised(
    slot: SlotSpec, holder: str | None, most: float, live: Sequence[tuple[int, Campaign, float]]
) -> None:
    index, one, _ = max(live, key=lambda each: each[0])
    at = next(place for place, goal in enumerate(one.goals) if goal.slot == slot.name)
    path = where_of("campaigns", index, one.id, f"goals.{at}.share")
    whose = "is not delegated" if holder is None else f"is delegated to {holder!r}"
    names = ", ".join(repr(each[1].id) for each in live)
    total = sum(share for _, _, share in live)
    problem = f"{names} promise {total:g} of {slot.name} at one time, of which {max(0.0, most):g} {whose}"
    raise PlanError(path, problem, "lower the shares, or part the flights")
