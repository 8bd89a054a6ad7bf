"""The page: which candidate goes to which place, no item twice, no slot short while it can be full."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.domain import BACKFILLED, Candidates, Effort, Rows, SlotRequest
from serving.live import OWN_TITLE, Live
from serving.pipeline import Page, best_first
from serving.surfaces import ALL, BIT, RECIPES, Recipe

CHUNK = 64  # rows of a back-fill that are permitted together


class Chosen(NamedTuple):
    row: int
    score: float
    origin: int
    creative: int
    flags: int


@dataclass(slots=True, eq=False)
class Filling:
    """One slot while the page is made."""

    index: int
    asked: SlotRequest
    recipe: Recipe
    count: int
    excluded: frozenset[int]  # rows
    chosen: list[Chosen] = field(default_factory=list)
    passed: list[int] = field(default_factory=list)  # candidates beyond a limit
    supply: Iterator[Chosen] = field(default_factory=chain)

    @property
    def short(self) -> bool:
        return len(self.chosen) < self.count


class Ranked:
    """Permitted candidates, best first, as columns; the rows also as a list, for the loops over places."""

    __slots__ = ("_members", "met", "origin", "rows", "score")

    def __init__(self, live: Live, candidates: Candidates) -> None:
        order = best_first(candidates.score)
        rows = candidates.rows.take(order)
        self._members: NDArray[np.uint64] = live.plan.members.take(rows)
        self.rows: list[int] = rows.tolist()
        self.score = candidates.score.take(order)
        self.origin = candidates.origin.take(order)
        self.met = int(np.bitwise_or.reduce(self.origin))

    def chosen(self, at: int, creative: int) -> Chosen:
        """The candidate at a position, to be placed."""
        return Chosen(self.rows[at], self.score.item(at), self.origin.item(at), creative, 0)

    def suiting(self, bit: int, origins: int) -> list[int]:
        """Positions of what may go into the slot of this bit and comes from one of the sources."""
        return self.suiting_each([(bit, origins)])[0]

    def suiting_each(self, slots: Sequence[tuple[int, int]]) -> list[list[int]]:
        """The same for several slots at once."""
        bits = np.array([bit for bit, _ in slots], np.uint64)
        suits = (self._members & bits[:, None]) != 0
        if any(self.met & ~origins for _, origins in slots):
            counting = np.array([origins for _, origins in slots], np.uint32)
            suits &= (self.origin & counting[:, None]) != 0
        n = len(self.rows)
        flat = suits.ravel().nonzero()[0]  # slot after slot, as one line
        ends: list[int] = flat.searchsorted(np.arange(len(slots) + 1) * n).tolist()
        return [(flat[start:end] - slot * n).tolist() for slot, (start, end) in enumerate(pairwise(ends))]


class Allocation:
    """Fills the slots in page order; then repairs what is short by moving items between slots."""

    def __init__(self, page: Page, live: Live, candidates: Candidates, effort: Effort) -> None:
        self._page, self._live, self._effort = page, live, effort
        self._now = page.query.now
        self._english = page.query.context.locale.startswith("en")
        self._ranked = Ranked(live, candidates)
        self._taken: dict[int, int] = {}  # row -> index of its slot
        self._slots = [self._filling(i, asked) for i, asked in enumerate(page.query.slots)]

    def fill(self) -> list[list[Chosen]]:
        """What is chosen for each slot of the query, in order."""
        wanted = [(slot.asked.spec.bit, slot.recipe.selector.origins) for slot in self._slots]
        for slot, suiting in zip(self._slots, self._ranked.suiting_each(wanted), strict=True):
            self._best(slot, suiting)
            while slot.short and (chosen := self._next(slot)) is not None:
                self._place(slot, chosen)
            self._reserve(slot)
        for slot in self._slots:
            while slot.short and self._make_room(slot):
                pass
        return [slot.chosen for slot in self._slots]

    def _filling(self, index: int, asked: SlotRequest) -> Filling:
        live, query = self._live, self._page.query
        rows = [] if query.anchor_row is None else [query.anchor_row]
        if asked.exclude:
            keys = np.fromiter(sorted(asked.exclude), np.uint64, len(asked.exclude))
            rows += live.items.rows_of_keys(keys).tolist()
        count = 0 if live.kills.everything or asked.spec.name in live.kills.slots else asked.count
        return Filling(index, asked, RECIPES[asked.spec.layout], count, frozenset(rows))

    def _place(self, slot: Filling, chosen: Chosen) -> None:
        slot.chosen.append(chosen)
        self._taken[chosen.row] = slot.index

    def _best(self, slot: Filling, suiting: list[int]) -> None:
        """The recipe's candidates in order, within its limits; `supply` then holds the rest."""
        if not slot.count:
            return
        ranked, spec, recipe, live = self._ranked, slot.asked.spec, slot.recipe, self._live
        per_category = spec.per_category or recipe.per_category
        per_kind = ceil(slot.count * recipe.per_kind) if len(spec.kinds) > 1 else slot.count
        in_category: dict[int, int] = {}
        in_kind: dict[int, int] = {}
        positions = recipe.selector.select(suiting)
        rows, picks = ranked.rows, live.picks(spec.layout_code, self._english)
        categories, kinds, taken, excluded = live.category_of, live.kind_of, self._taken, slot.excluded
        free, left = slot.count, iter(positions)
        for i in left:
            row = rows[i]
            if row in taken or row in excluded:
                continue
            creative = picks[row]
            if creative < OWN_TITLE:  # not known yet, or not for ever
                picked = live.creative(row, spec.layout_code, self._english, self._now)
                if picked is None:
                    continue
                creative = picked
            category, kind = categories[row], kinds[row]
            of_category, of_kind = in_category.get(category, 0), in_kind.get(kind, 0)
            if (category and of_category >= per_category) or of_kind >= per_kind:
                slot.passed.append(i)
                continue
            in_category[category], in_kind[kind] = of_category + 1, of_kind + 1
            slot.chosen.append(ranked.chosen(i, creative))
            taken[row] = slot.index
            free -= 1
            if not free:
                break
        slot.supply = self._rest(slot, positions, left)

    def _next(self, slot: Filling) -> Chosen | None:
        """The next best that the slot may hold and no slot holds."""
        return next((chosen for chosen in slot.supply if chosen.row not in self._taken), None)

    def _rest(self, slot: Filling, positions: list[int], left: Iterator[int]) -> Iterator[Chosen]:
        """What the limits passed over, other candidates, the operators' picks, then all that is permitted."""
        spec = slot.asked.spec
        yield from self._of(slot, slot.passed)
        yield from self._of(slot, left)
        if self._ranked.met & ~slot.recipe.selector.origins:
            seen = frozenset(positions)
            everyone = self._ranked.suiting(spec.bit, ALL)
            yield from self._of(slot, [i for i in everyone if i not in seen])
        yield from self._permitted(slot, spec.fallback, BIT["operator"])
        wide = spec.open if self._effort == "fallback" else spec.wide
        yield from self._permitted(slot, wide, BIT["backfill"])

    def _of(self, slot: Filling, positions: Iterable[int]) -> Iterator[Chosen]:
        ranked = self._ranked
        for i in positions:
            creative = self._creative(slot, ranked.rows[i])
            if creative is not None:
                yield ranked.chosen(i, creative)

    def _permitted(self, slot: Filling, rows: Rows, origin: int) -> Iterator[Chosen]:
        """Rows beyond the candidates, in their order, as far as they are permitted."""
        pipeline = self._live.pipelines[self._effort]
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            for row in chunk[pipeline.permit(self._page, chunk) == 0].tolist():
                creative = self._creative(slot, row)
                if creative is not None:
                    yield Chosen(row, 0.0, 1 << origin, creative, BACKFILLED)

    def _creative(self, slot: Filling, row: int) -> int | None:
        """What would be rendered; None when the row may not, or need not, go here."""
        if row in self._taken or row in slot.excluded:
            return None
        return self._live.creative(row, slot.asked.spec.layout_code, self._english, self._now)

    def _reserve(self, slot: Filling) -> None:
        """Give the last place to the best of a reserved source, where none of its candidates got one."""
        if slot.count < len(slot.recipe.reserved) + 2 or slot.short:
            return
        for at, source in enumerate(slot.recipe.reserved, start=1):
            bit = 1 << source
            if not self._ranked.met & bit or any(chosen.origin & bit for chosen in slot.chosen):
                continue
            best = next(self._of(slot, self._ranked.suiting(slot.asked.spec.bit, bit)), None)
            if best is not None:
                out, slot.chosen[-at] = slot.chosen[-at], best
                del self._taken[out.row]
                self._taken[best.row] = slot.index
                slot.supply = chain((out,), slot.supply)

    def _make_room(self, short: Filling) -> bool:
        """One more item for a short slot, by an augmenting path: another slot gives one and takes another.

        Breadth first over slots, so a page that can be full is full (Berge); False when there is no way.
        """
        came: dict[int, tuple[Filling, int]] = {}  # slot -> (slot that its item moves to, which item)
        queue = [short]
        for taker in queue:
            for giver in self._slots:
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
        """The last of the giver's places whose item the taker may hold."""
        spec = taker.asked.spec
        for at in range(len(giver.chosen) - 1, -1, -1):
            row = giver.chosen[at].row
            suits = int(self._live.plan.members[row]) & spec.bit and row not in taker.excluded
            if suits and self._live.creative(row, spec.layout_code, self._english, self._now) is not None:
                return at
        return None

    def _shift(self, giver: Filling, new: Chosen, came: dict[int, tuple[Filling, int]]) -> None:
        """Move one item along the path, from the slot that takes `new` to the one that was short."""
        while giver.index in came:
            taker, at = came[giver.index]
            moved, giver.chosen[at] = giver.chosen[at], new
            self._taken[new.row] = giver.index
            layout = taker.asked.spec.layout_code
            creative = self._live.creative(moved.row, layout, self._english, self._now)
            new, giver = moved._replace(creative=-1 if creative is None else creative), taker
        self._place(giver, new)
