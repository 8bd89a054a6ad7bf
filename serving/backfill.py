"""What the market could not fill is filled from the back, so that no slot stays short.

Candidates beyond a limit, the operators' picks, then everything that is permitted; where a slot is short
even so, another gives it an item and takes another. Nothing of that touches what a campaign or a cap stands
behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.domain import BACKFILLED, Candidates, Drops, Effort, Rows
from serving.filling import Chosen, Filling, Making, is_free
from serving.live import Live
from serving.market import Market
from serving.pipeline import Page, best_first
from serving.surfaces import ALL, BIT

CHUNK: Final = 64  # rows of a back-fill that are permitted together
_NO_ROWS: Final[Rows] = np.empty(0, np.int32)
_NO_DROPS: Final[Drops] = np.empty(0, np.uint32)


class BackFill:
    """Of one page, once the market's answer stands in `making`."""

    def __init__(
        self,
        page: Page,
        live: Live,
        effort: Effort,
        candidates: Candidates,
        market: Market,
        members: NDArray[np.uint64],
        making: Making,
    ) -> None:
        """`members` (n,): the slots that each candidate may hold without a campaign."""
        self._page, self._live, self._effort = page, live, effort
        self._candidates, self._market, self._members, self._making = candidates, market, members, making
        self._now = page.query.now
        self._english = page.query.context.locale.startswith("en")
        self._looked: list[int] = []  # rows of which it was asked what would be rendered
        self._asked: list[tuple[Rows, Drops]] = []  # rows beyond the candidates, and what drops them here
        self._met = int(np.bitwise_or.reduce(candidates.origin))  # sources that proposed anything

    def fill(self) -> None:
        """Until every slot that must be full is, or nothing is left that it may hold."""
        for slot in self._making.slots:
            self._reserve(slot)
            slot.supply = self._rest(slot)
            while slot.short and slot.must_fill and (chosen := self._next(slot)) is not None:
                self._making.place(slot, chosen)
        for slot in self._making.slots:
            while slot.short and slot.must_fill and self._make_room(slot):
                pass

    def _next(self, slot: Filling) -> Chosen | None:
        """The next best that the slot may hold and no slot holds."""
        return next((chosen for chosen in slot.supply if chosen.row not in self._making.taken), None)

    def _rest(self, slot: Filling) -> Iterator[Chosen]:
        """Candidates by value, of the layout's sources first; the operators' picks; all that is permitted."""
        if self._market.slot_capped[slot.index]:
            return  # what is capped comes through the market or not at all
        spec = slot.asked.spec
        yield from self._of(slot, slot.recipe.selector.origins)
        yield from self._of(slot, ALL)
        yield from self._permitted(slot, spec.fallback, BIT["operator"])
        wide = spec.open if self._effort == "fallback" else spec.wide
        yield from self._permitted(slot, wide, BIT["backfill"])

    def _of(self, slot: Filling, origins: int) -> Iterator[Chosen]:
        """Candidates that the slot may hold freely: no cap and no exclusion group is on them."""
        candidates, market = self._candidates, self._market
        free = (self._members >> np.uint64(slot.asked.spec.index)) & np.uint64(1) != 0
        free &= (candidates.origin & np.uint32(origins)) != 0
        free &= (market.option_capped == 0) & (market.option_room < 0).all(axis=1)
        where = free.nonzero()[0]
        for at in where[best_first(market.value[where])].tolist():
            row = int(candidates.rows[at])
            creative = self._creative(slot, row)
            if creative is not None:
                value = float(market.value[at])
                score, origin = float(candidates.score[at]), int(candidates.origin[at])
                yield Chosen(row, score, origin, creative, 0, value=value, base=value)

    def _permitted(self, slot: Filling, rows: Rows, origin: int) -> Iterator[Chosen]:
        """Rows beyond the candidates, in their order, as far as they are permitted."""
        pipeline = self._live.pipelines[self._effort]
        ruled = self._live.stalls.ruled
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            drops = pipeline.permit(self._page, chunk)
            self._asked.append((chunk, drops))
            for row in chunk[drops == 0].tolist():
                creative = self._creative(slot, row)
                if creative is not None and not ruled(row) and not self._shut(row):
                    yield Chosen(row, 0.0, 1 << origin, creative, BACKFILLED)

    def _shut(self, row: int) -> bool:
        """Whether a contact rule has had enough answers about the item or its category."""
        shut = self._market.shut
        return bool(shut) and (int(self._live.keys[row]) in shut or self._live.category_of[row] in shut)

    def _creative(self, slot: Filling, row: int) -> int | None:
        """What would be rendered; None when the row may not, or need not, go here."""
        if row in self._making.taken or row in slot.excluded:
            return None
        self._looked.append(row)
        return self._live.creative(row, slot.asked.spec.layout_code, self._english, self._now)

    @property
    def by_seconds(self) -> bool:
        """Whether all through this second the same items have the same to show."""
        return all(self._live.texts[row].by_seconds for row in self._looked)

    @property
    def permitted(self) -> tuple[Rows, Drops]:
        """Everything beyond the candidates of which it was asked whether this customer may be shown it, and
        the answers: who is given the same ones gets the same page from behind.
        """
        if not self._asked:
            return _NO_ROWS, _NO_DROPS
        rows, drops = zip(*self._asked, strict=True)
        return np.concatenate(rows), np.concatenate(drops)

    def _reserve(self, slot: Filling) -> None:
        """Give the last free place to the best of a reserved source, where none of its candidates got one."""
        if slot.count < len(slot.recipe.reserved) + 2 or slot.short:
            return
        for at, source in enumerate(slot.recipe.reserved, start=1):
            bit = 1 << source
            if not self._met & bit or not is_free(slot.chosen[-at]):
                continue
            if any(chosen.origin & bit for chosen in slot.chosen):
                continue
            best = next(self._of(slot, bit), None)
            if best is not None:
                out, slot.chosen[-at] = slot.chosen[-at], best
                del self._making.taken[out.row]
                self._making.taken[best.row] = slot.index

    def _make_room(self, short: Filling) -> bool:
        """One more item for a short slot, by an augmenting path: another slot gives one and takes another.

        Breadth first over slots, so a page that can be full is full (Berge); False when there is no way.
        """
        came: dict[int, tuple[Filling, int]] = {}  # slot -> (slot that its item moves to, which item)
        queue = [short]
        for taker in queue:
            for giver in self._making.slots:
                if giver.index in came or giver is short or not giver.count:
                    continue
                moved = self._movable(giver, taker)
                if moved is None:
                    continue
                came[giver.index] = (taker, moved)
                queue.append(giver)
                replacement = self._next(giver)
                if replacement is not None:
                    self._shift(giver, replacement, came)
                    return True
        return False

    def _movable(self, giver: Filling, taker: Filling) -> int | None:
        """The last of the giver's free places whose item the taker may hold."""
        spec = taker.asked.spec
        if self._market.slot_capped[taker.index]:
            return None
        for at in range(len(giver.chosen) - 1, -1, -1):
            chosen = giver.chosen[at]
            suits = int(self._live.plan.members[chosen.row]) & spec.bit and chosen.row not in taker.excluded
            if not suits or not is_free(chosen):
                continue
            if self._live.creative(chosen.row, spec.layout_code, self._english, self._now) is not None:
                return at
        return None

    def _shift(self, giver: Filling, new: Chosen, came: dict[int, tuple[Filling, int]]) -> None:
        """Move one item along the path, from the slot that takes `new` to the one that was short."""
        while giver.index in came:
            taker, at = came[giver.index]
            moved, giver.chosen[at] = giver.chosen[at], new
            self._making.taken[new.row] = giver.index
            layout = taker.asked.spec.layout_code
            creative = self._live.creative(moved.row, layout, self._english, self._now)
            new, giver = moved._replace(creative=-1 if creative is None else creative), taker
        self._making.place(giver, new)
