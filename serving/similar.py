"""`GET /v1/items/{id}/similar`: what goes with an item, of what everybody in the channel may be shown."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import orjson

from features.customer import LATE, decode_customer
from features.ids import CHANNEL_CODE, LAYOUTS
from serving.domain import Context, Query
from serving.errors import Problem
from serving.live import Live
from serving.pipeline import Page
from serving.texts import ItemText
from serving.wire import SimilarAsk

WIDER: Final = 4  # so many neighbours are looked at for each one wanted: some may not be shown


def similar_bytes(live: Live, item_id: str, ask: SimilarAsk, now: float) -> bytes:
    """The body. Raises Problem `unknown_item`. Nobody in particular asks, so nothing is known, and
    what is restricted is left out.
    """
    row = live.row(item_id)
    if row is None or live.table["withdrawn"][row]:
        raise Problem("unknown_item", f"there is no item {item_id[:80]!r}")
    rows, scores = live.bundle.neighbours.similar(row, ask.k * WIDER)
    query = Query(
        "similar",
        "v:nobody",
        "",
        (),
        Context(channel=CHANNEL_CODE[ask.channel] if ask.channel else 0, locale=ask.locale),
        decode_customer(LATE, now=now),
        now,
        row,
    )
    permitted = live.pipelines["full"].permit(Page(query, (), 0, 0, ()), rows) == 0
    items: list[dict[str, Any]] = []
    for at in np.flatnonzero(permitted).tolist():
        text = live.texts[int(rows[at])]
        creative = _pick(text, ask.locale, now, live)
        if creative is not None and len(items) < ask.k and not live.kills.everything:
            items.append({**text.shown(creative, ask.locale), "score": round(float(scores[at]), 6)})
    return orjson.dumps({"item_id": item_id, "items": items})


def _pick(text: ItemText, locale: str, now: float, live: Live) -> int | None:
    """A creative of any layout: the client says nothing of where it will show it."""
    picks = (text.pick(layout, locale, now, live.kills.creatives) for layout in range(len(LAYOUTS)))
    return next((pick for pick in picks if pick is not None), None)
