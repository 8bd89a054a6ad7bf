"""Log payloads to arrow tables, a batch at a time.

Rows are decoded one by one and turned into columns together. A row that does not fit its column spoils a
whole batch: the batch is halved until the row stands alone, so that one rule decides for many rows and for
one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.events import MAX_AGE_S, WHAT, unpack
from features.ids import key64
from features.token import PLACES
from serving.domain import EFFORTS
from serving.guard_counts import OUTSIDE
from training.tables import (
    COLUMNS,
    DAY_S,
    EVENT_COLUMNS,
    INPUT_COLUMNS,
    OUTCOME_COLUMNS,
    SERVED_COLUMNS,
    arrow,
)

SOURCE: Final = "online"
_TABLE_OF: Final = dict.fromkeys(WHAT, "events") | {
    "served": "served",
    "outcome": "outcomes",
    "input": "inputs",
}
_SERVED_KEPT: Final = frozenset(
    (
        *SERVED_COLUMNS.names,
        "forced",
        "decided",
        "context",
        "sizes",
        "place_slot",
        "degraded",
        "arm_draws",
        "idle",
    )
)
_LATEST: Final = 250_000_000_000.0  # the year 9892: dates end soon after

Row = dict[str, Any]


class Bad(NamedTuple):
    """An entry that cannot be taken, by its place in the batch."""

    entry: int
    reason: str


@dataclass
class Decoded:
    """The rows of a batch that could be read. `ids`: (n, 2) u8 identities; `received`: f8 POSIX seconds;
    `entries`: their places in the batch; `names`: their tables."""

    rows: list[Row]
    names: list[str]
    entries: list[int]
    ids: NDArray[np.uint64]
    received: NDArray[np.float64]
    bad: list[Bad]


def decode(entries: Sequence[tuple[int, str, bytes]]) -> Decoded:
    """(shard, offset, payload) -> rows, each with its table and identity; what is not readable is `bad`."""
    rows: list[Row] = []
    names: list[str] = []
    places: list[int] = []
    marks: list[bytes] = []
    received: list[float] = []
    bad: list[Bad] = []
    for place, (_, _, payload) in enumerate(entries):
        try:
            row = unpack(payload)
            name, mark, at = _identify(row, payload)
        except ValueError as problem:
            bad.append(Bad(place, str(problem)))
            continue
        rows.append(row)
        names.append(name)
        places.append(place)
        marks.append(mark)
        received.append(at)
    ids = np.frombuffer(b"".join(marks), "<u8").reshape(-1, 2)
    return Decoded(rows, names, places, ids, np.array(received, np.float64), bad)


def _identify(row: Row, payload: bytes) -> tuple[str, bytes, float]:
    """A row's table, 16-byte identity and received time. ValueError says what is wrong with it."""
    what = row["t"]
    if (name := _TABLE_OF.get(what)) is None:
        raise ValueError(f"unknown type {what!r:.80}")
    received = row.get("at" if name in ("served", "inputs") else "received_at")
    if not isinstance(received, float) or not 0 <= received < _LATEST:
        raise ValueError("no time at which it was received")
    if name == "outcomes":  # a correction has another content; outcomes() takes the last
        row.pop("received_at")
        said = repr(sorted(row.items(), key=lambda pair: str(pair[0])))
        row["received_at"] = received
        return name, _hash("o", said), received
    if name == "inputs":
        return name, _hash("i", f"{row.get('kind')}\0{row.get('version')}\0{received // DAY_S}"), received
    if not isinstance(one := row.get("id"), str):
        raise ValueError("no id")
    if name == "served":
        for heavy in row.keys() - _SERVED_KEPT:
            del row[heavy]
        row["record"] = payload
        # with its time: a page decided afresh under its old id, its first answer forgotten, is another one
        return name, _hash("s", f"{row.get('subject')}\0{one}\0{received!r}"), received
    occurred = row.get("occurred_at")
    if not isinstance(occurred, float) or not occurred >= received - MAX_AGE_S:
        raise ValueError("too_late: it occurred more than 7 days before it was received")
    return name, _hash("e", one), received


def _hash(kind: str, text: str) -> bytes:
    return blake2b(f"{kind}\0{text}".encode(errors="surrogatepass"), digest_size=16).digest()


