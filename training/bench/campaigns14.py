"""Campaigns of the generated fortnight, and the homepage that they compete for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS
from serving.curves import ASAP, EVEN, FRONT_LOADED, Floats
from serving.page import NO_LIMIT, Slots
from serving.plan_default import CANONICAL

DAY: Final = 1440  # minutes
NEVER: Final = 0.2  # of the pages are never looked at
GUARANTEED, SHARE, QUOTA, STANDARD = range(4)
PENALTY: Final = {GUARANTEED: 2.0, SHARE: 1.0, QUOTA: 0.0, STANDARD: 0.0}
CLICK_PENALTY: Final = 40.0
BETTER: Final = 1.15  # P(click) of the customers that a goal in clicks is sized for, over the mean ...
CHOSEN: Final = (
    2.0  # ... where few campaigns with wide audiences are sold by clicks: prices pick whom they suit
)
PACED: Final = ((FRONT_LOADED, 0.04), (ASAP, 0.02))  # of the guarantees, one at least; the others are even
RATE: Final = {
    "banner": (1.0, 0.55),
    "icon_grid": (1.0, 0.98),
    "shelf": (0.9, 0.85),
    "popup": (1.0, 1.0),
    "feed": (0.8, 0.88),
}
PLACES_FOR: Final = {
    "product": ("home.shelf", "home.feed"),
    "activity": ("home.banner", "home.popup", "home.feed"),
    "content": ("home.banner", "home.feed"),
    "benefit": ("home.banner", "home.popup", "home.benefits"),
}


@dataclass(frozen=True, slots=True)
class Size:
    views: int = 200_000
    days: int = 14
    customers: int = 20_000
    guaranteed: int = 120
    clicked: int = 12
    shares: int = 10
    quotas: int = 40
    standard: int = 30
    sold: float = 0.70
    least_goal: float = 2_000.0
    least_clicks: float = 0.0  # 0: clicked goals are as large as displays of any campaign would bring


@dataclass(frozen=True, slots=True, eq=False)
class Campaigns14:
    """C campaigns, one item each."""

    item: NDArray[np.int32]
    tier: NDArray[np.int64]
    exclusive: NDArray[np.bool_]
    slots: NDArray[np.uint64]
    top_rate: Floats  # the best display rate it can have on a page
    begins: NDArray[np.int64]  # minute
    ends: NDArray[np.int64]
    pacing: NDArray[np.uint8]
    clicked: NDArray[np.bool_]
    wanted: Floats  # units: displays or clicks; of a share campaign the share; 0 none
    at_most: Floats  # inf where there is no quota
    penalty: Floats
    cap: NDArray[np.int64]  # displays per customer and day; 0 none
    branch: NDArray[np.int64]  # of a share campaign; −1
    audience: NDArray[np.bool_]  # (C, customers)

    def __len__(self) -> int:
        return len(self.item)

    def open_at(self, minute: int) -> NDArray[np.bool_]:
        return (self.begins <= minute) & (minute < self.ends)


def home_slots() -> Slots:
    """The canonical homepage without interactions: the bound per page is then an assignment's."""
    count = np.array([size for _, _, size, _ in CANONICAL], np.int32)
    rates = np.zeros((len(CANONICAL), int(count.max())), np.float32)
    for at, (_, layout, size, _) in enumerate(CANONICAL):
        first, factor = RATE[layout]
        rates[at, :size] = (1.0 - NEVER) * first * factor ** np.arange(size)
    many = len(CANONICAL)
    free, ones = np.full(many, 1000, np.int32), np.ones(many, np.float32)
    return Slots(
        bit=np.uint64(1) << np.arange(many, dtype=np.uint64),
        count=count,
        rates=rates,
        origins=np.ones(many, np.uint32),
        per_category=free,
        per_kind=free,
        diminish=ones,
        cross=ones,
        interruption=np.zeros(many, np.float32),
        switching=np.zeros(many, np.float32),
        kind_least=np.zeros((many, len(KINDS)), np.uint8),
        kind_most=np.full((many, len(KINDS)), NO_LIMIT, np.uint8),
    )


