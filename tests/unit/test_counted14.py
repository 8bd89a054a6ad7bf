"""The pacing bench's count of quotas and caps, and the product's ledger, over a few thousand page views.

Each is held to the other: pages come without what the bench counts as used up, or with everything so that
only the ledger holds the limits, or with a ledger that holds nothing, which the count must notice.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from training.bench import flight14, offline14
from training.bench.campaigns14 import DAY, Size
from training.bench.counted14 import at_once
from training.bench.flight14 import Flight
from training.bench.traffic14 import market

SIZE = Size(
    views=3_000, days=3, customers=60, guaranteed=8, clicked=1, shares=2, quotas=6, standard=8,
    least_goal=100.0, least_clicks=20.0,
)  # fmt: skip


class Fixed:
    """One price for everything that has a goal: pages are full of campaigns."""

    passing = None

    def prices(self, _minute, seen, spent):
        return np.full(len(seen.wanted), 0.2), np.zeros(len(spent.at_most))


class Blind(Flight):
    """Pages are made as if nothing were ever used up."""

    def _closed(self, minute):
        _, used, cap = super()._closed(minute)
        return self.closed_by_day[minute // DAY], used, np.zeros_like(cap)


@pytest.fixture(scope="module")
def made():
    return offline14.with_quotas(market(SIZE, 5), 5)


@pytest.fixture(autouse=True)
def _many_are_late(monkeypatch):
    monkeypatch.setattr(flight14, "STALE", 0.01)


def flight_of(made, kind=Flight):
    return kind(made, offline14.programme_of(made, made.views, 1.0), 5)


def test_the_ledger_and_the_count_agree_view_by_view(made):
    flight = flight_of(made)
    flown = flight.fly(Fixed())
    counted = flight.counted
    assert flown.differences == 0
    assert flown.over_quota == 0
    assert flown.over_cap == 0
    assert counted.late > 0
    quota = flight.programme.quota_campaign
    spent = counted.tally.confirmed[quota] + counted.tally.late[quota]
    assert (spent >= made.campaigns.at_most[quota] - 20).any()  # some quota really ran out


def test_the_ledger_alone_holds_every_limit(made):
    flight = flight_of(made, Blind)
    flown = flight.fly(Fixed())
    assert flight.counted.booked.by_cap > 20
    assert flight.counted.refused > flight.counted.booked.by_cap  # quotas as well
    assert flown.over_quota == 0
    assert flown.over_cap == 0


def test_a_ledger_that_holds_nothing_is_noticed(made):
    flight = flight_of(made, Blind)
    flight.counted.booked.reserve = lambda placed: np.zeros(len(placed.campaign), np.bool_)
    flown = flight.fly(Fixed())
    assert flown.over_quota > 0
    assert flown.over_cap > 0
    assert flown.differences > 0


def test_what_waits_is_refused_and_not_hung_up_on():
    with pytest.raises(RuntimeError, match="waited"):
        at_once(asyncio.sleep(0))
