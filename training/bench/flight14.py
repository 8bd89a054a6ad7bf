"""A fortnight under a policy: page by page through the product's own page code, prices once a minute.

Displays come within two minutes or never, clicks are known half an hour later; quotas and caps are reserved
at the decision and given back when a placement lapses. A policy sees what the pacer would see.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.curves import HOUR_S, Floats, asap_by, target, timeline
from serving.pacing import GoalsSeen, QuotasSeen
from serving.page import Pages, solve_many
from training.bench.campaigns14 import DAY, NEVER, SHARE
from training.bench.offline14 import BANNER
from training.bench.pages14 import Drawn, drawn
from training.bench.traffic14 import START, Market
from training.dual import CLICKED, Programme, campaign_prices, totals

DELAY: Final = (0.25, 0.75)  # displayed within the minute of the decision; within the next; else the third
MATURE: Final = 30  # minutes until clicks are known
VALID: Final = 11  # minutes until what was not displayed is given back
RING: Final = 64


class Policy(Protocol):
    def prices(self, minute: int, seen: GoalsSeen, spent: QuotasSeen, /) -> tuple[Floats, Floats]:
        """λ of the goals and μ of the quotas for this minute."""
        ...


class Shown(NamedTuple):
    """Tagged placements of a minute's pages that wait for their display or lapse."""

    campaign: NDArray[np.int64]
    customer: NDArray[np.int64]
    item: NDArray[np.int64]
    p: Floats
    minute: int  # of the decision


class Flown(NamedTuple):
    """What came of a policy. Histories are hourly, (H, G)."""

    value: float  # Σ expected base value on the predictions
    true_value: float  # the same by the true P(click)
    delivered: Floats  # (G,) displays or clicks that came
    spent: Floats  # (Q,)
    over_quota: float  # units above a quota, at any minute
    over_cap: int  # displays of a customer above a cap
    late: float  # share of displays after the placement's validity
    history: Floats
    due: Floats
    prices: Floats
    shares: Floats  # (days, share goals) delivered over promised
    pages: int


