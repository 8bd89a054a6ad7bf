"""One page as a few arrays for the loops: how it is laid out, and the empty page made from its columns."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit

F8 = NDArray[np.float64]
F4 = NDArray[np.float32]
I4 = NDArray[np.int32]
I8 = NDArray[np.int64]
U8 = NDArray[np.uint64]
U4 = NDArray[np.uint32]
U1 = NDArray[np.uint8]

NONE: Final = -2  # no variant: the item may not stand there
LEAST: Final = -1e300
LOW: Final = -1e6  # CNY; what is not a number never wins
CAP: Final = 5  # serving.page.RULES
FREE, PINNED, LEADING = 0, 1, 2  # how a place is fixed
HOUSE: Final = 2


class Input(NamedTuple):
    """One page's columns, as in `serving.page`; `held` is (h, 3)."""

    bit: U8
    places: I4
    rates: F4
    origins: U4
    per_category: I4
    per_kind: I4
    diminish: F4
    cross: F4
    interruption: F4
    switching: F4
    kind_least: U1
    kind_most: U1
    members: U8
    origin: U4
    value: F4
    category: I4
    kind: U1
    item_room: I4
    item_capped: U1
    candidate: I4
    campaign: I4
    offer_slots: U8
    priced: F4
    base: F4
    band: U1
    pin_slot: I4
    pin: I4
    offer_room: I4
    offer_capped: U1
    roadblock: U1
    boost: F4
    promise: U1
    room: I4
    limits: U1
    held: I4


INPUT_TYPES: Final = tuple(
    np.dtype({"U8": "u8", "U4": "u4", "U1": "u1", "I4": "i4", "F4": "f4"}[kind])
    for kind in (one.__forward_arg__ for one in Input.__annotations__.values())
)


class State(NamedTuple):
    """A page while it is made, in few arrays of many rows: each array more costs every call and every
    compilation. S slots, K places, n items, m offers, C categories; the rows are named below."""

    pi: I4  # (S, 8, K or more) of slots: what stands there, limits by kind, numbers
    pf: F8  # (S, 6, K or more) of slots: worth, rates, powers of the factors, prices
    order: I4  # (S, n) what suits a slot, by what it can be worth at most
    mix: I4  # (S + 5, n or more) items per slot and category; and what changes of items, offers and counters
    ti: I8  # (27, n or more) what does not change of items, offers and counters
    tf: F8  # (6, n or more) what items and offers are worth


# Rows of pi. CAND -1 is free; OFFER -1 organic; BEFORE is the candidate that stood there, -1.
CAND, OFFER, FIXED, BEFORE, HAVE, LEAST_KIND, MOST, NUM = 0, 1, 2, 3, 4, 5, 6, 7
# Columns of the row NUM: per slot, and the last four of the page, the same in every slot.
OPEN, FILLED, ONLY, STABLE, LENGTH, PER_CATEGORY, PER_KIND, CROSSING, ITEMS, DEALS, KINDS = range(11)
# Rows of pf: per display before factors, and after; powers of diminish, and of cross.
EACH, GAIN, RATE, INSIDE, AWAY, PRICE = 0, 1, 2, 3, 4, 5
INTERRUPTION, SWITCHING, CROSS = 0, 1, 2  # columns of the row PRICE
TOTAL, TALLY, WHERE, ROOM, OFF = -1, -2, -3, -4, -5  # rows of mix; TALLY is scratch, zero between uses
# Rows of ti: of items (MASK: slots of the page they suit at all), of offers, of counters.
CATEGORY, KIND, FIRST, MASK, ORGANICALLY, ITEM_CAPPED, ITEM_ROOM = 0, 1, 2, 3, 4, 5, 6
CANDIDATE, CAMPAIGN, FOLLOWING, BAND, SUITS, OFFER_CAPPED, PIN_SLOT, PIN = 8, 9, 10, 11, 12, 13, 14, 15
ROADBLOCK, PROMISE, USES, LIMIT = 16, 17, 18, 26
ORGANIC, TOP, WORTH, PRICED, BASE, BOOST = 0, 1, 2, 3, 4, 5  # rows of tf


@jit
def prepare(given: Input) -> State:
    """The empty page."""
    slots, most = given.rates.shape
    n, m, kinds = len(given.members), len(given.candidate), given.kind_least.shape[1]
    places, categories = 0, 1
    for s in range(slots):
        places += given.places[s]
    for i in range(n):
        categories = max(categories, given.category[i] + 1)
    width = max(max(n, m), max(len(given.room), categories))
    state = State(
        np.full((slots, 8, max(most, max(kinds, 11))), -1, np.int32),
        np.ones((slots, 6, max(places, most) + 3), np.float64),
        np.empty((slots, n), np.int32),
        np.zeros((slots + 5, width), np.int32),
        np.empty((27, width), np.int64),
        np.empty((6, width), np.float64),
    )
    _slots(given, state.pi, state.pf)
    _items(given, state.mix, state.ti, state.tf)
    _deals(given, state.ti, state.tf)
    for r in range(len(given.room)):
        state.mix[ROOM, r] = given.room[r]
        state.ti[LIMIT, r] = given.limits[r] if len(given.limits) else CAP
    _orders(state.pi, state.order, state.ti, state.tf)
    return state


