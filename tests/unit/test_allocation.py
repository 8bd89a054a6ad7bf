from __future__ import annotations

import numpy as np
import pytest

from features.ids import key32
from serving.control import Kill
from serving.decide import decide
from serving.domain import BACKFILLED, Query
from serving.reasons import Reason
from serving.surfaces import BIT, RECIPES
from tests.worlds import customer, item, names, query, stranger, tiny_bundle, tiny_live, tiny_plan

A, B = (
    {"name": "a", "layout": "shelf", "size": 3, "kinds": ["benefit", "content"]},
    {"name": "b", "layout": "shelf", "size": 3, "kinds": ["benefit"]},
)


def live_of(kinds, slots, **item_fields):
    items = [item(n, kind, **item_fields) for n, kind in enumerate(kinds)]
    plan = tiny_plan(slots=slots, surfaces={"home": [slot["name"] for slot in slots]})
    return tiny_live(tiny_bundle(items=items), plan)


def test_no_item_stands_twice_and_every_slot_is_full():
    live = tiny_live()
    decision = decide(query(live), live)
    rows = decision.rows.tolist()
    assert len(rows) == len(set(rows)) == 22
    assert decision.sizes == tuple(asked.count for asked in decision.query.slots)
    for place in decision.placements:
        assert int(live.plan.members[place.row]) & decision.query.slots[place.slot].spec.bit


def test_a_later_slot_that_is_left_short_gets_items_from_an_earlier_one():
    # Slot a would take benefits that only slot b can do with: a must give them up and show content.
    live = live_of(["benefit"] * 3 + ["content"] * 3, [A, B])
    decision = decide(query(live), live)
    assert decision.sizes == (3, 3)
    assert {live.texts[p.row].kind for p in decision.placements if p.slot == 1} == {"benefit"}
    assert [p.position for p in decision.placements] == [0, 1, 2, 0, 1, 2]


def test_items_move_along_a_chain_of_slots():
    slots = [
        {"name": "x", "layout": "shelf", "size": 2, "kinds": ["product", "content"]},
        {"name": "y", "layout": "shelf", "size": 2, "kinds": ["content", "service"]},
        {"name": "z", "layout": "shelf", "size": 2, "kinds": ["product"]},
    ]
    for seed in range(5):
        items = [item(n, k) for n, k in enumerate(["product"] * 2 + ["content"] * 2 + ["service"] * 2)]
        plan = tiny_plan(slots=slots, surfaces={"home": ["x", "y", "z"]})
        live = tiny_live(tiny_bundle(items=items, seed=seed), plan)
        decision = decide(query(live), live)
        assert decision.sizes == (2, 2, 2) and len(set(decision.rows.tolist())) == 6


def test_what_is_short_for_good_reason_is_as_full_as_can_be():
    live = live_of(["benefit"] * 3 + ["content"] * 3, [A, B])
    decision = decide(query(live, exclude={"b": ["i0"]}), live)
    assert decision.sizes == (3, 2) and "i0" not in names(live, decision, "b")


def test_one_category_does_not_take_the_whole_slot_unless_there_is_nothing_else():
    slots = [{"name": "s", "layout": "shelf", "size": 4, "kinds": ["product"], "per_category": 1}]
    varied = [item(n, "product", category=f"c{n // 3}") for n in range(12)]
    plan = tiny_plan(slots=slots, surfaces={"home": ["s"]})
    live = tiny_live(tiny_bundle(items=varied), plan)
    placed = decide(query(live), live).placements
    assert len({int(live.categories[p.row]) for p in placed}) == 4
    live = live_of(["product"] * 12, slots, category="same")
    assert decide(query(live), live).sizes == (4,)


def test_items_without_a_category_are_not_one_category():
    slots = [{"name": "s", "layout": "shelf", "size": 6, "kinds": ["product"], "per_category": 1}]
    live = live_of(["product"] * 12, slots, category="")
    scores = [p.score for p in decide(query(live), live).placements]
    assert scores == sorted(scores, reverse=True)


def test_a_slot_of_several_kinds_is_mixed():
    slots = [{"name": "s", "layout": "banner", "size": 5, "kinds": ["content", "benefit"]}]
    live = live_of(["content"] * 20 + ["benefit"] * 20, slots, category="")
    kinds = [live.texts[p.row].kind for p in decide(query(live), live).placements]
    assert max(kinds.count("content"), kinds.count("benefit")) <= np.ceil(5 * RECIPES["banner"].per_kind)


def test_counts_and_exclusions_are_obeyed():
    live = tiny_live()
    first = decide(query(live), live)
    out = names(live, first, "home.shelf")
    again = decide(query(live, counts={"home.grid": 2}, exclude={"home.shelf": out}), live)
    assert again.sizes[1] == 2 and not set(names(live, again, "home.shelf")) & set(out)
    assert again.sizes[2] == 4


