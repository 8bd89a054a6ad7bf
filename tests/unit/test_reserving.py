"""What a page asks of the ledger, and the page that its answer makes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from features.events import WHAT
from features.ids import key32, key64
from features.ledger import scope_of
from features.reservations import RESERVED
from serving.decide import decide
from serving.domain import PINNED, Lottery
from serving.reserving import quotas_of, refused_of, reserving_of, settle, unreserved
from tests.worlds import NOW, customer, market_live, names, query, sold, tiny_plan

DEAR = {"click": 100.0}
DAILY = {"most": 2, "window": "1d"}


def decided(*campaigns, **changes):
    live = market_live(*campaigns, **changes)
    return decide(query(live, customer(tz=b"Asia/Shanghai")), live), live


def index_of(decision, live, item):
    return next(i for i, one in enumerate(decision.placements) if live.texts[one.row].id == item)


def test_a_capped_place_is_asked_for_with_its_caps_and_carries_the_flag():
    decision, live = decided(
        sold(1, "i2", values=DEAR, caps=[DAILY, {"most": 9, "window": "day", "subject": "device"}]),
        sold(2, "i8", values=DEAR, caps=[DAILY]),
        sold(3, "i14", "home.feed"),
    )
    places, asked = reserving_of(decision, live, 7, attempt=2)
    assert places == (index_of(decision, live, "i2"), index_of(decision, live, "i8")) or len(places) == 2
    assert all(decision.placements[i].flags & RESERVED for i in places)
    first = decision.placements[places[0]]
    ((wish,), _) = asked.places
    assert wish.item == first.key and wish.campaign == first.campaign_key
    assert wish.slot == key32("home.banner") and wish.channel == 1 and wish.org == 0
    assert len(asked.checks) == 2 and {check.subject for check in asked.checks} == {"customer", "device"}
    rolling = next(check for check in asked.checks if check.window_s)
    assert (rolling.event, rolling.most, rolling.field, rolling.since) == (
        WHAT["displayed"],
        2,
        "campaign",
        0,
    )
    day = next(check for check in asked.checks if not check.window_s)
    assert day.since % 86_400 == 16 * 3600  # midnight in Shanghai
    assert asked.decision_id == "d1" and asked.epoch == 7 and asked.attempt == 2
    assert asked.valid_s == 600 and asked.scope == scope_of("home", None)
    assert reserving_of(decision, live, 7, without=places).places == ()


def test_contact_rules_are_asked_for_where_they_hold():
    rules = [
        {"id": "p", "most": 2, "window": "day", "scope": "slot", "of": ["home.popup"]},
        {"id": "c", "most": 9, "window": "day", "scope": "campaign", "of": ["c1"]},
        {"id": "i", "most": 9, "window": "day", "scope": "item", "of": ["i7"]},
    ]
    decision, live = decided(sold(1, "i2", values=DEAR), contact_rules=rules)
    places, asked = reserving_of(decision, live, 1)
    items = [live.texts[decision.placements[i].row].id for i in places]
    assert "i2" in items and 1 + ("i7" in items) + 1 == len(items)
    keys = {check.keys for check in asked.checks}
    assert {(key32("home.popup"),), (key32("c1"),)} <= keys
    assert ((key64("i7"),) in keys) == ("i7" in items)


def test_quotas_of_displays_are_taken_and_of_clicks_only_paced():
    quotas = [{"id": "q", "at_most": 10}, {"id": "k", "unit": "clicked", "at_most": 5}]
    decision, live = decided(sold(1, "i2", values=DEAR, quotas=quotas))
    index = index_of(decision, live, "i2")
    assert quotas_of(decision, live) == {index: ("c1/q",)}
    assert decision.placements[index].capped and reserving_of(decision, live, 1).places == ()


def test_what_nobody_holds_on_the_customers_keys_does_not_say_so():
    decision, live = decided(
        sold(1, "i2", values=DEAR, quotas=[{"id": "q", "at_most": 10}]),
        sold(2, "i8", values=DEAR, caps=[DAILY]),
    )
    quota, cap = index_of(decision, live, "i2"), index_of(decision, live, "i8")
    told = unreserved(decision, reserving_of(decision, live, 1).places)
    assert not told.placements[quota].flags & RESERVED and told.placements[cap].flags & RESERVED
    assert told.placements[quota].capped and unreserved(told, (cap,)) is told


def test_nothing_refused_is_the_same_page():
    decision, _ = decided(sold(1, "i2", values=DEAR, caps=[DAILY]))
    assert settle(decision, {}) is decision
    assert refused_of((4, 7, 9), (0, -1, 1)) == {7: "cap"}


def test_a_refused_place_is_taken_by_its_stand_in():
    decision, live = decided(sold(1, "i2", values=DEAR, caps=[DAILY], exclusive=True))
    index = index_of(decision, live, "i2")
    spare = decision.spares[index]
    page = settle(decision, {index: "cap"})
    assert page.placements[index] == spare and not spare.flags & RESERVED and not spare.capped
    assert spare.row not in {one.row for one in decision.placements}
    assert page.sizes == decision.sizes and page.refused == ((index, 0, "cap"),)
    assert [one.row for i, one in enumerate(page.placements) if i != index] == [
        one.row for i, one in enumerate(decision.placements) if i != index
    ]


def test_without_a_stand_in_the_others_move_up_and_are_seen_more():
    decision, live = decided(sold(1, "i2", values=DEAR, caps=[DAILY], exclusive=True), sold(2, "i8"))
    index = index_of(decision, live, "i2")
    assert index == 0
    page = settle(replace(decision, spares={}), {index: "ledger"})
    assert page.sizes == (2, 5, 4, 1, 3, 6) and [p.position for p in page.placements[:2]] == [0, 1]
    rates = decision.query.slots[0].spec.rates
    for now, before in zip(page.placements[:2], decision.placements[1:3], strict=True):
        assert now.row == before.row and now.shown == pytest.approx(float(rates[now.position]))
        assert now.units[0] == pytest.approx(before.units[0] * now.shown / before.shown)
        assert now.units[1] == pytest.approx(before.units[1] * now.shown / before.shown)
    assert page.placements[2:] == decision.placements[3:]


def test_what_is_pinned_stays_where_it_is_as_long_as_the_slot_reaches_there():
    pinned = sold(2, "i8", pin={"home.banner": 1})
    decision, live = decided(sold(1, "i2", values=DEAR, caps=[DAILY], exclusive=True), pinned)
    assert names(live, decision, "home.banner")[:2] == ["i2", "i8"]
    assert decision.placements[1].flags & PINNED
    page = settle(replace(decision, spares={}), {0: "cap"})
    assert names(live, page, "home.banner")[1] == "i8" and page.sizes[0] == 2


def test_a_pin_beyond_what_is_left_goes_as_far_as_it_can():
    slots = tiny_plan().model_dump(mode="json", by_alias=True)["slots"]
    slots[0] |= {"size": 2}
    decision, live = decided(
        sold(1, "i2", values=DEAR, caps=[DAILY], exclusive=True),
        sold(2, "i8", pin={"home.banner": 1}),
        slots=slots,
    )
    page = settle(replace(decision, spares={}), {0: "cap"})
    assert names(live, page, "home.banner") == ["i8"] and page.placements[0].position == 0


def test_lotteries_keep_pointing_at_their_places():
    decision, _ = decided(sold(1, "i2", values=DEAR, caps=[DAILY], exclusive=True))
    lottery = Lottery(5, (1, 2), (0.9, 0.1), 0)
    page = settle(replace(decision, spares={}, lotteries=(lottery,)), {0: "cap"})
    assert page.lotteries[0].place == 4 and page.placements[4].row == decision.placements[5].row
    assert page.lotteries[0].keys == lottery.keys
    assert settle(replace(decision, lotteries=(lottery,)), {0: "cap"}).lotteries[0].place == 5


def test_the_place_of_a_decision_expires_with_its_shortest_slot():
    slots = tiny_plan().model_dump(mode="json", by_alias=True)["slots"]
    slots[3] |= {"valid_for_s": 30}
    decision, live = decided(sold(1, "i2", values=DEAR, caps=[DAILY]), slots=slots)
    assert reserving_of(decision, live, 1).reserving.valid_s == 30 and decision.valid_until == NOW + 30


def test_stand_ins_agree_with_each_other_in_groups_and_kinds():
    both = [
        sold(n, one, "home.shelf", values=DEAR, exclusive=True, caps=[DAILY])
        for n, one in ((1, "i1"), (2, "i7"))
    ]
    decision, live = decided(*both)
    ids = [live.texts[one.row].id for one in decision.spares.values()]
    assert len(ids) == 2
    decision, live = decided(*both, exclusions=[{"id": "x", "items": ids, "most": 1}])
    refused = {i: "cap" for i, one in enumerate(decision.placements) if one.campaign >= 0}
    page = settle(decision, refused)
    assert len(set(ids) & set(names(live, page))) <= 1


def test_two_stand_ins_never_make_too_many_of_a_kind():
    slots = tiny_plan().model_dump(mode="json", by_alias=True)["slots"]
    slots[0] |= {"kinds_most": {"content": 1}, "kinds": ["activity", "content"], "size": 3}
    both = [sold(n, one, values=DEAR, exclusive=True, caps=[DAILY]) for n, one in ((1, "i2"), (2, "i8"))]
    decision, live = decided(*both, slots=slots)
    refused = {i: "cap" for i, one in enumerate(decision.placements) if one.campaign >= 0}
    kinds = [live.texts[one.row].kind for one in settle(decision, refused).placements if one.slot == 0]
    assert kinds.count("content") <= 1


def test_a_notice_keeps_its_pin_on_every_rung():
    live = market_live(sold(1, "i2", tier="mandatory", pin={"home.banner": 2}))
    for effort in ("full", "light", "popular", "fallback"):
        decision = decide(query(live), live, effort)
        assert names(live, decision, "home.banner")[2] == "i2" and decision.placements[2].flags & PINNED
