"""A page as columns: what may stand where, what it is worth, what limits it, and what was decided.

The objective is the sum over places of

    rates[s, k] · value · diminish[s]^(earlier items of the category in the slot)
                        · cross[s]^(items of the category in the page's other slots)

less `interruption` of each slot that is not empty and `switching` of each changed place of a stable slot.
The factors shrink gains only: what is negative stays so. Mandatory offers are placed first and house offers
last, whatever they are worth. The loops: page_state, page_fill (greedy), page_moves, page_steps,
page_counters and page_search (improvement), page_whole, page_tags; `solve` is their only door.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.page_packing import packed
from serving.page_solving import solve_each

RULES: Final = (
    *("", "pin", "guarantee", "lever", "share", "cap", "exclusion", "mandatory"),
    *("house", "roadblock", "exploration"),
)
"""Why a place is as it is; a rule's place here is its code in `Solution.rule`. 0: by value alone."""

RULE: Final = {name: code for code, name in enumerate(RULES)}
MANDATORY, MARKET, HOUSE = 0, 1, 2  # bands
ORGANIC: Final = -1  # instead of an offer
NO_LIMIT: Final = 255  # of `kind_most`

_NO_FLAGS: Final[NDArray[np.uint8]] = np.zeros(0, np.uint8)
_NO_VALUES: Final[NDArray[np.float32]] = np.zeros(0, np.float32)


class Slots(NamedTuple):
    """S slots of a query in page order; K is at least the largest count."""

    bit: NDArray[np.uint64]  # (S,) the slot's bit in `members` and `Offers.slots`
    count: NDArray[np.int32]  # type: ignore[assignment] # (S,) places; 0 = closed
    rates: NDArray[np.float32]  # (S, K) P(displayed | slot, position), non-increasing, 0 padded
    origins: NDArray[np.uint32]  # (S,) sources that count for the layout
    per_category: NDArray[np.int32]  # (S,) preference: yields before a place stays empty
    per_kind: NDArray[np.int32]  # (S,) likewise
    diminish: NDArray[np.float32]  # (S,) in (0, 1]
    cross: NDArray[np.float32]  # (S,) in (0, 1]; 1 = none
    interruption: NDArray[np.float32]  # (S,) CNY; > 0: the slot may stay empty
    switching: NDArray[np.float32]  # (S,) CNY per changed place of a stable slot; 0 = not stable
    kind_least: NDArray[np.uint8]  # (S, kinds)
    kind_most: NDArray[np.uint8]  # (S, kinds) NO_LIMIT = none


class Options(NamedTuple):
    """n candidates, permitted and scored, by ascending row."""

    members: NDArray[np.uint64]  # (n,) slots that may hold the item organically
    origin: NDArray[np.uint32]  # (n,) sources that proposed it
    value: NDArray[np.float32]  # (n,) CNY per display, organic
    category: NDArray[np.int32]  # (n,) dense, below n + 1; 0 none
    kind: NDArray[np.uint8]  # (n,)
    room: NDArray[np.int32]  # (n, 2) counters any placement of the item uses, or -1
    capped: NDArray[np.uint8]  # (n,) 1: even organically it needs a reservation


class Offers(NamedTuple):
    """m campaign offers: a campaign on a candidate. The last three columns may be left out (empty)."""

    candidate: NDArray[np.int32]  # (m,)
    campaign: NDArray[np.int32]  # (m,)
    slots: NDArray[np.uint64]  # (m,)
    value: NDArray[np.float32]  # (m,) CNY per display with lever and prices
    base: NDArray[np.float32]  # (m,) without prices, lever 1
    band: NDArray[np.uint8]  # (m,) MANDATORY, MARKET, HOUSE
    pin_slot: NDArray[np.int32]  # (m,) index in Slots, or -1
    pin: NDArray[np.int32]  # (m,) position, or -1
    room: NDArray[np.int32]  # (m, 6) counters a placement uses, or -1
    capped: NDArray[np.uint8]  # (m,) 1: needs a reservation
    roadblock: NDArray[np.uint8] = _NO_FLAGS  # (m,) 1: its campaign takes its slots whole or not at all
    boost: NDArray[np.float32] = _NO_VALUES  # (m,) CNY per display of `value - base` that the lever adds
    promise: NDArray[np.uint8] = _NO_FLAGS  # (m,) rule its price stands for (guarantee unless said)


