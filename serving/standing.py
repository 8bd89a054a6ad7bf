"""Questions about what is in force: the category of an item, and whether a page made before may still be
shown.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from features.ids import key32
from serving.decide import asked_of, page_of
from serving.domain import Query
from serving.live import Live
from serving.remembered import Remembered
from serving.texts import ItemText


def categories_of(live: Live) -> Callable[[NDArray[np.uint64]], NDArray[np.uint32]]:
    """Item keys (key64) -> key32 of their category path; 0 where the item is not known."""

    def categories(keys: NDArray[np.uint64]) -> NDArray[np.uint32]:
        keys = np.asarray(keys, np.uint64)
        found = _categories(live, keys)
        for other in live.others:  # of an item that only an arm's bundle has
            found = np.where(found == 0, _categories(other, keys), found)
        return found

    return categories


def _categories(live: Live, keys: NDArray[np.uint64]) -> NDArray[np.uint32]:
    rows = live.items.rows_of_keys(keys)
    return np.where(rows >= 0, live.categories[rows], np.uint32(0)).astype(np.uint32)


def may_stand(live: Live, query: Query, page: Remembered) -> bool:
    """Whether everything on a page made before may be shown now, to this customer, as it was rendered.

    What was killed, withdrawn or changed since may not, nor what the customer's records do not permit any
    more; and what is not known now denies, as it does on a new page. A personal page does not outlive the
    permission to be personal. A page that an arm had from its own bundle is judged by that bundle's items.
    """
    live, query = (other := live.over(page.bundle)), asked_of(query, live, other)
    kills = live.kills
    if kills.everything or (page.profiling and not query.profiling):
        return False
    if kills.slots and not {key32(name) for name in kills.slots}.isdisjoint(page.slots.tolist()):
        return False
    rows = live.items.rows_of_keys(page.items) if len(live) else np.full(len(page.items), -1, np.int32)
    if (rows < 0).any() or live.pipelines["fallback"].permit(page_of(query, live, "fallback"), rows).any():
        return False
    layouts = {asked.spec.key: asked.spec.layout_code for asked in query.slots}
    places = zip(rows.tolist(), page.creatives.tolist(), page.slots.tolist(), strict=True)
    return all(
        slot in layouts and _as_rendered(live, query, live.texts[row], creative, layouts[slot], page.body)
        for row, creative, slot in places
    )


def _as_rendered(live: Live, query: Query, text: ItemText, key: int, layout: int, body: bytes) -> bool:
    """Whether the creative of this key (0: the bare title) is in force and reads as it does in `body`."""
    if not key:
        return not text.creatives and text.json(-1, query.context.locale) in body
    if key in live.kills.creatives:
        return False
    return any(
        creative.key == key
        and creative.shows(layout, query.now)
        and text.json(index, query.context.locale) in body
        for index, creative in enumerate(text.creatives)
    )
