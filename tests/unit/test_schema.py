"""Views: packing, decoding, projection of older records, and what happens to damaged ones."""

from datetime import timedelta

import numpy as np
import pytest

from features.schema import HEADER, MAX_FIELDS, Field, SchemaMismatch, Schemas, View
from features.views import CONTACT, ITEM, MEMBERSHIP, PROFILE, PROFILE_COLUMNS, RECENT, SCHEMAS

DAYS = timedelta(days=10)
OLD = View("thing", "user", DAYS, (Field("a", "u1"), Field("b", "f4", (2,)), Field("gone", "u4")))
NEW = View(
    "thing",
    "user",
    DAYS,
    (Field("b", "f4", (2,)), Field("fresh", "i2", default=-7), Field("a", "u2"), Field("zone", "S4")),
)
BOTH = Schemas((OLD, NEW))


def one(view, **values):
    records = view.blank(1)
    for name, value in values.items():
        records[name] = value
    return records[0]


def test_a_blob_is_header_and_packed_little_endian_fields():
    blob = OLD.encode(one(OLD, a=1, b=(0.5, 2), gone=258), as_of=3.0, known=0b111)
    assert (
        blob
        == HEADER.pack(OLD.fingerprint, 3.0, 7) + b"\1" + np.array([0.5, 2], "<f4").tobytes() + b"\2\1\0\0"
    )
    assert len(blob) == OLD.size == 20 + 1 + 8 + 4


def test_pack_rows_are_blobs():
    records = OLD.blank(3)
    records["a"] = [1, 2, 3]
    wire = OLD.pack(records, as_of=np.array([1.0, 2.0, 3.0]), known=np.array([1, 3, 7], np.uint64))
    for i, row in enumerate(wire):
        assert row.tobytes() == OLD.encode(records[i], as_of=i + 1.0, known=(1, 3, 7)[i])


def test_round_trip():
    record = OLD.decode(OLD.encode(one(OLD, a=9, b=(1, 2), gone=5), as_of=8.5))
    assert (record.values["a"], record.values["b"].tolist(), record.values["gone"]) == (9, [1, 2], 5)
    assert (record.known, record.as_of) == (OLD.all_known, 8.5)


def test_unknown_fields_are_written_as_defaults():
    blob = NEW.encode(one(NEW, fresh=3, a=4), as_of=1.0, known=NEW.bit("a"))
    record = NEW.decode(blob)
    assert (record.values["fresh"], record.values["a"], record.known) == (-7, 4, NEW.bit("a"))
    assert blob == NEW.encode(one(NEW, fresh=99, a=4), as_of=1.0, known=NEW.bit("a"))


def test_known_bits_beyond_the_fields_are_dropped():
    assert NEW.decode(NEW.encode(one(NEW), as_of=1.0, known=2**64 - 1)).known == NEW.all_known
    raw = HEADER.pack(NEW.fingerprint, 1.0, 2**64 - 1) + one(NEW).tobytes()
    assert NEW.decode(raw).known == NEW.all_known


def test_an_older_record_is_projected_by_name():
    blob = OLD.encode(one(OLD, a=200, b=(1, 2), gone=5), as_of=4.0)
    record = NEW.decode(blob, BOTH)
    assert (record.values["a"], record.values["b"].tolist(), record.values["fresh"]) == (200, [1, 2], -7)
    assert record.known == NEW.mask(["a", "b"])
    assert record.as_of == 4.0


def test_what_an_older_record_did_not_know_stays_unknown():
    record = NEW.decode(OLD.encode(one(OLD, a=3), as_of=4.0, known=OLD.bit("b")), BOTH)
    assert record.known == NEW.bit("b")
    assert record.values["a"] == 0


@pytest.mark.parametrize(
    ("was", "now", "carried"),
    [
        (Field("x", "u1"), Field("x", "u2"), True),
        (Field("x", "u1"), Field("x", "f4"), True),
        (Field("x", "S4"), Field("x", "S8"), True),
        (Field("x", "f8"), Field("x", "f4"), False),
        (Field("x", "i2"), Field("x", "u2"), False),
        (Field("x", "u1", (4,)), Field("x", "u1", (8,)), False),
        (Field("x", "u4"), Field("x", "S4"), False),
    ],
)
def test_a_retyped_field_is_carried_only_without_loss(was, now, carried):
    old, new = View("v", "user", DAYS, (was,)), View("v", "user", DAYS, (now,))
    values = old.blank(1)
    values["x"] = b"9" if was.dtype[0] == "S" else 9
    record = new.decode(old.encode(values[0], as_of=1.0), Schemas((old,)))
    assert bool(record.known) is carried
    if carried:
        assert record.values["x"] == values["x"][0]
    else:
        assert np.array_equal(record.values["x"], new.blank_record["x"])


