"""Columns of a file -> ids, times, event types and weights; vectorised, with a reason for each row that
does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from features.ids import BadId, check_id
from training.cells import MISSING, arrow, numeric, pc, text_of
from training.reading import RawTable
from training.source import TOO_MANY_BAD, Mask, Quarantine, shown

_DAY: Final = 86_400.0
_EARLIEST: Final = 315_532_800.0  # 1980-01-01
_UNITS: Final = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
LARGEST_WEIGHT: Final = 1e6


class Codes(NamedTuple):
    """A text column in few bytes: the distinct values, and for each row its value's position, -1 where
    unusable.
    """

    values: tuple[str, ...]
    codes: NDArray[np.int32]

    def taken(self, rows: Mask) -> Codes:
        """Only these rows; values that none of them has stay."""
        return Codes(self.values, self.codes[rows])

    def text(self) -> Any:
        """The column as Arrow text; null where unusable."""
        codes = arrow.array(self.codes, mask=self.codes < 0)
        values = arrow.array(self.values, arrow.string())
        return arrow.DictionaryArray.from_arrays(codes, values).cast(arrow.string())

    @classmethod
    def joined(cls, parts: Sequence[Codes]) -> Codes:
        """Columns one below the other, over one list of values."""
        place = {
            value: row for row, value in enumerate(dict.fromkeys(v for part in parts for v in part.values))
        }
        tables = [np.array([place[value] for value in part.values] + [-1], np.int32) for part in parts]
        codes = [table[part.codes] for table, part in zip(tables, parts, strict=True)]
        return cls(tuple(place), np.concatenate(codes))


class Rows:
    """The rows of a table that are still good."""

    def __init__(self, table: RawTable, quarantine: Quarantine) -> None:
        self.table, self.quarantine = table, quarantine
        self.good: Mask = np.ones(len(table), np.bool_)
        self._remedies: dict[str, str] = {}
        self._first: dict[str, tuple[str | None, int]] = {}

    def reject(self, bad: Mask, column: str | None, reason: str, remedy: str) -> None:
        """Set aside those good rows that are `bad`: a mask over all rows."""
        rows = np.flatnonzero(bad & self.good)
        if not len(rows):
            return
        self.good[rows] = False
        values = (
            [""] * len(rows) if column is None else text_of(self.table.columns[column]).take(rows).to_pylist()
        )
        self.quarantine.add(self.table.file, column or "", reason, self.table.lines[rows], values)
        self._remedies.setdefault(reason, remedy)
        self._first.setdefault(reason, (column, int(rows[0])))

    def finish(self) -> Mask:
        """The mask of good rows. Raises DataError when more than half are bad."""
        bad = len(self.good) - int(self.good.sum())
        if bad <= TOO_MANY_BAD * len(self.good):
            return self.good
        counts = {r: n for r, n in self.quarantine.counts.items() if r in self._remedies}
        reason = next(iter(counts))
        column, row = self._first[reason]
        value = "" if column is None else f" ('{shown(text_of(self.table.columns[column])[row].as_py())}')"
        problem = (
            f"{reason}{value}; {bad:,} of {len(self.good):,} rows cannot be used, {counts[reason]:,} for this"
        )
        raise self.table.error(column, row, problem, self._remedies[reason])


def ids(rows: Rows, column: str, what: str, *, optional: Mask | None = None) -> Codes:
    """An id column; rows without a valid id (1 to 64 bytes of printable UTF-8) are rejected.

    Rows in `optional` may have none: their code is -1.
    """
    coded = pc.utf8_trim_whitespace(text_of(rows.table.columns[column])).dictionary_encode()
    values = coded.dictionary.to_pylist()
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    faults = np.array([_id_fault(value, what) for value in values] + [f"no {what} id"], object)
    reasons = faults[codes]  # -1 takes the last: a null
    if optional is not None:
        absent = optional & (reasons == f"no {what} id")
        reasons[absent], codes[absent] = "", -1
    for reason in dict.fromkeys(fault for fault in faults.tolist() if fault):
        remedy = f"Give each row a {what} id of 1 to 64 bytes of printable UTF-8"
        rows.reject(np.asarray(reasons == reason), column, reason, remedy)
    return Codes(tuple(values), codes)


def _id_fault(value: str, what: str) -> str:
    if value in MISSING:
        return f"no {what} id"
    try:
        check_id(value)
    except BadId as error:
        problem = str(error)
        return f"{what} {problem.split(', this has')[0]}"
    return ""


def mapped(
    rows: Rows, column: str, translate: Callable[[str], int | None], reason: str, remedy: str
) -> NDArray[np.int32]:
    """A column of few distinct values -> codes by `translate`; rows it does not know (None) are rejected."""
    coded = pc.utf8_trim_whitespace(text_of(rows.table.columns[column])).fill_null("").dictionary_encode()
    values = coded.dictionary.to_pylist()
    codes = coded.indices.to_numpy(zero_copy_only=False)
    known = [translate(value) for value in values]
    table = np.array([-1 if code is None else code for code in known], np.int32)
    for value, code in zip(values, known, strict=True):
        if code is None:
            rows.reject(
                np.asarray(codes == values.index(value)), column, f"{reason} '{shown(value)}'", remedy
            )
    return np.asarray(table[codes], np.int32)


def numbers(rows: Rows, column: str) -> NDArray[np.float64]:
    """A column as f8, nan where there is no number."""
    values = rows.table.columns[column]
    if numeric(values.type):
        return np.asarray(pc.cast(values, pa.float64(), safe=False).to_numpy(), np.float64)
    if pa.types.is_decimal(values.type):
        return np.asarray(pc.cast(values, pa.float64()).to_numpy(), np.float64)
    text = pc.utf8_trim_whitespace(text_of(values))
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    try:
        return np.asarray(pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    except pa.ArrowInvalid:  # something in it is not a number: the slower reader says what
        return np.asarray(pd.to_numeric(text.to_pandas(), errors="coerce").to_numpy(np.float64), np.float64)


def weights(rows: Rows, column: str) -> NDArray[np.float64]:
    """A weight column; a weight is a number above 0 and at most a million."""
    weight = numbers(rows, column)
    remedy = f"A weight is a number above 0 and at most {LARGEST_WEIGHT:,.0f}; no column: all weigh the same"
    rows.reject(np.isnan(weight), column, "the weight is missing or not a number", remedy)
    rows.reject(np.isinf(weight), column, "the weight is infinite", remedy)
    rows.reject(weight < 0, column, "the weight is negative", remedy)
    rows.reject(weight == 0, column, "the weight is zero", remedy)
    rows.reject(weight > LARGEST_WEIGHT, column, "the weight is above a million", remedy)
    return weight


def times(rows: Rows, column: str, now: float) -> tuple[NDArray[np.float64], str]:
    """A time column as POSIX seconds, and the unit it was read in.

    Numbers may be seconds, milliseconds, microseconds or nanoseconds since 1970: the unit of most rows
    holds for all, and a row that only another unit explains is rejected, not guessed at. Text is ISO 8601;
    without an offset it is UTC.
    """
    values = rows.table.columns[column]
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        stamps = pc.cast(
            values, pa.timestamp("ns", tz="UTC") if _zoned(values) else pa.timestamp("ns"), safe=False
        )
        at, unit = (
            pc.cast(stamps, pa.int64()).cast(pa.float64(), safe=False).to_numpy() / 1e9,
            "Parquet timestamps",
        )
    else:
        at, unit = _read_times(rows, column)
    at = np.array(at, np.float64)
    remedy = "Give seconds or milliseconds since 1970, or ISO 8601 such as 2026-03-01T08:30:00+08:00"
    rows.reject(np.isnan(at), column, "no readable time", remedy)
    same = "Give all rows the same unit"
    usual = (at >= _EARLIEST) & (at <= now + _DAY)
    if bool(usual.any()) and unit in _UNITS:
        for other in np.array(list(_UNITS.values())):
            fits = at * _UNITS[unit] / other
            odd = ~usual & (fits >= _EARLIEST) & (fits <= now + _DAY)
            rows.reject(odd, column, f"the time is in another unit than most ({unit})", same)
    rows.reject(
        at > now + _DAY, column, "the time is in the future", "Check the unit and the clock of the source"
    )
    rows.reject(
        at < _EARLIEST,
        column,
        "the time is before 1980",
        "Check the unit; leave the time out if there is none",
    )
    return at, unit


def _zoned(values: Any) -> bool:
    return pa.types.is_timestamp(values.type) and values.type.tz is not None


def _read_times(rows: Rows, column: str) -> tuple[NDArray[np.float64], str]:
    number = numbers(rows, column)
    known = number[np.isfinite(number)]
    if len(known) * 2 >= len(number) and len(known):
        if bool(((known >= 19_700_101) & (known <= 21_001_231) & (known == np.floor(known))).all()):
            days = pd.to_datetime(
                pd.Series(number).map("{:.0f}".format), format="%Y%m%d", errors="coerce", utc=True
            )
            return _seconds(days), "days as YYYYMMDD"
        typical = float(np.median(np.abs(known)))
        unit = next((u for u, scale in _UNITS.items() if typical < 1e11 * scale), "nanoseconds")
        return np.where(np.isfinite(number), number / _UNITS[unit], np.nan), unit
    text = text_of(rows.table.columns[column]).to_pandas().str.strip().str.replace("/", "-", regex=False)
    return _seconds(pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True)), "ISO 8601"


def _seconds(stamps: pd.Series[pd.Timestamp]) -> NDArray[np.float64]:
    nanoseconds = stamps.dt.as_unit("ns").to_numpy(dtype="datetime64[ns]")
    seconds = nanoseconds.astype(np.int64) / 1e9
    return np.where(np.isnat(nanoseconds), np.nan, seconds)


def repeated(rows: Rows, keys: Mapping[str, NDArray[Any]]) -> Mask:
    """Which good rows say the same as an earlier good row in all of `keys`."""
    at = np.flatnonzero(rows.good)
    again = np.zeros(len(rows.good), np.bool_)
    again[at] = pd.DataFrame({name: values[at] for name, values in keys.items()}).duplicated().to_numpy()
    return again
