"""What competes for the places of a page: candidates and offers, each at its value in CNY per display.

Between permission and allocation: the candidates' probabilities become values by the value table, the offers
that were looked at closely are priced, and what the customer's caps, the exclusion groups and the plan's
contact rules still allow becomes counters that the allocation draws down.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from features.ledger import CapSpec
from serving.campaigns import TIERS, Campaigns
from serving.domain import Candidates, Effort, Scores
from serving.headroom import Headroom
from serving.offering import Met, met, table_of, terms_of
from serving.page import RULE, Offers
from serving.pipeline import Page
from serving.plan_checks import MOST_GROUPS_OF_CAMPAIGN, MOST_GROUPS_OF_ITEM
from serving.running import OfferTable, bounds_of
from serving.worth import OfferWorth, Worth

if TYPE_CHECKING:
    from serving.plan import CompiledSlot

_SHAPES: Final = 256  # sets of slots remembered
ROOMS: Final = 1 + MOST_GROUPS_OF_CAMPAIGN  # counters of an offer
OPTION_ROOMS: Final = MOST_GROUPS_OF_ITEM
_CAP: Final = RULE["cap"]
_EXCLUSION: Final = RULE["exclusion"]
_PROMISE: Final = {TIERS.index("share"): RULE["share"]}  # else a guarantee
_NOT_MEASURED: Final[Scores] = np.zeros(0, np.float32)
_NO_COUNTER: Final = np.iinfo(np.int32).max
_PRICED: Final = frozenset({"full", "light", "popular"})  # the rungs whose scores are probabilities


@dataclass(frozen=True, slots=True, eq=False)
class Market:
    """Parallel to the ranked candidates (n) and to the offers (m)."""

    value: Scores  # (n,) CNY per display of showing it without a campaign
    offers: Offers
    table: NDArray[np.intp]  # (m,) index of each offer in the offer table
    room: NDArray[np.int32]  # counters
    limits: NDArray[np.uint8]  # the rule that each stands for
    counter_of: tuple[int, ...]  # and its campaign, −1 of several
    option_room: NDArray[np.int32]  # (n, 2)
    option_capped: NDArray[np.uint8]  # (n,)
    slot_most: tuple[int, ...]  # per slot of the query, what the contact rules leave
    slot_capped: tuple[bool, ...]
    shut: frozenset[int] = frozenset()  # keys of items and categories that were answered often enough


class Stalls:
    """Makes the market of a page. One per Live."""

    def __init__(
        self,
        campaigns: Campaigns,
        table: OfferTable,
        worth: Worth,
        offers: OfferWorth,
        slots: Iterable[CompiledSlot],
        table_of_items: NDArray[np.void],
    ) -> None:
        """`table_of_items`: the ITEM records of all rows."""
        if (np.diff(table.campaign) < 0).any():
            raise ValueError("the offers of a campaign stand together in the table")
        self._campaigns, self._worth = campaigns, worth
        self.cvr = worth.cvr  # (rows,) P(converted | clicked)
        self._items = table_of_items
        self._held_back: NDArray[np.bool_] | None = None
        self._first = {slot.index: float(slot.rates[0]) for slot in slots}
        self._best: dict[tuple[tuple[int, int], ...], Scores] = {}
        self._rules = tuple(campaigns.caps[index] for index in campaigns.contact_rules)
        self._bounds = [bounds_of(campaigns, c) for c in range(len(campaigns.ids))]
        self._most = np.array([self._at_most(c) for c in range(len(campaigns.ids))], np.int32)
        self._capped = np.array([self._reserves(c) for c in range(len(campaigns.ids))], np.uint8)
        self._looking = frozenset(c for c in range(len(campaigns.ids)) if self._looks(c))
        self._grouped = np.array([bool(of) for of in campaigns.group_of], np.bool_)
        self._promise = np.array(
            [_PROMISE.get(t, RULE["guarantee"]) for t in campaigns.tier.tolist()], np.uint8
        )
        self._columns = table_of(campaigns, table, self._capped, self._promise)
        self._terms = terms_of(offers)
        self._slots_of: dict[tuple[int, ...], NDArray[np.int32]] = {}

    def _at_most(self, c: int) -> int:
        """On one page, whoever asks."""
        caps = [cap for cap in self._bounds[c] if cap.event == "displayed"]
        most = [1 if cap.min_gap_s else cap.most for cap in caps]
        return min([int(self._campaigns.per_page[c]), *most])

    def _reserves(self, c: int) -> bool:
        return bool(self._campaigns.caps_of[c] or self._campaigns.quota_of[c] or self._bounds[c])

    def _looks(self, c: int) -> bool:
        """Whether a cap counts contacts of other campaigns too."""
        return any(cap.keys for cap in self._bounds[c])

    def ruled(self, row: int) -> bool:
        """Whether a contact rule or an exclusion group is on the row even without a campaign."""
        if self._held_back is None:
            self._held_back = self._under_rules()
        return bool(self._held_back[row])

    def _under_rules(self) -> NDArray[np.bool_]:
        items = self._items
        under = np.zeros(len(items), np.bool_)
        under[list(self._campaigns.item_groups)] = True
        for rule in self._rules:
            if rule.event != "displayed":
                continue
            if rule.scope == "channel":
                under[:] = True
            elif rule.scope in ("item", "category"):
                values = items["key" if rule.scope == "item" else "category"]
                under |= np.isin(values, sorted(rule.keys)) if rule.keys else values != 0
        return under

    def best_places(self, shape: tuple[tuple[int, int], ...]) -> Scores:
        """(C,) P(displayed) of the best place that each might have; `shape`: (slot, places) asked for."""
        best = self._best.get(shape)
        if best is None:
            slots = np.zeros(len(self._campaigns.ids), np.uint64)
            np.bitwise_or.at(slots, self._campaigns.offer_campaign, self._campaigns.offer_slots)
            best = np.zeros(len(slots), np.float32)
            for index, count in shape:
                there = ((slots >> np.uint64(index)) & np.uint64(1)) != 0
                best = np.maximum(best, np.where(there & (count > 0), np.float32(self._first[index]), 0))
            if len(self._best) >= _SHAPES:
                self._best.clear()
            self._best[shape] = best = best.astype(np.float32)
        return best

    def of(self, page: Page, ranked: Candidates, effort: Effort) -> Market:
        score = np.asarray(ranked.score, np.float32)
        own = page.measured
        value = self._worth.organic(score, ranked.rows, own) if effort in _PRICED else score
        use, delta = (_NOT_MEASURED, _NOT_MEASURED) if own is None else own
        slots = tuple([asked.spec.index for asked in page.query.slots])
        found = met(
            *(self._columns, self._terms, page.offers, ranked.rows, score, use, delta),
            *(page.prices, page.query.now, self._slot_of(slots)),
        )
        counters = _Counters()
        headroom = Headroom(page.query)
        offers = self._offers(found, counters, headroom)
        n = len(ranked)
        room = np.full((n, OPTION_ROOMS), -1, np.int32)
        capped = np.zeros(n, np.uint8)
        self._groups(ranked, room, counters)
        most, slot_capped, shut = self._ruled(page, ranked, room, capped, counters, headroom)
        left = np.array(counters.left, np.int32)
        limits = np.array(counters.limits, np.uint8)
        of = tuple(counters.of)
        return Market(value, offers, found.at, left, limits, of, room, capped, most, slot_capped, shut)

    def _slot_of(self, slots: tuple[int, ...]) -> NDArray[np.int32]:
        """By the plan's slots: index among those of the page, −1 not asked for."""
        made = self._slots_of.get(slots)
        if made is None:
            if len(self._slots_of) >= _SHAPES:
                self._slots_of.clear()
            made = np.full(1 + max([0, *self._first]), -1, np.int32)
            made[list(slots)] = np.arange(len(slots))
            self._slots_of[slots] = made
        return made

    def _offers(self, found: Met, counters: _Counters, headroom: Headroom) -> Offers:
        candidate, campaign, pin_slot, pin, which = found.whole
        band, capped, roadblock, promise = found.flags
        room = np.full((len(candidate), ROOMS), -1, np.int32)
        if len(candidate):
            left = self._lefts(found.campaigns, headroom)
            room[:, 0] = counters.add_campaigns(left, found.campaigns) + which
            self._exclusive(found.campaigns, which, room, counters)
        return Offers(
            candidate=candidate,
            campaign=campaign,
            slots=found.slots,
            value=found.value,
            base=found.base,
            band=band,
            pin_slot=pin_slot,
            pin=pin,
            room=room,
            capped=capped,
            roadblock=roadblock,
            boost=found.boost,
            promise=promise,
        )

    def _lefts(self, which: NDArray[np.int32], headroom: Headroom) -> list[int]:
        """How many placements each campaign may still have; of most no cap has anything to count."""
        left: list[int] = self._most.take(which).tolist()
        if headroom:
            keys = self._campaigns.keys.take(which).tolist()
            met = headroom.campaigns
            for i, (c, key) in enumerate(zip(which.tolist(), keys, strict=True)):
                if key in met or c in self._looking:
                    left[i] = min([left[i], *(headroom.left(cap, key) for cap in self._bounds[c])])
        return left

    def _exclusive(
        self, which: NDArray[np.int32], local: NDArray[np.int32], room: NDArray[np.int32], counters: _Counters
    ) -> None:
        """Exclusion groups of campaigns: one counter a group for the whole page."""
        for i in self._grouped.take(which).nonzero()[0].tolist():
            for turn, group in enumerate(self._campaigns.group_of[which[i]][: ROOMS - 1]):
                counter = counters.group(group, self._campaigns.groups[group].most)
                room[local == i, 1 + turn] = counter

    def _groups(self, ranked: Candidates, room: NDArray[np.int32], counters: _Counters) -> None:
        """Exclusion groups that name items or categories hold without a campaign too."""
        named = self._campaigns.item_groups
        if not named:
            return
        for row, groups in named.items():
            at = int(ranked.rows.searchsorted(row))
            if at >= len(ranked) or int(ranked.rows[at]) != row:
                continue
            for turn, group in enumerate(groups[:OPTION_ROOMS]):
                room[at, turn] = counters.group(group, self._campaigns.groups[group].most)
            if len(groups) > OPTION_ROOMS:  # more than can be counted: rather not shown than shown too often
                room[at, 0] = counters.add(0, _EXCLUSION)

    def _ruled(
        self,
        page: Page,
        ranked: Candidates,
        room: NDArray[np.int32],
        capped: NDArray[np.uint8],
        counters: _Counters,
        headroom: Headroom,
    ) -> tuple[tuple[int, ...], tuple[bool, ...], frozenset[int]]:
        """The plan's contact rules, which hold for everything, campaign or not."""
        most = [asked.count for asked in page.query.slots]
        by_slot = [False] * len(most)
        shut: frozenset[int] = frozenset()
        for rule in self._rules:
            if rule.event != "displayed":
                shut |= self._answered(rule, page, ranked, room, counters, headroom, most)
            elif rule.scope == "slot":
                self._of_slots(rule, page, most, by_slot, headroom)
            elif rule.scope in ("item", "category"):
                values = ranked.items["key" if rule.scope == "item" else "category"]
                under = np.isin(values, sorted(rule.keys)) if rule.keys else values != 0
                _by_value(rule, values, under, room, counters, headroom if page.query.capped else None)
                capped[under] = 1
            elif rule.scope == "channel":
                channel = page.query.context.channel
                if not rule.keys or channel in rule.keys:
                    left = headroom.left(rule, channel) if page.query.capped else 0
                    counters.tighten(room, np.full(len(room), counters.add(left), np.int32))
                    capped[:] = 1
        if not page.query.capped:
            most = [0 if ruled else count for count, ruled in zip(most, by_slot, strict=True)]
        return tuple(most), tuple(by_slot), shut

    @staticmethod
    def _answered(
        rule: CapSpec,
        page: Page,
        ranked: Candidates,
        room: NDArray[np.int32],
        counters: _Counters,
        headroom: Headroom,
        most: list[int],
    ) -> frozenset[int]:
        """Keys of what was answered (clicked, dismissed …) often enough: it is not shown, and nothing else is
        held back for it, for a display adds nothing to such a rule.
        """
        full = headroom.full(rule)
        if not full:
            return full
        if rule.scope in ("item", "category"):
            values = ranked.items["key" if rule.scope == "item" else "category"]
            room[np.isin(values, sorted(full)), 1] = counters.add(0)
            return full
        for i, asked in enumerate(page.query.slots):
            if (asked.spec.key if rule.scope == "slot" else page.query.context.channel) in full:
                most[i] = 0
        return frozenset()

    @staticmethod
    def _of_slots(
        rule: CapSpec, page: Page, most: list[int], by_slot: list[bool], headroom: Headroom
    ) -> None:
        left: int | None = None  # one for all slots that the rule names together
        for i, asked in enumerate(page.query.slots):
            if rule.keys and asked.spec.key not in rule.keys:
                continue
            by_slot[i] = True
            if left is None or not rule.keys:
                left = headroom.left(rule, asked.spec.key)
            most[i] = min(most[i], left)
            left -= most[i]


