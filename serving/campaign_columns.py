"""Campaigns compiled: a checked plan and a catalogue in, the columns of `serving.campaigns` out.

What does not fit the catalogue becomes a problem with its path; its offer is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, nan
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from features.ids import CHANNEL_CODE, LAYOUTS, key32, key64
from features.ledger import CapSpec
from serving.calendar import Calendar
from serving.campaign import Campaign, Limit, parse_window, where_of
from serving.campaign_checks import STOCK_QUOTA, calendar_in, reached
from serving.campaigns import BANDS, TIERS, Campaigns, GoalSpec, GroupSpec, QuotaSpec
from serving.orgs import Orgs
from serving.plan_error import PlanError
from serving.plan_text import Plan
from serving.texts import CreativeText

if TYPE_CHECKING:
    from serving.plan import Stock

MISSING: Final = "is not in the catalogue"


@dataclass(slots=True)
class _Offers:
    campaign: list[int] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    creatives: list[frozenset[int] | None] = field(default_factory=list)


class Compiler:
    """One compilation. `fits` (n rows,) bits of the slots whose kinds and layouts take a row."""

    def __init__(self, plan: Plan, orgs: Orgs, audiences: Mapping[str, int], stock: Stock) -> None:
        self._plan, self._orgs, self._audiences, self._stock = plan, orgs, audiences, stock
        self._slot = {slot.name: index for index, slot in enumerate(plan.slots)}
        live = [(at, one) for at, one in enumerate(plan.campaigns) if one.state == "live"]
        self._at = [at for at, _ in live]  # places in the plan, for paths
        self._live = [one for _, one in live]
        self.problems: list[PlanError] = []

    def exclusive_rows(self) -> NDArray[np.int32]:
        """Rows that are shown by campaigns only: also while the campaign is paused, or over."""
        found = (self._stock.row(item) for one in self._plan.campaigns if one.exclusive for item in one.items)
        return np.array(sorted({row for row in found if row is not None}), np.int32)

    def campaigns(self, fits: NDArray[np.uint64]) -> Campaigns:
        offers = self._offers(fits)
        goals, quotas = self._goals(), self._quotas()
        caps = [
            _cap(f"{one.id}/caps.{at}", cap, self._plan, self._orgs, (one.org,))
            for one in self._live
            for at, cap in enumerate(one.caps)
        ]
        own, rules = len(caps), self._rules()
        ids = tuple(one.id for one in self._live)
        self._check_limits()
        return Campaigns(
            specs=tuple(self._live),
            ids=ids,
            keys=_keys(ids),
            orgs=_keys([one.org for one in self._live]),
            **self._columns(),
            calendars=self._calendars(),
            quotas=quotas,
            quota_of=_by_campaign(len(ids), [quota.campaign for quota in quotas]),
            goals=goals,
            caps=(*caps, *rules),
            caps_of=_by_campaign(len(ids), [c for c, one in enumerate(self._live) for _ in one.caps]),
            contact_rules=tuple(range(own, own + len(rules))),
            groups=tuple(GroupSpec(group.id, group.most) for group in self._plan.exclusions),
            group_of=tuple(
                tuple(g for g, group in enumerate(self._plan.exclusions) if name in group.campaigns)
                for name in ids
            ),
            item_groups=self._item_groups(),
            offer_campaign=np.array(offers.campaign, np.int32),
            offer_row=np.array(offers.row, np.int32),
            offer_slots=np.array(offers.slots, np.uint64),
            offer_creatives=tuple(offers.creatives),
            pins=tuple(
                (c, self._slot[slot], place)
                for c, one in enumerate(self._live)
                for slot, place in one.pin.items()
            ),
            exclusive_rows=self.exclusive_rows(),
        )

    def _columns(self) -> dict[str, Any]:
        """The fields that are one number a campaign, and the surfaces."""
        live = self._live

        def column(dtype: type[np.generic], of: Callable[[Campaign], float]) -> NDArray[Any]:
            return np.array([of(one) for one in live], dtype)

        customers = [reached(one, self._orgs) for one in live]
        return {
            "tier": column(np.uint8, lambda one: TIERS.index(one.tier)),
            "band": column(np.uint8, lambda one: BANDS[one.tier]),
            "penalty": column(np.float64, lambda one: one.penalty_cny),
            "lever": column(np.float32, lambda one: one.lever.factor if one.lever else 1.0),
            "lever_until": column(np.float64, lambda one: one.lever.until.timestamp() if one.lever else inf),
            "click": column(np.float32, lambda one: _or_nan(one.values.click)),
            "convert": column(np.float32, lambda one: _or_nan(one.values.convert)),
            "dismiss": column(np.float32, lambda one: _or_nan(one.values.dismiss)),
            "cost": column(np.float32, lambda one: one.benefit.cost if one.benefit else 0.0),
            "audience": column(
                np.int32, lambda one: -1 if one.audience is None else self._audiences[one.audience]
            ),
            "customers_of": np.array(
                [0 if org == self._orgs.root else key32(org) for org in customers], np.uint32
            ),
            "surfaces": tuple(frozenset(one.surfaces) for one in live),
            "per_page": column(np.int32, lambda one: one.most_on_page),
            "roadblock": column(np.bool_, lambda one: one.roadblock),
            "exclusive": column(np.bool_, lambda one: one.exclusive),
        }

    def _calendars(self) -> tuple[Calendar, ...]:
        """Equal calendars are one object: what is worked out of one holds for all."""
        held: dict[Calendar, Calendar] = {}
        made = (calendar_in(one, self._orgs, self._plan.holidays) for one in self._live)
        return tuple(held.setdefault(calendar, calendar) for calendar in made)

    def _goals(self) -> tuple[GoalSpec, ...]:
        return tuple(
            GoalSpec(
                campaign=c,
                unit=goal.unit.lower(),
                at_least=goal.at_least or 0.0,
                share=goal.share or 0.0,
                slot=-1 if goal.slot is None else self._slot[goal.slot],
                pacing=one.pacing,
            )
            for c, one in enumerate(self._live)
            for goal in one.goals
        )

    def _quotas(self) -> tuple[QuotaSpec, ...]:
        made: list[QuotaSpec] = []
        for c, one in enumerate(self._live):
            made += (
                QuotaSpec(f"{one.id}/{quota.id}", c, quota.unit.lower(), quota.at_most, quota.per)
                for quota in one.quotas
            )
            if one.benefit is not None and one.benefit.stock is not None:
                stock = float(one.benefit.stock)
                made.append(QuotaSpec(f"{one.id}/{STOCK_QUOTA}", c, "converted", stock, "flight"))
        return tuple(made)

    def _rules(self) -> list[CapSpec]:
        """The plan-wide rules. One on orgs, each by itself, is a rule for each org that has campaigns."""
        made = []
        for rule in self._plan.contact_rules:
            if rule.scope != "org":
                made.append(_cap(rule.id, rule, self._plan, self._orgs))
                continue
            groups = (
                [rule.of]
                if rule.of
                else [(org,) for org in dict.fromkeys(c.org for c in self._plan.campaigns)]
            )
            for orgs in groups:
                cap = _cap(f"{rule.id}/{'+'.join(orgs)}", rule, self._plan, self._orgs, orgs)
                if cap.keys:  # else none of them has a campaign, and no keys would mean any campaign
                    made.append(cap)
        return made

    def _offers(self, fits: NDArray[np.uint64]) -> _Offers:
        offers = _Offers()
        for c, one in enumerate(self._live):
            wanted = sum(1 << self._slot[name] for name in one.slots)
            for place, item in enumerate(one.items):
                found = self._offer(c, place, item, wanted, fits)
                if found is None:
                    continue
                row, slots, creatives = found
                offers.campaign.append(c)
                offers.row.append(row)
                offers.slots.append(slots)
                offers.creatives.append(creatives)
        return offers

    def _offer(
        self, c: int, place: int, item: str, wanted: int, fits: NDArray[np.uint64]
    ) -> tuple[int, int, frozenset[int] | None] | None:
        one, path = self._live[c], f"items.{place}"
        row = self._stock.row(item)
        if row is None:
            self._leave_out(c, path, f"item {item!r} {MISSING}", "put the item, or correct its id")
            return None
        slots, creatives = wanted & int(fits[row]), None
        named = one.creatives.get(item)
        if named is not None:
            creatives, layouts = self._named(c, item, named, row)
            if not creatives:
                return None
            bits = (
                1 << at
                for at, slot in enumerate(self._plan.slots)
                if layouts >> LAYOUTS.index(slot.layout) & 1
            )
            slots &= sum(bits)
        if not slots:
            problem = f"none of {', '.join(one.slots)} takes item {item!r}: not its kind, or no live creative"
            self._leave_out(c, path, problem, "name a slot of its kind and layouts")
            return None
        return row, slots, creatives

    def _named(self, c: int, item: str, named: Sequence[str], row: int) -> tuple[frozenset[int], int]:
        """Keys and layouts of the creatives that a campaign names of an item; none with a problem."""
        if self._stock.creatives is None:
            return frozenset(key32(name) for name in named), -1
        there: dict[str, CreativeText] = {each.id: each for each in self._stock.creatives(row)}
        layouts = 0
        for name in named:
            if name not in there:
                problem = f"item {item!r} has no creative {name!r}"
                self._leave_out(c, f"creatives.{item}", problem, "put the creative, or correct its id")
                return frozenset(), 0
            layouts |= there[name].layouts if there[name].live else 0
        if not layouts:
            self._leave_out(
                c, f"creatives.{item}", "none of them is live", "have one approved, or leave it out"
            )
            return frozenset(), 0
        return frozenset(key32(name) for name in named), layouts

    def _leave_out(self, c: int, path: str, problem: str, remedy: str) -> None:
        self.problems.append(
            PlanError(where_of("campaigns", self._at[c], self._live[c].id, path), problem, remedy)
        )

    def _item_groups(self) -> dict[int, tuple[int, ...]]:
        """Row -> exclusion groups that name its item, its category, or the top of it."""
        stock, found = self._stock, dict[int, list[int]]()
        for g, group in enumerate(self._plan.exclusions):
            rows: dict[int, None] = {}
            for place, item in enumerate(group.items):
                row = stock.row(item)
                if row is None:
                    path = where_of("exclusions", g, group.id, f"items.{place}")
                    self.problems.append(
                        PlanError(path, f"item {item!r} {MISSING}", "correct its id, or remove it")
                    )
                else:
                    rows[row] = None
            for place, name in enumerate(group.categories):
                within = stock.rows_of_category(name)
                if within is not None and not len(within):
                    path = where_of("exclusions", g, group.id, f"categories.{place}")
                    self.problems.append(
                        PlanError(path, f"no item is in {name!r}", "correct it, or remove it")
                    )
                rows.update(dict.fromkeys([] if within is None else within.tolist()))
            for row in rows:
                found.setdefault(row, []).append(g)
        return {row: tuple(groups) for row, groups in sorted(found.items())}

    def _check_limits(self) -> None:
        """Items and categories that caps and rules name, and items of the value table."""
        for place, rule in enumerate(self._plan.contact_rules):
            self._check_of(rule, where_of("contact_rules", place, rule.id, "of"))
        for c, one in enumerate(self._live):
            for place, cap in enumerate(one.caps):
                self._check_of(cap, where_of("campaigns", self._at[c], one.id, f"caps.{place}.of"))
        for item in self._plan.values.items if self._plan.values else ():
            if self._stock.row(item) is None:
                self.problems.append(
                    PlanError(f"values.items.{item}", MISSING, "correct its id, or remove it")
                )

    def _check_of(self, limit: Limit, path: str) -> None:
        for name in limit.of:
            if limit.scope == "item" and self._stock.row(name) is None:
                self.problems.append(
                    PlanError(path, f"item {name!r} {MISSING}", "correct its id, or remove it")
                )
            if limit.scope == "category":
                within = self._stock.rows_of_category(name, whole=True)
                if within is not None and not len(within):
                    self.problems.append(
                        PlanError(path, f"no item is in {name!r}", "name a whole category path")
                    )


def _cap(name: str, limit: Limit, plan: Plan, tree: Orgs, orgs: Collection[str] = ()) -> CapSpec:
    """A limit with its names as keys.

    One on orgs (those it names, else `orgs`) counts their campaigns and those of orgs below, also paused.
    """
    window = parse_window(limit.window)
    scope, keys = limit.scope, frozenset(_key(limit.scope, each) for each in limit.of)
    if limit.scope == "org":
        named = limit.of or orgs
        within = (one for one in plan.campaigns if any(tree.covers(org, one.org) for org in named))
        scope, keys = "campaign", frozenset(key32(one.id) for one in within)
    return CapSpec(
        id=name,
        event=limit.event,
        most=limit.most,
        window_s=int(window.seconds),
        calendar=window.calendar,
        subject=limit.subject,
        scope=scope,
        keys=keys,
        min_gap_s=limit.min_gap_s,
    )


def _key(scope: str, name: str) -> int:
    if scope == "item":
        return key64(name)
    return CHANNEL_CODE[name] if scope == "channel" else key32(name)


def _keys(names: Sequence[str]) -> NDArray[np.uint32]:
    return np.array([key32(name) for name in names], np.uint32)


def _or_nan(value: float | None) -> float:
    return nan if value is None else value


def _by_campaign(count: int, owners: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Per campaign the places of what it owns."""
    made: list[list[int]] = [[] for _ in range(count)]
    for place, owner in enumerate(owners):
        made[owner].append(place)
    return tuple(map(tuple, made))
