"""Outcomes: their wire form, corrections, and what they do to the live views."""

from __future__ import annotations

import numpy as np
import pytest

from features.events import WHAT, Rejected
from features.ids import key32, key64
from features.outcomes import (
    live_entries,
    outcome_from_log,
    outcome_to_log,
    parse_outcome,
    parse_outcomes,
)
from features.views import CONTACT

NOW = 1_760_000_000.0


def raw(**changes) -> dict:
    return {
        "outcome_id": "o1",
        "user_id": "ann",
        "kind": "purchase",
        "item_id": "p1",
        "value": {"amount": 500.0, "currency": "CNY"},
        "occurred_at": "2025-06-01T10:00:00+08:00",
        "recorded_at": "2025-10-09T08:00:00Z",
        "channel": "branch",
    } | changes


def without(name: str, **changes) -> dict:
    return {key: value for key, value in raw(**changes).items() if key != name}


def parse(one):
    return parse_outcome(one, received_at=NOW)


def test_an_outcome_months_late_is_taken():
    outcome = parse(raw())
    assert (outcome.subject, outcome.kind, outcome.amount, outcome.currency) == (
        "u:ann",
        "purchase",
        500.0,
        "CNY",
    )
    assert outcome.occurred_at == 1_748_743_200.0 and outcome.received_at == NOW and not outcome.taken_back
    family = parse(without("item_id", family="wealth/fund", value=None, channel=None))
    assert (family.family, family.item_id, family.amount, family.channel) == ("wealth/fund", None, None, None)


BAD = [
    ("malformed", []),
    ("malformed", "x"),
    ("missing_field", without("outcome_id")),
    ("missing_field", without("user_id")),
    ("missing_field", without("kind")),
    ("missing_field", without("item_id")),
    ("missing_field", without("occurred_at")),
    ("missing_field", without("recorded_at")),
    ("bad_value", raw(family="wealth")),
    ("bad_value", raw(value={"amount": "many"})),
    ("bad_value", raw(value=500)),
    ("bad_id", raw(user_id="x" * 65)),
    ("bad_id", raw(kind="")),
    ("bad_id", raw(channel=3)),
    ("bad_time", raw(occurred_at="2025-06-01")),
    ("bad_time", raw(recorded_at="2025-05-01T10:00:00Z")),
    ("in_future", raw(recorded_at="2025-10-10T10:00:00Z")),
    ("unknown_field", raw(page_token="t")),
]


@pytest.mark.parametrize(("code", "one"), BAD)
def test_what_is_bad_is_refused_by_name(code, one):
    with pytest.raises(Rejected) as caught:
        parse(one)
    assert caught.value.code == code


def test_a_batch():
    outcomes, rejections = parse_outcomes([raw(), raw(kind=None), raw(outcome_id="o2")], received_at=NOW)
    assert [one.outcome_id for one in outcomes] == ["o1", "o2"]
    assert [(one["index"], one["code"]) for one in rejections] == [(1, "missing_field")]
    with pytest.raises(Rejected):
        parse_outcomes({"outcomes": []}, received_at=NOW)


def test_a_repeat_is_one_entry_and_a_correction_another():
    first, again = parse(raw()), parse_outcome(raw(), received_at=NOW + 60)
    corrected = parse(raw(value={"amount": 300.0, "currency": "CNY"}))
    assert first.entry_id == again.entry_id != corrected.entry_id
    assert parse(raw(value={"amount": 0})).taken_back


@pytest.mark.parametrize("one", [raw(), without("item_id", family="f", value=None, channel=None)])
def test_the_log_gives_the_outcome_back(one):
    assert outcome_from_log(outcome_to_log(parse(one))) == parse(one)


@pytest.mark.parametrize(
    "payload", [b"", b"\x81\xa1t\xa7clicked", b"\x81\xa1t\xa7outcome", b"\x82\xa1t\xa7outcome\xa1z\x01"]
)
def test_other_bytes_are_no_outcome(payload):
    with pytest.raises(ValueError):
        outcome_from_log(payload)


def test_a_complaint_cools_its_item():
    recent, contact = live_entries(
        parse(raw(kind="complaint", channel="app")), lambda keys: np.full(len(keys), 8, "u4")
    )
    (row,) = np.frombuffer(contact, CONTACT)
    assert recent == b"" and (row["item"], row["what"], row["category"]) == (key64("p1"), WHAT["acted"], 8)
    assert (row["event"], row["at"], row["channel"]) == (key32("o1"), 1_748_743_200, 1)


@pytest.mark.parametrize(
    "one",
    [raw(), raw(kind="complaint", value={"amount": 0}), without("item_id", family="f", kind="complaint")],
)
def test_other_outcomes_leave_the_live_views_alone(one):
    assert live_entries(parse(one)) == (b"", b"")