class Problem(NamedTuple):
    """One page. `limits` says which rule each counter stands for; empty: all are caps."""

    slots: Slots
    options: Options
    offers: Offers
    room: NDArray[np.int32]  # (R,) placements that each counter still allows on this page
    held: NDArray[np.int32]  # (h, 3) slot, candidate, position shown before, in stable slots
    limits: NDArray[np.uint8] = _NO_FLAGS  # (R,)


class Solution(NamedTuple):
    """p places in page order: by slot, then by position; positions of a slot have no gap."""

    slot: NDArray[np.int32]
    position: NDArray[np.int32]
    candidate: NDArray[np.int32]
    offer: NDArray[np.int32]  # ORGANIC where no campaign stands behind it
    value: NDArray[np.float32]  # per display, with lever and prices
    base: NDArray[np.float32]  # per display, without
    tag: NDArray[np.float32]  # CNY of base value that the page forgoes for the rule; may be negative
    rule: NDArray[np.uint8]
    by: NDArray[np.int32]  # campaign; of a cap or exclusion the counter; -1 none
    spare_candidate: NDArray[np.int32]  # stands in when a capped place is not granted; -1 none
    spare_offer: NDArray[np.int32]
    worth: float  # the objective
    ranked: NDArray[np.int32]  # (n,) the options, by what they can be worth at most


class Batch(NamedTuple):
    """B pages that share slots: options, offers, room and held one after another with their bounds (B + 1).

    Candidates of offers and held, and counters, count from 0 within their page.
    """

    slots: Slots
    options: Options
    option_at: NDArray[np.int64]
    offers: Offers
    offer_at: NDArray[np.int64]
    room: NDArray[np.int32]
    room_at: NDArray[np.int64]
    held: NDArray[np.int32]
    held_at: NDArray[np.int64]
    limits: NDArray[np.uint8] = _NO_FLAGS


class Pages(NamedTuple):
    """Places of B pages, those of page b at `at[b]:at[b + 1]`; candidates, offers from 0 in each."""

    at: NDArray[np.int64]
    slot: NDArray[np.int32]
    position: NDArray[np.int32]
    candidate: NDArray[np.int32]
    offer: NDArray[np.int32]
    value: NDArray[np.float32]
    base: NDArray[np.float32]
    factor: NDArray[np.float32]  # rate times interactions: factor · value is the place's share of the worth
    tag: NDArray[np.float32]
    rule: NDArray[np.uint8]
    by: NDArray[np.int32]
    worth: NDArray[np.float64]  # (B,)


def no_offers() -> Offers:
    """A page without campaigns."""
    none, flags, values = np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.float32)
    room = np.zeros((0, 6), np.int32)
    return Offers(none, none, np.zeros(0, np.uint64), values, values, flags, none, none, room, flags)


NOTHING_HELD: Final[NDArray[np.int32]] = np.zeros((0, 3), np.int32)


def solve(problem: Problem, *, tags: bool = True) -> Solution:
    """The page. Pure: equal problems give equal bits. `tags` False leaves the tags at 0."""
    slots, options, offers, room, held, limits = problem
    bounds = np.zeros((2, 4), np.int64)
    bounds[1] = len(options.value), len(offers.value), len(room), len(held)
    given = packed(slots, options, offers, room, limits, held)
    _, whole, parts, worth, ranked = solve_each(given, bounds, tags, _NO_FLAGS)
    slot, position, candidate, offer, rule, by, spare_candidate, spare_offer = whole
    return Solution(
        *(slot, position, candidate, offer, parts[0], parts[1], parts[3], rule.astype(np.uint8), by),
        *(spare_candidate, spare_offer, float(worth[0]), ranked),
    )


def solve_many(batch: Batch, *, tags: bool = False) -> Pages:
    """Many pages at once, for prices, booking and tags: per page the same as `solve`."""
    given = packed(batch.slots, batch.options, batch.offers, batch.room, batch.limits, batch.held)
    bounds = np.column_stack([batch.option_at, batch.offer_at, batch.room_at, batch.held_at])
    at, whole, parts, worth, _ = solve_each(given, np.ascontiguousarray(bounds, np.int64), tags, _NO_FLAGS)
    value, base, factor, tag = parts
    slot, position, candidate, offer, rule, by = whole[:6]
    return Pages(
        *(at, slot, position, candidate, offer, value, base, factor, tag),
        *(rule.astype(np.uint8), by, worth),
    )
