"""Other published ways to pace, as small policies beside the product's controller.

Each has the same warm start, the same feedback, the same ceilings and the same ledger; its gains are the best
of `GRIDS` on a short flight of another seed (`fenliu bench pacing --tune`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from serving.curves import Floats, target
from serving.pacing import GoalsSeen, QuotasSeen
from training.bench.campaigns14 import DAY, SHARE
from training.bench.offline14 import Offline
from training.bench.traffic14 import Market
from training.dual import CLICKED

GRIDS: Final[Mapping[str, Mapping[str, tuple[float, ...]]]] = {
    "hourly": {"most": (1.2, 2.0, 4.0)},
    "pid": {"gain": (2.0, 4.0, 8.0), "integral": (0.003, 0.01, 0.03)},
    "mirror": {"rate": (0.1, 0.3, 1.0, 3.0)},
    "throttle": {"bid": (0.15, 0.4, 0.8, 1.6), "step": (0.1,)},
    "percentile": {"rate": (0.03, 0.1, 0.3), "band": (0.35, 0.7, 1.5)},
}


class Rival:
    """What all have in common. `passing`: the chance that a campaign takes part in a page; None: always."""

    passing: Floats | None = None

    def __init__(self, market: Market, offline: Offline) -> None:
        programme, campaigns = offline.programme, market.campaigns
        self.goal, self.many = programme.goal_campaign, programme.campaigns
        self.penalty = programme.penalty
        self.clicked = programme.goal_unit == CLICKED
        self.unit = np.where(self.clicked, 20.0, 1.0)  # a click is worth about as much as 20 displays or more
        self.share = campaigns.tier[self.goal] == SHARE
        self.begins = campaigns.begins[self.goal]
        self.ends = campaigns.ends[self.goal]
        self.pacing = campaigns.pacing[self.goal]

    def final(self, price: Floats, seen: GoalsSeen) -> Floats:
        """Within the ceilings, and nothing more for what is met."""
        met = seen.delivered + seen.in_flight >= seen.wanted
        return np.where(met, -self.penalty, np.clip(price, -self.penalty, self.penalty))


class Greedy(Rival):
    """No pacing: every guarantee at its ceiling until it is met; quotas first come, first served."""

    def prices(self, _minute: int, seen: GoalsSeen, spent: QuotasSeen) -> tuple[Floats, Floats]:
        return self.final(self.penalty, seen), np.zeros_like(spent.at_most)


class Hourly(Rival):
    """Once an hour, each price times (what the next hour should bring) over (what the last one brought)."""

    def __init__(self, market: Market, offline: Offline, most: float = 2.0) -> None:
        super().__init__(market, offline)
        self.most = most
        self.level = np.where(self.clicked, 1.0, 0.03)
        self.before = np.zeros_like(self.level)
        self.passed = np.zeros_like(self.level)

    def prices(self, minute: int, seen: GoalsSeen, spent: QuotasSeen) -> tuple[Floats, Floats]:
        if minute % 60 == 0 and minute:
            got = seen.delivered - self.before
            moved = np.maximum(seen.passed - self.passed, 0.0)
            left = np.maximum(seen.whole - seen.passed, 1e-9)
            due = np.maximum(seen.wanted - seen.delivered, 0.0) * moved / left
            factor = np.clip((due + 1.0) / (np.maximum(got, 0.0) + 1.0), 1.0 / self.most, self.most)
            running = (moved > 0) & (seen.passed > 0)
            self.level = np.clip(np.where(running, self.level * factor, self.level), 1e-4, self.penalty)
            self.before, self.passed = seen.delivered.copy(), seen.passed.copy()
        return self.final(self.level, seen), np.zeros_like(spent.at_most)


class Pid(Rival):
    """One gain for all, on the deviation from a straight line in clock time, with anti-windup.

    `gain` and `integral` (a minute): CNY per part of the goal; clicks 20 times that.
    """

    def __init__(self, market: Market, offline: Offline, gain: float = 4.0, integral: float = 0.01) -> None:
        super().__init__(market, offline)
        self.gain, self.integral = gain, integral
        self.total = offline.dual.goals.copy()
        self.last = np.zeros_like(self.total)

    def prices(self, minute: int, seen: GoalsSeen, spent: QuotasSeen) -> tuple[Floats, Floats]:
        part = np.clip((minute - self.begins) / (self.ends - self.begins), 0.0, 1.0)
        part = np.where(self.share, (minute % DAY) / DAY, part)
        progress = (seen.delivered + seen.in_flight) / np.maximum(seen.wanted, 1e-9)
        error = part - progress
        step = self.total + self.unit * self.integral * error
        self.total = np.where((part > 0) & (part < 1), np.clip(step, -self.penalty, self.penalty), self.total)
        price = self.total + self.unit * self.gain * (error + 2.0 * (error - self.last))
        self.last = error
        return self.final(price, seen), np.zeros_like(spent.at_most)


class Mirror(Rival):
    """Dual mirror descent (Balseiro, Lu, Mirrokni 2020): a step by a minute's surplus over a flat target."""

    def __init__(self, market: Market, offline: Offline, rate: float = 0.3) -> None:
        super().__init__(market, offline)
        campaigns, quota = market.campaigns, offline.programme.quota_campaign
        self.length = (self.ends - self.begins).astype(np.float64)
        self.price = np.zeros_like(self.penalty)
        self.before = np.zeros_like(self.penalty)
        self.rate = rate * self.unit / np.sqrt(self.length)
        self.quota_price, self.quota_before = np.zeros(len(quota)), np.zeros(len(quota))
        self.quota_length = (campaigns.ends - campaigns.begins)[quota].astype(np.float64)
        self.quota_rate = rate / np.sqrt(self.quota_length)
        self.most = offline.programme.ceiling

    def prices(self, minute: int, seen: GoalsSeen, spent: QuotasSeen) -> tuple[Floats, Floats]:
        progress = seen.delivered + seen.in_flight
        running = (minute > self.begins) & (minute <= self.begins + self.length)
        due = seen.wanted / np.where(self.share, float(DAY), self.length)
        got = progress - self.before
        got = np.where(self.share & (got < 0), progress, got)  # a new day
        step = self.rate * (due - got) / np.maximum(due, 1e-9)
        self.price = np.clip(np.where(running, self.price + step, self.price), 0.0, self.penalty)
        self.before = progress
        used = spent.spent + spent.in_flight
        fair = spent.at_most / self.quota_length
        over = (used - self.quota_before - fair) / np.maximum(fair, 1e-9)
        self.quota_price = np.clip(self.quota_price + self.quota_rate * over, 0.0, self.most)
        self.quota_before = used
        return self.final(self.price, seen), self.quota_price


