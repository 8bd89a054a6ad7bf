from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from features.ids import key32, key64
from serving.control import Kill
from serving.decide import decide
from serving.domain import EFFORTS
from serving.pipeline import Trace
from serving.reasons import Drop, Reason
from serving.surfaces import SOURCES
from tests.worlds import (
    DAY,
    NOW,
    contact_entries,
    customer,
    item,
    names,
    query,
    recent_entries,
    stranger,
    tiny_bundle,
    tiny_live,
)


def test_a_decision_names_what_it_was_made_by():
    live = tiny_live(overlay_seq=7)
    decision = decide(query(live), live)
    assert (decision.bundle, decision.plan, decision.overlay_seq) == ("b-tiny", live.plan.version, 7)
    assert decision.effort == "full" and decision.degraded == ()
    assert decision.valid_until == NOW + 600
    assert all(p.propensity == 1.0 and p.key == key64(live.texts[p.row].id) for p in decision.placements)


@pytest.mark.parametrize("effort", EFFORTS)
def test_every_rung_gives_a_full_page_and_the_same_one_again(effort):
    live, cached = tiny_live(), np.array([5, 0, 3, 5, -1, 9999], np.int32)
    who = customer(recent=recent_entries(("i3", "clicked", 60)), star_level=2)
    first = decide(query(live, who), live, effort, cached)
    assert first.sizes == (3, 5, 4, 1, 3, 6) and first.effort == effort
    assert decide(query(live, who), live, effort, cached).placements == first.placements
    assert decide(query(live, who), tiny_live(), effort, cached).placements == first.placements


def test_what_the_customer_just_did_changes_the_next_page():
    live = tiny_live()
    before = decide(query(live), live)
    after = decide(query(live, customer(recent=recent_entries(("i33", "clicked", 1)))), live)
    assert before.rows.tolist() != after.rows.tolist()
    assert any(p.reason == Reason.NEAR_VIEWED for p in after.placements)
    assert all(p.reason != Reason.NEAR_VIEWED for p in before.placements)


def test_the_profile_speaks_where_there_is_no_history():
    live = tiny_live()
    pages = {
        tuple(decide(query(live, customer(star_level=level)), live).rows.tolist()) for level in range(1, 8)
    }
    assert len(pages) > 3
    likes = decide(query(live, customer(star_level=1)), live)
    assert any(p.reason == Reason.SIMILAR_PEOPLE for p in likes.placements)


def test_nobody_is_told_that_people_like_them_like_it_when_nothing_is_known_of_them():
    live = tiny_live()
    told = {p.reason for p in decide(query(live, stranger()), live).placements}
    assert told <= {Reason.POPULAR, Reason.NEW_ITEM, Reason.FALLBACK}


def test_the_city_and_the_segment_are_reasons_only_where_they_are_known():
    live = tiny_live(tiny_bundle(600))  # more than the model's share, so that other sources show
    city = key32("310000")
    seen = decide(query(live, city=city), live, "light")
    assert any(p.reason == Reason.POPULAR_HERE for p in seen.placements)
    seen = decide(query(live, customer(segment=2)), live, "light")
    assert any(p.reason == Reason.POPULAR_SEGMENT for p in seen.placements)
    seen = decide(query(live, customer(segment=0)), live, "light")
    assert all(p.reason != Reason.POPULAR_SEGMENT for p in seen.placements)


def test_what_was_shown_in_vain_moves_down():
    live = tiny_live()
    first = decide(query(live), live)
    tired = [live.texts[p.row].id for p in first.placements if p.slot == 1]
    shown = contact_entries(*[(name, "displayed", 3600.0 * n) for name in tired for n in range(5, 0, -1)])
    later = decide(query(live, customer(contact=shown)), live)
    assert names(live, later, "home.grid") != tired


def test_below_light_nothing_about_the_customer_but_permission_counts():
    live = tiny_live()
    busy = customer(recent=recent_entries(("i3", "clicked", 60)), star_level=5, segment=2)
    for effort in ("popular", "fallback"):
        one, other = decide(query(live, busy), live, effort), decide(query(live), live, effort)
        assert one.rows.tolist() == other.rows.tolist()


def test_with_profiling_off_the_page_is_that_of_a_customer_without_tastes():
    live = tiny_live()
    busy = {"recent": recent_entries(("i3", "clicked", 60)), "star_level": 5, "segment": 2}
    off = decide(query(live, customer(profiling=False, **busy)), live)
    plain = decide(query(live, customer(profiling=False)), live)
    assert off.rows.tolist() == plain.rows.tolist()
    assert off.rows.tolist() != decide(query(live, customer(**busy)), live).rows.tolist()


