"""Lotteries after the deterministic page."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import serving.decide as decide_module
import serving.exploring as exploring_module
from features.events import RESERVED, WHAT
from serving.decide import decide
from serving.domain import EXPLORING
from serving.exploring import RUNNERS, bits_of
from serving.exploring_kernel import (
    CHANCE,
    DRAW_SEAT,
    FIRST,
    LISTS,
    OTHER,
    PLACE,
    PROPENSITY,
    SCRATCH,
    SECOND,
    TOLD,
    TURN,
    hold,
)
from serving.page import RULE
from serving.reserving import settle
from serving.seats import CAMPAIGN, CAPPED, CREATIVE, POSITION, RESERVES, ROW, SLOT, Seats
from tests.plain_lotteries import plain_hold, random_page
from tests.worlds import SLOTS, customer, market_live, query, sold, stranger

EXPLORE = 0.4


def live_of(*campaigns, explore=EXPLORE, **changes):
    slots = [
        slot | {"explore": explore} if slot["name"] in ("home.feed", "home.shelf") else slot for slot in SLOTS
    ]
    return market_live(*campaigns, slots=slots, **changes)


LIVE = live_of()


def drawn(number, live=LIVE, **asked):
    return decide(query(live, customer(), decision_id=f"d{number}", **asked), live)


def test_chances_sum_to_one_and_the_winner_comes_first():
    page, plain = drawn(1), drawn(1, live_of(explore=0.0))
    assert len(page.lotteries) == 10  # four places of the shelf, six of the feed
    for one in page.lotteries:
        assert sum(one.probabilities) == pytest.approx(1.0) and len(set(one.keys)) == len(one.keys)
        assert one.probabilities[0] == 1 - EXPLORE and len(one.keys) <= 1 + RUNNERS
        assert one.keys[0] == plain.placements[one.place].key
        place = page.placements[one.place]
        assert place.key == one.keys[one.drawn] and place.propensity == one.probabilities[one.drawn]
        assert bool(place.flags & EXPLORING) == (one.drawn > 0)
    assert not plain.lotteries and {one.propensity for one in plain.placements} == {1.0}


def test_what_was_drawn_costs_its_tag_and_keeps_its_kind():
    plain = drawn(0, live_of(explore=0.0)).placements
    explored = 0
    for number in range(12):
        page = drawn(number)
        rows = page.rows.tolist()
        assert len(rows) == len(set(rows))
        for before, now in zip(plain, page.placements, strict=True):
            if not now.flags & EXPLORING:
                assert now.row == before.row
                continue
            explored += 1
            assert now.rule == RULE["exploration"] and LIVE.kind_of[now.row] == LIVE.kind_of[before.row]
            assert now.tag == pytest.approx((before.base - now.base) * now.shown)
    assert 0.2 * 120 < explored < 0.6 * 120


def test_the_same_decision_draws_the_same_and_another_its_own():
    assert drawn(3).placements == drawn(3).placements
    assert len({tuple(drawn(number).rows.tolist()) for number in range(6)}) > 1
    other = query(LIVE, customer(), decision_id="d3", subject="u:u2")
    assert decide(other, LIVE).rows.tolist() != drawn(3).rows.tolist() or drawn(3).lotteries


def held(given):
    """`hold` on the page: how many lotteries, how many drew a runner-up, and what it told."""
    scratch = np.full((SCRATCH, max(LISTS, len(given["rows"]))), -7, np.int32)
    told = np.full((TOLD, len(given["slot_of"])), np.nan)
    return *hold(*given.values(), scratch, told), told


def test_the_loop_is_the_plain_one():
    """Runners-up, chances, draws and what then stands there, on random pages; the hash is of experiments."""
    rng = np.random.default_rng(5)
    drawn_of_all = []
    for _ in range(60):
        given = random_page(rng)
        lotteries, turned, told = held(given)
        plain = plain_hold(**given)
        assert told[[FIRST, SECOND]].T.tolist() == plain.runners and told[TURN].tolist() == plain.turns
        for row, same in ((CHANCE, plain.chances), (OTHER, plain.others), (PROPENSITY, plain.propensity)):
            np.testing.assert_allclose(told[row], same, rtol=1e-12)
        assert lotteries == sum(one > 0 for one in plain.chances)
        drawn_ones = list(map(tuple, told[PLACE:DRAW_SEAT, :turned].T.tolist()))
        assert drawn_ones == plain.drawn and turned == sum(one > 0 for one in plain.turns)
        drawn_of_all += plain.turns
    assert {0, 1, 2} == set(drawn_of_all)


def test_draws_follow_the_chances():
    rng = np.random.default_rng(6)
    given = random_page(rng)
    counts = np.zeros((len(given["slot_of"]), 3))
    for number in range(4_000):
        given["bits"] = bits_of(replace(query(LIVE), decision_id=f"d{number}"))
        _, _, told = held(given)
        counts[np.arange(len(counts)), told[TURN].astype(int)] += 1
    for at in np.flatnonzero(told[CHANCE]):
        each, other = told[[CHANCE, OTHER], at]
        expected = 4_000 * np.array([1 - each - other, each, other])
        assert ((counts[at] - expected) ** 2 / np.maximum(expected, 1)).sum() < 18


def test_places_filled_from_behind_hold_the_same_lotteries():
    """The arrays made of lists are those that the market's answer has, as far as lotteries look at them."""
    for number in range(6):
        seen = []

        def noted(asked, live, ranked, market, seats, segment, seen=seen):
            before = Seats._make(one[:] if isinstance(one, list) else one for one in seats)
            seen.append((ranked.rows, market, before))
            return exploring(asked, live, ranked, market, seats, segment)

        exploring = decide_module.explored
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decide_module, "explored", noted)
            page = drawn(number)
        (rows, market, seats) = seen[0]
        assert seats.grid is not None and page.lotteries
        made = seats.as_grid(rows, market.value)
        p = len(made.slot)
        assert made.slot.tolist() == seats.grid.slot.tolist()
        assert made.candidate.tolist() == seats.grid.candidate.tolist()
        same = [ROW, CAMPAIGN, SLOT, POSITION, CREATIVE]
        assert made.whole[same].tolist() == seats.grid.whole[same, :p].tolist()
        assert made.parts.tolist() == seats.grid.parts[: len(made.parts), :p].tolist()
        capped = [market.slot_capped[slot] for slot in seats.slot]
        own = seats.grid.whole[CAPPED, :p].astype(bool) | capped
        assert (made.whole[CAPPED] & RESERVES > 0).tolist() == own.tolist()


