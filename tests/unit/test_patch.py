"""Profile changes between two batches: they win, field by field, until a later batch knows the field."""

from datetime import timedelta

import numpy as np
import pytest

from features.patch import decode_patch, fitted, merge, patched
from features.schema import Field, Record, SchemaMismatch, Schemas, View
from features.views import PROFILE


def batch(as_of, known=None, **values):
    record = PROFILE.blank(1)
    for name, value in values.items():
        record[name] = value
    return PROFILE.decode(PROFILE.encode(record[0], as_of=as_of, known=known))


def merged(record, *changes):
    blob = None
    for at, values in changes:
        blob = patched(blob, values, at)
    return merge(record, decode_patch(blob))


def known_names(record: Record):
    return {name for name in PROFILE.names if record.known & PROFILE.bit(name)}


def test_a_change_after_the_watermark_wins_and_one_before_it_does_not():
    record = merged(batch(100.0, age=40, risk_level=2), (99.0, {"age": 41}), (101.0, {"risk_level": 4}))
    assert (record.values["age"], record.values["risk_level"]) == (40, 4)
    assert record.as_of == 100.0


def test_a_change_at_the_watermark_has_been_seen_by_the_batch():
    assert merged(batch(100.0, age=40), (100.0, {"age": 41})).values["age"] == 40


def test_a_batch_that_does_not_know_the_field_takes_nothing_away():
    known = PROFILE.all_known & ~PROFILE.bit("tz")
    record = merged(batch(100.0, known=known), (50.0, {"tz": "Asia/Tokyo"}))
    assert record.values["tz"] == b"Asia/Tokyo"
    assert record.known == PROFILE.all_known


def test_over_no_batch_only_the_changes_are_known():
    record = merged(None, (10.0, {"age": 41, "profiling": 0}), (20.0, {"city": 7}))
    assert known_names(record) == {"age", "profiling", "city"}
    assert (record.values["age"], record.values["profiling"], record.values["city"]) == (41, 0, 7)
    assert record.as_of == 20.0


def test_merging_leaves_both_sides_alone():
    before, blob = batch(1.0, age=40), patched(None, {"age": 41}, 2.0)
    merge(before, decode_patch(blob))
    assert before.values["age"] == 40
    assert decode_patch(blob).record.values["age"] == 41


def test_changes_may_arrive_in_any_order():
    one, two = (10.0, {"age": 1, "city": 5}), (20.0, {"age": 2})
    forth, back = merged(None, one, two), merged(None, two, one)
    assert forth.values.tobytes() == back.values.tobytes()
    assert (forth.known, forth.as_of) == (back.known, back.as_of)
    assert (forth.values["age"], forth.values["city"]) == (2, 5)


def test_the_same_change_again_changes_nothing():
    blob = patched(None, {"age": 3}, 5.0)
    assert patched(blob, {"age": 3}, 5.0) == blob


def test_the_last_of_two_changes_at_one_time_wins():
    assert merged(None, (5.0, {"age": 1}), (5.0, {"age": 2})).values["age"] == 2


def test_a_patch_of_an_older_declaration_is_projected():
    older = View(
        "profile",
        "user",
        timedelta(days=1),
        (Field("gone", "u4"), Field("age", "u1"), Field("assets", "f4"), Field("income", "f8")),
    )
    values = np.array((3, 33, 2.5, 7.0), older.dtype)[()]
    blob = older.encode(values, as_of=9.0, known=0b1011) + np.array([9.0, 4.0, 0.0, 9.0]).tobytes()
    patch = decode_patch(blob, Schemas((PROFILE, older)))
    assert known_names(patch.record) == {"age"}, "gone: no longer declared; assets: not set; income: not safe"
    assert patch.times[PROFILE.names.index("age")] == 4.0
    assert merge(batch(5.0, age=20), patch).values["age"] == 20
    assert merge(batch(3.0, age=20), patch).values["age"] == 33
    again = patched(blob, {"city": 8}, 10.0, schemas=Schemas((older,)))
    assert known_names(decode_patch(again).record) == {"age", "city"}


@pytest.mark.parametrize("cut", [0, 10, 20, PROFILE.size, -8, -1])
def test_a_damaged_patch_is_refused(cut):
    blob = patched(None, {"age": 3}, 5.0)
    with pytest.raises(SchemaMismatch):
        decode_patch(blob[:cut])
    with pytest.raises(SchemaMismatch):
        patched(blob[:cut], {"age": 4}, 6.0)


def test_a_foreign_patch_is_refused_with_and_without_schemas():
    blob = b"\1\2\3\4" + patched(None, {"age": 3}, 5.0)[4:]
    for schemas in (None, Schemas((PROFILE,))):
        with pytest.raises(SchemaMismatch, match="stored"):
            decode_patch(blob, schemas)


def test_a_change_without_a_time_is_refused():
    blob = bytearray(patched(None, {"age": 3}, 5.0))
    at = PROFILE.size + 8 * PROFILE.names.index("age")
    blob[at : at + 8] = np.array([np.nan]).tobytes()
    with pytest.raises(SchemaMismatch, match="time"):
        decode_patch(bytes(blob))
    with pytest.raises(ValueError, match="time"):
        patched(None, {"age": 3}, float("nan"))


@pytest.mark.parametrize(
    ("name", "value", "held"),
    [
        ("age", 255, 255),
        ("tz", "Asia/Shanghai", b"Asia/Shanghai"),
        ("tz", b"x" * 32, b"x" * 32),
        ("assets", 1.5, 1.5),
        ("last_active", 1.7e9, 1.7e9),
        ("holdings", [2**64 - 1, 1], [2**64 - 1, 1] + [0] * 14),
        ("holdings", [], [0] * 16),
        ("attributes", np.arange(16), list(range(16))),
        ("kind_affinity", [0.5], [0.5, 0, 0, 0, 0, 0]),
    ],
)
def test_values_that_fit(name, value, held):
    assert fitted(name, value).tolist() == held
    assert merged(None, (1.0, {name: value})).values[name].tolist() == held


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("age", 256),
        ("age", -1),
        ("age", 1.5),
        ("age", "x"),
        ("age", None),
        ("age", [1]),
        ("tz", "x" * 33),
        ("tz", "上海"),
        ("tz", 5),
        ("assets", float("nan")),
        ("assets", float("inf")),
        ("assets", 1e300),
        ("holdings", 5),
        ("holdings", [1] * 17),
        ("holdings", [2**64]),
        ("holdings", [-1]),
        ("holdings", [[1]]),
        ("holdings", [1, [2]]),
        ("attributes", [2**32]),
    ],
)
def test_values_that_do_not_fit_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        patched(None, {name: value}, 1.0)


def test_unknown_fields_are_refused():
    with pytest.raises(KeyError):
        patched(None, {"shoe_size": 43}, 1.0)
