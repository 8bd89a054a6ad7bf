"""Whatever is stored, reading is exact or refused; a record survives any growth of its view."""

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.customer import Blobs, decode_customer
from features.patch import decode_patch
from features.schema import HEADER, Field, Record, SchemaMismatch, Schemas, View
from features.views import CONTACT, MEMBERSHIP, PROFILE, RECENT, SCHEMAS

DTYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8", "S3", "S9")
ALL = Schemas((*SCHEMAS, View("profile", "user", timedelta(1), (Field("age", "u1"), Field("assets", "f8")))))

fields = st.builds(
    Field,
    name=st.sampled_from([f"f{i}" for i in range(12)]),
    dtype=st.sampled_from(DTYPES),
    shape=st.sampled_from([(), (1,), (3,), (2, 2)]),
)
views = st.builds(
    View,
    st.just("thing"),
    st.just("user"),
    st.just(timedelta(days=1)),
    st.lists(fields, min_size=1, max_size=12, unique_by=lambda field: field.name).map(tuple),
)


def random_record(view, seed):
    """Any bytes, but finite floats: what a writer may store."""
    record = np.frombuffer(np.random.default_rng(seed).bytes(view.dtype.itemsize), view.dtype).copy()
    for field in view.fields:
        if field.packed.kind == "f":
            record[field.name] = np.random.default_rng(seed + 1).normal(size=(1, *field.shape))
    return record[0]


@given(views, st.integers(0, 2**32), st.floats(-1e12, 1e12), st.integers(0, 2**64 - 1))
def test_what_is_written_is_read(view, seed, as_of, known):
    values = random_record(view, seed)
    record = view.decode(view.encode(values, as_of=as_of, known=known))
    assert (record.known, record.as_of) == (known & view.all_known, as_of)
    for name in view.names:
        wanted = values[name] if known & view.bit(name) else view.blank_record[name]
        assert np.array_equal(record.values[name], wanted)


@given(views, views, st.integers(0, 2**32))
def test_projection_keeps_what_it_can_and_invents_nothing(old, new, seed):
    values = random_record(old, seed)
    record = new.decode(old.encode(values, as_of=1.0), Schemas((old, new)))
    for field in new.fields:
        same = field.name in old.names and old.field(field.name) == field
        if same:
            assert record.known & new.bit(field.name)
            assert record.values[field.name].tobytes() == values[field.name].tobytes()
        if not record.known & new.bit(field.name):
            assert np.array_equal(record.values[field.name], new.blank_record[field.name])
        elif not same:
            assert np.array_equal(record.values[field.name], values[field.name].astype(field.packed))


@given(views, views, st.lists(st.tuples(st.booleans(), st.integers(0, 99)), max_size=8))
def test_unpack_is_decode_row_by_row(old, new, rows):
    schemas = Schemas((old, new))
    blobs = [
        (new if current else old).encode(random_record(new if current else old, s), as_of=5.0)
        for current, s in rows
    ]
    read = new.unpack(blobs, now=6.0, schemas=schemas)
    for i, blob in enumerate(blobs):
        record = new.decode(blob, schemas)
        assert read.problems[i] == ""
        assert read.records[i].tobytes() == record.values.tobytes()
        assert read.known[i] == record.known


@given(st.binary(max_size=3 * PROFILE.size), st.sampled_from(list(SCHEMAS)))
@settings(max_examples=300)
def test_random_bytes_are_refused_and_nothing_else(blob, view):
    with pytest.raises(SchemaMismatch):
        view.decode(blob, ALL)
    assert view.unpack([blob], now=0.0, schemas=ALL).problems == ("schema",)


@given(st.sampled_from(list(ALL)), st.floats(allow_nan=True), st.integers(0, 2**64 - 1), st.data())
def test_random_bytes_behind_a_good_header_are_read_or_refused(view, as_of, known, data):
    body = data.draw(st.binary(min_size=view.dtype.itemsize - 2, max_size=view.dtype.itemsize + 2))
    blob = HEADER.pack(view.fingerprint, as_of, known) + body
    good = len(body) == view.dtype.itemsize and np.isfinite(as_of)
    try:
        record = (PROFILE if view.name == "profile" else view).decode(blob, ALL)
    except SchemaMismatch:
        assert not good
    else:
        assert good
        assert isinstance(record, Record)


blobs_of_a_customer = st.builds(
    Blobs,
    *(st.none() | st.binary(max_size=400) for _ in range(5)),
)


@given(blobs_of_a_customer, st.booleans(), st.floats(0, 2e9))
def test_a_customer_is_always_decoded(blobs, profiling, now):
    customer = decode_customer(blobs, now=now, profiling=profiling, schemas=ALL)
    assert customer.profile is None
    assert "profile" in customer.missing
    assert (customer.contact is None) == (
        blobs.contact is not None and len(blobs.contact) % CONTACT.itemsize > 0
    )
    if blobs.patch is not None:  # what cannot be read may hold a refusal
        assert "live" in customer.missing
        assert not customer.profiling
    if blobs.recent is not None and len(blobs.recent) % RECENT.itemsize:
        assert customer.recent is None


@given(st.integers(0, 2**32), st.binary(max_size=2 * PROFILE.size))
def test_damaged_records_never_crash_a_decision(seed, patch):
    profile = HEADER.pack(PROFILE.fingerprint, 1.0, seed) + np.random.default_rng(seed).bytes(
        PROFILE.dtype.itemsize
    )
    membership = MEMBERSHIP.encode(random_record(MEMBERSHIP, seed), as_of=1.0)
    customer = decode_customer(Blobs(profile, membership, b"", b"", None), now=2.0)
    assert customer.missing == ()
    assert customer.profile is not None
    with pytest.raises(SchemaMismatch):
        decode_patch(patch)