def campaigns_of(
    size: Size,
    item_kind: NDArray[np.uint8],
    taste: Floats,
    branch_of: NDArray[np.int64],
    bits: dict[str, np.uint64],
    slots: Slots,
    rng: np.random.Generator,
) -> Campaigns14:
    tier = np.repeat(
        [GUARANTEED, SHARE, QUOTA, STANDARD], [size.guaranteed, size.shares, size.quotas, size.standard]
    )
    many = len(tier)
    kinds = np.array(["product", "activity", "content", "benefit"])[np.arange(many) % 4]
    kinds[tier == SHARE] = "activity"
    item = np.zeros(many, np.int32)
    for kind in PLACES_FOR:
        mine = np.flatnonzero(kinds == kind)
        item[mine] = rng.permutation(np.flatnonzero(item_kind == KINDS.index(kind)))[: len(mine)]
    mask = np.array([sum(int(bits[name]) for name in PLACES_FOR[kind]) for kind in kinds], np.uint64)
    mask[tier == SHARE] = bits["home.banner"]
    begins, ends, before = _flights(size, tier, rng)
    top = np.array(
        [max(slots.rates[at, 0] for at in range(len(slots.bit)) if m & slots.bit[at]) for m in mask]
    )
    branch = np.full(many, -1)
    branch[tier == SHARE] = np.arange(size.shares) % 10
    reach = rng.uniform(0.25, 1.0, many)
    audience = np.zeros((many, len(taste)), np.bool_)
    for at in range(many):
        if branch[at] >= 0:
            audience[at] = branch_of == branch[at]
        else:
            along = taste @ rng.normal(0, 1, taste.shape[1])
            audience[at] = along >= np.quantile(along, 1.0 - reach[at])
        if before[at] >= 0:
            audience[at] = audience[before[at]]
    guaranteed = tier == GUARANTEED
    clicked = np.zeros(many, np.bool_)
    clicked[rng.permutation(np.flatnonzero(guaranteed))[: size.clicked]] = True
    capped = rng.random(many) < 0.15
    exclusive = (tier == QUOTA) | (guaranteed & (rng.random(many) < 0.5))
    exclusive = np.where(before >= 0, exclusive[before], exclusive)
    return Campaigns14(
        item=item,
        tier=tier,
        exclusive=exclusive,
        slots=mask,
        top_rate=top.astype(np.float64),
        begins=begins,
        ends=ends,
        pacing=_pacing(guaranteed, rng.random(many)),
        clicked=clicked,
        wanted=np.where(tier == SHARE, 0.1, 0.0),
        at_most=np.where(tier == QUOTA, 0.0, np.inf),
        penalty=np.where(clicked, CLICK_PENALTY, np.array([PENALTY[t] for t in range(4)])[tier]),
        cap=np.where(capped & (tier != SHARE), 3, 0),
        branch=branch,
        audience=audience,
    )


def _pacing(guaranteed: NDArray[np.bool_], draw: Floats) -> NDArray[np.uint8]:
    """Each kind as often as `PACED` says, in every market."""
    pacing = np.full(len(guaranteed), EVEN, np.uint8)
    order = np.argsort(np.where(guaranteed, draw, 2.0))
    first = 0
    for kind, part in PACED:
        many = max(1, round(part * int(guaranteed.sum())))
        pacing[order[first : first + many]] = kind
        first += many
    return pacing


