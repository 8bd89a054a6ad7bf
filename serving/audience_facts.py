"""A customer as audience predicates see them: the fields that rules name, decoded from the packed record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS, key32
from features.views import PROFILE
from serving.predicates import OF_CATEGORY, OF_KIND, Predicates

SETS: Final = ("holdings", "attributes", "tags", "tags_off", "consents")
_ITEM_COLUMNS: Final = ("kind", "category", "top_category")
TYPES: Final = ("u1", "u2", "u4", "u8", "f4", "f8")


class Catalogue(NamedTuple):
    """Per row of the catalogue: kind code, key32 of the category's path and of its first part."""

    kinds: NDArray[np.uint8]
    categories: NDArray[np.uint32]
    tops: NDArray[np.uint32]


class Lookups(NamedTuple):
    """What live predicates ask of items: rows of item keys (-1 where not known), and facts per row."""

    rows: Callable[[NDArray[np.uint64]], NDArray[np.int32]]
    catalogue: Catalogue


def lookups_of(
    rows: Callable[[NDArray[np.uint64]], NDArray[np.int32]],
    columns: Mapping[str, NDArray[Any]] | NDArray[np.void],
) -> Lookups:
    """`columns`: the ITEM columns of every row, as a mapping or one structured array."""
    kinds, categories, tops = (np.ascontiguousarray(columns[name]) for name in _ITEM_COLUMNS)
    return Lookups(rows, Catalogue(kinds, categories, tops))


def _nowhere(keys: NDArray[np.uint64]) -> NDArray[np.int32]:
    return np.full(len(keys), -1, np.int32)


NO_LOOKUPS: Final = Lookups(_nowhere, Catalogue(np.zeros(0, "u1"), np.zeros(0, "u4"), np.zeros(0, "u4")))


class Layout:
    """Where in a packed record the columns lie that a plan's predicates compare.

    The bytes that matter (`gathered`) are taken out in one step, widest types first so that every piece stays
    aligned: `spots` says where each of SETS begins and ends among them, two numbers each, and a row of `runs`
    (r, 4) where the numbers of one type do: its code in TYPES, first byte, first column, number of columns.
    `zone`: the column of the time zone, −1 none.
    """

    def __init__(self, found: Predicates) -> None:
        columns = found.columns
        self.columns = len(columns)
        self.zone = columns.index("tz") if "tz" in columns else -1
        self.asks_items = bool(np.isin(found.tables.about, (OF_CATEGORY, OF_KIND)).any())
        pieces = [_piece(name) for name in (*SETS, *(one for one in columns if one != "tz"))]
        pieces.sort(key=lambda piece: -piece[1].itemsize)
        self.gathered = np.concatenate([np.arange(at, at + size) for _, _, at, size in pieces])
        sets: dict[str, tuple[int, int]] = {}
        runs: dict[str, list[int]] = {}
        start = 0
        for name, kind, _, size in pieces:
            if name in SETS:
                sets[name] = start, start + size
            else:
                code = TYPES.index(kind.str[1:])
                runs.setdefault(kind.str, [code, start, columns.index(name), 0])[3] += 1
            start += size
        self.spots = np.array([sets[name] for name in SETS], np.int64).reshape(-1)
        self.runs = np.array([*runs.values()], np.int64).reshape(-1, 4)


def zone_number(name: bytes) -> float:
    """A time zone as a number: key32 of its name, 0 for none."""
    text = name.rstrip(b"\0")
    return float(key32(text.decode(errors="replace"))) if text else 0.0


def _piece(name: str) -> tuple[str, np.dtype[Any], int, int]:
    """A column's name, scalar type, first byte within a PROFILE record, and number of bytes."""
    field, _, part = name.partition(".")
    kind, at = PROFILE.dtype.fields[field][:2] if PROFILE.dtype.fields else (None, 0)
    packed = PROFILE.field(field).packed
    if part:
        return name, packed, at + packed.itemsize * KINDS.index(part), packed.itemsize
    return name, packed, at, int(kind.itemsize) if kind is not None else 0