def test_a_page_that_the_market_alone_could_not_fill_explores_too(monkeypatch):
    rules = [{"id": "x", "categories": ["product"], "most": 3}]
    sizes = {"home.feed": 16}
    slots = [slot | {"size": sizes.get(slot["name"], slot["size"])} for slot in SLOTS]
    plain = drawn(1, market_live(slots=slots, exclusions=rules))
    live = market_live(slots=[slot | {"explore": EXPLORE} for slot in slots], exclusions=rules)
    seen = []

    def noted(*given):
        seen.append(given[4])
        return exploring(*given)

    exploring = decide_module.explored
    monkeypatch.setattr(decide_module, "explored", noted)
    page = drawn(1, live)
    assert seen[0].grid is None and len(page.lotteries) > 20
    for one in page.lotteries:
        assert one.keys[0] == plain.placements[one.place].key
        assert one.keys[one.drawn] == page.placements[one.place].key


def test_nobody_is_explored_upon_without_profiling_or_on_a_lower_rung():
    assert not drawn(1, profiling=False).lotteries
    asked = query(LIVE, customer(), decision_id="d1")
    for effort in ("light", "popular", "fallback"):
        assert not decide(asked, LIVE, effort).lotteries


def test_what_a_rule_a_cap_or_a_campaign_is_behind_is_left_alone():
    live = live_of(
        sold(1, "i1", "home.shelf", values={"click": 50.0}),
        sold(2, "i7", "home.shelf", values={"click": 50.0}, caps=[{"most": 1, "window": "1d"}]),
        contact_rules=[{"id": "r", "most": 9, "window": "day", "scope": "item", "of": ["i3", "i9", "i15"]}],
        exclusions=[{"id": "x", "items": ["i13", "i19", "i21"], "most": 1}],
    )
    for number in range(8):
        page = drawn(number, live)
        at = {one.place for one in page.lotteries}
        for index, place in enumerate(page.placements):
            if place.campaign >= 0 or place.capped or place.rule not in (0, RULE["exploration"]):
                assert index not in at
        runners = {key for one in page.lotteries for key in one.keys[1:]}
        bound = {int(live.keys[live.row(name)]) for name in ("i3", "i9", "i15", "i13", "i19", "i21")}
        spares = {one.key for one in page.spares.values()}
        assert not runners & bound and not runners & spares


