"""The dual against HiGHS on a slice: the programme over pages met must reach the Lagrangian bound."""

from __future__ import annotations

from typing import Final

import numpy as np

from training.bench.offline14 import Offline, first_views, met, programme_of, solved
from training.bench.traffic14 import Market
from training.dual import Columns, bound_at, campaign_prices, master

ROUNDS = 8
NEAR = (0.0, -0.02, 0.02, -0.006, 0.006, -0.002, 0.002)  # prices around the dual's, as a part of each

SHUT: Final = 1e3  # CNY: more than any placement is worth


def gap(market: Market, offline: Offline, views: int, enough: float = 5e-5) -> float:
    """|Bound / HiGHS − 1| on about `views` views: columns near the dual's prices, then at the LP's own."""
    of = max(1, round(len(market.views) / views))
    some = first_views(market.views, 1, of)
    programme = programme_of(market, some, len(some) / len(market.views))
    dual = solved(market, some, len(some) / len(market.views), 30, offline.dual)
    rng = np.random.default_rng(20)
    columns: list[Columns] = []
    for near in NEAR:
        tilt = np.exp(near * rng.choice([-1.0, 1.0], len(dual.goals)) + (near / 2))
        columns.append(met(market, some, *campaign_prices(programme, dual.goals * tilt, dual.quotas))[0])
    shut = np.full(len(dual.quotas), SHUT)  # without these pages no mix may keep to a small quota
    columns.append(met(market, some, *campaign_prices(programme, dual.goals, shut))[0])
    bound, centre, value = dual.bound, (dual.goals, dual.quotas), -np.inf
    for _ in range(ROUNDS):
        value, goals, quotas = master(programme, columns, len(some))
        if bound / value - 1.0 <= enough:
            break
        goals = np.clip(goals, 0.0, programme.penalty)
        quotas = np.maximum(quotas, 0.0)
        for part in (1.0, 0.3):  # the LP's prices, and a cautious step towards them
            new = part * goals + (1 - part) * centre[0], part * quotas + (1 - part) * centre[1]
            found, worth = met(market, some, *campaign_prices(programme, *new))
            columns.append(found)
            at = bound_at(programme, *new, worth)
            if at < bound:
                bound, centre = at, new
    return abs(bound / value - 1.0)
