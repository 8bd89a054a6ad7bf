"""Creatives' lotteries in the loop: what is remembered draws what is asked for, page by page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import serving.creative_choices as creative_choices
from serving.bandit import Seen, learned
from serving.bandit_draws import chances_of
from serving.creative_choices import CreativeAsked, CreativeChoice, CreativeChoices
from serving.creatives_kernel import CHOICE, MOST, place_of
from serving.decide import decide
from serving.live import Live
from tests.worlds import (
    NOW,
    SLOTS,
    customer,
    item,
    query,
    sold,
    tiny_bundle,
    tiny_items,
    tiny_live,
    tiny_plan,
)

LAYOUTS = ["banner", "popup", "feed"]
FAR = "2099-01-01T00:00:00Z"


def items(most: int = 3, **timed: Any) -> list[Any]:
    """Activities have two creatives or three, of some the last one is `timed`, or as many as `most` says."""
    made = []
    for one in tiny_items(60):
        number = int(one.id[1:])
        if one.kind != "activity":
            made.append(one)
            continue
        many = most if most > MOST else 2 + number // 6 % 2
        texts = [
            {
                "id": f"{one.id}-{at}",
                "title": f"t{at}",
                "layouts": ["banner", "popup", "feed"],
                "state": "live",
            }
            for at in range(many)
        ]
        texts[-1] |= timed if number % 4 == 2 else {}
        made.append(item(number, "activity", creatives=texts))
    return made


def live_of(made: list[Any], *campaigns: Any, explore: float = 0.3, budget: float = 0.5, **plan: Any) -> Live:
    slots = [{**one, "explore": explore, "explore_budget": budget} for one in SLOTS]
    live = tiny_live(tiny_bundle(items=made), tiny_plan(slots=slots, campaigns=list(campaigns), **plan))
    rng, groups = np.random.default_rng(4), {}
    for row in range(0, len(live), 2):
        if len(texts := live.texts[row].creatives) > 1:
            told = Seen.none([f"{one.key:08x}" for one in texts][:MOST])
            told.shown[:, :4] = rng.integers(50, 400, (len(told.arms), 4))
            told.reward[:, :4] = told.shown[:, :4] * rng.uniform(0.02, 0.1, (len(told.arms), 4))
            groups[int(live.keys[row])] = told
    return live.taught(learned(groups, lambda _: 0.05, made_at=NOW, until=NOW))


def page(live: Live, number: int) -> Any:
    asked = query(live, customer(segment=number % 4), decision_id=f"d{number}")
    return decide(replace(asked, context=replace(asked.context, locale=("zh-CN", "en")[number % 2])), live)


NAMED = sold(1, "i2", "home.banner", values={"click": 50.0}, creatives={"i2": ["i2-1"]})
CAPPED = {"contact_rules": [{"id": "r", "most": 1, "window": "day", "scope": "slot", "of": ["home.popup"]}]}


@pytest.mark.parametrize(
    "live",
    [
        live_of(items()),
        live_of(items(until=FAR), NAMED),
        live_of(items(most=MOST + 2)),
        live_of(items(), {**NAMED, "creatives": {"i2": ["i2-0", "i2-1"]}}, **CAPPED),
    ],
    ids=["plain", "timed and named", "many", "capped"],
)
def test_what_is_remembered_draws_what_is_asked_for(live: Live) -> None:
    held = 0
    for number in range(60):
        warm = page(live, number)
        cold = page(replace(live, choices=CreativeChoices()), number)
        assert cold.draws == warm.draws == page(live, number).draws
        assert cold.placements == warm.placements and cold.lotteries == warm.lotteries
        for one in warm.draws:
            place = warm.placements[one.place]
            assert place.creative_key == one.keys[one.drawn] and not place.capped
            budget = warm.query.slots[place.slot].spec.explore_budget
            told = chances_of(live.learned, place.key, number % 4, one.keys, budget)
            assert one.probabilities == told
        held += len(warm.draws)
    assert held > 100


def test_a_runner_up_that_was_drawn_draws_its_creative() -> None:
    live, of_both = live_of(items(), explore=0.5), 0
    for number in range(40):
        made = page(live, number)
        turned = {one.place for one in made.lotteries if one.drawn}
        for one in made.draws:
            keys = {text.key for text in live.texts[made.placements[one.place].row].creatives}
            assert set(one.keys) <= keys
            of_both += one.place in turned
    assert of_both > 5


def test_names_that_fall_together_are_told_apart() -> None:
    kept, rng = CreativeChoices(), np.random.default_rng(2)
    asked = {
        CreativeAsked(*(int(one) for one in some))
        for some in zip(
            rng.integers(0, 300, 9_000), rng.integers(0, 3, 9_000), rng.integers(-1, 40, 9_000),
            rng.integers(0, 6, 9_000), rng.integers(0, 32, 9_000), strict=True,
        )
    }  # fmt: skip
    order = sorted(asked)
    for at, one in enumerate(order[:-500]):
        kept.keep(one, CreativeChoice((0, 1), (at, at + 1), (0.25, 0.75)))
    names, _, made = kept.kept
    for at, one in enumerate(order):
        found = int(names[place_of(*one, names)[0], CHOICE]) - 1
        assert found == (at if at < len(order) - 500 else -1)
    assert made[7].keys == (7, 8)


def test_when_too_many_are_kept_it_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creative_choices, "MOST_KEPT", 3)
    kept, before = CreativeChoices(), []
    for row in range(4):
        kept.keep(CreativeAsked(row, 0, -1, 0, 0), CreativeChoice((0, 1), (row, 9), (0.5, 0.5)))
        before.append(kept.kept)
    assert [one.keys[0] for one in kept.kept.made] == [3] and len(before[2].made) == 3
    names = kept.kept.names
    assert [int(names[place_of(row, 0, -1, 0, 0, names)[0], CHOICE]) for row in range(4)] == [0, 0, 0, 1]