class Flight:
    """The state of the world while it flies; `fly` is the only door."""

    def __init__(self, market: Market, programme: Programme, seed: int) -> None:
        self.market, self.programme = market, programme
        self.rng = np.random.default_rng([seed, 99])
        campaigns = market.campaigns
        many = len(campaigns)
        hours = market.size.days * 24
        opened = np.stack([campaigns.open_at(hour * 60) for hour in range(hours)], axis=1)
        weights = market.season.weights(START, HOUR_S, hours)
        self.hours = timeline(weights, opened, START, HOUR_S)
        self.season_whole = float(weights.sum())
        self.per_hour = weights * (len(market.views) / self.season_whole)
        self.viewed = np.zeros(many)  # page views so far while the campaign was open
        self.closed_by_day = [~campaigns.open_at(day * DAY) for day in range(market.size.days)]
        self.delivered, self.expected, self.clicks = np.zeros(many), np.zeros(many), np.zeros(many)
        self.actual, self.matured = np.zeros(many), np.zeros(many)
        self.outstanding = np.zeros(many)
        self.decided = np.zeros((3, many))  # expected displays by age in minutes
        self.decided_clicks = np.zeros((3, many))
        self.today, self.banner = np.zeros(many), np.zeros(10)
        self.banner_decided = np.zeros((3, 10))
        capped = np.flatnonzero(campaigns.cap > 0)
        self.cap = np.zeros((many, 2), np.int32)
        self.cap[capped, 0], self.cap[capped, 1] = np.arange(len(capped)), campaigns.cap[capped]
        self.used = np.zeros((market.size.customers, max(len(capped), 1)), np.uint8)
        self.waiting = np.zeros_like(self.used)
        self.shown_today = np.zeros_like(self.used)
        self.due: list[list[Shown]] = [[] for _ in range(RING)]
        self.lapsing: list[list[Shown]] = [[] for _ in range(RING)]
        self.maturing: list[list[tuple[Floats, Floats]]] = [[] for _ in range(RING)]
        self.banner_due: list[list[NDArray[np.int64]]] = [[] for _ in range(RING)]
        self.value = self.true_value = self.over_quota = 0.0
        self.over_cap = self.late = self.displays = 0
        self.shares: list[Floats] = []
        self.eligible = self._eligible()

    def fly(self, policy: Policy) -> Flown:
        market, programme = self.market, self.programme
        quota = programme.quota_campaign
        history, due, prices = [], [], []
        for minute in range(market.minutes):
            if minute % DAY == 0:
                self._new_day(minute)
            self._happens(minute)
            seen, spent = self._seen(minute), self._spent(minute)
            goals, quotas = policy.prices(minute, seen, spent)
            if minute % 60 == 0:
                history.append(self._came())
                due.append(self._curve(minute, seen))
                prices.append(goals)
            first, last = market.views.at[minute], market.views.at[minute + 1]
            self.viewed += (last - first) * ~self.closed_by_day[minute // DAY]
            if first == last:
                self._age(None)
                continue
            closed = self.closed_by_day[minute // DAY].copy()
            used = self.delivered[quota] + self.outstanding[quota]
            self.over_quota = max(
                self.over_quota, float((used - market.campaigns.at_most[quota]).max(initial=0))
            )
            closed[quota] |= used + (last - first) > market.campaigns.at_most[quota]  # a minute's lease
            self._decide(minute, slice(first, last), *campaign_prices(programme, goals, quotas), closed)
        for minute in range(market.minutes, market.minutes + 3):
            self._happens(minute)
        self._close_day()
        return Flown(
            value=self.value,
            true_value=self.true_value,
            delivered=self._came(),
            spent=self.delivered[quota],
            over_quota=self.over_quota,
            over_cap=self.over_cap,
            late=self.late / max(self.displays, 1),
            history=np.array(history),
            due=np.array(due),
            prices=np.array(prices),
            shares=np.array(self.shares),
            pages=len(market.views),
        )

    def _decide(
        self, minute: int, views: slice, display: Floats, click: Floats, closed: NDArray[np.bool_]
    ) -> None:
        market = self.market
        customers = market.views.customer[views]
        one = drawn(market, customers, market.views.salt[views], display, click, closed, self.used, self.cap)
        pages = solve_many(one.batch)
        self._book(minute, customers.astype(np.int64), one, pages)

    def _book(self, minute: int, customers: NDArray[np.int64], one: Drawn, pages: Pages) -> None:
        many = len(self.market.campaigns)
        page = np.repeat(np.arange(len(customers)), np.diff(pages.at))
        candidate = one.batch.option_at[page] + pages.candidate
        item = one.item[candidate].astype(np.int64)
        worth = pages.factor * pages.base
        self.value += float(worth.sum())
        self.true_value += float(worth @ self.market.truth[item])
        # one draw a slot and page: who sees a place has seen those before it
        alive = self.rng.random(len(customers)) >= NEVER
        depth = self.rng.random((len(customers), len(self.market.slots.count)))
        seen = alive[page] & (depth[page, pages.slot] * (1.0 - NEVER) < pages.factor)
        delay = np.searchsorted(DELAY, self.rng.random(len(customers)), side="right")[page]
        tagged = np.flatnonzero(pages.offer >= 0)
        campaign = one.batch.offers.campaign[one.batch.offer_at[page[tagged]] + pages.offer[tagged]]
        campaign = campaign.astype(np.int64)
        p = one.p[candidate[tagged]].astype(np.float64)
        rate = pages.factor[tagged].astype(np.float64)
        of = customers[page[tagged]]
        self._reserve(campaign, of, 1)
        for late in range(3):
            now = seen[tagged] & (delay[tagged] == late)
            shown = Shown(campaign[now], of[now], item[tagged][now], p[now], minute)
            self.due[(minute + 1 + late) % RING].append(shown)
        never = ~seen[tagged]
        lapse = Shown(campaign[never], of[never], item[tagged][never], p[never], minute)
        self.lapsing[(minute + VALID) % RING].append(lapse)
        banner = np.flatnonzero(pages.slot == BANNER)
        branch = self.market.branch_of[customers[page[banner]]]
        for late in range(3):
            now = seen[banner] & (delay[banner] == late)
            self.banner_due[(minute + 1 + late) % RING].append(branch[now])
        self._age(
            (
                totals(campaign, rate, many), totals(campaign, rate * p, many),
                totals(branch, pages.factor[banner], 10),
            )
        )  # fmt: skip

    def _age(self, decided: tuple[Floats, Floats, Floats] | None) -> None:
        """Expected units by the age of their decision: the newest first."""
        for at, ages in enumerate((self.decided, self.decided_clicks, self.banner_decided)):
            ages[1:] = ages[:-1].copy()
            ages[0] = 0.0 if decided is None else decided[at]

    def _reserve(self, campaign: NDArray[np.int64], customer: NDArray[np.int64], units: int) -> None:
        np.add.at(self.outstanding, campaign, units)
        capped = self.cap[campaign, 1] > 0
        place = customer[capped], self.cap[campaign[capped], 0]
        change = np.uint8(units % 256)  # −1 wraps round
        np.add.at(self.waiting, place, change)
        np.add.at(self.used, place, change)

    def _happens(self, minute: int) -> None:
        """Displays, lapses and ripe clicks of the minute that has passed."""
        at, many = minute % RING, len(self.market.campaigns)
        for shown in self.due[at]:
            self._reserve(shown.campaign, shown.customer, -1)
            count = totals(shown.campaign, None, many)
            self.displays += len(shown.campaign)
            self.late += len(shown.campaign) * int(minute - shown.minute > VALID)
            self.delivered += count
            self.today += count
            expected = totals(shown.campaign, shown.p, many)
            chance = np.minimum(shown.p * self.market.truth[shown.item], 1.0)
            clicked = self.rng.random(len(chance)) < chance
            clicks = totals(shown.campaign[clicked], None, many)
            self.expected += expected
            self.clicks += clicks
            self.maturing[(minute + MATURE) % RING].append((expected, clicks))
            capped = self.cap[shown.campaign, 1] > 0
            place = shown.customer[capped], self.cap[shown.campaign[capped], 0]
            np.add.at(self.used, place, np.uint8(1))
            np.add.at(self.shown_today, place, np.uint8(1))
            most = self.cap[shown.campaign[capped], 1]
            self.over_cap += int((self.shown_today[place] > most).sum())
        for lapsed in self.lapsing[at]:
            self._reserve(lapsed.campaign, lapsed.customer, -1)
        for expected, clicks in self.maturing[at]:
            self.matured += expected
            self.actual += clicks
        for branch in self.banner_due[at]:
            self.banner += totals(branch, None, 10)
        for ring in (self.due, self.lapsing, self.maturing, self.banner_due):
            ring[at].clear()

    def _new_day(self, minute: int) -> None:
        if minute:
            self._close_day()
        self.today[:] = 0.0
        self.banner[:] = 0.0
        self.shown_today[:] = 0
        self.used = self.waiting.copy()

    def _close_day(self) -> None:
        campaigns = self.market.campaigns
        share = np.flatnonzero(campaigns.tier == SHARE)
        promised = campaigns.wanted[share] * self.banner[campaigns.branch[share]]
        self.shares.append(self.today[share] / np.maximum(promised, 1.0))

    def _in_flight(self, decided: Floats) -> Floats:
        flying: Floats = decided[0] * (1.0 - DELAY[0]) + decided[1] * (1.0 - DELAY[1])
        return flying

    def _seen(self, minute: int) -> GoalsSeen:
        campaigns, goal = self.market.campaigns, self.programme.goal_campaign
        clicked = self.programme.goal_unit == CLICKED
        passed, whole = self._traffic(minute)
        passed, whole = passed[goal], whole[goal]
        wanted = campaigns.wanted[goal].copy()
        delivered = np.where(clicked, self.expected[goal], self.delivered[goal])
        flying = np.where(
            clicked, self._in_flight(self.decided_clicks)[goal], self._in_flight(self.decided)[goal]
        )
        share = np.flatnonzero(campaigns.tier[goal] == SHARE)
        if len(share):
            branch = campaigns.branch[goal[share]]
            so_far = (self.banner + self._in_flight(self.banner_decided))[branch]
            passed[share], whole[share] = so_far, so_far + self._banner_left(minute)
            wanted[share] *= whole[share]
            delivered[share] = self.today[goal[share]]
        return GoalsSeen(
            wanted, delivered, flying, self.actual[goal], self.matured[goal], passed, whole, self.eligible
        )

    def _traffic(self, minute: int) -> tuple[Floats, Floats]:
        """(C,) page views that came, and with those that the season says are left: what came is known."""
        passed, whole = self.hours.at(START + minute * 60.0)
        left = (whole - passed) * (len(self.market.views) / self.season_whole)
        return self.viewed, self.viewed + left

    def _banner_left(self, minute: int) -> float:
        """Displays of the banner to customers of a branch that the rest of the day should bring."""
        hour, part = minute // 60, (minute % 60) / 60.0
        end = (minute // DAY + 1) * 24
        views = float(self.per_hour[hour:end].sum()) - part * float(self.per_hour[hour])
        return views * float(self.market.slots.rates[BANNER].sum()) / 10.0

    def _spent(self, minute: int) -> QuotasSeen:
        quota = self.programme.quota_campaign
        passed, whole = self._traffic(minute)
        return QuotasSeen(
            self.market.campaigns.at_most[quota], self.delivered[quota], self._in_flight(self.decided)[quota],
            passed[quota], whole[quota],
        )  # fmt: skip

    def _eligible(self) -> Floats:
        """Expected units if shown at the best place of every page it may be on."""
        campaigns, goal = self.market.campaigns, self.programme.goal_campaign
        _, whole = self.hours.at(START)
        reach = campaigns.audience.mean(axis=1) * campaigns.top_rate * 0.6
        units = whole * (len(self.market.views) / float(self.season_whole)) * reach
        clicked = self.programme.goal_unit == CLICKED
        return np.where(clicked, campaigns.wanted[goal] * 2.0, units[goal])

    def _came(self) -> Floats:
        goal = self.programme.goal_campaign
        return np.where(self.programme.goal_unit == CLICKED, self.clicks[goal], self.delivered[goal])

    def _curve(self, minute: int, seen: GoalsSeen) -> Floats:
        """Due by the forecast as it was at the start: what came instead is no excuse."""
        goal = self.programme.goal_campaign
        passed, whole = (column[goal] for column in self.hours.at(START + minute * 60.0))
        part = np.divide(passed, whole, out=np.ones_like(passed), where=whole > 0)
        pacing = self.market.campaigns.pacing[goal]
        return target(part, pacing, asap_by(seen.wanted, seen.eligible)) * seen.wanted
