"""How much each cap still allows a customer, from contacts and from what other pages hold."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from features.ids import key32
from features.ledger import CapSpec, scope_of
from features.reservations import HELD, REFUSED
from features.views import CONTACT, RESERVATION
from serving.headroom import PLENTY, Headroom, held_elsewhere, session_start, zone_of
from tests.worlds import NOW, contacts, customer, query, shown, tiny_live

LIVE = tiny_live()
C1 = key32("c1")


def cap(most=3, **fields):
    return CapSpec("c", **{"event": "displayed", "most": most, "window_s": 86_400, **fields})


def room(*entries, reserved=b"", now=NOW, device=None, **fields):
    who = customer(contact=contacts(*entries), **fields)
    return Headroom(query(LIVE, who, now=now, reserved=reserved, device=device))


def seen(*ago, campaign="c1", **fields):
    return [shown("i2", one, campaign=campaign, **fields) for one in ago]


def test_what_was_displayed_in_the_window_is_taken_off():
    head = room(*seen(10, 20, 90_000))
    assert head.left(cap(), C1) == 1 and head.left(cap(most=2), C1) == 0 and head.left(cap(most=1), C1) == 0
    assert head.left(cap(), key32("other")) == 3
    assert head.left(cap(window_s=0, calendar="ever"), C1) == 0
    assert head.campaigns == {C1} and bool(head) and not room()


def test_keys_of_a_cap_are_counted_together():
    head = room(*seen(10), *seen(20, campaign="c2"))
    assert head.left(cap(keys=frozenset({C1, key32("c2")})), C1) == 1


def test_other_scopes_count_by_their_own_field():
    head = room(shown("i2", 5, slot="home.popup", category="activity/c2"))
    assert head.left(cap(scope="slot"), key32("home.popup")) == 2
    assert head.left(cap(scope="category"), key32("activity/c2")) == 2
    assert head.left(cap(scope="channel"), 1) == 2 and head.left(cap(scope="channel"), 2) == 3


def test_what_was_answered_often_enough_is_not_shown_any_more():
    dismissed = shown("i2", 9, campaign="c1", what="dismissed")
    assert room(dismissed).left(cap(1, event="dismissed"), C1) == 0
    assert room(dismissed).left(cap(2, event="dismissed"), C1) == PLENTY
    assert room(dismissed).left(cap(1), C1) == 1  # no display


@pytest.mark.parametrize(("ago", "left"), [(599, 0), (601, 2)])
def test_a_gap_must_have_passed(ago, left):
    assert room(*seen(ago)).left(cap(min_gap_s=600), C1) == left


def test_a_gap_reaches_back_beyond_the_window():
    midnight = datetime(2026, 9, 22, tzinfo=ZoneInfo("UTC")).timestamp()
    who = customer(contact=contacts(shown("i2", 60, campaign="c1", now=midnight)), now=midnight)
    head = Headroom(query(LIVE, who, now=midnight + 30))
    daily = cap(window_s=0, calendar="day", min_gap_s=600)
    assert head.left(daily, C1) == 0 and head.left(cap(window_s=0, calendar="day"), C1) == 3


@pytest.mark.parametrize(
    ("calendar", "start"),
    [
        ("day", datetime(2026, 9, 22)),
        ("week", datetime(2026, 9, 21)),  # a Monday
        ("month", datetime(2026, 9, 1)),
    ],
)
def test_calendar_windows_are_the_customers(calendar, start):
    zone = ZoneInfo("Asia/Shanghai")
    begins = start.replace(tzinfo=zone).timestamp()
    now = datetime(2026, 9, 22, 6, tzinfo=zone).timestamp()  # the day before in UTC
    limit = cap(window_s=0, calendar=calendar)
    for at, left in ((begins - 1, 3), (begins + 1, 2)):
        who = customer(contact=contacts(shown("i2", 0, campaign="c1", now=at)), tz=b"Asia/Shanghai")
        assert Headroom(query(LIVE, who, now=now)).left(limit, C1) == left


def test_a_zone_that_is_none_is_utc():
    assert zone_of("Nowhere/Land") == zone_of("") == zone_of("../x") == ZoneInfo("UTC")
    assert zone_of("Europe/Berlin").key == "Europe/Berlin"


def test_a_session_ends_with_half_an_hour_of_rest():
    log = contacts(*seen(4000, 2000, 1000, 10))
    assert session_start(log, NOW) == NOW - 2000
    assert session_start(log[:1], NOW) == NOW and session_start(log[:0], NOW) == NOW
    limit = cap(window_s=0, calendar="session")
    assert room(*seen(4000, 2000, 1000, 10)).left(limit, C1) == 0
    assert room(*seen(4000)).left(limit, C1) == 3


def reservation(state=HELD, expires=NOW + 60, surface="cards", campaign="c1", device=None):
    row = np.zeros(1, RESERVATION)
    entry = shown("i2", 1, campaign=campaign)
    for field in CONTACT.names:
        row[field] = entry[field]
    row["state"], row["expires"], row["scope"] = state, expires, scope_of(surface, device)
    return row.tobytes()


def test_what_other_pages_hold_counts_and_what_this_surface_held_does_not():
    assert room(reserved=reservation()).left(cap(), C1) == 2
    for free in (
        reservation(surface="home"),
        reservation(state=REFUSED),
        reservation(expires=NOW - 1),
    ):
        assert room(reserved=free).left(cap(), C1) == 3
    assert room(reserved=reservation(surface="home", device="v:2"), device="v:1").left(cap(), C1) == 2
    assert room(reserved=reservation() + b"torn").left(cap(), C1) == 2
    assert len(held_elsewhere(query(LIVE, reserved=b"torn"))) == 0


def test_a_customer_whose_contacts_are_not_known_is_left_to_the_ledger():
    from tests.worlds import stranger

    assert Headroom(query(LIVE, stranger())).left(cap(), C1) == 3
