"""HetRec Last.fm as LightGCN++ splits it: `train.txt.gz`, `valid.txt.gz`, `test.txt.gz`, one line a user:
`user artist artist …`.

There are no times: within a line the order is the source's, and the split is given. Research use only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serving.catalogue import parse_item
from training.columns import Codes, Rows, ids, repeated
from training.event_rows import EventRows, Type, to_table
from training.reading import RawTable, digest_of, read_text
from training.source import DataError, Quarantine, Source

NAME: Final = "lastfm"
_PARTS: Final = (("train.txt.gz", 1), ("valid.txt.gz", 2), ("test.txt.gz", 3))


def load(folder: Path, *, now: float) -> Source:
    """Read the set; the parts follow one another, one second a row, the last at `now`."""
    files = [folder / name for name, _ in _PARTS]
    quarantine = Quarantine()
    parts = [_part(folder / name, mark, quarantine) for name, mark in _PARTS]
    users, items = (
        Codes.joined(column) for column in ([part[0] for part in parts], [part[1] for part in parts])
    )
    mark = np.concatenate([part[2] for part in parts])
    at = np.asarray(now - (len(mark) - 1.0) + np.arange(len(mark)), np.float64)
    rows = EventRows(users, items, (Type("acted", "played"),), np.zeros(len(mark), np.int32), at, mark)
    return Source(
        name=NAME,
        digest=digest_of(files, NAME),
        events=to_table(rows, name=NAME, now=now),
        items=tuple(
            parse_item({"id": one, "kind": "content", "title": {"en": f"Artist {one}"}, "category": "music"})
            for one in sorted(items.values, key=lambda text: (len(text), text))
        ),
        notes=("plays have no time: the split is given, and nothing decays among them",),
        quarantine=quarantine,
        protocol="given",
    )


def _part(path: Path, mark: int, quarantine: Quarantine) -> tuple[Codes, Codes, NDArray[np.uint8]]:
    users: list[str] = []
    items: list[str] = []
    lines: list[int] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        user, _, rest = line.strip().partition(" ")
        for item in rest.split():
            users.append(user)
            items.append(item)
            lines.append(number)
    if not users:
        raise DataError(str(path), None, None, "no line names an artist", "A line is: user artist artist …")
    columns = {"user": pa.array(users), "artist": pa.array(items)}
    rows = Rows(RawTable(str(path), columns, np.array(lines, np.int64)), quarantine)
    user_codes, item_codes = ids(rows, "user", "user"), ids(rows, "artist", "item")
    again = repeated(rows, {"user": user_codes.codes, "item": item_codes.codes})
    rows.reject(again, "artist", "the user has this artist twice", "Name an artist once a line")
    good = rows.finish()
    return user_codes.taken(good), item_codes.taken(good), np.full(int(good.sum()), mark, np.uint8)
