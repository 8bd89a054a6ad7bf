"""Questions about what is in force: the category of an item, and whether a page made before may still be
shown.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from features.ids import key32
from serving.live import Live


def categories_of(live: Live) -> Callable[[NDArray[np.uint64]], NDArray[np.uint32]]:
    """Item keys (key64) -> key32 of their category path; 0 where the item is not known."""

    def categories(keys: NDArray[np.uint64]) -> NDArray[np.uint32]:
        rows = live.items.rows_of_keys(np.asarray(keys, np.uint64))
        return np.where(rows >= 0, live.categories[rows], np.uint32(0)).astype(np.uint32)

    return categories


def may_stand(
    live: Live, items: NDArray[np.uint64], creatives: NDArray[np.uint32], slots: NDArray[np.uint32]
) -> bool:
    """Whether nothing on a page (key64 of items, key32 of creatives and slots) was killed or withdrawn since.

    An item that is not in the catalogue any more may not stand; a creative taken back neither.
    """
    kills = live.kills
    if kills.everything or (len(items) and not len(live)):
        return False
    rows = live.items.rows_of_keys(items)
    if (rows < 0).any() or live.table["withdrawn"][rows].any():
        return False
    if kills.items and {live.texts[row].id for row in rows.tolist()} & kills.items:
        return False
    if kills.creatives and not kills.creatives.isdisjoint(creatives.tolist()):
        return False
    if kills.slots and not {key32(name) for name in kills.slots}.isdisjoint(slots.tolist()):
        return False
    return all(
        any(creative.key == key and creative.live for creative in live.texts[row].creatives)
        for row, key in zip(rows.tolist(), creatives.tolist(), strict=True)
        if key
    )
