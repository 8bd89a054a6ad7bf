"""The event log port (role `log`): what happened, kept until the lake has it; and its memory twin.

A log has shards; a customer's entries are in one shard, in order. Appending is at-least-once for the caller:
an entry whose id was accepted within 48 hours is a duplicate and is not written again. A full log refuses,
it never drops what was not read.

There is no consumer group: who has read how far is in the lake's manifest, replaced in the same atomic step
that makes the data count, so data and offsets can never disagree. `commit` only tells the log what it may
forget. Appending is asynchronous (the service does it), reading is not (ingest and the command line do).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol
from zlib import crc32

from features.store import Clock, StoreUnavailable

SHARDS: Final = 8
MARK_TTL_S: Final = 48 * 3600
GONE_S: Final = 30 * 86_400  # how long a spool that nobody drained is kept from bringing a customer back
MAX_ENTRIES: Final = 10_000_000
START: Final = "0-0"


class LogFull(StoreUnavailable):
    """The log holds as much as it may and ingest has not taken it: run `fenliu events ingest`."""


class CannotSync(StoreUnavailable):
    """The log's store cannot tell when what was appended is on its disk; the text says what it needs."""


class Entry(NamedTuple):
    """`event_id` makes it idempotent; `subject` chooses the shard; `payload` is MessagePack (events.py)."""

    event_id: str
    subject: str
    payload: bytes


class Backlog(NamedTuple):
    """What ingest has not taken: how many entries, and when the oldest was appended (POSIX seconds by the
    store's clock; None: there is none)."""

    entries: int
    oldest: float | None


class EventLog(Protocol):
    @property
    def name(self) -> str:
        """Which log this is: another name after the store was wiped, for offsets mean nothing there."""
        ...

    @property
    def shards(self) -> int: ...

    async def append(self, entries: Sequence[Entry]) -> list[bool]:
        """Per entry: True when it was written, False when its id is a duplicate within 48 hours.

        One atomic step per shard. Raises LogFull or StoreUnavailable; some shards may have been written then:
        append the same entries again.
        """
        ...

    async def synced(self) -> None:
        """Wait until what this process appended before is on the store's disk.

        Raises CannotSync where the store cannot say, StoreUnavailable when it did not.
        """
        ...

    async def forgotten(self, subjects: Collection[str]) -> dict[str, float]:
        """When each of them that was erased within GONE_S was, POSIX seconds: what is older stays away."""
        ...

    def read(self, shard: int, after: str, count: int) -> list[tuple[str, bytes]]:
        """Up to `count` (offset, payload) behind the offset `after`, oldest first; START: from the start."""
        ...

    def since(self, at: float) -> str:
        """An offset behind which everything appended from then on (POSIX seconds) is to be read."""
        ...

    def commit(self, offsets: Mapping[int, str]) -> None:
        """Say that everything up to these offsets, inclusive, is safe in the lake."""
        ...

    def committed(self) -> dict[int, str]:
        """The offsets last committed, by shard; START where nothing was."""
        ...

    def trim(self, shard: int, upto: str) -> int:
        """Forget entries up to `upto`, inclusive, but never beyond the committed offset; how many."""
        ...

    def length(self, shard: int | None = None) -> int:
        """Entries held, of one shard or of all."""
        ...

    def backlog(self) -> Backlog:
        """What waits behind the committed offsets; entries that are committed and not trimmed are counted."""
        ...

    async def close(self) -> None: ...


def shard_of(subject: str, shards: int) -> int:
    return crc32(subject.encode()) % shards


def gone_key(subject: str) -> bytes:
    """Where an erasure is noted: under a digest, for the customer's name is to be nowhere."""
    return b"log:gone:" + blake2b(subject.encode(), digest_size=16).hexdigest().encode()


def order_of(offset: str) -> tuple[int, int]:
    """An offset as a pair that sorts. ValueError when it is none."""
    high, _, low = offset.partition("-")
    return int(high), int(low or 0)


