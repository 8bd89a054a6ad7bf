"""The page: which candidate goes to which place, under which campaign, no item twice, no slot short.

`serving.page` decides jointly; here its columns are made from what a page has, and its answer is given
creatives and stand-ins. What the market could not fill, `serving.backfill` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.reservations import RESERVED
from serving.backfill import BackFill
from serving.domain import Candidates, Effort, SlotRequest
from serving.filling import Chosen, Filling, Making, seated
from serving.ghosts import Ghost
from serving.live import Live
from serving.market import Market
from serving.page import NOTHING_HELD, RULE
from serving.page_seating import (
    F_CANDIDATE,
    F_OFFER,
    F_SLOT,
    F_SPARE,
    F_SPARE_OFFER,
    alone,
    bar,
    laid,
)
from serving.page_slots import Shape, shape_of
from serving.page_state import (
    I4,
    I8,
    I_CAPPED,
    I_KIND,
    I_MEMBERS,
    O_BASE,
    O_CAMPAIGN,
    O_CANDIDATE,
    O_CAPPED,
    O_ROOM,
    O_SLOTS,
    O_VALUE,
)
from serving.pipeline import Page
from serving.placed import Later
from serving.seats import CREATIVE, NOTHING_TO_SHOW, OWN_TITLE, PINNED_AT, TAG, Behind, Grid, Seats
from serving.stability import held_places
from serving.standins import Rules, Stand, agreeing
from serving.surfaces import RECIPES
from serving.why import reasons

MOST_SHAPES: Final = 256
MOST_TURNS: Final = 12  # solutions in which some chosen item turned out to have nothing to show
_IN_ORDER: Final = frozenset({"cached", "fallback"})  # rungs whose values are only an order
_COUNTERS: Final = (RULE["cap"], RULE["exclusion"])  # rules whose `by` is a counter
_NONE: Final[Mapping[int, Chosen]] = {}


class Allocation:
    """One page. `fill` gives what stands at its places."""

    def __init__(
        self, page: Page, live: Live, candidates: Candidates, effort: Effort, market: Market
    ) -> None:
        """`market` becomes what this customer may be shown of it, once the page is filled."""
        self._page, self._live, self._effort, self._whole = page, live, effort, market
        self.market, self.candidates = market, candidates
        self.ghosts: tuple[Ghost, ...] = ()  # what they would have been shown, were they not held out
        self._unit, self._salts, self._shares = live.ghosts.of_page(page)
        self._without = False  # whether the page is made without what they are held out from
        self._now = page.query.now
        self._english = page.query.context.locale.startswith("en")
        self._counts = self._places()
        self._shape = self._shape_of()
        self._options, self._offers = market.options, market.offers
        self._own = False  # whether these are copies, to be changed
        self._bar()

    def fill(self) -> Seats:
        if not len(self.candidates):
            return self._from_behind()
        seats, complete = self._settled()
        if self.ghosts:
            self._hold_out()
        return seats if complete else self._filled(seats)[0]

    def _from_behind(self) -> Seats:
        """A page on which nothing was proposed: for a second the same for all who may be shown the same."""
        market, query, live = self.market, self._page.query, self._live
        if market.shut or query.anchor_row is not None or any(asked.exclude for asked in query.slots):
            return self._filled(Seats.of(()))[0]
        key = (self._effort, market.slots, self._counts, market.slot_capped, self._english, int(self._now))
        known = live.behind.get(key)
        if known is None or not self._may_have(known):
            seats, behind = self._filled(Seats.of(()))
            known = Behind(seats, *behind.permitted)
            if behind.by_seconds:
                if len(live.behind) >= MOST_SHAPES:
                    live.behind.clear()
                live.behind[key] = known
        return known.seats._replace(creative=known.seats.creative.copy(), row=known.seats.row.copy())

    def _may_have(self, known: Behind) -> bool:
        """Whether permission says of this customer what it said of whoever the page was made for."""
        drops = self._live.pipelines[self._effort].permit(self._page, known.rows)
        return np.array_equal(drops, known.drops)

    def _filled(self, seats: Seats) -> tuple[Seats, BackFill]:
        """What the market left short filled from behind."""
        page, live, effort = self._page, self._live, self._effort
        slots = [self._filling(index, asked) for index, asked in enumerate(page.query.slots)]
        making = Making(slots)
        for slot, places in zip(slots, seats.chosen(len(slots)), strict=True):
            for chosen in places:
                making.place(slot, chosen)
        for index, spare in seats.spares.items():
            making.taken[spare.row] = seats.slot[index]
        members = self._options[:, I_MEMBERS].view(np.uint64)
        behind = BackFill(page, live, effort, self.candidates, self.market, members, making)
        behind.fill()
        return Seats.of([seated(slot.chosen) for slot in slots]), behind

    # --- what competes

    def _places(self) -> tuple[int, ...]:
        """Of each slot, how many may be filled."""
        kills, most = self._live.kills, self.market.slot_most
        if not kills.everything and not kills.slots:
            return most
        stopped = [kills.everything or asked.spec.name in kills.slots for asked in self._page.query.slots]
        return tuple([0 if off else count for off, count in zip(stopped, most, strict=True)])

    def _shape_of(self) -> Shape:
        """The same for all pages that ask for the same places."""
        in_order = self._effort in _IN_ORDER
        key = (in_order, self.market.slots, self._counts, self.market.slot_capped)
        made = self._live.shapes.get(key)
        if made is None:
            if len(self._live.shapes) >= MOST_SHAPES:
                self._live.shapes.clear()
            specs = [asked.spec for asked in self._page.query.slots]
            asked = list(zip(specs, self._counts, strict=True))
            made = self._live.shapes[key] = shape_of(asked, self.market.slot_capped, in_order=in_order)
        return made

    def _filling(self, index: int, asked: SlotRequest) -> Filling:
        rows = frozenset(self._excluded(asked))
        return Filling(index, asked, RECIPES[asked.spec.layout], self._counts[index], rows)

    def _excluded(self, asked: SlotRequest) -> list[int]:
        """Rows that the slot may not hold: the anchor, and what the app left out."""
        anchor = self._page.query.anchor_row
        rows = [] if anchor is None else [anchor]
        if asked.exclude:
            keys = np.fromiter(sorted(asked.exclude), np.uint64, len(asked.exclude))
            rows += self._live.items.rows_of_keys(keys).tolist()
        return rows

    def _bar(self) -> None:
        """Take a slot's bit from what is excluded there, or has nothing to show there."""
        shape, rows = self._shape, self.candidates.rows
        if self._live.bare(self._english):
            picks = self._live.pick_table(self._english)
            bar(shape.whole, shape.terms, *self._ours(), rows, picks)
        for asked in self._page.query.slots:
            if self._page.query.anchor_row is not None or asked.exclude:
                out = np.isin(rows, self._excluded(asked))
                self._refuse(asked.spec.bit, out.nonzero()[0])

    def _refuse(self, bit: int, candidates: NDArray[np.intp]) -> None:
        """Take a slot's bit from candidates and the offers on them."""
        options, offers = self._ours()
        options[candidates, I_MEMBERS] &= ~np.uint64(bit).astype(np.int64)
        offers[np.isin(offers[:, O_CANDIDATE], candidates), O_SLOTS] &= ~np.uint64(bit).astype(np.int64)

    def _ours(self) -> tuple[I8, I8]:
        """The market's options and offers, to be changed."""
        if not self._own:
            self._options, self._offers, self._own = self._options.copy(), self._offers.copy(), True
        return self._options, self._offers

    # --- the market's answer

    def _settled(self) -> tuple[Seats, bool]:
        """Solved, and again without what has nothing to show, until everything chosen has; whether nothing is
        needed from behind."""
        for _ in range(MOST_TURNS):
            seats, bare, complete = self._solved()
            apart = self._without or not self.ghosts  # whether these are for this customer to see
            for slot, candidate in bare:
                self._refuse(self._page.query.slots[slot].spec.bit, np.array([candidate]))
            if not bare and apart:
                break
            self._without = self._without or not bare
        if not apart:  # the turns are spent: nobody is shown what they are held out from all the same
            self._without = True
            seats, bare, complete = self._solved()
        return seats, complete and not bare

    def _hold_out(self) -> None:
        """Take from page and market what the customer is held out from."""
        page, market, held = self._page, self._whole, self._live.ghosts.held_out_of(self._unit)
        page.offers = page.offers[~held.take(self._live.offers.campaign.take(page.offers))]
        if page.running is not None:
            page.running = page.running & ~held
        options, offers = self._ours()
        never = held.take(offers[:, O_CAMPAIGN])
        alone(options, offers, never.view(np.uint8))
        self.market = replace(market, options=options, offers=offers[~never])

    def _solved(self) -> tuple[Seats, list[tuple[int, int]], bool]:
        """What was chosen; (slot, candidate) of what has nothing to show; whether it fills the page."""
        page, live, market, shape = self._page, self._live, self._whole, self._shape
        query, some, held = page.query, self.candidates, NOTHING_HELD
        if shape.stable:
            held = held_places(query, query.slots, some.rows, live.items)
        why = reasons(page.taste is not None and page.taste.informed, bool(page.segment))
        picks = live.pick_table(self._english)
        found, whole, parts, complete, unsure, spares, order, ghosts, without = laid(
            shape.whole, shape.parts, shape.terms, shape.shown, self._options, market.value, self._offers,
            market.worth, market.room, market.limits, held, query.tagged, market.table, some.rows, some.score,
            why, picks, live.naming, live.keys, live.plan.campaigns.keys, live.stalls.cvr,
            self._unit, self._salts, self._shares, self._without,
        )  # fmt: skip
        if not self._without:
            named = live.plan.campaigns.keys
            self.ghosts = tuple([Ghost(c, int(named[c]), slot, at) for c, slot, at in ghosts.tolist()])
            self._without = without
        told = whole[: PINNED_AT + 1].tolist()
        rows, origins, campaigns, named, _, slots, positions, creatives, flags, rules, by, pins = told
        scores, values, bases, tags = parts[: TAG + 1].tolist()
        bare: list[tuple[int, int]] = []
        if unsure:
            for at, creative in enumerate(creatives):
                if creative < OWN_TITLE:
                    asked = self.shown(slots[at], rows[at], named[at])
                    creatives[at] = whole[CREATIVE, at] = NOTHING_TO_SHOW if asked is None else asked
                    if asked is None:
                        bare.append((slots[at], int(found[F_CANDIDATE, at])))
        if query.tagged:
            for at, rule in enumerate(rules):
                if rule in _COUNTERS and by[at] >= 0:
                    by[at] = int(market.counter_of[by[at]])
        capped = [one & RESERVED != 0 for one in flags]
        standing: Mapping[int, Chosen] = _NONE
        if spares:
            standing = Later(partial(self._stand_ins, found, capped))
        grid = Grid(found[F_SLOT], found[F_CANDIDATE], whole, parts, order)
        seats = Seats(
            *(slots, positions, rows, scores, origins, creatives, flags, campaigns, values, bases, tags),
            *(rules, by, capped, pins, standing, grid),
        )
        return seats, bare, complete

    def _stand_ins(self, found: I4, capped: list[bool]) -> dict[int, Chosen]:
        """What stands in where the ledger refuses a place, by the place's index; `found` by F_SLOT …"""
        may: list[Chosen] = []
        at: list[int] = []
        for place in (found[F_SPARE] >= 0).nonzero()[0].tolist():
            slot = int(found[F_SLOT, place])
            if not capped[place] or self._whole.slot_capped[slot]:
                continue
            chosen = self._standing(slot, int(found[F_SPARE, place]), int(found[F_SPARE_OFFER, place]))
            if chosen is not None:
                at.append(place)
                may.append(chosen)
        if not at:
            return {}
        where = np.array(at, np.int64)
        page = Stand(found[F_SLOT], found[F_CANDIDATE], found[F_OFFER])
        spares = Stand(*(found[row].take(where) for row in (F_SLOT, F_SPARE, F_SPARE_OFFER)))
        market = self._whole
        rules = Rules(
            market.room,
            market.option_room,
            np.ascontiguousarray(market.offers[:, O_ROOM:], np.int32),
            np.ascontiguousarray(market.options[:, I_KIND], np.uint8),
            self._shape.slots.kind_most,
        )
        agree = agreeing(page, where, spares, rules)
        return {place: one for place, one, stands in zip(at, may, agree.tolist(), strict=True) if stands}

    def _standing(self, slot: int, candidate: int, offer: int) -> Chosen | None:
        """A candidate in a slot by an offer (-1 none); None where it has nothing to show."""
        market, candidates = self._whole, self.candidates
        row, named, campaign = int(candidates.rows[candidate]), -1, -1
        value = base = float(market.value[candidate])
        capped = bool(market.options[candidate, I_CAPPED])
        if offer >= 0:
            named, campaign = int(market.table[offer]), int(market.offers[offer, O_CAMPAIGN])
            value, base = float(market.worth[offer, O_VALUE]), float(market.worth[offer, O_BASE])
            capped = capped or bool(market.offers[offer, O_CAPPED])
        creative = self.shown(slot, row, named)
        if creative is None:
            return None
        score, origin = float(candidates.score[candidate]), int(candidates.origin[candidate])
        return Chosen(row, score, origin, creative, 0, campaign, value, base, capped=capped)

    def shown(self, slot: int, row: int, named: int) -> int | None:
        """The creative; of an offer (of the table, -1 none) that names some, the first that may be shown."""
        layout = self._page.query.slots[slot].spec.layout_code
        allowed = self._live.named_creatives[named] if named >= 0 else None
        if allowed is not None:
            return self._live.creative_among(row, layout, self._english, self._now, allowed)
        return self._live.creative(row, layout, self._english, self._now)
