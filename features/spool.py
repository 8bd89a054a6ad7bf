"""The spool: acknowledged events kept on this machine while the log is away, and drained to it later.

The port, and MemorySpool for events that are acknowledged before anything has them (level `memory`); on disk
it is features.file_spool.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from features.log import Entry
from features.spool_records import Spooled
from features.store import StoreUnavailable

if TYPE_CHECKING:
    from features.file_spool import Orphan


class SpoolFull(StoreUnavailable):
    """The spool holds what it may, or its disk takes nothing more: nothing was kept, send it again."""


class Spool(Protocol):
    @property
    def entries(self) -> int:
        """How many wait."""
        ...

    @property
    def size(self) -> int:
        """Bytes that they take."""
        ...

    @property
    def damaged(self) -> int:
        """Bytes met so far that were no record; torn tails are not counted."""
        ...

    @property
    def oldest(self) -> float | None:
        """When the first of those that wait was spooled, POSIX seconds."""
        ...

    @property
    def adopted(self) -> bool:
        """Whether the oldest are another process's."""
        ...

    def holds(self, subject: str) -> bool:
        """Whether entries of the subject wait: later ones have to go behind them."""
        ...

    def put(self, entries: Sequence[Entry], at: float) -> list[bool]:
        """Keep them; False for an id that waits already. All or, by SpoolFull, none."""
        ...

    def syncing(self) -> Callable[[], None]:
        """What blocks until everything put so far is on the disk. Raises SpoolFull when it cannot be."""
        ...

    def head(self, count: int) -> list[Spooled]:
        """The oldest of those that wait, at most `count`, oldest first; they stay until `drop`."""
        ...

    def drop(self, count: int) -> None:
        """Forget so many of the oldest, which `head` gave."""
        ...

    def orphans(self) -> list[Orphan]:
        """What ended processes left, ours from now on. Reads it all: may run in a thread."""
        ...

    def adopt(self, orphans: Sequence[Orphan]) -> int:
        """Let it wait here; how many entries. Not between a `head` and its `drop`."""
        ...

    def close(self) -> None: ...


class MemorySpool:
    """`most`: entries that may wait."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, deque[Spooled]()
        self._waiting = Waiting()
        self.size = self.damaged = 0

    @property
    def entries(self) -> int:
        return len(self._held)

    @property
    def oldest(self) -> float | None:
        return self._held[0].at if self._held else None

    @property
    def adopted(self) -> bool:
        return False

    def holds(self, subject: str) -> bool:
        return self._waiting.holds(subject)

    def put(self, entries: Sequence[Entry], at: float) -> list[bool]:
        fresh = self._waiting.fresh(entries)
        if self.entries + sum(fresh) > self._most:
            raise SpoolFull(f"{self.entries:,} events wait for the log, as many as may")
        for entry in (one for one, new in zip(entries, fresh, strict=True) if new):
            self._held.append(Spooled(at, entry))
            self._waiting.add(entry)
            self.size += len(entry.payload)
        return fresh

    def syncing(self) -> Callable[[], None]:
        return lambda: None

    def head(self, count: int) -> list[Spooled]:
        return [self._held[at] for at in range(min(count, len(self._held)))]

    def drop(self, count: int) -> None:
        for _ in range(count):
            entry = self._held.popleft().entry
            assert entry is not None
            self._waiting.remove(entry)
            self.size -= len(entry.payload)

    def orphans(self) -> list[Orphan]:
        return []

    def adopt(self, orphans: Sequence[Orphan]) -> int:  # noqa: ARG002 - there are none
        return 0

    def close(self) -> None:
        """Nothing to close."""


class Waiting:
    """Subjects and ids of what waits."""

    def __init__(self) -> None:
        self._subjects, self._ids = Counter[str](), set[str]()

    def holds(self, subject: str) -> bool:
        return subject in self._subjects

    def fresh(self, entries: Sequence[Entry]) -> list[bool]:
        seen: set[str] = set()
        fresh = []
        for one in entries:
            fresh.append(one.event_id not in self._ids and one.event_id not in seen)
            seen.add(one.event_id)
        return fresh

    def add(self, entry: Entry) -> None:
        self._subjects[entry.subject] += 1
        self._ids.add(entry.event_id)

    def remove(self, entry: Entry) -> None:
        self._ids.discard(entry.event_id)
        self._subjects[entry.subject] -= 1
        if self._subjects[entry.subject] <= 0:
            del self._subjects[entry.subject]