@jit
def _slots(given: Input, pi: I4, pf: F8) -> None:
    kinds = given.kind_least.shape[1]
    crossing = 0
    for s in range(len(given.bit)):
        crossing = 1 if given.cross[s] < 1 else crossing
    for s in range(len(given.bit)):
        num = pi[s, NUM]
        num[OPEN], num[FILLED], num[ONLY], num[STABLE], num[LENGTH] = given.places[s], 0, -1, 0, 0
        num[PER_CATEGORY], num[PER_KIND] = given.per_category[s], given.per_kind[s]
        num[CROSSING], num[ITEMS], num[DEALS] = crossing, len(given.members), len(given.candidate)
        num[KINDS] = kinds
        pf[s, PRICE, INTERRUPTION], pf[s, PRICE, SWITCHING] = given.interruption[s], given.switching[s]
        pf[s, PRICE, CROSS] = given.cross[s]
        for k in range(given.rates.shape[1]):
            pf[s, RATE, k] = given.rates[s, k]
            pi[s, FIXED, k] = FREE
        for k in range(pf.shape[2] - 1):
            pf[s, INSIDE, k + 1] = pf[s, INSIDE, k] * given.diminish[s]
            pf[s, AWAY, k + 1] = pf[s, AWAY, k] * given.cross[s]
        for kind in range(kinds):
            pi[s, HAVE, kind], pi[s, LEAST_KIND, kind] = 0, given.kind_least[s, kind]
            pi[s, MOST, kind] = given.kind_most[s, kind]
    for h in range(len(given.held)):
        s, i, k = given.held[h]
        if given.switching[s] > 0 and k < given.places[s]:
            pi[s, BEFORE, k] = i
            pi[s, NUM, STABLE] = 1


@jit
def _items(given: Input, mix: I4, ti: I8, tf: F8) -> None:
    one = np.int64(1)
    for i in range(len(given.members)):
        organically = np.int64(0)
        for s in range(len(given.bit)):
            if given.members[i] & given.bit[s] and given.origin[i] & given.origins[s]:
                organically |= one << np.int64(s)
        ti[CATEGORY, i], ti[KIND, i], ti[FIRST, i] = given.category[i], given.kind[i], -1
        ti[MASK, i] = ti[ORGANICALLY, i] = organically
        ti[ITEM_CAPPED, i] = given.item_capped[i]
        ti[ITEM_ROOM, i], ti[ITEM_ROOM + 1, i] = given.item_room[i, 0], given.item_room[i, 1]
        value = np.float64(given.value[i]) if np.isfinite(given.value[i]) else LOW
        tf[ORGANIC, i] = tf[TOP, i] = value
        mix[WHERE, i] = -1


@jit
def _deals(given: Input, ti: I8, tf: F8) -> None:
    one = np.int64(1)
    for o in range(len(given.candidate) - 1, -1, -1):
        i = given.candidate[o]
        suiting = np.int64(0)
        for s in range(len(given.bit)):
            if given.offer_slots[o] & given.bit[s]:
                suiting |= one << np.int64(s)
        ti[CANDIDATE, o], ti[CAMPAIGN, o], ti[SUITS, o] = i, given.campaign[o], suiting
        ti[FOLLOWING, o], ti[BAND, o] = ti[FIRST, i], given.band[o]
        ti[OFFER_CAPPED, o] = given.offer_capped[o]
        ti[PIN_SLOT, o], ti[PIN, o] = given.pin_slot[o], given.pin[o]
        ti[ROADBLOCK, o] = given.roadblock[o] if len(given.roadblock) else 0
        ti[PROMISE, o] = given.promise[o] if len(given.promise) else 0
        value = np.float64(given.priced[o]) if np.isfinite(given.priced[o]) else LOW
        tf[WORTH, o] = tf[PRICED, o] = value
        tf[BASE, o] = given.base[o]
        tf[BOOST, o] = given.boost[o] if len(given.boost) else 0.0
        ti[FIRST, i] = o
        ti[MASK, i] |= suiting
        tf[TOP, i] = max(tf[TOP, i], value)
        found = 0
        for j in range(8):  # the offer's counters and its item's; one named twice counts once
            counter = given.offer_room[o, j] if j < 6 else given.item_room[i, j - 6]
            known = counter < 0
            for b in range(found):
                known = known or ti[USES + b, o] == counter
            if not known:
                ti[USES + found, o] = counter
                found += 1
        for j in range(found, 8):
            ti[USES + j, o] = -1


@jit
def _orders(pi: I4, order: I4, ti: I8, tf: F8) -> None:
    """Per slot what suits it, by what it can be worth at most; ties by candidate."""
    ranked = np.argsort(-tf[TOP, : pi[0, NUM, ITEMS]], kind="mergesort")
    for at in range(len(ranked)):
        i = ranked[at]
        bits = ti[MASK, i]
        for s in range(len(pi)):
            if suits(bits, s):
                order[s, pi[s, NUM, LENGTH]] = i
                pi[s, NUM, LENGTH] += 1


@jit
def suits(bits: int, s: int) -> bool:
    return bool((bits >> s) & 1)
