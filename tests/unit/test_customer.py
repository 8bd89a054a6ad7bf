"""What is known about a customer: presence, expiry, purposes, switched-off tags."""

import numpy as np
import pytest

from features.customer import LATE, LATE_BLOB, NOTHING, Blobs, decode_customer
from features.patch import patched
from features.schema import Field, Schemas, View
from features.views import CONSENT_OF, CONSENTS, CONTACT, MEMBERSHIP, PROFILE, RECENT

NOW = 1_700_000_000.0
BOTH = frozenset(("profile", "membership"))
FOREIGN = View("profile", "user", PROFILE.ttl, (Field("age", "u1", purpose="permission"),))
STALE = NOW - PROFILE.ttl.total_seconds() - 1


def profile(as_of=NOW - 60, known=None, **values):
    record = PROFILE.blank(1)
    for name, value in values.items():
        record[name] = value
    return PROFILE.encode(record[0], as_of=as_of, known=known)


def membership(*ids, as_of=NOW - 60):
    record = MEMBERSHIP.blank(1)
    record["audiences"][0, : len(ids)] = ids
    return MEMBERSHIP.encode(record[0], as_of=as_of)


def log(dtype, n):
    entries = np.zeros(n, dtype)
    entries["item"] = np.arange(1, n + 1)
    return entries.tobytes()


def decode(blobs=NOTHING, **more):
    return decode_customer(blobs, now=NOW, **more)


def whole(**values):
    return Blobs(profile(**values), membership(3, 9), log(RECENT, 2), log(CONTACT, 3), None)


def test_everything_there():
    customer = decode(whole(age=44, tz=b"Asia/Shanghai", consents=0b111))
    assert customer.missing == ()
    assert customer.profiling
    assert (customer.get("age"), customer.get("tz")) == (44, b"Asia/Shanghai")
    assert all(customer.knows(name) for name in PROFILE.names)
    assert customer.audiences.tolist() == [3, 9]
    assert customer.recent["item"].tolist() == [1, 2]
    assert customer.contact["item"].tolist() == [1, 2, 3]
    assert customer.profile.as_of == NOW - 60


def test_a_store_that_answered_with_nothing():
    customer = decode()
    assert customer.missing == ("profile", "membership")
    assert customer.profile is None
    assert customer.audiences is None
    assert len(customer.recent) == len(customer.contact) == 0, "no log: known to be empty"
    assert customer.profiling, "a newcomer has refused nothing"
    assert not customer.knows("age")
    assert (customer.get("profiling"), customer.get("risk_level")) == (1, 0)


def test_a_store_that_did_not_answer():
    customer = decode(LATE, materialised=BOTH)
    assert customer.missing == ("profile", "membership", "live")
    assert customer.profile is customer.audiences is customer.recent is customer.contact is None
    assert not customer.profiling


def test_lateness_survives_the_log_of_a_decision():
    """The logged blobs are other objects with the same bytes."""
    copied = Blobs(*(bytes(bytearray(blob)) for blob in LATE))
    assert decode(copied, materialised=BOTH) == decode(LATE, materialised=BOTH)


@pytest.mark.parametrize(
    ("blob", "problem"),
    [
        (None, "absent"),
        (profile(as_of=STALE), "expired"),
        (FOREIGN.encode(FOREIGN.blank_record, as_of=NOW), "schema"),
        (LATE_BLOB, "late"),
        (b"", "schema"),
        (profile()[:-1], "schema"),
    ],
)
def test_a_profile_that_cannot_be_used_is_missing(blob, problem):
    customer = decode(whole()._replace(profile=blob))
    assert customer.missing == ("profile",)
    assert customer.profile is None
    assert customer.audiences is not None
    assert customer.contact is not None
    # A record that lies there unread may say that profiling is refused; no record says nothing.
    assert customer.profiling == (problem == "absent")
    assert len(customer.recent) == (2 if problem == "absent" else 0)


def test_the_patch_may_say_that_profiling_is_allowed_when_the_profile_cannot_be_read():
    blobs = whole()._replace(profile=LATE_BLOB, patch=patched(None, {"profiling": 1}, NOW))
    assert decode(blobs, watermark=NOW - 60).profiling
    assert len(decode(blobs, watermark=NOW - 60).recent) == 2


