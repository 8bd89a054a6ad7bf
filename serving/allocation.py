"""The page: which candidate goes to which place, under which campaign, no item twice, no slot short.

`serving.page` decides jointly; here its columns are made from what a page has, its answer is given creatives,
and what the market could not fill is filled from the back: candidates beyond a limit, the operators' picks,
then everything that is permitted. Nothing of that may touch what a campaign or a cap stands behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import ceil
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.reservations import RESERVED
from serving.domain import BACKFILLED, PINNED, Candidates, Effort, Rows, SlotRequest
from serving.live import OWN_TITLE, Live
from serving.market import Market
from serving.page import ORGANIC, RULE, Offers, Options, Problem, Slots, Solution, solve
from serving.pipeline import Page, best_first
from serving.plan import CompiledSlot
from serving.stability import held_places
from serving.standins import StandIns
from serving.surfaces import ALL, BIT, RECIPES, Recipe

CHUNK: Final = 64  # rows of a back-fill that are permitted together
MOST_SHAPES: Final = 256
MOST_CATEGORIES: Final = 512  # of a catalogue that pages count one by one
MOST_TURNS: Final = 12  # solutions in which some chosen item turned out to have nothing to show
_IN_ORDER: Final = frozenset({"cached", "fallback"})  # rungs whose values are only an order
_BY_RULE: Final = frozenset({RULE["pin"], RULE["mandatory"]})
_COUNTERS: Final = frozenset({RULE["cap"], RULE["exclusion"]})  # rules whose `by` is a counter


class Chosen(NamedTuple):
    """One place: the item, what is rendered of it, and what put it there."""

    row: int
    score: float
    origin: int
    creative: int
    flags: int
    campaign: int = -1
    value: float = 0.0  # CNY per display, with lever and prices
    base: float = 0.0
    tag: float = 0.0
    rule: int = 0
    by: int = -1  # campaign that the rule is of
    capped: bool = False
    pin: int = -1  # position that is its own
    spare: Chosen | None = None  # stands in where the ledger refuses


@dataclass(slots=True, eq=False)
class Filling:
    """One slot while the page is made."""

    index: int
    asked: SlotRequest
    recipe: Recipe
    count: int
    excluded: frozenset[int]  # rows
    chosen: list[Chosen] = field(default_factory=list)
    supply: Iterator[Chosen] = field(default_factory=chain)

    @property
    def short(self) -> bool:
        return len(self.chosen) < self.count

    @property
    def must_fill(self) -> bool:
        """A slot whose showing costs something may stay empty."""
        return self.asked.spec.interruption <= 0


class _Places:
    """What stands at the places of a solution, as lists: an array answers for one entry ten times slower."""

    __slots__ = ("base", "campaign", "capped", "named", "offer", "origin", "row", "score", "value")

    def __init__(self, page: Allocation, candidate: NDArray[np.int32], offer: NDArray[np.int32]) -> None:
        candidates, market, offers = page.candidates, page.market, page.offers
        value, capped = market.value.take(candidate), market.option_capped.take(candidate)
        self.offer: list[int] = offer.tolist()
        self.row: list[int] = candidates.rows.take(candidate).tolist()
        self.score: list[float] = candidates.score.take(candidate).tolist()
        self.origin: list[int] = candidates.origin.take(candidate).tolist()
        self.value: list[float] = value.tolist()
        self.base: list[float] = self.value.copy()
        self.capped: list[int] = capped.tolist()
        self.campaign = [-1] * len(self.offer)
        self.named: list[int] = self.campaign.copy()  # in the offer table
        tagged = (offer != ORGANIC).nonzero()[0]
        if len(tagged):
            at = offer.take(tagged)
            columns = (offers.value, offers.base, offers.capped, offers.campaign, market.table)
            found = zip(tagged.tolist(), *(one.take(at).tolist() for one in columns), strict=True)
            for place, price, base, reserved, campaign, named in found:
                self.value[place], self.base[place], self.named[place] = price, base, named
                self.capped[place] |= reserved
                self.campaign[place] = campaign


class Allocation:
    """One page. `fill` gives what is chosen for each slot of the query, in order."""

    def __init__(
        self, page: Page, live: Live, candidates: Candidates, effort: Effort, market: Market
    ) -> None:
        self._page, self._live, self._effort, self.market = page, live, effort, market
        self.candidates = candidates
        self._now = page.query.now
        self._english = page.query.context.locale.startswith("en")
        self._met = int(np.bitwise_or.reduce(candidates.origin))  # sources that proposed anything
        self._taken: dict[int, int] = {}  # row -> index of its slot
        self._slots = [self._filling(i, asked) for i, asked in enumerate(page.query.slots)]
        self._members = self._may_stand()
        self.offers = self._standing_offers()

    def fill(self) -> list[list[Chosen]]:
        if len(self.candidates):
            self._settle()
        for slot in self._slots:
            self._reserve(slot)
            slot.supply = self._rest(slot)
            while slot.short and slot.must_fill and (chosen := self._next(slot)) is not None:
                self._place(slot, chosen)
        for slot in self._slots:
            while slot.short and slot.must_fill and self._make_room(slot):
                pass
        return [_seated(slot.chosen) for slot in self._slots]

    # --- what competes

    def _filling(self, index: int, asked: SlotRequest) -> Filling:
        live, query = self._live, self._page.query
        rows = [] if query.anchor_row is None else [query.anchor_row]
        if asked.exclude:
            keys = np.fromiter(sorted(asked.exclude), np.uint64, len(asked.exclude))
            rows += live.items.rows_of_keys(keys).tolist()
        stopped = live.kills.everything or asked.spec.name in live.kills.slots
        count = 0 if stopped else self.market.slot_most[index]
        return Filling(index, asked, RECIPES[asked.spec.layout], count, frozenset(rows))

    def _may_stand(self) -> NDArray[np.uint64]:
        """(n,) slots that each candidate may hold without a campaign: not where it is excluded."""
        rows = self.candidates.rows
        members = self._live.plan.members.take(rows)
        for slot in self._slots:
            self._bar(members, rows, slot)
        return members

    def _standing_offers(self) -> Offers:
        offers = self.market.offers
        slots = offers.slots.copy()
        rows = self.candidates.rows.take(offers.candidate)
        for slot in self._slots:
            self._bar(slots, rows, slot)
        return offers._replace(slots=slots)

    def _bar(self, members: NDArray[np.uint64], rows: Rows, slot: Filling) -> None:
        """Take the slot's bit from rows that are excluded there, or have nothing to show there."""
        bare = self._live.bare(slot.asked.spec.layout_code, self._english)
        if not slot.excluded and not bare:
            return
        barred = np.isin(rows, sorted({*slot.excluded, *bare}))
        members[barred] &= ~np.uint64(slot.asked.spec.bit)

    # --- the market's answer

    def _settle(self) -> None:
        """Solve, and again without what has nothing to show, until everything chosen has."""
        for _ in range(MOST_TURNS):
            solution = solve(self._problem(), tags=self._page.query.tagged)
            chosen, bare = self._read(solution)
            if not bare:
                break
            for slot, candidate in bare:
                bit = ~np.uint64(self._slots[slot].asked.spec.bit)
                self._members[candidate] &= bit
                self.offers.slots[self.offers.candidate == candidate] &= bit
        for slot, one in chosen:
            self._place(self._slots[slot], one)

    def _problem(self) -> Problem:
        candidates, market = self.candidates, self.market
        options = Options(
            members=self._members,
            origin=candidates.origin,
            value=market.value,
            category=self._categories(),
            kind=candidates.items["kind"],
            room=market.option_room,
            capped=market.option_capped,
        )
        query = self._page.query
        held = held_places(query, query.slots, candidates.rows, self._live.items)
        return Problem(self._shape(), options, self.offers, market.room, held, market.limits)

    def _categories(self) -> NDArray[np.int32]:
        """(n,) dense: of the whole catalogue where it has few, else of the candidates."""
        category = self._live.dense_categories.take(self.candidates.rows)
        if not len(category) or int(category.max()) <= MOST_CATEGORIES:
            return category
        known, few = np.unique(category, return_inverse=True)
        return (few if known[0] == 0 else few + 1).astype(np.int32)

    def _shape(self) -> Slots:
        """The slots as columns: the same for all pages that ask for the same places."""
        in_order = self._effort in _IN_ORDER
        key = (in_order, *((slot.asked.spec.index, slot.count) for slot in self._slots))
        made = self._live.shapes.get(key)
        if made is None:
            if len(self._live.shapes) >= MOST_SHAPES:
                self._live.shapes.clear()
            made = page_slots([(slot.asked.spec, slot.count) for slot in self._slots])
            if in_order:  # slot by slot, each from its first place on
                one = np.ones_like(made.diminish)
                made = made._replace(rates=np.sign(made.rates), diminish=one, cross=one)
            self._live.shapes[key] = made
        return made

    def _read(self, solution: Solution) -> tuple[list[tuple[int, Chosen]], list[tuple[int, int]]]:
        """What was chosen (slot, place), and (slot, candidate) of what has nothing to show."""
        chosen: list[tuple[int, Chosen]] = []
        bare: list[tuple[int, int]] = []
        places = _Places(self, solution.candidate, solution.offer)
        slots, candidates = solution.slot.tolist(), solution.candidate.tolist()
        stand = self._stand_ins(solution)
        told = zip(
            slots, places.row, *(column.tolist() for column in (solution.tag, solution.rule, solution.by)),
            strict=True,
        )  # fmt: skip
        picks = [self._live.picks(slot.asked.spec.layout_code, self._english) for slot in self._slots]
        capped_slots = self.market.slot_capped
        for at, (slot, row, tag, rule, by) in enumerate(told):
            creative = picks[slot][row]
            if places.named[at] >= 0 or creative < OWN_TITLE:
                asked = self.shown(slot, row, places.named[at])
                if asked is None:
                    bare.append((slot, candidates[at]))
                    continue
                creative = asked
            capped = bool(places.capped[at]) or capped_slots[slot]
            pin, flags, spare = -1, RESERVED if capped else 0, None
            if rule:
                by = self._blamed(rule, by)
                if rule in _BY_RULE:
                    pin = self._pin(slot, places.offer[at])
                    flags |= PINNED if pin >= 0 else 0
            if stand is not None and capped and not capped_slots[slot]:
                spare = stand(at, slot, (candidates[at], places.offer[at]))
            one = Chosen(
                row, places.score[at], places.origin[at], creative, flags, places.campaign[at],
                places.value[at], places.base[at], tag, rule, by, capped, pin, spare,
            )  # fmt: skip
            chosen.append((slot, one))
        return chosen, bare

    def _stand_ins(self, solution: Solution) -> Callable[[int, int, tuple[int, int]], Chosen | None] | None:
        """Tells of a capped place (number on the page, slot, its candidate and offer) what stands in; None:
        no place has anything."""
        found = (solution.spare_candidate >= 0).nonzero()[0]
        if not len(found):
            return None
        candidate = solution.spare_candidate.take(found)
        places = _Places(self, candidate, solution.spare_offer.take(found))
        standins = StandIns(self.market, self.offers, self._shape(), self.candidates)
        standins.count(solution)
        candidates = candidate.tolist()
        where = {place: at for at, place in enumerate(found.tolist())}

        def stand(number: int, slot: int, place: tuple[int, int]) -> Chosen | None:
            at = where.get(number, -1)
            if at < 0:
                return None
            row = places.row[at]
            creative = self.shown(slot, row, places.named[at])
            if creative is None or not standins.take(slot, place, (candidates[at], places.offer[at])):
                return None
            self._taken[row] = slot
            return Chosen(
                row, places.score[at], places.origin[at], creative, 0, places.campaign[at],
                places.value[at], places.base[at], capped=bool(places.capped[at]),
            )  # fmt: skip

        return stand

    def _pin(self, slot: int, offer: int) -> int:
        """The position that is the offer's own in the slot; -1 where it is placed like any other."""
        if offer == ORGANIC or self.offers.pin_slot[offer] != slot:
            return -1
        return int(self.offers.pin[offer])

    def _blamed(self, rule: int, by: int) -> int:
        if by >= 0 and rule in _COUNTERS:
            return self.market.counter_of[by]
        return by

    def shown(self, slot: int, row: int, named: int) -> int | None:
        """The creative; of an offer (of the table, -1 none) that names some, the first that may be shown."""
        layout = self._slots[slot].asked.spec.layout_code
        allowed = self._live.named_creatives[named] if named >= 0 else None
        if allowed is not None:
            return self._live.creative_among(row, layout, self._english, self._now, allowed)
        return self._live.creative(row, layout, self._english, self._now)

    # --- what the market could not fill

    def _place(self, slot: Filling, chosen: Chosen) -> None:
        slot.chosen.append(chosen)
        self._taken[chosen.row] = slot.index

    def _next(self, slot: Filling) -> Chosen | None:
        """The next best that the slot may hold and no slot holds."""
        return next((chosen for chosen in slot.supply if chosen.row not in self._taken), None)

    def _rest(self, slot: Filling) -> Iterator[Chosen]:
        """Candidates by value, of the layout's sources first; the operators' picks; all that is permitted."""
        if self.market.slot_capped[slot.index]:
            return  # what is capped comes through the market or not at all
        spec = slot.asked.spec
        yield from self._of(slot, slot.recipe.selector.origins)
        yield from self._of(slot, ALL)
        yield from self._permitted(slot, spec.fallback, BIT["operator"])
        wide = spec.open if self._effort == "fallback" else spec.wide
        yield from self._permitted(slot, wide, BIT["backfill"])

    def _of(self, slot: Filling, origins: int) -> Iterator[Chosen]:
        """Candidates that the slot may hold freely: no cap and no exclusion group is on them."""
        candidates, market = self.candidates, self.market
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
            for row in chunk[pipeline.permit(self._page, chunk) == 0].tolist():
                creative = self._creative(slot, row)
                if creative is not None and not ruled(row) and not self._shut(row):
                    yield Chosen(row, 0.0, 1 << origin, creative, BACKFILLED)

    def _shut(self, row: int) -> bool:
        """Whether a contact rule has had enough answers about the item or its category."""
        shut = self.market.shut
        return bool(shut) and (int(self._live.keys[row]) in shut or self._live.category_of[row] in shut)

    def _creative(self, slot: Filling, row: int) -> int | None:
        """What would be rendered; None when the row may not, or need not, go here."""
        if row in self._taken or row in slot.excluded:
            return None
        return self._live.creative(row, slot.asked.spec.layout_code, self._english, self._now)

    def _reserve(self, slot: Filling) -> None:
        """Give the last free place to the best of a reserved source, where none of its candidates got one."""
        if slot.count < len(slot.recipe.reserved) + 2 or slot.short:
            return
        for at, source in enumerate(slot.recipe.reserved, start=1):
            bit = 1 << source
            if not self._met & bit or not _free(slot.chosen[-at]):
                continue
            if any(chosen.origin & bit for chosen in slot.chosen):
                continue
            best = next(self._of(slot, bit), None)
            if best is not None:
                out, slot.chosen[-at] = slot.chosen[-at], best
                del self._taken[out.row]
                self._taken[best.row] = slot.index

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
        """The last of the giver's free places whose item the taker may hold."""
        spec = taker.asked.spec
        if self.market.slot_capped[taker.index]:
            return None
        for at in range(len(giver.chosen) - 1, -1, -1):
            chosen = giver.chosen[at]
            suits = int(self._live.plan.members[chosen.row]) & spec.bit and chosen.row not in taker.excluded
            if not suits or not _free(chosen):
                continue
            if self._live.creative(chosen.row, spec.layout_code, self._english, self._now) is not None:
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


