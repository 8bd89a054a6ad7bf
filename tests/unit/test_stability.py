"""What stood where, in slots that are to be stable."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from serving.decide import decide, page_of
from serving.stability import held_places
from tests.worlds import NOW, SLOTS, contacts, customer, names, query, shown, stranger, tiny_live, tiny_plan

GRID = "home.grid"
FUNCTIONS = [f"i{n}" for n in range(0, 60, 6)]


def stable(refresh="session", cost=0.5):
    slots = [
        slot | ({"refresh": refresh, "switching_cost": cost} if slot["name"] == GRID else {})
        for slot in SLOTS
    ]
    return tiny_live(plan=tiny_plan(slots=slots))


def held(live, *entries, rows=None, **asked):
    who = customer(contact=contacts(*entries), **{k: asked.pop(k) for k in list(asked) if k == "tz"})
    one = query(live, who, **asked)
    known = np.arange(len(live), dtype=np.int32) if rows is None else np.array(rows, np.int32)
    found = held_places(one, one.slots, known, live.items)
    return {(s, live.texts[int(known[c])].id, k) for s, c, k in found.tolist()}


def at(item, position, ago=60.0, slot=GRID, **fields):
    return shown(item, ago, slot=slot, position=position, **fields)


def test_what_was_displayed_last_at_a_position_is_held_there():
    live = stable()
    assert held(live, at("i0", 0), at("i6", 1)) == {(1, "i0", 0), (1, "i6", 1)}
    assert held(live, at("i0", 0, 90), at("i6", 0, 60)) == {(1, "i6", 0)}
    assert held(live, at("i0", 0, 90), at("i0", 2, 60)) == {(1, "i0", 2)}
    assert held(live, at("i0", 0, 90), at("i6", 0, 60), at("i0", 0, 30)) == {(1, "i0", 0)}  # it came back


def test_only_displays_of_stable_slots_in_their_time_count():
    live = stable()
    assert (
        held(live, at("i0", 0, 1801), at("i6", 1, what="clicked"), at("i8", 0, slot="home.banner")) == set()
    )
    assert held(live, at("i0", 7)) == set()  # the slot has five places
    assert held(live, at("i0", 3), counts={GRID: 2}) == set()
    assert held(live, at("i0", 0), rows=[1, 2]) == set() and held(live, at("i0", 0), rows=[]) == set()
    assert held(live, at("gone", 0)) == set()
    assert held(stable("view"), at("i0", 0)) == set() and held(stable(cost=0.0), at("i0", 0)) == set()
    refused = query(live, customer(contact=contacts(at("i0", 0)), profiling=False), profiling=False)
    assert len(held_places(refused, refused.slots, np.arange(60, dtype=np.int32), live.items)) == 0
    one = query(live, stranger())
    assert len(held_places(one, one.slots, np.arange(5, dtype=np.int32), live.items)) == 0


@pytest.mark.parametrize(("hour", "held_there"), [(1, True), (-1, False)])
def test_a_day_is_the_customers(hour, held_there):
    midnight = datetime.fromtimestamp(NOW, ZoneInfo("Asia/Shanghai")).replace(hour=0, minute=0, second=0)
    entry = at("i0", 0, 0, now=midnight.timestamp() + hour * 3600)
    assert bool(held(stable("day"), entry, tz=b"Asia/Shanghai")) == held_there


def test_a_page_keeps_the_grid_as_it_was_seen_while_a_change_is_not_worth_it():
    live = stable(cost=5.0)
    seen = [at(one, position) for position, one in enumerate(FUNCTIONS[::-1][:5])]
    decision = decide(query(live, customer(contact=contacts(*seen))), live)
    assert names(live, decision, GRID) == FUNCTIONS[::-1][:5]
    free = stable(cost=0.0)
    assert (
        names(free, decide(query(free, customer(contact=contacts(*seen))), free), GRID) != FUNCTIONS[::-1][:5]
    )


def test_whoever_refused_personalisation_is_tired_of_nothing() -> None:
    live = tiny_live()
    entries = contacts(*(shown("i8", ago, slot="home.feed") for ago in (60.0, 90.0, 120.0)))
    hydrator = next(one for one in live.pipelines["full"].hydrators if one.name == "Fatigue")
    for profiling in (True, False):
        asked = query(live, customer(contact=entries, profiling=profiling), profiling=profiling)
        assert hydrator.enabled(page_of(asked, live)) is profiling
