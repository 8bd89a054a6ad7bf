"""What the ranker learns: places apart from items, ties, calibration, conversions that are still to come."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from features.ids import KINDS
from features.ranking import FEATURES, Clock
from features.ranking_kernel import HOURS, KNOTS, MOMENTS
from serving.ranker import POSITIONS
from training.config import ConfigError, parse_config
from training.delayed import HORIZON_S, chances
from training.ranker_bend import bend_of, bent
from training.ranker_facts import Counts, fit_hours, fit_rates, fit_ties, snapshots
from training.ranker_fit import (
    Rows,
    Setting,
    blank,
    calibrated,
    expected,
    fit_answer,
    level_of,
    log_loss,
    place_table,
    platt,
    raw_of,
)

DAY = 86_400.0
SMALL = Setting(trees=12, leaves=8, rate=0.3)


def rows_of(n: int, rng: np.random.Generator, **columns: np.ndarray) -> Rows:
    matrix = rng.normal(0, 1, (len(FEATURES), n)).astype(np.float32)
    matrix[FEATURES.index("kind")] = 1
    for name in ("item_clicks", "interest", "item_conversions", "area_hour"):
        matrix[FEATURES.index(name)] = 0
    for name, column in columns.items():
        matrix[FEATURES.index(name)] = column
    slot, position = rng.integers(0, 2, n), rng.integers(0, 4, n)
    at = np.sort(rng.uniform(0, 30 * DAY, n))
    return Rows(matrix, slot, position, np.zeros(n, np.int32), at, np.zeros(n, np.bool_), np.full(n, np.inf))


def flat(rate: float) -> object:
    rates = fit_rates(Counts(*(np.zeros(0, kind) for kind in (int, np.int32, bool, bool))), 2 * POSITIONS,
                      np.zeros(1, np.int32), np.ones(1, np.int32))  # fmt: skip
    rates.place[:] = rate
    return blank(place_table(rates, 2), buys=False)


def test_what_stood_at_the_top_is_not_taken_for_liked() -> None:
    rng = np.random.default_rng(1)
    n = 120_000
    item = rng.integers(0, 10, n).astype(np.int32)
    place = np.where(item < 5, rng.choice(2, n, p=[0.9, 0.1]), rng.choice(2, n, p=[0.1, 0.9]))
    draw, liked = np.array([0.10, 0.02]), np.where(np.arange(10) < 5, 1.0, 2.0)
    clicked = rng.random(n) < draw[place] * liked[item]
    counts = Counts(place, item, clicked, np.zeros(n, np.bool_))
    zeros = np.zeros(10, np.int32)
    rates = fit_rates(counts, 2, zeros, zeros)
    naive = np.bincount(item, clicked) / np.bincount(item)
    assert naive[:5].mean() > naive[5:].mean()  # so that it would be taken for liked
    assert rates.item[5:].mean() / rates.item[:5].mean() == pytest.approx(2.0, rel=0.1)
    assert rates.place[0] / rates.place[1] == pytest.approx(5.0, rel=0.1)


def test_an_item_draws_the_same_while_what_is_displayed_gets_better() -> None:
    """A policy that learns shows better items every week: an item must not seem worse for it."""
    rng = np.random.default_rng(3)
    n, draw = 200_000, np.array([0.06, 0.02])
    liked = np.repeat([0.5, 1.0, 2.0], 4)

    def counted(often: list[float]) -> np.ndarray:
        chance = np.repeat(often, 4)
        item = rng.choice(12, n, p=chance / chance.sum()).astype(np.int32)
        place = rng.integers(0, 2, n)
        clicked = rng.random(n) < draw[place] * liked[item]
        counts = Counts(place, item, clicked, np.zeros(n, np.bool_))
        zeros = np.zeros(12, np.int32)
        return fit_rates(counts, 2, zeros, zeros).item

    before, later = counted([4.0, 2.0, 1.0]), counted([1.0, 2.0, 4.0])
    assert np.log(later / before).mean() == pytest.approx(0.0, abs=0.03)


def test_without_displays_nothing_is_known_and_all_is_finite() -> None:
    none = Counts(*(np.zeros(0, kind) for kind in (int, np.int32, bool, bool)))
    rates = fit_rates(none, 4, np.zeros(3, np.int32), np.zeros(3, np.int32))
    assert np.isfinite(rates.place).all() and rates.item.tolist() == [1.0, 1.0, 1.0]
    assert len(snapshots(0.0, 16 * DAY)) == 4


def test_ties_are_found_and_an_item_departs_from_its_category_only_by_evidence() -> None:
    rng = np.random.default_rng(2)
    people, n = 600, 90_000
    share = np.zeros((people, 2))
    share[: people // 2, 0] = share[people // 2 :, 1] = 0.9
    customer, item = rng.integers(0, people, n), rng.integers(0, 4, n).astype(np.int32)
    category = np.array([0, 0, 1, 1, 1], np.int32)  # the last is never displayed
    lift = np.array([[4.0, 1.0], [4.0, 1.0], [1.0, 3.0], [1.0, 6.0]])
    due = np.full(n, 0.02)
    clicked = rng.random(n) < due * (0.1 + (share[customer] * lift[item]).sum(axis=1))
    ties = fit_ties(share, customer, item, clicked, due, category)
    assert ties[:4] == pytest.approx(lift, rel=0.2)
    assert (ties[2:4].min(axis=0) * 0.99 < ties[4]).all() and (ties[4] < ties[2:4].max(axis=0) * 1.01).all()
    nobody = fit_ties(share, customer[:0], item[:0], clicked[:0], due[:0], category)
    assert np.array_equal(nobody, np.ones((5, 2), np.float32))


def test_hours_lift_and_are_drawn_to_nothing_where_little_was_shown() -> None:
    area, hour = np.repeat(np.array([0, 1], np.int32), 4000), np.tile(np.array([9, 20]), 4000)
    clicked = np.tile(np.array([False, True]), 4000) & (np.arange(8000) % 10 < 4)
    clock = Clock(hour, np.full(8000, HOURS + 14))
    found = fit_hours(area, clock, clicked, np.full(8000, 0.1), 2)
    assert found.shape == (2, MOMENTS) and found[0, 20] > 0.3 > 0 > found[0, 9] and found[0, 3] == 0
    assert found[:, HOURS:] == pytest.approx(0.0, abs=0.1)  # the hours have said it already


def test_a_payday_lifts_what_the_hours_do_not_tell() -> None:
    area, hour = np.zeros(8000, np.int32), np.tile(np.array([9, 20]), 4000)
    day = HOURS + np.arange(8000) % 31
    clicked = np.arange(8000) % 10 < np.where(day == HOURS + 9, 4, 2)
    found = fit_hours(area, Clock(hour, day), clicked, np.full(8000, 0.2), 1)
    assert found[0, HOURS + 9] > 0.25 and abs(np.delete(found[0, HOURS:], 9)).max() < 0.15


def test_the_small_forest_learns_what_the_counts_leave() -> None:
    rng = np.random.default_rng(3)
    rows = rows_of(12_000, rng)
    hour = rows.matrix[FEATURES.index("hour")]
    truth = 1 / (1 + np.exp(2.5 - 1.2 * (hour > 0) - 0.3 * rows.slot))
    label = (rng.random(rows.size) < truth).astype(np.float64)
    start = flat(0.05)
    made = fit_answer(rows, label, start, SMALL)
    fresh = rows_of(6_000, rng)
    hour = fresh.matrix[FEATURES.index("hour")]
    now = 1 / (1 + np.exp(2.5 - 1.2 * (hour > 0) - 0.3 * fresh.slot))
    p = expected(made, fresh)
    constant = log_loss(np.full(fresh.size, label.mean()), now)
    assert (constant - log_loss(p, now)) / (constant - log_loss(now, now)) > 0.85
    assert p.sum() == pytest.approx(now.sum(), rel=0.06)


def test_calibration_mends_level_and_slope_and_leaves_small_cells_alone() -> None:
    rng = np.random.default_rng(4)
    rows = rows_of(40_000, rng)
    raw = rng.normal(-2, 1, rows.size)
    label = (rng.random(rows.size) < 1 / (1 + np.exp(-(0.7 * raw - 0.4)))).astype(np.float64)
    answer = calibrated(flat(0.05), rows, raw, label)
    assert answer.slope[0, 1] == pytest.approx(0.7, abs=0.08)
    assert answer.level[0, 1] == pytest.approx(-0.4, abs=0.15)
    assert answer.slope[1, 3] == answer.slope[1, 4]  # kinds that were never shown there: as their slot
    assert platt(raw[:0], label[:0], (0.9, 0.1)) == (0.9, 0.1)
    assert len(answer.slope[0]) == len(KINDS) + 1


def test_level_brings_sums_together() -> None:
    base, label = np.linspace(-3, 1, 50), np.zeros(50)
    label[::5] = 1
    assert (1 / (1 + np.exp(-(base + level_of(base, label))))).sum() == pytest.approx(10, abs=1e-6)


def test_conversions_still_to_come_are_counted() -> None:
    rng = np.random.default_rng(5)
    rows = rows_of(15_000, rng)
    will = rng.random(rows.size) < 0.08
    delay = rng.exponential(4 * DAY, rows.size)
    will &= delay < HORIZON_S
    rows = rows._replace(converted=np.where(will, rows.at + delay, np.inf))
    now = 30 * DAY
    newest = rows.at > now - 2 * DAY
    said = {way: chances(rows, now, flat(0.05), SMALL, way)[newest].mean() for way in ("buckets", "negative")}
    real = will.mean()
    assert said["buckets"] == pytest.approx(real, rel=0.15)
    assert said["negative"] < 0.93 * real
    only_old = chances(rows, now, flat(0.05), SMALL, "waiting")[newest].mean()
    assert only_old == pytest.approx(real, rel=0.25)


def test_nothing_after_the_moment_is_looked_at() -> None:
    rng = np.random.default_rng(6)
    rows = rows_of(4_000, rng)
    rows = rows._replace(converted=np.where(rng.random(rows.size) < 0.1, rows.at + DAY, np.inf))
    now = 20 * DAY
    past = rows._replace(converted=np.where(rows.converted <= now, rows.converted, np.inf))
    kept = rows.at <= now
    one, other = (chances(some.take(kept), now, flat(0.05), SMALL) for some in (rows, past))
    assert np.array_equal(one, other)


def test_monotone_is_asked_by_name() -> None:
    rng = np.random.default_rng(7)
    tired = rng.uniform(0, 3, 8_000)
    rows = rows_of(8_000, rng, tired=tired)
    label = (rng.random(rows.size) < 0.05 + 0.05 * tired).astype(np.float64)  # as if tiredness helped
    answer = fit_answer(rows, label, flat(0.1), SMALL)
    few = rows.take(np.arange(50))
    sweep = []
    for level in (0.0, 0.5, 1.0, 2.0, 3.0):
        matrix = few.matrix.copy()
        matrix[FEATURES.index("tired")] = level
        sweep.append(answer.at(matrix, few.slot, few.position))
    assert (np.diff(np.array(sweep), axis=0) <= 1e-7).all()
    with pytest.raises(ValueError, match="monotone names wealth"):
        Setting(monotone={"wealth": 1})
    with pytest.raises(ConfigError, match="knows no wealth"):
        parse_config({"ranker": {"monotone": {"wealth": 1}}})


def test_a_bend_finds_the_floor_of_a_slot_and_keeps_the_order() -> None:
    rng = np.random.default_rng(9)
    raw = rng.normal(-3.0, 1.5, 60_000)
    truth = 0.03 + 0.97 / (1 + np.exp(-raw))  # three in a hundred click whatever stands there
    label = (rng.random(len(raw)) < truth).astype(np.float64)
    bend = bend_of(raw, label, np.zeros(KNOTS))
    low = raw < -4.0
    said = 1 / (1 + np.exp(-bent(raw, bend)))
    assert 1 / (1 + np.exp(-raw[low])).sum() < 0.35 * truth[low].sum()
    assert said[low].sum() == pytest.approx(truth[low].sum(), rel=0.06)
    assert said.sum() == pytest.approx(truth.sum(), rel=0.03)
    steps = np.linspace(-9.0, 2.0, 200)
    assert (np.diff(bent(steps, bend)) > 0).all()
    assert np.array_equal(bend_of(raw[:0], label[:0], bend), bend)  # nothing to learn from: as the others


def test_a_bend_never_turns_the_order_round() -> None:
    raw = np.repeat([-6.0, -3.0], 5_000)
    label = np.repeat([1.0, 0.0], 5_000)
    assert (np.diff(bent(np.linspace(-9.0, 2.0, 200), bend_of(raw, label, np.zeros(KNOTS)))) > 0).all()


def test_what_is_calibrated_in_service_is_what_was_fitted() -> None:
    rng = np.random.default_rng(6)
    rows = rows_of(30_000, rng, item_clicks=rng.normal(-1.0, 1.5, 30_000).astype(np.float32))
    raw = raw_of(flat(0.05), rows)
    label = (rng.random(rows.size) < 0.02 + 0.5 / (1 + np.exp(-raw))).astype(np.float64)
    answer = calibrated(flat(0.05), rows, raw, label)
    assert abs(answer.bend).max() > 0.05
    line = answer.slope[rows.slot, rows.kind] * raw + answer.level[rows.slot, rows.kind]
    odds = np.array([bent(line[[at]], answer.bend[rows.slot[at]])[0] for at in range(200)])
    assert expected(answer, rows)[:200] == pytest.approx(1 / (1 + np.exp(-odds)), rel=2e-5)


def test_floors_are_told_from_what_items_draw() -> None:
    rng = np.random.default_rng(12)
    item = rng.normal(-1.0, 1.5, 60_000).astype(np.float32)
    rows = rows_of(60_000, rng, item_clicks=item)
    start = flat(0.05)
    own = 1 / (1 + np.exp(-(np.log(0.05 / 0.95) + item)))
    floor = np.where(rows.slot == 0, 0.03, 0.0)
    truth = floor + (1 - floor) * own
    label = (rng.random(rows.size) < truth).astype(np.float64)
    made = fit_answer(rows, label, start, SMALL)
    assert made.floor[0, 0] == pytest.approx(0.03, abs=0.008) and made.floor[1, 0] < 0.006
    low = item < -3.0
    assert expected(made, rows)[low].sum() == pytest.approx(truth[low].sum(), rel=0.12)
    bought = fit_answer(rows, label, replace(start, buys=True), SMALL)
    assert not bought.floor.any()
