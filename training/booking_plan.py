"""A plan re-decided over the sample at its own prices: what each campaign gets, and how it answers prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.pace_plan import Prior
from training.booking_limits import limits_of
from training.booking_pages import Joined, Part, Spread, Stocked
from training.booking_priced import Floats, Taken, corrected, evaluated
from training.booking_programme import Terms, plan_dual, prices_of, terms_of
from training.booking_quick import quick_sums
from training.dual import CLICKED, Dual
from training.sample_columns import Sample, thinned

FEW_ENOUGH: Final = 30.0  # units: an answer measured on fewer counts less than the middle one


class Work(NamedTuple):
    """How much is done: `few` pages for prices, `some` by the product's own page, `checked` from above,
    `summed` for deliveries and displacement; the most of a goal is taken over every page.
    """

    few: int = 6_000
    some: int = 1_024
    checked: int = 4_096
    summed: int = 65_536
    steps: int = 40
    most_steps: int = 30
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """`taken` stands for the whole sample; `few`: the parts that prices were found on, likewise weighted."""

    joined: Joined
    terms: Terms
    dual: Dual
    taken: Taken
    few: tuple[Part, ...]
    few_pages: NDArray[np.int64]
    delivered: Floats  # (G,) in the goals' own units

    @property
    def prices(self) -> dict[str, float]:
        """CNY per unit, by goal id and quota key."""
        goals = self.dual.goals / np.maximum(self.terms.goal_factor, 1e-12)
        quotas = self.dual.quotas / np.maximum(self.terms.quota_factor, 1e-12)
        both = zip((*self.terms.goals, *self.terms.quotas), (*goals, *quotas), strict=True)
        return {name: float(price) for name, price in both}


def decided(
    stocked: Stocked,
    sample: Sample,
    spread: Spread,
    span: tuple[float, float],
    work: Work,
    *,
    delivered: Mapping[str, float] | None = None,
    start: Mapping[str, float] | None = None,
) -> Decided:
    """`span`: the time that is booked, POSIX s; `start`: prices by goal id and quota key to begin with."""
    joined = Joined(stocked, sample, spread)
    terms = terms_of(joined, *span, delivered)
    pages = thinned(len(sample), work.few)
    begin = None if start is None else started(terms, start)
    few = parts_of(joined, pages)
    if any(stocked.plan.campaigns.caps_of):
        rough = plan_dual(terms.programme, few, max(work.steps // 3, 1), begin)
        begin = rough.goals, rough.quotas
        joined = joined.limited(limits_of(stocked.plan, _rates(joined, terms, rough, few, pages)))
        few = parts_of(joined, pages)
    dual = plan_dual(terms.programme, few, work.steps, begin)
    prices = prices_of(terms.programme, dual.goals, dual.quotas)
    some = parts_of(joined, thinned(len(sample), work.some))
    quick = evaluated(parts_of(joined, thinned(len(sample), work.summed)), prices)
    taken = corrected(quick, evaluated(some, prices), evaluated(some, prices, exact=True))
    got = taken.units[terms.programme.goal_unit, terms.programme.goal_campaign] * terms.goal_factor
    return Decided(joined, terms, dual, taken, tuple(few), pages, got)


def parts_of(joined: Joined, pages: NDArray[np.int64], units: NDArray[np.bool_] | None = None) -> list[Part]:
    """Some pages, weighted so that they stand for as much as all."""
    weight = joined.spread.weight
    grown = float(weight.sum()) / max(float(weight[pages].sum()), 1e-12)
    made = joined.parts(None if len(pages) == len(weight) else pages, units=units)
    return [part._replace(weight=part.weight * grown) for part in made]


def started(terms: Terms, prices: Mapping[str, float]) -> tuple[Floats, Floats]:
    goals = [prices.get(name, 0.0) for name in terms.goals]
    quotas = [prices.get(name, 0.0) for name in terms.quotas]
    return np.array(goals) * terms.goal_factor, np.array(quotas) * terms.quota_factor


def priors_of(found: Decided, work: Work) -> dict[str, Prior]:
    """What the pacer starts from, by goal id and quota key."""
    programme, terms = found.terms.programme, found.terms
    of_goals, of_quotas = _answers(found, work.seed)
    prices = found.prices
    answers = (*of_goals * terms.goal_factor, *of_quotas * terms.quota_factor)
    names = (*terms.goals, *terms.quotas)
    assert len(answers) == len(programme.least) + len(programme.most)
    return {name: Prior(prices[name], float(one)) for name, one in zip(names, answers, strict=True)}


def _rates(joined: Joined, terms: Terms, dual: Dual, few: Sequence[Part], pages: NDArray[np.int64]) -> Floats:
    """(C,) displays per page view on which a campaign runs."""
    taken = evaluated(few, prices_of(terms.programme, dual.goals, dual.quotas))
    running = joined.funnel(pages).running
    grown = float(joined.spread.weight.sum()) / max(float(joined.spread.weight[pages].sum()), 1e-12)
    programme = terms.programme
    p = np.where(taken.units[0] > 0, taken.units[1] / np.maximum(taken.units[0], 1e-9), 0.03)
    per_display = np.where(programme.goal_unit == CLICKED, np.maximum(p, 1e-3)[programme.goal_campaign], 1.0)
    needed = np.zeros(len(running))  # by what goals ask, where prices do not give it yet
    np.maximum.at(needed, programme.goal_campaign, programme.least / per_display)
    views = np.maximum(running * grown, 1e-9)
    return np.asarray(np.minimum(np.maximum(taken.units[0], needed) / views, 1.0))


def _answers(found: Decided, seed: int) -> tuple[Floats, Floats]:
    """d ln(delivery) / d(price) of goals and quotas, from one pass over the few pages.

    Each page draws a sign per campaign and moves its price by it: what the others do averages out.
    """
    programme, dual = found.terms.programme, found.dual
    many = programme.campaigns
    shown = np.maximum(found.taken.units[0], 1e-9)
    p = np.where(found.taken.units[0] > 0, np.clip(found.taken.units[1] / shown, 1e-3, 1.0), 0.03)
    scale = 0.1 * max(found.taken.base / max(float(found.taken.shown.sum()), 1e-9), 1e-5)
    move = np.zeros((2, many))
    for unit, of in (
        (programme.goal_unit, programme.goal_campaign),
        (programme.quota_unit, programme.quota_campaign),
    ):
        move[unit, of] = np.where(unit == CLICKED, scale / p[of], scale)
    prices = prices_of(programme, dual.goals, dual.quotas)
    rng = np.random.default_rng([seed, 7])
    units = np.zeros((3, 2 * many))
    for part in found.few:
        offers = part.batch.offers
        page = np.repeat(np.arange(len(part.pages)), np.diff(part.batch.offer_at))
        up = (rng.integers(0, 2, (len(part.pages), many)) == 1)[page, offers.campaign]
        step = move[0, offers.campaign] + part.p * move[1, offers.campaign]
        net = part.value + prices.display[offers.campaign] + part.p * prices.click[offers.campaign]
        net = (net + np.where(up, step, -step)).astype(np.float32)
        apart = offers._replace(campaign=(offers.campaign + many * up).astype(np.int32))
        batch = part.batch._replace(offers=apart)
        units += quick_sums(batch, net, part.p, part.used, part.weight, 2 * many).units

    def answer(unit: NDArray[np.int64], of: NDArray[np.int64]) -> Floats:
        down, high = units[unit, of], units[unit, of + many]
        level, moved = down + high, move[unit, of]
        raw = (high - down) / np.maximum(level * moved, 1e-12)
        middle = float(np.median(raw * moved)) / np.maximum(moved, 1e-12) if len(raw) else raw
        share = level / (level + FEW_ENOUGH)
        return np.asarray(np.maximum(share * raw + (1 - share) * middle, 0.1 * np.abs(middle)))

    return (
        answer(programme.goal_unit, programme.goal_campaign),
        answer(programme.quota_unit, programme.quota_campaign),
    )
