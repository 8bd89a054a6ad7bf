"""Offers as a page meets them, by loops: which of those looked at stand on a permitted candidate, and at what
value."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit
from serving.worth import GAINED, USED, OfferWorth, priced

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