def _flights(
    size: Size, tier: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(begins, ends, whom it follows or −1). Half of the campaigns run all the time; the others follow one
    another in pairs, so that each day is sold about alike, as by a house that checks its bookings."""
    begins, ends = np.zeros(len(tier), np.int64), np.full(len(tier), size.days * DAY)
    before = np.full(len(tier), -1)
    for one in range(0, len(tier) - 4, 8):  # a pair has one kind of item: kinds alternate by four
        for first in range(one, min(one + 4, len(tier) - 4)):
            if tier[first] != SHARE and tier[first + 4] == tier[first] and rng.random() < 0.5:
                cut = int(rng.integers(max(2, size.days // 3), max(3, size.days - size.days // 3 + 1)))
                ends[first], begins[first + 4] = cut * DAY, cut * DAY
                before[first + 4] = first
    return begins, ends, before


def widely_clicked(size: Size, campaigns: Campaigns14, share: Floats, p: Floats) -> Campaigns14:
    """Clicks are sold where there are many: campaigns that run all the time, reach many, are clicked often.

    `share`: of the page views that are of the campaign's audience; `p`: mean P(click), (C,) each.
    """
    whole = (campaigns.tier == GUARANTEED) & (campaigns.begins == 0) & (campaigns.ends == size.days * DAY)
    places = np.where(whole, campaigns.top_rate * share * p, -1.0)
    clicked = np.zeros(len(campaigns), np.bool_)
    clicked[np.argsort(-places)[: size.clicked]] = True
    clicked &= whole
    displayed = np.array([PENALTY[tier] for tier in range(4)])[campaigns.tier]
    return replace(campaigns, clicked=clicked, penalty=np.where(clicked, CLICK_PENALTY, displayed))


def sized(
    size: Size, campaigns: Campaigns14, forecast: Floats, activity: Floats, slots: Slots, p: Floats
) -> Campaigns14:
    """Goals such that each slot's displays are sold to `sold`, by reach and a random appetite.

    Sized per page view on the first day's campaigns; one that follows another takes over its rate. A goal in
    clicks is what its displays bring among somewhat better than average customers; `p`: mean P(click), (C,).
    """
    rng = np.random.default_rng([size.views, size.guaranteed, 5])
    share = campaigns.audience @ (activity / activity.sum())
    if size.least_clicks:
        campaigns = widely_clicked(size, campaigns, share, p)
    first = campaigns.begins == 0
    guaranteed = campaigns.tier == GUARANTEED
    appetite = np.where(guaranteed & first, np.exp(rng.normal(0, 0.6, len(campaigns))), 0.0) * share
    most = 0.5 * campaigns.top_rate * share
    sellable = _sellable(campaigns, slots)
    supply = slots.rates.sum(axis=1)[sellable].astype(np.float64)
    fits = ((campaigns.slots[:, None] & slots.bit[None, :]) != 0)[:, sellable].astype(np.float64)
    rate, better = np.zeros(len(campaigns)), CHOSEN if size.least_clicks else BETTER
    if size.least_clicks:
        clicks = size.least_clicks * rng.uniform(1.02, 1.3, len(campaigns))
        rate = np.where(campaigns.clicked, np.minimum(clicks / (better * p * size.views), most), 0.0)
        appetite = np.where(campaigns.clicked, 0.0, appetite)
    for _ in range(30):  # what hits its own limit leaves the rest to the others
        weight = appetite * (rate < most - 1e-9)
        missing = max(size.sold * float(supply.sum()) - float(rate.sum()), 0.0)
        whole = fits.T @ weight
        per_weight = np.divide(
            missing * supply / supply.sum(), whole, out=np.zeros_like(whole), where=whole > 0
        )
        rate = np.minimum(rate + weight * (fits @ per_weight), most)
    followers = np.flatnonzero(campaigns.begins > 0)
    rate[followers] = rate[followers - 4]
    summed = np.r_[0.0, np.cumsum(forecast)] * (size.views / forecast.sum())
    views = summed[campaigns.ends] - summed[campaigns.begins]
    wanted = np.maximum(np.round(rate * views), size.least_goal)
    if size.least_clicks:
        wanted = np.where(campaigns.clicked, rate * views, wanted)
    clicked = np.round(wanted * p * better)
    wanted = np.where(campaigns.clicked, clicked, wanted)
    return replace(campaigns, wanted=np.where(guaranteed, wanted, campaigns.wanted))


def _sellable(campaigns: Campaigns14, slots: Slots) -> NDArray[np.bool_]:
    return np.array([bool((campaigns.slots & bit).any()) for bit in slots.bit])
