"""Which offers of running campaigns promise enough to be looked at closely, by loops.

What a page knows of every row before anything is permitted prices them: a look, not a place. All offers of a
plan are priced, also those that do not run: the processor does many at once, and of 4,000 half run.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import loops
from serving.best import above, cut_of, ordered
from serving.blend import Looks
from serving.offering import Table, Terms
from serving.worth import CLICK, CONVERT, COST, GAINED, LEVER, LOSS, USED

I4 = NDArray[np.int32]
I8 = NDArray[np.int64]
F4 = NDArray[np.float32]
F8 = NDArray[np.float64]
U1 = NDArray[np.uint8]
U4 = NDArray[np.uint32]
U8 = NDArray[np.uint64]

# Rows of a quote: CNY of a click, lost per display, the lever, and what a click and a display cost or bring
# that no lever counts on.
Q_GAIN, Q_LOSS, Q_LEVER, Q_CLICK, Q_DISPLAY = range(5)
SLOPE, WITH, WITHOUT = range(3)  # rows of looks
MOST_LOGIT: Final = np.float32(15)


class Shelf(NamedTuple):
    """Offers (O) as they are looked through, from first to last: all columns side by side."""

    at: I8  # in the table of offers
    campaign: I4
    row: I4
    slots: U8
    always: U1  # 1: mandatory or pinned, so it is looked at whatever it promises
    suiting: I4  # offers that suit the plan's slots, slot by slot
    first: I8  # (65,) where each slot's begin
    terms: F4  # (O, 7) of serving.worth
    until: F8


def shelf_of(table: Table, terms: Terms, mandatory: bool) -> Shelf:
    """`mandatory`: nothing but what must be shown."""
    at = np.flatnonzero(table.band == 0) if mandatory else np.arange(len(table.row))
    offer, always = table.offer[at], (table.band[at] == 0) | (table.pin[at] >= 0)
    slots = table.slots[at]
    lists = [np.flatnonzero(slots >> np.uint64(slot) & np.uint64(1)) for slot in range(64)]
    return Shelf(
        at, table.campaign[at], table.row[at], slots, always.astype(np.uint8),
        np.concatenate(lists).astype(np.int32), np.cumsum([0, *map(len, lists)]).astype(np.int64),
        np.ascontiguousarray(terms.terms[offer]), terms.until[offer],
    )  # fmt: skip


def side_by_side(looks: Looks, rows: I4) -> F4:
    """(3, rows) of each row the slope, and the logit with the model at 0 and without it."""
    return np.stack([looks.slope[rows], looks.with_model[rows], looks.without[rows]])


def quoted(shelf: Shelf, prices: F4, now: float) -> F4:
    """(5, O) what an offer's value is made of, by Q_GAIN …: until the prices change, or a lever ends.

    `prices` (C, 3) by `serving.worth.price_table`; the value by `serving.worth.priced`, nothing measured.
    """
    of, price = shelf.terms, prices.take(shelf.campaign, axis=0)
    quote = np.empty((5, len(of)), np.float32)
    quote[Q_GAIN], quote[Q_LOSS] = of[:, CLICK] + of[:, GAINED] * of[:, CONVERT], of[:, LOSS]
    quote[Q_LEVER] = np.where(now < shelf.until, of[:, LEVER], 1)
    quote[Q_CLICK] = price[:, 1] + of[:, USED] * (price[:, 2] - of[:, COST])
    quote[Q_DISPLAY] = price[:, 0]
    return quote


def promising(
    shelf: Shelf, running: NDArray[np.bool_], model: F4, looks: F4, quote: F4, asked: I8, keep: int
) -> tuple[I8, I4]:
    """Offers of running campaigns in slots of the page (`asked`, of the plan's), by their place in the table,
    and their rows: all, or where they are many those among the best `keep` of some slot, those that tie with
    the last, and what must be shown or is pinned. `looks`: `side_by_side` of the shelf's rows.
    """
    n = len(shelf.at)
    found, rows = np.empty(n + 1, np.int64), np.empty(n + 1, np.int32)
    value, marks = np.empty(n, np.float32), np.empty(n, np.uint8)
    places, taken = np.empty(n, np.uint32), np.empty(n, np.int32)
    many = _promising(
        shelf.at, shelf.campaign, shelf.row, shelf.slots, shelf.always, shelf.suiting, shelf.first, running,
        model, looks, quote, asked, keep, value, marks, places, taken, found, rows,
    )  # fmt: skip
    return found[:many], rows[:many]


@loops
def _promising(
    at: I8, campaign: I4, row: I4, slots: U8, always: U1, suiting: I4, first: I8, running: NDArray[np.bool_],
    model: F4, looks: F4, quote: F4, asked: I8, keep: int, value: F4, marks: U1, places: U4, taken: I4,
    found: I8, rows: I4,
) -> int:  # fmt: skip
    every, m = np.uint64(0), 0
    for slot in asked:
        every |= np.uint64(1) << np.uint64(slot)
    for o in range(len(at)):
        marks[o] = running[campaign[o]] & ((slots[o] & every) != np.uint64(0))
    for o in range(len(at)):
        m += marks[o]
    if m > keep:
        _valued(row, model, looks, quote, value, taken)
        for o in range(len(at)):
            promised = np.float32(np.inf) if always[o] else value[o]
            value[o] = promised if marks[o] else np.float32(-np.inf)
        best_per_slot(value, suiting, first, asked, keep, places, taken, marks)
    m = 0
    for o in range(len(at)):  # written whatever it is, counted where it is marked: no branch to guess
        found[m], rows[m] = at[o], row[o]
        m += marks[o]
    return m


@loops
def _valued(row: I4, model: F4, looks: F4, quote: F4, value: F4, bits: I4) -> None:
    """What each offer promises, CNY per display. Loops apart, without a branch, so that many go at once."""
    slope, level, without = looks[SLOPE], looks[WITH], looks[WITHOUT]
    gain, loss, levers, click, display = (
        quote[Q_GAIN],
        quote[Q_LOSS],
        quote[Q_LEVER],
        quote[Q_CLICK],
        quote[Q_DISPLAY],
    )
    for o in range(len(row)):
        value[o] = model[row[o]] if row[o] < len(model) else np.float32(np.nan)
    for o in range(len(row)):
        known = slope[o] * value[o] + level[o]
        value[o] = known if value[o] == value[o] else without[o]
    chances(value, bits)
    for o in range(len(row)):
        good = value[o] * gain[o] - loss[o]
        lever = levers[o] if good > 0 else np.float32(1)
        value[o] = lever * good + value[o] * click[o] + display[o]


@loops
def chances(logit: F4, bits: I4) -> None:
    """1 / (1 + exp(-logit)) in its place, to 4e-7 of itself: by sums and products alone (the polynomial is
    that of Cephes' exp2f), eight at once where the compiler's own exponential takes them one by one.
    """
    for o in range(len(logit)):
        z = logit[o]
        z = z if z < MOST_LOGIT else MOST_LOGIT
        z = z if z > -MOST_LOGIT else -MOST_LOGIT
        power = z * np.float32(-1.442695040888963)
        whole = np.int32(power + np.float32(32.5)) - np.int32(32)  # never below zero where it is cut off
        bits[o] = (whole + np.int32(127)) << np.int32(23)
        part = power - np.float32(whole)
        e = np.float32(1.535336188319500e-4)
        e = e * part + np.float32(1.339887440266574e-3)
        e = e * part + np.float32(9.618437357674640e-3)
        e = e * part + np.float32(5.550332471162809e-2)
        e = e * part + np.float32(2.402264791363012e-1)
        e = e * part + np.float32(6.931472028550421e-1)
        logit[o] = e * part + np.float32(1)
    two = bits.view(np.float32)
    for o in range(len(logit)):
        logit[o] = np.float32(1) / (np.float32(1) + logit[o] * two[o])


@loops
def best_per_slot(
    value: F4, suiting: I4, first: I8, asked: I8, keep: int, places: U4, taken: I4, marks: U1
) -> None:
    """Marks (O,) the offers that are among the best `keep` of some slot that is asked for; ties at the end of
    a slot's list all stay, and minus infinity never does. `places` and `taken`: scratch.
    """
    nothing = ordered(np.float32(-np.inf))
    marks[:] = 0
    for slot in asked:
        low, many = first[slot], first[slot + 1] - first[slot]
        for k in range(many):
            places[k], taken[k] = ordered(value[suiting[low + k]]), k
        least = nothing + np.uint32(1)
        if many > keep:
            many = above(places, 0, many, keep, taken)
            least = max(least, cut_of(places[:many], keep)[0])
        for k in range(many):
            marks[suiting[low + taken[k]]] |= places[k] >= least
