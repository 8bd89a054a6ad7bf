"""What a flight comes to: the figures of `fenliu bench pacing`."""

from __future__ import annotations

import numpy as np

from serving.curves import EVEN
from training.bench.campaigns14 import SHARE
from training.bench.flight14 import Flown
from training.bench.offline14 import Hindsight, Offline
from training.bench.traffic14 import Market
from training.dual import CLICKED


def measured(made: Market, offline: Offline, behind: Hindsight, flown: Flown) -> dict[str, float]:
    """The figures of one flight. A goal is feasible when its price in hindsight is below its ceiling."""
    programme, campaigns = offline.programme, made.campaigns
    goal = programme.goal_campaign
    wanted = campaigns.wanted[goal]
    share, clicked = campaigns.tier[goal] == SHARE, programme.goal_unit == CLICKED
    feasible = behind.dual.goals < 0.999 * programme.penalty
    displayed = ~share & ~clicked
    ratio = flown.delivered / wanted
    short = np.where(share, 0.0, np.maximum(wanted - flown.delivered, 0.0))
    good = displayed & feasible
    on = (ratio >= 0.995) & (ratio <= 1.01)
    miss = np.abs(flown.delivered - wanted) / np.maximum(0.03 * wanted, 3.0 * np.sqrt(wanted))
    even = displayed & feasible & (campaigns.pacing[goal] == EVEN)
    off = np.abs(flown.history - flown.due).max(axis=0) / wanted
    at_most = campaigns.at_most[programme.quota_campaign]
    value = flown.value - float(short @ programme.penalty)
    return {
        "value_to_bound": value / behind.bound,
        "value_to_uncalibrated": value / behind.bound_uncalibrated,
        "penalties": float(short @ programme.penalty) / behind.bound,
        "on_target": _mean(on[good]),
        "worst_guarantee": float(ratio[good].min(initial=np.inf)),
        "most_guarantee": float(ratio[good].max(initial=0.0)),
        "clicked_off": float(miss[clicked & feasible].max(initial=0.0)),
        "even_deviation": float(off[even].max(initial=0.0)),
        "quota_overshoot": flown.over_quota,
        "cap_overshoot": float(flown.over_cap),
        "ledger_differences": float(flown.differences),
        "late_displays": flown.late,
        "truth_to_prediction": flown.true_value / flown.value,
        "share_least": float(flown.shares.min(initial=np.inf)),
        "quota_spent": float(flown.spent.sum() / max(at_most.sum(), 1.0)),
        "infeasible": float((~feasible).sum()),
        "sold": flown.sold,
        "clicked_even_deviation": float(
            off[clicked & feasible & (campaigns.pacing[goal] == EVEN)].max(initial=0.0)
        ),
        "pages": float(flown.pages),
    }


def _mean(values: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> float:
    return float(values.mean()) if len(values) else 1.0
