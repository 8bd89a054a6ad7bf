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
from serving.page import RULE
from serving.page_state import F4, I4, I8, I_CAPPED, I_CATEGORY, I_ROOM, O_ROOM, U1
from serving.pipeline import Page
from serving.plan_checks import MOST_GROUPS_OF_CAMPAIGN, MOST_GROUPS_OF_ITEM
from serving.running import OfferTable, bounds_of
from serving.stocking import OPTION_ROOMS, ROOMS, Stock, deals_of, goods_of, stocked
from serving.worth import OfferWorth, Worth

if TYPE_CHECKING:
    from serving.plan import CompiledSlot

_SHAPES: Final = 256  # sets of slots remembered
MOST_CATEGORIES: Final = 512  # of a catalogue that pages count one by one
_CAP: Final = RULE["cap"]
_EXCLUSION: Final = RULE["exclusion"]
_PROMISE: Final = {TIERS.index("share"): RULE["share"]}  # else a guarantee
_NOT_MEASURED: Final[Scores] = np.zeros(0, np.float32)
_NO_COUNTER: Final = np.iinfo(np.int32).max
_PRICED: Final = frozenset({"full", "light", "popular"})  # the rungs whose scores are probabilities
assert ROOMS == 1 + MOST_GROUPS_OF_CAMPAIGN and OPTION_ROOMS == MOST_GROUPS_OF_ITEM


@dataclass(frozen=True, slots=True, eq=False)
class Market:
    """Parallel to the ranked candidates (n) and to the offers (m); packed as the page's loops take them."""

    value: Scores  # (n,) CNY per display of showing it without a campaign
    options: I8  # (n, 7) by the columns I_… of serving.page_state
    offers: I8  # (m, 15) by O_…
    worth: F4  # (m, 3) by O_VALUE …
    table: I8  # (m,) index of each offer in the offer table
    room: I4  # (R,) counters
    limits: U1  # (R,) the rule that each stands for
    counter_of: I4  # (R,) and its campaign, −1 of several
    slots: tuple[int, ...]  # of the query, by their index in the plan
    slot_most: tuple[int, ...]  # per slot of the query, what the contact rules leave
    slot_capped: tuple[bool, ...]
    shut: frozenset[int] = frozenset()  # keys of items and categories that were answered often enough

    @property
    def option_room(self) -> I4:
        """(n, 2) counters that any placement of a candidate uses, −1 none."""
        return np.ascontiguousarray(self.options[:, I_ROOM : I_ROOM + OPTION_ROOMS], np.int32)

    @property
    def option_capped(self) -> U1:
        """(n,) 1: even without a campaign it needs a reservation."""
        return np.ascontiguousarray(self.options[:, I_CAPPED], np.uint8)


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
        members: NDArray[np.uint64],
        categories: NDArray[np.int32],
    ) -> None:
        """`table_of_items`: the ITEM records of all rows; `members`: the slots that each may hold without a
        campaign; `categories`: dense, 0 none.
        """
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
        capped = np.array([self._reserves(c) for c in range(len(campaigns.ids))], np.uint8)
        self._looking = frozenset(c for c in range(len(campaigns.ids)) if self._looks(c))
        self._grouped = np.array([bool(of) for of in campaigns.group_of], np.bool_)
        self._any_grouped = bool(self._grouped.any())
        promise = np.array([_PROMISE.get(t, RULE["guarantee"]) for t in campaigns.tier.tolist()], np.uint8)
        kinds = np.ascontiguousarray(table_of_items["kind"])
        self._goods = goods_of(worth, members, categories, kinds)
        self._deals = deals_of(campaigns, table, offers, capped, promise)
        self._by_key = {key: c for c, key in enumerate(campaigns.keys.tolist())}
        self._many_categories = len(categories) > 0 and int(categories.max()) > MOST_CATEGORIES
        self.where = np.zeros(len(kinds), np.int32)  # scratch by row, of loops that keep Python's lock
        self._caps = np.full(len(campaigns.ids), _CAP, np.uint8)
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
        own, slots = page.measured, tuple([asked.spec.index for asked in page.query.slots])
        use, delta = (_NOT_MEASURED, _NOT_MEASURED) if own is None else own
        stock = Stock._make(
            stocked(
                *(*self._goods, *self._deals), self._most, self.where,
                page.offers, ranked.rows, ranked.origin, np.asarray(ranked.score, np.float32), use, delta,
                page.prices, page.query.now, self._slot_of(slots), effort not in _PRICED,
            )
        )  # fmt: skip
        if self._many_categories:
            _renumber(stock.options)
        headroom = Headroom(page.query)
        if headroom:
            self._lefts(stock, headroom)
        counters = _Counters(stock.campaigns, stock.left)
        if self._any_grouped:
            self._exclusive(stock, counters)
        self._groups(ranked, stock.options, counters)
        most, slot_capped, shut = self._ruled(page, ranked, stock.options, counters, headroom)
        room, limits, of = counters.columns(self._caps)
        value, options, offers, worth, table, _, _ = stock
        return Market(value, options, offers, worth, table, room, limits, of, slots, most, slot_capped, shut)

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

    def _lefts(self, stock: Stock, headroom: Headroom) -> None:
        """Lower what campaigns may have to what their caps leave; of most no cap has anything to count."""
        met = self._looking | {self._by_key[key] for key in headroom.campaigns if key in self._by_key}
        if not met:
            return
        for i, c in enumerate(stock.campaigns.tolist()):
            if c in met:
                key = int(self._campaigns.keys[c])
                stock.left[i] = min([stock.left[i], *(headroom.left(cap, key) for cap in self._bounds[c])])

    def _exclusive(self, stock: Stock, counters: _Counters) -> None:
        """Exclusion groups of campaigns: one counter a group for the whole page."""
        room = stock.offers[:, O_ROOM : O_ROOM + ROOMS]
        for i in self._grouped.take(stock.campaigns).nonzero()[0].tolist():
            for turn, group in enumerate(self._campaigns.group_of[stock.campaigns[i]][: ROOMS - 1]):
                counter = counters.group(group, self._campaigns.groups[group].most)
                room[room[:, 0] == i, 1 + turn] = counter

    def _groups(self, ranked: Candidates, options: I8, counters: _Counters) -> None:
        """Exclusion groups that name items or categories hold without a campaign too."""
        named = self._campaigns.item_groups
        if not named:
            return
        room = options[:, I_ROOM : I_ROOM + OPTION_ROOMS]
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
        options: I8,
        counters: _Counters,
        headroom: Headroom,
    ) -> tuple[tuple[int, ...], tuple[bool, ...], frozenset[int]]:
        """The plan's contact rules, which hold for everything, campaign or not."""
        room, capped = options[:, I_ROOM : I_ROOM + OPTION_ROOMS], options[:, I_CAPPED]
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
        room: I8,
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


