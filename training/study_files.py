"""Interaction files of any origin -> users, items, weights and times: what `fenliu evaluate` reads.

CSV, TSV, `::`, spaces (each also gzipped) or Parquet, with or without a header; or one line a user, `user
item item …`. Roles are `user`, `item`, and where there are such columns `weight`, `timestamp`, `split`;
common names are found by themselves. Ids are text, whatever they look like: 7 and "7" are one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from training.adapters.roles import EVENT_ROLES, assign, require
from training.cells import text_of
from training.columns import Codes, Rows, ids, numbers, times
from training.reading import RawTable, parse_text, read_table, read_text, require_file
from training.source import DataError, Quarantine

_ROLES: Final = {
    "user": EVENT_ROLES["user"],
    "item": EVENT_ROLES["item"],
    "timestamp": EVENT_ROLES["at"],
    "weight": EVENT_ROLES["weight"],
    "split": EVENT_ROLES["split"],
}
_LOOKED_AT: Final = 200  # lines from which the form of a file without a header is told
_LIKE_TIME: Final = 1e8


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are to be read. `columns`: role -> name, or the number of a column without a header, from 1.

    `least`: rows of a lower weight are left out. `binary`: what is left weighs 1. `only`: (column, values),
    rows of an interaction file with another value in the column, where it has it, are left out.
    """

    columns: Mapping[str, str]
    header: bool | None = None  # None: told from the first line
    least: float | None = None
    binary: bool = False
    encoding: str = "utf-8"
    delimiter: str | None = None
    only: tuple[str, tuple[str, ...]] | None = None


class Log(NamedTuple):
    """Interactions in the order of the file. `at` is NaN where there is no time; `part`: the marked split."""

    user: Codes
    item: Codes
    weight: NDArray[np.float32]
    at: NDArray[np.float64]
    part: Codes | None
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.weight)


def read_log(path: Path, how: Reading, *, now: float) -> Log:
    """Raises DataError that says what to do. Rows that cannot be used are counted in the notes."""
    quarantine = Quarantine()
    table, notes = table_of(path, how, quarantine)
    columns = {role: column for role, column in how.columns.items() if role in _ROLES}
    found = assign(table, _ROLES, columns)
    rows = Rows(table, quarantine)
    user = ids(rows, _wanted(table, found, "user"), "user")
    item = ids(rows, _wanted(table, found, "item"), "item")
    weight = numbers(rows, found["weight"]) if "weight" in found else np.ones(len(table))
    if "weight" in found:
        rows.reject(~np.isfinite(weight), found["weight"], "the weight is not a number", "Give each row one")
    at = np.full(len(table), np.nan)
    if "timestamp" in found:
        at = _times(rows, found["timestamp"], now, notes)
    good = rows.finish()
    if how.only is not None:
        good = good & _only(table, *how.only, path, notes)
    floor = 0.0 if how.least is None else how.least
    low = good & ((weight < floor) if how.least is not None else (weight <= 0))
    if low.any():
        said = f"weight below {floor:g}" if how.least is not None else "weight of zero or less"
        notes.append(f"{path.name}: {int(low.sum()):,} rows left out ({said})")
    if len(quarantine):
        notes.append(f"{path.name}: {quarantine.summary()}")
    kept = good & ~low
    if not kept.any():
        remedy = "Check --only, --min-weight and the weight column"
        raise DataError(str(path), None, None, "no row is left", remedy)
    used = np.ones(len(table), np.float32) if how.binary else weight.astype(np.float32)
    part = ids(Rows(table, Quarantine()), found["split"], "split").taken(kept) if "split" in found else None
    return Log(user.taken(kept), item.taken(kept), used[kept], at[kept], part, tuple(notes))


def _only(
    table: RawTable, column: str, values: tuple[str, ...], path: Path, notes: list[str]
) -> NDArray[np.bool_]:
    """Rows with one of the values; all of a file without the column, said in the notes."""
    if column not in table.columns:
        notes.append(f"{path.name}: has no column '{column}': every row counts (--only)")
        return np.ones(len(table), np.bool_)
    text = text_of(table.columns[column]).to_pylist()
    kept = np.array([value is not None and value.strip() in values for value in text], np.bool_)
    notes.append(
        f"{path.name}: {int(kept.sum()):,} of {len(kept):,} rows have {column} {' or '.join(values)}"
    )
    return kept


def _wanted(table: RawTable, found: Mapping[str, str], role: str) -> str:
    try:
        return require(table, found, role)
    except DataError as error:
        remedy = f"Name it: --columns {role}=COLUMN; or --no-header where the first line is data"
        raise DataError(error.file, None, None, error.problem, remedy) from None


def _times(rows: Rows, column: str, now: float, notes: list[str]) -> NDArray[np.float64]:
    """POSIX seconds where the column holds times, else its numbers as an order; NaN where it is empty."""
    number = numbers(rows, column)
    known = number[np.isfinite(number)]
    if len(known) and float(np.median(np.abs(known))) < 1e7:
        notes.append(f"column '{column}' is no time: taken as an order")
        return number
    scratch = Rows(rows.table, Quarantine())
    at, _ = times(scratch, column, now)
    at = np.where(scratch.good, at, np.nan)
    if missing := int(np.isnan(at).sum()):
        notes.append(f"{missing:,} rows have no readable time")
    return at


