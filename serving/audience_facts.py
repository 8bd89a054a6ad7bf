"""A customer as audience predicates see them: the fields that rules name, decoded from the packed record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.customer import Customer
from features.ids import KINDS, key32
from features.views import PROFILE, RECENT, RECENT_KEEP
from serving.predicates import OF_CATEGORY, OF_KIND, Predicates

SETS: Final = ("holdings", "attributes", "tags", "tags_off", "consents")
_ITEM_COLUMNS: Final = ("kind", "category", "top_category")
_NO_LOG: Final = np.zeros(0, RECENT)


class Facts(NamedTuple):
    """What a customer's records say; what is unknown holds anything."""

    numbers: NDArray[np.float64]  # one per Predicates.columns
    known: int  # the profile's known bits
    raw: NDArray[np.uint8]  # bytes of the record, aligned
    spots: NDArray[np.int64]  # where SETS begin and end in `raw`, two numbers each
    audiences: NDArray[np.uint16]
    audiences_known: bool
    profiling: bool
    items: NDArray[np.uint64]  # (h,) of the RECENT log, as the next three
    times: NDArray[np.float64]
    what: NDArray[np.uint8]
    action: NDArray[np.uint16]
    rows: NDArray[np.int32]  # (h,) of the items in the catalogue, -1 not there; none when nothing asks
    complete: bool  # the log was never cut: it holds everything since the customer was first seen
    log_known: bool


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


class Decoder:
    """Facts of customers, for the columns that a plan's predicates compare.

    The bytes that matter are gathered in one step, widest types first so that every piece stays aligned.
    """

    def __init__(self, found: Predicates) -> None:
        self._columns = found.columns
        self._zone = found.columns.index("tz") if "tz" in found.columns else -1
        self._asks_items = bool(np.isin(found.tables.about, (OF_CATEGORY, OF_KIND)).any())
        pieces = [_piece(name) for name in (*SETS, *(one for one in found.columns if one != "tz"))]
        pieces.sort(key=lambda piece: -piece[1].itemsize)
        self._bytes = np.concatenate([np.arange(at, at + size) for _, _, at, size in pieces]).astype(np.intp)
        sets: dict[str, tuple[int, int]] = {}
        runs: dict[str, list[int]] = {}  # type -> first and last byte, first and last column
        start = 0
        for name, kind, _, size in pieces:
            if name in SETS:
                sets[name] = start, start + size
            else:
                column = found.columns.index(name)
                run = runs.setdefault(kind.str, [start, start, column, column])
                run[1], run[3] = start + size, column + 1
            start += size
        self._spots = np.array([sets[name] for name in SETS], np.int64).reshape(-1)
        self._runs = [(np.dtype(kind), slice(*run[:2]), slice(*run[2:])) for kind, run in runs.items()]

    def facts(self, customer: Customer, lookups: Lookups) -> Facts:
        record = customer.profile
        values = PROFILE.blank_record if record is None else record.values
        raw = np.frombuffer(values.tobytes(), np.uint8)[self._bytes]
        numbers = np.empty(len(self._columns))
        for kind, where, columns in self._runs:
            numbers[columns] = raw[where].view(kind)
        if self._zone >= 0:
            numbers[self._zone] = zone_number(bytes(values["tz"]))
        audiences = customer.audiences
        recent = customer.recent if customer.recent is not None else _NO_LOG
        touched = recent["item"].copy()  # copies: aligned and writable, one type for the compiled code
        return Facts(
            numbers,
            0 if record is None else int(record.known),
            raw,
            self._spots,
            (_NO_AUDIENCES if audiences is None else audiences).copy(),
            audiences is not None,
            customer.profiling,
            touched,
            recent["at"].copy(),
            recent["what"].copy(),
            recent["action"].copy(),
            lookups.rows(touched) if self._asks_items else _NO_ROWS,
            len(recent) < RECENT_KEEP,
            customer.recent is not None and customer.profiling,
        )


_NO_AUDIENCES: Final = np.zeros(0, np.uint16)
_NO_ROWS: Final = np.zeros(0, np.int32)


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
