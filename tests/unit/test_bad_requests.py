"""What is wrong with a request is said, by code and status, as problem+json: never a 500, never a
traceback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
import pytest

from serving.errors import CODES
from tests.shell import Shell, running

KEY = "an-app-key-of-some-length"
LONG = "x" * 65
PAGE = "/v1/recommend"


class Bad(NamedTuple):
    method: str
    path: str
    body: Any
    status: int
    code: str
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


def page(status: int, code: str, **body: Any) -> Bad:
    return Bad("POST", PAGE, {"user_id": "u1", **body}, status, code)


def item(status: int, code: str, **body: Any) -> Bad:
    whole = {"kind": "product", "title": {"zh": "基金"}, **body}
    return Bad("PUT", "/v1/items/p1", {k: v for k, v in whole.items() if v is not ...}, status, code)


def user(status: int, code: str, **profile: Any) -> Bad:
    return Bad("PUT", "/v1/users/u1", {"profile": profile}, status, code)


REQUESTS: dict[str, Bad] = {
    # the body as such
    "empty body": Bad("POST", PAGE, b"", 400, "bad_json"),
    "not json": Bad("POST", PAGE, b"user_id=u1", 400, "bad_json"),
    "cut short": Bad("POST", PAGE, b'{"user_id": "u1"', 400, "bad_json"),
    "NaN": Bad("POST", PAGE, b'{"user_id": NaN}', 400, "bad_json"),
    "not UTF-8": Bad("POST", PAGE, b'{"user_id": "\xff\xfe"}', 400, "bad_json"),
    "half a surrogate": Bad("POST", PAGE, b'{"user_id": "\\ud800"}', 400, "bad_json"),
    "nested without end": Bad("POST", PAGE, b"[" * 100_000, 400, "bad_json"),
    "a list": Bad("POST", PAGE, [1], 422, "invalid_field"),
    "a string": Bad("POST", PAGE, "u1", 422, "invalid_field"),
    "null": Bad("POST", PAGE, None, 422, "invalid_field"),
    "too large": Bad("POST", PAGE, b'{"user_id": "' + b"x" * 300_000 + b'"}', 413, "body_too_large"),
    "events too large": Bad("POST", "/v1/events", b" " * 262_145, 413, "body_too_large"),
    "zipped": Bad("POST", PAGE, b"{}", 415, "unsupported_media_type", {"content_encoding": "gzip"}),
    "an event's type nested without end": Bad(
        "POST", "/v1/outcomes", b'{"kind":' + b"[" * 1020 + b"]" * 1020 + b"}", 422, "missing_field"
    ),
    "a field nested without end": Bad(
        "PUT", "/v1/items/p1", b'{"rate":' + b"[" * 1020 + b"]" * 1020 + b"}", 422, "bad_item"
    ),
    "an id nested without end": Bad(
        "PUT", "/v1/items:batch", b'{"items":[{"id":' + b"[" * 1000 + b"]" * 1000 + b"}]}", 422, "bad_item"
    ),
    "a form": Bad("POST", PAGE, b"user_id=u1", 415, "unsupported_media_type", {"content_type": "text/plain"}),
    # who and which page
    "nobody": Bad("POST", PAGE, {}, 422, "missing_subject"),
    "unknown field": page(422, "unknown_field", colour="red"),
    "empty user id": page(422, "bad_id", user_id=""),
    "long user id": page(422, "bad_id", user_id=LONG),
    "long in bytes only": page(422, "bad_id", user_id="汉" * 22),
    "user id with control characters": page(422, "bad_id", user_id="a\x00b"),
    "user id a number": page(422, "invalid_field", user_id=42),
    "visitor id a list": page(422, "invalid_field", visitor_id=["d1"]),
    "long request id": page(422, "bad_id", request_id=LONG),
    "request id in the header too long": Bad(
        "POST", PAGE, {"user_id": "u"}, 422, "bad_id", {"x_request_id": LONG}
    ),
    "request id in the header empty": Bad(
        "POST", PAGE, {"user_id": "u"}, 422, "bad_id", {"x_request_id": ""}
    ),
    "unknown surface": page(422, "unknown_surface", surface="moon"),
    "unknown slot": page(422, "unknown_slot", slots=[{"slot": "home.moon"}]),
    "no slots": page(422, "invalid_field", slots=[]),
    "slot without a name": page(422, "missing_field", slots=[{"count": 1}]),
    "slot twice": page(422, "duplicate_slot", slots=[{"slot": "home.grid"}, {"slot": "home.grid"}]),
    "too many slots": page(422, "too_many", slots=[{"slot": "home.grid"}] * 41),
    "count nought": page(422, "invalid_field", slots=[{"slot": "home.grid", "count": 0}]),
    "count beyond the slot": page(422, "invalid_field", slots=[{"slot": "home.grid", "count": 6}]),
    "count as text": page(422, "invalid_field", slots=[{"slot": "home.grid", "count": "2"}]),
    "count true": page(422, "invalid_field", slots=[{"slot": "home.grid", "count": True}]),
    "bad excluded id": page(422, "bad_id", slots=[{"slot": "home.grid", "exclude": [""]}]),
    "too many excluded": page(422, "too_many", slots=[{"slot": "home.grid", "exclude": ["p"] * 201}]),
    "slots of a named page": Bad(
        "POST", f"{PAGE}/banner", {"user_id": "u", "slots": [{"slot": "home.banner"}]}, 422, "invalid_field"
    ),
    "another surface as homepage": Bad(
        "POST", f"{PAGE}/homepage", {"user_id": "u", "surface": "wealth"}, 422, "invalid_field"
    ),
    "unknown channel": page(422, "invalid_field", context={"channel": "fax"}),
    "app version in words": page(422, "invalid_field", context={"app_version": "nine"}),
    "app version too deep": page(422, "invalid_field", context={"app_version": "9.2.0.1"}),
    "no such locale": page(422, "invalid_field", context={"locale": "Chinese!"}),
    "no such geohash": page(422, "invalid_field", context={"location": "ail"}),
    "no such authentication": page(422, "invalid_field", context={"auth_level": "blood"}),
    "unknown context": page(422, "unknown_field", context={"weather": "fair"}),
    "deadline nought": page(422, "invalid_field", options={"deadline_ms": 0}),
    "deadline for ever": page(422, "invalid_field", options={"deadline_ms": 1e9}),
    "option as text": page(422, "invalid_field", options={"dry_run": "yes"}),
    "events not a list": page(422, "invalid_field", events={"event_id": "e"}),
    "too many events inside": page(422, "too_many", events=[{}] * 51),
    "an event inside not an object": page(422, "invalid_field", events=["clicked"]),
    # events and outcomes
    "no events field": Bad("POST", "/v1/events", {}, 422, "missing_field"),
    "events empty": Bad("POST", "/v1/events", {"events": []}, 422, "invalid_field"),
    "events too many": Bad("POST", "/v1/events", {"events": [0] * 501}, 422, "too_many"),
    "events with more": Bad("POST", "/v1/events", {"events": [{}], "x": 1}, 422, "unknown_field"),
    "outcome empty": Bad("POST", "/v1/outcomes", {}, 422, "missing_field"),
    "outcome a list": Bad("POST", "/v1/outcomes", [], 422, "invalid_field"),
    "outcome with more": Bad("POST", "/v1/outcomes", {"outcome_id": "o", "mood": 1}, 422, "unknown_field"),
    "outcomes too many": Bad("POST", "/v1/outcomes", {"outcomes": [{}] * 501}, 422, "too_many"),
    # items and creatives
    "item without kind": item(422, "bad_item", kind=...),
    "item of no kind": item(422, "bad_item", kind="spaceship"),
    "item without title": item(422, "bad_item", title={}),
    "item with unknown field": item(422, "bad_item", colour="red"),
    "item of another id": item(422, "id_mismatch", id="p2"),
    "item with id a number": item(422, "id_mismatch", id=1),
    "risk class nine": item(422, "bad_item", risk_class=9),
    "rate infinite": Bad("PUT", "/v1/items/p1", b'{"rate":1e999}', 400, "bad_json"),
    "rate beyond a float": item(422, "bad_item", rate=1e300),
    "amount beyond a float": item(422, "bad_item", min_amount=-1e39),
    "stock beyond a whole number": item(422, "bad_item", stock=2**31),
    "dates before dates": item(422, "bad_item", starts="0000-01-01T00:00:00Z"),
    "item id of JSON's largest": item(422, "id_mismatch", id=2**64 - 1),
    "an attribute of nothing": item(422, "bad_item", attributes={"": "x"}),
    "needs too many": item(422, "bad_item", needs=["a", "b", "c", "d", "e"]),
    "window backwards": item(422, "bad_item", starts="2026-02-01T00:00:00Z", ends="2026-01-01T00:00:00Z"),
    "a date without a zone": item(422, "bad_item", starts="2026-02-01T00:00:00"),
    "item needs itself": item(422, "bad_item", needs=["p1"]),
    "risk class as text": item(422, "bad_item", risk_class="3"),
    "risk class broken": item(422, "bad_item", risk_class=2.5),
    "sold out as text": item(422, "bad_item", sold_out="yes"),
    "price true": item(422, "bad_item", price=True),
    "a date as a number": item(422, "bad_item", starts=1_700_000_000),
    "stock as text": item(422, "bad_item", stock="5"),
    "item a list": Bad("PUT", "/v1/items/p1", [], 422, "invalid_field"),
    "item id too long": Bad("PUT", f"/v1/items/{LONG}", {}, 422, "bad_id"),
    "batch without items": Bad("PUT", "/v1/items:batch", {"items": []}, 422, "invalid_field"),
    "batch with a bad one": Bad("PUT", "/v1/items:batch", {"items": [{"id": "a"}]}, 422, "bad_item"),
    "batch with one twice": Bad(
        "PUT",
        "/v1/items:batch",
        {"items": [{"id": "a", "kind": "benefit", "title": {"en": "x"}}] * 2},
        422,
        "bad_item",
    ),
    "creative of nothing": Bad("PUT", "/v1/creatives/c1", {"title": "x"}, 422, "missing_field"),
    "creative of an unknown item": Bad(
        "PUT", "/v1/creatives/c1", {"item_id": "nobody", "title": "x"}, 404, "unknown_item"
    ),
    "creative from a number": Bad(
        "PUT", "/v1/creatives/c1", {"item_id": "i1", "title": "x", "from": 1}, 422, "bad_creative"
    ),
    "creative in no state": Bad(
        "PUT", "/v1/creatives/c1", {"item_id": "i1", "title": "x", "state": "maybe"}, 422, "bad_creative"
    ),
    # customers
    "user without profile": Bad("PUT", "/v1/users/u1", {}, 422, "missing_field"),
    "user view unknown": Bad(
        "PUT", "/v1/users/u1", {"profile": {"age": 3}, "moods": {}}, 422, "unknown_field"
    ),
    "user nothing changed": user(422, "invalid_field"),
    "user field unknown": user(422, "unknown_field", shoe_size=43),
    "user field computed": user(422, "invalid_field", clicks_30d=3),
    "risk level nine": user(422, "invalid_field", risk_level=9),
    "risk level text": user(422, "invalid_field", risk_level="high"),
    "age broken": user(422, "invalid_field", age=40.5),
    "no such zone": user(422, "invalid_field", tz="Mars/Olympus"),
    "zone outside the folder": user(422, "invalid_field", tz="../../etc/passwd"),
    "no such consent": user(422, "invalid_field", consents=["everything"]),
    "consents nested": user(422, "invalid_field", consents=[["marketing"]]),
    "no such offer withheld": user(422, "invalid_field", blocked=["service"]),
    "offers withheld again and again": user(422, "invalid_field", blocked=["benefit"] * 4),
    "offers withheld nested": user(422, "invalid_field", blocked=[["benefit"]]),
    "too many holdings": user(422, "invalid_field", holdings=[f"p{n}" for n in range(17)]),
    "tag bit beyond": user(422, "invalid_field", tags=[128]),
    "assets negative": user(422, "invalid_field", assets=-1),
    "profiling as number": user(422, "invalid_field", profiling=1),
    # paths, methods, queries
    "no such path": Bad("GET", "/v2/recommend", None, 404, "not_found"),
    "a later issue's path": Bad("POST", "/v1/plan:check", {}, 404, "not_found"),
    "users may not be deleted yet": Bad("DELETE", "/v1/users/u1", None, 405, "method_not_allowed"),
    "get a page": Bad("GET", PAGE, None, 405, "method_not_allowed"),
    "path is not UTF-8": Bad("GET", "/v1/items/%ff/similar", None, 400, "bad_path"),
    "id in the path with control characters": Bad("GET", "/v1/items/%00/similar", None, 422, "bad_id"),
    "similar to nothing": Bad("GET", "/v1/items/nobody/similar", None, 404, "unknown_item"),
    "similar how many": Bad("GET", "/v1/items/i1/similar?k=many", None, 400, "bad_query"),
    "similar too many": Bad("GET", "/v1/items/i1/similar?k=51", None, 400, "bad_query"),
    "similar with more": Bad("GET", "/v1/items/i1/similar?z=1", None, 400, "bad_query"),
    "query is not UTF-8": Bad("GET", "/v1/items/i1/similar?k=%ff", None, 400, "bad_query"),
}


class Stand:
    """One service for the whole table: nothing in it changes what the next request meets."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._context = running()
        self.shell: Shell = self.loop.run_until_complete(self._context.__aenter__())

    def ask(self, bad: Bad) -> Any:
        if bad.method == "GET":
            return self.loop.run_until_complete(self.shell.get(bad.path, **bad.headers))
        return self.loop.run_until_complete(self.shell.send(bad.method, bad.path, bad.body, **bad.headers))

    def close(self) -> None:
        self.loop.run_until_complete(self._context.__aexit__(None, None, None))
        self.loop.close()


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    stand = Stand()
    yield stand
    stand.close()


