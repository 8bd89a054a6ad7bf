"""The tables of the lake: their columns, and how an offered table is made to fit them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from features.events import WHAT

arrow: Any = pa  # as untyped: the stubs know fewer argument types than the library takes
pc: Any = pyarrow.compute

EVENT_COLUMNS: Final = pa.schema(
    [
        ("event_id", pa.string()),
        ("type", pa.dictionary(pa.int32(), pa.string())),
        ("occurred_at", pa.float64()),
        ("received_at", pa.float64()),
        ("at", pa.float64()),
        ("subject", pa.string()),
        ("user_id", pa.string()),
        ("visitor_id", pa.string()),
        ("device", pa.string()),
        ("decision_id", pa.string()),
        ("slot", pa.uint32()),
        ("position", pa.int16()),
        ("item_key", pa.uint64()),
        ("item_id", pa.string()),
        ("campaign", pa.uint32()),
        ("creative", pa.uint32()),
        ("action", pa.string()),
        ("amount", pa.float64()),
        ("currency", pa.string()),
        ("channel", pa.uint8()),
        ("late", pa.bool_()),
        ("weight", pa.float32()),
        ("source", pa.string()),
    ]
)
"""One row a place: a `displayed` event with n seen places is n rows. Null where an event has no such thing;
`device` is the visitor's subject that a user's page was shown on; `item_id` is null where only the page token
named the item (`item_key` does); `weight` is the source's own."""

SERVED_COLUMNS: Final = arrow.schema(
    [
        ("id", pa.string()),
        ("subject", pa.string()),
        ("at", pa.float64()),
        ("received_at", pa.float64()),
        ("surface", pa.string()),
        ("bundle", pa.string()),
        ("plan", pa.string()),
        ("effort", pa.string()),
        ("unit", pa.string()),
        ("arms", pa.list_(pa.string())),
        ("drawn", pa.list_(pa.string())),
        ("chances", pa.list_(pa.float32())),
        ("campaigns", pa.list_(pa.uint32())),
        ("ghosts", pa.list_(pa.uint32())),
        ("lifts", pa.bool_()),
        ("device", pa.string()),
        ("channel", pa.string()),
        ("ms", pa.float32()),
        ("asked", pa.uint16()),
        ("filled", pa.uint16()),
        ("failed", pa.bool_()),
        ("record", pa.binary()),
    ]
)
"""`record` is the whole served record as the service wrote it (MessagePack): the inputs of a replay. `unit`:
the subject that experiments know the customer by; `arms`: EXPERIMENT/ARM of those that count; `drawn`,
`chances`: the arms that adaptive experiments drew from, and how likely each was; `campaigns`,
`ghosts`: keys of the campaigns that the page was decided with, and of those that it would have had; `lifts`:
whether its customer could have been held out from them; `device`: the visitor's subject beside a user's;
`channel` as it was asked with; `ms` until the page was made; places `asked` for and `filled`; `failed`: a
rung or a stage of it did. These are null in what was written before there were such columns."""

OUTCOME_COLUMNS: Final = arrow.schema(
    [
        ("outcome_id", pa.string()),
        ("user_id", pa.string()),
        ("kind", pa.string()),
        ("item_id", pa.string()),
        ("item_key", pa.uint64()),
        ("family", pa.string()),
        ("amount", pa.float64()),
        ("currency", pa.string()),
        ("occurred_at", pa.float64()),
        ("recorded_at", pa.float64()),
        ("received_at", pa.float64()),
        ("channel", pa.string()),
    ]
)

INPUT_COLUMNS: Final = arrow.schema(
    [
        ("kind", pa.string()),
        ("version", pa.string()),
        ("at", pa.float64()),
        ("received_at", pa.float64()),
        ("body", pa.binary()),
    ]
)
"""What served records name by version (`serving.kept`), each kind and version once; `body` is compressed."""

COLUMNS: Final = {
    "events": EVENT_COLUMNS,
    "served": SERVED_COLUMNS,
    "outcomes": OUTCOME_COLUMNS,
    "inputs": INPUT_COLUMNS,
}
REQUIRED: Final = ("event_id", "type", "received_at", "at", "subject")
DAY_S: Final = 86_400.0
MANY_DAYS: Final = 62  # a batch that spans more is filed by month: thousands of tiny files help nobody


