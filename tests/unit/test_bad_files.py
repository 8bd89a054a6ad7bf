"""Broken files are refused with a message that names file, column, row and remedy (DataError only)."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pyarrow as pa
import pytest

from tests.broken_files import GOOD, HEADER, ITEMS, NOW, USERS, column_added, parquet_of, rows, written
from training.adapters import Options, load
from training.adapters.roles import parse_columns
from training.source import DataError

REFUSED: dict[str, tuple[str, bytes | str | None, Options, tuple[str, ...]]] = {
    # name: (file name, content (None: not there), options, what the message must say)
    "missing file": ("events.csv", None, Options(), ("no such file", "Check the path")),
    "empty file": ("events.csv", "", Options(), ("empty",)),
    "blank lines only": ("events.csv", "\n\n \n", Options(), ("empty",)),
    "header only": ("events.csv", HEADER, Options(), ("header but no row",)),
    "no header": ("events.csv", "1,2,3\n4,5,6\n", Options(), ("line 1", "not a header", "column names")),
    "no user column": (
        "events.csv",
        "who,item_id\na,b\nc,d\n",
        Options(),
        ("no column is the user", "who", "user=COLUMN"),
    ),
    "no item column": (
        "events.csv",
        "user_id,what\na,b\nc,d\n",
        Options(),
        ("no column is the item", "item=COLUMN"),
    ),
    "an unclosed quotation mark": (
        "events.csv",
        HEADER + '"u1,i1,clicked,1750000000\n' + "\n".join(GOOD),
        Options(),
        ("quotation mark",),
    ),
    "a column twice": (
        "events.csv",
        "user_id,item_id,item_id\na,b,c\n",
        Options(),
        ("'item_id'", "twice", "Rename"),
    ),
    "mapping to no column": (
        "events.csv",
        rows(),
        Options(columns={"user": "cust"}),
        ("'cust'", "no such column", "Correct user=cust"),
    ),
    "mapping of no role": (
        "events.csv",
        rows(),
        Options(columns={"usr": "user_id"}),
        ("no role 'usr'", "Roles are user"),
    ),
    "unknown default type": (
        "events.csv",
        "user_id,item_id\na,b\n",
        Options(default_type="zapped"),
        ("'zapped'", "Name a type"),
    ),
    "wrong delimiter": (
        "events.csv",
        rows(),
        Options(delimiter=";"),
        ("no column is the user", "the delimiter"),
    ),
    "an odd delimiter": (
        "events.csv",
        rows().replace(",", "^"),
        Options(),
        ("no column is the user", "the delimiter"),
    ),
    "not gzip": ("events.csv.gz", rows(), Options(), ("not gzip", "drop .gz")),
    "truncated gzip": (
        "events.csv.gz",
        gzip.compress(rows().encode())[:-40],
        Options(),
        ("ends too early", "cut off"),
    ),
    "damaged gzip": (
        "events.csv.gz",
        gzip.compress(rows().encode())[:10] + b"\xff" * 60,
        Options(),
        ("damaged", "again"),
    ),
    "wrong encoding": (
        "events.csv",
        rows("u1,产品,clicked,1750000000").encode("gb18030"),
        Options(),
        ("line 42", "not valid utf-8", "gb18030"),
    ),
    "an encoding that is none": ("events.csv", rows(), Options(encoding="utf-88"), ("no encoding 'utf-88'",)),
    "utf-16": ("events.csv", rows().encode("utf-16"), Options(), ("UTF-16", "Save it as UTF-8")),
    "binary junk": (
        "events.csv",
        random.Random(1).randbytes(4000),
        Options(),
        ("binary data", "CSV or Parquet"),
    ),
    "a workbook": ("events.csv", b"PK\x03\x04" + b"x" * 100, Options(), ("Excel", "CSV")),
    "zstd": ("events.csv", b"\x28\xb5\x2f\xfd" + b"x" * 100, Options(), ("zstd", "Decompress")),
    "text called Parquet": ("events.parquet", rows(), Options(), ("not Parquet",)),
    "cut Parquet": (
        "events.parquet",
        parquet_of(user_id=["a"], item_id=["b"])[:-30],
        Options(),
        ("damaged", "again"),
    ),
    "a Parquet column twice": (
        "events.parquet",
        written(pa.table([["a"], ["b"], ["c"]], names=["user_id", "user_id", "item_id"])),
        Options(),
        ("'user_id'", "twice", "Rename"),
    ),
    "Parquet times of day": (
        "events.parquet",
        parquet_of(user_id=["a", "b"], item_id=["x", "y"], timestamp=pa.array([1, 2], pa.time32("s"))),
        Options(),
        ("'timestamp'", "row 1", "no readable time"),
    ),
    "a date of two readings": (
        "events.csv",
        HEADER + "".join(f"u{i % 7},i{i % 5},clicked,{1 + i % 28:02d}/06/2025\n" for i in range(40)),
        Options(),
        ("'timestamp'", "line 2", "'01/06/2025'", "ISO 8601"),
    ),
    "JSON lines": (
        "events.csv",
        '{"user":"a","item":"b"}\n{"user":"c","item":"d"}\n',
        Options(),
        ("no column is the user",),
    ),
    "a web page": ("events.csv", "<html><body>404</body></html>\n<p>x</p>\n", Options(), ("no column is",)),
    "columns of nothing": (
        "events.parquet",
        parquet_of(user_id=pa.nulls(9), item_id=pa.nulls(9)),
        Options(),
        ("'user_id'", "row 1", "no user id"),
    ),
    "Parquet without rows": (
        "events.parquet",
        parquet_of(user_id=pa.array([], pa.string()), item_id=pa.array([], pa.string())),
        Options(),
        ("no row",),
    ),
    "one user": (
        "events.csv",
        "user_id,item_id,type,timestamp\na,b,clicked,1750000000\na,c,clicked,1750000001\n",
        Options(),
        ("all events are of one user", "'a'", "more of them"),
    ),
    "one item": (
        "events.csv",
        "user_id,item_id,type,timestamp\na,b,clicked,1750000000\nc,b,clicked,1750000001\n",
        Options(),
        ("about one item",),
    ),
    "no positives": (
        "events.csv",
        rows().replace("clicked", "displayed"),
        Options(),
        ("somebody likes", "types: displayed", "Map"),
    ),
    "every rating low": (
        "events.csv",
        column_added("rating", "2"),
        Options(min_rating=4, columns={"rating": "rating"}),
        ("somebody likes",),
    ),
    "most types unknown": (
        "events.csv",
        rows().replace("clicked", "zapped"),
        Options(),
        ("'type'", "line 2", "unknown event type 'zapped'", "40 of 40", "Map it"),
    ),
    "served is ours": (
        "events.csv",
        rows().replace("clicked", "served"),
        Options(),
        ("unknown event type 'served'",),
    ),
    "most times unreadable": (
        "events.csv",
        rows().replace(",175", ",x175"),
        Options(),
        ("'timestamp'", "line 2", "no readable time", "ISO 8601"),
    ),
    "all in the future": (
        "events.csv",
        rows().replace(",175", ",975"),
        Options(),
        ("'timestamp'", "line 2", "in the future", "unit"),
    ),
    "most ids empty": (
        "events.csv",
        HEADER + ",i1,clicked,1750000000\n" * 9 + "\n".join(GOOD[:4]),
        Options(),
        ("'user_id'", "line 2", "no user id"),
    ),
    "most rows too short": (
        "events.csv",
        HEADER + "a,b\n" * 9 + "\n".join(GOOD[:4]) + "\n",
        Options(),
        ("line 2", "9 of 13", "delimiter"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_file_is_refused_with_a_remedy(case: str, tmp_path: Path) -> None:
    name, content, options, says = REFUSED[case]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        load(path, now=NOW, options=options)
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message
    assert message.isprintable()
    assert message.endswith(".")
    assert caught.value.remedy
    for words in says:
        assert words in message, message
    if "mapping" not in case:
        assert name in message


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no events\.csv"):
        load(tmp_path, now=NOW)
    (tmp_path / "events.csv").write_text(rows())
    with pytest.raises(DataError, match="this is a folder, not a file"):
        load(tmp_path / "events.csv", now=NOW, options=Options(items=tmp_path))


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "event.csv").write_text(rows())
    with pytest.raises(DataError, match=r"no such file\. In that folder there are: event\.csv"):
        load(tmp_path / "events.csv", now=NOW)


def test_a_data_set_that_is_not_there(tmp_path: Path) -> None:
    for data in (None, tmp_path):
        with pytest.raises(DataError, match="FENLIU_DATA"):
            load("ml-1m", now=NOW, data=data)


@pytest.mark.parametrize("text", ["user", "user=", "=cust", "user cust"])
def test_a_mapping_that_cannot_be_read(text: str) -> None:
    with pytest.raises(DataError, match="ROLE=COLUMN"):
        parse_columns(text)


def test_spoilt_bytes_never_cause_anything_but_a_data_error(tmp_path: Path) -> None:
    rng = random.Random(7)
    whole = {"events.csv": rows().encode(), "items.csv": ITEMS.encode(), "users.csv": USERS.encode()}
    outcomes = {True: 0, False: 0}
    for trial in range(200):
        name = rng.choice(sorted(whole))
        content = bytearray(whole[name])
        for _ in range(rng.choice((1, 2, 8, 64))):
            content[rng.randrange(len(content))] = rng.choice(
                b"\0\"\n\r,;'\t\xff\xc3-9e.x" + bytes([rng.randrange(256)])
            )
        folder = tmp_path / str(trial)
        folder.mkdir()
        for other, text in whole.items():
            (folder / other).write_bytes(
                bytes(content[: rng.randrange(1, len(content))]) if other == name else text
            )
        try:
            load(folder, now=NOW)
            outcomes[True] += 1
        except DataError as error:
            assert str(error).isprintable()
            outcomes[False] += 1
    assert min(outcomes.values()) > 20