def test_runners_up_belong_to_one_place_and_are_permitted():
    page = decide(query(LIVE, customer(), exclude={"home.feed": ["i3", "i9"]}), LIVE)
    keys = [key for one in page.lotteries for key in one.keys]
    assert len(keys) == len(set(keys))
    feed = [one for one in page.lotteries if page.placements[one.place].slot == 5]
    out = {int(LIVE.keys[LIVE.row(name)]) for name in ("i3", "i9")}
    assert feed and not out & {key for one in feed for key in one.keys}


def test_a_place_without_a_feasible_runner_up_has_no_lottery():
    live = live_of(exclusions=[{"id": "x", "categories": ["product"], "most": 9}])
    page = drawn(1, live)
    assert not [one for one in page.lotteries if live.kind_of[page.placements[one.place].row] == 1]
    assert decide(query(LIVE, stranger()), LIVE).sizes == (3, 5, 4, 1, 3, 6) and WHAT["displayed"] == 1


def base_worth(page, live):
    """A page in base value under the slots' interactions, place by place."""
    worth, earlier = 0.0, {}
    for one in page.placements:
        slot, category = page.query.slots[one.slot].spec, int(live.categories[one.row])
        before = earlier.get((one.slot, category), 0)
        earlier[one.slot, category] = before + 1
        worth += one.shown * one.base * (slot.diminish**before if one.base > 0 else 1.0)
    return worth


@pytest.mark.parametrize(("diminish", "off"), [(1.0, 1e-4), (0.9, 0.1)])
def test_tags_of_exploration_add_up_to_the_value_of_deciding_again_without_it(diminish, off):
    """Exact without interactions; a tag does not know how a category's other items are shrunk."""
    slots = [slot | {"explore": EXPLORE, "diminish": diminish} for slot in SLOTS]
    live = market_live(slots=slots)
    plain = market_live(slots=[slot | {"diminish": diminish} for slot in SLOTS])
    tags = lost = 0.0
    for number in range(60):
        page = drawn(number, live)
        tags += sum(one.tag for one in page.placements if one.rule == RULE["exploration"])
        lost += base_worth(drawn(number, plain), plain) - base_worth(page, live)
    assert lost > 0 and tags == pytest.approx(lost, rel=off)


def test_a_budget_explores_less_where_the_runners_up_are_poor():
    slots = [slot | {"explore": 0.4, "explore_budget": 0.02} for slot in SLOTS]
    live = market_live(slots=slots)
    explored = 0
    for number in range(8):
        page = drawn(number, live)
        for one in page.lotteries:
            part = 1 - one.probabilities[0]
            assert sum(one.probabilities) == pytest.approx(1) and part <= 0.4 + 1e-9
            explored += part < 0.39
    assert explored


def test_a_capped_slot_explores_and_a_refused_draw_is_none():
    """Pop-ups are limited by a rule of the slot: whatever is drawn needs the reservation."""
    rules = [{"id": "calm", "most": 1, "window": "day", "scope": "slot", "of": ["home.popup"]}]
    slots = [slot | {"explore": EXPLORE} for slot in SLOTS]
    live = market_live(slots=slots, contact_rules=rules)
    seen = set()
    for number in range(12):
        page = drawn(number, live)
        (one,) = (one for one in page.lotteries if page.placements[one.place].slot == 3)
        place = page.placements[one.place]
        assert place.capped and place.flags & RESERVED and place.key == one.keys[one.drawn]
        seen.add(one.drawn > 0)
        refused = settle(page, {one.place: "cap"})
        assert len(refused.lotteries) == len(page.lotteries) - 1
        assert all(two.keys[two.drawn] == refused.placements[two.place].key for two in refused.lotteries)
    assert seen == {True, False}


def test_a_slot_that_does_not_explore_takes_no_runner_up_from_one_that_does():
    """The banner takes activities and so does the feed: only the feed explores, with the best of them."""
    page = drawn(2)
    slots = {page.placements[one.place].slot for one in page.lotteries}
    assert {page.query.slots[slot].spec.name for slot in slots} == {"home.shelf", "home.feed"}


def test_a_page_of_more_candidates_than_ever_has_room(monkeypatch):
    same = drawn(4)
    monkeypatch.setattr(exploring_module, "_width", 1)
    assert drawn(4).placements == same.placements and exploring_module._width > 1
