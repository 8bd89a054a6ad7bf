"""One lead of the pacing: from meters, pools and the forecast to prices, step by step.

What goes from step to step lies in `Memory`, which is written beside the prices for the next leader.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import orjson

from features.ledger import quota_on
from features.meters import Meters
from serving.causes import cause
from serving.forecast import Forecast, fit_forecast, flat
from serving.pace_inputs import Book, Meter, Pooled, Pools, views_meter
from serving.pace_plan import PacePlan
from serving.pace_seen import (
    InFlight,
    Spell,
    Standing,
    Traffic,
    amount_of,
    days_back,
    facts_of,
    goals_seen,
    names,
    placed_of,
    quotas_seen,
    slow_names,
)
from serving.pacing import AT_CEILING, BEHIND, GoalsSeen, Paced, QuotasSeen, State, begin, update
from serving.prices import MOST_CNY, Prices, version_of

LOG: Final = logging.getLogger("fenliu.pacer")
SLOW_EVERY_S: Final = 10.0  # the funnel's pages, and causes
FUNNEL_DAYS: Final = 2
FIT_EVERY_S: Final = 3600.0
FIRST_FIT_EVERY_S: Final = 60.0  # while there is less than a day of views
HISTORY_H: Final = 39 * 24
SETTLED_H: Final = 24
RECENT_H: Final = 5
LEAST_PART_H: Final = 1 / 60  # of the hour that runs, to tell a level from when there is nothing else


@dataclass(slots=True)
class Memory:
    """What goes from step to step and from leader to leader, by goal id, quota key and campaign."""

    levels: dict[str, tuple[float, float]] = field(default_factory=dict)  # (level, part)
    flight: InFlight = field(default_factory=lambda: InFlight({}, {}))

    def encode(self) -> bytes:
        units = {
            name: [float(f"{x:.6g}") for x in row] for name, row in self.flight.units.items() if row.any()
        }
        placed = {name: row.tolist() for name, row in self.flight.placed.items() if row.any()}
        return orjson.dumps({"levels": self.levels, "units": units, "placed": placed, "at": self.flight.at})

    @classmethod
    def decode(cls, blob: bytes) -> Memory:
        """A new one where it cannot be read: prices then start as for a new plan."""
        try:
            raw = orjson.loads(blob) if blob else {}
            levels = {str(name): (float(a), float(b)) for name, (a, b) in raw.get("levels", {}).items()}
            units = {name: _three(row) for name, row in raw.get("units", {}).items()}
            placed = {name: _three(row) for name, row in raw.get("placed", {}).items()}
            flight = InFlight(units, placed, float(raw.get("at", 0.0)))
        except (ValueError, TypeError, AttributeError):
            LOG.exception("the last leader's state cannot be read: prices start anew")
            return cls()
        return cls(levels, flight)


class Lead:
    """`read`, then `prices`: once a step. `zone_s` and `holidays` (ordinals of dates) are the forecast's."""

    def __init__(
        self,
        fence: int,
        state: bytes,
        meters: Meters,
        pools: Pools,
        *,
        zone_s: float = 8 * 3600.0,
        holidays: frozenset[int] = frozenset(),
    ) -> None:
        self.fence, self.memory = fence, Memory.decode(state)
        self._pools, self._zone_s, self._holidays = pools, zone_s, holidays
        self._book, self._traffic = Book(meters), Traffic()
        self._plan: PacePlan | None = None
        self._forecast = flat(0)
        self._settled, self._fit_at, self._slow_at = False, float("-inf"), float("-inf")
        self._pooled: Mapping[str, Pooled] = {}
        self._why: dict[str, str] = {}
        self._slow, self._sequence = True, 0

    async def read(self, plan: PacePlan, now: float) -> None:
        """Raises StoreUnavailable."""
        if plan is not self._plan:
            self._plan, self._traffic = plan, Traffic()
            self._slow_at = self._fit_at = float("-inf")
        await self._book.read(names(plan, now), now, days_back(plan, now))
        self._slow = not 0 <= now - self._slow_at < SLOW_EVERY_S
        if self._slow:
            await self._book.read(slow_names(plan), now, FUNNEL_DAYS)
            self._slow_at = now
        self._pooled = await self._pools_of(plan, now)

    def prices(self, plan: PacePlan, stopped: frozenset[str], now: float) -> Prices:
        """Of what was read; may run in a thread. `stopped`: names of slots that a kill switch has off."""
        book, memory = self._book, self.memory
        forecast = self._forecast_of(plan, now)
        memory.flight.step(placed_of(plan, book), now)
        spells = self._traffic.spells(plan, book, forecast, now)
        seen = goals_seen(plan, book, spells, memory.flight, now)
        spent = quotas_seen(plan, book, spells, self._pooled, now)
        state, paced = update(_state(plan, memory), plan.goals, plan.quotas, seen, spent)
        memory.levels = _levels(plan, state)
        if self._slow:
            self._why = self._causes(plan, paced, seen, spent, spells, forecast.ratio, stopped, now)
        self._sequence += 1
        return prices_of(
            plan,
            paced,
            version=version_of(self.fence, self._sequence),
            now=now,
            causes=self._why,
            notes={"views_over_forecast": f"{forecast.ratio:.3f}"},
            amounts=_amounts(plan, book),
        )

    async def _pools_of(self, plan: PacePlan, now: float) -> Mapping[str, Pooled]:
        """By quota key; a quota per day has a pool of its own each day."""
        named = {
            term.id: quota_on(term.id, "day" if term.daily else "flight", now, ZoneInfo(term.calendar.tz))
            for term in plan.quota_terms
            if term.unit == "displayed"
        }
        found = await self._pools.pools(list(named.values())) if named else {}
        return {key: found[name] for key, name in named.items() if name in found}

    def _forecast_of(self, plan: PacePlan, now: float) -> Forecast:
        """Fitted anew every hour; corrected by the views of the last hours at every step."""
        streams = [views_meter(surface, org) for surface, org in plan.territory.streams]
        hour, every = int(now // 3600), FIT_EVERY_S if self._settled else FIRST_FIT_EVERY_S
        if not 0 <= now - self._fit_at < every:
            self._fit(streams, now)
        came = self._book.hours(streams, hour - RECENT_H, RECENT_H + 1)
        return self._forecast.corrected(came, (hour - RECENT_H) * 3600.0, now)

    def _fit(self, streams: list[Meter], now: float) -> None:
        """On whole hours since the first with a view; in the very first hour on the part that is over."""
        hour, book = int(now // 3600), self._book
        counts = np.stack([book.hours([name], hour - HISTORY_H, HISTORY_H + 1) for name in streams])
        first = int(np.argmax(counts.any(axis=0)))
        complete, running = counts[:, first:-1], counts[:, -1:]
        if counts[:, :-1].any():
            start = (hour - HISTORY_H + first) * 3600.0
            self._forecast = fit_forecast(complete, start, zone_s=self._zone_s, holidays=self._holidays)
        elif running.any():
            part = max(now / 3600.0 - hour, LEAST_PART_H)
            self._forecast = fit_forecast(running / part, hour * 3600.0, zone_s=self._zone_s)
        else:
            self._forecast = flat(len(streams))
        self._fit_at, self._settled = now, complete.shape[1] >= SETTLED_H

    def _causes(
        self,
        plan: PacePlan,
        paced: Paced,
        seen: GoalsSeen,
        spent: QuotasSeen,
        spells: Mapping[str, Spell],
        ratio: float,
        stopped: frozenset[str],
        now: float,
    ) -> dict[str, str]:
        """Of the goals that the controller finds behind or at their ceiling."""
        found: dict[str, str] = {}
        for at in np.flatnonzero(np.isin(paced.causes, (BEHIND, AT_CEILING))).tolist():
            term = plan.goal_terms[at]
            standing = Standing(
                wanted=float(seen.wanted[at]),
                due=float(paced.due[at]),
                done=float(paced.progress[at]),
                price=float(paced.goals[at]),
                quota_left=_quota_left(at, plan, spent),
                views_over_forecast=ratio,
                slots_on=bool(set(slots_of(term.campaign, plan)) - stopped),
            )
            why = cause(facts_of(at, plan, self._book, spells[term.id], standing, now))
            if why is not None:
                found[term.id] = why.value
        return found


def prices_of(
    plan: PacePlan,
    paced: Paced,
    *,
    version: int,
    now: float,
    causes: Mapping[str, str],
    notes: Mapping[str, str],
    amounts: Mapping[int, float],
) -> Prices:
    """Net prices per campaign: Σ λ − Σ μ in each unit. `amounts`: CNY per conversion of campaigns.

    A quota in CNY of a campaign that gives something away is of its cost, else of what is sold. A campaign
    with a spent quota is shut.
    """
    ids = plan.campaigns.ids
    per: dict[str, dict[str, float]] = {"displayed": {}, "clicked": {}, "converted": {}}
    signed = [(term, float(price)) for term, price in zip(plan.goal_terms, paced.goals, strict=True)]
    signed += [(term, -float(price)) for term, price in zip(plan.quota_terms, paced.quotas, strict=True)]
    for term, price in signed:
        each = amounts.get(term.campaign, 1.0) if term.unit == "cny" else 1.0
        sums = per["converted" if term.unit == "cny" else term.unit]
        name = ids[term.campaign]
        sums[name] = min(max(sums.get(name, 0.0) + price * each, -MOST_CNY), MOST_CNY)
    shut = [term.campaign for term, closed in zip(plan.quota_terms, paced.closed, strict=True) if closed]
    return Prices(
        version=version,
        made_at=now,
        per_display=per["displayed"],
        per_click=per["clicked"],
        per_convert=per["converted"],
        open={ids[campaign]: False for campaign in shut},
        causes=causes,
        notes=notes,
    )


def slots_of(campaign: int, plan: PacePlan) -> list[str]:
    """Names of the plan's slots in which the campaign may stand."""
    bits = plan.campaigns.offer_slots[plan.campaigns.offer_campaign == campaign]
    both = int(np.bitwise_or.reduce(bits)) if len(bits) else 0
    return [name for at, name in enumerate(plan.slots) if both >> at & 1]


def _state(plan: PacePlan, memory: Memory) -> State:
    """What is remembered of these goals and quotas; those that are new begin."""
    fresh = begin(plan.goals, plan.quotas)
    goals = [
        memory.levels.get(term.id, (level, 0.0))
        for term, level in zip(plan.goal_terms, fresh.level.tolist(), strict=True)
    ]
    quotas = [
        memory.levels.get(term.id, (level, 0.0))
        for term, level in zip(plan.quota_terms, fresh.quota_level.tolist(), strict=True)
    ]
    level, part = np.array(goals, np.float64).reshape(len(goals), 2).T
    paid, quota_part = np.array(quotas, np.float64).reshape(len(quotas), 2).T
    return State(level, part, paid, quota_part)


def _levels(plan: PacePlan, state: State) -> dict[str, tuple[float, float]]:
    goals = zip(plan.goal_terms, state.level.tolist(), state.part.tolist(), strict=True)
    quotas = zip(plan.quota_terms, state.quota_level.tolist(), state.quota_part.tolist(), strict=True)
    return {term.id: (level, part) for term, level, part in (*goals, *quotas)}


def _amounts(plan: PacePlan, book: Book) -> dict[int, float]:
    terms = (*plan.goal_terms, *plan.quota_terms)
    return {term.campaign: amount_of(term, plan, book) for term in terms if term.unit == "cny"}


def _quota_left(at: int, plan: PacePlan, spent: QuotasSeen) -> float:
    """Units that the scarcest whole-flight quota in the goal's own unit leaves to its campaign."""
    goal = plan.goal_terms[at]
    left = [
        float(spent.at_most[q] - spent.spent[q] - spent.in_flight[q])
        for q, term in enumerate(plan.quota_terms)
        if term.campaign == goal.campaign and term.unit == goal.unit and not term.daily
    ]
    return max(min(left, default=float("inf")), 0.0)


def _three(row: object) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    three = np.array(row, np.float64)
    if three.shape != (3,) or not np.isfinite(three).all():
        raise ValueError("not three numbers")
    return three
