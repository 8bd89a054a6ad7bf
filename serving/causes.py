"""Why a goal is late, in one code: a walk down the funnel from traffic to price, on counted pages.

The first stage after which too little is left to reach the goal is the cause: what comes later could not
have helped. Closed list, with Chinese and English texts; pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

from serving.reasons import Drop

ON_TRACK: Final = 0.995  # of the goal, expected at its end: less is late
TRAFFIC_AS_FORECAST: Final = 0.95  # views seen over views forecast: less is "below forecast"
AT_CEILING: Final = 0.999  # of the penalty


class Cause(StrEnum):
    """The value is the stable code in answers, prices, logs and metrics."""

    SLOT_OFF = "slot_off"
    QUOTA_SPENT = "quota_spent"
    TRAFFIC_BELOW_FORECAST = "traffic_below_forecast"
    AUDIENCE_TOO_NARROW = "audience_too_narrow"
    CREATIVE_MISSING = "creative_missing"
    ITEM_NOT_PERMITTED = "item_not_permitted"
    CAPPED = "capped"
    AT_CEILING = "infeasible_at_ceiling"
    OUT_PRICED = "out_priced"

    def text(self, language: Literal["zh", "en"]) -> str:
        return CAUSE_TEXTS[self][language == "en"]


CAUSE_TEXTS: Final[dict[Cause, tuple[str, str]]] = {
    Cause.SLOT_OFF: (
        "运营位已关停或不在任何页面上",
        "its slots are stopped, or on no surface",
    ),
    Cause.QUOTA_SPENT: (
        "活动自身的额度已用完",
        "a quota of the campaign itself is spent",
    ),
    Cause.TRAFFIC_BELOW_FORECAST: (
        "实际流量低于预测",
        "fewer page views than forecast",
    ),
    Cause.AUDIENCE_TOO_NARROW: (
        "客群过窄，剩余可触达流量不足",
        "too narrow an audience: too few views are left even if it had every one",
    ),
    Cause.CREATIVE_MISSING: (
        "素材缺失、未审批或已过期",
        "a creative is missing, not approved or expired",
    ),
    Cause.ITEM_NOT_PERMITTED: (
        "准入规则不允许向这些客户展示其内容",
        "permission keeps its items from these customers",
    ),
    Cause.CAPPED: (
        "客户触达频次已达上限",
        "the customers' contact caps are reached",
    ),
    Cause.AT_CEILING: (
        "价格已达该等级上限仍无法完成",
        "its price is at the ceiling of its tier and does not buy enough places",
    ),
    Cause.OUT_PRICED: (
        "竞价中落败于其他活动或自然推荐",
        "other campaigns or organic items were worth more",
    ),
}


@dataclass(frozen=True, slots=True)
class GoalFacts:
    """What is known of one goal. Units are the goal's; pages are counted as `serving.tallies.What` says."""

    at_least: float
    delivered: float  # confirmed, and what is expected of what is in flight
    expected_end: float  # delivered, and what the controller expects of the rest of the flight
    units_left: float  # expected from now to the end if it had the best place of every eligible page
    eligible: float = 0.0  # pages, lately
    dropped: float = 0.0  # pages of these on which none of its items was permitted
    drops: Mapping[Drop, float] = field(
        default_factory=dict
    )  # the same by rule; a page may count for several
    refused_cap: float = 0.0
    refused_quota: float = 0.0
    price: float = 0.0  # λ, CNY per unit
    ceiling: float = 0.0  # the penalty
    views_over_forecast: float = 1.0  # page views since the start of the flight over their forecast
    quota_left: float = float("inf")  # units of the scarcest quota, in the goal's unit
    slots_on: bool = True


def is_late(facts: GoalFacts) -> bool:
    return facts.expected_end < ON_TRACK * facts.at_least


def cause(facts: GoalFacts) -> Cause | None:
    """None while the goal is on track; the one cause that has to go first otherwise."""
    if not is_late(facts):
        return None
    if not facts.slots_on:
        return Cause.SLOT_OFF
    missing = facts.at_least - facts.delivered
    if facts.quota_left < missing:
        return Cause.QUOTA_SPENT
    if facts.units_left < missing:
        return _too_few(facts, missing)
    return _taken_away(facts, missing) or _dear(facts)


def _too_few(facts: GoalFacts, missing: float) -> Cause:
    """Even every eligible page would not do: the traffic's fault, if the forecast's traffic had done."""
    seen = max(facts.views_over_forecast, 1e-9)
    lacks_traffic = seen < TRAFFIC_AS_FORECAST and facts.units_left / seen >= missing
    return Cause.TRAFFIC_BELOW_FORECAST if lacks_traffic else Cause.AUDIENCE_TOO_NARROW


def _taken_away(facts: GoalFacts, missing: float) -> Cause | None:
    """The first of permission, caps and quotas that leaves less than is missing."""
    if facts.eligible <= 0:
        return None
    left = facts.units_left * (1.0 - facts.dropped / facts.eligible)
    if left < missing:
        creative = facts.drops.get(Drop.CREATIVE, 0.0)
        other = max((pages for drop, pages in facts.drops.items() if drop is not Drop.CREATIVE), default=0.0)
        return Cause.CREATIVE_MISSING if creative > other else Cause.ITEM_NOT_PERMITTED
    left -= facts.units_left * facts.refused_cap / facts.eligible
    if left < missing:
        return Cause.CAPPED
    left -= facts.units_left * facts.refused_quota / facts.eligible
    return Cause.QUOTA_SPENT if left < missing else None


def _dear(facts: GoalFacts) -> Cause:
    if facts.ceiling > 0 and facts.price >= AT_CEILING * facts.ceiling:
        return Cause.AT_CEILING
    if facts.views_over_forecast < TRAFFIC_AS_FORECAST:
        return Cause.TRAFFIC_BELOW_FORECAST
    return Cause.OUT_PRICED