def test_the_anchor_is_not_shown_on_its_own_page_and_draws_what_goes_with_it():
    live = tiny_live()
    near = live.bundle.neighbours.similar(7, 5).rows.tolist()
    decision = decide(query(live, anchor_row=7), live)
    rows = decision.rows.tolist()
    assert 7 not in rows
    told = {p.row for p in decision.placements if p.reason == Reason.SIMILAR_TO_ANCHOR}
    assert told & set(near) and all(
        decision.placements[rows.index(row)].origin >> BIT["nearest_to_anchor"] & 1 for row in told
    )


def test_backfilled_places_are_flagged_and_come_in_popular_order():
    live = tiny_live()
    decision = decide(query(live, stranger()), live, "fallback")
    assert {p.flags for p in decision.placements} == {BACKFILLED}
    assert {p.reason for p in decision.placements} == {Reason.FALLBACK}
    grid = [p.row for p in decision.placements if p.slot == 1]
    assert grid == live.plan.slots["home.grid"].open.tolist()[:5]


def test_the_operators_fallback_comes_before_what_is_merely_popular():
    slots = [
        {"name": "s", "layout": "shelf", "size": 3, "kinds": ["product"], "fallback": ["i9", "i3"]},
    ]
    live = live_of(["product"] * 12, slots)
    decision = decide(query(live), live, "fallback")
    assert names(live, decision)[:2] == ["i9", "i3"]
    assert [p.reason for p in decision.placements[:2]] == [Reason.PICK_OF_OPERATOR] * 2


def test_a_killed_slot_stays_empty_and_the_others_do_not():
    live = tiny_live(kills=[Kill("slot", "home.popup")])
    decision = decide(query(live), live)
    assert decision.sizes[3] == 0 and sum(decision.sizes) == 21


def test_killing_everything_empties_the_page_and_says_so():
    live = tiny_live(kills=[Kill("everything")])
    for effort in ("full", "fallback"):
        decision = decide(query(live), live, effort)
        assert decision.placements == () and "killed" in decision.degraded


def test_a_killed_creative_is_replaced_by_another_or_its_item_by_another():
    items = [item(n) for n in range(120)]
    items[7] = item(7, creatives=[{"id": "v1", "title": "one"}, {"id": "v2", "title": "two"}])
    items[1] = item(1, creatives=[{"id": "v3", "title": "three"}])
    live = tiny_live(tiny_bundle(items=items), kills=[Kill("creative", "v1"), Kill("creative", "v3")])
    slot = live.plan.slots["home.shelf"]
    rest = [f"i{row}" for row in slot.wide.tolist() if row not in (1, 7)]
    decision = decide(query(live, exclude={"home.shelf": rest[2:], "home.feed": ["i1", "i7"]}), live)
    shelf = [p for p in decision.placements if p.slot == 2]
    assert {p.row for p in shelf} >= {7} and 1 not in {p.row for p in shelf}
    assert next(p for p in shelf if p.row == 7).creative == 1
    assert next(p for p in shelf if p.row == 7).creative_key == key32("v2")


@pytest.mark.parametrize("locale", ["zh-CN", "en"])
def test_the_creative_follows_layout_and_locale(locale):
    items = [
        item(
            n,
            creatives=[
                {"id": f"zh{n}", "title": "中", "locale": "zh-CN"},
                {"id": f"en{n}", "title": "E", "locale": "en"},
            ],
        )
        for n in range(120)
    ]
    live = tiny_live(tiny_bundle(items=items))
    decision = decide(query(live, locale=locale), live)
    assert {p.creative for p in decision.placements} == {int(locale == "en")}


def test_something_new_gets_a_place_in_the_feed():
    items = [item(n) for n in range(120)]
    items[3] = item(3, published_at="2026-09-20T00:00:00Z")
    live = tiny_live(tiny_bundle(items=items))
    assert "i3" in names(live, decide(query(live), live))


def test_something_near_gets_a_place_in_the_feed():
    items = [item(n, **({"location": "wtw3s"} if n == 15 else {})) for n in range(120)]
    live = tiny_live(tiny_bundle(items=items))
    here, away = query(live, location="wtw3sj"), query(live, location="u4pru")
    told = [p.reason for p in decide(here, live).placements if p.row == 15]
    assert told == [Reason.NEAR_YOU]
    assert all(p.reason != Reason.NEAR_YOU for p in decide(away, live).placements)


def test_a_place_is_never_short_while_permitted_items_exist_far_down_the_list():
    # Only the least popular products may be shown to a stranger: the back-fill has to reach them.
    bundle = tiny_bundle(900)
    products = [r for r in np.argsort(-bundle.popular.shares[0]).tolist() if r % 6 == 1]
    last = set(products[-4:])
    items = [item(n, **({"risk_class": 2} if n % 6 == 1 and n not in last else {})) for n in range(900)]
    live = tiny_live(tiny_bundle(items=items))
    decision = decide(query(live, stranger()), live)
    assert {p.row for p in decision.placements if p.slot == 2} == last
    assert sum(decision.sizes) == 22


def test_an_empty_query_is_an_empty_page():
    live = tiny_live()
    whole = query(live)
    empty = Query("d", "u:1", "home", (), whole.context, customer(), whole.now)
    assert decide(empty, live).placements == ()
