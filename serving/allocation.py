"""The page: which candidate goes to which place, under which campaign, no item twice, no slot short.

`serving.page` decides jointly; here its columns are made from what a page has, and its answer is given
creatives and stand-ins. What the market could not fill, `serving.backfill` does.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.reservations import RESERVED
from serving.backfill import BackFill
from serving.domain import PINNED, Candidates, Effort, Rows, SlotRequest
from serving.filling import Chosen, Filling, Making, seated
from serving.live import OWN_TITLE, Live
from serving.market import Market
from serving.page import ORGANIC, RULE, Offers, Options, Problem, Slots, Solution, solve
from serving.page_slots import page_slots
from serving.pipeline import Page
from serving.stability import held_places
from serving.standins import StandIns
from serving.surfaces import RECIPES

MOST_SHAPES: Final = 256
MOST_CATEGORIES: Final = 512  # of a catalogue that pages count one by one
NOTHING_TO_SHOW: Final = -2  # instead of a creative
MOST_TURNS: Final = 12  # solutions in which some chosen item turned out to have nothing to show
_IN_ORDER: Final = frozenset({"cached", "fallback"})  # rungs whose values are only an order
_BY_RULE: Final = frozenset({RULE["pin"], RULE["mandatory"]})
_COUNTERS: Final = frozenset({RULE["cap"], RULE["exclusion"]})  # rules whose `by` is a counter


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
        self._slots = [self._filling(i, asked) for i, asked in enumerate(page.query.slots)]
        self._making = Making(self._slots)
        self._members = self._may_stand()
        self.offers = self._standing_offers()

    def fill(self) -> list[list[Chosen]]:
        if len(self.candidates):
            self._settle()
        page, live, effort = self._page, self._live, self._effort
        BackFill(page, live, effort, self.candidates, self.market, self._members, self._making).fill()
        return [seated(slot.chosen) for slot in self._slots]

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
            self._making.place(self._slots[slot], one)

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
        """What was chosen (slot, place), and (slot, candidate) of what has nothing to show.

        Column by column: what stands by value alone, nearly all, is not looked at one by one.
        """
        found = (solution.spare_candidate >= 0).nonzero()[0]
        every, offers, many = solution.candidate, solution.offer, len(solution.candidate)
        if len(found):  # the stand-ins behind the places
            every = np.concatenate([every, solution.spare_candidate.take(found)])
            offers = np.concatenate([offers, solution.spare_offer.take(found)])
        places = _Places(self, every, offers)
        slots, candidates = solution.slot.tolist(), every.tolist()
        picks = [self._live.picks(slot.asked.spec.layout_code, self._english) for slot in self._slots]
        capped_slots = self.market.slot_capped
        creatives: list[int] = []
        bare: list[tuple[int, int]] = []
        for slot, row, named, candidate in zip(slots, places.row, places.named, candidates, strict=False):
            creative = picks[slot][row]
            if named >= 0 or creative < OWN_TITLE:
                asked = self.shown(slot, row, named)
                if asked is None:
                    bare.append((slot, candidate))
                creative = NOTHING_TO_SHOW if asked is None else asked
            creatives.append(creative)
        capped = [bool(own) or capped_slots[slot] for own, slot in zip(places.capped, slots, strict=False)]
        flags = [RESERVED if one else 0 for one in capped]
        rules, by, pins = solution.rule.tolist(), solution.by.tolist(), [-1] * many
        for at in solution.rule.nonzero()[0].tolist():
            by[at] = self._blamed(rules[at], by[at])
            if rules[at] in _BY_RULE:
                pins[at] = self._pin(slots[at], places.offer[at])
                flags[at] |= PINNED if pins[at] >= 0 else 0
        spares: list[Chosen | None] = [None] * many
        if len(found):
            self._stand_in(solution, places, found.tolist(), candidates, capped, spares)
        columns = (
            *(places.row, places.score, places.origin, creatives, flags, places.campaign, places.value),
            *(places.base, solution.tag.tolist(), rules, by, capped, pins, spares),
        )
        chosen = list(zip(slots, map(Chosen._make, zip(*columns, strict=False)), strict=True))
        return [one for one in chosen if one[1].creative != NOTHING_TO_SHOW] if bare else chosen, bare

    def _stand_in(
        self,
        solution: Solution,
        places: _Places,
        found: list[int],
        candidates: list[int],
        capped: list[bool],
        spares: list[Chosen | None],
    ) -> None:
        """Into `spares`: what stands in for the places `found`, where the ledger refuses them. Their columns
        follow those of the page's places in `places` and `candidates`."""
        standins = StandIns(self.market, self.offers, self._shape(), self.candidates)
        standins.count(solution)
        slots = solution.slot.tolist()
        for at, place in enumerate(found, start=len(slots)):
            slot, row, named = slots[place], places.row[at], places.named[at]
            if not capped[place] or self.market.slot_capped[slot]:
                continue
            creative = self.shown(slot, row, named)
            stand, spare = ((candidates[i], places.offer[i]) for i in (place, at))
            if creative is None or not standins.take(slot, stand, spare):
                continue
            self._making.taken[row] = slot
            spares[place] = Chosen(
                row, places.score[at], places.origin[at], creative, 0, places.campaign[at],
                places.value[at], places.base[at], capped=bool(places.capped[at]),
            )  # fmt: skip

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
