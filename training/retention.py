"""How long the lake keeps what happened: whole partitions go, by the date on which they were received."""

from __future__ import annotations

from typing import Final

from training.lake import Lake
from training.tables import COLUMNS, label

TABLES: Final = tuple(COLUMNS)


def dropped(lake: Lake, before: float, *, dry_run: bool = False) -> dict[str, tuple[int, int]]:
    """Drop partitions of dates before that of `before` (POSIX seconds): per table (files, rows).

    What was received on the day itself stays whole. Identities for de-duplication go with their dates.
    """
    first = label(before)
    gone: dict[str, tuple[int, int]] = {}
    paths: list[str] = []
    with lake.writing():
        manifest = lake.manifest()
        for table in TABLES:
            old = [file for file in manifest.files[table] if _ended(file["date"], first)]
            gone[table] = (len(old), sum(file["rows"] for file in old))
            paths += [file["path"] for file in old]
            manifest.files[table] = [file for file in manifest.files[table] if file not in old]
        for date in [date for date in manifest.ids if _ended(date, first)]:
            paths += manifest.ids.pop(date)
        if paths and not dry_run:
            lake.commit(manifest)
    if not dry_run:
        for path in paths:
            lake.fs.rm_file(lake.path(path))
    return gone


def _ended(partition: str, first: str) -> bool:
    """`date=2026-03-01` and `month=2026-03` sort as text within their kind; a month counts by its end."""
    kind, _, when = partition.partition("=")
    return when < first.partition("=")[2][: 7 if kind == "month" else 10]
