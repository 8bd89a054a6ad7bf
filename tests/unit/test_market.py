"""What competes for a page's places, and what caps, exclusion groups and contact rules leave of it."""

from __future__ import annotations

import numpy as np
import pytest

from features.reservations import RESERVED
from serving.decide import decide
from serving.market import _Counters
from serving.page import RULE
from tests.worlds import contact_entries, contacts, customer, market_live, names, placed, query, shown, sold

DEAR = {"click": 100.0}
BANNERS = ("i2", "i8", "i14")  # activities
DAILY = {"most": 2, "window": "1d"}


def dear(number, item, slot="home.banner", **fields):
    """A campaign that is placed wherever it may be."""
    return sold(number, item, slot, values=DEAR, exclusive=True, **fields)


def page(live, *entries, **asked):
    return decide(query(live, customer(contact=contacts(*entries)), **asked), live)


def campaigns_on(decision, live):
    return {live.plan.campaigns.ids[one.campaign] for one in decision.placements if one.campaign >= 0}


def full(decision, live):
    return {live.plan.campaigns.ids[c] for c in decision.met.full.tolist()}


def test_value_counts_lever_and_prices_and_base_neither():
    from serving.prices import Prices

    lever = {"factor": 2.0, "owner": "o", "reason": "r", "until": "2027-01-01T00:00:00Z"}
    live = market_live(sold(1, "i2", lever=lever), sold(2, "i8")).priced(Prices(1, 0.0, {"c2": 3.0}))
    by = {live.plan.campaigns.ids[one.campaign]: one for one in page(live).placements if one.campaign >= 0}
    assert by["c1"].value == pytest.approx(2 * by["c1"].base) and by["c1"].base == pytest.approx(
        by["c1"].score
    )
    assert by["c2"].value == pytest.approx(by["c2"].base + 3.0)
    assert by["c2"].rule == RULE["guarantee"]


def test_a_cap_that_is_used_up_leaves_no_place():
    live = market_live(dear(1, "i2", caps=[DAILY]), dear(2, "i8"))
    seen = shown("i2", 100, campaign="c1")
    assert campaigns_on(page(live, seen), live) == {"c1", "c2"}
    spent = page(live, seen, shown("i2", 50, campaign="c1"))
    assert campaigns_on(spent, live) == {"c2"} and full(spent, live) == {"c1"}
    old = page(live, shown("i2", 90_000, campaign="c1"), shown("i2", 90_001, campaign="c1"))
    assert campaigns_on(old, live) == {"c1", "c2"}


def test_a_cap_that_names_campaigns_counts_theirs_together():
    live = market_live(dear(1, "i2", caps=[DAILY | {"of": ["c1", "c2"]}]), dear(2, "i8"))
    spent = page(live, shown("i8", 100, campaign="c2"), shown("i8", 50, campaign="c2"))
    assert campaigns_on(spent, live) == {"c2"} and full(spent, live) == {"c1"}


def test_a_gap_leaves_one_place_a_page_and_none_until_it_is_over():
    cap = DAILY | {"min_gap_s": 600}
    live = market_live(
        {"id": "c1", "items": list(BANNERS), "slots": ["home.banner"], "per_page": 2, "caps": [cap],
         "values": DEAR, "exclusive": True}
    )  # fmt: skip
    assert len(placed(page(live), live)) == 1
    assert not placed(page(live, shown("i2", 599, campaign="c1")), live)
    assert len(placed(page(live, shown("i2", 601, campaign="c1")), live)) == 1


def test_a_campaign_stands_as_often_as_it_may_and_no_item_twice():
    many = {"id": "c1", "items": list(BANNERS), "slots": ["home.banner"], "values": DEAR, "per_page": 2}
    live = market_live(many)
    assert len(placed(page(live), live)) == 2


def test_an_exclusion_group_holds_across_slots():
    live = market_live(
        dear(1, "i2"), dear(2, "i8", "home.popup"), dear(3, "i14", "home.feed"),
        exclusions=[{"id": "x", "campaigns": ["c1", "c2", "c3"], "most": 2}],
    )  # fmt: skip
    assert len(placed(page(live), live)) == 2


