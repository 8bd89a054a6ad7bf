"""Why something is shown, as customers are told: by the sources that proposed it, the first that is true."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.reasons import Reason
from serving.surfaces import BIT

_REASONS: Final[tuple[tuple[str, Reason], ...]] = (
    ("nearest_to_anchor", Reason.SIMILAR_TO_ANCHOR),
    ("near_location", Reason.NEAR_YOU),
    ("nearest_to_recent", Reason.NEAR_VIEWED),
    ("nearest_to_customer", Reason.SIMILAR_PEOPLE),
    ("popular_in_city", Reason.POPULAR_HERE),
    ("popular_in_segment", Reason.POPULAR_SEGMENT),
    ("new", Reason.NEW_ITEM),
    ("external", Reason.PICK_OF_OPERATOR),
    ("popular_with_everybody", Reason.POPULAR),
    ("operator", Reason.PICK_OF_OPERATOR),
    ("backfill", Reason.FALLBACK),
)
ANY: Final = 0  # instead of a bit: true of every origin


@lru_cache
def reasons(informed: bool, grouped: bool) -> NDArray[np.int64]:
    """(r, 2) bit of a source and its reason, the first that is true first; the last is always true.

    Without a profile nobody is "like you", without a segment no group.
    """
    made = []
    for source, reason in _REASONS:
        if reason is Reason.SIMILAR_PEOPLE and not informed:
            continue
        told = Reason.POPULAR if reason is Reason.POPULAR_SEGMENT and not grouped else reason
        made.append((1 << BIT[source], int(told)))
    return np.array([*made, (ANY, int(Reason.POPULAR))], np.int64)


def reason_of(origin: int, informed: bool, grouped: bool) -> int:
    """Of one origin."""
    told = reasons(informed, grouped).tolist()
    return int(next(reason for bit, reason in told if bit == ANY or origin & bit))
