"""Goals and quotas of a plan over the time that is booked, and what they cost: the programme, its dual, and
the most that a single goal could have.

The programme is `training.dual`'s, in displays and clicks; a goal in conversions or CNY is one in clicks of
its campaign at the conversion rate of its items. Prices are found on some of the sample's pages and then
held to all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.campaigns import Campaigns
from serving.pace_inputs import goal_id
from serving.pace_plan import day_of
from training.booking_pages import Joined, Part
from training.booking_priced import Floats, Prices, bare, bounded, evaluated
from training.dual import CLICKED, DISPLAYED, Dual, Outcome, Programme, campaign_prices, solve_dual

FIRST_GUESS: Final = 0.4  # of the others' prices, in units of the goal in question
MOST_OUTBID: Final = 20.0  # units of the goal in question that one unit of another goal may cost
BUDGET: Final = 2.0  # CNY: the most a quota's price starts to look for


class Terms(NamedTuple):
    """G goals and Q quotas, in plan order. `factor`: units per click, or 1 for displays."""

    goals: tuple[str, ...]  # ids as the pacer names them
    quotas: tuple[str, ...]
    programme: Programme
    goal_factor: Floats
    quota_factor: Floats
    at_least: Floats  # (G,) in the goal's own unit, still to come in this time
    at_most: Floats
    whole: Floats  # (G,) the goal as it was booked, in its own unit


def terms_of(
    joined: Joined, since: float, until: float, delivered: Mapping[str, float] | None = None
) -> Terms:
    """What of each goal and quota falls into [since, until), by the traffic of its flight.

    `delivered`: units so far by goal id and quota key.
    """
    delivered = delivered or {}
    campaigns = joined.campaigns
    part = _parts_of_flights(joined, since, until)
    rate = _per_click(joined)
    goal_campaign = np.array([goal.campaign for goal in campaigns.goals], np.int64)
    ids = tuple(goal_id(goal, campaigns) for goal in campaigns.goals)
    factor, whole, least = np.ones(len(ids)), np.zeros(len(ids)), np.zeros(len(ids))
    for g, goal in enumerate(campaigns.goals):
        factor[g] = 1.0 if goal.unit == "displayed" else rate[goal.unit][goal.campaign]
        if goal.share > 0:
            whole[g] = least[g] = goal.share * _of_slot(joined, goal.campaign, goal.slot)
            continue
        whole[g] = goal.at_least
        least[g] = max(goal.at_least - delivered.get(ids[g], 0.0), 0.0) * part[goal.campaign]
    quota_factor, most = np.ones(len(campaigns.quotas)), np.zeros(len(campaigns.quotas))
    for q, quota in enumerate(campaigns.quotas):
        quota_factor[q] = 1.0 if quota.unit == "displayed" else rate[quota.unit][quota.campaign]
        days = _days(joined, quota.campaign) if quota.per == "day" else part[quota.campaign]
        gone = 0.0 if quota.per == "day" else delivered.get(quota.key, 0.0)
        most[q] = max(quota.at_most - gone, 0.0) * days
    counted = _units(goal.unit for goal in campaigns.goals)
    counted_quotas = _units(quota.unit for quota in campaigns.quotas)
    quota_campaign = np.array([quota.campaign for quota in campaigns.quotas], np.int64)
    programme = Programme(
        campaigns=len(campaigns),
        goal_campaign=goal_campaign,
        goal_unit=counted,
        least=_divided(least, factor),
        penalty=campaigns.penalty[goal_campaign] * factor,
        quota_campaign=quota_campaign,
        quota_unit=counted_quotas,
        most=_divided(most, quota_factor),
        ceiling=np.maximum(BUDGET, 2.0 * campaigns.penalty[quota_campaign]) * np.maximum(quota_factor, 1.0),
    )
    keys = tuple(quota.key for quota in campaigns.quotas)
    return Terms(ids, keys, programme, factor, quota_factor, least, most, whole)


def prices_of(programme: Programme, goals: Floats, quotas: Floats) -> Prices:
    display, click = campaign_prices(programme, goals, quotas)
    return Prices(display, click, np.zeros(programme.campaigns))


def plan_dual(
    programme: Programme, parts: Sequence[Part], steps: int, start: tuple[Floats, Floats] | None = None
) -> Dual:
    """Prices of all goals and quotas at once."""

    def outcome(display: Floats, click: Floats) -> Outcome:
        taken = evaluated(parts, Prices(display, click, np.zeros_like(click)))
        return Outcome(taken.worth, taken.base, taken.units[0], taken.units[1])

    free = np.zeros(len(programme.least)), np.zeros(len(programme.most))
    first = outcome(*campaign_prices(programme, *free))
    shown = sum(float(part.weight.sum() * part.batch.slots.rates.sum()) for part in parts)
    scale = max(first.base / max(shown, 1.0), 1e-4) * (0.2 if start is None else 0.05)
    p = np.where(first.displayed > 0, first.clicked / np.maximum(first.displayed, 1e-9), 0.03)
    p = np.clip(p, 1e-3, 1.0)
    step = (
        np.where(programme.goal_unit == CLICKED, scale / p[programme.goal_campaign], scale),
        np.where(programme.quota_unit == CLICKED, scale / p[programme.quota_campaign], scale),
    )
    return solve_dual(programme, outcome, start=start, first_step=step, steps=steps)


class Most(NamedTuple):
    """The most that one goal could have while every other one keeps its units; in displays or clicks."""

    units: float
    error: float  # one standard deviation, as if pages were drawn one by one
    error_customers: float  # the same, as if customers were drawn with all their pages
    prices: Floats  # (G,) what a unit of each goal costs, in units of this one
    best: float  # had it the best place of every page where it runs


def only(programme: Programme, goals: NDArray[np.bool_]) -> Programme:
    """The programme of some goals, without quotas."""
    none = np.zeros(0, np.int64)
    return programme._replace(
        goal_campaign=programme.goal_campaign[goals], goal_unit=programme.goal_unit[goals],
        least=programme.least[goals], penalty=programme.penalty[goals], quota_campaign=none, quota_unit=none,
        most=np.zeros(0), ceiling=np.zeros(0),
    )  # fmt: skip


def most_of(
    programme: Programme,
    goal: int,
    few: Sequence[Part],
    every: Sequence[Part],
    steps: int,
    *,
    start: Floats | None = None,
    checked: Sequence[Part] = (),
    subjects: NDArray[np.uint64] | None = None,
) -> Most:
    """The largest feasible number of units of `goal`, by the dual of the programme in units alone.

    For every λ ≥ 0, Σ pages max(own units + Σ λ · units of others) − Σ λ · least is above it (weak duality);
    λ by subgradient over `few`, the value over `every`; see `most_at`. All parts are made by `bare`. Ceilings
    of prices play no part.
    """
    campaigns, mine = programme.campaigns, int(programme.goal_campaign[goal])
    own = np.zeros((2, campaigns))
    own[programme.goal_unit[goal], mine] = 1.0
    others = np.arange(len(programme.least)) != goal
    rest = only(programme, others)
    share = sum(float(part.weight.sum()) for part in few) / sum(float(part.weight.sum()) for part in every)

    def outcome(display: Floats, click: Floats) -> Outcome:
        taken = evaluated(few, Prices(display + own[DISPLAYED], click + own[CLICKED], np.zeros(campaigns)))
        return Outcome(taken.worth / share, 0.0, taken.units[0] / share, taken.units[1] / share)

    p = _mean_p(few, campaigns)
    each = np.where(rest.goal_unit == CLICKED, 1.0 / p[rest.goal_campaign], 1.0)
    each *= p[mine] if programme.goal_unit[goal] == CLICKED else 1.0
    found = solve_dual(
        rest._replace(penalty=MOST_OUTBID * each), outcome,
        start=(FIRST_GUESS * each if start is None else start[others], np.zeros(0)),
        first_step=(0.15 * each, np.zeros(0)), steps=steps,
    )  # fmt: skip
    prices = np.zeros(len(programme.least))
    prices[others] = found.goals
    return most_at(programme, goal, prices, every, checked=checked, subjects=subjects)


def most_at(
    programme: Programme,
    goal: int,
    prices: Floats,
    every: Sequence[Part],
    *,
    checked: Sequence[Part] = (),
    subjects: NDArray[np.uint64] | None = None,
) -> Most:
    """The bound at given prices of the others (G,), in units of this goal.

    Over `every` by quick pages, corrected by what `checked` pages (weighted like the whole) are worth from
    above (`training.page_bound`) beyond their quick worth: what is left after Σ λ · least is a small part of
    the pages' worth, so a hundredth of that would be much of it.
    """
    mine, clicks = int(programme.goal_campaign[goal]), bool(programme.goal_unit[goal] == CLICKED)
    lifted = prices.copy()
    lifted[goal] = 1.0
    at = prices_of(programme, lifted, np.zeros(len(programme.most)))
    taken = evaluated(every, at)
    worth = taken.worth
    if checked:
        worth += bounded(checked, at)[0] - evaluated(checked, at).worth
    least = programme.least.copy()
    least[goal] = 0.0
    found = worth - float(prices @ least)
    reach = best_of(every, mine, clicks=clicks)
    best = float(taken.weight @ reach)
    who = None if subjects is None else subjects[taken.pages]
    alone, together = _errors(taken.weight, reach if best < found else taken.worth_of, who)
    return Most(max(min(found, best), 0.0), alone, together, prices, best)


def best_of(parts: Sequence[Part], campaign: int, *, clicks: bool) -> Floats:
    """Units of a campaign by page of the parts, with the best place that it may have there."""
    found = [np.zeros(0)]
    for part in parts:
        offers = part.batch.offers
        mine = np.flatnonzero(offers.campaign == campaign)
        page = np.searchsorted(part.batch.offer_at, mine, side="right") - 1
        fits = (offers.slots[mine][:, None] & part.batch.slots.bit) != 0
        best = np.where(fits, part.batch.slots.rates[:, 0], 0.0).max(axis=1, initial=0.0)
        per_page = np.zeros(len(part.pages))
        np.maximum.at(per_page, page, best * (part.p[mine] if clicks else 1.0))
        found.append(per_page)
    return np.concatenate(found)


def without_value(parts: Sequence[Part]) -> list[Part]:
    return [bare(part) for part in parts]


def of_goals(programme: Programme, campaigns: Campaigns) -> NDArray[np.bool_]:
    """(C,) campaigns with a goal, and mandatory ones, which take their places before any."""
    found = np.asarray(campaigns.band == 0)
    found[programme.goal_campaign] = True
    return found


def _errors(weight: Floats, worth: Floats, subjects: NDArray[np.uint64] | None) -> tuple[float, float]:
    """Standard deviations of Σ weight · worth over the draw of pages, and of customers.

    Pages are drawn evenly over time, so neighbours say what a draw may change (Wolter 2007, successive
    differences): a flight's beginning and end do not.
    """
    mean = float(weight @ worth) / max(float(weight.sum()), 1e-12)
    off = weight * (worth - mean)
    alone = float(np.sqrt(0.5 * np.square(np.diff(off)).sum()))
    if subjects is None:
        return alone, alone
    _, who = np.unique(subjects, return_inverse=True)
    return alone, float(np.sqrt(np.square(np.bincount(who, off)).sum()))


def _mean_p(parts: Sequence[Part], campaigns: int) -> Floats:
    """(C,) mean P(clicked | displayed) of each campaign's offers."""
    total, many = np.zeros(campaigns), np.zeros(campaigns)
    for part in parts:
        total += np.bincount(part.batch.offers.campaign, part.p, campaigns)
        many += np.bincount(part.batch.offers.campaign, minlength=campaigns)
    return np.clip(np.where(many > 0, total / np.maximum(many, 1.0), 0.03), 1e-4, 1.0)