@pytest.mark.parametrize("schemas", [None, Schemas(), Schemas((NEW,))])
def test_a_foreign_fingerprint_is_refused(schemas):
    with pytest.raises(SchemaMismatch, match="stored"):
        NEW.decode(OLD.encode(one(OLD), as_of=1.0), schemas)


@pytest.mark.parametrize("cut", [0, 1, 19, 20, NEW.size - 1])
def test_a_short_blob_is_refused(cut):
    with pytest.raises(SchemaMismatch, match="bytes"):
        NEW.decode(NEW.encode(one(NEW), as_of=1.0)[:cut], BOTH)


def test_a_long_blob_is_refused():
    with pytest.raises(SchemaMismatch, match="bytes"):
        NEW.decode(NEW.encode(one(NEW), as_of=1.0) + b"\0")


def test_a_damaged_older_blob_is_refused():
    with pytest.raises(SchemaMismatch, match="bytes"):
        NEW.decode(OLD.encode(one(OLD), as_of=1.0) + b"\0", BOTH)


@pytest.mark.parametrize("as_of", [float("nan"), float("inf"), float("-inf")])
def test_a_watermark_must_be_finite(as_of):
    with pytest.raises(ValueError, match="watermark"):
        NEW.encode(one(NEW), as_of=as_of)
    with pytest.raises(SchemaMismatch, match="watermark"):
        NEW.decode(HEADER.pack(NEW.fingerprint, as_of, 0) + one(NEW).tobytes())


def test_a_known_float_must_be_finite_and_an_unknown_one_is_reset():
    records = OLD.blank(2)
    records["b"][1] = np.nan, 1
    with pytest.raises(ValueError, match=r"thing\.b: row 1 is not finite"):
        OLD.pack(records, as_of=1.0)
    wire = OLD.pack(records, as_of=1.0, known=OLD.bit("a"))
    assert wire["values"]["b"].tolist() == [[0, 0], [0, 0]]
    assert np.isnan(records["b"][1, 0]), "the caller's records are left as they were"


def test_unpack_says_what_is_wrong_with_each_row():
    fresh, stale = (OLD.encode(one(OLD, a=7), as_of=at) for at in (1e6, 0.0))
    older = View("thing", "user", DAYS, (Field("a", "u1"),))
    projected = older.encode(one(older, a=5), as_of=1e6)
    foreign = NEW.encode(one(NEW), as_of=1e6)
    same_size = HEADER.pack(1, 1e6, 0) + bytes(OLD.dtype.itemsize)
    blobs = [fresh, None, stale, foreign, projected, same_size, b"", fresh]
    read = OLD.unpack(blobs, now=1e6 + 1, schemas=Schemas((OLD, older)))
    assert read.problems == ("", "absent", "expired", "schema", "", "schema", "schema", "")
    assert read.present.tolist() == [problem == "" for problem in read.problems]
    assert read.records["a"].tolist() == [7, 0, 0, 0, 5, 0, 0, 7]
    assert read.known.tolist() == [7, 0, 0, 0, 1, 0, 0, 7]
    assert read.as_of[[0, 2, 4, 7]].tolist() == [1e6, 0.0, 1e6, 1e6]


def test_unpack_of_nothing():
    read = OLD.unpack([], now=0.0)
    assert len(read.records) == len(read.present) == len(read.problems) == 0


def test_unpack_agrees_with_decode():
    rng = np.random.default_rng(3)
    records = np.frombuffer(rng.bytes(50 * MEMBERSHIP.dtype.itemsize), MEMBERSHIP.dtype)
    wire = MEMBERSHIP.pack(records, as_of=np.arange(50.0))
    read = MEMBERSHIP.unpack([row.tobytes() for row in wire], now=60.0)
    for i, row in enumerate(wire):
        record = MEMBERSHIP.decode(row.tobytes())
        assert record.values.tobytes() == read.records[i].tobytes()
        assert (record.known, record.as_of) == (read.known[i], read.as_of[i])


def test_a_record_expires_after_its_ttl_and_not_before():
    ttl = OLD.ttl.total_seconds()
    assert not OLD.expired(100.0, 100.0 + ttl)
    assert OLD.expired(100.0, 100.1 + ttl)
    assert OLD.expired(float("nan"), 0.0)


def test_spec_round_trip_keeps_the_fingerprint():
    for view in (*SCHEMAS, OLD, NEW):
        again = View.from_spec(view.spec())
        assert again == view
        assert (again.fingerprint, again.dtype) == (view.fingerprint, view.dtype)


