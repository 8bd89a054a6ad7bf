"""Events: their wire form, every way one can be bad, and the bytes they become."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from features.events import (
    ACTIONS,
    LATE,
    SERVED_FIELDS,
    WHAT,
    Rejected,
    action_code,
    contact_mark,
    from_log,
    live_entries,
    parse_batch,
    parse_event,
    served_to_log,
    to_log,
    unpack,
)
from features.ids import key32, key64
from features.token import EXPLORING, TokenSigner
from features.views import CONTACT, RECENT

NOW = 1_760_000_000.0
SIGNER = TokenSigner([("k1", b"s" * 32)])
ITEMS = [key64(f"item{i}") for i in range(5)]
SLOTS = [key32("home.banner"), key32("home.feed")]


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def token(subject: str = "u:ann", decided_at: float = NOW - 100) -> str:
    five = [0, 0, 0, 0, 0]
    return SIGNER.sign(
        "d1", subject, decided_at, decided_at + 60, 1, SLOTS, [0, 0, 1, 1, 1], ITEMS, [9, 0, 0, 0, 0],
        [1, 2, 3, 4, 5], [EXPLORING, *five[1:]],
    )  # fmt: skip


def foreign(key_id: str) -> str:
    """A token signed with a secret that is not ours."""
    return TokenSigner([(key_id, b"f" * 32)]).sign("d", "u:a", 0, 9, 1, [1], [0], [1], [0], [0], [0])


def displayed(**changes) -> dict:
    return {
        "event_id": "e1",
        "type": "displayed",
        "occurred_at": at(NOW - 60),
        "page_token": token(),
        "seen": [0, 3],
    } | changes


def clicked(**changes) -> dict:
    return {
        "event_id": "e2",
        "type": "clicked",
        "occurred_at": at(NOW - 50),
        "page_token": token(),
        "index": 2,
    } | changes


def acted(**changes) -> dict:
    return {
        "event_id": "e3",
        "type": "acted",
        "occurred_at": at(NOW - 9),
        "user_id": "ann",
        "action": "viewed",
    } | changes


def linked(**changes) -> dict:
    return {
        "event_id": "e4",
        "type": "linked",
        "occurred_at": at(NOW),
        "user_id": "ann",
        "visitor_id": "d77",
    } | changes


def parse(raw, **changes):
    return parse_event(raw, received_at=NOW, verify=SIGNER.verify, **changes)


def without(raw: dict, name: str) -> dict:
    return {key: value for key, value in raw.items() if key != name}


def test_displayed_is_one_event_with_the_places_seen():
    event = parse(displayed(seen=[3, 0, 3], session_id="s"))
    assert event.places["index"].tolist() == [0, 3]
    assert event.places["item"].tolist() == [ITEMS[0], ITEMS[3]]
    assert event.places["slot"].tolist() == SLOTS and event.places["position"].tolist() == [0, 1]
    assert (event.subject, event.user_id, event.visitor_id, event.decision_id) == ("u:ann", "ann", None, "d1")
    assert (event.item_key, event.late, event.channel, event.session_id) == (0, False, 1, "s")
    assert event.what == WHAT["displayed"]


@pytest.mark.parametrize("kind", ["clicked", "converted", "dismissed"])
def test_an_event_of_one_place(kind):
    event = parse(clicked(type=kind, value={"amount": 12.5, "currency": "CNY"}, page_token=token("v:d77")))
    assert event.item_key == ITEMS[2] and event.places["index"].tolist() == [2]
    assert (event.amount, event.currency) == (12.5, "CNY")
    assert (event.subject, event.user_id, event.visitor_id) == ("v:d77", None, "d77")


def test_acted_and_linked_need_no_token():
    event = parse(acted(item_id="p9", value={"amount": 3}, channel="mini_program", visitor_id="d77"))
    assert (event.subject, event.user_id, event.visitor_id) == ("u:ann", "ann", "d77")
    assert (event.item_id, event.item_key, event.amount, event.currency) == ("p9", key64("p9"), 3.0, None)
    assert event.channel == 3 and event.decided_at is None and not len(event.places)
    assert parse(without(acted(visitor_id="d77"), "user_id")).subject == "v:d77"
    assert parse(acted(action="signed_up"), actions={"signed_up"}).action == "signed_up"
    event = parse(linked())
    assert (event.subject, event.visitor_id) == ("u:ann", "d77")


def test_three_times():
    """Features use occurred_at clamped to [decided_at, received_at]."""
    assert parse(displayed(occurred_at=at(NOW - 60))).at == NOW - 60
    assert parse(displayed(occurred_at=at(NOW - 500))).at == NOW - 100
    ahead = parse(acted(occurred_at=at(NOW + 200)))
    assert (ahead.occurred_at, ahead.at, ahead.received_at) == (NOW + 200, NOW, NOW)


def test_a_display_after_valid_until_is_late():
    assert parse(displayed(occurred_at=at(NOW - 39))).late
    assert not parse(displayed(occurred_at=at(NOW - 40))).late
    assert not parse(clicked(occurred_at=at(NOW - 5))).late


@pytest.mark.parametrize(
    "text",
    [
        "2025-10-09T08:53:20Z",
        "2025-10-09t08:53:20z",
        "2025-10-09T16:53:20+08:00",
        "2025-10-09T08:53:20.000001Z",
    ],
)
def test_times_that_are_read(text):
    assert abs(parse(acted(occurred_at=text)).occurred_at - NOW) < 0.001


BAD = [
    ("malformed", "text"),
    ("malformed", ["event"]),
    ("malformed", None),
    ("missing_field", {}),
    ("missing_field", without(displayed(), "event_id")),
    ("missing_field", without(displayed(), "occurred_at")),
    ("missing_field", without(displayed(), "page_token")),
    ("missing_field", without(displayed(), "seen")),
    ("missing_field", without(clicked(), "index")),
    ("missing_field", without(acted(), "action")),
    ("missing_field", without(acted(), "user_id")),
    ("missing_field", without(linked(), "visitor_id")),
    ("unknown_field", linked(action="viewed")),
    ("unknown_type", displayed(type="seen")),
    ("unknown_type", displayed(type="outcome")),
    ("unknown_type", displayed(type=["displayed"])),
    ("served_is_ours", displayed(type="served")),
    ("unknown_field", displayed(index=1)),
    ("unknown_field", clicked(user_id="ann")),
    ("unknown_field", acted(page_token=token())),
    ("bad_id", displayed(event_id="")),
    ("bad_id", displayed(event_id="x" * 65)),
    ("bad_id", displayed(event_id="字" * 22)),
    ("bad_id", displayed(event_id=7)),
    ("bad_id", displayed(event_id="a\nb")),
    ("bad_id", displayed(event_id="\ud800")),
    ("bad_id", acted(user_id="")),
    ("bad_id", acted(item_id={})),
    ("bad_id", clicked(session_id="x" * 65)),
    ("bad_time", displayed(occurred_at="yesterday")),
    ("bad_time", displayed(occurred_at=NOW)),
    ("bad_time", displayed(occurred_at="2025-10-09T08:53:20")),
    ("bad_time", displayed(occurred_at="2025-10-09")),
    ("bad_time", displayed(occurred_at="20251009T085320+00:00")),
    ("bad_time", displayed(occurred_at="2025-13-09T08:53:20Z")),
    ("bad_time", displayed(occurred_at="2025-10-09T08:53:20+99:00")),
    ("too_late", displayed(occurred_at=at(NOW - 7 * 86_400 - 1))),
    ("in_future", displayed(occurred_at=at(NOW + 301))),
    ("token_malformed", displayed(page_token="nonsense")),
    ("token_malformed", displayed(page_token=["t"])),
    ("token_forged", displayed(page_token=foreign("k1"))),
    ("token_unknown_key", displayed(page_token=foreign("k9"))),
    ("bad_index", displayed(seen=[])),
    ("bad_index", displayed(seen=[5])),
    ("bad_index", displayed(seen=[-1])),
    ("bad_index", displayed(seen=[True])),
    ("bad_index", displayed(seen=[10**30])),
    ("bad_index", displayed(seen="0")),
    ("bad_index", clicked(index=5)),
    ("bad_index", clicked(index="2")),
    ("bad_index", clicked(index=2.0)),
    ("bad_index", clicked(index=[2])),
    ("unknown_action", acted(action="danced")),
    ("unknown_action", acted(action=["viewed"])),
    ("bad_value", clicked(value=5)),
    ("bad_value", clicked(value={})),
    ("bad_value", clicked(value={"amount": "5"})),
    ("bad_value", clicked(value={"amount": True})),
    ("bad_value", clicked(value={"amount": float("nan")})),
    ("bad_value", clicked(value={"amount": 10**400})),
    ("bad_value", clicked(value={"amount": 1, "currency": "yuan"})),
    ("bad_value", clicked(value={"amount": 1, "unit": "CNY"})),
    ("bad_value", acted(channel="fax")),
    ("bad_value", acted(channel=1)),
]  # fmt: skip


@pytest.mark.parametrize(("code", "raw"), BAD)
def test_what_is_bad_is_refused_by_name(code, raw):
    with pytest.raises(Rejected) as caught:
        parse(raw)
    assert caught.value.code == code and caught.value.detail and len(caught.value.detail) < 1_000


def test_a_batch_takes_the_good_and_names_the_bad():
    raws = [displayed(), {"type": "served"}, clicked(), clicked(index=77)]
    events, rejections = parse_batch(raws, received_at=NOW, verify=SIGNER.verify)
    assert [event.event_id for event in events] == ["e1", "e2"]
    assert [(one["index"], one["code"]) for one in rejections] == [(1, "served_is_ours"), (3, "bad_index")]
    assert all(set(one) == {"index", "code", "detail"} for one in rejections)


@pytest.mark.parametrize("raws", [{}, "x", None, [{}] * 501])
def test_what_is_no_batch_is_refused_whole(raws):
    with pytest.raises(Rejected) as caught:
        parse_batch(raws, received_at=NOW, verify=SIGNER.verify)
    assert caught.value.code == "malformed"


@pytest.mark.parametrize(
    "raw",
    [displayed(), clicked(value={"amount": 1.5, "currency": "CNY"}), acted(item_id="字", session_id="s"),
     displayed(occurred_at=at(NOW - 1)), linked()],
)  # fmt: skip
def test_the_log_gives_the_event_back(raw):
    event = parse(raw)
    again = from_log(to_log(event))
    for name in event.__slots__:
        if name != "places":
            assert getattr(again, name) == getattr(event, name), name
    assert (again.places == event.places).all() and len(again.places) == len(event.places)


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x80", b"\x81\xa1t\xa6served", b"\x81\xa1t\xa7clicked"]
)
def test_other_bytes_are_no_event(payload):
    with pytest.raises(ValueError):
        from_log(payload)


def test_recent_takes_what_was_done_and_contact_what_was_shown():
    recent, contact = live_entries(
        parse(displayed(occurred_at=at(NOW - 1))), lambda keys: (keys % 1000).astype(np.uint32)
    )
    rows = np.frombuffer(contact, CONTACT)
    assert recent == b"" and rows["item"].tolist() == [ITEMS[0], ITEMS[3]]
    assert rows["campaign"].tolist() == [9, 0] and rows["slot"].tolist() == SLOTS
    assert rows["category"].tolist() == [ITEMS[0] % 1000, ITEMS[3] % 1000]
    assert rows["flags"].tolist() == [EXPLORING | LATE, LATE] and set(rows["what"]) == {WHAT["displayed"]}
    assert (
        set(rows["at"]) == {int(NOW - 1)}
        and set(rows["event"]) == {contact_mark(parse(displayed(event_id="another")))}
        and set(rows["channel"]) == {1}
    )

    recent, contact = live_entries(parse(clicked(value={"amount": 2.5, "currency": "CNY"})))
    done, shown = np.frombuffer(recent, RECENT), np.frombuffer(contact, CONTACT)
    assert (len(done), len(shown)) == (1, 1)
    assert (done["item"][0], done["event"][0], done["at"][0]) == (ITEMS[2], key64("e2"), NOW - 50)
    assert (done["what"][0], done["action"][0], done["value"][0]) == (WHAT["clicked"], 0, 2.5)
    assert (shown["item"][0], shown["position"][0], shown["what"][0]) == (ITEMS[2], 0, WHAT["clicked"])


def test_acted_reaches_recent_and_only_a_complaint_reaches_contact():
    recent, contact = live_entries(parse(acted(item_id="p9")))
    done = np.frombuffer(recent, RECENT)
    assert done["action"][0] == action_code("viewed") == ACTIONS.index("viewed") + 1
    assert done["item"][0] == key64("p9") and contact == b""
    recent, contact = live_entries(parse(acted(item_id="p9", action="complained")))
    shown = np.frombuffer(contact, CONTACT)
    assert len(recent) == 32 and (shown["item"][0], shown["what"][0]) == (key64("p9"), WHAT["acted"])
    assert live_entries(parse(linked())) == (b"", b"")


def test_action_codes_are_stable_and_do_not_meet():
    assert [action_code(action) for action in ACTIONS] == list(range(1, len(ACTIONS) + 1))
    assert 1000 <= action_code("signed_up") <= 60_999


def test_served_needs_every_input():
    whole = dict.fromkeys(SERVED_FIELDS, 0)
    assert unpack(served_to_log(whole)) == {"t": "served", **whole}
    with pytest.raises(ValueError, match="propensity"):
        served_to_log(without(whole, "propensity"))
