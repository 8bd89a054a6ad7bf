"""The columns of a page's market by one loop: candidates valued, the offers on them priced, packed as the
page's loops take them (`serving.page_state.Input`).

What is the same on every page is gathered once into few arrays: a row of the catalogue lies in one piece, so
that a page that looks at hundreds of rows touches hundreds of cache lines and not thousands.
`tests/plain_market.py` does the same with NumPy, column by column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit
from serving.page_state import (
    F4,
    F8,
    I4,
    I8,
    I_CAPPED,
    I_CATEGORY,
    I_KIND,
    I_MEMBERS,
    I_ORIGIN,
    I_ROOM,
    O_BAND,
    O_BASE,
    O_BOOST,
    O_CAMPAIGN,
    O_CANDIDATE,
    O_CAPPED,
    O_PIN,
    O_PIN_SLOT,
    O_PROMISE,
    O_ROADBLOCK,
    O_ROOM,
    O_SLOTS,
    O_VALUE,
    U1,
)
from serving.worth import GAINED, USED, organic_value, priced

if TYPE_CHECKING:
    from serving.campaigns import Campaigns
    from serving.running import OfferTable
    from serving.worth import OfferWorth, Worth

ROOMS: Final = 6  # counters of an offer
OPTION_ROOMS: Final = 2  # counters of a candidate
R_MEMBERS, R_CATEGORY, R_KIND, R_MEASURED = range(4)
R_GAIN, R_LOSS, R_CLICK, R_CONVERT, R_COST = range(5)
D_ROW, D_CAMPAIGN, D_SLOTS, D_BAND, D_PIN_SLOT, D_PIN = range(6)
D_CAPPED, D_ROADBLOCK, D_PROMISE, D_MEASURED = range(6, 10)


class Goods(NamedTuple):
    """What a market asks of the catalogue's rows (N)."""

    whole: I8  # (N, 4) slots, dense category, kind, place among the measured rows or −1; by R_MEMBERS …
    parts: F4  # (N, 5) CNY: of a click, lost per display, then what the first is made of; by R_GAIN …


class Deals(NamedTuple):
    """What a market asks of the offers of a plan as pages take them (O)."""

    whole: I8  # (O, 10) by D_ROW …
    terms: F4  # (O, 7) of serving.worth.OfferWorth
    until: F8  # (O,) the lever's end


class Stock(NamedTuple):
    """n candidates and m offers of w campaigns, in the table's order."""

    value: F4  # (n,) CNY per display without a campaign
    options: I8  # (n, 7), no counters yet
    offers: I8  # (m, O_ROOM + ROOMS): the first counter is the campaign's, by its place among `campaigns`
    worth: F4  # (m, 3) CNY per display: with lever and prices, without, what the lever adds
    table: I8  # (m,) place in the offer table
    campaigns: I4  # (w,)
    left: I4  # (w,) placements each of them may have on one page


