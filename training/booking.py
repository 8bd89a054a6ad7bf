"""Booking by re-decision: what a plan would deliver, decided again over the replay sample.

    check(after, sample, spread, span, before=…) -> Booking

Two questions, two programmes. What does everybody get: the plan's own prices (the dual of goals and quotas
over the sample) and what pages come to at them. Can a new goal be kept at all: the most it could have while
every other goal keeps its units, in units alone (`training.booking_programme.most_of`); what is asked beyond
that is infeasible whatever is paid. The interval is that most's, over the draw of the sample's pages or of
customers, with the error of the traffic's forecast.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from serving.causes import Cause, GoalFacts, cause
from serving.pace_plan import Prior
from training.booking_pages import Spread, Stocked
from training.booking_plan import Decided, Work, decided, parts_of, priors_of
from training.booking_programme import Most, most_of, of_goals, without_value
from training.sample_columns import Sample, thinned

Z: Final = 1.645  # of a 90 % interval
WIDEN: Final = 1.15  # of the deviation; `fenliu bench booking` sets it on bookings that it does not score
LEAN: Final = 0.998  # most over what the bound says: it is approached from above
TRAFFIC_ERROR: Final = 0.05  # relative, of a flight's forecast, until the track record says
AT_CEILING: Final = 0.98  # of the penalty: from here on a goal is not expected to be met
MOST_CHANGED: Final = 8  # goals of a change that are looked at one by one


class GoalForecast(NamedTuple):
    """One goal, in its own unit. `most` is NaN where it was not asked for (an unchanged goal)."""

    id: str
    campaign: str
    org: str
    unit: str
    asked: float  # still to come in the time that is booked
    expected: float
    low: float
    high: float
    most: float
    most_low: float
    most_high: float
    price: float  # CNY per unit
    ceiling: float
    fits: bool
    cause: Cause | None
    changed: bool


class Displaced(NamedTuple):
    """What a campaign had and would have: displays, base value, and CNY of penalties for what it falls short."""

    campaign: str
    org: str
    displays: tuple[float, float]
    value: tuple[float, float]
    short: tuple[float, float]

    @property
    def cost(self) -> float:
        return (self.value[0] - self.value[1]) + (self.short[1] - self.short[0])


class OrgLine(NamedTuple):
    org: str
    displays: tuple[float, float]
    value: tuple[float, float]


class Capped(NamedTuple):
    """Page views on which a campaign runs, and how many of them its caps, or permission, close."""

    campaign: str
    running: float
    capped: float
    denied: float


class Relax(NamedTuple):
    """A change that would help, and what could be delivered then."""

    goal: str
    how: str
    most: float
    fits: bool


class PageSeen(NamedTuple):
    """A sampled page before and after: item names by slot, a campaign's in brackets."""

    at: float
    before: Mapping[str, tuple[str, ...]]
    after: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Booking:
    plan: str
    bundle: str
    span: tuple[float, float]
    goals: tuple[GoalForecast, ...]
    displaced: tuple[Displaced, ...]
    orgs: tuple[OrgLine, ...]
    capped: tuple[Capped, ...]
    quotas: Mapping[str, tuple[float, float, float]]  # key -> (used, at most, CNY per unit)
    value: tuple[float, float]  # CNY of all pages, before and after
    relax: tuple[Relax, ...]
    pages: tuple[PageSeen, ...]
    priors: Mapping[str, Prior]
    notes: tuple[str, ...]
    seconds: float

    @property
    def fits(self) -> bool:
        return all(goal.fits for goal in self.goals if goal.changed)


class Doubt(NamedTuple):
    """What the sample is to the traffic that is booked: a `part` of it, or of a `past` like it."""

    of: Literal["part", "past"] = "past"
    traffic: float = TRAFFIC_ERROR
    widen: float = WIDEN