def test_a_campaign_may_be_in_many_groups_and_each_holds():
    live = market_live(
        *(dear(n, one) for n, one in enumerate(("i2", "i8", "i14", "i20", "i26"))),
        exclusions=[{"id": f"x{n}", "campaigns": ["c0", f"c{n}"]} for n in range(1, 5)],
    )
    on = campaigns_on(page(live), live)
    assert on and (on == {"c0"} or "c0" not in on)


def test_items_and_categories_of_a_group_are_counted_without_a_campaign_too():
    live = market_live(exclusions=[{"id": "x", "categories": ["product"], "most": 2}])
    kinds = [live.texts[one.row].kind for one in page(live).placements]
    assert kinds.count("product") == 2


def test_an_item_in_two_groups_is_held_by_both():
    both = market_live(
        dear(1, "i2"),
        exclusions=[
            {"id": "x", "items": ["i7", "i13"], "most": 1},
            {"id": "y", "items": ["i7"], "campaigns": ["c1"], "most": 1},
        ],
    )
    on = names(both, page(both))
    assert "i2" in on and "i7" not in on


def test_an_item_in_more_groups_than_can_be_counted_is_not_shown():
    groups = [{"id": f"x{n}", "items": ["i7", f"i{n}"]} for n in (1, 13)]
    live = market_live(exclusions=[*groups, {"id": "c", "categories": ["product/c3"], "most": 5}])
    assert "i7" not in names(live, page(live))


def rule(scope, *of, most=2, **fields):
    return {
        "contact_rules": [
            {"id": "r", "most": most, "window": "day", "scope": scope, "of": list(of), **fields}
        ]
    }


def test_a_contact_rule_on_a_slot_leaves_it_empty_and_back_fill_does_not_help():
    live = market_live(**rule("slot", "home.popup"))
    one = shown("i2", 100, slot="home.popup")
    (popup,) = [p for p in page(live, one).placements if p.slot == 3]
    assert popup.capped and popup.flags & RESERVED and not page(live, one).spares
    assert page(live, one, shown("i8", 50, slot="home.popup")).sizes == (3, 5, 4, 0, 3, 6)
    assert page(live, capped=False).sizes == (3, 5, 4, 0, 3, 6)


def test_a_rule_that_names_slots_counts_them_together_and_one_that_names_none_each_by_itself():
    together = market_live(**rule("slot", "home.popup", "home.benefits", most=3))
    assert page(together).sizes == (3, 5, 4, 1, 2, 6)
    each = market_live(**rule("slot", most=3))
    assert page(each, shown("i2", 100, slot="home.popup")).sizes == (3, 3, 3, 1, 3, 3)


def test_a_rule_on_items_takes_away_those_seen_enough_with_or_without_a_campaign():
    live = market_live(dear(1, "i2"), **rule("item"))
    first = page(live)
    top = names(live, first)[3]
    assert "i2" in names(live, first) and all(one.capped for one in first.placements)
    seen = [shown(item, ago, campaign="") for item in ("i2", top) for ago in (100, 50)]
    assert not {"i2", top} & set(names(live, page(live, *seen)))


def test_a_rule_on_categories_counts_each_by_itself_or_those_named_together():
    each = market_live(**rule("category", most=1))
    found = page(each, shown("i1", 60, category="product/c1"))
    paths = [live_category(each, one.row) for one in found.placements]
    assert len(paths) == len(set(paths)) and "product/c1" not in paths
    two = ("product/c1", "product/c3")
    together = market_live(**rule("category", *two, most=1))
    paths = [live_category(together, one.row) for one in page(together).placements]
    assert sum(path in two for path in paths) <= 1


def live_category(live, row):
    number = int(live.texts[row].id[1:])
    return f"{live.texts[row].kind}/c{number % 4}"


def test_a_rule_on_a_channel_bounds_the_page_there_and_only_there():
    live = market_live(**rule("channel", "app", most=5))
    assert len(page(live).placements) == 5 and len(page(live, shown("i2"), shown("i8", 50)).placements) == 3
    assert len(page(live, channel=2).placements) == 22 and not page(live, capped=False).placements


