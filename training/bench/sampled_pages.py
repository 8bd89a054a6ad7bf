"""Pages to measure the allocation on: the canonical homepage, lognormal values, campaigns, interactions."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.ids import KIND_CODE, KINDS
from serving.page import MARKET, NO_LIMIT, NOTHING_HELD, RULE, Offers, Options, Problem, Slots
from serving.plan_default import CANONICAL

DISPLAYED: Final = {
    "banner": (1.0, 0.55),
    "icon_grid": (1.0, 0.98),
    "shelf": (0.9, 0.85),
    "popup": (1.0, 1.0),
    "feed": (0.8, 0.88),
}
LIMITS: Final = {
    "banner": (2, 0.6),
    "icon_grid": (4, 1.0),
    "shelf": (3, 1.0),
    "popup": (1, 1.0),
    "feed": (3, 0.5),
}
CATEGORIES: Final = 7  # of a kind


def homepage(share: float = 1.0, *, interactions: bool = True, switching: float = 0.0) -> Slots:
    """The canonical six slots with a share of their places; what `switching` costs goes for the grid."""
    counts = [max(1, round(size * share)) for _, _, size, _ in CANONICAL]
    rates = np.zeros((len(counts), max(counts)), np.float32)
    for s, (_, layout, _, _) in enumerate(CANONICAL):
        first, step = DISPLAYED[layout]
        rates[s, : counts[s]] = np.maximum(0.02, first * step ** np.arange(counts[s]))
    layouts, many = [layout for _, layout, _, _ in CANONICAL], len(counts)
    per_kind = [
        max(1, int(np.ceil(count * LIMITS[layout][1]))) if len(kinds) > 1 else count
        for count, (_, layout, _, kinds) in zip(counts, CANONICAL, strict=True)
    ]
    on = 1.0 if interactions else 0.0
    return Slots(
        bit=np.uint64(1) << np.arange(many, dtype=np.uint64),
        count=np.array(counts, np.int32),
        rates=rates,
        origins=np.full(many, 1, np.uint32),
        per_category=np.array([LIMITS[layout][0] for layout in layouts], np.int32),
        per_kind=np.array(per_kind, np.int32),
        diminish=np.full(many, 1 - 0.1 * on, np.float32),
        cross=np.full(many, 1 - 0.05 * on, np.float32),
        interruption=np.array([0.15 * on if layout == "popup" else 0 for layout in layouts], np.float32),
        switching=np.array([switching if layout == "icon_grid" else 0 for layout in layouts], np.float32),
        kind_least=np.zeros((many, len(KINDS)), np.uint8),
        kind_most=np.full((many, len(KINDS)), NO_LIMIT, np.uint8),
    )


def sampled_options(rng: np.random.Generator, n: int) -> Options:
    """n candidates of all kinds, each kind in the slots that take it."""
    kind = rng.choice(len(KINDS), n, p=[0.15, 0.25, 0.15, 0.2, 0.15, 0.1]).astype(np.uint8)
    members = np.zeros(n, np.uint64)
    for s, (_, _, _, kinds) in enumerate(CANONICAL):
        members |= np.where(np.isin(kind, [KIND_CODE[k] for k in kinds]), np.uint64(1 << s), np.uint64(0))
    category = kind.astype(np.int32) * CATEGORIES + rng.integers(0, CATEGORIES, n).astype(np.int32) + 1
    category[rng.random(n) < 0.05] = 0
    nothing = np.full((n, 2), -1, np.int32)
    value = rng.lognormal(-3, 1, n).astype(np.float32)
    return Options(members, np.ones(n, np.uint32), value, category, kind, nothing, np.zeros(n, np.uint8))


def sampled_page(rng: np.random.Generator, slots: Slots, n: int, m: int, campaigns: int) -> Problem:
    """n candidates and m offers: prices of both signs, some levers, caps of 0 to 2, exclusion groups."""
    options = sampled_options(rng, n)
    candidate = np.sort(rng.integers(0, n, m)).astype(np.int32)
    campaign = rng.integers(0, campaigns, m).astype(np.int32)
    behind = rng.random(campaigns) < 0.6
    price = np.where(behind, rng.exponential(0.1, campaigns), -rng.exponential(0.03, campaigns))
    base = options.value[candidate] * rng.uniform(0.9, 1.1, m)
    boost = np.where(rng.random(campaigns) < 0.15, 0.5, 0.0)[campaign] * base
    room = np.full((m, 6), -1, np.int32)
    room[:, 0] = campaign
    excluded: NDArray[np.bool_] = rng.random(m) < 0.2
    room[excluded, 1] = campaigns + rng.integers(0, 4, int(excluded.sum()))
    none = np.full(m, -1, np.int32)
    offers = Offers(
        candidate=candidate,
        campaign=campaign,
        slots=options.members[candidate],
        value=np.maximum(0.001, base + boost + price[campaign]).astype(np.float32),
        base=base.astype(np.float32),
        band=np.full(m, MARKET, np.uint8),
        pin_slot=none,
        pin=none.copy(),
        room=room,
        capped=(rng.random(m) < 0.3).astype(np.uint8),
        boost=boost.astype(np.float32),
    )
    left = np.concatenate([rng.integers(0, 3, campaigns), np.ones(4)]).astype(np.int32)
    limits = np.repeat([RULE["cap"], RULE["exclusion"]], [campaigns, 4]).astype(np.uint8)
    return Problem(slots, options, offers, left, NOTHING_HELD, limits)
