"""A customer's copy tells what is kept, also of those who refuse personalisation; beside it what is used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from features.customer import NOTHING, Blobs
from features.events import WHAT
from features.external import ENTRY, pack
from features.patch import patched
from features.schema import Field, Schemas, View
from features.views import CONTACT, MEMBERSHIP, PROFILE, RECENT, SCHEMAS
from tests.worlds import DAY, NOW
from training.customer_stored import EXPIRED, REFUSED, TAGS_OFF, UNREAD, stored

AT = NOW - DAY


def profile(**fields: Any) -> bytes:
    values = PROFILE.blank(1)[0]
    for name, value in fields.items():
        values[name] = value
    return PROFILE.encode(values, as_of=AT)


def log(form: np.dtype[np.void]) -> bytes:
    entries = np.zeros(2, form)
    entries["item"], entries["at"], entries["what"] = (7, 8), AT, WHAT["clicked"]
    return entries.tobytes()


def scores() -> bytes:
    entries = np.zeros(1, ENTRY)
    entries["item"], entries["score"], entries["expires"] = 9, 0.25, NOW - 60
    return pack(entries)


def told(blobs: Blobs, *, schemas: Schemas = SCHEMAS, now: float = NOW) -> dict[str, Any]:
    return stored(blobs, now=now, schemas=schemas, watermark=AT, items={7: "i7"}, lists={5: "vip"})


def fields(found: dict[str, Any], part: str = "profile") -> dict[str, tuple[Any, bool]]:
    return {one["field"]: (one["value"], one["used"]) for one in found[part]}


def test_who_refuses_is_told_everything_that_is_kept() -> None:
    blobs = NOTHING._replace(
        profile=profile(profiling=0, assets=5e4, gender=2, risk_level=3),
        recent=log(RECENT), contact=log(CONTACT), external=scores(), unit=b"d1",
    )  # fmt: skip
    found = told(blobs)
    kept = fields(found)
    assert set(kept) == set(PROFILE.names)
    assert kept["assets"] == (5e4, False) and kept["gender"] == (2, False)
    assert kept["risk_level"] == (3, True) and kept["profiling"] == (0, True)
    assert [one["item"] for one in found["behaviour"]] == ["i7", 8] and len(found["contacts"]) == 2
    assert found["scores"][0]["score"] == 0.25  # also after it has expired
    assert found["not_used"] == [REFUSED] and found["experiments_know_them_as"] == "d1"


def test_a_refusal_among_the_changes_counts() -> None:
    patch = patched(None, {"profiling": 0, "gender": 1}, NOW - 60)
    found = told(NOTHING._replace(profile=profile(gender=2, assets=5e4), patch=patch))
    assert fields(found)["gender"] == (2, False) and fields(found)["assets"] == (5e4, False)
    assert fields(found, "changes") == {"profiling": (0, True), "gender": (1, False)}
    assert found["changes"][0]["changed_at"].startswith("20") and found["not_used"] == [REFUSED]


def test_switched_off_tags_are_told() -> None:
    tags = np.full(16, 0b11, np.uint8)
    found = told(NOTHING._replace(profile=profile(tags=tags, tags_off=np.eye(1, 16, dtype=np.uint8)[0])))
    assert fields(found)["tags"] == (tags.tolist(), False) and found["not_used"] == [TAGS_OFF]
    assert fields(found)["gender"] == (0, True)


def test_an_expired_record_is_told() -> None:
    member = MEMBERSHIP.blank(1)[0]
    member["audiences"][:2] = (5, 6)
    blobs = NOTHING._replace(profile=profile(age=40), membership=MEMBERSHIP.encode(member, as_of=AT))
    late = AT + PROFILE.ttl.total_seconds() + 60
    found = told(blobs, now=late)
    assert fields(found)["age"] == (40, False)
    assert found["audiences"] == [{"number": 5, "list": "vip"}, {"number": 6, "list": None}]
    assert found["not_used"][:2] == [f"profile: {EXPIRED}", f"audiences: {EXPIRED}"]


def test_an_older_form_is_read_and_an_unknown_one_told_in_bytes() -> None:
    older = View(
        "profile", "user", PROFILE.ttl, (Field("age", "u1", purpose="permission"), Field("mood", "u1"))
    )
    values = older.blank(1)[0]
    values["age"] = 41
    blob = older.encode(values, as_of=AT)
    known = fields(told(NOTHING._replace(profile=blob), schemas=Schemas([*SCHEMAS, older])))
    assert known["age"] == (41, True)
    found = told(NOTHING._replace(profile=blob))
    assert found["profile"][0]["bytes"] == blob.hex() and f"profile: {UNREAD}" in found["not_used"]


@pytest.mark.parametrize("part", ["recent", "contact", "patch", "external"])
def test_what_cannot_be_read_is_told_in_bytes(part: str) -> None:
    name = {"recent": "behaviour", "contact": "contacts", "patch": "changes", "external": "scores"}[part]
    found = told(NOTHING._replace(**{part: b"not so long"}))
    assert found[name][0]["bytes"] == b"not so long".hex()


def test_of_whom_nothing_is_kept_nothing_is_told() -> None:
    found = told(NOTHING)
    assert found["not_used"] == [] and not any(found[part] for part in found)
