from __future__ import annotations

import pytest

from features.ids import key64, keys64
from serving.control import Kill, OverlayEntry
from serving.decide import decide
from serving.kills import Kills
from serving.live import build_live, describe
from serving.plan import PlanError
from serving.reasons import CLOSING, Drop
from tests.worlds import (
    customer,
    item,
    names,
    query,
    recent_entries,
    stranger,
    tiny_bundle,
    tiny_live,
    tiny_plan,
)


def put(seq, made):
    return OverlayEntry(seq, "item", made.id, made.model_dump(mode="json", by_alias=True))


def gone(seq, name, kind="item"):
    return OverlayEntry(seq, kind, name, None)


def creative(seq, name, item_id, **fields):
    return OverlayEntry(seq, "creative", name, {"id": name, "item_id": item_id, "title": name, **fields})


def test_without_an_overlay_the_bundles_table_is_shared_and_not_copied():
    bundle = tiny_bundle()
    live = tiny_live(bundle)
    assert live.table is bundle.compiled.table and live.overlay_seq == 0 and live.problems == ()
    assert live.row("i7") == 7 and live.row("nobody") is None and len(live) == 120
    assert describe(live)["items"] == 120


def test_an_item_put_since_gets_a_row_after_the_last_and_can_be_shown():
    live = tiny_live(overlay=[put(4, item(900, "content"))])
    assert len(live) == 121 and live.row("i900") == 120 and live.overlay_seq == 4
    assert live.texts[120].en == "Item 900" and live.table["key"][120] == key64("i900")
    assert live.items.rows_of_keys(keys64(["i900", "i3", "x"])).tolist() == [120, 3, -1]
    page = decide(query(live), live)
    assert "i900" in names(live, page) and page.sizes == (3, 5, 4, 1, 3, 6)


def test_what_is_done_with_a_new_item_does_not_break_anything():
    live = tiny_live(overlay=[put(1, item(900, "content"))])
    who = customer(recent=recent_entries(("i900", "clicked", 5)))
    decision = decide(query(live, who, anchor_row=120), live)
    assert decision.sizes == (3, 5, 4, 1, 3, 6) and decision.degraded == ()


def test_a_changed_item_is_as_it_was_put_and_the_bundle_is_untouched():
    bundle = tiny_bundle()
    live = tiny_live(bundle, overlay=[put(1, item(7, "product", risk_class=5, title={"en": "Now risky"}))])
    assert live.table["risk_class"][7] == 5 and bundle.compiled.table["risk_class"][7] == 0
    assert live.texts[7].en == "Now risky" and bundle.compiled.texts[7].en == "Item 7"
    decision = decide(query(live, customer(risk_level=1)), live)
    assert "i7" not in names(live, decision)


def test_an_item_may_change_its_kind():
    live = tiny_live(overlay=[put(1, item(7, "function"))])
    assert 7 in live.plan.slots["home.grid"].wide and 7 not in live.plan.slots["home.shelf"].wide


def test_a_deleted_item_is_gone_from_every_rung():
    live = tiny_live()
    shown = names(live, decide(query(live), live))[0]
    after = tiny_live(overlay=[gone(1, shown)])
    for effort in ("full", "light", "cached", "popular", "fallback"):
        page = decide(query(after), after, effort, decide(query(live), live).rows)
        assert shown not in names(after, page) and sum(page.sizes) == 22
    assert after.rules[after.row(shown)] & Drop.WITHDRAWN.bit


def test_the_last_write_wins_whatever_the_order_of_arrival():
    first, second = put(1, item(7, "product", risk_class=2)), put(2, item(7, "product", risk_class=4))
    for entries in ([first, second], [second, first]):
        assert tiny_live(overlay=entries).table["risk_class"][7] == 4
    back = tiny_live(overlay=[gone(1, "i7"), put(2, item(7, "product"))])
    assert back.table["withdrawn"][7] == 0 and back.rules[7] & CLOSING == 0
    assert tiny_live(overlay=[put(1, item(900)), gone(2, "i900")]).table["withdrawn"][120] == 1


def test_deleting_what_was_never_there_is_no_harm():
    assert len(tiny_live(overlay=[gone(1, "nobody"), gone(2, "nothing", "creative")])) == 120


def test_a_creative_put_since_is_shown_and_one_withdrawn_is_not():
    items = [item(n) for n in range(120)]
    items[0] = item(0, creatives=[{"id": "old", "title": "Old"}])
    bundle = tiny_bundle(items=items)
    both = tiny_live(bundle, overlay=[creative(1, "new", "i0", locale="en")])
    assert [c.id for c in both.texts[0].creatives] == ["old", "new"]
    assert both.creative(0, 1, True, 0.0) == 1 and both.creative(0, 1, False, 0.0) == 0
    only = tiny_live(bundle, overlay=[creative(1, "new", "i0"), gone(2, "old", "creative")])
    assert only.creative(0, 1, False, 0.0) == 1
    none = tiny_live(bundle, overlay=[gone(1, "old", "creative")])
    assert none.creative(0, 1, False, 0.0) is None and none.table["approved"][0] == 0
    assert "i0" not in names(none, decide(query(none), none))


def test_a_creative_put_again_replaces_the_former():
    items = [item(n) for n in range(120)]
    items[0] = item(0, creatives=[{"id": "old", "title": "Old"}])
    live = tiny_live(tiny_bundle(items=items), overlay=[creative(1, "old", "i0", state="withdrawn")])
    assert [(c.id, c.live) for c in live.texts[0].creatives] == [("old", False)]
    live = tiny_live(tiny_bundle(items=items), overlay=[creative(1, "old", "i0", layouts=["banner"])])
    assert live.items.layouts[0] == 1


