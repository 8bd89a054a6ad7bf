"""The spool on disk: bounded, append-only and checksummed (spool_records.py).

Each process writes a folder of its own below the shared one and holds a lock in it, which ends with the
process however it ends; a folder without a holder is adopted by whoever finds it first, so what a killed
process left is drained by its successor or by another replica of the same disk. What was adopted goes before
what is new.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from features.log import Entry
from features.spool import SpoolFull, Waiting
from features.spool_records import (
    HEADER,
    LONGEST,
    Found,
    Gap,
    Spooled,
    name_parts,
    packed,
    scanned,
    segment_name,
)

SEGMENT: Final = 1 << 20  # bytes; a segment that was drained in part is replayed whole after a kill
PAGE: Final = 1 << 20
LOCK: Final = "lock"
DAMAGED: Final = "damaged"


@dataclass(frozen=True, slots=True)
class Orphan:
    """A folder without a holder: its segments, and what waits in them; `count` with what was erased."""

    segments: list[_Segment]
    entries: list[Entry]
    count: int


@dataclass(eq=False)
class _Segment:
    """`at`: where the next record to be drained begins. `folder`: whose lock goes when it is empty."""

    path: Path
    salt: bytes
    folder: _Folder
    file: int
    size: int
    at: int = len(HEADER)
    first: float | None = None
    damaged: bool = False
    met: int = 0  # damage up to here was counted


@dataclass(eq=False)
class _Folder:
    """One process's, by its lock; `left`: segments not drained yet, for one that was adopted."""

    path: Path
    lock: int
    left: int = 0

    def close(self) -> None:
        os.close(self.lock)


