"""Broken files of items and users: refused, or their bad rows set aside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.broken_files import ITEMS, USERS, lines_of, spoilt
from training.source import DataError, Source

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
