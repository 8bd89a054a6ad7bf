"""What pages did to every campaign, counted in this process: figures for the pacer, causes and metrics.

About once a second what is new is drained towards the meters.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.prices import Named
from serving.reasons import Drop


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
Sums = NDArray[np.float64]


class CampaignTally:
    """Columns over the campaigns of the plan in use; a new plan keeps the sums of those that stay."""

    def __init__(self) -> None:
        self._ids: tuple[str, ...] = ()
        self._drained = np.zeros((ROWS, 0))
        self._fresh = np.zeros((ROWS, 0))
        self._gone: dict[str, Sums] = {}  # not drained, of campaigns of an earlier plan

    def of(self, campaigns: Named) -> Sums:
        """(ROWS, C) what is new, for a page of these campaigns to be added to."""
        if campaigns.ids is not self._ids:
            self._turn(campaigns.ids)
        return self._fresh

    def totals(self) -> tuple[tuple[str, ...], Sums]:
        """Since the start of the process, of the present plan's campaigns: (ROWS, C)."""
        return self._ids, self._drained + self._fresh

    def drain(self, rows: Sequence[int] = range(ROWS)) -> dict[str, Sums]:
        """What is new in these rows by campaign, each amount once. The caller keeps it until the meters have
        it.
        """
        wanted = list(rows)
        part = np.zeros_like(self._fresh)
        part[wanted] = self._fresh[wanted]
        self._drained += part
        self._fresh[wanted] = 0.0
        amounts = {self._ids[at]: part[:, at].copy() for at in np.flatnonzero(part.any(axis=0)).tolist()}
        for name, column in self._gone.items():
            amounts[name] = amounts.get(name, 0.0) + column
        self._gone = {}
        return amounts

    def _turn(self, ids: tuple[str, ...]) -> None:
        """To another plan: indices mean other campaigns from here on."""
        if ids != self._ids:
            old = {name: at for at, name in enumerate(self._ids)}
            drained, fresh = np.zeros((ROWS, len(ids))), np.zeros((ROWS, len(ids)))
            for at, name in enumerate(ids):
                if (was := old.pop(name, None)) is not None:
                    drained[:, at], fresh[:, at] = self._drained[:, was], self._fresh[:, was]
            for name, was in old.items():
                if self._fresh[:, was].any():
                    self._gone[name] = self._gone.get(name, 0.0) + self._fresh[:, was]
            self._drained, self._fresh = drained, fresh
        self._ids = ids