def test_schemas_travel_as_json():
    again = Schemas.from_json(BOTH.to_json())
    assert list(again) == [OLD, NEW]
    assert again.find("thing", OLD.fingerprint) == OLD
    assert again.find("other", OLD.fingerprint) is None


@pytest.mark.parametrize("text", ["", "{", "{}", "3", "[3]", "[{}]", '[{"name": "x"}]', "[null]"])
def test_bad_schema_files_are_refused(text):
    with pytest.raises(SchemaMismatch):
        Schemas.from_json(text)


@pytest.mark.parametrize(
    "change",
    [{"dtype": "O"}, {"dtype": "u3"}, {"ttl": 1}, {"shape": [0]}, {"default": 900}, {"purpose": "fun"}],
)
def test_a_bad_field_in_a_spec_is_refused(change):
    spec = OLD.spec()
    spec["fields"][0] |= change
    with pytest.raises(SchemaMismatch):
        View.from_spec(spec)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("a b", "u1"), "identifier"),
        (("a", "U4"), "packed form"),
        (("a", "O"), "packed form"),
        (("a", "?"), "packed form"),
        (("a", "S"), "packed form"),
        (("a", "u1", (0,)), "empty side"),
        (("a", "u1", (), -1), "does not fit"),
        (("a", "u1", (), 1.5), "does not fit"),
        (("a", "f4", (), float("nan")), "does not fit"),
        (("a", "S4", (), 1), "does not fit"),
        (("a", "u1", (), 0, "fun"), "purpose"),
    ],
)
def test_bad_fields_are_refused(args, says):
    with pytest.raises(ValueError, match=says):
        Field(*args)


def test_bad_views_are_refused():
    with pytest.raises(ValueError, match="fields"):
        View("v", "user", DAYS, ())
    with pytest.raises(ValueError, match="fields"):
        View("v", "user", DAYS, tuple(Field(f"f{i}", "u1") for i in range(MAX_FIELDS + 1)))
    with pytest.raises(ValueError, match="twice"):
        View("v", "user", DAYS, (Field("a", "u1"), Field("a", "u2")))
    with pytest.raises(ValueError, match="entity"):
        View("v", "campaign", DAYS, (Field("a", "u1"),))


def test_sixty_four_fields_fit():
    view = View("v", "user", DAYS, tuple(Field(f"f{i}", "u1") for i in range(MAX_FIELDS)))
    assert view.decode(view.encode(view.blank_record, as_of=1.0)).known == 2**64 - 1


def test_the_fingerprint_follows_what_is_stored_and_nothing_else():
    def view(*fields, **more):
        return View("v", "user", more.pop("ttl", DAYS), fields, **more)

    first = view(Field("a", "u1"))
    different = [
        view(Field("a", "u2")),
        view(Field("b", "u1")),
        view(Field("a", "u1", (1,))),
        view(Field("a", "u1", default=1)),
        view(Field("a", "u1"), Field("b", "u1")),
        View("w", "user", DAYS, (Field("a", "u1"),)),
        View("v", "item", DAYS, (Field("a", "u1"),)),
    ]
    assert len({first.fingerprint, *(one.fingerprint for one in different)}) == 1 + len(different)
    same = view(Field("a", "u1", purpose="service"), ttl=timedelta(days=1), sparse=True)
    assert same.fingerprint == first.fingerprint


def test_names_that_a_view_does_not_declare():
    with pytest.raises(KeyError):
        OLD.bit("nothing")
    with pytest.raises(KeyError):
        OLD.field("nothing")


def test_the_declared_views():
    assert (RECENT.itemsize, CONTACT.itemsize) == (32, 40)
    assert (RECENT["event"].itemsize, RECENT.fields["at"][1]) == (8, 16)  # identity: the first 16 bytes
    assert CONTACT.fields["at"][1] == 12  # identity: the first 12 bytes
    assert tuple(column.name for column in PROFILE_COLUMNS) == PROFILE.names
    assert all(column.purpose == PROFILE.field(column.name).purpose for column in PROFILE_COLUMNS)
    assert ITEM.blank(1)["stock"][0] == -1
    assert PROFILE.blank(1)["profiling"][0] == 1
    assert {field.purpose for field in ITEM.fields} == {"service"}
    assert PROFILE.dtype["tags"] == PROFILE.dtype["tags_off"]


def test_stored_bytes_are_pinned():
    """A change here cuts readers off from what is stored: bring the old declaration along in `Schemas`."""
    assert {view.name: (view.fingerprint, view.size) for view in SCHEMAS} == {
        "profile": (0x61E2EDF0, 358),
        "membership": (0xBD71C449, 148),
        "item_stats": (0x5306784D, 60),
        "item": (0xCEBBDCD4, 223),
    }
