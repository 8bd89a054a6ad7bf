"""What replicas count while they race, in files that outlive a kill -9."""

from __future__ import annotations

import enum
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray


class Count(enum.IntEnum):
    """`NO_UNIT`: refused by the quota; `CAPPED`: by the cap; `UNSURE`: the store did not say.

    `DECIDING` goes up and down: decisions under way.
    """

    ATTEMPTS = 0
    NO_UNIT = 1
    CAPPED = 2
    UNSURE = 3
    RETRIED = 4
    REFRESHED = 5
    DECIDING = 6


_BYTES: Final = 8 * len(Count)


class Counts:
    """One replica's, in memory that whoever reads the file sees: nothing is lost when it dies."""

    def __init__(self, path: Path) -> None:
        with path.open("w+b") as file:
            file.truncate(_BYTES)
            self._cells: NDArray[np.int64] = np.frombuffer(mmap.mmap(file.fileno(), _BYTES), np.int64)

    def add(self, what: Count, n: int = 1) -> None:
        self._cells[what] += n


def summed(paths: Iterable[Path]) -> NDArray[np.int64]:
    """By `Count`; files that are not written yet count for nothing."""
    total = np.zeros(len(Count), np.int64)
    for path in paths:
        blob = path.read_bytes() if path.exists() else b""
        if len(blob) == _BYTES:
            total += np.frombuffer(blob, np.int64)
    return total
