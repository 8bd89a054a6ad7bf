"""Decisions that may not change by accident. FENLIU_UPDATE_GOLDEN=1 writes them anew, to be reviewed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.ids import key32, key64
from serving.control import Kill
from serving.decide import decide
from serving.reasons import Reason
from tests.worlds import (
    contact_entries,
    customer,
    item,
    query,
    recent_entries,
    stranger,
    tiny_bundle,
    tiny_live,
)

FOLDER = Path(__file__).parent
UPDATE = os.environ.get("FENLIU_UPDATE_GOLDEN") == "1"


def world(**options: Any):
    items = [
        item(
            n,
            **({"risk_class": n % 5} if n % 12 == 1 else {}),
            **({"audience": 4} if n % 18 == 2 else {}),
            **({"regions": ["310000"]} if n % 24 == 4 else {}),
            **(
                {"creatives": [{"id": f"v{n}", "title": f"创意{n}", "layouts": ["banner", "popup"]}]}
                if n == 8
                else {}
            ),
            **({"published_at": "2026-09-18T00:00:00Z"} if n in (9, 33) else {}),
        )
        for n in range(120)
    ]
    return tiny_live(tiny_bundle(items=items, seed=11), **options)


ACTIVE = {
    "recent": recent_entries(("i7", "clicked", 9e4), ("i33", "clicked", 600), ("i20", "converted", 60)),
    "contact": contact_entries(*[("i30", "displayed", 3600.0 * n) for n in range(4, 0, -1)]),
    "star_level": 5,
    "segment": 2,
    "city": key32("310000"),
    "holdings": [key64("i13")],
    "audiences": (4,),
}

CASES = {
    "stranger": lambda live: decide(query(live, stranger()), live),
    "active": lambda live: decide(query(live, customer(**ACTIVE)), live),
    "active_light": lambda live: decide(query(live, customer(**ACTIVE)), live, "light"),
    "active_profiling_off": lambda live: decide(query(live, customer(profiling=False, **ACTIVE)), live),
    "popular": lambda live: decide(query(live, customer(**ACTIVE)), live, "popular"),
    "fallback": lambda live: decide(query(live, stranger()), live, "fallback"),
    "cached": lambda live: decide(query(live), live, "cached", np.arange(30, dtype=np.int32)),
    "anchor_in_english": lambda live: decide(
        query(live, anchor_row=15, locale="en", counts={"home.feed": 3}), live
    ),
}


def told(live, decision) -> dict[str, Any]:
    slots: dict[str, list[list[Any]]] = {asked.spec.name: [] for asked in decision.query.slots}
    for place in decision.placements:
        name = decision.query.slots[place.slot].spec.name
        item_id, reason = live.texts[place.row].id, Reason(place.reason).code
        slots[name].append(
            [item_id, round(place.score, 3), place.origin, reason, place.creative, place.flags]
        )
    return {"slots": slots, "degraded": list(decision.degraded), "drops": dict(decision.drops)}


@pytest.mark.parametrize("case", CASES)
def test_the_decision_is_as_it_was(case):
    live = world()
    now = told(live, CASES[case](live))
    path = FOLDER / f"{case}.json"
    if UPDATE:
        path.write_text(json.dumps(now, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    was = json.loads(path.read_text(encoding="utf-8"))
    assert now["degraded"] == was["degraded"] and now["drops"] == was["drops"]
    for slot, places in was["slots"].items():
        for before, after in zip(places, now["slots"][slot], strict=True):
            assert after[:1] + after[2:] == before[:1] + before[2:], slot
            assert after[1] == pytest.approx(before[1], abs=2e-3)


def test_a_kill_of_the_last_place_changes_the_page_by_the_killed_item_alone():
    """The page is solved jointly: a kill further up may move others too."""
    live = world()
    before = decide(query(live), live)
    victim = before.placements[-1].row
    killed = world(kills=[Kill("item", live.texts[victim].id)])
    after = decide(query(killed), killed)
    assert set(before.rows.tolist()) - set(after.rows.tolist()) == {victim}
