"""The customers' table as PROFILE records: what is read, what is unknown, what is reported."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from features.ids import key32, key64
from features.tags import Tag, TagDictionary
from features.transforms import attribute_token
from features.views import MEMBERSHIP, PROFILE
from training.profiles import (
    CellProblem,
    Profiles,
    as_served,
    attribute_columns,
    holdings_of,
    membership_records,
    profile_records,
    tag_age,
    unused_columns,
)


def read(tags: TagDictionary | None = None, **columns: list) -> tuple[Profiles, list[CellProblem]]:
    n = len(next(iter(columns.values())))
    ids = [f"u{i}" for i in range(n)]
    problems: list[CellProblem] = []
    table = pa.table({"user_id": ids, **columns})
    return profile_records(table, ids, tags=tags, problems=problems), problems


def knows(profiles: Profiles, name: str) -> list[bool]:
    return ((profiles.known & np.uint64(PROFILE.bit(name))) != 0).tolist()


# field, cells, expected values where read (None: unknown), how many cells are reported
CELLS: list[tuple[str, list, list, int]] = [
    ("age", ["44", "", "old", "-1", "151", "44.5", None], [44, None, None, None, None, None, None], 4),
    ("age", [44, None, 151], [44, None, None], 1),
    ("age", [44.0, float("nan"), 44.5], [44, None, None], 1),
    ("risk_level", ["R3", "c5", "4", "6", "AA"], [3, 5, 4, None, None], 2),
    ("gender", ["F", "男", "other", "0", "x"], [1, 2, 3, 0, None], 1),
    ("gender", [1, 2, 0, 9], [1, 2, 0, None], 1),
    ("profiling", ["yes", "0", "True", "maybe", ""], [1, 0, 1, None, None], 1),
    ("blocked", [True, False, None], [1, 0, None], 0),
    ("blocked", ["yes", "benefit", "product|benefit", "0", "function", "3"], [1, 32, 36, 0, None, None], 2),
    ("payroll", ["是", "否"], [1, 0], 0),
    ("city", ["310000", "", "北京"], [key32("310000"), None, key32("北京")], 0),
    ("city", [310000, None], [key32("310000"), None], 0),
    ("org", ["branch/1"], [key32("branch/1")], 0),
    ("tz", ["Asia/Shanghai", "Mars/Base", "../etc"], [b"Asia/Shanghai", None, None], 2),
    ("consents", ["marketing|third_party", "none", "5", "spam", "8", ""], [5, 0, 5, None, None, None], 2),
    ("assets", ["1e6", "12.5", "-3", "inf", "lots"], [1e6, 12.5, None, None, None], 3),
    ("segment", ["65535", "65536"], [65535, None], 1),
    ("star_level", [3, 300], [3, None], 1),
    ("tenure_days", [12.5, -1.0], [12.5, None], 1),
]


@pytest.mark.parametrize(("field", "cells", "expected", "reported"), CELLS)
def test_a_cell_is_read_or_unknown(field: str, cells: list, expected: list, reported: int) -> None:
    profiles, problems = read(**{field: cells})
    assert knows(profiles, field) == [value is not None for value in expected]
    default = PROFILE.field(field).default if field != "tz" else b""
    values = profiles.records[field].tolist()
    assert values == [default if value is None else value for value in expected]
    assert sum(len(problem.rows) for problem in problems) == reported
    assert {problem.column for problem in problems} <= {field}


def test_holdings_from_text_and_lists() -> None:
    seventeen = "|".join(f"p{i}" for i in range(17))
    profiles, problems = read(holdings=["p1|p2|p1", "none", "", seventeen, f"{'x' * 65}"])
    assert profiles.records["holdings"][0, :3].tolist() == [key64("p1"), key64("p2"), 0]
    assert knows(profiles, "holdings") == [True, True, False, False, False]
    assert problems[0].rows.tolist() == [3, 4]
    profiles, problems = read(holdings=[["p1"], [], None])
    assert knows(profiles, "holdings") == [True, True, False]
    assert profiles.records["holdings"][:, 0].tolist() == [key64("p1"), 0, 0]
    assert not problems


def test_tags_need_the_dictionary() -> None:
    tag = Tag("owner", "stated", "crm", "form", 30, "profiling", 365, 9)
    profiles, problems = read(tags=TagDictionary([tag]), tags_off=["owner", "none", "stranger"])
    assert np.unpackbits(profiles.records["tags_off"][0], bitorder="little").nonzero()[0].tolist() == [9]
    assert knows(profiles, "tags_off") == [True, True, False]
    assert problems[0].rows.tolist() == [2]


@pytest.mark.parametrize(
    ("age", "left"),
    [(0.0, ("a", "b", "c")), (1.0, ("a", "b", "c")), (1.5, ("b", "c")), (8.0, ("c",)), (31.0, ())],
)
def test_a_tag_that_is_too_old_is_left_out(age: float, left: tuple[str, ...]) -> None:
    """By freshness and by retention; what was switched off stays so, and the rest of the record as it is."""
    days = {"a": (1, 365), "b": (30, 7), "c": (30, 365)}  # freshness, retention
    tags = TagDictionary(
        Tag(name, "rule", "crm", "core", fresh, "profiling", kept, bit)
        for bit, (name, (fresh, kept)) in enumerate(days.items())
    )
    table = pa.table({"user_id": ["u"], "tags": ["a|b|c"], "tags_off": ["a"], "age": ["30"]})
    profiles = profile_records(table, ["u"], tags=tags, tag_age=age)
    assert tags.unpack(profiles.records["tags"][0]) == left
    assert tags.unpack(profiles.records["tags_off"][0]) == ("a",) and profiles.records["age"][0] == 30
    assert tags.unpack(tags.usable(age)) == left


def test_a_tag_is_as_old_as_the_table_that_says_it() -> None:
    assert tag_age(None, 5.0) == 0.0 and tag_age(100.0, 5.0) == 0.0
    assert tag_age(5.0, 5.0 + 1.5 * 86_400) == 1.5


def test_without_a_dictionary_tags_are_unknown_and_reported() -> None:
    ids = ["a", "b"]
    problems: list[CellProblem] = []
    profiles = profile_records(pa.table({"user_id": ids, "tags": ["x", "y"]}), ids, problems=problems)
    assert knows(profiles, "tags") == [False, False]
    assert "tag dictionary" in problems[0].remedy


def test_other_columns_become_attributes() -> None:
    profiles, problems = read(job=["clerk", "", "smith"], colour=["red", "blue", None])
    held = profiles.records["attributes"]
    assert held[0, :3].tolist() == [attribute_token("job", "clerk"), attribute_token("colour", "red"), 0]
    assert held[1, :2].tolist() == [attribute_token("colour", "blue"), 0]
    assert held[2, :2].tolist() == [attribute_token("job", "smith"), 0]
    assert not problems


def test_columns_that_name_a_person_or_come_too_late_are_not_used() -> None:
    n = 1200
    table = pa.table(
        {
            "user_id": [f"u{i}" for i in range(n)],
            "phone": [f"{i:08d}" for i in range(n)],
            "clicks_30d": [5] * n,
            **{f"fact{i}": ["x"] * n for i in range(18)},
        }
    )
    assert unused_columns(table) == ["phone", "clicks_30d", "fact16", "fact17"]
    records, known = profile_records(table, ["u0"])
    assert np.count_nonzero(records["attributes"]) == 16
    assert records["clicks_30d"].tolist() == [0]
    assert not int(known[0]) & PROFILE.bit("clicks_30d")


def test_age_band_and_segment_follow_from_what_is_there() -> None:
    profiles, _ = read(age=[17, 18, 44, 65, None], gender=["F", "M", "", "M", ""])
    assert profiles.records["age_band"].tolist() == [1, 2, 4, 7, 0]
    assert profiles.records["segment"].tolist() == [1 + 16 + 1, 1 + 32 + 2, 1 + 4, 1 + 32 + 7, 0]
    assert knows(profiles, "segment") == [True, True, True, True, False]


def test_a_given_segment_is_not_overwritten() -> None:
    profiles, _ = read(age=[17, 18], segment=[5, None])
    assert profiles.records["segment"].tolist() == [5, 0]
    assert knows(profiles, "segment") == [True, False]


def test_records_follow_the_ids_asked_for() -> None:
    table = pa.table({"user_id": ["b", "a"], "age": [30, 40]})
    records, known = profile_records(table, ["a", "nobody", "b", "a"])
    assert records["age"].tolist() == [40, 0, 30, 40]
    assert (known != 0).tolist() == [True, False, True, True]
    assert records["profiling"].tolist() == [1, 1, 1, 1]


def test_without_a_table_nothing_is_known() -> None:
    records, known = profile_records(None, ["a", "b"])
    assert len(records) == 2
    assert not known.any()


def test_records_can_be_packed_and_read_again() -> None:
    profiles, _ = read(age=[30, 40], city=["310000", ""], holdings=["p1", "none"])
    wire = PROFILE.pack(profiles.records, as_of=1e9, known=profiles.known)
    back = PROFILE.decode(wire[1].tobytes())
    assert back.known == int(profiles.known[1])
    assert back.values["age"] == 40


def test_memberships() -> None:
    table = pa.table({"user_id": ["a", "b", "c"], "audiences": ["9|3", None, "x|70000|0"]})
    records, member = membership_records(table, ["c", "a", "nobody"])
    assert records.dtype == MEMBERSHIP.dtype
    assert member.tolist() == [False, True, False]
    assert records["audiences"][1, :3].tolist() == [3, 9, 0]
    assert not membership_records(None, ["a"])[1].any()


def test_holdings_are_the_latest_distinct_purchases() -> None:
    user = np.array([0, 0, 0, 2, 2], np.int32)
    key = np.array([5, 6, 5, 7, 8], np.uint64)
    at = np.array([1.0, 2.0, 3.0, 9.0, 4.0])
    held, whole = holdings_of(user, key, at, 3)
    assert whole.all()
    assert held[0, :3].tolist() == [5, 6, 0]
    assert held[1].tolist() == [0] * 16
    assert held[2, :3].tolist() == [7, 8, 0]


def test_more_purchases_than_fit_keep_the_latest() -> None:
    n = 40
    user = np.append(np.zeros(n, np.int32), np.int32(1))
    key = np.append(np.arange(1, n + 1, dtype=np.uint64), np.uint64(3))
    held, whole = holdings_of(user, key, np.arange(float(n + 1)), 2)
    assert held[0].tolist() == list(range(40, 24, -1))
    assert whole.tolist() == [False, True]
    held, whole = holdings_of(np.zeros(0, np.int32), np.zeros(0, np.uint64), np.zeros(0), 2)
    assert held.shape == (2, 16) and whole.all()


def test_what_a_decision_may_see() -> None:
    """The twin of features.customer.decode_customer; tests/parity holds both against each other."""
    tags = TagDictionary(Tag(f"t{n}", "rule", "o", "s", 1, "profiling", 1, n) for n in range(3))
    ids = ["u0", "u1", "u2"]
    facts = {"profiling": ["1", "0", ""], "age": ["30"] * 3, "gender": ["F"] * 3}
    table = pa.table({"user_id": ids, **facts, "tags": ["t0|t2"] * 3, "tags_off": ["t2"] * 3})
    problems: list[CellProblem] = []
    profiles = profile_records(table, ids, tags=tags, problems=problems)
    assert not problems
    served = as_served(profiles)
    assert [tags.unpack(row) for row in served.records["tags"]] == [("t0",)] * 3
    assert knows(served, "gender") == knows(served, "segment") == [True, False, True]
    assert knows(served, "age") == [True] * 3  # needed for permission, not for liking
    assert knows(profiles, "gender") == [True] * 3


def test_a_column_that_tells_customers_apart_is_no_attribute() -> None:
    n = 60
    users = pa.table(
        {
            "user_id": [f"u{i}" for i in range(n)],
            "card_number": [f"6222{i:04d}" for i in range(n)],
            "occupation": [("clerk", "nurse")[i % 2] for i in range(n)],
        }
    )
    assert attribute_columns(users) == ["occupation"]
    assert unused_columns(users) == ["card_number"]
    assert attribute_columns(users.slice(0, 12)) == ["card_number", "occupation"]  # too few to say
