"""Which campaigns run for a page, and which of their offers are looked at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from features.customer import Blobs, decode_customer
from features.ids import key32
from serving.control import Kill
from serving.decide import decide
from serving.domain import SlotRequest
from serving.prices import Prices
from serving.running import PER_SLOT, OfferTable
from tests.worlds import NOW, customer, market_live, placed, query, sold, stranger, tiny_live, tiny_plan

CAP = {"most": 3, "window": "1d"}
ORGS = [
    {"id": "head"},
    {"id": "bj", "parent": "head"},
    {"id": "bj-001", "parent": "bj"},
    {"id": "sh", "parent": "head"},
]


def runs(live, who=None, effort="full", **asked):
    """Ids of the campaigns that run."""
    met = decide(query(live, who, **asked), live, effort).met
    return set() if met is None else {live.plan.campaigns.ids[c] for c in met.running.tolist()}


def test_everybodys_campaign_runs_and_a_page_without_any_says_nothing_of_them():
    assert runs(market_live(sold(1, "i2"), sold(2, "i8"))) == {"c1", "c2"}
    assert decide(query(tiny_live()), tiny_live()).met is None


@pytest.mark.parametrize(
    ("flight", "open_now"),
    [
        ({}, True),
        ({"from": "2026-09-01", "until": "2026-10-01"}, True),
        ({"from": "2026-10-01"}, False),
        ({"until": "2026-09-01"}, False),
    ],
)
def test_a_campaign_runs_in_its_flight_only(flight, open_now):  # NOW is 2026-09-21
    live = market_live(sold(1, "i2", flight=flight), sold(2, "i8"))
    assert runs(live) == ({"c1", "c2"} if open_now else {"c2"})


def test_an_audience_holds_for_who_is_in_it_and_what_is_unknown_denies():
    rich = {"field": "assets", "at_least": 1000}
    live = market_live(
        sold(1, "i2", audience="rich"),
        sold(2, "i8", audience="poor"),
        audiences={"rich": rich, "poor": {"not": rich}},
    )
    assert runs(live, customer(assets=5000.0)) == {"c1"}
    assert runs(live, customer(assets=10.0)) == {"c2"}
    assert runs(live, stranger()) == set()
    nobody = decode_customer(Blobs(b"x" * 30, None, None, None, None), now=NOW)
    assert runs(live, nobody) == set()


def test_a_killed_campaign_runs_nowhere():
    live = market_live(sold(1, "i2"), sold(2, "i8"), kills=[Kill("campaign", "c1")])
    assert runs(live) == {"c2"}
    assert {c for c, _, _ in placed(decide(query(live), live), live)} <= {"home.banner"}


def test_customers_of_an_org_are_its_own_and_those_of_orgs_below():
    live = market_live(
        sold(1, "i2", customers_of="bj"),
        sold(2, "i8", customers_of="bj-001"),
        sold(3, "i14", customers_of="head"),
        sold(4, "i20", customers_of="sh"),
        orgs=ORGS,
    )
    assert runs(live, customer(org=key32("bj-001"))) == {"c1", "c2", "c3"}
    assert runs(live, customer(org=key32("bj"))) == {"c1", "c3"}
    assert "c1" not in runs(live, customer(org=key32("elsewhere")))
    assert not runs(live, customer()) & {"c1", "c2", "c4"}  # nobody's customer is no branch's


def test_a_surface_of_a_template_shows_what_names_it_or_the_template_to_its_orgs_customers():
    slots = [
        *tiny_plan().model_dump(mode="json", by_alias=True)["slots"],
        {"name": "outlet.banner", "layout": "banner", "size": 1, "kinds": ["activity"]},
    ]
    live = market_live(
        sold(1, "i2", "outlet.banner", surfaces=["outlet/001"]),
        sold(2, "i8", "outlet.banner", surfaces=["outlet/{id}"]),
        sold(3, "i14", "outlet.banner", surfaces=["outlet/002"]),
        sold(4, "i20", "outlet.banner", customers_of="bj-001"),
        slots=slots,
        orgs=ORGS,
        templates={"outlet/{id}": {"slots": ["outlet.banner"], "orgs": {"001": "bj-001", "002": "sh"}}},
    )
    found, owner = live.plan.surface("outlet/001")
    asked = query(live)
    page = {"surface": "outlet/001", "slots": tuple(SlotRequest(one, one.size) for one in found)}

    def on(**changes):
        met = decide(replace(asked, **page, **changes), live).met
        return set() if met is None else {live.plan.campaigns.ids[c] for c in met.running.tolist()}

    assert on() == {"c1", "c2"}
    assert on(owner=key32(owner)) == {"c1", "c2", "c4"}  # the outlet's own campaign shows in its outlet


def test_what_is_capped_waits_for_the_ledger_and_a_spent_quota_for_its_day():
    live = market_live(
        sold(1, "i2", caps=[CAP]),
        sold(2, "i8", quotas=[{"id": "q", "at_most": 10}]),
        sold(3, "i14"),
    )
    assert runs(live) == {"c1", "c2", "c3"}
    assert runs(live, capped=False) == {"c3"}
    assert runs(live, spent=frozenset({"c2/q"})) == {"c1", "c3"}
    assert runs(live, spent=frozenset({"c9/q"})) == {"c1", "c2", "c3"}


def test_a_campaign_that_the_pacer_shut_does_not_run():
    live = market_live(sold(1, "i2"), sold(2, "i8")).priced(Prices(1, NOW, open={"c1": False}))
    assert runs(live) == {"c2"}


def test_without_profiling_campaigns_of_everybody_still_run():
    live = market_live(
        sold(1, "i2"), sold(2, "i8", audience="a"), audiences={"a": {"field": "assets", "at_least": 1}}
    )
    who = customer(assets=5000.0, profiling=False)
    assert runs(live, who, profiling=False) == {"c1"}


def test_on_rungs_that_look_at_nobody_only_notices_are_shown():
    live = market_live(sold(1, "i2", tier="mandatory"), sold(2, "i8"))
    for effort in ("cached", "fallback"):
        decision = decide(query(live), live, effort, np.array([5], np.int32))
        assert placed(decision, live) == [("home.banner", 0, "i2")]
    assert {item for _, _, item in placed(decide(query(live), live, "popular"), live)} >= {"i2"}


def test_a_pin_is_an_offer_of_its_own_and_the_other_slots_stay_with_the_plain_one():
    live = market_live(
        {"id": "c1", "items": ["i2"], "slots": ["home.banner", "home.popup"], "pin": {"home.banner": 1}}
    )
    table = OfferTable.of(live.plan.campaigns)
    banner, popup = live.plan.slots["home.banner"], live.plan.slots["home.popup"]
    assert table.slots.tolist() == [banner.bit, popup.bit]
    assert table.pin_slot.tolist() == [banner.index, -1] and table.pin.tolist() == [1, -1]
    assert len(OfferTable.of(tiny_live().plan.campaigns)) == 0


def test_of_many_offers_the_most_promising_of_each_slot_and_all_notices_are_looked_at():
    activities = [f"i{n}" for n in range(2, 120, 6)]
    contents = [f"i{n}" for n in range(3, 120, 6)]
    many = [sold(n, one) for n, one in enumerate((activities + contents)[: PER_SLOT + 10])]
    many.append(sold(90, "i116", tier="mandatory", values={"click": -5.0}))
    live = market_live(*many)
    met = decide(query(live), live).met
    seen = {live.plan.campaigns.ids[c] for c in met.looked_at.tolist()}
    assert len(met.running) == PER_SLOT + 11 and PER_SLOT <= len(seen) <= PER_SLOT + 1 and "c90" in seen