def _seated(chosen: list[Chosen]) -> list[Chosen]:
    """The slot once it is filled: what is pinned stands at its position, if the slot reaches so far."""
    if all(one.pin in (-1, at) for at, one in enumerate(chosen)):
        return chosen
    pinned = {one.pin: one for one in reversed(chosen) if 0 <= one.pin < len(chosen)}
    pinned |= {at: one for at, one in enumerate(chosen) if one.pin == at}
    free = iter([one for one in chosen if pinned.get(one.pin) is not one])
    seated = [pinned[at] if at in pinned else next(free) for at in range(len(chosen))]
    return [
        one if one.pin in (-1, at) else one._replace(flags=one.flags & ~PINNED, pin=-1)
        for at, one in enumerate(seated)
    ]


def _free(chosen: Chosen) -> bool:
    """Whether nothing but its value put it there."""
    return chosen.campaign < 0 and not chosen.capped and not chosen.flags & PINNED


def page_slots(asked: Sequence[tuple[CompiledSlot, int]]) -> Slots:
    """The slots of a page as columns: (slot, places to fill) in page order."""
    specs = [spec for spec, _ in asked]
    counts = [count for _, count in asked]
    recipes = [RECIPES[spec.layout] for spec in specs]
    rates = np.zeros((len(specs), max([1, *counts])), np.float32)
    for at, (spec, count) in enumerate(asked):
        rates[at, :count] = spec.rates[:count]
    return Slots(
        bit=np.array([spec.bit for spec in specs], np.uint64),
        count=np.array(counts, np.int32),
        rates=rates,
        origins=np.array([recipe.selector.origins for recipe in recipes], np.uint32),
        per_category=np.array(
            [spec.per_category or recipe.per_category for spec, recipe in zip(specs, recipes, strict=True)],
            np.int32,
        ),
        per_kind=np.array(
            [
                ceil(count * recipe.per_kind) if len(spec.kinds) > 1 else count
                for (spec, count), recipe in zip(asked, recipes, strict=True)
            ],
            np.int32,
        ),
        diminish=np.array([spec.diminish for spec in specs], np.float32),
        cross=np.array([spec.cross for spec in specs], np.float32),
        interruption=np.array([spec.interruption for spec in specs], np.float32),
        switching=np.array(
            [spec.switching_cost if spec.refresh != "view" else 0.0 for spec in specs], np.float32
        ),
        kind_least=np.stack([spec.kinds_least for spec in specs]),
        kind_most=np.stack([spec.kinds_most for spec in specs]),
    )