class Throttle(Rival):
    """Probabilistic throttling (Agarwal, Ghosh, Wei, You 2014, as at LinkedIn): a fixed bid, and each minute
    the chance to take part times 1 ± `step`, as delivery is behind or ahead of the forecast's curve.

    It starts slowly, at a tenth, and is not held back in the last hundredth of the flight.
    """

    def __init__(self, market: Market, offline: Offline, bid: float = 0.4, step: float = 0.1) -> None:
        super().__init__(market, offline)
        self.bid, self.step = bid * self.unit, step
        self.chance = np.full(len(self.goal), 0.1)
        self.passing = np.ones(self.many)

    def prices(self, _minute: int, seen: GoalsSeen, spent: QuotasSeen) -> tuple[Floats, Floats]:
        part = np.divide(seen.passed, seen.whole, out=np.ones_like(seen.whole), where=seen.whole > 0)
        due = target(part, self.pacing, np.full(len(part), 0.5))
        progress = (seen.delivered + seen.in_flight) / np.maximum(seen.wanted, 1e-9)
        moved = self.chance * np.where(progress > due, 1.0 - self.step, 1.0 + self.step)
        running = (part > 0.0) & (part < 1.0)
        self.chance = np.clip(np.where(running, moved, self.chance), 1e-3, 1.0)
        self.passing = np.ones(self.many)
        self.passing[self.goal] = np.where(part > 0.99, 1.0, self.chance)
        return self.final(self.bid, seen), np.zeros_like(spent.at_most)


class Percentile(Rival):
    """After RCPacing (Dai et al. 2024): dual descent whose step and bounds are in percentiles of what is won,
    not in money, towards what the rest of the forecast's traffic must bring.

    The percentiles are those of the offline plan (d ln delivery / d price); a price may leave its offline one
    by `band` in the log of delivery, which bounds the risk of an overshoot. Simplified: no bid distribution.
    """

    def __init__(self, market: Market, offline: Offline, rate: float = 0.1, band: float = 0.7) -> None:
        super().__init__(market, offline)
        self.start, self.answer = offline.dual.goals, np.maximum(offline.answer, 1e-3)
        self.rate, self.band = rate, band
        self.at = np.zeros_like(self.start)  # ln of delivery over the offline plan's
        self.before = np.zeros_like(self.start)
        self.passed = np.zeros_like(self.start)
        self.quotas = offline.dual.quotas

    def prices(self, _minute: int, seen: GoalsSeen, _spent: QuotasSeen) -> tuple[Floats, Floats]:
        progress = seen.delivered + seen.in_flight
        moved = seen.passed - self.passed
        left = np.maximum(seen.whole - self.passed, 1e-9)
        due = np.maximum(seen.wanted - self.before, 0.0) * np.maximum(moved, 0.0) / left
        got = progress - self.before
        # per the flight's mean minute: a quiet minute moves a price less than a busy one
        mean = seen.wanted / np.where(self.share, float(DAY), np.maximum(self.ends - self.begins, 1))
        step = np.where(moved > 0, self.rate * (due - got) / np.maximum(mean, 1e-9), 0.0)
        self.at = np.clip(self.at + np.clip(step, -self.rate * 4, self.rate * 4), -self.band, self.band)
        self.before, self.passed = progress, seen.passed.copy()
        return self.final(self.start + self.at / self.answer, seen), self.quotas
