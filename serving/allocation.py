"""The page: which candidate goes to which place, under which campaign, no item twice, no slot short.

`serving.page` decides jointly; here its columns are made from what a page has, and its answer is given
creatives and stand-ins. What the market could not fill, `serving.backfill` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

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
from serving.seats import NOTHING_TO_SHOW, Grid, Named, Seats, gathered
from serving.stability import held_places
from serving.standins import Rules, Stand, agreeing
from serving.surfaces import RECIPES

MOST_SHAPES: Final = 256
MOST_CATEGORIES: Final = 512  # of a catalogue that pages count one by one
MOST_TURNS: Final = 12  # solutions in which some chosen item turned out to have nothing to show
_IN_ORDER: Final = frozenset({"cached", "fallback"})  # rungs whose values are only an order
_BY_RULE: Final = frozenset({RULE["pin"], RULE["mandatory"]})
_COUNTERS: Final = frozenset({RULE["cap"], RULE["exclusion"]})  # rules whose `by` is a counter


class Allocation:
    """One page. `fill` gives what stands at its places."""

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

    def fill(self) -> Seats:
        seats, bare = self._settled() if len(self.candidates) else (Seats.of(()), True)
        if not bare and self._complete(seats):
            return seats
        for slot, places in zip(self._slots, seats.chosen(len(self._slots)), strict=True):
            for chosen in places:
                self._making.place(slot, chosen)
        for index, spare in seats.spares.items():
            self._making.taken[spare.row] = seats.slot[index]
        page, live, effort = self._page, self._live, self._effort
        BackFill(page, live, effort, self.candidates, self.market, self._members, self._making).fill()
        return Seats.of([seated(slot.chosen) for slot in self._slots])

    def _complete(self, seats: Seats) -> bool:
        """Whether the market's page needs nothing from behind: no slot is short, every pin is in its place,
        every reserved source has its place."""
        have = [0] * len(self._slots)
        for index in seats.slot:
            have[index] += 1
        if any(pin not in (-1, at) for pin, at in zip(seats.pin, seats.position, strict=True)):
            return False
        end = 0
        for slot, many in zip(self._slots, have, strict=True):
            begin, end = end, end + many
            if many < slot.count and slot.must_fill:
                return False
            if slot.recipe.reserved and self._reserves(slot, seats, begin, end):
                return False
        return True

    def _reserves(self, slot: Filling, seats: Seats, begin: int, end: int) -> bool:
        """Whether a last place of the slot may have to go to a reserved source that has none."""
        met = None
        for at, source in enumerate(slot.recipe.reserved, start=1):
            bit, last = 1 << source, end - at
            if last < begin or any(origin & bit for origin in seats.origin[begin:end]):
                continue
            met = int(np.bitwise_or.reduce(self.candidates.origin)) if met is None else met
            if not met & bit:
                continue
            if seats.campaign[last] < 0 and not seats.capped[last] and not seats.flags[last] & PINNED:
                return True
        return False

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

    def _settled(self) -> tuple[Seats, bool]:
        """Solved, and again without what has nothing to show, until everything chosen has; whether something
        has not even so."""
        for _ in range(MOST_TURNS):
            solution = solve(self._problem(), tags=self._page.query.tagged)
            seats, bare = self._read(solution)
            if not bare:
                break
            for slot, candidate in bare:
                bit = ~np.uint64(self._slots[slot].asked.spec.bit)
                self._members[candidate] &= bit
                self.offers.slots[self.offers.candidate == candidate] &= bit
        return seats, bool(bare)

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

    def _read(self, solution: Solution) -> tuple[Seats, list[tuple[int, int]]]:
        """What was chosen, and (slot, candidate) of what has nothing to show.

        Column by column: what stands by value alone, nearly all, is not looked at one by one.
        """
        found = (solution.spare_candidate >= 0).nonzero()[0]
        every, offers, many = solution.candidate, solution.offer, len(solution.candidate)
        if len(found):  # the stand-ins behind the places
            every = np.concatenate([every, solution.spare_candidate.take(found)])
            offers = np.concatenate([offers, solution.spare_offer.take(found)])
        whole, parts = gathered(self._named(), every, offers)
        rows, origins, campaigns, named, reserves = whole.tolist()
        scores, values, bases = parts.tolist()
        slots = solution.slot.tolist()
        picks = [self._live.picks(slot.asked.spec.layout_code, self._english) for slot in self._slots]
        creatives = [picks[slot][row] for slot, row in zip(slots, rows, strict=False)]
        bare: list[tuple[int, int]] = []
        for at, creative in enumerate(creatives):
            if named[at] >= 0 or creative < OWN_TITLE:
                asked = self.shown(slots[at], rows[at], named[at])
                if asked is None:
                    bare.append((slots[at], int(every[at])))
                creatives[at] = NOTHING_TO_SHOW if asked is None else asked
        by_slot = self.market.slot_capped
        capped = [bool(own) or by_slot[slot] for own, slot in zip(reserves, slots, strict=False)]
        flags = [RESERVED if one else 0 for one in capped]
        rules, by, pins = solution.rule.tolist(), solution.by.tolist(), [-1] * many
        for at in solution.rule.nonzero()[0].tolist():
            by[at] = self._blamed(rules[at], by[at])
            if rules[at] in _BY_RULE:
                pins[at] = self._pin(slots[at], int(offers[at]))
                flags[at] |= PINNED if pins[at] >= 0 else 0
        spares: dict[int, Chosen] = {}
        if len(found):
            behind = zip(
                found.tolist(), rows[many:], scores[many:], origins[many:], campaigns[many:], values[many:],
                bases[many:], named[many:], reserves[many:], strict=True,
            )  # fmt: skip
            spares = self._stand_ins(solution, behind, capped)
        own = slice(None, many)
        return Seats(
            *(slots, solution.position.tolist(), rows[own], scores[own], origins[own], creatives, flags),
            *(campaigns[own], values[own], bases[own], solution.tag.tolist(), rules, by, capped, pins),
            spares=spares,
            grid=Grid(solution.slot, solution.candidate, whole, parts, solution.ranked),
        ), bare

    def _named(self) -> Named:
        candidates, market, offers = self.candidates, self.market, self.offers
        return Named(
            *(candidates.rows, candidates.origin, candidates.score, market.value, market.option_capped),
            *(offers.campaign, market.table, offers.value, offers.base, offers.capped),
        )

    def _stand_ins(
        self, solution: Solution, behind: Iterable[tuple[Any, ...]], capped: list[bool]
    ) -> dict[int, Chosen]:
        """What stands in where the ledger refuses a place, by the place's index; `behind`: what was found."""
        may: list[Chosen] = []
        at: list[int] = []
        slots = solution.slot.tolist()
        for place, row, score, origin, campaign, value, base, named, reserves in behind:
            slot = slots[place]
            if not capped[place] or self.market.slot_capped[slot]:
                continue
            creative = self.shown(slot, row, named)
            if creative is not None:
                at.append(place)
                may.append(
                    Chosen(row, score, origin, creative, 0, campaign, value, base, capped=bool(reserves))
                )
        if not at:
            return {}
        where = np.array(at, np.int64)
        page = Stand(solution.slot, solution.candidate, solution.offer)
        spares = Stand(*(column.take(where) for column in (solution.slot, *solution[9:11])))
        most = self._shape().kind_most
        market, offers, kinds = self.market, self.offers, self.candidates.items["kind"]
        rules = Rules(market.room, market.option_room, offers.room, kinds, most)
        agree = agreeing(page, where, spares, rules)
        return {place: one for place, one, stands in zip(at, may, agree.tolist(), strict=True) if stands}

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
