"""The measured uplift inside the decision: what a click adds for this customer is what a benefit is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from features.ids import KIND_CODE, KINDS, key32
from serving.decide import decide
from serving.live import Live
from serving.uplift import COLUMNS, PLAIN, Uplift
from tests.worlds import customer, query, tiny_bundle, tiny_live, tiny_plan

BENEFIT = KIND_CODE["benefit"]
VALUES = {"version": "v1", "click": 0.01, "convert": 30.0, "dismiss": 0.0}
STAR = 1 + PLAIN.index("star_level")


def measured() -> Uplift:
    """The higher the star level, the more of the uses would have been anyway."""
    width = 1 + len(COLUMNS)
    kind_bias = np.full(len(KINDS), np.nan, np.float32)
    kind_bias[BENEFIT] = 0.0
    base = np.zeros((2, width), np.float32)
    base[:, STAR] = 1.5
    return Uplift(
        tags=np.zeros(0, np.int64), centre=np.zeros(width - 1, np.float32),
        scale=np.ones(width - 1, np.float32), groups=np.array([key32("dining")], np.uint32), base=base,
        shift=0.0, persuaded=np.zeros(width, np.float32), slope=0.0, item_keys=np.zeros(0, np.uint64),
        item_bias=np.zeros(0, np.float32), kind_bias=kind_bias,
    )  # fmt: skip


@pytest.fixture(scope="module")
def live() -> Live:
    bundle = replace(tiny_bundle(), uplift=measured())
    return tiny_live(bundle, tiny_plan(values=VALUES))


def benefits(live: Live, **fields: object) -> dict[int, float]:
    """CNY per display of the benefits on a page, divided by their scores: what a click is worth."""
    decision = decide(query(live, customer(**fields)), live)
    assert decision.degraded == ()
    return {
        place.row: place.value / place.score
        for place in decision.placements
        if live.kind_of[place.row] == BENEFIT
    }


def test_a_benefit_is_worth_less_to_who_buys_anyway(live: Live) -> None:
    new, loyal = benefits(live, star_level=0), benefits(live, star_level=4)
    both = new.keys() & loyal.keys()
    assert both
    for row in both:  # delta = (1 − a)·d: a half and a half of the one, next to nothing of the other
        assert new[row] == pytest.approx(0.01 + 30 * 0.25, rel=1e-3)
        assert loyal[row] == pytest.approx(0.01 + 30 * 0.5 / (1 + np.exp(6)), rel=1e-2)


def test_without_profiling_the_items_own_counts_speak(live: Live) -> None:
    plain = tiny_live(tiny_bundle(), tiny_plan(values=VALUES))
    who = customer(star_level=4, profiling=False)
    asked = query(live, who, profiling=False)
    with_model, without = decide(asked, live), decide(query(plain, who, profiling=False), plain)
    assert [p.value for p in with_model.placements] == [p.value for p in without.placements]


def test_where_it_fails_the_page_stands_and_says_so(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise FloatingPointError

    monkeypatch.setattr(Uplift, "of", broken)
    decision = decide(query(live, customer(star_level=4)), live)
    assert decision.degraded == ("Persuasion",) and len(decision.placements) > 10
