"""Which offers of running campaigns promise enough to be looked at closely, by loops.

What a page knows of every row before anything is permitted prices them: a look, not a place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import loops
from serving.blend import Looks
from serving.offering import Table, Terms
from serving.worth import offer_value

I4 = NDArray[np.int32]
I8 = NDArray[np.int64]
F4 = NDArray[np.float32]
F8 = NDArray[np.float64]
U1 = NDArray[np.uint8]
U8 = NDArray[np.uint64]


class Shelf(NamedTuple):
    """Offers (O) as they are looked through, from first to last: all columns side by side."""

    at: I8  # in the table of offers
    campaign: I4
    row: I4
    slots: U8
    always: U1  # 1: mandatory or pinned, so it is looked at whatever it promises
    terms: F4  # (O, 7) of serving.worth
    until: F8


def shelf_of(table: Table, terms: Terms, mandatory: bool) -> Shelf:
    """`mandatory`: nothing but what must be shown."""
    at = np.flatnonzero(table.band == 0) if mandatory else np.arange(len(table.row))
    offer, always = table.offer[at], (table.band[at] == 0) | (table.pin[at] >= 0)
    return Shelf(
        at, table.campaign[at], table.row[at], table.slots[at], always.astype(np.uint8),
        np.ascontiguousarray(terms.terms[offer]), terms.until[offer],
    )  # fmt: skip


def side_by_side(looks: Looks, rows: I4) -> F4:
    """(rows, 3) of each row the slope, and the logit with the model at 0 and without it."""
    return np.stack([looks.slope[rows], looks.with_model[rows], looks.without[rows]], axis=1)


def promising(
    shelf: Shelf, running: NDArray[np.bool_], model: F4, looks: F4, prices: F4, now: float, bits: U8,
    keep: int,
) -> tuple[I8, I4]:  # fmt: skip
    """Offers of running campaigns in slots of the page (`bits`), by their place in the table, and their rows:
    all, or where they are many those among the best `keep` of some slot, those that tie with the last, and
    what must be shown or is pinned. `looks`: `side_by_side` of the shelf's rows.
    """
    n = len(shelf.at)
    found, rows = np.empty(n, np.int64), np.empty(n, np.int32)
    value, heaps = np.empty(n, np.float32), np.empty((len(bits), keep), np.float32)
    many = _promising(*shelf, running, model, looks, prices, now, bits, value, heaps, found, rows)
    return found[:many], rows[:many]


@loops
def _promising(
    at: I8, campaign: I4, row: I4, slots: U8, always: U1, terms: F4, until: F8, running: NDArray[np.bool_],
    model: F4, looks: F4, prices: F4, now: float, bits: U8, value: F4, heaps: F4, found: I8, rows: I4,
) -> int:  # fmt: skip
    m, every = 0, np.uint64(0)
    for bit in bits:
        every |= bit
    for o in range(len(at)):  # written whatever it is, counted where it runs: no branch to guess
        found[m] = o
        m += running[campaign[o]] & ((slots[o] & every) != np.uint64(0))
    if m > heaps.shape[1]:
        for j in range(m):
            o = found[j]
            value[j] = np.inf
            if not always[o]:
                said = model[row[o]] if row[o] < len(model) else np.float32(np.nan)
                logit = looks[o, 0] * said + looks[o, 1] if said == said else looks[o, 2]
                against = np.exp(min(max(-logit, np.float32(-15)), np.float32(15)))
                p = np.float32(1) / (np.float32(1) + against)
                value[j] = offer_value(p, terms[o], now < until[o], prices[campaign[o]])[0]
        m = best_per_slot(value, slots, found[:m], bits, heaps)
    for j in range(m):
        found[j], rows[j] = at[found[j]], row[found[j]]
    return m


@loops
def best_per_slot(value: F4, slots: U8, at: I8, bits: U8, heaps: F4) -> int:
    """How many are among the best of some slot, which move to the front of `at`; ties at the end of the list
    all stay. `slots` of the whole table, in which the values are of the places `at`; `heaps` (slots, as many
    of each): scratch, per slot a min-heap of its best.
    """
    m, (s, keep) = len(at), heaps.shape
    for k in range(s):
        heap, bit = heaps[k], bits[k]
        for place in range(keep):
            heap[place] = -np.inf
        for j in range(m):
            v = value[j]
            if slots[at[j]] & bit and v > heap[0]:
                place = 0
                while True:  # sift down
                    child = 2 * place + 1
                    if child >= keep:
                        break
                    if child + 1 < keep and heap[child + 1] < heap[child]:
                        child += 1
                    if heap[child] >= v:
                        break
                    heap[place] = heap[child]
                    place = child
                heap[place] = v
    n = 0
    for j in range(m):
        kept = False
        for k in range(s):
            kept |= (slots[at[j]] & bits[k]) != np.uint64(0) and value[j] >= heaps[k, 0]
        at[n] = at[j]
        n += kept
    return n
