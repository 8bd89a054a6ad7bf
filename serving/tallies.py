"""What pages did to every campaign, counted in this process: figures for the pacer, causes and metrics.

A decision leaves one small record (`PageCounts`); records are added up in columns some hundreds at a time.
About once a second what is new is drained towards the meters, under a member id that makes it count once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.prices import Named
from serving.reasons import Drop

FOLD: Final = 256  # records added up at once

Which = NDArray[np.int32]  # indices of campaigns in the plan


class What(IntEnum):
    """Rows of the sums. Pages count once each; eligible = dropped + refused_cap + refused_quota + offered."""

    ELIGIBLE = 0  # pages: open, on this surface, and the customer is in its audience
    DROPPED = 1  # pages: eligible, and none of its items is permitted
    REFUSED_CAP = 2  # pages: permitted, and caps (before the page, or the ledger after it) leave no place
    REFUSED_QUOTA = 3  # pages: permitted and not capped, and a quota grants no unit
    OFFERED = 4  # pages: it stood for a place
    LOST_PRICE = 5  # pages: offered, and others were worth more
    PLACED = 6  # placements
    DISPLAYED = 7  # expected displays of these
    CLICKED = 8  # expected clicks of these
    CONVERTED = 9  # expected conversions of these
    POTENTIAL = 10  # expected displays in the best place that every eligible page had for it

    @property
    def code(self) -> str:
        return self.name.lower()


FIRST_DROP: Final = len(What)  # then one row of pages per Drop
ROWS: Final = FIRST_DROP + len(Drop)
FAST: Final = (What.PLACED, What.DISPLAYED, What.CLICKED, What.CONVERTED)  # what pacing needs each second
_NONE: Final = np.empty(0, np.int32)
_NO_MASK: Final = np.empty(0, np.uint32)
_NO_UNITS: Final = np.empty((0, 3), np.float32)
_NO_WEIGHT: Final = np.empty(0, np.float32)


class PageCounts(NamedTuple):
    """One page or some. A campaign stands at most once a page in each column but `placed`."""

    eligible: Which = _NONE
    potential: NDArray[np.float32] = _NO_WEIGHT  # of `eligible`: expected displays at its best place
    dropped: Which = _NONE
    masks: NDArray[np.uint32] = _NO_MASK  # of `dropped`: the rules that dropped its items, together
    refused_cap: Which = _NONE
    refused_quota: Which = _NONE
    offered: Which = _NONE
    lost_price: Which = _NONE
    placed: Which = _NONE
    units: NDArray[np.float32] = _NO_UNITS  # of `placed`: expected displays, clicks, conversions


class Drained(NamedTuple):
    """New sums by campaign id: `amounts[id][row]`, rows as in `What` (and drops behind them)."""

    member: str
    amounts: Mapping[str, NDArray[np.float64]]


class CampaignTally:
    """Columns over the campaigns of the plan in use; a new plan keeps the sums of those that stay."""

    def __init__(self, replica: str) -> None:
        self._replica, self._sequence = replica, 0
        self._ids: tuple[str, ...] = ()
        self._waiting: list[PageCounts] = []
        self._total = np.zeros((ROWS, 0))
        self._fresh = np.zeros((ROWS, 0))
        self._gone: dict[str, NDArray[np.float64]] = {}  # not drained, of campaigns of an earlier plan

    def add(self, campaigns: Named, page: PageCounts) -> None:
        """Indices in `page` are into these campaigns. Microseconds; never fails a page."""
        if campaigns.ids is not self._ids:
            self._turn(campaigns.ids)
        self._waiting.append(page)
        if len(self._waiting) >= FOLD:
            self._fold()

    def totals(self) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Since the start of the process, of the present plan's campaigns: (ROWS, C)."""
        self._fold()
        return self._ids, self._total

    def drain(self, rows: Iterable[int] = range(ROWS)) -> Drained:
        """What is new in these rows, each amount once. The caller keeps it until the meters have it."""
        self._fold()
        wanted = np.fromiter(rows, np.int64)
        part = np.zeros_like(self._fresh)
        part[wanted] = self._fresh[wanted]
        self._fresh[wanted] = 0.0
        amounts = {self._ids[at]: part[:, at].copy() for at in np.flatnonzero(part.any(axis=0)).tolist()}
        for name, column in self._gone.items():
            amounts[name] = amounts.get(name, 0.0) + column
        self._gone = {}
        self._sequence += 1
        return Drained(f"{self._replica}:{self._sequence}", amounts)

    def _turn(self, ids: tuple[str, ...]) -> None:
        """To another plan: indices mean other campaigns from here on."""
        self._fold()
        if ids != self._ids:
            old = {name: at for at, name in enumerate(self._ids)}
            total, fresh = np.zeros((ROWS, len(ids))), np.zeros((ROWS, len(ids)))
            for at, name in enumerate(ids):
                if (was := old.pop(name, None)) is not None:
                    total[:, at], fresh[:, at] = self._total[:, was], self._fresh[:, was]
            for name, was in old.items():
                if self._fresh[:, was].any():
                    self._gone[name] = self._gone.get(name, 0.0) + self._fresh[:, was]
            self._total, self._fresh = total, fresh
        self._ids = ids

    def _fold(self) -> None:
        if not self._waiting:
            return
        pages, self._waiting = self._waiting, []
        sums = np.zeros_like(self._fresh)
        for row, column in _COUNTED:
            sums[row] = self._binned([column(page) for page in pages])
        eligible = [page.eligible for page in pages]
        sums[What.POTENTIAL] = self._binned(eligible, np.concatenate([page.potential for page in pages]))
        units = np.concatenate([page.units for page in pages])
        placed = [page.placed for page in pages]
        for at, row in enumerate((What.DISPLAYED, What.CLICKED, What.CONVERTED)):
            sums[row] = self._binned(placed, units[:, at])
        self._by_rule(sums, pages)
        self._total += sums
        self._fresh += sums

    def _by_rule(self, sums: NDArray[np.float64], pages: list[PageCounts]) -> None:
        masks = np.concatenate([page.masks for page in pages])
        if masks.any():
            dropped = np.concatenate([page.dropped for page in pages])
            for drop in Drop:
                sums[FIRST_DROP + drop] = self._binned([dropped[(masks & np.uint32(drop.bit)) != 0]])

    def _binned(self, which: list[Which], weights: NDArray[np.float32] | None = None) -> NDArray[np.float64]:
        return np.bincount(np.concatenate(which), weights, minlength=len(self._ids)).astype(np.float64)


_COUNTED: Final[tuple[tuple[What, Callable[[PageCounts], Which]], ...]] = (
    (What.ELIGIBLE, lambda page: page.eligible),
    (What.DROPPED, lambda page: page.dropped),
    (What.REFUSED_CAP, lambda page: page.refused_cap),
    (What.REFUSED_QUOTA, lambda page: page.refused_quota),
    (What.OFFERED, lambda page: page.offered),
    (What.LOST_PRICE, lambda page: page.lost_price),
    (What.PLACED, lambda page: page.placed),
)