@jit
def stocked(
    whole: I8, parts: F4, deals: I8, terms: F4, until: F8, most: I4, where: I4, at: I8, rows: I4,
    origin: NDArray[np.uint32], score: F4, use: F4, delta: F4, prices: F4, now: float, slot_of: I4,
    in_order: bool,
) -> tuple[F4, I8, I8, F4, I8, I4, I4]:  # fmt: skip
    """A `Stock`. `whole` … `until`: Goods and Deals; `most` (C,) placements of each campaign on one page.

    `where` (N,) is scratch, whatever it holds. `at` (k,): the offers looked at, by their place in the table;
    `rows` (n,) ascending, `origin` and `score` of the candidates; `use` and `delta` (b,) of the measured rows
    (serving.uplift.PerClick), empty where nothing is measured; `prices` (C, 3) by
    `serving.worth.price_table`; `slot_of` by the plan's slots: index in the query, −1 not asked for;
    `in_order`: the scores are only an order, and their own value.
    """
    n = len(rows)
    value, options = np.empty(n, np.float32), np.empty((n, I_CAPPED + 1), np.int64)
    for i in range(n):
        row = rows[i]
        where[row] = i
        options[i, I_MEMBERS], options[i, I_ORIGIN] = whole[row, R_MEMBERS], origin[i]
        options[i, I_CATEGORY], options[i, I_KIND] = whole[row, R_CATEGORY], whole[row, R_KIND]
        options[i, I_ROOM] = options[i, I_ROOM + 1] = -1
        options[i, I_CAPPED] = 0
        if in_order:
            value[i] = score[i]
            continue
        own, place = parts[row, R_GAIN], whole[row, R_MEASURED]
        if 0 <= place < len(use):
            own = parts[row, R_CLICK] + delta[place] * parts[row, R_CONVERT] - use[place] * parts[row, R_COST]
        value[i] = organic_value(score[i], own, parts[row, R_LOSS])
    m, w = 0, 0
    kept = np.empty(len(at), np.int64)
    offers, worth = np.empty((len(at), O_ROOM + ROOMS), np.int64), np.empty((len(at), 3), np.float32)
    campaigns, left = np.empty(len(at), np.int32), np.empty(len(at), np.int32)
    for o in at:
        row = deals[o, D_ROW]
        i = where[row]
        if not 0 <= i < n or rows[i] != row:  # what stood in the scratch: the row is no candidate
            continue
        c = deals[o, D_CAMPAIGN]
        if not w or campaigns[w - 1] != c:  # the table lists a campaign's offers together
            campaigns[w], left[w] = c, most[c]
            w += 1
        here = -1 if deals[o, D_PIN_SLOT] < 0 else slot_of[deals[o, D_PIN_SLOT]]
        kept[m] = o
        offers[m, O_CANDIDATE], offers[m, O_CAMPAIGN], offers[m, O_SLOTS] = i, c, deals[o, D_SLOTS]
        offers[m, O_BAND], offers[m, O_CAPPED] = deals[o, D_BAND], deals[o, D_CAPPED]
        offers[m, O_PIN_SLOT], offers[m, O_PIN] = here, deals[o, D_PIN] if here >= 0 else -1
        offers[m, O_ROADBLOCK], offers[m, O_PROMISE] = deals[o, D_ROADBLOCK], deals[o, D_PROMISE]
        offers[m, O_ROOM] = w - 1
        for turn in range(1, ROOMS):
            offers[m, O_ROOM + turn] = -1
        used, gained, place = terms[o, USED], terms[o, GAINED], deals[o, D_MEASURED]
        if 0 <= place < len(use):
            used, gained = use[place], delta[place]
        worth[m, O_VALUE], worth[m, O_BASE], worth[m, O_BOOST] = priced(
            score[i], terms[o], used, gained, now < until[o], prices[c]
        )
        m += 1
    return value, options, offers[:m], worth[:m], kept[:m], campaigns[:w], left[:w]


def goods_of(
    worth: Worth, members: NDArray[np.uint64], categories: NDArray[np.int32], kinds: NDArray[np.uint8]
) -> Goods:
    """`members`: the slots that each row may hold without a campaign; `categories`: dense, 0 none."""
    whole = np.full((len(kinds), 4), -1, np.int64)
    whole[:, R_MEMBERS], whole[:, R_CATEGORY], whole[:, R_KIND] = members.view(np.int64), categories, kinds
    if worth.measured is not None:
        whole[:, R_MEASURED] = worth.measured.at
    of = worth.value
    return Goods(whole, np.column_stack([worth.gain, worth.loss, of.click, of.convert, worth.cost]))


def deals_of(campaigns: Campaigns, table: OfferTable, worth: OfferWorth, capped: U1, promise: U1) -> Deals:
    """`capped` and `promise` by campaign."""
    of, offer = table.campaign, table.offer
    whole = np.empty((len(of), D_MEASURED + 1), np.int64)
    whole[:, D_ROW], whole[:, D_CAMPAIGN], whole[:, D_SLOTS] = table.row, of, table.slots.view(np.int64)
    whole[:, D_BAND], whole[:, D_ROADBLOCK] = campaigns.band.take(of), campaigns.roadblock.take(of)
    whole[:, D_PIN_SLOT], whole[:, D_PIN] = table.pin_slot, table.pin
    whole[:, D_CAPPED], whole[:, D_PROMISE] = capped.take(of), promise.take(of)
    whole[:, D_MEASURED] = worth.measured.take(offer)
    return Deals(whole, np.ascontiguousarray(worth.terms.take(offer, axis=0)), worth.until.take(offer))
