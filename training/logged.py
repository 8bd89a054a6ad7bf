"""Served records and what they name, wherever they are: in the event log, or ingested into the lake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

from features.events import unpack
from features.log import EventLog
from training.lake import Lake
from training.replay import Record

PAGE: Final = 2_000
NEAR_S: Final = 86_400.0
BLOCK: Final = 5_000  # records of the lake in memory at once
DAY_S: Final = 86_400.0
_CLOCK_BITS: Final = 80
_FIRST, _LAST = 1_600_000_000.0, 4_000_000_000.0  # times that an id may be believed to tell


class Logged:
    """Reads only. `log` None: what the lake has."""

    def __init__(self, lake: Lake, log: EventLog | None = None) -> None:
        self._lake, self._log = lake, log

    def found(self, decision_id: str, subject: str | None = None) -> list[Record]:
        """Every record of this id, newest first: several where it was decided afresh, or two used it.

        The log is looked through first, then the day that the id tells (UUIDv7), then the rest of the lake.
        """
        records: list[Record] = [one for one in self._tail(decision_id.encode()) if one["id"] == decision_id]
        if not records:
            at = told_by(decision_id)
            if at is not None:
                records = self._in_lake(decision_id, at - NEAR_S, at + NEAR_S)
            if not records:
                records = self._in_lake(decision_id, None, None)
        mine = [one for one in records if subject is None or one["subject"] == subject]
        return sorted(mine, key=lambda one: float(one["at"]), reverse=True)

    def between(self, since: float, until: float) -> tuple[int, Iterator[Record]]:
        """How many records of since <= at < until there are, and they themselves in the order of writing."""
        waiting: list[Record] = [one for one in self._tail(b"served") if since <= one["at"] < until]
        counts = self._lake.served(since, until, columns=["at"]).num_rows
        return counts + len(waiting), self._records(since, until, waiting)

    def body(self, kind: str, version: str, at: float) -> bytes | None:
        """What was logged under a version; `at`: the time of a record that names it. None: it is lost."""
        day = at // DAY_S * DAY_S
        found = self._lake.inputs(kind, day, day + DAY_S, version)["body"].to_pylist()
        return found[0] if found else self._waiting(kind, day).get(version)

    def bodies(self, kind: str, at: float) -> dict[str, bytes]:
        """All versions of a kind that records of the UTC day of `at` name."""
        day = at // DAY_S * DAY_S
        table = self._lake.inputs(kind, day, day + DAY_S)
        held: Any = zip(table["version"].to_pylist(), table["body"].to_pylist(), strict=True)
        return {**dict(held), **self._waiting(kind, day)}

    def _waiting(self, kind: str, day: float) -> dict[str, bytes]:
        return {
            one["version"]: one["body"]
            for one in self._tail(b"input", "input")
            if one["kind"] == kind and day <= one["at"] < day + DAY_S
        }

    def _records(self, since: float, until: float, waiting: list[Record]) -> Iterator[Record]:
        table = self._lake.served(since, until, columns=["at", "record"])
        for start in range(0, table.num_rows, BLOCK):
            for packed in table["record"].slice(start, BLOCK):
                yield unpack(packed.as_py())
        yield from waiting

    def _in_lake(self, decision_id: str, since: float | None, until: float | None) -> list[Record]:
        packed = self._lake.served_of(decision_id, since, until)["record"]
        return [unpack(one.as_py()) for one in packed]

    def _tail(self, holding: bytes, kind: str = "served") -> Iterator[dict[str, Any]]:
        """Entries of a kind that wait in the log for ingest and whose bytes hold something."""
        if self._log is None:
            return
        for shard, after in self._log.committed().items():
            while page := self._log.read(shard, after, PAGE):
                for _, payload in page:
                    if holding in payload and (row := unpack(payload))["t"] == kind:
                        yield row
                after = page[-1][0]


def told_by(decision_id: str) -> float | None:
    """POSIX seconds in an id of ours (UUIDv7); None where it is none."""
    try:
        one = UUID(decision_id)
    except ValueError:
        return None
    at = (one.int >> _CLOCK_BITS) / 1000
    return at if one.version == 7 and _FIRST < at < _LAST else None