class _Counters:
    """How many placements each may still have on this page."""

    __slots__ = ("_groups", "left", "limits", "of")

    def __init__(self) -> None:
        self.left: list[int] = []
        self.limits: list[int] = []
        self.of: list[int] = []  # campaign, −1 of several
        self._groups: dict[int, int] = {}

    def add(self, left: int, rule: int = _CAP, campaign: int = -1) -> int:
        self.left.append(left)
        self.of.append(campaign)
        self.limits.append(rule)
        return len(self.left) - 1

    def add_campaigns(self, left: list[int], campaigns: NDArray[np.int32]) -> int:
        """One for each campaign; the first of them, the others follow."""
        first = len(self.left)
        self.left += left
        self.of += campaigns.tolist()
        self.limits += [_CAP] * len(left)
        return first

    def tighten(self, room: NDArray[np.int32], counter: NDArray[np.int32]) -> None:
        """Give each candidate a contact rule's counter (-1 none), where it has none yet that is tighter.

        A look ahead that knows one rule of each item: the ledger judges by all of them.
        """
        left = np.array([*self.left, _NO_COUNTER], np.int32)  # the last is that of -1
        grouped = np.array([*(limit == _EXCLUSION for limit in self.limits), False], np.bool_)
        old = room[:, 1]
        tighter = (counter >= 0) & (left.take(counter) < left.take(old)) & ~grouped.take(old)
        shut = (counter >= 0) & (left.take(counter) <= 0)  # nothing is left: an exclusion group gives way
        room[:, 1] = np.where(tighter | shut, counter, old)

    def group(self, group: int, most: int) -> int:
        if group not in self._groups:
            self._groups[group] = self.add(most, _EXCLUSION)
        return self._groups[group]


def _by_value(
    rule: CapSpec,
    values: NDArray[np.uint64] | NDArray[np.uint32],
    under: NDArray[np.bool_],
    room: NDArray[np.int32],
    counters: _Counters,
    headroom: Headroom | None,
) -> None:
    """A counter for all that the rule names together, or one for each value by itself.

    `headroom` None: nothing capped may be shown.
    """
    counter = np.full(len(room), -1, np.int32)
    if rule.keys or headroom is None:
        counter[under] = counters.add(0 if headroom is None else headroom.left(rule, 0))
    elif under.any():
        met, local = np.unique(values[under], return_inverse=True)
        of = np.array([counters.add(headroom.left(rule, int(one))) for one in met.tolist()], np.int32)
        counter[under] = of.take(local)
    counters.tighten(room, counter)