def _units(names: Iterable[str]) -> NDArray[np.int64]:
    return np.array([DISPLAYED if one == "displayed" else CLICKED for one in names], np.int64)


def _divided(amount: Floats, factor: Floats) -> Floats:
    """Displays or clicks; a goal that no click adds to asks for more than there is."""
    most = np.where(amount > 0, 1e15, 0.0)
    return np.divide(amount, factor, out=most, where=factor > 1e-12)


def _per_click(joined: Joined) -> dict[str, Floats]:
    """Units per click of each campaign: the mean over its offers."""
    campaigns, terms = joined.campaigns, joined.offered.terms
    of = campaigns.offer_campaign
    many = np.maximum(np.bincount(of, minlength=len(campaigns)), 1)
    cvr = np.bincount(of, terms[:, 5], len(campaigns)) / many
    cost = np.bincount(of, terms[:, 5] * terms[:, 3], len(campaigns)) / many
    value = np.bincount(of, terms[:, 5] * np.maximum(terms[:, 1], 0.0), len(campaigns)) / many
    money = np.where(cost > 0, cost, value)
    return {"clicked": np.ones(len(campaigns)), "converted": cvr, "cny": money, "CNY": money}


def _parts_of_flights(joined: Joined, since: float, until: float) -> Floats:
    """(C,) how much of what is left of each flight lies in this time, by open hours."""
    found = np.ones(len(joined.campaigns))
    known: dict[int, float] = {}
    for c, calendar in enumerate(joined.campaigns.calendars):
        if id(calendar) not in known:
            here = calendar.seconds_open(since, until)
            left = here if calendar.end == inf else calendar.seconds_open(since, max(calendar.end, until))
            known[id(calendar)] = here / left if left > 0 else 0.0
        found[c] = known[id(calendar)]
    return found


def _days(joined: Joined, campaign: int) -> float:
    """Local days of this time on which the campaign runs."""
    at = joined.spread.at[joined.eligible(campaign)]
    hours = np.unique(at // 3600.0)
    tz = joined.campaigns.calendars[campaign].tz
    return float(len({day_of(tz, one * 3600.0)[0] for one in hours.tolist()}))


def _of_slot(joined: Joined, campaign: int, slot: int) -> float:
    """Displays of a slot on the pages on which the campaign runs."""
    pages = joined.eligible(campaign)
    return float(joined.spread.weight[pages] @ joined.slot_displays(slot)[pages])
