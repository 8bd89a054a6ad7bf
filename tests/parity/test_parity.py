"""One definition of each feature: what is aggregated offline is what is stored, and what a decision reads.

100,000 customers, bit for bit along the whole way: events -> aggregate -> pack -> store -> read -> columns.
"""

import asyncio
from datetime import timedelta

import numpy as np
import pytest

from features.aggregate import fill, user_features
from features.bulk import bulk_write, verify
from features.customer import Blobs, decode_customer
from features.ids import KINDS, keys64
from features.redis_store import RedisStore
from features.schema import Field, Schemas, View
from features.store import MemoryBlobs, MemoryStore, feature_key
from features.transforms import DAY, tokens, tokens_many
from features.views import AGGREGATED_FIELDS, PROFILE
from training.profiles import Profiles, as_served

CUSTOMERS = 100_000
EVENTS = 1_500_000
AS_OF = 1_700_000_000.0
IDS = [f"c{n}" for n in range(CUSTOMERS)]
CHUNK = 5_000
GROWN = View(
    "profile",
    "user",
    timedelta(days=40),
    (Field("fresh", "f4", default=0.25), *reversed(PROFILE.fields), Field("also", "u2", (3,))),
)


def random_events(rng):
    items = keys64(f"i{n}" for n in range(500))
    chosen = rng.integers(0, len(items), EVENTS)
    return {
        "user_index": (CUSTOMERS * rng.random(EVENTS) ** 2).astype(np.int32),
        "item_key": items[chosen],
        "kind": (chosen % len(KINDS)).astype(np.uint8),
        "what": rng.choice([1, 1, 1, 1, 2, 2, 3, 4, 5], EVENTS).astype(np.uint8),
        "action": rng.integers(0, 10, EVENTS).astype(np.uint16),
        "at": AS_OF - rng.exponential(30 * DAY, EVENTS),
    }


def random_facts(rng):
    """Profiles as a customers' table gives them: any value, any field unknown."""
    records = np.frombuffer(rng.bytes(CUSTOMERS * PROFILE.dtype.itemsize), PROFILE.dtype).copy()
    for field in PROFILE.fields:
        if field.packed.kind == "f":
            records[field.name] = rng.lognormal(8, 3, (CUSTOMERS, *field.shape))
    records["profiling"], records["tags_off"] = 1, 0
    return records, rng.integers(0, PROFILE.all_known, CUSTOMERS, dtype=np.uint64, endpoint=True)


@pytest.fixture(scope="module")
def offline():
    """(aggregated features, all records, their known bits, their packed form)."""
    rng = np.random.default_rng(20)
    features = user_features(random_events(rng), CUSTOMERS, as_of=AS_OF)
    records, known = random_facts(rng)
    fill(records, known, features)
    wire = PROFILE.pack(records, as_of=AS_OF, known=known)
    return features, records, known, wire


def read_all(store, view, schemas=None, now=AS_OF + DAY):
    async def chunks():
        try:
            return [
                await store.read(view, IDS[at : at + CHUNK], version="v1", now=now, schemas=schemas)
                for at in range(0, CUSTOMERS, CHUNK)
            ]
        finally:
            await store.close()

    reads = asyncio.run(chunks())
    assert {problem for read in reads for problem in read.problems} == {""}
    return np.concatenate([read.records for read in reads]), np.concatenate([read.known for read in reads])


def in_memory(wire):
    store = MemoryStore(MemoryBlobs(lambda: AS_OF))
    assert store.load(PROFILE, "v1", IDS, wire) == CUSTOMERS
    return store


def same_columns(records, known, offline):
    features, facts, offline_known, wire = offline
    assert known.tobytes() == offline_known.tobytes()
    assert records.tobytes() == np.ascontiguousarray(wire["values"]).tobytes()
    for name in AGGREGATED_FIELDS:
        assert records[name].tobytes() == np.ascontiguousarray(features[name]).tobytes(), name
    for name in PROFILE.names:
        held = (offline_known & np.uint64(PROFILE.bit(name))) != 0
        assert records[name][held].tobytes() == facts[name][held].tobytes(), name
        assert (records[name][~held] == PROFILE.blank_record[name]).all(), name


