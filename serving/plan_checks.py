"""A plan checked as a whole: what its parts say of one another. The first defect is raised, with its path.

Order: orgs, slots, templates, audiences, campaign by campaign (`serving.campaign_checks`), groups and rules,
then what campaigns do to each other (`serving.plan_conflicts`). Needs no catalogue and no clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import combinations, pairwise
from typing import Final

from features.ids import CHANNELS, key32
from serving.arm_plans import arm_plans
from serving.audience import AudienceError, compile_audiences
from serving.campaign import ContactRule, where_of
from serving.campaign_checks import Known, check_campaign, some
from serving.experiment_checks import check_experiments
from serving.orgs import Orgs, orgs_of
from serving.plan_conflicts import check_pins, check_shares
from serving.plan_error import PlanError
from serving.plan_text import Plan, SlotSpec, is_template

MOST_GROUPS_OF_CAMPAIGN: Final = 5  # as many counters as an offer carries beside its campaign's own
MOST_GROUPS_OF_ITEM: Final = 2


def check_whole(plan: Plan) -> Orgs:
    """The plan's tree of orgs. Raises PlanError for the first defect."""
    orgs = orgs_of(plan.orgs)
    check_ids("orgs", [org.id for org in plan.orgs])
    check_ids("slots", [slot.name for slot in plan.slots])
    for index, slot in enumerate(plan.slots):
        _check_slot(index, slot, orgs)
    _check_templates(plan, orgs)
    _check_audiences(plan)
    check_ids("campaigns", [campaign.id for campaign in plan.campaigns])
    known = Known.of(plan, orgs)
    calendars = [check_campaign(index, one, known) for index, one in enumerate(plan.campaigns)]
    _check_quota_keys(plan)
    _check_groups(plan)
    check_ids("contact_rules", [rule.id for rule in plan.contact_rules])
    for index, rule in enumerate(plan.contact_rules):
        _check_rule(index, rule, known)
    check_pins(plan, calendars, orgs)
    check_shares(plan, calendars, orgs)
    check_experiments(plan)
    for path, varied in arm_plans(plan):
        try:
            check_whole(varied)
        except PlanError as error:
            raise error.within(path) from None
    return orgs


def lapsed(plan: Plan, now: float) -> list[PlanError]:
    """What has run out by `now` (POSIX seconds) and should not be published again: levers."""
    found = []
    for index, one in enumerate(plan.campaigns):
        if one.lever is not None and one.lever.until.timestamp() <= now:
            path = where_of("campaigns", index, one.id, "lever.until")
            remedy = "remove the lever, or have it renewed with a later `until`"
            found.append(PlanError(path, f"{one.lever.until.isoformat()} is over", remedy))
    return found


def check_ids(kind: str, ids: Sequence[str]) -> None:
    """Refuse ids that are there twice, and those that records could not tell apart."""
    first: dict[int, int] = {}
    for index, name in enumerate(ids):
        at = first.setdefault(key32(name), index)
        if at != index:
            same = ids[at] == name
            problem = "is there twice" if same else f"has the same 32-bit key as {ids[at]!r}"
            raise PlanError(where_of(kind, index, name, "id"), problem, "rename one of them")


def _check_slot(index: int, slot: SlotSpec, orgs: Orgs) -> None:
    def wrong(field: str, problem: str, remedy: str) -> PlanError:
        return PlanError(where_of("slots", index, slot.name, field), problem, remedy)

    if slot.owner is not None and slot.owner not in orgs:
        raise wrong("owner", f"{slot.owner!r} is no org of the plan", "declare it in `orgs`")
    for org in slot.shares:
        if org not in orgs:
            raise wrong(f"shares.{org}", "is no org of the plan", "declare it in `orgs`")
        if org == (slot.owner or orgs.root):
            raise wrong(f"shares.{org}", "owns the slot already", "remove the share")
    rates = slot.display_rates
    if rates is not None and len(rates) != slot.size:
        raise wrong(
            "display_rates", f"has {len(rates)} rates for {slot.size} places", "give one for each place"
        )
    if rates is not None and any(after > before for before, after in pairwise(rates)):
        raise wrong(
            "display_rates", "rise from one place to the next", "order the places by how often they are seen"
        )
    for field, named in (("kinds_least", slot.kinds_least), ("kinds_most", slot.kinds_most)):
        for kind in named:
            if kind not in slot.kinds:
                raise wrong(
                    f"{field}.{kind}", "is no kind of the slot", "add it to `kinds`, or remove it here"
                )
    for kind, least in slot.kinds_least.items():
        if least > slot.kinds_most.get(kind, slot.size):
            most = slot.kinds_most.get(kind, slot.size)
            raise wrong(f"kinds_least.{kind}", f"{least} is above the most, {most}", "lower it")
    if sum(slot.kinds_least.values()) > slot.size:
        raise wrong(
            "kinds_least", f"add up to more than the {slot.size} places", "lower them, or widen the slot"
        )


