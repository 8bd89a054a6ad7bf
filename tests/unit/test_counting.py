"""What one page did to every campaign."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serving.counting import Counting, tagged_of
from serving.decide import decide
from serving.page import RULE, RULES
from serving.prices import Prices
from serving.reasons import Drop
from serving.reserving import settle
from serving.tallies import ROWS
from tests.plain_counts import plain_counts, plain_sums
from tests.worlds import (
    NOW,
    contacts,
    customer,
    item,
    market_live,
    query,
    shown,
    sold,
    tiny_bundle,
    tiny_items,
    tiny_live,
    tiny_plan,
)

DEAR = {"click": 100.0}
ONCE = {"most": 1, "window": "1d"}


def test_sums_of_pages_are_those_of_plain_sets():
    live = market_live(
        *(sold(number, f"i{2 + 6 * number}", values=DEAR, caps=[ONCE]) for number in range(1, 4))
    )
    some = [
        decide(query(live, customer(contact=contacts(*entries))), live)
        for entries in ((), (shown("i8", 60, campaign="c1"),), (shown("i20", 60, campaign="c3"),))
    ]
    pages = [*some, settle(some[0], {0: "cap"}), settle(some[1], {0: "quota"}), replace(some[0], met=None)]
    assert sums_of(pages, live) == pytest.approx(plain_sums(pages, live))
    assert sums_of(pages, live).any() and not sums_of([], live).any()


def test_the_scratch_is_clean_again_whatever_the_plan():
    counting = Counting()
    for number in (3, 1, 3):
        live = market_live(*(sold(one, f"i{2 + 6 * one}", values=DEAR) for one in range(1, 1 + number)))
        page = decide(query(live, customer()), live)
        for _ in range(2):
            sums = np.zeros((ROWS, number))
            counting.add(sums, page, live)
            assert sums == pytest.approx(plain_sums([page], live))


def sums_of(pages, live):
    counting, sums = Counting(), np.zeros((ROWS, len(live.plan.campaigns.ids)))
    for page in pages:
        counting.add(sums, page, live)
    return sums


def named(live, column):
    return sorted(live.plan.campaigns.ids[c] for c in column.tolist())


def told(live, *entries, **asked):
    decision = decide(query(live, customer(contact=contacts(*entries)), **asked), live)
    return decision, both(decision, live)


def both(decision, live):
    """By the plain twin, after comparing the sums of what serves with it."""
    assert sums_of([decision], live) == pytest.approx(plain_sums([decision], live))
    return plain_counts(decision, live)


def adds_up(counts):
    parts = (counts.dropped, counts.refused_cap, counts.refused_quota, counts.offered)
    assert sorted(counts.eligible.tolist()) == sorted(c for part in parts for c in part.tolist())
    assert set(counts.lost_price.tolist()) | set(counts.placed.tolist()) == set(counts.offered.tolist())


def test_a_page_without_campaigns_counts_nothing():
    live = tiny_live()
    decision = decide(query(live), live)
    assert sums_of([decision], live).shape == (ROWS, 0)
    assert tagged_of(decision, live) == []


def test_every_campaign_met_one_fate():
    items = [item(2, risk_class=5), *(one for one in tiny_items() if one.id != "i2")]
    plan = tiny_plan(
        campaigns=[
            sold(1, "i2"),  # not for this customer
            sold(2, "i8", values=DEAR, caps=[ONCE]),  # seen often enough
            sold(3, "i14", values=DEAR),  # placed
            sold(4, "i20", values={"click": 0.0}, exclusive=True),  # worth nothing
            sold(5, "i26", flight={"until": "2026-01-01"}),  # over
        ]
    )
    live = tiny_live(tiny_bundle(items=items), plan)
    decision, counts = told(live, shown("i8", 60, campaign="c2"))
    assert named(live, counts.eligible) == ["c1", "c2", "c3", "c4"]
    assert named(live, counts.dropped) == ["c1"]
    assert counts.masks.tolist() == [decision.met.drops[decision.met.looked_at == 0][0]] and counts.masks[0]
    assert any(counts.masks[0] & drop.bit for drop in Drop)
    assert named(live, counts.refused_cap) == ["c2"] and not len(counts.refused_quota)
    assert named(live, counts.placed) == ["c3"] and named(live, counts.lost_price) == ["c4"]
    (place,) = [one for one in decision.placements if one.campaign >= 0]
    assert counts.units.tolist() == [pytest.approx(place.units)]
    assert counts.potential.max() == pytest.approx(float(decision.query.slots[0].spec.rates[0]))
    adds_up(counts)


def test_what_the_ledger_and_the_leases_refused_is_told_apart():
    live = market_live(
        sold(1, "i2", values=DEAR, exclusive=True, caps=[ONCE]),
        sold(2, "i8", values=DEAR, exclusive=True, quotas=[{"id": "q", "at_most": 3}]),
    )
    decision, _ = told(live)
    at = {
        live.plan.campaigns.ids[one.campaign]: i
        for i, one in enumerate(decision.placements)
        if one.campaign >= 0
    }
    page = settle(decision, {at["c1"]: "cap", at["c2"]: "quota"})
    counts = both(page, live)
    assert named(live, counts.refused_cap) == ["c1"] and named(live, counts.refused_quota) == ["c2"]
    assert not len(counts.placed) and not len(counts.offered)
    adds_up(counts)


def test_of_a_campaign_that_stands_elsewhere_on_the_page_a_refusal_is_not_counted():
    two = {"id": "c1", "items": ["i2", "i8"], "slots": ["home.banner"], "per_page": 2, "values": DEAR}
    live = market_live(two | {"caps": [{"most": 5, "window": "1d"}]})
    decision, _ = told(live)
    index = next(i for i, one in enumerate(decision.placements) if one.campaign >= 0)
    counts = both(settle(decision, {index: "cap"}), live)
    assert named(live, counts.placed) == ["c1"] and not len(counts.refused_cap)
    adds_up(counts)


def test_slots_that_were_not_asked_for_are_no_chance():
    live = market_live(sold(1, "i2"), sold(2, "i8", "home.popup"))
    asked = query(live)
    only = replace(asked, slots=asked.slots[3:4])
    counts = both(decide(only, live), live)
    assert named(live, counts.eligible) == ["c2"]


def test_tags_name_the_rule_its_campaign_and_org_and_what_stood_there_instead():
    live = market_live(sold(1, "i2", tier="mandatory", values={"click": 0.001}), sold(2, "i8")).priced(
        Prices(1, NOW, {"c2": 5.0})
    )
    decision, _ = told(live)
    tags = {one.campaign: one for one in tagged_of(decision, live)}
    assert tags["c1"].rule == "mandatory" and tags["c2"].rule == "guarantee" and tags["c1"].org == "head"
    place = next(one for one in decision.placements if one.campaign == 0)
    assert tags["c1"].slot == "home.banner" and tags["c1"].cny == pytest.approx(place.tag)
    assert tags["c1"].displays == place.shown and tags["c1"].cny > 0
    assert tags["c1"].worth == pytest.approx(place.base + place.tag / place.shown)
    assert RULES[RULE["guarantee"]] == "guarantee"


def test_a_campaign_whose_quota_is_spent_is_counted_as_refused_by_it():
    quota = {"id": "q", "unit": "displayed", "at_most": 5}
    live = market_live(sold(1, "i2", values=DEAR, quotas=[quota]), sold(2, "i4", values=DEAR))
    _, free = told(live)
    assert named(live, free.refused_quota) == []
    decision, counts = told(live, spent=frozenset({"c1/q"}))
    assert named(live, counts.refused_quota) == ["c1"]
    assert not any(place.campaign == 0 for place in decision.placements)
    adds_up(counts)
