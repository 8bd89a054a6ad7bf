"""What a booking check says: goals, who is displaced, caps that bite, and what would make it fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from serving.causes import Cause
from serving.pace_plan import Prior


class GoalForecast(NamedTuple):
    """One goal, in its own unit. `most` is NaN where it was not asked for (an unchanged goal)."""

    id: str
    campaign: str
    org: str
    unit: str
    asked: float  # still to come in the time that is booked
    expected: float
    low: float
    high: float
    most: float
    most_low: float
    most_high: float
    price: float  # CNY per unit
    ceiling: float
    fits: bool
    cause: Cause | None
    changed: bool


class Displaced(NamedTuple):
    """What a campaign had and would have: displays, base value, CNY of penalties for what it falls short."""

    campaign: str
    org: str
    displays: tuple[float, float]
    value: tuple[float, float]
    short: tuple[float, float]

    @property
    def cost(self) -> float:
        return (self.value[0] - self.value[1]) + (self.short[1] - self.short[0])


class OrgLine(NamedTuple):
    org: str
    displays: tuple[float, float]
    value: tuple[float, float]


class Capped(NamedTuple):
    """Page views on which a campaign runs, and how many of them its caps, or permission, close."""

    campaign: str
    running: float
    capped: float
    denied: float


class Relax(NamedTuple):
    """A change that would help, and what could be delivered then."""

    goal: str
    how: str
    most: float
    fits: bool


class PageSeen(NamedTuple):
    """A sampled page before and after: item names by slot, a campaign's in brackets."""

    at: float
    before: Mapping[str, tuple[str, ...]]
    after: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Booking:
    plan: str
    bundle: str
    span: tuple[float, float]
    goals: tuple[GoalForecast, ...]
    displaced: tuple[Displaced, ...]
    orgs: tuple[OrgLine, ...]
    capped: tuple[Capped, ...]
    quotas: Mapping[str, tuple[float, float, float]]  # key -> (used, at most, CNY per unit)
    value: tuple[float, float]  # CNY of all pages, before and after
    relax: tuple[Relax, ...]
    pages: tuple[PageSeen, ...]
    priors: Mapping[str, Prior]
    notes: tuple[str, ...]
    seconds: float

    @property
    def fits(self) -> bool:
        return all(goal.fits for goal in self.goals if goal.changed)