def test_the_table_is_long_enough() -> None:
    assert len(REQUESTS) >= 45


@pytest.mark.parametrize("name", REQUESTS)
def test_bad_request(stand: Stand, name: str) -> None:
    bad = REQUESTS[name]
    answer = stand.ask(bad)
    assert (answer.status_code, answer.json().get("code")) == (bad.status, bad.code), answer.text
    is_problem(answer)


def is_problem(answer: Any) -> None:
    """Valid problem+json of a known code, with a customer-safe title in two languages and no internals."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    body = answer.json()
    known = CODES[body["code"]]
    assert body["status"] == answer.status_code == known.status
    assert body["title"] == f"{known.zh} / {known.en}" and set(body["titles"]) == {"zh-CN", "en"}
    assert body["type"] == f"urn:fenliu:problem:{body['code']}" and body["detail"]
    assert set(body) <= {"type", "title", "titles", "status", "code", "detail", "errors"}
    for error in body.get("errors", ()):
        assert set(error) == {"field", "code", "detail"} and error["field"]
    for trace in ("Traceback", 'File "', "pydantic", "numpy", "object at 0x"):
        assert trace not in answer.text
    assert len(answer.content) < 8_000


@pytest.mark.parametrize("levels", [250, 1000, 1020])
@pytest.mark.parametrize("field", ["type", "event_id", "occurred_at", "action", "value", "user_id", "seen"])
def test_an_event_nested_without_end_is_rejected_alone(stand: Stand, field: str, levels: int) -> None:
    """Python's own `repr` of such a value fails; the events beside it count all the same."""
    now = stand.shell.clock.rfc3339()
    good = {"event_id": f"{field}{levels}", "type": "acted", "occurred_at": now, "user_id": "u"}
    good["action"] = "viewed"
    deep = b"[" * levels + b"]" * levels
    bad = orjson.dumps({**good, "event_id": "e", field: "DEEP"}).replace(b'"DEEP"', deep)
    body = b'{"events":[%b,%b]}' % (bad, orjson.dumps(good))
    answer = stand.ask(Bad("POST", "/v1/events", body, 202, ""))
    assert answer.status_code == 202 and answer.json()["accepted"] == 1, answer.text
    assert [one["index"] for one in answer.json()["rejected"]] == [0] and len(answer.content) < 1000


