"""What comes in is checked once; what goes out is valid JSON of the contract, also where numbers are not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from features.ids import key32, key64
from features.patch import decode_patch, patched
from features.views import PROFILE
from serving.asked import identity_of, surface_of, uuid7
from serving.decide import decide
from serving.errors import CODES, Problem
from serving.remembered import Remembered
from serving.remembered import decode as decode_remembered
from serving.userfields import profile_changes
from serving.wire import (
    RecommendAsk,
    context_of,
    drop_texts,
    parse,
    parse_json,
    parse_page,
    parse_similar,
    rfc3339,
)
from serving.writing import page_bytes
from tests.worlds import NOW, query, tiny_live, tiny_plan

LIVE = tiny_live()


def ask(**body: Any) -> RecommendAsk:
    return parse(RecommendAsk, {"user_id": "u1", **body})


def test_the_whole_contract_of_a_request_is_read() -> None:
    body = b"""{"request_id": "r", "user_id": "u42", "visitor_id": "d77", "session_id": "s",
      "surface": "home",
      "slots": [{"slot": "home.banner", "count": 5}, {"slot": "home.grid"}, {"slot": "home.shelf",
      "exclude": ["p9"]}], "context": {"channel": "app", "app_version": "9.2.0", "edition": "standard",
      "locale": "zh-CN", "city": "310000", "location": "wtw3s", "auth_level": "bound_card", "entry": null,
      "anchor_item": null}, "events": [], "options": {"profiling": true, "explain": false, "dry_run": false,
      "deadline_ms": 80}}"""
    read = parse(RecommendAsk, parse_json(body))
    assert read.slots is not None and [slot.slot for slot in read.slots] == [
        "home.banner",
        "home.grid",
        "home.shelf",
    ]
    context = context_of(read.context)
    assert (context.channel, context.app_version, context.city) == (1, 9_002_000, key32("310000"))
    assert (context.auth_level, context.location, context.entry) == (3, "wtw3s", None)


@pytest.mark.parametrize(
    "context",
    [
        None, [], 7, {}, {"channel": "app", "city": "310000"}, {"channel": "fax"}, {"city": ["x"]},
        {"new": 1}, {"channel": 1}, {"city": True},
        {"app_version": "9.2.0", "locale": "en-GB"}, {"locale": {}},
    ],
)  # fmt: skip
def test_a_context_seen_before_is_read_as_it_was_the_first_time(context: Any) -> None:
    body = orjson.dumps({"user_id": "u1", "context": context})
    try:
        plain: Any = parse(RecommendAsk, parse_json(body))
    except Problem as problem:
        plain = problem.body()
    for _ in range(3):
        try:
            read: Any = parse_page(body)
        except Problem as problem:
            read = problem.body()
        assert read == plain


def test_what_is_not_said_is_not_known() -> None:
    context = context_of(ask().context)
    assert (context.channel, context.app_version, context.city, context.auth_level) == (0, 0, 0, 0)
    assert context.location is None and context.locale == "zh-CN"


def test_identity() -> None:
    both = identity_of(ask(visitor_id="d1", request_id="r1"), "h1")
    assert both.decision_id == "r1" and both.retried and both.subject == "u:u1" and both.visitor == "v:d1"
    header = identity_of(parse(RecommendAsk, {"visitor_id": "d1"}), "h1")
    assert header.decision_id == "h1" and header.subject == "v:d1" and header.visitor is None
    made = identity_of(ask(), None)
    assert not made.retried and len(made.decision_id) == 36
    with pytest.raises(Problem, match="missing_subject"):
        identity_of(parse(RecommendAsk, {}), None)


def test_uuids_are_of_version_7_and_sort_by_time() -> None:
    made = [uuid7() for _ in range(200)]
    assert len(set(made)) == 200
    assert all(one[14] == "7" and one[19] in "89ab" for one in made)
    assert [one[:13] for one in made] == sorted(one[:13] for one in made)


def test_slots_are_resolved_in_the_order_asked() -> None:
    surface, slots, _ = surface_of(
        LIVE.plan, ask(slots=[{"slot": "home.feed", "count": 2}, {"slot": "home.grid"}]), "page"
    )
    assert surface == "home" and [(slot.spec.name, slot.count) for slot in slots] == [
        ("home.feed", 2),
        ("home.grid", 5),
    ]


def test_a_page_is_valid_json_with_every_place() -> None:
    decision = decide(query(LIVE), LIVE)
    page = orjson.loads(page_bytes(decision, LIVE.texts, page_token="tok", valid_until=NOW + 600))
    assert page["page_token"] == "tok" and page["valid_until"] == rfc3339(NOW + 600)
    placed = [item for slot in page["slots"] for item in slot["items"]]
    assert len(placed) == len(decision.placements) == 22
    for item, place in zip(placed, decision.placements, strict=True):
        assert item["item_id"] == LIVE.texts[place.row].id
        assert item["score"] == pytest.approx(place.score, abs=1e-4)
        assert item["propensity"] == place.propensity == 1.0


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf"), 1e30, -0.0])
def test_a_score_that_is_no_number_does_not_break_the_page(score: float) -> None:
    decision = decide(query(LIVE), LIVE)
    odd = [place._replace(score=score, propensity=0.125) for place in decision.placements]
    page = orjson.loads(
        page_bytes(replace(decision, placements=tuple(odd)), LIVE.texts, page_token=None, valid_until=NOW)
    )
    assert {item["propensity"] for slot in page["slots"] for item in slot["items"]} == {0.125}


def test_times_are_rfc3339_in_utc() -> None:
    assert rfc3339(0.0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_790_000_000.1234) == "2026-09-21T14:13:20.123Z"


def test_drops_have_texts_most_first() -> None:
    told = drop_texts({"risk": 2, "region": 9})
    assert [(one["code"], one["count"]) for one in told] == [("region", 9), ("risk", 2)]
    assert all(one["zh"] and one["en"] for one in told)


def test_similar_is_read_from_the_query() -> None:
    assert parse_similar({"k": "7", "locale": "en"}).k == 7
    assert parse_similar({}).k == 10
    with pytest.raises(Problem, match="bad_query"):
        parse_similar({"k": "-1"})


def test_a_remembered_page_comes_back_byte_for_byte() -> None:
    decision = decide(query(LIVE), LIVE)
    body = page_bytes(decision, LIVE.texts, page_token="t" * 900, valid_until=NOW)
    blob = Remembered.of(decision, body).encode()
    page = decode_remembered(blob)
    assert page is not None and page.body == body and len(blob) < len(body)
    assert page.items.tolist() == [place.key for place in decision.placements]
    assert len(page.slots) == len(page.creatives) == len(page.items)


@pytest.mark.parametrize("blob", [b"", b"nonsense", b"\x28\xb5\x2f\xfd" + b"x" * 20])
def test_a_remembered_page_that_cannot_be_read_is_none(blob: bytes) -> None:
    assert decode_remembered(blob) is None


GOOD_FIELDS: dict[str, tuple[Any, Any]] = {
    "tz": ("Asia/Shanghai", b"Asia/Shanghai"),
    "org": ("sh", key32("sh")),
    "city": ("310000", key32("310000")),
    "consents": (["marketing", "third_party"], 5),
    "profiling": (False, 0),
    "risk_level": (4, 4),
    "age": (41, 41),
    "blocked": (["benefit", "product"], 0b100100),
    "holdings": (["p1", "p2", "p1"], [key64("p1"), key64("p2")]),
    "tags_off": ([0, 9], [1, 2]),
    "gender": (2, 2),
    "payroll": (True, 1),
    "assets": (12_345.5, 12_345.5),
    "segment": (65_535, 65_535),
    "attributes": ({"job": "nurse"}, [key32("job=nurse")]),
    "tags": ([127], [0] * 15 + [128]),
}


@pytest.mark.parametrize("name", GOOD_FIELDS)
def test_fields_of_a_customer_are_read_as_people_write_them(name: str) -> None:
    given, kept = GOOD_FIELDS[name]
    blob = patched(None, profile_changes({name: given}), NOW)
    record = decode_patch(blob).record
    assert record.known == PROFILE.bit(name)
    value = record.values[name]
    if isinstance(kept, list):
        assert value[: len(kept)].tolist() == kept and not np.any(value[len(kept) :])
    else:
        assert value == kept


def test_every_code_has_a_status_and_two_titles() -> None:
    for code, known in CODES.items():
        problem = orjson.loads(Problem(code, "why").body())
        assert problem["status"] == known.status >= 400 and known.zh and known.en
        assert (known.status in (429, 503)) is any(
            name == b"retry-after" for name, _ in Problem(code, "").headers
        )


def test_the_plan_of_the_tests_is_the_one_in_force() -> None:
    assert LIVE.plan.version == tiny_plan().version
