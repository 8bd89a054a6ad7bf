"""What stands at the places of a page, column by column: the answer of the allocation.

Nearly every page is decided by the market alone, and goes from the solution's columns to the placements' so;
only one that has to be filled from behind is taken apart into `Chosen` and put together again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit
from features.reservations import RESERVED
from serving.filling import Chosen

NOTHING_TO_SHOW: Final = -2  # instead of a creative
RESERVES, RULED = 1, 2  # in Grid.whole[CAPPED]: shown only if reserved; there by more than its value


class Grid(NamedTuple):
    """The same places as arrays, for loops that go on from them; stand-ins may follow after the places."""

    slot: NDArray[np.int32]  # (p,) index in the query's slots
    candidate: NDArray[np.int32]  # (p,) index among the page's candidates, −1 not one of them
    whole: NDArray[np.int64]  # (5, at least p) by ROW …
    parts: NDArray[np.float64]  # (3, at least p) by SCORE …
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
        whole, parts = np.zeros((5, len(self.row)), np.int64), np.empty((3, len(self.row)))
        whole[ROW], whole[ORIGIN], whole[CAMPAIGN], whole[NAMED] = self.row, self.origin, self.campaign, -1
        flags = np.array(self.flags, np.int64)
        whole[CAPPED] = np.where(np.array(self.capped, np.bool_) | (flags & RESERVED != 0), RESERVES, 0)
        whole[CAPPED] |= np.where(flags & ~RESERVED != 0, RULED, 0)
        parts[SCORE], parts[VALUE], parts[BASE] = self.score, self.value, self.base
        candidate = rows.searchsorted(whole[ROW])
        met = np.isin(whole[ROW], rows)
        candidate = np.where(met, candidate, -1).astype(np.int32)
        ranked = np.argsort(-worth, kind="stable").astype(np.int32)
        return Grid(np.array(self.slot, np.int32), candidate, whole, parts, ranked)


class Named(NamedTuple):
    """The columns of candidates (n) and offers (m) that placements are made of."""

    row: NDArray[np.int32]
    origin: NDArray[np.uint32]
    score: NDArray[np.float32]
    value: NDArray[np.float32]
    capped: NDArray[np.uint8]
    offer_campaign: NDArray[np.int32]
    offer_named: NDArray[np.intp]  # in the offer table
    offer_value: NDArray[np.float32]
    offer_base: NDArray[np.float32]
    offer_capped: NDArray[np.uint8]


ROW, ORIGIN, CAMPAIGN, NAMED, CAPPED = range(5)
SCORE, VALUE, BASE = range(3)


@jit
def gathered(
    named: Named, candidate: NDArray[np.int32], offer: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """What candidate and offer (−1: none) of each place (p) say: (5, p) by ROW …, (3, p) by SCORE …"""
    p = len(candidate)
    whole, parts = np.empty((5, p), np.int64), np.empty((3, p), np.float64)
    for at in range(p):
        i, o = candidate[at], offer[at]
        whole[ROW, at], whole[ORIGIN, at], whole[CAPPED, at] = named.row[i], named.origin[i], named.capped[i]
        parts[SCORE, at] = named.score[i]
        if o < 0:
            whole[CAMPAIGN, at] = whole[NAMED, at] = -1
            parts[VALUE, at] = parts[BASE, at] = named.value[i]
            continue
        whole[CAMPAIGN, at], whole[NAMED, at] = named.offer_campaign[o], named.offer_named[o]
        whole[CAPPED, at] |= named.offer_capped[o]
        parts[VALUE, at], parts[BASE, at] = named.offer_value[o], named.offer_base[o]
    return whole, parts
