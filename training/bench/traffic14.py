"""A fortnight of page views with campaigns: what `fenliu bench pacing` is run on, all from one seed.

Customers have taste vectors, items have vectors; P(click) is a logistic of their product with noise, fixed
for all policies. 200 campaigns over overlapping audiences sell a stated share of their slots' displays.
Traffic has hours, a weekend, a payday; unknown to the forecast, a drop, a burst and days that differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS
from serving.curves import Floats, Season, fit_season
from serving.page import Slots
from serving.plan_default import CANONICAL
from training.bench.campaigns14 import DAY, QUOTA, Campaigns14, Size, campaigns_of, home_slots, sized

START: Final = 1_793_548_800.0  # Monday 2026-11-02 00:00 in Shanghai
ZONE_S: Final = 8 * 3600.0
TRUTH_CLICK: Final = 0.15  # σ of the log of an item's mis-calibration
CONTEXT: Final = 0.25  # σ of the log of what differs from page to page
WEEKS: Final = 8  # of hourly counts that the season is learned from
TABLE: Final = 1 << 14


COUNT: Final = {
    "function": 40,
    "product": 130,
    "activity": 130,
    "content": 160,
    "benefit": 100,
    "service": 40,
}
GAIN: Final = {
    "function": 0.2,
    "product": 1.2,
    "activity": 0.6,
    "content": 0.35,
    "benefit": 0.8,
    "service": 0.3,
}
KEPT: Final = {"function": 22, "product": 26, "activity": 20, "content": 24, "benefit": 14, "service": 10}


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """Page views by time: n of them, those of minute t at `at[t]:at[t + 1]`."""

    customer: NDArray[np.int32]
    salt: NDArray[np.int64]  # picks the page's context
    minute: NDArray[np.int32]
    at: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.customer)


@dataclass(frozen=True, slots=True, eq=False)
class Market:
    """Everything static. Candidates and offers per customer, one after another (CSR)."""

    size: Size
    slots: Slots
    campaigns: Campaigns14
    branch_of: NDArray[np.int64]  # (customers,)
    truth: NDArray[np.float32]  # (items,) true P(click) / predicted
    members: NDArray[np.uint64]  # (items,)
    kind: NDArray[np.uint8]
    category: NDArray[np.int32]
    gain: NDArray[np.float32]
    at: NDArray[np.int64]  # (customers + 1,) into candidates
    candidate: NDArray[np.int32]  # item
    p: NDArray[np.float32]  # P(click | displayed), as predicted
    offer_at: NDArray[np.int64]
    offer_candidate: NDArray[np.int32]  # within the customer's candidates
    offer_campaign: NDArray[np.int32]
    context: NDArray[np.float32]  # (TABLE,) factors of P(click), mean 1
    views: Views
    sample: Views  # what is expected to come, drawn from the forecast: the offline plan is made on it
    season: Season

    @property
    def minutes(self) -> int:
        return self.size.days * DAY


class Columns(NamedTuple):
    """As in `Market`."""

    at: NDArray[np.int64]
    candidate: NDArray[np.int32]
    p: NDArray[np.float32]
    offer_at: NDArray[np.int64]
    offer_candidate: NDArray[np.int32]
    offer_campaign: NDArray[np.int32]


def market(size: Size, seed: int) -> Market:
    rng = np.random.default_rng([seed, 14])
    slots = home_slots()
    item_kind = np.repeat(np.arange(len(KINDS)), [COUNT[kind] for kind in KINDS]).astype(np.uint8)
    items = len(item_kind)
    bits = {slot[0]: np.uint64(1 << at) for at, slot in enumerate(CANONICAL)}
    members = np.array(
        [
            sum(int(bits[name]) for name, _, _, kinds in CANONICAL if KINDS[kind] in kinds)
            for kind in item_kind
        ],
        np.uint64,
    )
    gain = np.array([GAIN[KINDS[kind]] for kind in item_kind]) * np.exp(rng.normal(0, 0.3, items) - 0.045)
    taste = rng.normal(0, 1, (size.customers, 12))
    vector = rng.normal(0, 1, (items, 12))
    branch_of = rng.integers(0, 10, size.customers)
    activity = rng.gamma(1.2, 1.0, size.customers) + 0.05
    season, true_weights, forecast = _traffic(size, rng)
    views = _views(true_weights, activity, size.views, rng)
    sample = _views(forecast, activity, min(size.views * 2 // 5, 20_000), rng)
    campaigns = campaigns_of(size, item_kind, taste, branch_of, bits, slots, rng)
    members = members.copy()
    members[campaigns.item[campaigns.exclusive]] = 0
    gain[campaigns.item[campaigns.tier == QUOTA]] *= 4.0  # what people want, and there is little of
    columns = _columns(taste, vector, item_kind, campaigns, rng)
    campaigns = sized(size, campaigns, forecast, activity, slots, _mean_click(campaigns, columns))
    return Market(
        size=size,
        slots=slots,
        campaigns=campaigns,
        branch_of=branch_of,
        truth=np.exp(rng.normal(0, TRUTH_CLICK, items) - TRUTH_CLICK**2 / 2).astype(np.float32),
        members=members,
        kind=item_kind,
        category=np.zeros(items, np.int32),
        gain=gain.astype(np.float32),
        **columns._asdict(),
        context=np.exp(rng.normal(0, CONTEXT, TABLE) - CONTEXT**2 / 2).astype(np.float32),
        views=views,
        sample=sample,
        season=season,
    )


def _traffic(size: Size, rng: np.random.Generator) -> tuple[Season, Floats, Floats]:
    """(the season learned from the weeks before, true weights, forecast weights) per minute of the flight."""
    hour = np.arange(24)
    day_curve = 0.15 + np.exp(-((hour - 10.5) ** 2) / 12) + 0.9 * np.exp(-((hour - 20) ** 2) / 8)

    def shape(first: int, count: int) -> Floats:  # minutes from START
        minute = np.arange(first, first + count)
        day = minute // DAY
        date = 2 + day  # of November 2026; before it come October and September
        date = np.where(date < 1, date + 31, date)
        payday = np.isin(np.where(date < 1, date + 30, date), (10, 25))
        weekend = day % 7 >= 5
        curve = np.interp((minute % DAY) / 60.0, np.arange(25), np.r_[day_curve, day_curve[0]])
        return np.asarray(curve * np.where(weekend, 0.7, 1.0) * np.where(payday, 1.5, 1.0))

    past = shape(-WEEKS * 7 * DAY, WEEKS * 7 * DAY).reshape(-1, 60).sum(axis=1)
    scale = size.views / size.days * WEEKS * 7 / past.sum()
    counts = rng.poisson(past * scale * np.exp(rng.normal(0, 0.03, len(past)))).astype(np.float64)
    season = fit_season(counts, START - WEEKS * 7 * 86_400.0, zone_s=ZONE_S)
    forecast = season.weights(START, 60.0, size.days * DAY)
    true = shape(0, size.days * DAY)
    true = true * np.repeat(np.exp(rng.normal(0, 0.05, size.days)), DAY)
    drop = int(0.4 * size.days) * DAY + 10 * 60
    true[drop : drop + 120] *= 0.6
    burst = int(0.65 * size.days) * DAY + 14 * 60
    true[burst : burst + 30] *= 4.0
    return season, true, forecast


def _views(weights: Floats, activity: Floats, views: int, rng: np.random.Generator) -> Views:
    count = rng.poisson(weights * (views / weights.sum()))
    minute = np.repeat(np.arange(len(weights)), count).astype(np.int32)
    summed = np.cumsum(activity) / activity.sum()
    customer = np.searchsorted(summed, rng.random(len(minute)), side="right").astype(np.int32)
    for _ in range(8):  # a customer has one page a minute
        _, first = np.unique(minute.astype(np.int64) * len(activity) + customer, return_index=True)
        again = np.ones(len(minute), np.bool_)
        again[first] = False
        if not again.any():
            break
        customer[again] = np.searchsorted(summed, rng.random(int(again.sum())), side="right")
    at = np.zeros(len(weights) + 1, np.int64)
    np.cumsum(count, out=at[1:])
    return Views(customer, rng.integers(0, 1 << 40, len(minute)), minute, at)


def _mean_click(campaigns: Campaigns14, columns: Columns) -> Floats:
    """(C,) P(click | displayed) over the campaign's audience."""
    at, _, p, offer_at, to, of = columns
    owner = np.repeat(np.arange(len(at) - 1), np.diff(offer_at))
    reached = np.maximum(np.bincount(of, minlength=len(campaigns)), 1)
    return np.bincount(of, p[at[owner] + to], len(campaigns)) / reached