class LakeError(Exception):
    """The lake, or a table offered to it, is not as it must be; says what to do."""


class LakeConflict(LakeError):
    """Another writer is at work, or committed meanwhile: nothing was changed, run again."""


def conform(table: pa.Table) -> pa.Table:
    """`table` with exactly EVENT_COLUMNS; absent ones are null, or what `Lake.append_events` says."""
    if strange := sorted(set(table.column_names) - set(EVENT_COLUMNS.names)):
        raise LakeError(f"events have no column {', '.join(strange)}: drop or rename it")
    if missing := [name for name in REQUIRED if name not in table.column_names]:
        raise LakeError(f"an event table needs the columns {', '.join(missing)}")
    n = table.num_rows
    defaults: dict[str, Any] = {"occurred_at": table["at"], "late": False, "channel": 0}
    columns = []
    for name, kind in zip(EVENT_COLUMNS.names, EVENT_COLUMNS.types, strict=True):
        column = table[name] if name in table.column_names else defaults.get(name)
        if column is None or isinstance(column, bool | int):
            columns.append(pa.chunked_array([_constant(column, n, kind)]))
        else:
            columns.append(_cast(name, column, kind))
    rows = pa.Table.from_arrays(columns, schema=EVENT_COLUMNS)
    for name in REQUIRED:
        if nulls := rows[name].null_count:
            raise LakeError(f"{nulls} of {n} rows have no {name}")
    for name in ("received_at", "at", "occurred_at"):
        if n and not pc.all(pc.is_finite(rows[name])).as_py():
            raise LakeError(f"some {name} is not a finite time")
    if unknown := sorted(set(pc.unique(rows["type"]).to_pylist()) - set(WHAT)):
        raise LakeError(f"unknown event types: {', '.join(unknown)}; known are {', '.join(WHAT)}")
    return rows


def by_date(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The rows by received_at's UTC date, as ("date=2026-03-01", rows in their order); by month when many."""
    if not rows.num_rows:
        return
    days = np.floor(rows["received_at"].to_numpy() / DAY_S).astype(np.int64)
    some = np.unique(days)
    labels = [label(day * DAY_S) for day in some.tolist()]
    if len(some) > MANY_DAYS:
        labels = ["month=" + text[5:12] for text in labels]
    names = sorted(set(labels))
    rank = {name: i for i, name in enumerate(names)}
    group = np.array([rank[text] for text in labels])[np.searchsorted(some, days)]
    if len(names) == 1:
        yield names[0], rows
        return
    order = np.argsort(group, kind="stable")
    rows = rows.take(order)
    ends = np.searchsorted(group[order], np.arange(len(names) + 1)).tolist()
    for i, name in enumerate(names):
        yield name, rows.slice(ends[i], ends[i + 1] - ends[i])


def between(table: pa.Table, time: str, since: float | None, until: float | None) -> pa.Table:
    """The rows with since <= time < until."""
    if since is not None:
        table = table.filter(pc.greater_equal(table[time], since))
    if until is not None:
        table = table.filter(pc.less(table[time], until))
    return table


def label(at: float) -> str:
    """The partition of a moment: date=YYYY-MM-DD, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("date=%Y-%m-%d")


def parquet(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd", compression_level=1)
    return sink.getvalue()


def _constant(value: Any, n: int, kind: pa.DataType) -> Any:
    if value is not None:
        return arrow.repeat(arrow.scalar(value, kind), n)
    if pa.types.is_dictionary(kind):
        return arrow.nulls(n, pa.string()).dictionary_encode()
    return arrow.nulls(n, kind)


def _cast(name: str, column: Any, kind: pa.DataType) -> Any:
    try:
        if column.type == kind:
            return column
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_dictionary(kind):
            return column.cast(pa.string()).dictionary_encode()
        return column.cast(kind)
    except pa.ArrowInvalid as problem:
        raise LakeError(f"column {name} does not fit {kind}: {problem}") from None
    except pa.ArrowNotImplementedError:
        raise LakeError(f"column {name} is {column.type}, it must be {kind}") from None
