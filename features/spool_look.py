"""A spool's folder looked at from outside, and what is erased from it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from features.file_spool import DAMAGED, locked, read_segment
from features.log import Entry
from features.spool_records import Found, Gap, Spooled, blanked, name_parts, scanned


class Inspected(NamedTuple):
    """A segment: `held` by a process that lives; records and the bytes of damage in it."""

    path: Path
    held: bool
    records: list[Spooled]
    damaged: int
    torn: int


def inspected(root: Path | str) -> Iterator[Inspected]:
    """Every segment below `root`, oldest first within its folder; those set aside as damaged too."""
    root = Path(root)
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if not folder.is_dir():
            continue
        lock = None if folder.name == DAMAGED else locked(folder)
        held = lock is None and folder.name != DAMAGED
        try:
            for path in sorted(folder.glob("*.seg")):
                parts = name_parts(path)
                with contextlib.suppress(FileNotFoundError):  # drained at this moment
                    found = list(read_segment(path, parts[1])) if parts is not None else []
                    records = [one.record for one in found if isinstance(one, Found)]
                    gaps = [one for one in found if isinstance(one, Gap)]
                    damaged, torn = (
                        sum(one.end - one.start for one in gaps if one.torn == is_torn)
                        for is_torn in (False, True)
                    )
                    yield Inspected(path, held, records, damaged, torn)
        finally:
            if lock is not None:
                os.close(lock)


def erased(root: Path | str, theirs: Callable[[Entry], bool], raw: Callable[[bytes], bool]) -> int:
    """Overwrite the records that are `theirs` in place, in the spools of living processes as well; how many
    records and stretches of damage changed.
    """
    gone = 0
    for path in sorted(Path(root).glob("*/*.seg")):
        parts = name_parts(path)
        if parts is None:
            continue
        try:
            with path.open("r+b") as file:
                data = file.read()
                new = blanked(data, parts[1], theirs, raw)
                for one in scanned(data, parts[1]):
                    if new[one.start : one.end] != data[one.start : one.end]:
                        file.seek(one.start)
                        file.write(new[one.start : one.end])
                        gone += 1
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:  # drained at this moment
            continue
    return gone
