"""The market's loops by NumPy and by sets: twins of serving.stocking, serving.meeting and serving.reached."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from serving.page_state import I_CAPPED, I_CATEGORY, I_KIND, I_MEMBERS, I_ORIGIN, I_ROOM, O_ROOM
from serving.stocking import (
    D_BAND,
    D_CAMPAIGN,
    D_CAPPED,
    D_MEASURED,
    D_PIN,
    D_PIN_SLOT,
    D_PROMISE,
    D_ROADBLOCK,
    D_ROW,
    D_SLOTS,
    R_CATEGORY,
    R_CLICK,
    R_CONVERT,
    R_COST,
    R_GAIN,
    R_KIND,
    R_LOSS,
    R_MEASURED,
    R_MEMBERS,
    ROOMS,
)

CLICK, CONVERT, LOSS, COST, LEVER, USED, GAINED = range(7)


def plain_stock(
    whole: Any, parts: Any, deals: Any, terms: Any, until: Any, most: Any, at: Any, rows: Any, origin: Any,
    score: Any, use: Any, delta: Any, prices: Any, now: float, slot_of: Any, in_order: bool,
) -> tuple[Any, ...]:  # fmt: skip
    """As `serving.stocking.stocked`, without its scratch."""
    one = np.float32(1)
    chance = np.fmin(np.fmax(score, np.float32(0)), one)
    place = whole[rows, R_MEASURED]
    known = (place >= 0) & (place < len(use))
    own = parts[rows, R_GAIN].copy()
    mine, of = rows[known], place[known]
    own[known] = parts[mine, R_CLICK] + delta[of] * parts[mine, R_CONVERT] - use[of] * parts[mine, R_COST]
    value = score if in_order else chance * own - parts[rows, R_LOSS]
    options = np.zeros((len(rows), I_CAPPED + 1), np.int64)
    options[:, I_MEMBERS], options[:, I_ORIGIN] = whole[rows, R_MEMBERS], origin
    options[:, I_CATEGORY], options[:, I_KIND] = whole[rows, R_CATEGORY], whole[rows, R_KIND]
    options[:, I_ROOM : I_ROOM + 2] = -1
    table = at[np.isin(deals[at, D_ROW], rows)]
    deal, term, candidate = deals[table], terms[table], np.searchsorted(rows, deals[table, D_ROW])
    campaigns, which = np.unique(deal[:, D_CAMPAIGN], return_inverse=True)
    here = np.where(deal[:, D_PIN_SLOT] < 0, -1, slot_of[deal[:, D_PIN_SLOT]])
    offers = np.full((len(table), O_ROOM + ROOMS), -1, np.int64)
    offers[:, : O_ROOM + 1] = np.column_stack(
        [
            candidate, deal[:, D_CAMPAIGN], deal[:, D_SLOTS], deal[:, D_BAND], here,
            np.where(here < 0, -1, deal[:, D_PIN]), deal[:, D_CAPPED], deal[:, D_ROADBLOCK],
            deal[:, D_PROMISE], which,
        ]
    )  # fmt: skip
    used, gained, place = term[:, USED].copy(), term[:, GAINED].copy(), deal[:, D_MEASURED]
    known = (place >= 0) & (place < len(use))
    used[known], gained[known] = use[place[known]], delta[place[known]]
    p, price = chance[candidate], prices[deal[:, D_CAMPAIGN]]
    good = p * (term[:, CLICK] + gained * term[:, CONVERT]) - term[:, LOSS]
    spent = p * used * term[:, COST]
    lever = np.where((now < until[table]) & (good > 0), term[:, LEVER], one)
    base, free = good - spent, lever * good - spent
    worth = np.column_stack(
        [free + price[:, 0] + p * price[:, 1] + p * used * price[:, 2], base, free - base]
    )
    return value, options, offers, worth, table, campaigns, most[campaigns]


def plain_met(
    running: Any, campaign: Any, row: Any, at: Any, rows: Any, drops: Any, offered: Any, room: Any, of: Any
) -> list[list[int]]:
    """As `serving.meeting.met`; `offered`: the campaigns that stood for a place."""
    why = dict(zip(rows.tolist(), drops.tolist(), strict=True))
    full = [c for c, left in zip(of.tolist(), room.tolist(), strict=True) if c >= 0 and left <= 0]
    return [
        np.flatnonzero(running).tolist(),
        campaign[at].tolist(),
        [why.get(one, 0) for one in row[at].tolist()],
        offered.tolist(),
        full,
    ]


def plain_counted(drops: Any) -> list[tuple[int, int]]:
    return list(Counter(one for one in drops.tolist() if one).items())


def plain_reached(log: Any, what: int, scope: str, keys: Any, since: float) -> tuple[int, float]:
    at = log["at"][(log["what"] == what) & np.isin(log[scope], keys)].astype(float)
    return int((at >= since).sum()), float(at.max(initial=-1.0))
