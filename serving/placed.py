"""A page's placements column by column: transposed once, for token, bytes, served record and memory.

Forty placements of twenty fields read one by one, by each of the four, cost more than all else they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

import numpy as np

from serving.domain import Placement

MOST_PACKERS: Final = 1024
_DTYPES: Final = {"Q": "<u8", "I": "<u4", "B": "u1", "f": "<f4"}


class Columns(NamedTuple):
    """The fields of serving.domain.Placement, each a column in page order."""

    slot: tuple[int, ...] = ()
    position: tuple[int, ...] = ()
    row: tuple[int, ...] = ()
    key: tuple[int, ...] = ()
    score: tuple[float, ...] = ()
    origin: tuple[int, ...] = ()
    reason: tuple[int, ...] = ()
    creative: tuple[int, ...] = ()
    creative_key: tuple[int, ...] = ()
    flags: tuple[int, ...] = ()
    propensity: tuple[float, ...] = ()
    campaign: tuple[int, ...] = ()
    campaign_key: tuple[int, ...] = ()
    value: tuple[float, ...] = ()
    base: tuple[float, ...] = ()
    tag: tuple[float, ...] = ()
    rule: tuple[int, ...] = ()
    by: tuple[int, ...] = ()
    capped: tuple[bool, ...] = ()
    shown: tuple[float, ...] = ()
    units: tuple[tuple[float, float, float], ...] = ()

    @classmethod
    def of(cls, placements: Sequence[Placement]) -> Columns:
        return cls(*zip(*placements, strict=True)) if placements else cls()


def packed(code: str, column: Sequence[float]) -> bytes:
    """Little-endian bytes; `code`: Q, I, B or f, as struct has them."""
    try:
        return _packer(code, len(column)).pack(*column)
    except OverflowError:  # beyond what four bytes of a float hold: infinite there
        with np.errstate(over="ignore"):
            return np.array(column, _DTYPES[code]).tobytes()


@lru_cache(MOST_PACKERS)
def _packer(code: str, many: int) -> Struct:
    return Struct(f"<{many}{code}")