def _columns(
    taste: Floats,
    vector: Floats,
    item_kind: NDArray[np.uint8],
    campaigns: Campaigns14,
    rng: np.random.Generator,
) -> Columns:
    """Candidates: the customer's best of each kind, and the items of campaigns whose audience they are in."""
    many, items = len(taste), len(item_kind)
    of_item = np.full(items, -1, np.int32)
    of_item[campaigns.item] = np.arange(len(campaigns))
    exclusive = np.zeros(items, np.bool_)
    exclusive[campaigns.item[campaigns.exclusive]] = True
    parts: tuple[list[NDArray[Any]], ...] = ([], [], [], [])
    counts, offer_counts = [], []
    level = rng.normal(-3.6, 0.35, items)
    for low in range(0, many, 2_000):
        block = taste[low : low + 2_000]
        logit = level + 0.22 * (block @ vector.T) + rng.normal(0, 0.3, (len(block), items))
        p = (1.0 / (1.0 + np.exp(-logit))).astype(np.float32)
        keep = np.zeros(p.shape, np.bool_)
        for kind, name in enumerate(KINDS):
            mine = np.flatnonzero((item_kind == kind) & ~exclusive)
            best = np.argpartition(-p[:, mine], KEPT[name], axis=1)[:, : KEPT[name]]
            np.put_along_axis(keep, mine[best], True, axis=1)
        reached = np.zeros(p.shape, np.bool_)
        reached[:, campaigns.item] = campaigns.audience[:, low : low + len(block)].T
        keep |= reached
        who, what = np.nonzero(keep)
        place = np.cumsum(keep, axis=1)[who, what] - 1
        offered = reached[who, what]
        counts.append(keep.sum(axis=1))
        offer_counts.append(reached.sum(axis=1))
        columns = (
            what.astype(np.int32),
            p[who, what],
            place[offered].astype(np.int32),
            of_item[what[offered]],
        )
        for part, column in zip(parts, columns, strict=True):
            part.append(column)
    at = np.r_[0, np.cumsum(np.concatenate(counts))].astype(np.int64)
    offer_at = np.r_[0, np.cumsum(np.concatenate(offer_counts))].astype(np.int64)
    item, p_all, place_all, campaign = (np.concatenate(part) for part in parts)
    return Columns(at, item, p_all, offer_at, place_all, campaign)
