"""What customers remember: displays that tired them, categories they had enough of, products they hold."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

DISPLAYS_KEPT: Final = 96  # places a customer remembers having seen without a click
TIRED_DAYS: Final = 5.0  # a display's weight falls by e in this time
SATED_DAYS: Final = 2.0
HOLDINGS_KEPT: Final = 16
DAY: Final = 86_400.0
_BLOCK = 4096


class Memory:
    """Mutable state of all customers. Rows are customers; a batch names each customer at most once."""

    def __init__(self, customers: int, topics: int, start: float) -> None:
        self._seen = np.full((customers, DISPLAYS_KEPT), -1, np.int32)
        self._seen_days = np.zeros((customers, DISPLAYS_KEPT), np.float32)  # days since the start
        self._next = np.zeros(customers, np.int64)
        self._sated = np.zeros((customers, topics), np.float32)
        self._sated_days = np.zeros(customers, np.float32)
        self.holdings = np.full((customers, HOLDINGS_KEPT), -1, np.int32)
        self._held = np.zeros(customers, np.int64)
        self._start = start

    def _days(self, at: NDArray[np.float64]) -> NDArray[np.float32]:
        return ((at - self._start) / DAY).astype(np.float32)

    def fatigue(
        self, customers: NDArray[np.int64], items: NDArray[np.int64], at: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """(n, k): displays of each item without a click, each worth exp(-age / TIRED_DAYS)."""
        total = np.zeros(items.shape, np.float32)
        for first in range(0, len(customers), _BLOCK):
            rows = slice(first, first + _BLOCK)
            who, wanted = customers[rows], items[rows].astype(np.int32)
            days = self._days(at[rows])[:, None]
            weights = np.exp((self._seen_days[who] - days) / np.float32(TIRED_DAYS))
            seen = self._seen[who]
            part = total[rows]
            for place in range(DISPLAYS_KEPT):
                column = seen[:, place, None]
                if (column >= 0).any():
                    part += (column == wanted) * weights[:, place, None]
        return total

    def satiation(
        self, customers: NDArray[np.int64], topics: NDArray[np.int64], at: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """(n, k): recent clicks in each topic, each worth exp(-age / SATED_DAYS)."""
        fade = np.exp((self._sated_days[customers] - self._days(at)) / np.float32(SATED_DAYS))
        sated: NDArray[np.float32] = self._sated[customers[:, None], topics] * np.minimum(fade, 1)[:, None]
        return sated

    def holds(self, customers: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n, k): whether each customer holds each item."""
        found = np.zeros(items.shape, np.bool_)
        for place in range(int(self._held.max(initial=0))):
            found |= self.holdings[customers, place % HOLDINGS_KEPT, None] == items
        return found & (items >= 0)

    def remember_displays(
        self,
        customers: NDArray[np.int64],
        items: NDArray[np.int64],
        weights: NDArray[np.int64],
        at: NDArray[np.float64],
    ) -> None:
        """(n, k): `weights` 0 = not a display to remember, 1 = seen, more = seen and resented."""
        row, place = np.nonzero(weights)
        times = np.minimum(weights[row, place], 4)
        row, place = np.repeat(row, times), np.repeat(place, times)
        if not len(row):
            return
        counts = np.bincount(row, minlength=len(customers))
        offset = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        at_place = (self._next[customers[row]] + offset) % DISPLAYS_KEPT
        self._seen[customers[row], at_place] = items[row, place]
        self._seen_days[customers[row], at_place] = self._days(at[row])
        self._next[customers] = (self._next[customers] + counts) % DISPLAYS_KEPT

    def remember_clicks(
        self,
        customers: NDArray[np.int64],
        items: NDArray[np.int64],
        topics: NDArray[np.int64],
        at: NDArray[np.float64],
    ) -> None:
        """(m) clicks: the item no longer tires, its topic sates. A customer may come several times."""
        seen = self._seen[customers]
        row, place = np.nonzero(seen == items[:, None])
        self._seen[customers[row], place] = -1
        who, first = np.unique(customers, return_index=True)
        days = self._days(at[first])
        fade = np.exp((self._sated_days[who] - days) / np.float32(SATED_DAYS))
        self._sated[who] *= np.minimum(fade, 1)[:, None]
        self._sated_days[who] = np.maximum(days, self._sated_days[who])
        np.add.at(self._sated, (customers, topics), np.float32(1))

    def take(self, customers: NDArray[np.int64], items: NDArray[np.int64]) -> None:
        """(m) purchases of products: they are held; beyond HOLDINGS_KEPT the oldest is let go."""
        order = np.argsort(customers, kind="stable")
        who, items = customers[order], items[order]
        counts = np.unique(who, return_counts=True)[1]
        offset = np.arange(len(who)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.holdings[who, (self._held[who] + offset) % HOLDINGS_KEPT] = items
        np.add.at(self._held, who, 1)