def test_the_first_creative_of_an_item_ends_its_bare_title():
    live = tiny_live(overlay=[creative(1, "c", "i0", state="draft")])
    assert live.creative(0, 1, False, 0.0) is None and live.table["approved"][0] == 0


def test_a_creative_may_come_right_after_its_item():
    live = tiny_live(overlay=[put(1, item(900, "content")), creative(2, "c9", "i900")])
    assert live.texts[120].creatives[0].id == "c9" and live.problems == ()


@pytest.mark.parametrize(
    "entry",
    [
        OverlayEntry(1, "item", "i7", {"id": "i7", "kind": "rocket", "title": {"en": "x"}}),
        OverlayEntry(1, "item", "i7", {}),
        OverlayEntry(1, "item", "i7", {"id": "i7", "kind": "product", "title": {"en": "x"}, "later": 1}),
    ],
)
def test_an_item_that_cannot_be_read_is_withdrawn_and_the_rest_goes_on(entry):
    live = tiny_live(overlay=[entry, put(2, item(900, "content")), gone(3, "i13")])
    assert live.table["withdrawn"][[7, 13]].tolist() == [1, 1] and live.row("i900") == 120
    assert len(live.problems) == 1 and "'i7'" in live.problems[0]


def test_a_creative_that_cannot_be_read_takes_its_former_version_down():
    items = [item(n) for n in range(120)]
    items[0] = item(0, creatives=[{"id": "old", "title": "Old"}])
    live = tiny_live(tiny_bundle(items=items), overlay=[creative(1, "old", "i0", colour="red")])
    assert live.creative(0, 1, False, 0.0) is None and len(live.problems) == 1
    live = tiny_live(overlay=[creative(1, "c", "nobody")])
    assert len(live.problems) == 1 and "unknown item" in live.problems[0]


def test_the_overlay_may_make_a_slot_short_and_still_takes_effect():
    entries = [gone(n + 1, f"i{n}") for n in range(120) if n % 6 == 0 and n > 12]
    live = tiny_live(overlay=entries)
    assert any("home.grid" in problem for problem in live.problems)
    assert decide(query(live), live).sizes[1] == 3


def test_a_plan_that_does_not_fit_the_bundle_fails_whole_and_leaves_the_old():
    old = tiny_live()
    before = decide(query(old), old).placements
    with pytest.raises(PlanError):
        build_live(old.bundle, [gone(1, "i0")], tiny_plan(slots=_huge()))
    assert decide(query(old), old).placements == before and old.table["withdrawn"].sum() == 0


def _huge():
    return [{**slot, "size": 90} for slot in tiny_plan().model_dump()["slots"]]


def test_an_overlay_does_not_excuse_a_plan_that_never_fitted():
    with pytest.raises(PlanError):
        tiny_live(overlay=[put(1, item(900))], plan=tiny_plan(slots=_huge()))


def test_an_overlay_may_bring_what_a_plan_needs():
    slots = [slot | ({"fallback": ["i901"]} if slot["name"] == "home.shelf" else {}) for slot in _slots()]
    live = tiny_live(overlay=[put(1, item(901, "product"))], plan=tiny_plan(slots=slots))
    assert live.plan.slots["home.shelf"].fallback.tolist() == [120] and live.problems == ()


def _slots():
    return tiny_plan().model_dump(mode="json")["slots"]


def test_a_fallback_that_is_deleted_is_left_out():
    slots = [
        slot | ({"fallback": ["i7", "i13"]} if slot["name"] == "home.shelf" else {}) for slot in _slots()
    ]
    live = tiny_live(overlay=[gone(1, "i7")], plan=tiny_plan(slots=slots))
    assert live.plan.slots["home.shelf"].fallback.tolist() == [13] and len(live.problems) == 1


def test_kills_take_items_down_and_take_nothing_else():
    live = tiny_live(kills=[Kill("item", "i7"), Kill("item", "nobody"), Kill("campaign", "c1")])
    assert live.rules[7] & Drop.KILLED.bit and 7 not in live.plan.slots["home.shelf"].wide
    assert sum(bool(int(r) & Drop.KILLED.bit) for r in live.rules) == 1
    assert live.kills == Kills(False, frozenset({"i7", "nobody"}), campaigns=frozenset({"c1"}))


def test_a_kill_of_a_scope_not_known_yet_stops_everything():
    class Later:
        scope, id = "planet", "earth"

    assert Kills.of([Later()]).everything


def test_a_killed_new_item_is_down_too():
    live = tiny_live(overlay=[put(1, item(900, "content"))], kills=[Kill("item", "i900")])
    assert "i900" not in names(live, decide(query(live), live))


def test_versions_of_the_feature_store_travel_with_the_view():
    live = tiny_live(features_version="v43", materialised=["profile"], overlay_seq=99)
    assert (live.features_version, live.materialised, live.overlay_seq) == ("v43", frozenset({"profile"}), 99)


def test_sold_out_is_effective_at_once():
    live = tiny_live(
        overlay=[put(1, item(7, "product", sold_out=True)), put(2, item(13, "product", stock=0))]
    )
    page = decide(query(live, stranger()), live)
    assert not {"i7", "i13"} & set(names(live, page))
    assert not {7, 13} & set(live.plan.slots["home.shelf"].open.tolist())