def by_shard(entries: Sequence[Entry], shards: int) -> dict[int, list[int]]:
    """The rows of `entries` for each shard concerned, in their order."""
    rows: dict[int, list[int]] = {}
    for row, entry in enumerate(entries):
        rows.setdefault(shard_of(entry.subject, shards), []).append(row)
    return rows


class MemoryLog:
    """The log of tests and simulations; `clock` gives POSIX seconds, the marks live by it."""

    def __init__(self, clock: Clock, *, shards: int = SHARDS, max_entries: int = MAX_ENTRIES) -> None:
        """`max_entries`: in each shard."""
        self.clock = clock
        self.shards = shards
        self.max_entries = max_entries
        self.name = f"memory:{blake2b(repr((id(self), clock())).encode(), digest_size=8).hexdigest()}"
        self._entries: list[list[tuple[int, bytes, float]]] = [[] for _ in range(shards)]  # and since when
        self._next = [1] * shards
        self._marks: list[dict[str, float]] = [{} for _ in range(shards)]
        self._committed: dict[int, str] = {}
        self._gone: dict[str, float] = {}

    async def append(self, entries: Sequence[Entry]) -> list[bool]:
        accepted = [False] * len(entries)
        for shard, rows in by_shard(entries, self.shards).items():
            fresh = self._fresh(shard, [entries[row].event_id for row in rows])
            if len(self._entries[shard]) + sum(fresh) > self.max_entries:
                raise LogFull(
                    f"shard {shard} of the event log holds its {self.max_entries} entries: ingest it"
                )
            for row, new in zip(rows, fresh, strict=True):
                if new:
                    self._write(shard, entries[row])
                    accepted[row] = True
        return accepted

    def forget(self, subjects: Collection[str]) -> None:
        """Say that they were erased."""
        self._gone |= dict.fromkeys(subjects, self.clock())

    async def forgotten(self, subjects: Collection[str]) -> dict[str, float]:
        return {one: self._gone[one] for one in subjects if one in self._gone}

    async def synced(self) -> None:
        raise CannotSync("a log in memory is on no disk: give FENLIU_LOG_URL, or another level")

    def read(self, shard: int, after: str, count: int) -> list[tuple[str, bytes]]:
        held = self._entries[shard]
        first = self._next[shard] - len(held)  # numbers are dense: the n-th held is first + n
        start = max(order_of(after)[0] + 1 - first, 0)
        return [(f"{number}-0", payload) for number, payload, _ in held[start : start + count]]

    def since(self, at: float) -> str:  # noqa: ARG002
        return START  # entries have no times here

    def commit(self, offsets: Mapping[int, str]) -> None:
        self._committed.update(offsets)

    def committed(self) -> dict[int, str]:
        return {shard: self._committed.get(shard, START) for shard in range(self.shards)}

    def trim(self, shard: int, upto: str) -> int:
        limit = min(order_of(upto), order_of(self.committed()[shard]))[0]
        held = self._entries[shard]
        gone = sum(number <= limit for number, _, _ in held)
        del held[:gone]
        return gone

    def length(self, shard: int | None = None) -> int:
        return sum(map(len, self._entries)) if shard is None else len(self._entries[shard])

    def backlog(self) -> Backlog:
        waiting = [
            at
            for shard, offset in self.committed().items()
            for number, _, at in self._entries[shard]
            if number > order_of(offset)[0]
        ]
        return Backlog(self.length(), min(waiting, default=None))

    async def close(self) -> None:
        """Nothing to close."""

    def _fresh(self, shard: int, ids: list[str]) -> list[bool]:
        now, marks, seen, fresh = self.clock(), self._marks[shard], set[str](), []
        for one in ids:
            fresh.append(one not in seen and marks.get(one, 0.0) <= now)
            seen.add(one)
        return fresh

    def _write(self, shard: int, entry: Entry) -> None:
        self._entries[shard].append((self._next[shard], entry.payload, self.clock()))
        self._next[shard] += 1
        self._marks[shard][entry.event_id] = self.clock() + MARK_TTL_S
