"""What the goals and quotas of a plan mean for pacing: their terms, streams of page views and open hours.

Made once per plan; `seen` then joins it with the meters and the forecast, once a second. A stream is a
surface × org of the customer. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from functools import lru_cache
from math import ceil, floor, inf
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from features.ids import key32
from serving.calendar import Calendar
from serving.campaigns import Campaigns, GoalSpec, QuotaSpec
from serving.curves import PACINGS
from serving.pace_inputs import goal_id
from serving.pacing import Goals, Quotas

if TYPE_CHECKING:
    from serving.plan import CompiledPlan

HOUR_S: Final = 3600.0
LONGEST_H: Final = 400 * 24  # of a flight, past and future together
BACK_H: Final = 35 * 24  # of a flight that has always been running
AHEAD_H: Final = 92 * 24  # of a flight without an end
NAN: Final = float("nan")

Floats = NDArray[np.float64]


class Prior(NamedTuple):
    """Of the offline plan: the dual price, CNY per unit, and how strongly delivery answers it, 1/CNY."""

    price: float = 0.0
    answer: float = NAN


@dataclass(frozen=True, slots=True)
class Territory:
    """Surfaces and orgs of a plan; the streams are their products, in this order."""

    surfaces: tuple[str, ...]
    orgs: tuple[str, ...]  # of customers; "" where none is known
    parents: Mapping[str, str] = field(default_factory=dict)  # org -> the one above
    surface_slots: Mapping[str, frozenset[int]] = field(default_factory=dict)  # indices in the plan

    @property
    def streams(self) -> tuple[tuple[str, str], ...]:
        return tuple((surface, org) for surface in self.surfaces for org in self.orgs)

    def within(self, org: str, whole: int) -> bool:
        """Whether `org` is the one with key `whole`, or below it. 0: everybody."""
        if not whole:
            return True
        seen = 0
        while org and seen < 64:
            if key32(org) == whole:
                return True
            org, seen = self.parents.get(org, ""), seen + 1
        return False


class Stretch(NamedTuple):
    """Hours from `start` (POSIX time // 3600), and the part of each in which the calendar is open."""

    start: int
    open: NDArray[np.float32]


class Term(NamedTuple):
    """One goal or quota: the campaign, where its traffic comes from and when it is open."""

    id: str
    campaign: int
    unit: str  # displayed, clicked, converted, cny
    daily: bool  # a share, or a quota per day
    slot: int  # of a share; -1
    mask: NDArray[np.bool_]  # (S,) streams
    calendar: Calendar


@dataclass(frozen=True, slots=True, eq=False)
class PacePlan:
    campaigns: Campaigns
    territory: Territory
    slots: tuple[str, ...]  # names, by index in the plan
    goal_terms: tuple[Term, ...]
    quota_terms: tuple[Term, ...]
    goals: Goals
    quotas: Quotas

    @property
    def paced(self) -> tuple[int, ...]:
        """Campaigns with a goal or a quota, ascending."""
        return tuple(sorted({term.campaign for term in (*self.goal_terms, *self.quota_terms)}))


def territory_of(plan: CompiledPlan) -> Territory:
    """Surfaces, then templates (their instances' views count under the template), and orgs in plan order."""
    lineages = plan.orgs.lineages
    pages = {**plan.surfaces, **plan.templates}
    return Territory(
        surfaces=tuple(pages),
        orgs=("", *lineages),
        parents={org: line[1] for org, line in lineages.items() if len(line) > 1},
        surface_slots={name: frozenset(slot.index for slot in slots) for name, slots in pages.items()},
    )


class Pacing:
    """What is to be paced of the view in force: made anew when its campaigns are others. Call it.

    `priors`: of the offline plan, by goal id and quota key, for a plan version.
    """

    def __init__(
        self,
        current: Callable[[], InForce | None],
        priors: Callable[[str], Mapping[str, Prior]] | None = None,
    ) -> None:
        self._current, self._priors = current, priors
        self._held: tuple[Campaigns, PacePlan] | None = None

    def __call__(self) -> PacePlan | None:
        """None while there is no view, or it has neither goals nor quotas."""
        live = self._current()
        if live is None or not (live.plan.campaigns.goals or live.plan.campaigns.quotas):
            return None
        plan = live.plan
        if self._held is None or self._held[0] is not plan.campaigns:
            slots = sorted(plan.slots.values(), key=lambda slot: slot.index)
            names = [slot.name for slot in slots]
            known = None if self._priors is None else self._priors(plan.version)
            made = pace_plan(plan.campaigns, territory_of(plan), names, known)
            self._held = plan.campaigns, made
        return self._held[1]


class InForce(Protocol):
    """`serving.live.Live`, as far as pacing needs it."""

    @property
    def plan(self) -> CompiledPlan: ...


def pace_plan(
    campaigns: Campaigns,
    territory: Territory,
    slots: Sequence[str],
    priors: Mapping[str, Prior] | None = None,
) -> PacePlan:
    """`priors` by goal id and quota key; without one a price starts at 0 and its answer is a default."""
    known = priors or {}
    goal_terms = tuple(_goal_term(goal, campaigns, territory) for goal in campaigns.goals)
    quota_terms = tuple(_quota_term(quota, campaigns, territory) for quota in campaigns.quotas)
    of_goals = [known.get(term.id, Prior()) for term in goal_terms]
    of_quotas = [known.get(term.id, Prior()) for term in quota_terms]
    penalty = campaigns.penalty
    return PacePlan(
        campaigns,
        territory,
        tuple(slots),
        goal_terms,
        quota_terms,
        Goals(
            pacing=np.array([PACINGS.index(goal.pacing) for goal in campaigns.goals], np.uint8),
            ceiling=np.array([penalty[goal.campaign] for goal in campaigns.goals], np.float64),
            start=np.array([prior.price for prior in of_goals], np.float64),
            answer=np.array([prior.answer for prior in of_goals], np.float64),
            counted_late=np.array([term.unit != "displayed" for term in goal_terms], np.bool_),
        ),
        Quotas(
            ceiling=np.array([_most(quota, campaigns) for quota in campaigns.quotas], np.float64),
            start=np.array([prior.price for prior in of_quotas], np.float64),
            answer=np.array([prior.answer for prior in of_quotas], np.float64),
        ),
    )


def stretch(calendar: Calendar, daily: bool, now: float) -> Stretch:
    """The flight's hours, or those of the calendar's local day that `now` is in."""
    since, until = day_of(calendar.tz, now) if daily else (calendar.start, calendar.end)
    first = floor(since / HOUR_S) if since > -inf else floor(now / HOUR_S) - BACK_H
    last = ceil(until / HOUR_S) if until < inf else floor(now / HOUR_S) + AHEAD_H
    count = min(max(last - first, 0), LONGEST_H)
    return Stretch(first, _open_part(calendar, first, count))


def stretch_key(term: Term, now: float) -> tuple[float, float]:
    """Changes when `stretch` has to be made anew."""
    if term.daily:
        return day_of(term.calendar.tz, now)
    endless = term.calendar.start == -inf or term.calendar.end == inf
    return (now // 86_400.0 if endless else 0.0, 0.0)


def day_of(tz: str, now: float) -> tuple[float, float]:
    """Begin and end of the local day."""
    zone = _zone(tz)
    day = datetime.fromtimestamp(now, zone).date()
    begins, ends = (datetime.combine(each, time(), zone) for each in (day, day + timedelta(days=1)))
    return begins.timestamp(), ends.timestamp()


@lru_cache(maxsize=4096)
def _open_part(calendar: Calendar, first: int, count: int) -> NDArray[np.float32]:
    """Span by span: a calendar has a few a day at most. Many campaigns share one."""
    found = np.zeros(count, np.float32)
    at, end = first * HOUR_S, (first + count) * HOUR_S
    while (opens := calendar.next_open(at)) < end:
        closes = min(calendar.next_change(opens), end)
        low, high = int(opens // HOUR_S) - first, int((closes - 1e-6) // HOUR_S) - first
        found[low : high + 1] += 1.0
        found[low] -= opens / HOUR_S - (first + low)
        found[high] -= (first + high + 1) - closes / HOUR_S
        at = closes
    whole = np.clip(found, 0.0, 1.0)
    whole.flags.writeable = False
    return whole


def _goal_term(goal: GoalSpec, campaigns: Campaigns, territory: Territory) -> Term:
    share = goal.share > 0
    slots = frozenset([goal.slot]) if share else _slots(goal.campaign, campaigns)
    return Term(
        goal_id(goal, campaigns), goal.campaign, goal.unit.lower(), share, goal.slot if share else -1,
        _mask(goal.campaign, slots, campaigns, territory), campaigns.calendars[goal.campaign],
    )  # fmt: skip


def _quota_term(quota: QuotaSpec, campaigns: Campaigns, territory: Territory) -> Term:
    mask = _mask(quota.campaign, _slots(quota.campaign, campaigns), campaigns, territory)
    calendar = campaigns.calendars[quota.campaign]
    return Term(quota.key, quota.campaign, quota.unit.lower(), quota.per == "day", -1, mask, calendar)


def _most(quota: QuotaSpec, campaigns: Campaigns) -> float:
    """A quota's price need never be above what makes a placement worthless; the penalty outbid too."""
    values = (float(campaigns.click[quota.campaign]), float(campaigns.convert[quota.campaign]))
    worth = max((value for value in values if value == value), default=0.0)
    return max(10.0, 2.0 * float(campaigns.penalty[quota.campaign]), worth)


def _slots(campaign: int, campaigns: Campaigns) -> frozenset[int]:
    """Plan slots in which some item of the campaign fits."""
    bits = campaigns.offer_slots[campaigns.offer_campaign == campaign]
    both = int(np.bitwise_or.reduce(bits)) if len(bits) else 0
    return frozenset(at for at in range(64) if both >> at & 1)


def _mask(
    campaign: int, slots: frozenset[int], campaigns: Campaigns, territory: Territory
) -> NDArray[np.bool_]:
    """Streams on whose pages it may stand. Surfaces may be named by their template."""
    named, org = campaigns.surfaces[campaign], int(campaigns.customers_of[campaign])

    def fits(surface: str) -> bool:
        there = territory.surface_slots.get(surface)
        allowed = not named or surface in named or surface.partition("/")[0] in named
        return allowed and (there is None or bool(there & slots))

    good = {surface: fits(surface) for surface in territory.surfaces}
    return np.array(
        [good[surface] and territory.within(o, org) for surface, o in territory.streams], np.bool_
    )


@lru_cache(maxsize=512)
def _zone(tz: str) -> ZoneInfo:
    return ZoneInfo(tz)