@pytest.mark.parametrize(
    "blob", [LATE_BLOB, profile(as_of=STALE), FOREIGN.encode(FOREIGN.blank_record, as_of=NOW), b""]
)
def test_a_profile_that_cannot_be_read_may_say_otherwise_than_an_older_patch(blob):
    patch = patched(None, {"consents": 7, "risk_level": 5, "profiling": 1}, NOW - 100)
    patch = patched(patch, {"age": 40}, NOW)
    for watermark, known in ((NOW - 60, ["age"]), (NOW, []), (float("inf"), [])):
        customer = decode(whole()._replace(profile=blob, patch=patch), watermark=watermark)
        assert [name for name in PROFILE.names if customer.knows(name)] == known
        assert not customer.profiling, "the profile may hold a refusal"
    newer = decode(whole()._replace(profile=blob, patch=patch), watermark=NOW - 200)
    assert newer.knows("consents") and newer.knows("risk_level") and newer.profiling


def test_an_older_profile_is_projected_with_its_schema():
    blob = FOREIGN.encode(np.array((61,), FOREIGN.dtype)[()], as_of=NOW)
    customer = decode(whole()._replace(profile=blob), schemas=Schemas((PROFILE, FOREIGN)))
    assert customer.missing == ()
    assert customer.get("age") == 61
    assert [name for name in PROFILE.names if customer.knows(name)] == ["age"]


@pytest.mark.parametrize("materialised", [frozenset(), frozenset(("profile",)), BOTH])
def test_no_membership_record_means_no_audience_once_materialised(materialised):
    customer = decode(whole()._replace(membership=None), materialised=materialised)
    if "membership" in materialised:
        assert customer.missing == ()
        assert customer.audiences.tolist() == []
    else:
        assert customer.missing == ("membership",)
        assert customer.audiences is None


@pytest.mark.parametrize(
    "blob",
    [
        membership(1, as_of=STALE),
        b"x" * 148,
        LATE_BLOB,
        MEMBERSHIP.encode(MEMBERSHIP.blank_record, as_of=NOW, known=0),
    ],
)
def test_a_membership_that_cannot_be_used_is_missing_even_when_materialised(blob):
    customer = decode(whole()._replace(membership=blob), materialised=BOTH)
    assert customer.missing == ("membership",)
    assert customer.audiences is None


@pytest.mark.parametrize("field", ["recent", "contact"])
@pytest.mark.parametrize("blob", [b"x", bytes(33), LATE_BLOB])
def test_a_damaged_or_late_log_is_missing_and_the_other_stays(field, blob):
    customer = decode(whole()._replace(**{field: blob}))
    assert customer.missing == ("live",)
    assert getattr(customer, field) is None
    assert len(getattr(customer, {"recent": "contact", "contact": "recent"}[field]))


@pytest.mark.parametrize(("stored", "asked"), [(0, True), (1, False), (0, False)])
def test_without_profiling_no_profiling_field_is_seen(stored, asked):
    values = {
        "profiling": stored,
        "age": 50,
        "risk_level": 3,
        "assets": 9e6,
        "segment": 7,
        "tz": b"Asia/Tokyo",
    }
    values |= {
        "tags": np.full(16, 255),
        "attributes": np.arange(1, 17),
        "kind_affinity": np.ones(6),
        "last_active": 5,
    }
    customer = decode(whole(**values), profiling=asked)
    assert not customer.profiling
    for field in PROFILE.fields:
        assert customer.knows(field.name) == (field.purpose != "profiling"), field.name
        if field.purpose == "profiling":
            assert np.array_equal(customer.profile.values[field.name], PROFILE.blank_record[field.name])
    assert (customer.get("age"), customer.get("risk_level"), customer.get("tz")) == (50, 3, b"Asia/Tokyo")
    assert len(customer.recent) == 0
    assert len(customer.contact) == 3, "caps and cooling still work"
    assert customer.audiences.tolist() == [3, 9]
    assert customer.missing == ()


def test_refusing_without_a_profile_hides_the_recent_log():
    customer = decode(whole()._replace(profile=None, patch=patched(None, {"profiling": 0}, NOW)))
    assert len(customer.recent) == 0
    assert not customer.profiling


def test_a_refusal_by_patch_wins_over_the_batch():
    blobs = whole(profiling=1, assets=5)._replace(patch=patched(None, {"profiling": 0}, NOW))
    assert not decode(blobs).knows("assets")


