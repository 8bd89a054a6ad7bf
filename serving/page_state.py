"""One page as a few arrays for the loops: how it is laid out, and the empty page made from its columns."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit, loops

F8 = NDArray[np.float64]
F4 = NDArray[np.float32]
I4 = NDArray[np.int32]
I8 = NDArray[np.int64]
U1 = NDArray[np.uint8]

NONE: Final = -2  # no variant: the item may not stand there
LEAST: Final = -1e300
LOW: Final = -1e6  # CNY; what is not a number never wins
CAP: Final = 5  # serving.page.RULES
FREE, PINNED, LEADING = 0, 1, 2  # how a place is fixed
HOUSE: Final = 2


class Input(NamedTuple):
    """One page's columns, as in `serving.page`, packed: an array more costs every call a microsecond."""

    slots: I8  # (S, S_KINDS + 2 · kinds) by the columns S_…
    slots_f: F8  # (S, S_RATES + K)
    options: I8  # (n, 7) by the columns I_…
    value: F4  # (n,)
    offers: I8  # (m, O_ROOM + 6) by the columns O_…
    offers_f: F4  # (m, 3): value, base, boost
    room: I4
    limits: U1
    held: I4  # (h, 3)


S_BIT, S_PLACES, S_ORIGINS, S_PER_CATEGORY, S_PER_KIND, S_KINDS = range(6)  # then least, then most by kind
S_DIMINISH, S_CROSS, S_INTERRUPTION, S_SWITCHING, S_RATES = range(5)
I_MEMBERS, I_ORIGIN, I_CATEGORY, I_KIND, I_ROOM, I_CAPPED = 0, 1, 2, 3, 4, 6
O_CANDIDATE, O_CAMPAIGN, O_SLOTS, O_BAND, O_PIN_SLOT, O_PIN, O_CAPPED, O_ROADBLOCK, O_PROMISE, O_ROOM = range(
    10
)
O_VALUE, O_BASE, O_BOOST = 0, 1, 2


class State(NamedTuple):
    """A page while it is made, in few arrays of many rows: each array more costs every call and every
    compilation. S slots, K places, n items, m offers, C categories; the rows are named below."""

    pi: I8  # (S, 8, K or more) of slots: what stands there, limits by kind, numbers
    pf: F8  # (S, 6, K or more) of slots: worth, rates, powers of the factors, prices
    order: I8  # (S + 1, n) what suits a slot, by what it can be worth at most; last, all that there is
    mix: I8  # (S + 5, n or more) items per slot and category; and what changes of items, offers and counters
    ti: I8  # (27, n or more) what does not change of items, offers and counters
    tf: F8  # (6, n or more) what items and offers are worth


# Rows of pi. CAND -1 is free; OFFER -1 organic; BEFORE is the candidate that stood there, -1.
CAND, OFFER, FIXED, BEFORE, HAVE, LEAST_KIND, MOST, NUM = 0, 1, 2, 3, 4, 5, 6, 7
# Columns of the row NUM: per slot, and from CROSSING to KINDS of the page, the same in every slot.
OPEN, FILLED, ONLY, STABLE, LENGTH, PER_CATEGORY, PER_KIND, CROSSING, ITEMS, DEALS, KINDS = range(11)
# Per slot what the greedy found for its next place: item, offer, head of its list, whether to look again.
NEXT, NEXT_OFFER, HEAD, STALE = range(11, 15)
MINIMA, NUMBERS = 15, 16  # per slot: whether any kind has a least number
# Rows of pf: per display before factors, and after; powers of diminish, and of cross.
EACH, GAIN, RATE, INSIDE, AWAY, PRICE = 0, 1, 2, 3, 4, 5
INTERRUPTION, SWITCHING, CROSS, NEXT_EACH, NEXT_GAIN, PRICES = range(6)  # columns of the row PRICE
TOTAL, TALLY, WHERE, ROOM, OFF = -1, -2, -3, -4, -5  # rows of mix; TALLY is scratch, zero between uses
# Rows of ti: of items (MASK: slots of the page they suit at all), of offers, of counters.
CATEGORY, KIND, FIRST, MASK, ORGANICALLY, ITEM_CAPPED, ITEM_ROOM = 0, 1, 2, 3, 4, 5, 6
CANDIDATE, CAMPAIGN, FOLLOWING, BAND, SUITS, OFFER_CAPPED, PIN_SLOT, PIN = 8, 9, 10, 11, 12, 13, 14, 15
ROADBLOCK, PROMISE, USES, LIMIT = 16, 17, 18, 26
ORGANIC, TOP, WORTH, PRICED, BASE, BOOST = 0, 1, 2, 3, 4, 5  # rows of tf