def check(
    after: Stocked,
    sample: Sample,
    spread: Spread,
    span: tuple[float, float],
    *,
    before: Stocked | Decided | None = None,
    delivered: Mapping[str, float] | None = None,
    changed: Collection[str] | None = None,
    work: Work | None = None,
    doubt: Doubt | None = None,
    full: bool = True,
) -> Booking:
    """`before`: the plan in force (or what was decided of it already), None: a plan without campaigns.

    `changed`: ids of campaigns to look at closely; by default those that differ from before. `full` False
    leaves out sample pages, remedies and the pacer's priors. Pure but for `seconds`.
    """
    begun = time.perf_counter()
    work, doubt = work or Work(), doubt or Doubt()
    if before is None:
        before = _bare_plan(after)
    known = before if isinstance(before, Decided) else None
    if known is None:
        assert isinstance(before, Stocked)
        known = decided(before, sample, spread, span, work, delivered=delivered)
    now = decided(after, sample, spread, span, work, delivered=delivered, start=known.prices)
    ids = _changed(known, now) if changed is None else list(changed)
    goals, relax = _goals(known, now, ids, work, doubt, full)
    plan = after.plan
    missing = now.joined.missing
    notes = [
        f"{name} is not in the sample: its clicks are an estimate; refresh the sample" for name in missing
    ]
    if any(plan.campaigns.caps[index].scope != "slot" for index in plan.campaigns.contact_rules):
        notes.append("contact rules of items, categories and channels are not looked at")
    return Booking(
        plan.version, sample.bundle, span, goals, *_displaced(known, now), _capped(now), _quotas(now),
        (known.taken.base, now.taken.base), tuple(relax), _pages(known, now, ids) if full else (),
        priors_of(now, work) if full else {}, tuple(notes), time.perf_counter() - begun,
    )  # fmt: skip


def limits_of_most(most: Most, doubt: Doubt, share: float) -> tuple[float, float, float]:
    """(most, low, high) in displays or clicks: 90 % of what the traffic that is booked would say."""
    middle = LEAN * most.units
    if doubt.of == "part":
        deviation = most.error * np.sqrt(max(1.0 - share, 0.0))
    else:
        deviation = most.error_customers * np.sqrt(1.0 + share)
    wide = Z * float(np.hypot(doubt.widen * deviation, doubt.traffic * middle))
    return middle, max(middle - wide, 0.0), middle + wide


def _goals(
    before: Decided, now: Decided, ids: Collection[str], work: Work, doubt: Doubt, full: bool
) -> tuple[tuple[GoalForecast, ...], list[Relax]]:
    campaigns, terms = now.joined.campaigns, now.terms
    looked_at = [g for g, goal in enumerate(campaigns.goals) if campaigns.ids[goal.campaign] in ids]
    closely = _Closely(before, now, work, doubt) if looked_at else None
    relax: list[Relax] = []
    found = []
    for g, goal in enumerate(campaigns.goals):
        spec = campaigns.specs[goal.campaign]
        asked, factor = float(terms.at_least[g]), float(terms.goal_factor[g])
        price, ceiling = now.prices[terms.goals[g]], float(campaigns.penalty[goal.campaign])
        got = float(now.delivered[g])
        short = price >= AT_CEILING * ceiling and got < asked
        expected = min(asked, got) if short else asked
        unsure = Z * float(np.hypot(np.sqrt(_each(now) * factor * max(got, 0.0)), doubt.traffic * got))
        most = low = high = float("nan")
        fits, why = not short, None
        if closely is not None and g in looked_at[:MOST_CHANGED]:
            most, low, high = (factor * one for one in closely.most(g))
            fits = asked <= most
            expected = min(expected, most) if fits else most
            if not fits:
                why = closely.cause(g, most)
                relax += closely.remedies(g, low) if full else []
            bounds = min(asked, low), min(asked, high)
        else:
            bounds = min(expected, max(got - unsure, 0.0)), min(asked, max(got + unsure, expected))
            why = Cause.AT_CEILING if short else None
        found.append(
            GoalForecast(
                terms.goals[g], spec.id, spec.org, goal.unit, asked, expected, *bounds, most, low, high,
                price, ceiling, fits, why, spec.id in ids,
            )
        )  # fmt: skip
    return tuple(found), relax


