"""Anybody's events, items and customers, as CSV, TSV (each also gzipped) or Parquet, with or without a
column mapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.adapters.catalogue_file import made_items, read_items
from training.adapters.customer_file import read_users
from training.adapters.roles import EVENT_ROLES, assign, require
from training.columns import Codes, Rows, ids, mapped, numbers, repeated, times, weights
from training.event_rows import WITHOUT_ITEM, EventRows, Type, event_type, to_table
from training.reading import RawTable, digest_of, read_table
from training.source import MARKS, TOO_MANY_BAD, DataError, Protocol, Quarantine, Source

_SPLITS: Final = {"train": 1, "training": 1, "valid": 2, "val": 2, "validation": 2, "dev": 2, "test": 3}


@dataclass(frozen=True, slots=True)
class Options:
    """How the files are to be read. Mappings are role -> column: `user`, `item`, `type`, `at`, `weight`,
    `rating`, `amount`, `event_id`, `split`, `order` for events, `id` for items, `user_id` for customers.
    """

    items: Path | None = None
    users: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    item_columns: Mapping[str, str] = field(default_factory=dict)
    user_columns: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)  # a name in the file -> a type, or acted:NAME
    default_type: str = "converted"  # of files without a type column
    kind: str = "content"  # of items that do not say
    min_rating: float | None = None  # ratings below are not positive, and left out
    keep_repeats: bool = False  # equal rows at the same time are several events, not one told twice
    encoding: str = "utf-8"
    delimiter: str | None = None
    names: tuple[str, ...] | None = None  # the columns of an events file without a header
    name: str | None = None


def load(events: Path, *, now: float, options: Options | None = None) -> Source:
    """Read a data set. `now` (POSIX seconds) bounds its times, and ends those of rows that have none."""
    how = options or Options()
    quarantine, notes = Quarantine(), list[str]()
    table = _read(events, quarantine, how, names=how.names)
    rows, undated = _events(table, quarantine, how, now, notes)
    name = how.name or events.name.partition(".")[0][:40] or "events"
    catalogue = None
    if how.items is not None:
        items = _read(how.items, quarantine, how)
        catalogue = read_items(items, quarantine, kind=how.kind, mapping=how.item_columns)
        _compare(rows.item, {item.id for item in catalogue}, table, how.items, notes)
    users = None
    if how.users is not None:
        users = read_users(_read(how.users, quarantine, how), quarantine, how.user_columns, notes)
    learnable(rows, table)
    files = [events, *(path for path in (how.items, how.users) if path is not None)]
    seen = [rows.item.values[code] for code in np.unique(rows.item.codes[rows.item.codes >= 0]).tolist()]
    return Source(
        name=name,
        digest=digest_of(files, how),
        events=to_table(rows, name=name, now=now),
        items=catalogue or made_items(seen, how.kind),
        users=users,
        notes=tuple(notes),
        quarantine=quarantine,
        protocol=_protocol(rows, undated=undated),
        whole_catalogue=catalogue is not None,
    )


def _read(path: Path, quarantine: Quarantine, how: Options, names: tuple[str, ...] | None = None) -> RawTable:
    return read_table(path, quarantine, encoding=how.encoding, delimiter=how.delimiter, names=names)


def _protocol(rows: EventRows, *, undated: bool) -> Protocol:
    if bool(np.isin(rows.mark, (1, 2, 3)).any()):
        return "given"
    return "leave_last_out" if undated else "temporal"


def _events(
    table: RawTable, quarantine: Quarantine, how: Options, now: float, notes: list[str]
) -> tuple[EventRows, bool]:
    found = assign(table, EVENT_ROLES, how.columns)
    user_column, item_column = require(table, found, "user"), require(table, found, "item")
    rows = Rows(table, quarantine)
    kinds, kind = _types(rows, found, how, notes)
    itemless = np.array([one.action in WITHOUT_ITEM for one in kinds], np.bool_)[kind]
    user = ids(rows, user_column, "user")
    item = ids(rows, item_column, "item", optional=itemless)
    dated = "at" in found and "order" not in how.columns
    at = _dated(rows, found["at"], now, notes) if dated else _undated(rows, found, now, notes)
    mark = _marks(rows, found, dated=dated)
    weight = weights(rows, found["weight"]) if "weight" in found else None
    event_id = _event_ids(rows, found, user, item, kind, at, dated=dated, how=how, notes=notes)
    low = _low_ratings(rows, found, how, notes)
    good = rows.finish() & ~low
    amount = _amounts(rows, found)
    events = EventRows(user, item, kinds, kind, at, mark, weight, amount, event_id=event_id)
    return events.take(good), not dated


def _types(
    rows: Rows, found: Mapping[str, str], how: Options, notes: list[str]
) -> tuple[tuple[Type, ...], NDArray[np.int32]]:
    if "type" not in found:
        kind = event_type(how.default_type, how.types)
        if kind is None:
            remedy = "Name a type such as converted, clicked or acted:purchased"
            raise DataError(rows.table.file, None, None, f"'{how.default_type}' is not an event type", remedy)
        notes.append(f"no column is the event type: every row is '{how.default_type}'")
        return (kind,), np.zeros(len(rows.table), np.int32)
    kinds: list[Type] = []

    def translate(text: str) -> int | None:
        if (one := event_type(text, how.types)) is None:
            return None
        if one not in kinds:
            kinds.append(one)
        return kinds.index(one)

    remedy = "Map it: types NAME=viewed, clicked, converted, purchased … or acted:NAME"
    codes = mapped(rows, found["type"], translate, "unknown event type", remedy)
    return tuple(kinds) or (Type("acted"),), codes


def _dated(rows: Rows, column: str, now: float, notes: list[str]) -> NDArray[np.float64]:
    at, unit = times(rows, column, now)
    notes.append(f"times are read from '{column}' as {unit}")
    return at


def _undated(rows: Rows, found: Mapping[str, str], now: float, notes: list[str]) -> NDArray[np.float64]:
    """Rows in their order, one second apart, the last at `now`; rows equal in `order` share their second."""
    n = len(rows.table)
    if "order" not in found:
        notes.append(
            "no column is the time: rows are taken to be in order of time, and nothing decays among them"
        )
        return np.asarray(now - (n - 1.0) + np.arange(n), np.float64)
    column = found["order"]
    values = numbers(rows, column)
    rows.reject(
        ~np.isfinite(values), column, "the order is missing or not a number", "Give each row a number"
    )
    notes.append(f"no column is the time: rows are ordered by '{column}', and nothing decays among them")
    distinct, rank = np.unique(values, return_inverse=True)
    return np.asarray(now - (len(distinct) - 1.0) + rank, np.float64)


def _marks(rows: Rows, found: Mapping[str, str], *, dated: bool) -> NDArray[np.uint8]:
    if "split" in found:
        remedy = "Splits are train, valid and test, or empty"
        splits = {"": 0, **_SPLITS}
        return mapped(
            rows, found["split"], lambda t: splits.get(t.casefold()), "unknown split", remedy
        ).astype(np.uint8)
    return np.full(len(rows.table), 0 if dated else MARKS.index("undated"), np.uint8)


def _event_ids(
    rows: Rows,
    found: Mapping[str, str],
    user: Codes,
    item: Codes,
    kind: NDArray[np.int32],
    at: NDArray[np.float64],
    *,
    dated: bool,
    how: Options,
    notes: list[str],
) -> Any:
    """The file's own event ids, or None; sets aside rows that were told twice."""
    if "event_id" in found:
        column = found["event_id"]
        given = ids(rows, column, "event")
        rows.reject(
            repeated(rows, {"id": given.codes}),
            column,
            "the event id occurs twice",
            "Give each event its own id",
        )
        return given.text()
    keys: dict[str, NDArray[Any]] = {"user": user.codes, "item": item.codes, "kind": kind}
    if dated and not how.keep_repeats:
        again = repeated(rows, {**keys, "at": at})
        rows.reject(
            again,
            None,
            "the row repeats an earlier one",
            "Remove it, or say that repeats are events (keep_repeats)",
        )
    elif not dated and (count := int(repeated(rows, keys).sum())):
        notes.append(
            f"{count:,} rows repeat a user, item and type: without a time they count as repeated behaviour"
        )
    return None