@jit
def prepare(given: Input) -> State:
    """The empty page."""
    slots, most = len(given.slots), given.slots_f.shape[1] - S_RATES
    n, m, kinds = len(given.options), len(given.offers), (given.slots.shape[1] - S_KINDS) // 2
    places, categories = 0, 1
    for s in range(slots):
        places += given.slots[s, S_PLACES]
    for i in range(n):
        categories = max(categories, given.options[i, I_CATEGORY] + 1)
    width = max(max(n, m), max(len(given.room), categories))
    state = State(
        np.full((slots, 8, max(most, max(kinds, NUMBERS))), -1, np.int64),
        np.ones((slots, 6, max(max(places, most) + 3, PRICES)), np.float64),
        np.empty((slots + 1, n), np.int64),
        np.zeros((slots + 5, width), np.int64),
        np.empty((27, width), np.int64),
        np.empty((6, width), np.float64),
    )
    _slots(given.slots, given.slots_f, given.held, n, m, state.pi, state.pf)
    _items(given.slots, given.options, given.value, state.mix, state.ti, state.tf)
    _deals(given.slots, given.options, given.offers, given.offers_f, state.ti, state.tf)
    for r in range(len(given.room)):
        state.mix[ROOM, r] = given.room[r]
        state.ti[LIMIT, r] = given.limits[r] if len(given.limits) else CAP
    _orders(state.pi, state.order, state.ti, state.tf)
    return state


@loops
def _slots(slots: I8, slots_f: F8, held: I4, n: int, m: int, pi: I8, pf: F8) -> None:
    kinds = (slots.shape[1] - S_KINDS) // 2
    crossing = 0
    for s in range(len(slots)):
        crossing = 1 if slots_f[s, S_CROSS] < 1 else crossing
    for s in range(len(slots)):
        pi[s, NUM, OPEN], pi[s, NUM, FILLED], pi[s, NUM, ONLY] = slots[s, S_PLACES], 0, -1
        pi[s, NUM, STABLE], pi[s, NUM, LENGTH] = 0, 0
        pi[s, NUM, PER_CATEGORY], pi[s, NUM, PER_KIND] = slots[s, S_PER_CATEGORY], slots[s, S_PER_KIND]
        pi[s, NUM, CROSSING], pi[s, NUM, ITEMS], pi[s, NUM, DEALS] = crossing, n, m
        pi[s, NUM, KINDS] = kinds
        pf[s, PRICE, INTERRUPTION] = slots_f[s, S_INTERRUPTION]
        pf[s, PRICE, SWITCHING] = slots_f[s, S_SWITCHING]
        pf[s, PRICE, CROSS] = slots_f[s, S_CROSS]
        for k in range(slots_f.shape[1] - S_RATES):
            pf[s, RATE, k] = slots_f[s, S_RATES + k]
            pi[s, FIXED, k] = FREE
        for k in range(pf.shape[2] - 1):
            pf[s, INSIDE, k + 1] = pf[s, INSIDE, k] * slots_f[s, S_DIMINISH]
            pf[s, AWAY, k + 1] = pf[s, AWAY, k] * slots_f[s, S_CROSS]
        pi[s, NUM, MINIMA] = 0
        for kind in range(kinds):
            pi[s, HAVE, kind], pi[s, LEAST_KIND, kind] = 0, slots[s, S_KINDS + kind]
            pi[s, NUM, MINIMA] |= slots[s, S_KINDS + kind]
            pi[s, MOST, kind] = slots[s, S_KINDS + kinds + kind]
    for h in range(len(held)):
        s, i, k = held[h, 0], held[h, 1], held[h, 2]
        if slots_f[s, S_SWITCHING] > 0 and k < slots[s, S_PLACES]:
            pi[s, BEFORE, k] = i
            pi[s, NUM, STABLE] = 1


@loops
def _items(slots: I8, options: I8, values: F4, mix: I8, ti: I8, tf: F8) -> None:
    for i in range(len(options)):
        organically, members, origin = np.int64(0), options[i, I_MEMBERS], options[i, I_ORIGIN]
        for s in range(len(slots)):  # no branch: it would be guessed wrong every other time
            both = ((members & slots[s, S_BIT]) != 0) & ((origin & slots[s, S_ORIGINS]) != 0)
            organically |= np.int64(both) << np.int64(s)
        ti[CATEGORY, i], ti[KIND, i], ti[FIRST, i] = options[i, I_CATEGORY], options[i, I_KIND], -1
        ti[MASK, i] = ti[ORGANICALLY, i] = organically
        ti[ITEM_CAPPED, i] = options[i, I_CAPPED]
        ti[ITEM_ROOM, i], ti[ITEM_ROOM + 1, i] = options[i, I_ROOM], options[i, I_ROOM + 1]
        value = np.float64(values[i]) if np.isfinite(values[i]) else LOW
        tf[ORGANIC, i] = tf[TOP, i] = value
        mix[WHERE, i] = -1