def test_every_bad_field_is_named(stand: Stand) -> None:
    body = {"user_id": "", "surface": 3, "context": {"channel": "fax", "city": ""}, "x": 1}
    answer = stand.ask(Bad("POST", PAGE, body, 422, "bad_id"))
    named = {error["field"]: error["code"] for error in answer.json()["errors"]}
    assert named == {
        "user_id": "bad_id",
        "surface": "invalid_field",
        "context.channel": "invalid_field",
        "context.city": "bad_id",
        "x": "unknown_field",
    }


BAD_EVENTS: dict[str, tuple[Any, str]] = {
    "not an object": ("clicked", "malformed"),
    "of no type": (
        {"event_id": "e", "type": "hovered", "occurred_at": "2026-09-21T00:00:00Z"},
        "unknown_type",
    ),
    "ours": ({"event_id": "e", "type": "served", "occurred_at": "2026-09-21T00:00:00Z"}, "served_is_ours"),
    "without a time": (
        {"event_id": "e", "type": "acted", "action": "viewed", "user_id": "u"},
        "missing_field",
    ),
    "without an id": (
        {"type": "acted", "action": "viewed", "user_id": "u", "occurred_at": "now"},
        "missing_field",
    ),
    "without a page": (
        {"event_id": "e", "type": "clicked", "index": 0, "occurred_at": "{now}"},
        "missing_field",
    ),
    "with a made-up page": (
        {"event_id": "e", "type": "clicked", "page_token": "AAAA", "index": 0, "occurred_at": "{now}"},
        "token_malformed",
    ),
    "of an action nobody knows": (
        {"event_id": "e", "type": "acted", "user_id": "u", "action": "danced", "occurred_at": "{now}"},
        "unknown_action",
    ),
    "from the past": (
        {
            "event_id": "e",
            "type": "acted",
            "user_id": "u",
            "action": "viewed",
            "occurred_at": "2020-01-01T00:00:00Z",
        },
        "too_late",
    ),
    "from the future": (
        {
            "event_id": "e",
            "type": "acted",
            "user_id": "u",
            "action": "viewed",
            "occurred_at": "2036-01-01T00:00:00Z",
        },
        "in_future",
    ),
}


