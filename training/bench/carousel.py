"""Positions: one carousel whose places are displayed unequally, and goals of 10 to 60 % of its pages.

A price per placement would not converge here (24 to 39 % of such goals were delivered); prices per expected
display must bring 99 to 101 % of each goal and stay finite.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from features.ids import KINDS
from serving.curves import EVEN, Floats
from serving.pacing import Goals, GoalsSeen, Quotas, QuotasSeen, begin, update
from serving.page import NO_LIMIT, Batch, Offers, Options, Slots, solve_many

RATES: Final = (1.0, 0.55, 0.35, 0.22, 0.15)
PARTS: Final = (0.1, 0.2, 0.3, 0.4, 0.6)  # of the pages; together 1.6 of 2.27 displays a page
ITEMS: Final = 16  # on offer a page; the first five are the campaigns'
UPDATES: Final = 4_000
CEILING: Final = 2.0


def figures(pages: int, seed: int = 3) -> dict[str, float]:
    """Delivered over goal, least and most, and the highest price; started from no price at all."""
    rng = np.random.default_rng([seed, 15])
    many = len(PARTS)
    wanted = np.array(PARTS) * pages
    none = np.zeros(0)
    goals = Goals(
        np.full(many, EVEN, np.uint8), np.full(many, CEILING), np.zeros(many), np.full(many, np.nan),
        np.zeros(many, np.bool_),
    )  # fmt: skip
    quotas, spent = Quotas(none, none, none), QuotasSeen(none, none, none, none, none)
    state, delivered = begin(goals, quotas), np.zeros(many)
    slots, highest = _slots(), 0.0
    step = max(5, pages // UPDATES)  # pages between two updates
    for first in range(0, pages, step):
        passed, whole = np.full(many, float(first)), np.full(many, float(pages))
        zero = np.zeros(many)
        seen = GoalsSeen(wanted, delivered, zero, zero, zero, passed, whole, whole)
        state, paced = update(state, goals, quotas, seen, spent)
        if not np.isfinite(paced.goals).all():
            return {"carousel_least": np.nan, "carousel_most": np.nan, "carousel_price": np.inf}
        running = paced.goals[paced.goals > -CEILING]
        highest = max(highest, float(np.abs(running).max(initial=0.0)))
        batch = _batch(slots, min(step, pages - first), paced.goals, rng)
        placed = solve_many(batch)
        page = np.repeat(np.arange(len(placed.at) - 1), np.diff(placed.at))
        tagged = placed.offer >= 0
        campaign = batch.offers.campaign[batch.offer_at[page[tagged]] + placed.offer[tagged]]
        seen_of = rng.random(len(campaign)) < placed.factor[tagged]
        delivered = delivered + np.bincount(campaign[seen_of], minlength=many)
    reached = delivered / wanted
    return {
        "carousel_least": float(reached.min()),
        "carousel_most": float(reached.max()),
        "carousel_price": highest,
    }


def _slots() -> Slots:
    one, kinds = np.ones(1, np.float32), len(KINDS)
    return Slots(
        bit=np.ones(1, np.uint64),
        count=np.array([len(RATES)], np.int32),
        rates=np.array([RATES], np.float32),
        origins=np.ones(1, np.uint32),
        per_category=np.full(1, 1000, np.int32),
        per_kind=np.full(1, 1000, np.int32),
        diminish=one,
        cross=one,
        interruption=np.zeros(1, np.float32),
        switching=np.zeros(1, np.float32),
        kind_least=np.zeros((1, kinds), np.uint8),
        kind_most=np.full((1, kinds), NO_LIMIT, np.uint8),
    )


def _batch(slots: Slots, pages: int, price: Floats, rng: np.random.Generator) -> Batch:
    """Campaign items are worth about half of the others, so that only prices bring them in."""
    many = len(PARTS)
    value = rng.lognormal(-3.2, 0.5, (pages, ITEMS)).astype(np.float32)
    value[:, :many] *= 0.5
    total, offered = pages * ITEMS, pages * many
    members = np.ones((pages, ITEMS), np.uint64)
    base = value[:, :many].ravel()
    options = Options(
        members.ravel(), np.ones(total, np.uint32), value.ravel(), np.zeros(total, np.int32),
        np.zeros(total, np.uint8), np.full((total, 2), -1, np.int32), np.zeros(total, np.uint8),
    )  # fmt: skip
    each, no = np.tile(np.arange(many, dtype=np.int32), pages), np.full(offered, -1, np.int32)
    offers = Offers(
        each, each, np.ones(offered, np.uint64), (base + np.tile(price, pages)).astype(np.float32), base,
        np.ones(offered, np.uint8), no, no, np.full((offered, 6), -1, np.int32), np.zeros(offered, np.uint8),
    )  # fmt: skip
    nothing = np.zeros(pages + 1, np.int64)
    return Batch(
        slots, options, np.arange(pages + 1, dtype=np.int64) * ITEMS, offers,
        np.arange(pages + 1, dtype=np.int64) * many, np.zeros(0, np.int32), nothing,
        np.zeros((0, 3), np.int32), nothing,
    )  # fmt: skip
