"""A day of generated page views with a rule of every kind, and the same day without one of them.

The homepage, the customers and the campaigns are those of `fenliu bench pacing` (one day of them) under the
prices of their dual; pins, levers, caps, exclusion groups, notices and roadblocks are drawn on top.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.curves import Floats
from serving.page import HOUSE, MANDATORY, MARKET, RULE, Batch, Offers, Options, Pages, Slots
from serving.plan_default import CANONICAL
from training.bench.campaigns14 import DAY, SHARE, STANDARD, Size
from training.bench.offline14 import plan_offline, with_quotas
from training.bench.pages14 import drawn
from training.bench.traffic14 import Market, Views, market
from training.dual import campaign_prices

CHUNK: Final = 2048
PINS: Final = (("home.banner", 1), ("home.shelf", 0), ("home.feed", 2))
LEVERS: Final = (1.5, 2.0, 3.0)
CAPPED: Final = 0.35  # of a capped campaign's pages on which the customer has had enough
GROUPS: Final = 4
IN_GROUP: Final = 4
UNLIMITED: Final = 1 << 20
NOBODY: Final = np.zeros((1, 1), np.uint8)
BIT: Final = {slot[0]: np.uint64(1 << at) for at, slot in enumerate(CANONICAL)}
PLACES: Final = {slot[0]: slot[2] for slot in CANONICAL}


class Rules(NamedTuple):
    """What is laid over the generated campaigns; −1 or 1 where nothing is."""

    band: NDArray[np.uint8]  # (C,)
    lever: Floats  # (C,)
    pin_slot: NDArray[np.int32]  # (C,)
    pin: NDArray[np.int32]
    capped: NDArray[np.bool_]  # (C,) has a counter that is at 0 on some pages
    group: NDArray[np.int32]  # (C,) exclusion group, of which one may stand on a page
    block: NDArray[np.bool_]  # (C,) roadblock
    promise: NDArray[np.uint8]  # (C,) the rule that a price stands for


class Day(NamedTuple):
    market: Market
    views: Views
    slots: Slots
    rules: Rules
    display: Floats  # (C,) prices
    click: Floats
    closed: NDArray[np.bool_]


class Rule(NamedTuple):
    """One rule of one campaign, or of one exclusion group."""

    code: int
    of: int  # campaign; of an exclusion the group

    @property
    def name(self) -> str:
        return next(name for name, code in RULE.items() if code == self.code)


def day_of(views: int, customers: int, campaigns: int, seed: int) -> Day:
    """The second of three days. About three quarters of the campaigns are open on it."""
    guaranteed, shares, quotas = campaigns // 2, campaigns // 8, campaigns // 8
    size = Size(
        views=3 * views, days=3, customers=customers, guaranteed=guaranteed, clicked=guaranteed // 8,
        shares=shares, quotas=quotas, standard=campaigns - guaranteed - shares - quotas, least_goal=50.0,
    )  # fmt: skip
    made = with_quotas(market(size, seed), seed)
    offline = plan_offline(made, seed, steps=20)
    display, click = campaign_prices(offline.programme, offline.dual.goals, offline.dual.quotas)
    today = made.views.minute // DAY == 1
    some = Views(made.views.customer[today], made.views.salt[today], made.views.minute[today], made.views.at)
    rules = _rules(made, seed)
    quiet = rules.block | (rules.band == MANDATORY)
    display, click = np.where(quiet, 0.0, display), np.where(quiet, 0.0, click)
    display[rules.block] = 0.4
    closed = ~made.campaigns.open_at(DAY + 1)
    slots = made.slots._replace(
        diminish=np.full(len(made.slots.bit), 0.95, np.float32),
        interruption=np.where(made.slots.bit == BIT["home.popup"], 0.005, 0.0).astype(np.float32),
    )
    return Day(made, some, slots, rules, display, click, closed)


def _rules(made: Market, seed: int) -> Rules:
    campaigns = made.campaigns
    many, rng = len(campaigns), np.random.default_rng([seed, 55])
    open_now = campaigns.open_at(DAY + 1)
    plain = rng.permutation(np.flatnonzero((campaigns.tier == STANDARD) & open_now))
    others = rng.permutation(np.flatnonzero((campaigns.tier != STANDARD) & open_now))
    band, lever = np.full(many, MARKET, np.uint8), np.ones(many)
    pin_slot, pin = np.full(many, -1, np.int32), np.full(many, -1, np.int32)
    block = np.zeros(many, np.bool_)
    used: set[int] = set()

    def next_in(slot: str | None = None) -> int:
        for c in plain.tolist():
            if c not in used and (slot is None or campaigns.slots[c] & BIT[slot]):
                used.add(c)
                return int(c)
        raise ValueError("too few campaigns are open for all rules: make more")

    for slot, position in PINS:
        c = next_in(slot)
        pin_slot[c], pin[c] = list(BIT).index(slot), position
    block[next_in("home.popup")] = True
    band[next_in()] = MANDATORY
    band[next_in()] = HOUSE
    for factor in LEVERS:
        lever[next_in()] = factor
    capped = np.zeros(many, np.bool_)
    capped[others[: many // 6]] = True
    capped[[c for c in plain.tolist() if c not in used][:2]] = True
    group = np.full(many, -1, np.int32)
    for number in range(GROUPS):
        group[others[many // 6 + number * IN_GROUP :][:IN_GROUP]] = number
    promise = np.where(campaigns.tier == SHARE, RULE["share"], RULE["guarantee"]).astype(np.uint8)
    return Rules(band, lever, pin_slot, pin, capped, group, block, promise)


def batches(day: Day) -> Iterator[Batch]:
    """The day's pages with all rules, in chunks."""
    made, views = day.market, day.views
    none = np.zeros((len(made.campaigns), 2), np.int32)
    for low in range(0, len(views), CHUNK):
        some = slice(low, low + CHUNK)
        customers, salts = views.customer[some], views.salt[some]
        one = drawn(made, customers, salts, day.display, day.click, day.closed, NOBODY, none)
        yield _ruled(day, one.batch, one.item, low)