def test_switched_off_tags_are_masked_always():
    tags = np.zeros(16, np.uint8)
    tags[:2] = 0b1111_0000, 0b1
    off = np.zeros(16, np.uint8)
    off[0] = 0b0011_0000
    customer = decode(whole(tags=tags, tags_off=off))
    assert customer.get("tags")[:2].tolist() == [0b1100_0000, 0b1]
    by_patch = decode(whole(tags=tags)._replace(patch=patched(None, {"tags_off": off}, NOW)))
    assert by_patch.get("tags").tolist() == customer.get("tags").tolist()


@pytest.mark.parametrize(
    "patch", [LATE_BLOB, b"", b"x" * 500, PROFILE.encode(PROFILE.blank_record, as_of=NOW)]
)
def test_an_unread_patch_may_hold_a_withdrawn_consent(patch):
    customer = decode(whole(consents=7, risk_level=5, assets=5, city=9)._replace(patch=patch))
    assert customer.missing == ("live",)
    assert not customer.profiling
    for field in PROFILE.fields:
        assert customer.knows(field.name) == (field.purpose == "service"), field.name
    assert (customer.get("consents"), customer.get("risk_level"), customer.get("city")) == (0, 0, 9)


def test_a_patch_without_a_profile_gives_only_its_fields():
    customer = decode(Blobs(None, None, None, None, patched(None, {"risk_level": 4}, NOW)))
    assert customer.missing == ("profile", "membership")
    assert [name for name in PROFILE.names if customer.knows(name)] == ["risk_level"]
    assert customer.get("risk_level") == 4


def test_an_unknown_field_reads_as_its_default():
    known = PROFILE.all_known & ~PROFILE.mask(["profiling", "age"])
    customer = decode(whole(known=known, profiling=0, age=30))
    assert not customer.knows("age")
    assert (customer.get("age"), customer.get("profiling")) == (0, 1)
    assert customer.profiling


def test_names_that_profiles_do_not_have():
    for customer in (decode(), decode(whole())):
        with pytest.raises(KeyError):
            customer.knows("shoe_size")
        with pytest.raises((KeyError, ValueError)):
            customer.get("shoe_size")


def test_decoding_leaves_the_blobs_alone():
    blobs = whole(tags=np.full(16, 255), tags_off=np.full(16, 1), profiling=0)
    before = bytes(bytearray(blobs.profile))
    decode(blobs)
    assert blobs.profile == before


SHARING = 1 << CONSENTS.index("data_sharing")


def test_every_consent_that_a_field_names_is_one_that_customers_give():
    assert {one.consent for one in PROFILE.fields} - {""} == set(CONSENT_OF.values()) <= set(CONSENTS)
    assert set(CONSENT_OF) <= set(PROFILE.names)


@pytest.mark.parametrize("consents", range(8))
def test_a_field_under_a_consent_is_seen_only_where_that_was_given(consents):
    customer = decode(whole(income=9e3, assets=5e4, consents=consents))
    given = bool(consents & SHARING)
    assert customer.knows("income") == given and customer.get("income") == (9e3 if given else 0.0)
    assert customer.knows("assets") and customer.get("assets") == 5e4
    assert customer.profile.values["income"] == customer.get("income")  # no later stage can see it
    before = decode(whole(income=9e3, consents=consents), consented=False)  # as decided before it counted
    assert before.get("income") == 9e3


def test_a_consent_that_is_withdrawn_or_not_known_blanks_the_field():
    kept = whole(income=9e3, consents=SHARING)
    withdrawn = patched(None, {"consents": 0}, NOW - 1)
    assert decode(kept).knows("income")
    for patch in (withdrawn, LATE_BLOB, b"damaged"):
        customer = decode(kept._replace(patch=patch))
        assert not customer.knows("income") and customer.get("income") == 0.0
    unknown = PROFILE.encode(PROFILE.blank(1)[0], as_of=NOW - 60, known=PROFILE.mask(["income", "profiling"]))
    assert not decode(kept._replace(profile=unknown)).knows("income")
    told = patched(None, {"consents": SHARING}, NOW - 1)
    assert decode(whole(income=9e3)._replace(patch=told)).get("income") == 9e3
