"""Offers as a page meets them, by loops: which of those looked at stand on a permitted candidate, and at what
value; and, before anything is permitted, which promise enough to be looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit
from serving.blend import Looks
from serving.worth import GAINED, USED, OfferWorth, offer_value, priced

if TYPE_CHECKING:
    from serving.campaigns import Campaigns
    from serving.running import OfferTable

I4 = NDArray[np.int32]
I8 = NDArray[np.int64]
F4 = NDArray[np.float32]
F8 = NDArray[np.float64]
U1 = NDArray[np.uint8]
U8 = NDArray[np.uint64]


class Table(NamedTuple):
    """Offers of a plan as pages take them (O), and what of their campaigns is the same on every page."""

    offer: I4  # row of the terms
    campaign: I4
    row: I4  # of the catalogue
    slots: U8
    pin_slot: I4  # index of the plan's slot, −1 none
    pin: I4
    band: U1
    capped: U1
    roadblock: U1
    promise: U1


class Terms(NamedTuple):
    """`serving.worth.OfferWorth`, by rows of the plan's offers."""

    terms: F4  # (o, 7)
    until: F8
    campaign: I4
    measured: I4  # (o,) place among the measured rows, −1


class Met(NamedTuple):
    """m offers that compete, in the table's order, of w campaigns."""

    at: I8  # (m,) in the table
    whole: (
        I4  # (8, m): candidate, campaign, pin slot of the query, pin, which of the campaigns; by CANDIDATE …
    )
    flags: U1  # (4, m): band, capped, roadblock, promise
    slots: U8  # (m,)
    value: F4  # (m,) CNY per display with lever and prices
    base: F4  # … without
    boost: F4  # … what the lever adds
    campaigns: I4  # (w,)


CANDIDATE, CAMPAIGN, PIN_SLOT, PIN, WHICH = range(5)
BAND, CAPPED, ROADBLOCK, PROMISE = range(4)


@jit
def met(
    table: Table, terms: Terms, at: I8, rows: I4, score: F4, use: F4, delta: F4, prices: F4, now: float,
    slot_of: I4,
) -> Met:  # fmt: skip
    """The offers `at` of the table whose item is among the candidates `rows` (ascending), with their `score`.

    `use` and `delta` (b,) of the measured rows (serving.uplift.PerClick), empty where nothing is measured;
    `prices` (C, 3) as `serving.worth.price_table` makes it; `slot_of` by the plan's slots: index in the
    query, −1 not asked for.
    """
    m, n = 0, len(rows)
    kept, candidate = np.empty(len(at), np.int64), np.empty(len(at), np.int32)
    for j in range(len(at)):
        row = table.row[at[j]]
        place = np.searchsorted(rows, row)
        if place < n and rows[place] == row:
            kept[m], candidate[m] = at[j], place
            m += 1
    kept = kept[:m].copy()
    whole, flags, slots = np.empty((5, m), np.int32), np.empty((4, m), np.uint8), np.empty(m, np.uint64)
    value, base, boost = np.empty(m, np.float32), np.empty(m, np.float32), np.empty(m, np.float32)
    campaigns, w = np.empty(m, np.int32), 0
    for j in range(m):
        o, c = kept[j], table.campaign[kept[j]]
        if not w or campaigns[w - 1] != c:  # the table lists a campaign's offers together
            campaigns[w] = c
            w += 1
        here = slot_of[table.pin_slot[o]] if table.pin_slot[o] >= 0 else np.int32(-1)
        whole[CANDIDATE, j], whole[CAMPAIGN, j], whole[WHICH, j] = candidate[j], c, w - 1
        whole[PIN_SLOT, j], whole[PIN, j] = here, table.pin[o] if here >= 0 else np.int32(-1)
        flags[BAND, j], flags[CAPPED, j] = table.band[o], table.capped[o]
        flags[ROADBLOCK, j], flags[PROMISE, j] = table.roadblock[o], table.promise[o]
        slots[j] = table.slots[o]
        of = table.offer[o]
        used, gained, place = terms.terms[of, USED], terms.terms[of, GAINED], terms.measured[of]
        if 0 <= place < len(use):
            used, gained = use[place], delta[place]
        value[j], base[j], boost[j] = priced(
            score[candidate[j]], terms.terms[of], used, gained, now < terms.until[of], prices[c]
        )
    return Met(kept, whole, flags, slots, value, base, boost, campaigns[:w].copy())


