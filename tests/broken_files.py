"""Good files, and ways to spoil them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from training.adapters import load
from training.source import Source

NOW = 1_760_000_000.0


HEADER = "user_id,item_id,type,timestamp\n"


GOOD = [f"u{i % 7},i{i % 5},clicked,{1_750_000_000 + i * 60}" for i in range(40)]


ITEMS = "id,kind,title\n" + "".join(f"i{i},content,Item {i}\n" for i in range(5))


USERS = "user_id,age,city\n" + "".join(f"u{i},{30 + i},310000\n" for i in range(7))


def rows(*lines: str, header: str = HEADER) -> str:
    return header + "\n".join([*GOOD, *lines]) + "\n"


def column_added(header: str, good: str, *bad: str) -> str:
    lines = [f"{line},{good}" for line in GOOD] + [f"{GOOD[0].replace('u0', 'u3')},{value}" for value in bad]
    return HEADER.strip() + f",{header}\n" + "\n".join(lines) + "\n"


def parquet_of(**columns: list) -> bytes:
    return written(pa.table(columns))


def written(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def lines_of(source: Source, reason: str) -> list[int]:
    return [line for _, line, _, _, why in source.quarantine.rows() if why == reason]


def spoilt(which: str, content: str) -> Callable[[Path], Source]:
    def read(folder: Path) -> Source:
        files = {"events.csv": rows(), "items.csv": ITEMS, "users.csv": USERS} | {which: content}
        for name, text in files.items():
            (folder / name).write_text(text)
        return load(folder, now=NOW)

    return read