def test_the_cached_rung_keeps_the_order_of_the_last_page():
    live = tiny_live()
    last = decide(query(live, customer(recent=recent_entries(("i3", "clicked", 60)))), live)
    again = decide(query(live), live, "cached", last.rows)
    assert sorted(again.rows.tolist()) == sorted(last.rows.tolist())
    assert [p.row for p in again.placements if p.slot == 1] == [p.row for p in last.placements if p.slot == 1]


def test_the_cached_rung_drops_what_may_not_be_shown_any_more():
    live = tiny_live()
    last = decide(query(live), live)
    killed = [live.texts[row].id for row in last.rows.tolist()[:5]]
    stopped = tiny_live(kills=[Kill("item", name) for name in killed])
    again = decide(query(stopped), stopped, "cached", last.rows)
    assert not set(killed) & set(names(stopped, again)) and sum(again.sizes) == 22
    assert again.drops["killed"] == 5


def test_drops_are_counted_by_rule():
    items = [item(n, **({"risk_class": 5} if n % 12 == 1 else {})) for n in range(120)]
    live = tiny_live(tiny_bundle(items=items))
    decision = decide(query(live, customer(risk_level=2)), live)
    assert set(decision.drops) == {"risk"} and decision.drops["risk"] > 0
    assert decide(query(live, customer(risk_level=5)), live).drops == {}


def test_explain_adds_why_and_why_not_and_changes_nothing():
    items = [item(n, **({"risk_class": 5} if n % 12 == 1 else {})) for n in range(120)]
    live = tiny_live(tiny_bundle(items=items))
    who = customer(risk_level=2, star_level=3)
    plain, told = decide(query(live, who), live), decide(query(live, who, explain=True), live)
    assert plain.explained is None and told.placements == plain.placements
    why = told.explained
    assert why.slots[2]["risk"] > 0 and "risk" not in why.slots[1]
    dropped = why.rows[why.drops != 0]
    assert set(dropped.tolist()) <= set(range(1, 120, 12)) and np.isnan(why.score[why.drops != 0]).all()
    place = told.placements[0]
    at = int(np.flatnonzero(why.rows == place.row)[0])
    logit = sum(float(column[at]) for column in why.terms.values())
    assert place.score == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-5)


def test_a_stage_that_fails_is_named_and_the_page_is_full():
    class Broken:
        name, n_items = "als", 120

        def represent(self, history, tokens, segment):
            raise FloatingPointError

    live = tiny_live()
    broken = tiny_live(replace(live.bundle, model=Broken()))
    decision = decide(query(broken), broken)
    assert decision.degraded == ("Taste",) and decision.sizes == (3, 5, 4, 1, 3, 6)
    lost = decide(query(broken, stranger()), broken)
    assert lost.degraded == ("profile", "membership", "Taste")


def test_a_model_that_says_nan_of_everything_does_not_empty_the_page():
    live = tiny_live()

    class Mute(type(live.bundle.model)):
        __slots__ = ()

        def score_all(self, taste):
            return np.full(self.n_items, np.nan, np.float32)

    mute = object.__new__(Mute)
    slots = [name for one in type(live.bundle.model).__mro__ for name in getattr(one, "__slots__", ())]
    for name in slots:
        setattr(mute, name, getattr(live.bundle.model, name))
    quiet = tiny_live(replace(live.bundle, model=mute))
    decision = decide(query(quiet), quiet)
    assert decision.sizes == (3, 5, 4, 1, 3, 6)
    assert all(np.isfinite(p.score) for p in decision.placements)


def test_a_trace_shows_what_each_stage_met_and_cost():
    live, ticks = tiny_live(), iter(range(10_000))
    trace = Trace(lambda: float(next(ticks)))
    plain, timed = decide(query(live), live), decide(query(live), live, trace=trace)
    assert timed.placements == plain.placements
    stages = [name for name, *_ in trace.steps]
    assert stages[:2] == ["Taste", "NearestToCustomer"] and stages[-2:] == ["allocate", "assemble"]


def test_large_catalogues_are_asked_through_the_models_own_index(monkeypatch):
    exact = tiny_live()
    monkeypatch.setattr("serving.sources.EXACT_UP_TO", 10)
    indexed = tiny_live()
    who = customer(star_level=4, recent=recent_entries(("i3", "clicked", 60)))
    one, other = decide(query(exact, who), exact), decide(query(indexed, who), indexed)
    assert one.rows.tolist() == other.rows.tolist()


def test_origins_have_names():
    live = tiny_live()
    for place in decide(query(live), live).placements:
        assert 0 < place.origin < 1 << len(SOURCES)


def test_after_a_complaint_cooling_items_rest():
    items = [item(n, cooling=n % 12 < 6) for n in range(120)]
    live = tiny_live(tiny_bundle(items=items))
    angry = customer(contact=contact_entries(("i1", "acted", DAY)))
    decision = decide(query(live, angry), live)
    assert all(p.row % 12 >= 6 for p in decision.placements) and sum(decision.sizes) == 22
    assert decision.drops[Drop.COOLING.code] > 0
