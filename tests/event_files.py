"""A small file of events for tests of what reads one."""

from __future__ import annotations

import gzip
from pathlib import Path

NOW = 1_760_000_000.0


START = 1_750_000_000


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


EVENTS = "user_id,item_id,type,timestamp\n" + "".join(
    f"u{i % 4},i{i % 3},{'clicked' if i % 2 else 'view'},{START + i}\n" for i in range(24)
)