@pytest.mark.parametrize("inline", [False, True], ids=["batch", "inside a page"])
@pytest.mark.parametrize("name", BAD_EVENTS)
def test_bad_event_is_rejected_alone(stand: Stand, name: str, inline: bool) -> None:
    raw, code = BAD_EVENTS[name]
    if isinstance(raw, dict):
        raw = {key: stand.shell.clock.rfc3339() if value == "{now}" else value for key, value in raw.items()}
    elif inline:
        return  # refused as a field of the page: in the table above
    good = stand.shell.event("acted", f"good-{name}-{inline}", user_id="u7", action="viewed", item_id="i1")
    if inline:
        answer = stand.ask(Bad("POST", PAGE, {"user_id": "u7", "events": [raw, good]}, 200, ""))
        assert answer.status_code == 200, answer.text
        told = answer.json()["events"]
    else:
        answer = stand.ask(Bad("POST", "/v1/events", {"events": [raw, good]}, 202, ""))
        assert answer.status_code == 202, answer.text
        told = answer.json()
    assert told["accepted"] == 1 and told["duplicates"] == 0
    ((index, reason, detail),) = [(r["index"], r["code"], r["detail"]) for r in told["rejected"]]
    assert (index, reason) == (0, code) and detail


def test_bad_outcomes_are_rejected_alone(stand: Stand) -> None:
    now = stand.shell.clock.rfc3339()
    good = {
        "outcome_id": "o1",
        "user_id": "u1",
        "kind": "purchase",
        "item_id": "i1",
        "occurred_at": now,
        "recorded_at": now,
    }
    answer = stand.ask(
        Bad("POST", "/v1/outcomes", {"outcomes": [{**good, "value": {"amount": "much"}}, good]}, 202, "")
    )
    assert answer.status_code == 202
    told = answer.json()
    assert told["accepted"] == 1 and [r["code"] for r in told["rejected"]] == ["bad_value"]
    again = stand.ask(Bad("POST", "/v1/outcomes", good, 202, "")).json()
    assert again == {"accepted": 0, "duplicates": 1, "rejected": []}


