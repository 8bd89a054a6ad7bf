"""Ways to set prices: the product's controller, and those it is compared with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from serving.curves import Floats
from serving.pacing import Goals, GoalsSeen, PacingSettings, Quotas, QuotasSeen, begin, update
from training.bench.campaigns14 import DAY
from training.bench.flight14 import Policy
from training.bench.offline14 import Offline
from training.bench.traffic14 import Market
from training.dual import CLICKED

DEFAULT = PacingSettings()


class Ours:
    """`serving.pacing`, started from the offline dual."""

    def __init__(self, market: Market, offline: Offline, settings: PacingSettings = DEFAULT) -> None:
        programme = offline.programme
        self.settings = settings
        self.goals = Goals(
            market.campaigns.pacing[programme.goal_campaign],
            programme.penalty,
            offline.dual.goals,
            offline.answer,
            programme.goal_unit == CLICKED,
        )
        self.quotas = Quotas(programme.ceiling, offline.dual.quotas, offline.quota_answer)
        self.state = begin(self.goals, self.quotas)

    def prices(self, _minute: int, seen: GoalsSeen, spent: QuotasSeen) -> tuple[Floats, Floats]:
        self.state, paced = update(self.state, self.goals, self.quotas, seen, spent, self.settings)
        return paced.goals, paced.quotas


class Greedy:
    """No pacing: every guarantee at its ceiling until it is met; quotas first come, first served."""

    def __init__(self, _market: Market, offline: Offline) -> None:
        self.penalty = offline.programme.penalty

    def prices(self, _minute: int, seen: GoalsSeen, spent: QuotasSeen) -> tuple[Floats, Floats]:
        met = seen.delivered + seen.in_flight >= seen.wanted
        return np.where(met, -self.penalty, self.penalty), np.zeros_like(spent.at_most)


class Hourly:
    """Once an hour, each price times (what the next hour should bring) over (what the last one brought)."""

    def __init__(self, _market: Market, offline: Offline) -> None:
        programme = offline.programme
        self.penalty = programme.penalty
        self.level = np.where(programme.goal_unit == CLICKED, 1.0, 0.03)
        self.before = np.zeros_like(self.level)
        self.passed = np.zeros_like(self.level)

    def prices(self, minute: int, seen: GoalsSeen, spent: QuotasSeen) -> tuple[Floats, Floats]:
        if minute % 60 == 0 and minute:
            got = seen.delivered - self.before
            moved = np.maximum(seen.passed - self.passed, 0.0)
            left = np.maximum(seen.whole - seen.passed, 1e-9)
            due = np.maximum(seen.wanted - seen.delivered, 0.0) * moved / left
            factor = np.clip((due + 1.0) / (np.maximum(got, 0.0) + 1.0), 0.5, 2.0)
            running = (moved > 0) & (seen.passed > 0)
            self.level = np.clip(np.where(running, self.level * factor, self.level), 1e-4, self.penalty)
            self.before, self.passed = seen.delivered.copy(), seen.passed.copy()
        met = seen.delivered + seen.in_flight >= seen.wanted
        return np.where(met, -self.penalty, self.level), np.zeros_like(spent.at_most)


class Pid:
    """One gain for all, on the deviation from a straight line in clock time, with anti-windup."""

    GAIN, INTEGRAL, DIFFERENCE = 2.0, 0.01, 4.0  # CNY per part of the goal; clicks 20 times that

    def __init__(self, market: Market, offline: Offline) -> None:
        programme = offline.programme
        campaigns = market.campaigns
        self.penalty = programme.penalty
        self.begins = campaigns.begins[programme.goal_campaign]
        self.ends = campaigns.ends[programme.goal_campaign]
        self.share = np.isin(programme.goal_campaign, np.flatnonzero(campaigns.branch >= 0))
        self.unit = np.where(programme.goal_unit == CLICKED, 20.0, 1.0)
        self.total = offline.dual.goals.copy()
        self.last = np.zeros_like(self.total)

    def prices(self, minute: int, seen: GoalsSeen, spent: QuotasSeen) -> tuple[Floats, Floats]:
        part = np.clip((minute - self.begins) / (self.ends - self.begins), 0.0, 1.0)
        part = np.where(self.share, (minute % DAY) / DAY, part)
        progress = (seen.delivered + seen.in_flight) / np.maximum(seen.wanted, 1e-9)
        error = part - progress
        step = self.total + self.unit * self.INTEGRAL * error
        self.total = np.where((part > 0) & (part < 1), np.clip(step, -self.penalty, self.penalty), self.total)
        price = self.total + self.unit * (self.GAIN * error + self.DIFFERENCE * (error - self.last))
        self.last = error
        price = np.where(progress >= 1.0, -self.penalty, price)
        return np.clip(price, -self.penalty, self.penalty), np.zeros_like(spent.at_most)


class Mirror:
    """Dual mirror descent (Balseiro, Lu, Mirrokni 2020): a step by a minute's surplus over a flat target."""

    def __init__(self, market: Market, offline: Offline) -> None:
        programme = offline.programme
        campaigns = market.campaigns
        self.penalty = programme.penalty
        self.length = (campaigns.ends - campaigns.begins)[programme.goal_campaign].astype(np.float64)
        self.begins = campaigns.begins[programme.goal_campaign]
        self.share = np.isin(programme.goal_campaign, np.flatnonzero(campaigns.branch >= 0))
        self.price = np.zeros_like(self.penalty)
        self.before = np.zeros_like(self.penalty)
        unit = np.where(programme.goal_unit == CLICKED, 20.0, 1.0)
        self.rate = 0.3 * unit / np.sqrt(self.length)
        quota = programme.quota_campaign
        self.quota_price, self.quota_before = np.zeros(len(quota)), np.zeros(len(quota))
        self.quota_length = (campaigns.ends - campaigns.begins)[quota].astype(np.float64)

    def prices(self, minute: int, seen: GoalsSeen, spent: QuotasSeen) -> tuple[Floats, Floats]:
        progress = seen.delivered + seen.in_flight
        running = (minute > self.begins) & (minute <= self.begins + self.length)
        due = seen.wanted / np.where(self.share, float(DAY), self.length)
        got = progress - self.before
        got = np.where(self.share & (got < 0), progress, got)  # a new day
        step = self.rate * (due - got) / np.maximum(due, 1e-9) * 0.1
        self.price = np.clip(np.where(running, self.price + step, self.price), 0.0, self.penalty)
        self.before = progress
        used = spent.spent + spent.in_flight
        fair = spent.at_most / self.quota_length
        over = (used - self.quota_before - fair) / np.maximum(fair, 1e-9)
        self.quota_price = np.clip(self.quota_price + 0.03 / np.sqrt(self.quota_length) * over, 0.0, 2.0)
        self.quota_before = used
        met = progress >= seen.wanted
        return np.where(met, -self.penalty, self.price), self.quota_price


MAKERS: dict[str, Callable[[Market, Offline], Policy]] = {
    "ours": Ours,
    "greedy": Greedy,
    "hourly": Hourly,
    "pid": Pid,
    "mirror": Mirror,
}
NAMES = tuple(MAKERS)


def policy(name: str, market: Market, offline: Offline) -> Policy:
    """Raises ValueError for a name that is none of `NAMES`."""
    if name not in MAKERS:
        raise ValueError(f"no policy is called {name!r}: name some of {', '.join(NAMES)}")
    return MAKERS[name](market, offline)
