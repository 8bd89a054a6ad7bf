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
from typing import Final

import numpy as np

from serving.causes import Cause
from training.booking_most import AT_CEILING, Closely, Doubt, Z
from training.booking_pages import Spread, Stocked
from training.booking_plan import Decided, Work, decided, priors_of
from training.booking_report import Booking, Capped, Displaced, GoalForecast, OrgLine, PageSeen, Relax
from training.booking_seen import pages_seen
from training.booking_without import without_campaigns
from training.sample_columns import Sample

MOST_CHANGED: Final = 8  # goals of a change that are looked at one by one


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
        plan.version, sample.bundle, span, goals, *_displaced(known, now, ids), _capped(now), _quotas(now),
        (known.taken.base, now.taken.base), tuple(relax), _pages(known, now, ids) if full else (),
        priors_of(now, work) if full else {}, tuple(notes), time.perf_counter() - begun,
    )  # fmt: skip


def _goals(
    before: Decided, now: Decided, ids: Collection[str], work: Work, doubt: Doubt, full: bool
) -> tuple[tuple[GoalForecast, ...], list[Relax]]:
    campaigns, terms = now.joined.campaigns, now.terms
    looked_at = [g for g, goal in enumerate(campaigns.goals) if campaigns.ids[goal.campaign] in ids]
    closely = Closely(before, now, work, doubt) if looked_at else None
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


def _each(now: Decided) -> float:
    """Page views that a page of the sample stands for."""
    return float(now.joined.spread.weight.mean()) if len(now.joined.sample) else 0.0


def _bare_plan(after: Stocked) -> Stocked:
    """The same plan without its campaigns."""
    return after._replace(plan=without_campaigns(after.plan))


def _changed(before: Decided, now: Decided) -> list[str]:
    had = {spec.id: spec for spec in before.joined.campaigns.specs}
    return [spec.id for spec in now.joined.campaigns.specs if had.get(spec.id) != spec]


def _displaced(
    before: Decided, now: Decided, ids: Collection[str]
) -> tuple[tuple[Displaced, ...], tuple[OrgLine, ...]]:
    """Campaigns that lose without being changed themselves, dearest first; and every org."""
    sides = [_by_campaign(one) for one in (before, now)]
    both = [name for name in sides[0] if name in sides[1] and name not in ids]
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
    seen = pages_seen(before, now, ids, most)
    return tuple(PageSeen(*one) for one in seen)