def test_a_rule_on_campaigns_holds_for_each_of_them_though_they_have_no_cap_of_their_own():
    live = market_live(dear(1, "i2"), dear(2, "i8"), **rule("campaign"))
    fresh = page(live)
    assert all(one.capped for one in fresh.placements if one.campaign >= 0)
    spent = page(live, shown("i2", 100, campaign="c1"), shown("i2", 50, campaign="c1"))
    assert campaigns_on(spent, live) == {"c2"}
    assert not placed(page(live, capped=False), live)


def test_a_rule_on_orgs_counts_their_campaigns_together():
    live = market_live(dear(1, "i2"), dear(2, "i8"), orgs=[{"id": "head"}], **rule("org"))
    spent = page(live, shown("i2", 100, campaign="c1"), shown("i8", 50, campaign="c2"))
    assert not placed(spent, live) and full(spent, live) == {"c1", "c2"}


def test_nothing_under_a_rule_is_shown_when_the_ledger_is_away():
    live = market_live(**rule("item", "i7", "i13"))
    assert not {"i7", "i13"} & set(names(live, page(live, capped=False)))
    assert page(live, capped=False).sizes == (3, 5, 4, 1, 3, 6)


def test_of_two_rules_on_an_item_the_tighter_is_looked_at():
    rules = [
        {"id": "a", "most": 9, "window": "day", "scope": "channel"},
        {"id": "b", "most": 1, "window": "day", "scope": "item"},
    ]
    for order in (rules, rules[::-1]):
        live = market_live(contact_rules=order)
        top = names(live, page(live))[0]
        assert top not in names(live, page(live, shown(top)))


def test_an_exclusion_group_is_not_given_up_for_a_contact_rule():
    none = np.zeros(0, np.int32)
    counters = _Counters(none, none)
    room = np.full((3, 2), -1, np.int64)
    group = counters.group(0, 1)
    room[0, 1] = group
    counters.tighten(room, np.full(3, loose := counters.add(5), np.int32))
    assert room[:, 1].tolist() == [group, loose, loose]
    tight = counters.add(2)
    counters.tighten(room, np.array([tight, -1, tight], np.int32))
    assert room[:, 1].tolist() == [group, loose, tight]
    nothing = counters.add(0)
    counters.tighten(room, np.array([nothing, -1, -1], np.int32))
    assert room[:, 1].tolist() == [nothing, loose, tight]


def test_house_campaigns_come_last_and_mandatory_ones_first():
    live = market_live(
        sold(1, "i2", tier="house", values=DEAR, exclusive=True),
        sold(2, "i8", tier="mandatory", values={"click": -1.0}),
    )
    on = placed(page(live), live)
    assert ("home.banner", 0, "i8") in on and "i2" not in {item for _, _, item in on}


def test_best_places_are_those_of_the_slots_asked_for():
    live = market_live(dear(1, "i2"), dear(2, "i8", "home.popup"))
    banner, popup = live.plan.slots["home.banner"], live.plan.slots["home.popup"]
    best = live.stalls.best_places(((banner.index, 3), (popup.index, 0)))
    assert best.tolist() == [pytest.approx(float(banner.rates[0])), 0.0]
    assert live.stalls.best_places(((banner.index, 3), (popup.index, 0))) is best


def test_a_rule_on_answers_shuts_what_was_answered_and_holds_nothing_else_back():
    rule = {"id": "no", "event": "dismissed", "most": 1, "window": "30d", "scope": "item"}
    live = market_live(contact_rules=[rule])
    free = decide(query(live, customer()), live)
    waved = names(live, free, "home.shelf")[0]
    who = customer(contact=contact_entries((waved, "dismissed", 3600.0)))
    page = decide(query(live, who), live)
    assert waved not in names(live, page)
    assert page.sizes == free.sizes
    assert not any(place.capped for place in page.placements)  # a display adds nothing to such a rule
    away = decide(query(live, who, capped=False), live)
    assert away.sizes == free.sizes
    assert waved not in names(live, decide(query(live, who), live, "fallback"))
