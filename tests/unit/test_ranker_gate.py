"""The ranker's sums must be true: what is tolerated, mended, refused, and what nobody can tell."""

from __future__ import annotations

import numpy as np
import pytest

from features.ids import KINDS
from features.ranking import FEATURES
from features.ranking_kernel import KNOTS
from serving.forest import Forest
from serving.ranker import POSITIONS, Answer
from training.ranker_fit import Rows, expected
from training.ranker_gate import check, levelled, summed, wrong

SLOTS = ("banner", "feed")
RATES = np.array([0.05, 0.02])


def answer(times: float = 1.0) -> Answer:
    """Says `times` the true odds of both slots."""
    ones = np.ones((3, len(KINDS) + 1), np.float32)
    logit = np.log(RATES / (1 - RATES)) + np.log(times)
    place = np.repeat(np.append(logit, logit.mean())[:, None], POSITIONS, axis=1).astype(np.float32)
    bend = np.zeros((len(place), KNOTS), np.float32)
    return Answer(Forest.nothing(), place, ones, np.zeros_like(ones), bend, np.zeros_like(place), buys=False)


def shown(n: int, seed: int = 1, times: tuple[float, float] = (1.0, 1.0)) -> Rows:
    """Pages of two displays, one in each slot, clicked `times` as often as RATES."""
    rng = np.random.default_rng(seed)
    slot = np.tile([0, 1], n // 2)
    clicked = rng.random(n) < (RATES * times)[slot]
    zeros = np.zeros(n, np.int64)
    at = np.repeat(np.arange(n // 2, dtype=np.float64), 2)
    return Rows(
        np.zeros((len(FEATURES), n), np.float32), slot, zeros, zeros.astype(np.int32), at, clicked,
        np.full(n, np.inf),
    )  # fmt: skip


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    label = lambda seed: shown(4_000, seed).clicked.astype(float)  # noqa: E731
    p, page = RATES[np.tile([0, 1], 2_000)], np.repeat(np.arange(2_000), 2)
    found = [summed(p, label(seed), page) for seed in range(300)]
    assert 0.91 < np.mean([one.low <= 1.0 <= one.high for one in found]) < 0.985
    assert np.mean([one.ratio for one in found]) == pytest.approx(1.0, abs=0.02)
    wider = summed(p, label(1), page, at_once=6)
    assert wider.high - wider.low > 1.2 * (found[1].high - found[1].low)


def test_places_of_one_page_count_as_one() -> None:
    label = np.repeat(np.arange(100) % 5 == 0, 4).astype(float)
    alone = summed(np.full(400, 0.2), label, np.arange(400))
    together = summed(np.full(400, 0.2), label, np.repeat(np.arange(100), 4))
    assert together.high - together.low == pytest.approx(2 * (alone.high - alone.low))


def test_true_sums_pass_and_few_clicks_block_nothing() -> None:
    assert not check(answer(), shown(60_000), SLOTS).levelled
    few = check(answer(1.22), shown(400), SLOTS)
    assert not few.levelled and not few.refused and not any(one.decided for one in few.found.values())
    assert summed(np.array([0.1]), np.zeros(1), np.zeros(1)).true


def test_wrong_sums_are_levelled_by_the_newest_displays() -> None:
    rows = shown(200_000)
    assert wrong(check(answer(), rows, SLOTS).found) == []
    found = check(answer(1.22), rows, SLOTS)
    assert found.levelled and not found.refused
    assert "all: expected over real clicks 1.2" in found.note
    assert found.to_json()["sums"]["all"]["ratio"] == pytest.approx(1.0, abs=0.04)
    one_slot = check(answer(), shown(200_000, times=(1.0, 1.5)), SLOTS)
    assert "feed" in one_slot.note and "banner" not in one_slot.note


def test_what_changes_from_day_to_day_is_refused() -> None:
    first, later = shown(60_000), shown(60_000, seed=2, times=(1.6, 1.6))
    both = Rows(
        np.concatenate([first.matrix, later.matrix], axis=1),
        *(np.concatenate(pair) for pair in zip(first[1:4], later[1:4], strict=True)),
        np.concatenate([first.at, later.at + 1e6]),
        *(np.concatenate(pair) for pair in zip(first[5:], later[5:], strict=True)),
    )
    found = check(answer(), both, SLOTS)
    assert found.refused and found.note.startswith("not calibrated")


def test_levels_are_drawn_to_what_all_displays_say() -> None:
    rows = shown(100_000, times=(1.3, 1.0))
    p, label = expected(answer(), rows), rows.clicked.astype(float)
    mended = levelled(answer(), p, label, rows.slot)
    sums = [expected(mended, rows)[rows.slot == s].sum() / label[rows.slot == s].sum() for s in (0, 1)]
    assert sums == pytest.approx([1.0, 1.0], abs=0.06)
    nothing = levelled(answer(), p[:0], label[:0], rows.slot[:0])
    assert np.array_equal(nothing.level, answer().level)