def _ruled(day: Day, batch: Batch, item: NDArray[np.int32], first: int) -> Batch:
    rules, made = day.rules, day.market
    pages, many = len(batch.option_at) - 1, len(made.campaigns)
    offers, c = batch.offers, batch.offers.campaign
    counters = many + GROUPS
    room = np.ones((pages, counters), np.int32)
    rng = np.random.default_rng([first, 77])
    room[:, :many][(rng.random((pages, many)) < CAPPED) & rules.capped] = 0
    limits = np.full(counters, RULE["cap"], np.uint8)
    limits[many:] = RULE["exclusion"]
    uses = np.full((len(c), 6), -1, np.int32)
    uses[:, 0] = c
    uses[:, 1] = np.where(rules.group[c] >= 0, many + rules.group[c], -1)
    lever = rules.lever[c]
    boost = ((lever - 1.0) * offers.base).astype(np.float32)
    slots = np.where(rules.block[c], BIT["home.popup"], offers.slots)
    slots = np.where(
        rules.pin_slot[c] >= 0, np.uint64(1) << rules.pin_slot[c].clip(0).astype(np.uint64), slots
    )
    category = (item % 40 + 1).astype(np.int64)
    ruled = offers._replace(
        slots=slots,
        value=(offers.value + boost).astype(np.float32),
        band=rules.band[c],
        pin_slot=rules.pin_slot[c],
        pin=rules.pin[c],
        room=uses,
        capped=rules.capped[c].astype(np.uint8),
        roadblock=rules.block[c].astype(np.uint8),
        boost=boost,
        promise=rules.promise[c],
    )
    return batch._replace(
        slots=day.slots,
        options=batch.options._replace(category=category.astype(np.int32)),
        offers=ruled,
        room=room.reshape(-1),
        room_at=np.arange(pages + 1, dtype=np.int64) * counters,
        limits=np.tile(limits, pages),
    )


def rules_of(day: Day) -> list[Rule]:
    """Every rule that is in force."""
    rules, found = day.rules, list[Rule]()
    priced = (day.display > 0) | (day.click > 0)
    for c in np.flatnonzero(~day.closed).tolist():
        if rules.band[c] == MANDATORY:
            found.append(Rule(RULE["mandatory"], c))
        elif rules.block[c]:
            found.append(Rule(RULE["roadblock"], c))
        elif rules.pin[c] >= 0:
            found.append(Rule(RULE["pin"], c))
        elif rules.lever[c] > 1:
            found.append(Rule(RULE["lever"], c))
        elif priced[c]:
            found.append(Rule(int(rules.promise[c]), c))
        if rules.capped[c]:
            found.append(Rule(RULE["cap"], c))
    return found + [Rule(RULE["exclusion"], group) for group in range(GROUPS)]


