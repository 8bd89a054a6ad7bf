"""What stands at the places of a page, column by column: the answer of the allocation.

Nearly every page is decided by the market alone, and goes from the solution's columns to the placements' so;
only one that has to be filled from behind is taken apart into `Chosen` and put together again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.reservations import RESERVED
from serving.filling import Chosen

OWN_TITLE, NOTHING_TO_SHOW = -1, -2  # instead of the index of a creative
RESERVES, RULED = 1, 2  # in Grid.whole[CAPPED]: shown only if reserved; there by more than its value


class Grid(NamedTuple):
    """The same places as arrays, for what goes on from them."""

    slot: NDArray[np.int32]  # (p,) index in the query's slots
    candidate: NDArray[np.int32]  # (p,) index among the page's candidates, −1 not one of them
    whole: NDArray[np.int64]  # (at least 8, p) by ROW …; NAMED: place in the offer table, −1 none
    parts: NDArray[np.float64]  # (at least 3, p) by SCORE …
    ranked: NDArray[np.int32]  # (n,) the page's candidates, by about what they are worth


class Seats(NamedTuple):
    """Places in page order: by slot, then by position. The fields of `Chosen` are columns."""

    slot: list[int]
    position: list[int]
    row: list[int]
    score: list[float]
    origin: list[int]
    creative: list[int]
    flags: list[int]
    campaign: list[int]
    value: list[float]
    base: list[float]
    tag: list[float]
    rule: list[int]
    by: list[int]
    capped: list[bool]
    pin: list[int]
    spares: Mapping[int, Chosen]  # what stands in where the ledger refuses, by index in the page
    grid: Grid | None = None  # where it was made on the way

    @classmethod
    def of(cls, slots: Sequence[Sequence[Chosen]]) -> Seats:
        """From what is chosen for each slot, in order."""
        slot = [at for at, places in enumerate(slots) for _ in places]
        position = [at for places in slots for at in range(len(places))]
        flat = [one for places in slots for one in places]
        columns = map(list, zip(*flat, strict=True)) if flat else ([] for _ in Chosen._fields)
        row, score, origin, creative, flags, campaign, value, base, tag, rule, by, capped, pin, behind = (
            columns
        )
        spares = {index: one for index, one in enumerate(behind) if one is not None}
        return cls(
            *(slot, position, row, score, origin, creative, flags, campaign, value, base, tag, rule, by),
            *(capped, pin, spares),
        )

    def chosen(self, slots: int) -> list[list[Chosen]]:
        """What is chosen for each of so many slots, without what has nothing to show."""
        made: list[list[Chosen]] = [[] for _ in range(slots)]
        spares = [self.spares.get(index) for index in range(len(self.row))]
        for slot, *one in zip(self.slot, *self[2:-2], spares, strict=True):
            if (chosen := Chosen._make(one)).creative != NOTHING_TO_SHOW:
                made[slot].append(chosen)
        return made

    def as_grid(self, rows: NDArray[np.int32], worth: NDArray[np.float32]) -> Grid:
        """`grid` of a page that had to be filled from behind. `rows`, `worth`: the candidates'."""
        whole, parts = np.zeros((CREATIVE + 1, len(self.row)), np.int64), np.empty((3, len(self.row)))
        whole[ROW], whole[ORIGIN], whole[CAMPAIGN], whole[NAMED] = self.row, self.origin, self.campaign, -1
        whole[SLOT], whole[POSITION], whole[CREATIVE] = self.slot, self.position, self.creative
        flags = np.array(self.flags, np.int64)
        whole[CAPPED] = np.where(np.array(self.capped, np.bool_) | (flags & RESERVED != 0), RESERVES, 0)
        whole[CAPPED] |= np.where(flags & ~RESERVED != 0, RULED, 0)
        parts[SCORE], parts[VALUE], parts[BASE] = self.score, self.value, self.base
        candidate = rows.searchsorted(whole[ROW])
        met = np.isin(whole[ROW], rows)
        candidate = np.where(met, candidate, -1).astype(np.int32)
        ranked = np.argsort(-worth, kind="stable").astype(np.int32)
        return Grid(np.array(self.slot, np.int32), candidate, whole, parts, ranked)


# Rows of `Grid.whole` and `Grid.parts`. A grid made of lists has the first eight and the first three.
ROW, ORIGIN, CAMPAIGN, NAMED, CAPPED, SLOT, POSITION, CREATIVE, FLAGS, RULE, BY, PINNED_AT = range(12)
REASON, KEY, CAMPAIGN_KEY, WHOLE = range(12, 16)
SCORE, VALUE, BASE, TAG, SHOWN, DISPLAYS, CLICKS, CONVERTS, PARTS = range(9)


class Behind(NamedTuple):
    """A page on which nothing was proposed, and what it rests on: rows that were asked for, and what drops
    each.
    """

    seats: Seats
    rows: NDArray[np.int32]
    drops: NDArray[np.uint32]