def _low_ratings(rows: Rows, found: Mapping[str, str], how: Options, notes: list[str]) -> NDArray[np.bool_]:
    """Rows whose rating is too low to be a positive: valid, but nothing to learn a liking from."""
    none = np.zeros(len(rows.table), np.bool_)
    if "rating" not in found:
        return none
    column = found["rating"]
    if how.min_rating is None:
        notes.append(
            f"'{column}' is not used: every row counts as positive; set min_rating to leave low ones out"
        )
        return none
    rating = numbers(rows, column)
    rows.reject(
        ~np.isfinite(rating), column, "the rating is missing or not a number", "Give each row a rating"
    )
    low = (rating < how.min_rating) & rows.good
    notes.append(f"{int(low.sum()):,} ratings below {how.min_rating:g} are not positive: left out")
    return low


def _amounts(rows: Rows, found: Mapping[str, str]) -> NDArray[np.float64] | None:
    if "amount" not in found:
        return None
    amount = numbers(rows, found["amount"])
    amount[~np.isfinite(amount)] = np.nan
    return amount


def _compare(item: Codes, known: set[str], table: RawTable, items: Path, notes: list[str]) -> None:
    """Events about items that the catalogue does not have are kept in the lake, but not learnt from."""
    strange = np.array([value not in known for value in item.values] + [False], np.bool_)[item.codes]
    count = int(strange.sum())
    if count > TOO_MANY_BAD * len(strange):
        example = item.values[int(item.codes[strange][0])]
        problem = (
            f"{count:,} of {len(strange):,} events name items that {items} does not have, such as '{example}'"
        )
        raise DataError(
            table.file, None, None, problem, "Check that both files write item ids in the same way"
        )
    if count:
        notes.append(f"{count:,} events name items that {items.name} does not have: kept, not learnt from")


def learnable(rows: EventRows, table: RawTable) -> None:
    """Refuse data from which nobody could learn: one customer, one item, nothing positive."""
    positive = rows.positive()
    if not len(rows) or not positive.any():
        kinds = ", ".join(sorted({kind.action or kind.what for kind in rows.kinds}))
        remedy = "Map the types that mean interest (types NAME=clicked …), or lower min_rating"
        raise table.error(None, None, f"no event says that somebody likes an item (types: {kinds})", remedy)
    remedy = "Training compares customers with one another: give the events of more of them"
    if len(np.unique(rows.user.codes)) < 2:
        raise table.error(None, None, f"all events are of one user ('{_first(rows.user)}')", remedy)
    if len(np.unique(rows.item.codes[positive])) < 2:
        raise table.error(
            None, None, "all positive events are about one item", "Give events about at least two items"
        )


def _first(codes: Codes) -> str:
    return codes.values[int(codes.codes[0])]