def build(
    decoded: Decoded, chosen: NDArray[np.int64]
) -> tuple[dict[str, pa.Table], NDArray[np.int64], dict[int, str]]:
    """The chosen rows as tables by name, the rows that are in them, and why others fit no table, by row."""
    tables: dict[str, pa.Table] = {}
    good: list[int] = []
    bad: dict[int, str] = {}
    for name in COLUMNS:
        mine = [row for row in chosen.tolist() if decoded.names[row] == name]
        if not mine:
            continue
        parts, fitting, spoilt = _fit(_BUILDERS[name], decoded.rows, mine)
        good += fitting
        bad |= spoilt
        if parts:
            tables[name] = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
    return tables, np.array(sorted(good), np.int64), bad


def _fit(
    builder: Callable[[list[Row]], pa.Table], rows: list[Row], mine: list[int]
) -> tuple[list[pa.Table], list[int], dict[int, str]]:
    try:
        return [builder([rows[row] for row in mine])], mine, {}
    except (ValueError, TypeError, OverflowError, KeyError, AttributeError, pa.ArrowException) as problem:
        if len(mine) == 1:
            return [], [], {mine[0]: f"{type(problem).__name__}: {problem}"[:200]}
    half = len(mine) // 2
    left, right = _fit(builder, rows, mine[:half]), _fit(builder, rows, mine[half:])
    return left[0] + right[0], left[1] + right[1], left[2] | right[2]


def event_table(rows: list[Row]) -> pa.Table:
    """Event rows as EVENT_COLUMNS, a row a place. Raises when a row does not fit."""
    blobs = [row.get("places", b"") for row in rows]
    sizes = np.fromiter(map(len, blobs), np.int64, len(blobs))
    if (sizes % PLACES.itemsize).any():
        raise ValueError("places are not a whole number of records")
    seen = sizes // PLACES.itemsize
    places = np.frombuffer(b"".join(blobs), PLACES)
    counts = np.maximum(seen, 1)
    placed = np.repeat(seen > 0, counts)
    columns: dict[str, Any] = {
        "event_id": _texts(rows, "id"),
        "type": _texts(rows, "t").dictionary_encode(),
        "occurred_at": _times(rows, "occurred_at"),
        "received_at": _times(rows, "received_at"),
        "at": _times(rows, "at"),
        "amount": pa.array([row.get("amount") for row in rows], pa.float64()),
        "channel": pa.array([row["channel"] for row in rows], pa.uint8()),
        "late": pa.array([row.get("late", False) for row in rows], pa.bool_()),
        "weight": arrow.nulls(len(rows), pa.float32()),
        "source": arrow.repeat(SOURCE, len(rows)),
    }
    for name in (
        "subject",
        "user_id",
        "visitor_id",
        "device",
        "decision_id",
        "item_id",
        "action",
        "currency",
    ):
        columns[name] = _texts(rows, name)
    if columns["subject"].null_count:
        raise ValueError("no subject")
    table = pa.table(columns)
    if len(placed) != len(rows):
        table = table.take(np.repeat(np.arange(len(rows)), counts))
    keys = np.repeat(np.fromiter((row.get("item_key", 0) for row in rows), np.uint64, len(rows)), counts)
    keys[placed] = places["item"]
    table = table.append_column("item_key", arrow.array(keys, mask=keys == 0))
    for name, kind in (
        ("slot", np.uint32),
        ("campaign", np.uint32),
        ("creative", np.uint32),
        ("position", np.int16),
    ):
        values = np.zeros(len(placed), kind)
        values[placed] = places[name]
        absent = ~placed if name == "position" else values == 0
        table = table.append_column(name, arrow.array(values, mask=absent))
    return table.select(EVENT_COLUMNS.names).cast(EVENT_COLUMNS)