@loops
def _deals(slots: I8, options: I8, offers: I8, worth: F4, ti: I8, tf: F8) -> None:
    for o in range(len(offers) - 1, -1, -1):
        i = offers[o, O_CANDIDATE]
        suiting = np.int64(0)
        for s in range(len(slots)):
            suiting |= np.int64((offers[o, O_SLOTS] & slots[s, S_BIT]) != 0) << np.int64(s)
        ti[CANDIDATE, o], ti[CAMPAIGN, o], ti[SUITS, o] = i, offers[o, O_CAMPAIGN], suiting
        ti[FOLLOWING, o], ti[BAND, o] = ti[FIRST, i], offers[o, O_BAND]
        ti[OFFER_CAPPED, o] = offers[o, O_CAPPED]
        ti[PIN_SLOT, o], ti[PIN, o] = offers[o, O_PIN_SLOT], offers[o, O_PIN]
        ti[ROADBLOCK, o], ti[PROMISE, o] = offers[o, O_ROADBLOCK], offers[o, O_PROMISE]
        value = np.float64(worth[o, O_VALUE]) if np.isfinite(worth[o, O_VALUE]) else LOW
        tf[WORTH, o] = tf[PRICED, o] = value
        tf[BASE, o], tf[BOOST, o] = worth[o, O_BASE], worth[o, O_BOOST]
        ti[FIRST, i] = o
        ti[MASK, i] |= suiting
        tf[TOP, i] = max(tf[TOP, i], value)
        alone = (options[i, I_ROOM] < 0) & (options[i, I_ROOM + 1] < 0)
        for j in range(1, 6):
            alone &= offers[o, O_ROOM + j] < 0
        found = 0
        for j in range(1 if alone else 8):  # its counters and its item's; one named twice counts once
            counter = offers[o, O_ROOM + j] if j < 6 else options[i, I_ROOM + j - 6]
            known = counter < 0
            for b in range(found):
                known = known or ti[USES + b, o] == counter
            if not known:
                ti[USES + found, o] = counter
                found += 1
        for j in range(found, 8):
            ti[USES + j, o] = -1


@jit
def _orders(pi: I8, order: I8, ti: I8, tf: F8) -> None:
    """Per slot what suits it, by what it can be worth at most; ties by candidate."""
    n, ranked = pi[0, NUM, ITEMS], order[len(pi)]
    aside = np.empty((2, n), np.int64)
    rank(tf[TOP], ranked, aside, np.empty(257, np.int64))
    bits = aside[0]
    for at in range(n):
        bits[at] = ti[MASK, ranked[at]]
    for s in range(len(pi)):
        length = 0
        for at in range(n):  # without a branch: what does not suit is written over by what comes after it
            order[s, length] = ranked[at]
            length += (bits[at] >> s) & 1
        pi[s, NUM, LENGTH] = length


@loops
def rank(value: F8, ranked: I8, aside: I8, count: I8) -> None:
    """Fill `ranked` (n,) with 0 to n - 1 by descending value; what is equal stays in its order.

    Two stable passes over the bytes of a key of 16 bits (sign, exponent, 7 bits of the fraction), then an
    insertion sort that has little left to do: a fifth of a merge sort's time. (2, n) and (257,) are scratch.
    """
    n, key = len(ranked), aside[0]
    for i in range(n):
        bits = np.int64(np.float32(value[i]).view(np.int32)) >> 16
        key[i] = 0x7FFF - bits if bits >= 0 else (bits & 0x7FFF) | 0x8000
        ranked[i] = i
    for byte in range(2):
        before, after = (ranked, aside[1]) if byte == 0 else (aside[1], ranked)
        count[:] = 0
        for i in range(n):
            count[((key[i] >> (8 * byte)) & 255) + 1] += 1
        for b in range(256):
            count[b + 1] += count[b]
        for at in range(n):
            b = (key[before[at]] >> (8 * byte)) & 255
            after[count[b]] = before[at]
            count[b] += 1
    for at in range(1, n):
        i, q = ranked[at], at
        while q > 0 and value[ranked[q - 1]] < value[i]:
            ranked[q] = ranked[q - 1]
            q -= 1
        ranked[q] = i


@loops
def number(n: int) -> int:
    """n, no longer a literal: for each literal that it is handed a kernel would be compiled once more."""
    return n


@loops
def suits(bits: int, s: int) -> bool:
    return bool((bits >> s) & 1)