def test_the_wrong_key_is_told_nothing() -> None:
    async def story() -> None:
        async with running(settings={"app_key": KEY}) as shell:
            refused = await shell.post(PAGE, b"not even json")
            assert refused.status_code == 401 and "www-authenticate" in refused.headers
            is_problem(refused)
            assert KEY not in refused.text
            assert (await shell.get("/livez")).status_code == 200
            opened = await shell.post(PAGE, {"user_id": "u1"}, authorization=f"Bearer {KEY}")
            assert opened.status_code == 200

    asyncio.run(story())


def test_before_there_is_a_bundle_nothing_is_ready() -> None:
    async def story() -> None:
        async with running(start=False) as shell:
            for answer in (await shell.get("/readyz"), await shell.post(PAGE, {"user_id": "u1"})):
                assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
                is_problem(answer)
            assert (await shell.get("/livez")).json() == {"status": "alive"}

    asyncio.run(story())


def test_an_unforeseen_error_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with running() as shell:

            async def broken(*_: Any) -> bytes:
                raise ZeroDivisionError("secret detail")

            shell.service.recommender.page = broken  # type: ignore[method-assign]
            answer = await shell.post(PAGE, {"user_id": "u1"})
            assert answer.status_code == 500 and "secret" not in answer.text
            is_problem(answer)

    asyncio.run(story())
    assert "ZeroDivisionError" in caplog.text


def test_problem_bodies_are_valid_json_whatever_was_sent(stand: Stand) -> None:
    for text in ("\u2028", '"', "\\", "😀" * 10, "<script>"):
        answer = stand.ask(Bad("POST", PAGE, {"user_id": "u1", "surface": text, text: 1}, 422, ""))
        assert orjson.loads(answer.content)["status"] == 422