def served_table(rows: list[Row]) -> pa.Table:
    times = _times(rows, "at")
    columns: dict[str, Any] = {"at": times, "received_at": times}
    columns["unit"] = _texts(rows, "unit")
    columns["arms"] = pa.array([_arms(row) for row in rows], pa.list_(pa.string()))
    draws = [_draws(row) for row in rows]
    columns["drawn"] = pa.array([names for names, _ in draws], pa.list_(pa.string()))
    columns["chances"] = pa.array([chances for _, chances in draws], pa.list_(pa.float32()))
    columns["campaigns"] = pa.array([row.get("decided") for row in rows], pa.list_(pa.uint32()))
    columns["ghosts"] = pa.array([_ghosts(row) for row in rows], pa.list_(pa.uint32()))
    columns["lifts"] = pa.array([row.get("lifts") for row in rows], pa.bool_())
    columns["device"] = _texts(rows, "device")
    columns["channel"] = pa.array([(row.get("context") or {}).get("channel") for row in rows], pa.string())
    columns["ms"] = pa.array([row.get("ms") for row in rows], pa.float32())
    columns["asked"] = pa.array([_of(sum, row.get("sizes")) for row in rows], pa.uint16())
    columns["filled"] = pa.array([_of(len, row.get("place_slot")) for row in rows], pa.uint16())
    columns["failed"] = pa.array([_of(_failed, row.get("degraded")) for row in rows], pa.bool_())
    columns["record"] = pa.array([row["record"] for row in rows], pa.binary())
    for name in ("id", "subject", "surface", "bundle", "plan", "effort"):
        columns[name] = pa.array(
            [None if (value := row.get(name)) is None else str(value) for row in rows], pa.string()
        )
    return pa.table(columns).select(SERVED_COLUMNS.names).cast(SERVED_COLUMNS)


def input_table(rows: list[Row]) -> pa.Table:
    times = _times(rows, "at")
    columns: dict[str, Any] = {"at": times, "received_at": times}
    for name, kind in (("kind", pa.string()), ("version", pa.string()), ("body", pa.binary())):
        columns[name] = pa.array([row[name] for row in rows], kind)
        if columns[name].null_count:
            raise ValueError(f"no {name}")
    return pa.table(columns).select(INPUT_COLUMNS.names).cast(INPUT_COLUMNS)


def _arms(row: Row) -> list[str] | None:
    """Those that count: a tester's are left out, and those that could make no difference to the page."""
    if "unit" not in row:
        return None
    out = (*row.get("forced", ()), *row.get("idle", ()))
    return [name for layer, name in row["arms"].items() if layer not in out]


def _draws(row: Row) -> tuple[list[str], list[float]] | tuple[None, None]:
    """EXPERIMENT/ARM of every arm that an adaptive experiment could have drawn, and its chance."""
    if not (draws := row.get("arm_draws")):
        return None, None
    counted = {name.partition("/")[0] for name in _arms(row) or ()}
    found = [
        (f"{experiment}/{arm}", chance)
        for experiment, arms, chances, _ in draws
        if experiment in counted
        for arm, chance in zip(arms, chances, strict=True)
    ]
    return [name for name, _ in found], [chance for _, chance in found]


def _of(make: Callable[[Any], Any], value: Any) -> Any:
    """None where the record does not say."""
    return None if value is None else make(value)


def _failed(degraded: Sequence[str]) -> bool:
    """Whether a rung or a stage of the page failed, as the guard counts it."""
    return any(one in EFFORTS or one not in OUTSIDE for one in degraded)


def _ghosts(row: Row) -> list[int] | None:
    """Keys of campaigns, each once."""
    return sorted({one[0] for one in row["ghosts"]}) if "decided" in row else None


def outcome_table(rows: list[Row]) -> pa.Table:
    columns: dict[str, Any] = {
        name: _times(rows, name) for name in ("occurred_at", "recorded_at", "received_at")
    }
    for name in ("outcome_id", "user_id", "kind", "item_id", "family", "currency", "channel"):
        columns[name] = _texts(rows, name)
    for name in ("outcome_id", "user_id", "kind"):
        if columns[name].null_count:
            raise ValueError(f"no {name}")
    columns["amount"] = pa.array([row.get("amount") for row in rows], pa.float64())
    keys = [None if (one := row.get("item_id")) is None else key64(one) for row in rows]
    columns["item_key"] = pa.array(keys, pa.uint64())
    return pa.table(columns).select(OUTCOME_COLUMNS.names).cast(OUTCOME_COLUMNS)


_BUILDERS: Final = {
    "events": event_table,
    "served": served_table,
    "outcomes": outcome_table,
    "inputs": input_table,
}


def _texts(rows: list[Row], name: str) -> Any:
    return pa.array([row.get(name) for row in rows], pa.string())


def _times(rows: list[Row], name: str) -> Any:
    values = np.array([row[name] for row in rows], np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} is not a time")
    return pa.array(values)