class FileSpool:
    """Of one process and one event loop. `most`: bytes; `segment`: of each file."""

    def __init__(self, root: Path | str, most: int, *, segment: int = SEGMENT) -> None:
        """Opens nothing. The first write makes the folder."""
        self.root, self._most, self._segment = Path(root), most, segment
        self._own: _Folder | None = None
        self._segments: deque[_Segment] = deque()
        self._active: _Segment | None = None
        self._number = 0
        self._unsynced: list[_Segment] = []
        self._waiting = Waiting()
        self._headed: list[tuple[Spooled, int]] = []  # given by `head`, with where each ends
        self.entries = self.size = self.damaged = 0

    @property
    def oldest(self) -> float | None:
        return self._segments[0].first if self._segments else None

    @property
    def adopted(self) -> bool:
        return bool(self._segments) and self._segments[0].folder is not self._own

    def holds(self, subject: str) -> bool:
        return self._waiting.holds(subject)

    def put(self, entries: Sequence[Entry], at: float) -> list[bool]:
        fresh = self._waiting.fresh(entries)
        new = [one for one, is_new in zip(entries, fresh, strict=True) if is_new]
        if not new:
            return fresh
        try:
            segment = self._open_segment()
            self._append(segment, b"".join(packed(segment.salt, at, one) for one in new))
        except SpoolFull:
            raise
        except OSError as problem:
            raise SpoolFull(f"the spool at {self.root} cannot be written: {problem.strerror}") from problem
        for one in new:
            self._waiting.add(one)
        self.entries += len(new)
        segment.first = at if segment.first is None else segment.first
        return fresh

    def _append(self, segment: _Segment, raw: bytes) -> None:
        if self.size + len(raw) > self._most:
            raise SpoolFull(f"the spool at {self.root} holds its {self._most:,} bytes")
        written = 0
        try:
            while written < len(raw):
                written += os.write(segment.file, raw[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(segment.file, segment.size)
            self._active = None  # what is behind its records is not known: the next begins a new file
            raise
        segment.size += len(raw)
        self.size += len(raw)
        if segment not in self._unsynced:
            self._unsynced.append(segment)

    def syncing(self) -> Callable[[], None]:
        folders = {segment.path.parent for segment in self._unsynced}
        folders |= {self.root, self.root.parent} if folders else set()
        files = [os.dup(segment.file) for segment in self._unsynced]
        self._unsynced.clear()

        def sync() -> None:
            try:
                for file in files:
                    os.fsync(file)
                for folder in folders:
                    _sync_folder(folder)
            except OSError as problem:  # what was written may be gone: no later try could tell
                raise SpoolFull(f"the spool at {self.root} cannot be synced: {problem.strerror}") from problem
            finally:
                for file in files:
                    os.close(file)

        return sync

    def head(self, count: int) -> list[Spooled]:
        if not self._segments:
            return []
        segment = self._segments[0]
        while True:
            data = os.pread(segment.file, PAGE + 2 * LONGEST, segment.at)
            self._headed, end = [], 0
            for one in scanned(data, segment.salt, 0):
                if isinstance(one, Gap):
                    if one.torn and segment.at + len(data) < segment.size:
                        break  # only cut by the page
                    self._met(segment, one)
                    end = one.end
                elif len(self._headed) < count:
                    self._headed.append((one.record, segment.at + one.end))
                    end = one.end
                else:
                    break
            if self._headed:
                return [record for record, _ in self._headed]
            segment.at += end
            if not end or segment.at >= segment.size:
                self._finished(segment)
                return self.head(count)

    def _met(self, segment: _Segment, gap: Gap) -> None:
        """Damage, told once however often it is read: the file is kept where it is not a torn tail."""
        if not gap.torn and segment.at + gap.start >= segment.met:
            segment.damaged = True
            segment.met = segment.at + gap.end
            self.damaged += gap.end - gap.start

    def drop(self, count: int) -> None:
        if not count:  # `head` met nothing but damage
            return
        segment = self._segments[0]
        for record, _ in self._headed[:count]:
            self.entries -= 1
            if record.entry is not None:
                self._waiting.remove(record.entry)
        segment.at = self._headed[count - 1][1]
        if count < len(self._headed):
            segment.first = self._headed[count][0].at or segment.first
        self._headed = []
        if segment.at >= segment.size:
            self._finished(segment)
        elif not self.entries:  # what is left is a torn tail: it must not look like something that waits
            self.head(1)

    def _finished(self, segment: _Segment) -> None:
        self._segments.popleft()
        if segment is self._active:
            self._active = None
        if segment in self._unsynced:
            self._unsynced.remove(segment)
        self.size -= segment.size
        os.close(segment.file)
        if segment.damaged:
            kept = self.root / DAMAGED
            kept.mkdir(exist_ok=True)
            segment.path.replace(kept / segment.path.name)
        else:
            segment.path.unlink(missing_ok=True)
        if segment.folder is not self._own:
            segment.folder.left -= 1
            if not segment.folder.left:
                _removed(segment.folder)
        if not self._segments:  # whatever was damaged or erased meanwhile, nothing waits now
            self.entries, self._waiting = 0, Waiting()

    def orphans(self) -> list[Orphan]:
        found = []
        for path in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            lock = locked(path) if path.is_dir() and path.name != DAMAGED and path.name[0] != "." else None
            if lock is not None:
                found.append(_orphan(_Folder(path, lock)))
        return [one for one in found if one.segments]

    def adopt(self, orphans: Sequence[Orphan]) -> int:
        count = 0
        for one in orphans:
            for entry in one.entries:
                self._waiting.add(entry)
            self.size += sum(segment.size for segment in one.segments)
            self.entries += one.count
            count += one.count
        own = [one for one in self._segments if one.folder is self._own]
        others = [one for one in self._segments if one.folder is not self._own]
        self._segments = deque([*others, *(one for orphan in orphans for one in orphan.segments), *own])
        if not self.entries:  # nothing but torn tails
            self.head(1)
        return count

    def _open_segment(self) -> _Segment:
        if self._active is not None and self._active.size < self._segment:
            return self._active
        if self._own is None:
            self._own = _own_folder(self.root)
        self._number += 1
        salt = secrets.token_bytes(8)
        path = self._own.path / segment_name(self._number, salt)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, HEADER)
        except OSError:
            os.close(file)
            path.unlink()
            raise
        self._active = _Segment(path, salt, self._own, file, len(HEADER))
        self.size += len(HEADER)
        self._segments.append(self._active)
        return self._active

    def close(self) -> None:
        """What waits stays on the disk, for whoever adopts it."""
        folders = {one.folder for one in self._segments} | ({self._own} if self._own is not None else set())
        for segment in self._segments:
            os.close(segment.file)
        empty = self._own is not None and not any(one.folder is self._own for one in self._segments)
        for folder in folders:
            if folder is self._own and empty:
                _removed(folder)
            else:
                folder.close()
        self._segments.clear()
        self._own = self._active = None


def _own_folder(root: Path) -> _Folder:
    """Seen by others under its name only when it is locked. Names sort by when they were made: of several
    that ended, the one that began first is drained first.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = root / f"{time.time_ns():020}-{os.getpid()}-{secrets.token_hex(4)}"
    hidden = root / f".{path.name}"
    hidden.mkdir(mode=0o700)
    lock = locked(hidden)
    assert lock is not None, "a folder of a random name was taken by somebody else"
    hidden.rename(path)
    return _Folder(path, lock)


def _orphan(folder: _Folder) -> Orphan:
    segments, entries, count = list[_Segment](), list[Entry](), 0
    for file in sorted(folder.path.glob("*.seg")):
        parts = name_parts(file)
        if parts is None:
            continue
        held = [one.record for one in read_segment(file, parts[1]) if isinstance(one, Found)]
        known = [one for one in held if one.entry is not None]
        first = known[0].at if known else None
        opened, size = os.open(file, os.O_RDONLY | os.O_CLOEXEC), file.stat().st_size
        segments.append(_Segment(file, parts[1], folder, opened, size, first=first))
        entries += [one.entry for one in known if one.entry is not None]
        count += len(held)
    folder.left = len(segments)
    if not segments:
        _removed(folder)
    return Orphan(segments, entries, count)


def locked(path: Path) -> int | None:
    """The lock of a folder; None while its process lives, or when it went meanwhile."""
    try:
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if (path / LOCK).stat().st_ino == os.fstat(lock).st_ino:
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _removed(folder: _Folder) -> None:
    with contextlib.suppress(OSError):
        (folder.path / LOCK).unlink()
        folder.path.rmdir()
    folder.close()


def _sync_folder(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def read_segment(path: Path, salt: bytes) -> Iterator[Found | Gap]:
    return scanned(path.read_bytes(), salt)
