"""Campaigns as a decision reads them: columns over C campaigns and O offers, made once per plan.

An offer is a campaign with one of its items that has a row. Nothing is looked up by name per request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ledger import CapSpec
from serving.calendar import Calendar
from serving.campaign import Campaign

TIERS: Final = ("mandatory", "guaranteed", "share", "standard", "house")
UNITS: Final = ("displayed", "clicked", "converted", "cny")
MANDATORY, MARKET, HOUSE = 0, 1, 2  # bands: placed first by rule, by value, last
BANDS: Final = {
    "mandatory": MANDATORY,
    "guaranteed": MARKET,
    "share": MARKET,
    "standard": MARKET,
    "house": HOUSE,
}


class QuotaSpec(NamedTuple):
    key: str  # "campaign/quota"
    campaign: int
    unit: str  # of UNITS
    at_most: float
    per: str  # flight or day


class GoalSpec(NamedTuple):
    campaign: int
    unit: str  # of UNITS
    at_least: float  # 0 for a share
    share: float  # of the slot's displays in a day; 0 for a number of units
    slot: int  # index in the plan; -1 for a number of units
    pacing: str


class GroupSpec(NamedTuple):
    """An exclusion group."""

    id: str
    most: int


class _Memo(NamedTuple):
    """Open campaigns, good for since <= now < until."""

    since: float
    until: float
    mask: NDArray[np.bool_]
    changes: NDArray[np.float64]  # (C,) when each calendar changes next


@dataclass(frozen=True, slots=True, eq=False)
class Campaigns:
    """C campaigns in plan order (paused ones left out), O offers in campaign order, then item order."""

    specs: tuple[Campaign, ...]
    ids: tuple[str, ...]
    keys: NDArray[np.uint32]  # key32 of the id, unique
    orgs: NDArray[np.uint32]
    tier: NDArray[np.uint8]  # index in TIERS
    band: NDArray[np.uint8]
    penalty: NDArray[np.float64]  # CNY per unit short
    lever: NDArray[np.float32]  # 1 where none
    lever_until: NDArray[np.float64]  # POSIX seconds; inf where none
    click: NDArray[np.float32]  # CNY; NaN: as the value table says
    convert: NDArray[np.float32]
    dismiss: NDArray[np.float32]
    cost: NDArray[np.float32]  # CNY per use
    audience: NDArray[np.int32]  # index in CompiledPlan.audiences; -1 everybody
    customers_of: NDArray[np.uint32]  # key32 of an org whose customers (and those below it) are meant; 0 all
    surfaces: tuple[frozenset[str], ...]  # names or templates; empty: all
    per_page: NDArray[np.int32]
    roadblock: NDArray[np.bool_]
    exclusive: NDArray[np.bool_]
    calendars: tuple[Calendar, ...]
    quotas: tuple[QuotaSpec, ...]
    quota_of: tuple[tuple[int, ...], ...]
    goals: tuple[GoalSpec, ...]
    caps: tuple[CapSpec, ...]
    caps_of: tuple[tuple[int, ...], ...]  # a campaign's own; plan-wide rules are apart
    contact_rules: tuple[int, ...]  # indices in caps
    groups: tuple[GroupSpec, ...]
    group_of: tuple[tuple[int, ...], ...]
    item_groups: Mapping[int, tuple[int, ...]]  # row -> groups that name its item or category
    offer_campaign: NDArray[np.int32]  # (O,)
    offer_row: NDArray[np.int32]
    offer_slots: NDArray[np.uint64]  # bits of plan slots whose kinds and layouts fit
    offer_creatives: tuple[frozenset[int] | None, ...]  # key32 of those allowed; None: any
    pins: tuple[tuple[int, int, int], ...]  # (campaign, slot index, position)
    exclusive_rows: NDArray[np.int32]  # ascending; also of campaigns that are paused or over
    _memo: list[_Memo] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def index(self, campaign_id: str) -> int:
        """Raises ValueError when there is none of that id, or it is paused."""
        return self.ids.index(campaign_id)

    def open_at(self, now: float) -> NDArray[np.bool_]:
        """(C,) whose flight and calendar are open, read-only. Remembered until the next of them changes.

        A function of `now` alone: what was asked before decides only how much is computed anew.
        """
        memo = self._memo[0] if self._memo else None
        if memo is not None and memo.since <= now < memo.until:
            return memo.mask
        fresh = self._open_from(now, memo)
        self._memo[:] = [fresh]
        return fresh.mask

    def _open_from(self, now: float, memo: _Memo | None) -> _Memo:
        mask = np.zeros(len(self), np.bool_)
        changes = np.full(len(self), inf)
        due = np.arange(len(self))
        if memo is not None and now >= memo.since:  # only the calendars that changed since
            mask[:], changes[:] = memo.mask, memo.changes
            due = np.flatnonzero(changes <= now)
        known: dict[int, tuple[bool, float]] = {}  # campaigns with the same calendar share the object
        for c in due.tolist():
            calendar = self.calendars[c]
            found = known.get(id(calendar))
            if found is None:
                found = known[id(calendar)] = calendar.open_at(now), calendar.next_change(now)
            mask[c], changes[c] = found
        mask.flags.writeable = False
        return _Memo(now, float(changes.min(initial=inf)), mask, changes)