def without(day: Day, batch: Batch, rule: Rule) -> Batch:
    """The pages as if the rule had not been made."""
    many = len(day.market.campaigns)
    offers = batch.offers
    mine = offers.campaign == rule.of
    if rule.code in (RULE["cap"], RULE["exclusion"]):
        room = batch.room.reshape(-1, many + GROUPS).copy()
        if rule.code == RULE["cap"]:
            room[:, rule.of] = 1  # it still may stand once
        else:
            room[:, many + rule.of] = UNLIMITED
        return batch._replace(room=room.reshape(-1))
    if rule.code in (RULE["mandatory"], RULE["roadblock"]):
        return _only(batch, ~mine)
    if rule.code == RULE["pin"]:
        free = np.where(mine, -1, offers.pin).astype(np.int32)
        slot = np.where(mine, -1, offers.pin_slot).astype(np.int32)
        return batch._replace(offers=offers._replace(pin=free, pin_slot=slot))
    if rule.code == RULE["lever"]:
        value = np.where(mine, offers.value - np.maximum(offers.boost, 0), offers.value)
        boost = np.where(mine, 0, offers.boost)
        return batch._replace(
            offers=offers._replace(value=value.astype(np.float32), boost=boost.astype(np.float32))
        )
    price = np.maximum(offers.value - offers.base - offers.boost, 0)
    value = np.where(mine, offers.value - price, offers.value)
    return batch._replace(offers=offers._replace(value=value.astype(np.float32)))


def _only(batch: Batch, kept: NDArray[np.bool_]) -> Batch:
    """The pages with some of their offers."""
    summed = np.r_[0, np.cumsum(kept)].astype(np.int64)
    return batch._replace(
        offers=Offers._make(column[kept] for column in batch.offers), offer_at=summed[batch.offer_at]
    )


def met_by(day: Day, batch: Batch, rule: Rule) -> NDArray[np.int64]:
    """Pages that the rule may change: those that offer its campaign (or one of its group)."""
    c = batch.offers.campaign
    mine = day.rules.group[c] == rule.of if rule.code == RULE["exclusion"] else c == rule.of
    summed = np.r_[0, np.cumsum(mine)]
    return np.flatnonzero(summed[batch.offer_at[1:]] > summed[batch.offer_at[:-1]]).astype(np.int64)


def some_of(batch: Batch, pages: NDArray[np.int64]) -> Batch:
    """These pages alone."""
    options, option_at = _gather(batch.option_at, pages)
    offers, offer_at = _gather(batch.offer_at, pages)
    room, room_at = _gather(batch.room_at, pages)
    return _columns(batch, options, option_at, offers, offer_at)._replace(
        room=batch.room[room],
        room_at=room_at,
        limits=batch.limits[room],
        held_at=np.zeros(len(pages) + 1, np.int64),
    )


def _columns(
    batch: Batch,
    options: NDArray[np.int64],
    option_at: NDArray[np.int64],
    offers: NDArray[np.int64],
    offer_at: NDArray[np.int64],
) -> Batch:
    return batch._replace(
        options=Options._make(column[options] for column in batch.options),
        option_at=option_at,
        offers=Offers._make(column[offers] for column in batch.offers),
        offer_at=offer_at,
    )


def _gather(at: NDArray[np.int64], pages: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(which entries, bounds) of some segments of a CSR."""
    sizes = at[pages + 1] - at[pages]
    bounds = np.r_[0, np.cumsum(sizes)].astype(np.int64)
    which = np.repeat(at[pages] - bounds[:-1], sizes) + np.arange(bounds[-1])
    return which.astype(np.int64), bounds


def base_worth(slots: Slots, pages: Pages) -> Floats:
    """(B,) pages in base value: no lever and no price, under the same interactions and interruptions."""
    many = len(pages.at) - 1
    page = np.repeat(np.arange(many), np.diff(pages.at))
    rate = slots.rates[pages.slot, pages.position].astype(np.float64)
    seen = np.where(pages.base > 0, pages.factor.astype(np.float64), rate)  # a factor shrinks gains only
    worth = np.bincount(page, seen * pages.base, many)
    shown = np.zeros((many, len(slots.bit)), np.bool_)
    shown[page, pages.slot] = True
    return np.asarray(worth - shown @ slots.interruption.astype(np.float64))
