"""MovieLens 1M as `ratings.csv.gz` (user, movie, rating, timestamp, split), `users.dat.gz` and
`movies.dat.gz`.

A rating of 4 or 5 is a liking; the others are left out, and counted: four in five of them have no time. A
positive rating without a time would be set aside. Terms of use: GroupLens, research only; the files stay
where they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from serving.catalogue import Item, parse_item
from training.cells import pc
from training.columns import Rows, ids, mapped, numbers, repeated, times
from training.event_rows import EventRows, Type, to_table
from training.profiles import USER_ID
from training.reading import RawTable, digest_of, parse_text, read_table, read_text
from training.source import Quarantine, Source

NAME: Final = "ml-1m"
POSITIVE: Final = 4
_SPLITS: Final = {"train": 1, "val": 2, "valid": 2, "test": 3}
# the source's age codes, in order: below 18, 18-24, 25-34, 35-44, 45-49, 50-55, 56 and above
_BANDS: Final = {"1": 1, "18": 2, "25": 3, "35": 4, "45": 5, "50": 6, "56": 7}
_WORK: Final = (
    "other", "educator", "artist", "clerical", "student", "customer service", "doctor", "executive", "farmer",
    "homemaker", "pupil", "lawyer", "programmer", "retired", "sales", "scientist", "self-employed",
    "technician", "craftsman", "unemployed", "writer",
)  # fmt: skip
_YEAR: Final = re.compile(r"^(.*) \((\d{4})\)$")


def load(folder: Path, *, now: float, weight_by_rating: bool = False) -> Source:
    """Read the set. With `weight_by_rating` a 5 weighs twice a 4."""
    files = [folder / name for name in ("ratings.csv.gz", "users.dat.gz", "movies.dat.gz")]
    quarantine, notes = Quarantine(), list[str]()
    table = read_table(files[0], quarantine).having("user", "movie", "rating", "timestamp", "split")
    events = _ratings(table, quarantine, now, weight_by_rating, notes)
    users = _users(_dat(files[1], quarantine, ("user", "gender", "age", "occupation", "zip")))
    notes.append("postcodes of users.dat are not used")
    return Source(
        name=NAME,
        digest=digest_of(files, (NAME, weight_by_rating)),
        events=to_table(events, name=NAME, now=now),
        items=_movies(_dat(files[2], quarantine, ("movie", "title", "genres"))),
        users=users,
        notes=tuple(notes),
        quarantine=quarantine,
        protocol="given",
    )


def _ratings(
    table: RawTable, quarantine: Quarantine, now: float, weight_by_rating: bool, notes: list[str]
) -> EventRows:
    rows = Rows(table, quarantine)
    rating = numbers(rows, "rating")
    scale = "Ratings are 1 to 5"
    rows.reject(~np.isin(rating, (1, 2, 3, 4, 5)), "rating", "the rating is not one of 1 to 5", scale)
    low = rating < POSITIVE
    undated = np.asarray(pc.equal(table.columns["timestamp"], "").to_numpy(), np.bool_)
    without = int((low & undated).sum())
    count = f"{int(low.sum()):,} ratings below {POSITIVE} are not positive: left out"
    notes.append(f"{count} ({without:,} of them without time)")
    kept = rows.finish() & ~low
    columns = {name: column.filter(pa.array(kept)) for name, column in table.columns.items()}
    table, rating = RawTable(table.file, columns, table.lines[kept]), rating[kept]
    rows = Rows(table, quarantine)
    user, item = ids(rows, "user", "user"), ids(rows, "movie", "item")
    at, _ = times(rows, "timestamp", now)
    mark = mapped(rows, "split", _SPLITS.get, "unknown split", "Splits are train, val and test").astype(
        np.uint8
    )
    again = repeated(rows, {"user": user.codes, "item": item.codes})
    rows.reject(again, None, "the user rated this film before", "Keep one rating a user and film")
    weight = rating - (POSITIVE - 1) if weight_by_rating else None
    kind = np.zeros(len(table), np.int32)
    return EventRows(user, item, (Type("acted", "rated"),), kind, at, mark, weight).take(rows.finish())


def _dat(path: Path, quarantine: Quarantine, names: Sequence[str]) -> RawTable:
    """A `::`-separated latin-1 file without header."""
    text = read_text(path, encoding="latin-1").replace("\t", " ").replace("::", "\t").replace('"', "'")
    return parse_text(str(path), text, quarantine, delimiter="\t", names=names)


def _users(table: RawTable) -> pa.Table:
    columns = {name: column.to_pylist() for name, column in table.columns.items()}
    work = {str(code): name for code, name in enumerate(_WORK)}
    return pa.table(
        {
            USER_ID: pa.array(columns["user"], pa.string()),
            "gender": pa.array(columns["gender"], pa.string()),
            "age_band": pa.array([_BANDS.get(age) for age in columns["age"]], pa.uint8()),
            "occupation": pa.array([work.get(code) for code in columns["occupation"]], pa.string()),
        }
    )


def _movies(table: RawTable) -> tuple[Item, ...]:
    columns = (table.columns[name].to_pylist() for name in ("movie", "title", "genres"))
    return tuple(_movie(*row) for row in zip(*columns, strict=True))


def _movie(movie: str, title: str, genres: str) -> Item:
    match = _YEAR.match(title)
    attributes = {"genres": genres} | ({"year": match[2]} if match else {})
    category = "film/" + genres.partition("|")[0].casefold()
    return parse_item(
        {
            "id": movie,
            "kind": "content",
            "title": {"en": title},
            "category": category,
            "attributes": attributes,
        }
    )
