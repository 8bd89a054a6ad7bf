"""Where things stood: what was displayed in a slot that is to be stable, so that it may stand there again.

`refresh: session` holds for half an hour after the last display, `refresh: day` for the customer's calendar
day. What was never displayed holds nobody to anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.events import WHAT
from serving.domain import Query, Rows, SlotRequest
from serving.headroom import SESSION_S, zone_of
from serving.items import Items
from serving.page import NOTHING_HELD

_STABLE: Final = frozenset({"session", "day"})


def held_places(query: Query, asked: Sequence[SlotRequest], rows: Rows, items: Items) -> NDArray[np.int32]:
    """(h, 3): index of the slot, candidate (position in `rows`, ascending), position it last stood at.

    Of each position the last display counts, and of each item its last position. Nothing holds for who
    refused personalisation: what they were shown is looked at by permission and caps alone.
    """
    contact = query.customer.contact
    stable = {
        slot.spec.key: index
        for index, slot in enumerate(asked)
        if slot.spec.refresh in _STABLE and slot.spec.switching_cost > 0
    }
    if not query.profiling or not stable or contact is None or not len(contact) or not len(rows):
        return NOTHING_HELD
    shown = contact[(contact["what"] == WHAT["displayed"]) & np.isin(contact["slot"], list(stable))]
    held: dict[tuple[int, int], int] = {}  # (slot, position) -> item
    for key, index in stable.items():
        since = _since(asked[index].spec.refresh, query)
        mine = shown[(shown["slot"] == key) & (shown["at"] >= since)]
        where: dict[int, int] = {}  # item -> its last position, in the order of the last displays
        for item, position in zip(mine["item"].tolist(), mine["position"].tolist(), strict=True):
            where.pop(item, None)
            where[item] = position
        latest = {position: item for item, position in where.items()}
        for position, item in latest.items():
            if position < asked[index].count:
                held[index, position] = item
    if not held:
        return NOTHING_HELD
    found = items.rows_of_keys(np.fromiter(held.values(), np.uint64, len(held)))
    at = np.minimum(rows.searchsorted(found), len(rows) - 1)
    there = (rows.take(at) == found) & (found >= 0)
    places = np.array(list(held), np.int32).reshape(-1, 2)
    made = np.column_stack([places[:, 0], at, places[:, 1]])[there]
    return np.ascontiguousarray(made, np.int32)


def _since(refresh: str, query: Query) -> float:
    if refresh == "session":
        return query.now - SESSION_S
    zone = zone_of(bytes(query.customer.get("tz")).decode("ascii", "replace"))
    here = datetime.fromtimestamp(query.now, zone)
    return here.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
