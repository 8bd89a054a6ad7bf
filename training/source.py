"""What an adapter hands over: checked events, items and users, and every row that could not be used, with
the reason.

Nothing is dropped in silence. A bad row goes to the `Quarantine` with its file, line, column, value and
reason; a file of which more than half the rows are bad is refused as a whole (`DataError`), because then
the mapping is wrong, not the rows.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serving.catalogue import Item
from training.cells import pc
from training.lake import Lake
from training.tables import LakeError

Protocol = Literal["auto", "temporal", "given", "leave_last_out"]
Mask = NDArray[np.bool_]

MARKS: Final = ("", "train", "valid", "test", "undated")
"""What a row's `source` may say after the colon (`ml-1m:test`); the index is `Interactions.source_split`."""

TOO_MANY_BAD: Final = 0.5
SHOWN: Final = 80  # characters of a bad value that a message or the quarantine file repeats


class DataError(ValueError):
    """A file that cannot be used: what is wrong with it, where, and what to do. `str()` is the whole
    message, one line.
    """

    def __init__(
        self, file: str, column: str | None, row: int | None, problem: str, remedy: str, unit: str = "line"
    ) -> None:
        self.file, self.column, self.row, self.problem, self.remedy = file, column, row, problem, remedy
        where = [file]
        if column is not None:
            where.append(f"column '{column}'")
        if row is not None:
            where.append(f"{unit} {row}")
        super().__init__(printable(f"{', '.join(where)}: {problem}. {remedy}."))


def printable(text: str) -> str:
    """`text` with a mark in the place of each character that could disturb a terminal."""
    return text if text.isprintable() else "".join(mark if mark.isprintable() else "�" for mark in text)


def shown(value: object) -> str:
    """A value as a message may repeat it: printable, short, on one line."""
    text = "" if value is None else str(value)
    return printable(text if len(text) <= SHOWN else text[:SHOWN] + "…")


@dataclass(frozen=True, slots=True)
class BadRows:
    """Rows of one file that share a reason."""

    file: str
    column: str
    reason: str
    lines: NDArray[np.int64]
    values: tuple[str, ...]


@dataclass(slots=True)
class Quarantine:
    """The rows that could not be used, grouped by reason, ready to be written as one CSV file."""

    groups: list[BadRows] = field(default_factory=list)

    def add(
        self, file: str, column: str, reason: str, lines: NDArray[np.int64], values: Sequence[object]
    ) -> None:
        if len(lines):
            self.groups.append(BadRows(file, column, reason, lines, tuple(shown(v) for v in values)))

    @property
    def counts(self) -> dict[str, int]:
        """Rows by reason, most frequent first."""
        total: Counter[str] = Counter()
        for group in self.groups:
            total[group.reason] += len(group.lines)
        return dict(total.most_common())

    def __len__(self) -> int:
        return sum(len(group.lines) for group in self.groups)

    def rows(self) -> Iterator[tuple[str, int, str, str, str]]:
        """(file, line, column, value, reason), in the order in which they were found."""
        for group in self.groups:
            for line, value in zip(group.lines.tolist(), group.values, strict=True):
                yield group.file, line, group.column, value, group.reason

    def write(self, path: Path) -> int:
        """Write all rows as CSV and return their number; no file is made when there is none."""
        if not self.groups:
            return 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("file", "line", "column", "value", "reason"))
            writer.writerows(self.rows())
        return len(self)

    def summary(self) -> str:
        """One line for people: `12 rows set aside: 9 × unknown event type, 3 × no item id`."""
        if not self.groups:
            return "no rows set aside"
        parts = ", ".join(f"{count:,} × {reason}" for reason, count in self.counts.items())
        return f"{len(self):,} rows set aside: {parts}"


@dataclass(frozen=True, slots=True)
class Source:
    """A data set, checked and in the lake's form.

    `events` has the lake's columns. `protocol` is the split that suits the data. `digest` (16 hex digits)
    changes when a file's bytes or the way of reading them do: it names the batch, which makes an import
    idempotent. `whole_catalogue` is false when the items were made from the ids that occur in the events,
    because there was no list of them.
    """

    name: str
    digest: str
    events: pa.Table
    items: tuple[Item, ...]
    users: pa.Table | None = None
    notes: tuple[str, ...] = ()
    quarantine: Quarantine = field(default_factory=Quarantine)
    protocol: Protocol = "auto"
    whole_catalogue: bool = True

    @property
    def quarantined(self) -> dict[str, int]:
        """Counts of unusable rows by reason."""
        return self.quarantine.counts


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did. `already`: this very batch was in the lake before, nothing was added."""

    source: str
    events: int
    repeated: int
    items: int
    users: int
    quarantined: Mapping[str, int]
    quarantine_file: Path | None
    already: bool


def import_source(source: Source, lake: Lake, *, quarantine_folder: Path | None = None) -> ImportReport:
    """Add a source to the lake; running it again adds nothing.

    A grown file may be imported again: event ids follow from a row's content, so rows that an earlier
    import of the same source brought are recognised and left out (`repeated`).
    """
    written = None
    if quarantine_folder is not None and len(source.quarantine):
        written = quarantine_folder / f"{source.name}-{source.digest}.csv"
        source.quarantine.write(written)
    batch = f"{source.name}-{source.digest}"
    already = batch in lake.manifest().batches
    added = 0
    if not already:  # the events last: they carry the mark that says "done"
        _write_catalogue(source, lake)
        if source.users is not None:
            lake.write_users(source.users)
        added = lake.append_events(_unseen(source, lake), batch)
    return ImportReport(
        source=source.name,
        events=added,
        repeated=source.events.num_rows - added,
        items=len(source.items),
        users=0 if source.users is None else source.users.num_rows,
        quarantined=source.quarantined,
        quarantine_file=written,
        already=already,
    )


def _write_catalogue(source: Source, lake: Lake) -> None:
    """A list of items replaces the catalogue; items made from ids are only added to it."""
    items = {
        item.id: item.model_dump(mode="json", by_alias=True, exclude_defaults=True) for item in source.items
    }
    if not source.whole_catalogue:
        with suppress(LakeError):  # there is no catalogue yet
            items |= {item["id"]: item for item in lake.read_items()}
    lake.write_items(items.values())


def _unseen(source: Source, lake: Lake) -> pa.Table:
    known = lake.events(columns=["event_id"])
    if not known.num_rows:
        return source.events
    seen = pc.is_in(source.events["event_id"], value_set=known["event_id"].combine_chunks())
    return source.events.filter(pc.invert(seen))