@jit
def promising(
    table: Table, terms: Terms, running: NDArray[np.bool_], mandatory: bool, looks: Looks, prices: F4,
    now: float, bits: U8, keep: int,
) -> I8:  # fmt: skip
    """Offers of running campaigns in slots of the page (`bits`), by their place in the table: all, or where
    they are many those among the best `keep` of some slot, those that tie with the last, and what must be
    shown or is pinned. `mandatory`: nothing but what must be shown."""
    m, every = 0, np.uint64(0)
    at = np.empty(len(table.row), np.int64)
    for k in range(len(bits)):
        every |= bits[k]
    for o in range(len(table.row)):
        if running[table.campaign[o]] and table.slots[o] & every and not (mandatory and table.band[o]):
            at[m] = o
            m += 1
    if m <= keep:
        return at[:m].copy()
    value = np.empty(m, np.float32)
    for j in range(m):
        o = at[j]
        if table.band[o] == 0 or table.pin[o] >= 0:
            value[j] = np.inf
            continue
        row = table.row[o]
        said = looks.model[row] if row < len(looks.model) else np.float32(np.nan)
        logit = looks.slope[row] * said + looks.with_model[row] if said == said else looks.without[row]
        p = np.float32(1) / (np.float32(1) + np.exp(min(max(-logit, np.float32(-15)), np.float32(15))))
        value[j] = offer_value(
            p, terms.terms[table.offer[o]], now < terms.until[table.offer[o]], prices[table.campaign[o]]
        )[0]
    kept = best_per_slot(value, table.slots, at, bits, keep)
    n = 0
    for j in range(m):
        if kept[j]:
            at[n] = at[j]
            n += 1
    return at[:n].copy()


@jit
def best_per_slot(value: F4, slots: U8, at: I8, bits: U8, keep: int) -> NDArray[np.bool_]:
    """(m,) True for those among the best `keep` of some slot; ties at the end of the list all stay. `slots`
    of the whole table, in which the values are of the places `at`."""
    m, s = len(value), len(bits)
    heap = np.full((s, keep), -np.inf, np.float32)  # per slot a min-heap of its best
    for i in range(m):
        v = value[i]
        for k in range(s):
            if slots[at[i]] & bits[k] and v > heap[k, 0]:
                place = 0
                while True:  # sift down
                    child = 2 * place + 1
                    if child >= keep:
                        break
                    if child + 1 < keep and heap[k, child + 1] < heap[k, child]:
                        child += 1
                    if heap[k, child] >= v:
                        break
                    heap[k, place] = heap[k, child]
                    place = child
                heap[k, place] = v
    kept = np.zeros(m, np.bool_)
    for i in range(m):
        for k in range(s):
            if slots[at[i]] & bits[k] and value[i] >= heap[k, 0]:
                kept[i] = True
                break
    return kept


def table_of(
    campaigns: Campaigns, offers: OfferTable, capped: U1 | None = None, promise: U1 | None = None
) -> Table:
    """`capped` and `promise` by campaign, where they matter."""
    of, none = offers.campaign, np.zeros(len(campaigns.ids), np.uint8)
    return Table(
        offers.offer,
        of,
        offers.row,
        offers.slots,
        offers.pin_slot,
        offers.pin,
        campaigns.band.take(of),
        (none if capped is None else capped).take(of),
        campaigns.roadblock.astype(np.uint8).take(of),
        (none if promise is None else promise).take(of),
    )


def terms_of(worth: OfferWorth) -> Terms:
    return Terms(worth.terms, worth.until, worth.campaign, worth.measured)
