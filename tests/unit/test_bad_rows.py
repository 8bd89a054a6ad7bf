"""Bad rows are set aside and counted; nothing is lost in silence."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from tests.broken_files import GOOD, HEADER, NOW, column_added, lines_of, rows
from training.adapters import Options, load
from training.source import DataError

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


def test_an_unreadable_value_is_shown_short_and_printable(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(HEADER + f"a,b,zap\x1b[31m{'p' * 300},1750000000\n" * 3)
    with pytest.raises(DataError) as caught:
        load(path, now=NOW)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


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