def table_of(path: Path, how: Reading, quarantine: Quarantine) -> tuple[RawTable, list[str]]:
    """The rows of a file of any of the forms, and what was assumed."""
    with require_file(path).open("rb") as file:
        if file.read(4) == b"PAR1":
            return read_table(path, quarantine), []
    text = read_text(path, encoding=how.encoding)
    head = [line for line in text[: 1 << 20].splitlines()[:_LOOKED_AT] if line.strip()]
    delimiter = how.delimiter
    if delimiter is None and "::" in head[0]:
        text, head, delimiter = text.replace("::", "\t"), [h.replace("::", "\t") for h in head], "\t"
    if delimiter is None and not any(mark in head[0] for mark in ",\t;|") and " " in head[0].strip():
        widths = {len(line.split()) for line in head}
        if len(widths) > 1 or max(widths) > 5:
            return _lists(path, text), [f"{path.name}: read as one line a user: user item item …"]
        text = "\n".join("\t".join(line.split()) for line in text.splitlines())
        head, delimiter = ["\t".join(line.split()) for line in head], "\t"
    mark = delimiter or max(",\t;|", key=head[0].count)
    fields = [field.strip().strip('"') for field in head[0].split(mark)]
    bare = how.header is False or (how.header is None and any(map(_is_number, fields)))
    if not bare:
        return parse_text(str(path), text, quarantine, delimiter=delimiter), []
    names, notes = _names(path, fields, head, mark, how)
    return parse_text(str(path), text, quarantine, delimiter=delimiter, names=names), notes


def _names(
    path: Path, fields: Sequence[str], head: Sequence[str], mark: str, how: Reading
) -> tuple[list[str], list[str]]:
    """Names of the columns of a file without a header: user, item, and a time where numbers look like one."""
    names = [str(place + 1) for place in range(len(fields))]
    if any(column in names for column in how.columns.values()):
        return names, []
    if len(fields) < 2:
        raise DataError(str(path), None, 1, "there is one column only", "Name the delimiter: --delimiter")
    names[:2] = ["user", "item"]
    for place in range(len(fields) - 1, 1, -1):
        values = [line.split(mark)[place].strip().strip('"') for line in head if line.count(mark) >= place]
        if values and all(_is_number(value) and float(value) > _LIKE_TIME for value in values):
            names[place] = "timestamp"
            break
    said = f"{path.name}: no header; read as {', '.join(names)} (--columns weight=3 names another by number)"
    return names, [said]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _lists(path: Path, text: str) -> RawTable:
    users: list[str] = []
    items: list[str] = []
    lines: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        user, *rest = line.split() or [""]
        users += [user] * len(rest)
        items += rest
        lines += [number] * len(rest)
    columns = {"user": pa.array(users, pa.string()), "item": pa.array(items, pa.string())}
    return RawTable(str(path), columns, np.array(lines, np.int64))


def read_candidates(path: Path, how: Reading) -> tuple[Codes, Codes]:
    """(user, item) pairs: two columns, or a line a user, `user item item …` by tabs, commas or spaces.

    A user written as `(user,item)`, as in He et al.'s files, stands for the user alone.
    """
    with require_file(path).open("rb") as file:
        plain = file.read(4) != b"PAR1"
    if plain:
        text = read_text(path, encoding=how.encoding)
        first = text.lstrip().partition("\n")[0]
        if first.startswith("(") or len(first.replace(",", "\t").split()) > 4:
            users: list[str] = []
            items: list[str] = []
            for line in filter(str.strip, text.splitlines()):
                name, rest = line.split(None, 1) if line.startswith("(") else ("", line)
                fields = rest.replace(",", " ").replace("\t", " ").split()
                owner = name.strip("()").partition(",")[0] if name else fields.pop(0)
                users += [owner] * len(fields)
                items += fields
            return _codes(users), _codes(items)
    log = read_log(
        path, Reading(how.columns, how.header, encoding=how.encoding, delimiter=how.delimiter), now=0.0
    )
    return log.user, log.item


def _codes(values: list[str]) -> Codes:
    coded = pa.array(values, pa.string()).dictionary_encode()
    return Codes(tuple(map(str, coded.dictionary.to_pylist())), coded.indices.to_numpy().astype(np.int32))


class Attributes(NamedTuple):
    """Columns of text by id; "" where not known."""

    ids: tuple[str, ...]
    columns: Mapping[str, NDArray[np.object_]]


def read_attributes(path: Path, how: Reading, role: str) -> Attributes:
    """A table of users' or items' attributes. `role`: `user` or `item`, the column of the id, the first where
    there is no header; the others are then named by their numbers.
    """
    quarantine = Quarantine()
    bare = Reading({role: "1"}, how.header, encoding=how.encoding, delimiter=how.delimiter)
    table, _ = table_of(path, bare, quarantine)
    given = {role: how.columns[role]} if how.columns.get(role) in table.columns else {}
    if "1" in table.columns and not given:
        given = {role: "1"}
    found = assign(table, {role: _ROLES[role] + " id"}, given)
    rows = Rows(table, quarantine)
    code = ids(rows, _wanted(table, found, role), role)
    _, first = np.unique(code.codes, return_index=True)
    first = np.sort(first[code.codes[first] >= 0])
    columns = {
        name: np.array(
            ["" if v is None else str(v).strip() for v in column.take(pa.array(first)).to_pylist()], object
        )
        for name, column in table.columns.items()
        if name != found[role]
    }
    return Attributes(tuple(code.values[place] for place in code.codes[first].tolist()), columns)
