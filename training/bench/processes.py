"""Processor time of other processes, from /proc: what a rate does not tell where machines are shared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
TICKS: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def cpu_s(named: str) -> float:
    """Seconds of processor time of all processes with this in their command line; NaN where none is seen."""
    found = [_of(folder) for folder in _matching(named)]
    return sum(found) if found else float("nan")


def rss_mb(named: str) -> float:
    """Resident memory of the largest such process; NaN where none is seen."""
    page = os.sysconf("SC_PAGE_SIZE")
    sizes = [int((folder / "statm").read_text().split()[1]) * page / 1e6 for folder in _matching(named)]
    return max(sizes, default=float("nan"))


def _matching(named: str) -> Iterator[Path]:
    for folder in PROC.glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
            if named.encode() in line and int(folder.name) != os.getpid():
                yield folder
        except OSError:  # it has ended
            continue


def _of(folder: Path) -> float:
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS
