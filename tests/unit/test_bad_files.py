"""Broken files: each is refused with a message that names file, column, row and remedy, or its bad rows are
set aside and counted. Nothing is lost in silence, and nothing but DataError comes out."""

from __future__ import annotations

import csv
import gzip
import io
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.adapters import Options, load
from training.adapters.roles import parse_columns
from training.source import DataError, Source

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


# name: (the file's content, options, the reason it is counted under, the lines set aside)
SET_ASIDE: dict[str, tuple[str | bytes, Options, str, list[int]]] = {
    "no item id": (
        rows("u1,,clicked,1750000000", "u1,NaN,clicked,1750000001"),
        Options(),
        "no item id",
        [42, 43],
    ),
    "no user id": (rows("nan,i1,clicked,1750000000"), Options(), "no user id", [42]),
    "id too long": (
        rows(f"u1,{'x' * 65},clicked,1750000000"),
        Options(),
        "item id must have 1 to 64 bytes of UTF-8",
        [42],
    ),
    "id of too many bytes": (
        rows(f"{'户' * 22},i1,clicked,1750000000"),
        Options(),
        "user id must have 1 to 64 bytes of UTF-8",
        [42],
    ),
    "control character in an id": (
        rows("u\x071,i1,clicked,1750000000"),
        Options(),
        "user id holds control characters",
        [42],
    ),
    "unknown type": (rows("u1,i1,zapped,1750000000"), Options(), "unknown event type 'zapped'", [42]),
    "empty type": (rows("u1,i1,,1750000000"), Options(), "unknown event type ''", [42]),
    "bad time": (rows("u1,i1,clicked,soon"), Options(), "no readable time", [42]),
    "empty time": (rows("u1,i1,clicked,", "u1,i2,clicked,"), Options(), "no readable time", [42, 43]),
    "infinite time": (rows("u1,i1,clicked,inf"), Options(), "no readable time", [42]),
    "time far in the future": (
        rows("u1,i1,clicked,4102444800"),
        Options(),
        "the time is in the future",
        [42],
    ),
    "time before 1980": (
        rows("u1,i1,clicked,0", "u1,i1,clicked,-5"),
        Options(),
        "the time is before 1980",
        [42, 43],
    ),
    "mixed units": (
        rows("u1,i1,clicked,1750000000123", "u1,i1,clicked,1750000000123456"),
        Options(),
        "the time is in another unit than most (seconds)",
        [42, 43],
    ),
    "a repeated row": (rows(GOOD[3]), Options(), "the row repeats an earlier one", [42]),
    "a repeated event id": (column_added("event_id", "", *[]), Options(), "", []),
    "NaN weight": (
        column_added("weight", "1.5", "nan", ""),
        Options(),
        "the weight is missing or not a number",
        [42, 43],
    ),
    "weight that is text": (
        column_added("weight", "1.5", "heavy"),
        Options(),
        "the weight is missing or not a number",
        [42],
    ),
    "negative weight": (column_added("weight", "1.5", "-1"), Options(), "the weight is negative", [42]),
    "infinite weight": (
        column_added("weight", "1.5", "inf", "-inf"),
        Options(),
        "the weight is infinite",
        [42, 43],
    ),
    "zero weight": (column_added("weight", "1.5", "0"), Options(), "the weight is zero", [42]),
    "huge weight": (column_added("weight", "1.5", "1e300"), Options(), "the weight is above a million", [42]),
    "unknown split": (column_added("split", "train", "holdout"), Options(), "unknown split 'holdout'", [42]),
    "too few fields": (rows("u1,i1"), Options(), "the row has not 4 fields", [42]),
    "too many fields": (rows("u1,i1,clicked,1750000000,oops"), Options(), "the row has not 4 fields", [42]),
    "a blank line within": (rows("", "u1,i9,clicked,1750000000"), Options(), "unknown event type ''", [42]),
    "rating that is none": (
        column_added("rating", "5", "good"),
        Options(min_rating=4),
        "the rating is missing or not a number",
        [42],
    ),
}
SET_ASIDE["a repeated event id"] = (
    HEADER.strip()
    + ",event_id\n"
    + "".join(f"{line},e{i}\n" for i, line in enumerate(GOOD))
    + "u5,i1,clicked,1750000009,e4\n",
    Options(),
    "the event id occurs twice",
    [42],
)


def lines_of(source: Source, reason: str) -> list[int]:
    return [line for _, line, _, _, why in source.quarantine.rows() if why == reason]


@pytest.mark.parametrize("case", SET_ASIDE)
def test_bad_rows_are_set_aside_and_counted(case: str, tmp_path: Path) -> None:
    content, options, reason, lines = SET_ASIDE[case]
    path = tmp_path / "events.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    source = load(path, now=NOW, options=options)
    assert source.quarantined == {reason: len(lines)}
    assert lines_of(source, reason) == lines
    total = content.decode() if isinstance(content, bytes) else content
    assert source.events.num_rows + len(source.quarantine) == len(total.splitlines()) - 1
    written = tmp_path / "bad.csv"
    assert source.quarantine.write(written) == len(lines)
    with written.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [int(row["line"]) for row in found] == lines
    assert {row["reason"] for row in found} == {reason}
    assert all(row["file"] == str(path) for row in found)


def test_lines_are_those_of_the_file_also_after_quoted_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(
        "user_id,item_id,note\n"
        'a,b,"two\nlines"\n'  # lines 2 and 3
        "c,d,x\n"  # 4
        "short,row\n"  # 5
        'e,,"y\n\nz"\n'  # 6 to 8
        "g,,v\n"  # 9
        "h,b,v\n"
        "i,d,v\n"
    )
    source = load(path, now=NOW)
    assert lines_of(source, "the row has not 3 fields") == [5]
    assert lines_of(source, "no item id") == [6, 9]


def spoilt(which: str, content: str) -> Callable[[Path], Source]:
    def read(folder: Path) -> Source:
        files = {"events.csv": rows(), "items.csv": ITEMS, "users.csv": USERS} | {which: content}
        for name, text in files.items():
            (folder / name).write_text(text)
        return load(folder, now=NOW)

    return read


COMPANIONS: dict[str, tuple[Callable[[Path], Source], tuple[str, ...]]] = {
    "users without an id": (
        spoilt("users.csv", USERS.replace("user_id", "who")),
        ("users.csv", "no column is the user", "user_id=COLUMN"),
    ),
    "users of the wrong file": (
        spoilt("users.csv", ITEMS.replace("id,", "sku,")),
        ("users.csv", "no column is the user"),
    ),
    "items without an id": (
        spoilt("items.csv", ITEMS.replace("id,kind", "what,kind")),
        ("items.csv", "no column is the item id", "id=COLUMN"),
    ),
    "most items of unknown kind": (
        spoilt("items.csv", ITEMS.replace("content", "movie")),
        ("items.csv", "'kind'", "line 2", "'movie'", "Kinds are function, product"),
    ),
    "items of other ids": (
        spoilt("items.csv", ITEMS.replace("\ni", "\nitem-")),
        ("events.csv", "40 of 40 events name items", "'i0'", "in the same way"),
    ),
    "most ages unreadable": (
        spoilt("users.csv", USERS.replace(",3", ",x3")),
        ("users.csv", "'age'", "line 2", "'x30'", "0 to 150"),
    ),
    "empty items": (spoilt("items.csv", ""), ("items.csv", "empty")),
}


@pytest.mark.parametrize("case", COMPANIONS)
def test_broken_items_and_users_are_refused(case: str, tmp_path: Path) -> None:
    read, says = COMPANIONS[case]
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    for words in says:
        assert words in str(caught.value), str(caught.value)


PARTLY: dict[str, tuple[str, str, str, list[int]]] = {
    # name: (file, content, reason, lines)
    "an item twice": ("items.csv", ITEMS + "i3,content,Again\n", "the item id occurs twice", [7]),
    "an item of unknown kind": ("items.csv", ITEMS + "i9,movie,Film\n", "the kind of item is unknown", [7]),
    "a user twice": ("users.csv", USERS + "u3,40,310000\n", "the user id occurs twice", [9]),
    "a user without id": ("users.csv", USERS + ",40,310000\n", "no user id", [9]),
    "an age out of range": ("users.csv", USERS + "u9,999,310000\n", "age cannot be read: left unknown", [9]),
}


@pytest.mark.parametrize("case", PARTLY)
def test_bad_rows_of_items_and_users_are_set_aside(case: str, tmp_path: Path) -> None:
    name, content, reason, lines = PARTLY[case]
    source = spoilt(name, content)(tmp_path)
    assert source.quarantined == {reason: len(lines)}
    assert lines_of(source, reason) == lines


def test_a_bad_price_names_item_and_field(tmp_path: Path) -> None:
    content = "id,kind,title,price\n" + "".join(
        f"i{i},content,Item {i},{'cheap' if i == 2 else i}\n" for i in range(5)
    )
    found = spoilt("items.csv", content)(tmp_path)
    ((file, line, column, value, reason),) = list(found.quarantine.rows())
    assert (Path(file).name, line, column, value) == ("items.csv", 4, "price", "cheap")
    assert "price" in reason and "number" in reason
    assert len(found.items) == 4


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


def test_an_unreadable_value_is_shown_short_and_printable(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(HEADER + f"a,b,zap\x1b[31m{'p' * 300},1750000000\n" * 3)
    with pytest.raises(DataError) as caught:
        load(path, now=NOW)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


def test_a_data_set_that_is_not_there(tmp_path: Path) -> None:
    for data in (None, tmp_path):
        with pytest.raises(DataError, match="FENLIU_DATA"):
            load("ml-1m", now=NOW, data=data)


@pytest.mark.parametrize("text", ["user", "user=", "=cust", "user cust"])
def test_a_mapping_that_cannot_be_read(text: str) -> None:
    with pytest.raises(DataError, match="ROLE=COLUMN"):
        parse_columns(text)


def test_half_of_the_rows_may_be_bad_but_not_more(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    bad = "u1,i1,zapped,1750000000"
    path.write_text(HEADER + "\n".join(GOOD[:10] + [bad] * 10))
    assert load(path, now=NOW).events.num_rows == 10
    path.write_text(HEADER + "\n".join(GOOD[:10] + [bad] * 11))
    with pytest.raises(DataError, match="11 of 21 rows cannot be used"):
        load(path, now=NOW)


def test_repeats_can_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(rows(GOOD[3], GOOD[3]))
    options = Options()
    assert load(path, now=NOW, options=options).events.num_rows == len(GOOD)
    kept = load(path, now=NOW, options=replace(options, keep_repeats=True))
    assert kept.events.num_rows == len(GOOD) + 2
    assert len(set(kept.events["event_id"].to_pylist())) == len(GOOD) + 2


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
