"""The generated traffic as a programme: the offline plan on a sample, and the bound in hindsight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.curves import Floats
from serving.page import solve_many
from training.bench.campaigns14 import DAY, QUOTA, SHARE
from training.bench.pages14 import Drawn, drawn
from training.bench.traffic14 import Market, Views
from training.dual import (
    CLICKED,
    DISPLAYED,
    Columns,
    Dual,
    Outcome,
    Programme,
    bound_at,
    campaign_prices,
    columns_of,
    outcome_of,
    solve_dual,
    totals,
    units,
)
from training.page_bound import page_bounds

CHUNK: Final = 4096
CEILING: Final = 2.0  # of μ
NOBODY: Final = np.zeros((1, 1), np.uint8)
BANNER: Final = 0


class Offline(NamedTuple):
    programme: Programme
    dual: Dual
    answer: Floats  # (G,) d ln delivery / d price
    quota_answer: Floats


def with_quotas(market: Market, seed: int) -> Market:
    """Quotas at 0.4 to 1.1 of what their campaigns would be displayed if nothing held them back."""
    campaigns = market.campaigns
    rough = np.where(campaigns.clicked, 2.0, np.where(campaigns.wanted > 0, 0.1, 0.0))
    display, click = np.where(campaigns.clicked, 0.0, rough), np.where(campaigns.clicked, rough, 0.0)
    some = first_views(market.sample, 1, 4)
    outcome = evaluated(market, some, display, click)
    part = np.random.default_rng([seed, 41]).uniform(0.4, 1.1, len(campaigns))
    natural = outcome.displayed * (len(market.views) / max(len(some), 1))
    at_most = np.where(campaigns.tier == QUOTA, np.maximum(np.round(part * natural), 100.0), np.inf)
    return replace(market, campaigns=replace(campaigns, at_most=at_most))


def first_views(views: Views, keep: int, of: int) -> Views:
    """Every view whose number modulo `of` is below `keep`."""
    kept = np.arange(len(views)) % of < keep
    return Views(views.customer[kept], views.salt[kept], views.minute[kept], views.at)


def programme_of(market: Market, views: Views, scale: float, *, calibrated: bool = False) -> Programme:
    """Goals and quotas times `scale` (a sample's share of the views).

    `calibrated`: goals in clicks ask for as many predicted clicks as in truth bring what is wanted.
    """
    campaigns = market.campaigns
    goal = np.flatnonzero(campaigns.wanted > 0)
    quota = np.flatnonzero(np.isfinite(campaigns.at_most))
    least = campaigns.wanted[goal] * scale
    banner = float(market.slots.rates[BANNER].sum())
    of_branch = np.bincount(market.branch_of[views.customer], minlength=10)
    if calibrated:
        least /= np.where(campaigns.clicked[goal], market.truth[campaigns.item[goal]], 1.0)
    shares = campaigns.tier[goal] == SHARE
    least[shares] = campaigns.wanted[goal][shares] * banner * of_branch[campaigns.branch[goal[shares]]]
    return Programme(
        campaigns=len(campaigns),
        goal_campaign=goal,
        goal_unit=np.where(campaigns.clicked[goal], CLICKED, DISPLAYED),
        least=least,
        penalty=campaigns.penalty[goal],
        quota_campaign=quota,
        quota_unit=np.full(len(quota), DISPLAYED),
        most=campaigns.at_most[quota] * scale,
        ceiling=np.full(len(quota), CEILING),
    )


def batches(market: Market, views: Views, display: Floats, click: Floats) -> Iterator[Drawn]:
    """The views' problems in chunks; caps are left out, which the bound may do."""
    campaigns = market.campaigns
    shut = np.stack([~campaigns.open_at(day * DAY) for day in range(market.size.days)])
    none = np.zeros((len(campaigns), 2), np.int32)
    for low in range(0, len(views), CHUNK):
        some = slice(low, low + CHUNK)
        closed = shut[views.minute[some] // DAY]
        own = display[some] if display.ndim > 1 else display
        owned = click[some] if click.ndim > 1 else click
        yield drawn(market, views.customer[some], views.salt[some], own, owned, closed, NOBODY, none)


def met(market: Market, views: Views, display: Floats, click: Floats) -> tuple[Columns, float]:
    """The pages of the product's own code at these prices, as columns, and what they are worth."""
    parts: list[Columns] = []
    worth, first = 0.0, 0
    for one in batches(market, views, display, click):
        pages = solve_many(one.batch)
        parts.append(columns_of(one.batch, pages, one.p, first))
        worth += float(pages.worth.sum())
        first += len(pages.worth)
    moved = np.cumsum([0, *(len(part.page) for part in parts[:-1])])
    shifted = [part._replace(use_column=part.use_column + by) for part, by in zip(parts, moved, strict=True)]
    return Columns(*(np.concatenate(column) for column in zip(*shifted, strict=True))), worth


def evaluated(market: Market, views: Views, display: Floats, click: Floats) -> Outcome:
    columns, worth = met(market, views, display, click)
    return outcome_of(columns, len(market.campaigns), worth)


def worth_from_above(market: Market, views: Views, display: Floats, click: Floats) -> float:
    """Σ pages' worth that no arrangement exceeds, at these prices."""
    return float(sum(page_bounds(one.batch).sum() for one in batches(market, views, display, click)))


def scales(programme: Programme, outcome: Outcome) -> tuple[Floats, Floats]:
    """CNY per unit that matter: a part of a display's mean value; per click, over the mean P(click)."""
    value = max(outcome.base / max(float(outcome.displayed.sum()), 1.0), 1e-4) * 0.2
    p = outcome.clicked / np.maximum(outcome.displayed, 1e-9)
    p = np.where(outcome.displayed > 0, np.clip(p, 1e-3, 1.0), 0.03)
    goals = np.where(programme.goal_unit == CLICKED, value / p[programme.goal_campaign], value)
    quotas = np.where(programme.quota_unit == CLICKED, value / p[programme.quota_campaign], value)
    return goals, quotas


def solved(
    market: Market,
    views: Views,
    scale: float,
    steps: int,
    start: Dual | None = None,
    *,
    calibrated: bool = False,
) -> Dual:
    """The dual over the views. Its bounds use the product's pages: see `worth_from_above`."""
    programme = programme_of(market, views, scale, calibrated=calibrated)
    first = (np.zeros(len(programme.least)), np.zeros(len(programme.most)))
    display, click = campaign_prices(programme, *first)
    step = scales(programme, evaluated(market, first_views(views, 1, 8), display, click))
    small = 1.0 if start is None else 0.2
    return solve_dual(
        programme,
        lambda display, click: evaluated(market, views, display, click),
        start=first if start is None else (start.goals, start.quotas),
        first_step=(step[0] * small, step[1] * small),
        steps=steps,
    )


def plan_offline(market: Market, seed: int, steps: int = 30) -> Offline:
    """Prices from the sample, and how delivery answers them: all that the online controller starts from."""
    views = market.sample
    scale = len(views) / len(market.views)
    programme = programme_of(market, views, scale)
    dual = solved(market, views, scale, steps)
    answer, quota_answer = answers(market, views, programme, dual, seed)
    return Offline(programme, dual, answer, quota_answer)


def answers(
    market: Market, views: Views, programme: Programme, dual: Dual, seed: int
) -> tuple[Floats, Floats]:
    """d ln(delivery) / d(price) of every goal and quota, from one pass over the sample.

    Each page draws a sign per campaign and moves its price by it: what the others do averages out over pages.
    """
    display, click = campaign_prices(programme, dual.goals, dual.quotas)
    outcome = evaluated(market, first_views(views, 1, 4), display, click)
    goals, quotas = scales(programme, outcome)
    move = np.zeros((2, programme.campaigns))
    move[programme.goal_unit, programme.goal_campaign] = goals * 0.5
    move[programme.quota_unit, programme.quota_campaign] = quotas * 0.5
    rng = np.random.default_rng([seed, 7])
    signs = rng.integers(0, 2, (len(views), programme.campaigns)).astype(np.int8) * 2 - 1
    columns, _ = met(market, views, display + signs * move[0], click + signs * move[1])
    sign = signs[columns.use_column, columns.use_campaign].astype(np.float64)
    many = programme.campaigns
    tilt = Outcome(
        0.0, 0.0, totals(columns.use_campaign, columns.displayed * sign, many),
        totals(columns.use_campaign, columns.clicked * sign, many),
    )  # fmt: skip
    level = outcome_of(columns, many, 0.0)
    by_goal, by_quota = units(programme, tilt)
    of_goal, of_quota = units(programme, level)
    return (
        _answer(by_goal, of_goal, move[programme.goal_unit, programme.goal_campaign]),
        _answer(by_quota, of_quota, move[programme.quota_unit, programme.quota_campaign]),
    )


def _answer(tilt: Floats, level: Floats, move: Floats) -> Floats:
    """Shrunk to what 30 units with the middle answer would say; never below a tenth of the middle."""
    moved = np.abs(move)
    raw = np.divide(tilt, np.maximum(level, 1.0) * moved, out=np.zeros_like(tilt), where=moved > 0)
    middle = float(np.median(raw * moved)) / np.maximum(moved, 1e-12)
    weight = level / (level + 30.0)
    least: Floats = 0.1 * np.abs(middle)
    return np.asarray(np.maximum(weight * raw + (1 - weight) * middle, least), np.float64)


def spread(values: NDArray[np.float64]) -> str:
    """Least, middle and most, for tables."""
    return " · ".join(f"{float(np.quantile(values, q)):.3g}" for q in (0.0, 0.5, 1.0))


class Hindsight(NamedTuple):
    dual: Dual  # of what really came
    bound: float  # on the value that any policy reaches
    bound_uncalibrated: float  # the same where goals in clicks are met as soon as predictions say so
    page_gap: float  # what the product's pages leave of the first, at its prices


def hindsight(market: Market, offline: Offline, steps: int = 12) -> Hindsight:
    """A policy owes the clicks that come, and learns from them what a prediction is worth; so does the bound.

    Prices come from about 25,000 of the views; the bounds are then taken over all of them by
    `training.page_bound`: any prices give valid ones.
    """
    of = max(1, round(len(market.views) / 25_000))
    some = first_views(market.views, 1, of)
    scale = len(some) / len(market.views)
    dual = solved(market, some, scale, steps, offline.dual, calibrated=True)
    owed = programme_of(market, market.views, 1.0, calibrated=True)
    said = programme_of(market, market.views, 1.0)
    prices = campaign_prices(owed, dual.goals, dual.quotas)
    above = worth_from_above(market, market.views, *prices)
    reached = evaluated(market, some, *prices).worth / worth_from_above(market, some, *prices)
    bound, uncalibrated = (bound_at(one, dual.goals, dual.quotas, above) for one in (owed, said))
    return Hindsight(dual, bound, uncalibrated, 1.0 - reached)
