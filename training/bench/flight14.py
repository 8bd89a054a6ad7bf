"""A fortnight under a policy: page by page through the product's own page code, prices once a minute.

Displays come within two minutes or never, but for one slot in four thousand, displayed after its page's
validity; what a customer's last page displayed comes along with the next request. Clicks are known half an
hour later. Quotas and caps go through the product's ledger (`training.bench.counted14`). A policy sees what
the pacer would see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.curves import Floats
from serving.pacing import GoalsSeen, QuotasSeen
from serving.page import Pages, solve_many
from training.bench.campaigns14 import DAY, GUARANTEED, NEVER, SHARE
from training.bench.counted14 import CAP_LAPSE, LATE, QUOTA_LAPSE, Counted, Placed
from training.bench.granted14 import placed_of, without
from training.bench.meters14 import DELAY, Meters
from training.bench.offline14 import BANNER
from training.bench.pages14 import Drawn, drawn
from training.bench.traffic14 import Market
from training.dual import Programme, campaign_prices, totals

STALE: Final = 1 / 4_000  # of the slots are displayed after their page's validity, up to half an hour later
MATURE: Final = 30  # minutes until clicks are known
RING: Final = 64


class Policy(Protocol):
    passing: Floats | None
    """(C,) the chance that a campaign takes part in a page; None: always."""

    def prices(self, minute: int, seen: GoalsSeen, spent: QuotasSeen, /) -> tuple[Floats, Floats]:
        """λ of the goals and μ of the quotas for this minute."""
        ...


class Flown(NamedTuple):
    """What came of a policy. Histories are hourly, (H, G)."""

    value: float  # Σ expected base value on the predictions
    true_value: float  # the same by the true P(click)
    delivered: Floats  # (G,) displays or clicks that came
    spent: Floats  # (Q,)
    over_quota: float  # confirmed + outstanding units above a quota, at any minute
    over_cap: int  # displays and reservations of a customer above a cap
    late: float  # share of displays after the placement's validity
    differences: int  # between the ledger's pools and the tally, daily, and what only the ledger refused
    history: Floats
    due: Floats
    prices: Floats
    shares: Floats  # (days, share goals) delivered over promised
    pages: int
    sold: float  # displays of guarantees and shares, of all displays of the slots that campaigns may take


class Flight:
    """The state of the world while it flies; `fly` is the only door."""

    def __init__(self, market: Market, programme: Programme, seed: int) -> None:
        self.market, self.programme = market, programme
        self.rng = np.random.default_rng([seed, 99])
        campaigns = market.campaigns
        self.meters = Meters(market, programme)
        self.closed_by_day = [~campaigns.open_at(day * DAY) for day in range(market.size.days)]
        quota = programme.quota_campaign
        self.counted = Counted(campaigns, quota, market.size.customers)
        self.asking = np.zeros(market.size.customers, np.bool_)
        self.due: list[list[Placed]] = [[] for _ in range(RING)]
        self.quota_lapsing: list[list[Placed]] = [[] for _ in range(RING)]
        self.cap_lapsing: list[list[Placed]] = [[] for _ in range(RING)]
        self.maturing: list[list[tuple[Floats, Floats]]] = [[] for _ in range(RING)]
        self.banner_due: list[list[NDArray[np.int64]]] = [[] for _ in range(RING)]
        self.value = self.true_value = self.supply = 0.0
        self.sellable = np.array([bool((campaigns.slots & bit).any()) for bit in market.slots.bit])
        self.shares: list[Floats] = []

    def fly(self, policy: Policy, told: Callable[[int], None] = lambda _day: None) -> Flown:
        """`told`: the day that begins."""
        market, programme, meters = self.market, self.programme, self.meters
        quota = programme.quota_campaign
        history, due, prices = [], [], []
        for minute in range(market.minutes):
            if minute % DAY == 0:
                self._new_day(minute)
                told(minute // DAY)
            self.counted.at(minute)
            self._happens(minute)
            seen, spent = meters.seen(minute), meters.spent(minute)
            goals, quotas = policy.prices(minute, seen, spent)
            if minute % 60 == 0:
                history.append(meters.came())
                due.append(meters.curve(minute, seen))
                prices.append(goals)
            first, last = market.views.at[minute], market.views.at[minute + 1]
            meters.viewed += (last - first) * ~self.closed_by_day[minute // DAY]
            if first == last:
                meters.age(None)
                continue
            display, click = campaign_prices(programme, goals, quotas)
            self._decide(minute, np.arange(first, last), display, click, policy.passing)
        for minute in range(market.minutes, market.minutes + 3):
            self.counted.at(minute)
            self._happens(minute)
        self._close_day()
        counted = self.counted
        return Flown(
            value=self.value,
            true_value=self.true_value,
            delivered=meters.came(),
            spent=meters.delivered[quota],
            over_quota=counted.tally.over_quota,
            over_cap=counted.tally.over_cap,
            late=counted.late / max(counted.displays, 1),
            differences=counted.differences,
            history=np.array(history),
            due=np.array(due),
            prices=np.array(prices),
            shares=np.array(self.shares),
            pages=len(market.views),
            sold=float(meters.delivered[np.isin(market.campaigns.tier, (GUARANTEED, SHARE))].sum())
            / self.supply,
        )

    def _decide(
        self, minute: int, views: NDArray[np.int64], display: Floats, click: Floats, passing: Floats | None
    ) -> None:
        market = self.market
        customers = market.views.customer[views]
        self._come_along(minute, customers)
        self.counted.tally.asked(customers)
        closed, used, cap = self._closed(minute)
        if passing is not None:
            closed = closed | (self.rng.random((len(views), len(closed))) >= passing)
        salts = market.views.salt[views]
        one = drawn(market, customers, salts, display, click, closed, used, cap)
        self._book(minute, views, one, solve_many(one.batch))

    def _closed(self, minute: int) -> tuple[NDArray[np.bool_], NDArray[np.uint8], NDArray[np.int32]]:
        """What pages are made without: campaigns (C,), a customer's counts of today, and their caps."""
        tally = self.counted.tally
        return self.closed_by_day[minute // DAY] | tally.spent(), tally.used, tally.cap

    def _come_along(self, minute: int, customers: NDArray[np.int32]) -> None:
        """What these customers saw since their last page was decided is told before the next one is."""
        self.asking[customers] = True
        for ahead in (1, 2):
            ring = self.due[(minute + ahead) % RING]
            for at, placed in enumerate(ring):
                if minute - placed.minute < LATE and (come := self.asking[placed.customer]).any():
                    ring[at] = placed.only(~come)
                    self._show(minute, placed.only(come))
        self.asking[customers] = False

    def _book(self, minute: int, views: NDArray[np.int64], one: Drawn, pages: Pages) -> None:
        many = len(self.market.campaigns)
        customers = self.market.views.customer[views].astype(np.int64)
        asked, places = placed_of(self.market, views, minute, one, pages)
        refused = self.counted.reserve(asked)
        placed, tagged = asked.only(~refused), places[~refused]
        pages = without(one, pages, places[refused])
        page = np.repeat(np.arange(len(views)), np.diff(pages.at))
        candidate = one.batch.option_at[page] + pages.candidate
        item = one.item[candidate].astype(np.int64)
        worth = pages.factor * pages.base
        self.value += float(worth.sum())
        self.true_value += float(worth @ self.market.truth[item])
        self.supply += float(pages.factor[self.sellable[pages.slot]].sum())
        # one draw a slot and page: who sees a place has seen those before it
        alive = self.rng.random(len(customers)) >= NEVER
        depth = self.rng.random((len(customers), len(self.market.slots.count)))
        seen = alive[page] & (depth[page, pages.slot] * (1.0 - NEVER) < pages.factor)
        delay = np.searchsorted(DELAY, self.rng.random(len(customers)), side="right")
        stale = self.rng.random(depth.shape) < STALE
        later = self.rng.integers(LATE, MATURE, depth.shape)
        delay = np.where(stale, later, delay[:, None])[page, pages.slot]
        rate = pages.factor[tagged].astype(np.float64)
        for late in np.unique(delay[tagged][seen[tagged]]).tolist():
            now = seen[tagged] & (delay[tagged] == late)
            self.due[(minute + 1 + late) % RING].append(placed.only(now))
        never = placed.only(~seen[tagged] | (delay[tagged] >= LATE))
        self.quota_lapsing[(minute + QUOTA_LAPSE) % RING].append(never)
        self.cap_lapsing[(minute + CAP_LAPSE) % RING].append(never)
        banner = np.flatnonzero(pages.slot == BANNER)
        branch = self.market.branch_of[customers[page[banner]]]
        for late in np.unique(delay[banner]).tolist():
            now = seen[banner] & (delay[banner] == late)
            self.banner_due[(minute + 1 + late) % RING].append(branch[now])
        campaign, p = placed.campaign, placed.p
        self.meters.age(
            (
                totals(campaign, rate, many), totals(campaign, rate * p, many),
                totals(branch, pages.factor[banner], 10),
            )
        )  # fmt: skip

    def _happens(self, minute: int) -> None:
        """Displays, lapses and ripe clicks of the minute that has passed."""
        at = minute % RING
        for placed in self.due[at]:
            self._show(minute, placed)
        for placed in self.quota_lapsing[at]:
            self.counted.tally.quota_lapsed(placed)
        for placed in self.cap_lapsing[at]:
            self.counted.tally.cap_lapsed(placed)
        for expected, clicks in self.maturing[at]:
            self.meters.matured += expected
            self.meters.actual += clicks
        for branch in self.banner_due[at]:
            self.meters.banner += totals(branch, None, 10)
        for ring in (self.due, self.quota_lapsing, self.cap_lapsing, self.maturing, self.banner_due):
            ring[at].clear()

    def _show(self, minute: int, placed: Placed) -> None:
        many = len(self.market.campaigns)
        self.counted.shown(placed, minute)
        expected = totals(placed.campaign, placed.p, many)
        chance = np.minimum(placed.p * self.market.truth[placed.item], 1.0)
        clicked = self.rng.random(len(chance)) < chance
        clicks = totals(placed.campaign[clicked], None, many)
        self.meters.shown(totals(placed.campaign, None, many), expected, clicks)
        self.maturing[(minute + MATURE) % RING].append((expected, clicks))

    def _new_day(self, minute: int) -> None:
        if minute:
            self._close_day()
        self.meters.new_day()

    def _close_day(self) -> None:
        self.counted.compare()
        campaigns, meters = self.market.campaigns, self.meters
        share = np.flatnonzero(campaigns.tier == SHARE)
        promised = campaigns.wanted[share] * meters.banner[campaigns.branch[share]]
        self.shares.append(meters.today[share] / np.maximum(promised, 1.0))