def _renumber(options: I8) -> None:
    """Number the categories of a large catalogue anew, by those that the page's candidates have."""
    known, few = np.unique(options[:, I_CATEGORY], return_inverse=True)
    options[:, I_CATEGORY] = few if len(known) and known[0] == 0 else few + 1


class _Counters:
    """How many placements each may still have on this page: campaigns first, then whatever is added."""

    __slots__ = ("_added", "_campaigns", "_groups", "_left")

    def __init__(self, campaigns: I4, left: I4) -> None:
        self._campaigns, self._left = campaigns, left
        self._added: list[tuple[int, int]] = []  # placements left, rule
        self._groups: dict[int, int] = {}

    def add(self, left: int, rule: int = _CAP) -> int:
        """One more: its number."""
        self._added.append((left, rule))
        return len(self._left) + len(self._added) - 1

    def columns(self, caps: U1) -> tuple[I4, U1, I4]:
        """What each leaves, the rule that it stands for, and its campaign (−1 of several). `caps`: that rule
        as often as there are campaigns.
        """
        w = len(self._left)
        if not self._added:
            return self._left, caps[:w], self._campaigns
        left, rules = zip(*self._added, strict=True)
        return (
            np.append(self._left, np.array(left, np.int32)),
            np.append(caps[:w], np.array(rules, np.uint8)),
            np.append(self._campaigns, np.full(len(left), -1, np.int32)),
        )

    def tighten(self, room: I8, counter: NDArray[np.int32]) -> None:
        """Give each candidate a contact rule's counter (-1 none), where it has none yet that is tighter.

        A look ahead that knows one rule of each item: the ledger judges by all of them.
        """
        added = [left for left, _ in self._added]
        left = np.append(self._left, np.array([*added, _NO_COUNTER], np.int32))  # the last is that of -1
        exclusive = [rule == _EXCLUSION for _, rule in self._added]
        grouped = np.append(np.zeros(len(self._left), np.bool_), np.array([*exclusive, False]))
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
    room: I8,
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