class _Closely:
    """What a goal could have at most, why no more, and what would give it more."""

    def __init__(self, before: Decided, now: Decided, work: Work, doubt: Doubt) -> None:
        self._now, self._work, self._doubt = now, work, doubt
        had = dict(
            zip(before.terms.goals, zip(before.delivered, before.terms.at_least, strict=True), strict=True)
        )
        least = now.terms.at_least.copy()
        for g, name in enumerate(now.terms.goals):
            got, asked = had.get(name, (least[g], least[g]))
            short = before.prices.get(name, 0.0) >= AT_CEILING * now.terms.programme.penalty[g] / max(
                float(now.terms.goal_factor[g]), 1e-12
            )
            if short and got < asked:  # what could not be kept before is not held against the new one
                least[g] = min(least[g], got)
        self._programme = now.terms.programme._replace(
            least=np.divide(
                least, now.terms.goal_factor, out=np.zeros_like(least), where=now.terms.goal_factor > 0
            )
        )
        self._units = of_goals(self._programme, now.joined.campaigns)
        sample = now.joined.sample
        self._pages = thinned(len(sample), work.few)
        self._few = without_value(parts_of(now.joined, self._pages, self._units))
        few = thinned(len(sample), work.checked)
        self._checked = without_value(parts_of(now.joined, few, self._units))
        self._all = without_value(list(now.joined.parts(units=self._units)))
        self._share = len(sample) / max(sample.population, 1.0)
        self._found: dict[int, Most] = {}
        self._funnel = now.joined.funnel()

    def most(self, g: int) -> tuple[float, float, float]:
        found = self._found[g] = most_of(
            self._programme, g, self._few, self._all, self._work.most_steps,
            checked=self._checked, subjects=self._now.joined.sample.subject,
        )  # fmt: skip
        middle, low, high = limits_of_most(found, self._doubt, self._share)
        quota = self._quota(g)
        return min(middle, quota), min(low, quota), min(high, quota)

    def _quota(self, g: int) -> float:
        programme = self._programme
        same = (programme.quota_campaign == programme.goal_campaign[g]) & (
            programme.quota_unit == programme.goal_unit[g]
        )
        return float(programme.most[same].min(initial=np.inf))

    def cause(self, g: int, most: float) -> Cause:
        now, programme = self._now, self._programme
        c, factor = int(programme.goal_campaign[g]), float(now.terms.goal_factor[g])
        funnel, best = self._funnel, self._found[g].best
        open_part = max(1.0 - (funnel.capped[c] + funnel.denied[c]) / max(funnel.running[c], 1e-9), 1e-9)
        price, ceiling = now.prices[now.terms.goals[g]], float(now.joined.campaigns.penalty[c])
        facts = GoalFacts(
            at_least=float(now.terms.at_least[g]),
            delivered=0.0,
            expected_end=min(most, 0.99 * float(now.terms.at_least[g])),
            units_left=factor * best / open_part,
            eligible=float(funnel.running[c]),
            dropped=float(funnel.denied[c]),
            refused_cap=float(funnel.capped[c]),
            price=price,
            ceiling=ceiling,
            quota_left=factor * self._quota(g),
            slots_on=now.joined.slots_on(c),
        )
        return cause(facts) or Cause.OUT_PRICED

    def remedies(self, g: int, low: float) -> list[Relax]:
        """A smaller goal, more days, everybody, other slots, no caps: each by itself, on the few pages."""
        now, programme = self._now, self._programme
        c, asked = int(programme.goal_campaign[g]), float(now.terms.at_least[g])
        name, factor = now.terms.goals[g], float(now.terms.goal_factor[g])
        middle = max(factor * limits_of_most(self._found[g], self._doubt, self._share)[0], 1e-9)
        found = [Relax(name, f"ask for {low:,.0f}", middle, True)]
        if 1.0 < asked / middle <= 10.0 and np.isfinite(asked):
            more = asked / middle - 1.0
            found.append(Relax(name, f"{more:.0%} more days like these", asked, True))
        for how, change in self._changes(c).items():
            joined = now.joined.relaxed(c, **change)
            few = without_value(parts_of(joined, self._pages, self._units))
            steps, start = max(self._work.most_steps // 2, 1), self._found[g].prices
            few_checked = without_value(parts_of(joined, thinned(len(joined.sample), 512), self._units))
            most = most_of(programme, g, few, few, steps, start=start, checked=few_checked)
            could = factor * LEAN * most.units
            if could > 1.02 * middle:
                found.append(Relax(name, how, could, could >= asked))
        return found

    def _changes(self, c: int) -> dict[str, dict[str, Any]]:
        joined = self._now.joined
        plan, campaigns = joined.stocked.plan, joined.campaigns
        found: dict[str, dict[str, Any]] = {}
        if campaigns.audience[c] >= 0:
            found["everybody as audience"] = {"everybody": True}
        rows = joined.table.row[joined.table.campaign == c]
        own = int(np.bitwise_or.reduce(joined.table.slots[joined.table.campaign == c], initial=0))
        may = int(np.bitwise_or.reduce(_fitting(joined.stocked, rows), initial=0))
        for spec in plan.slots.values():
            if spec.bit & may & ~own:
                found[f"also in {spec.name}"] = {"slots": spec.bit}
        if np.isfinite(joined.limits[c]).any():
            found["without its caps"] = {"uncapped": True}
        return found


def _fitting(stocked: Stocked, rows: Any) -> Any:
    return stocked.plan.placeable[rows]


def _each(now: Decided) -> float:
    """Page views that a page of the sample stands for."""
    return float(now.joined.spread.weight.mean()) if len(now.joined.sample) else 0.0


def _bare_plan(after: Stocked) -> Stocked:
    """The same plan without its campaigns."""
    from training.booking_without import without_campaigns

    return after._replace(plan=without_campaigns(after.plan))


def _changed(before: Decided, now: Decided) -> list[str]:
    had = {spec.id: spec for spec in before.joined.campaigns.specs}
    return [spec.id for spec in now.joined.campaigns.specs if had.get(spec.id) != spec]


def _displaced(before: Decided, now: Decided) -> tuple[tuple[Displaced, ...], tuple[OrgLine, ...]]:
    """Campaigns of both plans that lose, dearest first; and every org."""
    sides = [_by_campaign(one) for one in (before, now)]
    both = [name for name in sides[0] if name in sides[1]]
    lines = []
    for name in both:
        (org, *old), (_, *new) = sides[0][name], sides[1][name]
        lines.append(Displaced(name, org, *((float(a), float(b)) for a, b in zip(old, new, strict=True))))
    lines = [one for one in lines if one.cost > 1e-6 * max(abs(before.taken.base), 1e-9)]
    orgs: dict[str, list[list[float]]] = {"(no campaign)": [[0.0, 0.0], [0.0, 0.0]]}
    for at, (side, one) in enumerate(zip(sides, (before, now), strict=True)):
        free = orgs["(no campaign)"]
        free[0][at] = float(one.taken.shown.sum() - one.taken.units[0].sum())
        free[1][at] = float(one.taken.organic)
        for org, displays, value, _ in side.values():
            line = orgs.setdefault(org, [[0.0, 0.0], [0.0, 0.0]])
            line[0][at] += displays
            line[1][at] += value
    whole = [OrgLine(org, (d[0], d[1]), (v[0], v[1])) for org, (d, v) in orgs.items()]
    return tuple(sorted(lines, key=lambda one: -one.cost)), tuple(whole)


def _by_campaign(one: Decided) -> dict[str, tuple[str, float, float, float]]:
    """id -> (org, displays, base value, CNY of penalties)."""
    campaigns, programme = one.joined.campaigns, one.terms.programme
    short = np.zeros(len(campaigns))
    got = one.taken.units[programme.goal_unit, programme.goal_campaign]
    at_ceiling = one.dual.goals >= AT_CEILING * programme.penalty
    missing = np.where(at_ceiling, np.maximum(programme.least - got, 0.0), 0.0)
    np.add.at(short, programme.goal_campaign, programme.penalty * missing)
    return {
        spec.id: (spec.org, float(one.taken.units[0, c]), float(one.taken.value[c]), float(short[c]))
        for c, spec in enumerate(campaigns.specs)
    }


def _capped(now: Decided) -> tuple[Capped, ...]:
    funnel, ids = now.joined.funnel(), now.joined.campaigns.ids
    lines = [
        Capped(ids[c], float(funnel.running[c]), float(funnel.capped[c]), float(funnel.denied[c]))
        for c in range(len(ids))
        if funnel.capped[c] > 0 or funnel.denied[c] > 0
    ]
    return tuple(sorted(lines, key=lambda one: -(one.capped + one.denied)))


def _quotas(now: Decided) -> dict[str, tuple[float, float, float]]:
    terms, programme = now.terms, now.terms.programme
    used = now.taken.units[programme.quota_unit, programme.quota_campaign] * terms.quota_factor
    return {
        key: (float(min(used[q], terms.at_most[q])), float(terms.at_most[q]), now.prices[key])
        for q, key in enumerate(terms.quotas)
    }


def _pages(before: Decided, now: Decided, ids: Collection[str], most: int = 3) -> tuple[PageSeen, ...]:
    from training.booking_seen import pages_seen

    seen = pages_seen(before, now, ids, most)
    return tuple(PageSeen(*one) for one in seen)
