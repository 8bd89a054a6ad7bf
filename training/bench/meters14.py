"""What the pacer's meters would say of the generated traffic, as a policy sees it.

What came is known at once, but for clicks, known when they are ripe; what is decided and not yet displayed is
expected; what is left is what the season's forecast says.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from serving.curves import HOUR_S, Floats, asap_by, target, timeline
from serving.pacing import GoalsSeen, QuotasSeen
from training.bench.campaigns14 import DAY, SHARE
from training.bench.offline14 import BANNER
from training.bench.traffic14 import START, Market
from training.dual import CLICKED, Programme

DELAY: Final = (0.25, 0.75)  # displayed within the minute of the decision; within the next; else the third


class Meters:
    """Columns of the C campaigns; of the 10 branches where it says banner."""

    def __init__(self, market: Market, programme: Programme) -> None:
        self.market, self.programme = market, programme
        campaigns = market.campaigns
        many = len(campaigns)
        hours = market.size.days * 24
        opened = np.stack([campaigns.open_at(hour * 60) for hour in range(hours)], axis=1)
        weights = market.season.weights(START, HOUR_S, hours)
        self.hours = timeline(weights, opened, START, HOUR_S)
        self.level = market.size.views / float(weights.sum())  # page views of a unit of the season
        self.per_hour = weights * self.level
        self.viewed = np.zeros(many)  # page views so far while the campaign was open
        self.delivered, self.expected, self.clicks = np.zeros(many), np.zeros(many), np.zeros(many)
        self.actual, self.matured = np.zeros(many), np.zeros(many)
        self.decided = np.zeros((3, many))  # expected displays by age in minutes
        self.decided_clicks = np.zeros((3, many))
        self.today, self.banner = np.zeros(many), np.zeros(10)
        self.banner_decided = np.zeros((3, 10))
        self.eligible = self._eligible()

    def new_day(self) -> None:
        self.today[:] = 0.0
        self.banner[:] = 0.0

    def shown(self, count: Floats, expected: Floats, clicks: Floats) -> None:
        self.delivered += count
        self.today += count
        self.expected += expected
        self.clicks += clicks

    def age(self, decided: tuple[Floats, Floats, Floats] | None) -> None:
        """Expected units by the age of their decision: the newest first."""
        for at, ages in enumerate((self.decided, self.decided_clicks, self.banner_decided)):
            ages[1:] = ages[:-1].copy()
            ages[0] = 0.0 if decided is None else decided[at]

    def _in_flight(self, decided: Floats) -> Floats:
        flying: Floats = decided[0] * (1.0 - DELAY[0]) + decided[1] * (1.0 - DELAY[1])
        return flying

    def seen(self, minute: int) -> GoalsSeen:
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
        return self.viewed, self.viewed + (whole - passed) * self.level

    def _banner_left(self, minute: int) -> float:
        """Displays of the banner to customers of a branch that the rest of the day should bring."""
        hour, part = minute // 60, (minute % 60) / 60.0
        end = (minute // DAY + 1) * 24
        views = float(self.per_hour[hour:end].sum()) - part * float(self.per_hour[hour])
        return views * float(self.market.slots.rates[BANNER].sum()) / 10.0

    def spent(self, minute: int) -> QuotasSeen:
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
        units = whole * self.level * reach
        clicked = self.programme.goal_unit == CLICKED
        return np.where(clicked, campaigns.wanted[goal] * 2.0, units[goal])

    def came(self) -> Floats:
        goal = self.programme.goal_campaign
        return np.where(self.programme.goal_unit == CLICKED, self.clicks[goal], self.delivered[goal])

    def curve(self, minute: int, seen: GoalsSeen) -> Floats:
        """Due by the forecast as it was at the start: what came instead is no excuse."""
        goal = self.programme.goal_campaign
        passed, whole = (column[goal] for column in self.hours.at(START + minute * 60.0))
        part = np.divide(passed, whole, out=np.ones_like(passed), where=whole > 0)
        pacing = self.market.campaigns.pacing[goal]
        return target(part, pacing, asap_by(seen.wanted, seen.eligible)) * seen.wanted