def _check_templates(plan: Plan, orgs: Orgs) -> None:
    slots = {slot.name for slot in plan.slots}
    for name, template in plan.templates.items():
        path = f"templates.{name}"
        if not is_template(name):
            raise PlanError(path, "is no template", "leave one whole segment open: outlet/{id}")
        for at, slot in enumerate(template.slots):
            if slot not in slots:
                raise PlanError(
                    f"{path}.slots.{at}", f"{slot!r} is no slot of the plan", f"name {some(slots)}"
                )
            if slot in template.slots[:at]:
                raise PlanError(f"{path}.slots.{at}", f"names {slot!r} twice", "remove one")
        for instance, org in template.orgs.items():
            if org not in orgs:
                raise PlanError(
                    f"{path}.orgs.{instance}", f"{org!r} is no org of the plan", "declare it in `orgs`"
                )
            if not instance or set(instance) & set("/{}"):
                raise PlanError(f"{path}.orgs.{instance}", "is no instance", "name one segment without / { }")
    for one, other in combinations(plan.templates, 2):
        if _may_match_the_same(one, other):
            raise PlanError(
                f"templates.{other}", f"may match the same surface as {one!r}", "rename one of them"
            )


def _may_match_the_same(one: str, other: str) -> bool:
    ours, theirs = one.split("/"), other.split("/")
    alike = (a == b or a.startswith("{") or b.startswith("{") for a, b in zip(ours, theirs, strict=False))
    return len(ours) == len(theirs) and all(alike)


def _check_audiences(plan: Plan) -> None:
    try:
        compile_audiences(plan.audiences, actions=plan.actions, strict=False)
    except AudienceError as error:
        raise PlanError(error.path, error.problem, error.remedy) from None


def _check_quota_keys(plan: Plan) -> None:
    """A quota's key is "campaign/quota", and ids may hold a slash."""
    first: dict[str, str] = {}
    for index, one in enumerate(plan.campaigns):
        for at, quota in enumerate(one.quotas):
            key = f"{one.id}/{quota.id}"
            if first.setdefault(key, one.id) != one.id:
                path = where_of("campaigns", index, one.id, f"quotas.{at}.id")
                raise PlanError(path, f"has the key {key!r} of a quota of {first[key]!r}", "rename it")


def _check_groups(plan: Plan) -> None:
    campaigns = {one.id for one in plan.campaigns}
    check_ids("exclusions", [group.id for group in plan.exclusions])
    for index, group in enumerate(plan.exclusions):

        def at(field: str, index: int = index, name: str = group.id) -> str:
            return where_of("exclusions", index, name, field)

        if not (group.campaigns or group.items or group.categories):
            raise PlanError(at(""), "names nothing", "name campaigns, items or categories")
        for field in ("campaigns", "items", "categories"):
            check_once(getattr(group, field), at(field))
        for place, name in enumerate(group.campaigns):
            if name not in campaigns:
                raise PlanError(
                    at(f"campaigns.{place}"), f"{name!r} is no campaign", f"name {some(campaigns)}"
                )

    _check_many(plan, "campaigns", MOST_GROUPS_OF_CAMPAIGN)
    _check_many(plan, "items", MOST_GROUPS_OF_ITEM)


def _check_many(plan: Plan, field: str, most: int) -> None:
    """A placement counts against so many groups and no more: one beyond would not be held to."""
    met: dict[str, int] = {}
    for index, group in enumerate(plan.exclusions):
        for place, name in enumerate(getattr(group, field)):
            met[name] = met.get(name, 0) + 1
            if met[name] > most:
                path = where_of("exclusions", index, group.id, f"{field}.{place}")
                raise PlanError(path, f"{name!r} is in more than {most} groups", "join some of the groups")


def check_once(names: Iterable[str], path: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PlanError(path, f"names {name!r} twice", "remove one")
        seen.add(name)


def _check_rule(index: int, rule: ContactRule, known: Known) -> None:
    names: dict[str, Collection[str]] = {
        "campaign": known.campaigns,
        "slot": known.slots,
        "org": known.orgs.lineages,
        "channel": CHANNELS,
    }
    for at, name in enumerate(rule.of):
        if rule.scope in names and name not in names[rule.scope]:
            path = where_of("contact_rules", index, rule.id, f"of.{at}")
            raise PlanError(path, f"{name!r} is no {rule.scope}", f"name {some(names[rule.scope])}")