def test_the_aggregate_says_something(offline):
    features = offline[0]
    for name in AGGREGATED_FIELDS:
        assert len(np.unique(features[name], axis=0)) > 10, name


def test_memory_store_gives_the_offline_columns(offline):
    same_columns(*read_all(in_memory(offline[3]), PROFILE), offline)


@pytest.mark.integration
def test_valkey_gives_the_offline_columns(offline, valkey_url):
    wire = offline[3]
    assert bulk_write(valkey_url, PROFILE, "v1", IDS, wire, 600.0) == CUSTOMERS
    assert verify(valkey_url, PROFILE, "v1", IDS, wire, 1000, np.random.default_rng(1)) == 1000
    same_columns(*read_all(RedisStore.at(valkey_url), PROFILE), offline)


def test_a_decision_reads_the_offline_columns(offline):
    """`decode_customer` of the stored bytes, customer by customer, and the tokens made of them."""
    _, _, known, wire = offline
    store = in_memory(wire)
    served = as_served(Profiles(wire["values"], known))
    seen = PROFILE.pack(served.records, as_of=AS_OF, known=served.known)["values"]
    under = np.uint64(PROFILE.consent_mask("data_sharing"))
    assert ((served.known & under) != (known & under)).any() and (served.known & under).any()
    indptr, flat = tokens_many(*served)
    stored = asyncio.run(store.fetch([feature_key("v1", "profile", one) for one in IDS]))
    for i, blob in enumerate(stored):
        customer = decode_customer(Blobs(blob, None, None, None, None), now=AS_OF)
        assert customer.profile is not None
        assert customer.profile.known == served.known[i]
        assert customer.profile.values.tobytes() == seen[i].tobytes()
        if i % 50 == 0:
            mine = tokens(customer.profile.values, customer.profile.known)
            assert mine.tobytes() == flat[indptr[i] : indptr[i + 1]].tobytes()


def same_grown_columns(records, known, offline):
    wire, old_known = offline[3], offline[2]
    for name in PROFILE.names:
        assert records[name].tobytes() == np.ascontiguousarray(wire["values"][name]).tobytes(), name
        old_bit, new_bit = np.uint64(PROFILE.bit(name)), np.uint64(GROWN.bit(name))
        assert ((known & new_bit != 0) == (old_known & old_bit != 0)).all(), name
    assert not (known & np.uint64(GROWN.mask(["fresh", "also"]))).any()
    assert (records["fresh"] == 0.25).all()
    assert not records["also"].any()


def test_a_view_that_gains_fields_keeps_every_customers_old_ones(offline):
    store = in_memory(offline[3])
    same_grown_columns(*read_all(store, GROWN, Schemas((PROFILE, GROWN))), offline)


@pytest.mark.integration
def test_a_view_that_gains_fields_keeps_them_in_valkey(offline, valkey_url):
    bulk_write(valkey_url, PROFILE, "v1", IDS, offline[3], 600.0)
    same_grown_columns(*read_all(RedisStore.at(valkey_url), GROWN, Schemas((PROFILE, GROWN))), offline)


def test_one_record_is_projected_as_all_are(offline):
    wire = offline[3]
    schemas = Schemas((PROFILE, GROWN))
    for row in wire[:: CUSTOMERS // 200]:
        read = GROWN.unpack([row.tobytes()], now=AS_OF, schemas=schemas)
        record = GROWN.decode(row.tobytes(), schemas)
        assert record.values.tobytes() == read.records[0].tobytes()
        assert (record.known, record.as_of) == (read.known[0], read.as_of[0])


def test_without_the_old_declaration_every_customer_is_refused_not_guessed(offline):
    blobs = [row.tobytes() for row in offline[3][:1000]]
    assert set(GROWN.unpack(blobs, now=AS_OF, schemas=Schemas((GROWN,))).problems) == {"schema"}
