"""The statistics of experiments against plain arithmetic, simulation and published values."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from statistics import NormalDist, mean, variance

import numpy as np
import pytest
from scipy import stats

from training.experiment.mismatch import chi_square, mismatch
from training.experiment.planning import days_needed, detectable, planned_days, units_needed
from training.experiment.sequential import Looks, critical, mixture, p_value
from training.experiment.statistics import (
    Moments,
    adjusted,
    benjamini_hochberg,
    difference,
    mean_of,
    ratio_of,
)

RNG = np.random.default_rng(5)


def moments(*columns):
    return Moments.of([np.asarray(column, np.float64) for column in columns])


def test_a_mean_and_its_variance_are_pythons_own():
    y = [3, 1, 4, 1, 5, 9, 2, 6]
    found = mean_of(moments(y))
    assert found.value == mean(y) and found.variance == pytest.approx(variance(y) / len(y))


def test_a_difference_is_welchs_with_a_normal_tail():
    a, b = RNG.gamma(2, size=900), RNG.gamma(2.2, size=700)
    found = difference(moments(a), moments(b))
    assert found.z == pytest.approx(stats.ttest_ind(b, a, equal_var=False).statistic)
    assert found.p == pytest.approx(2 * NormalDist().cdf(-abs(found.z)))


def test_a_ratios_error_is_that_of_many_samples():
    """The delta method against the spread of the ratio itself; a unit's displays and clicks go along."""
    rng, values, errors = np.random.default_rng(6), [], []
    for _ in range(500):
        shown = rng.poisson(rng.gamma(2, 5, 500)) + 1
        clicks = rng.binomial(shown, rng.beta(2, 18, 500))
        found = ratio_of(moments(clicks, shown))
        values.append(found.value)
        errors.append(found.error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.1)


def test_what_was_known_before_saves_the_square_of_the_correlation_and_moves_nothing():
    gaps, plain, less, saved = [], [], [], []
    for _ in range(200):
        x = RNG.normal(size=(2, 400))
        y = 0.8 * x + 0.6 * RNG.normal(size=(2, 400)) + np.array([[0.0], [0.5]])
        found = adjusted(moments(y[0], x[0]), moments(y[1], x[1]))
        gaps.append(found.absolute.value)
        plain.append(difference(moments(y[0]), moments(y[1])).absolute.value)
        less.append(found.absolute.error)
        saved.append(found.reduction)
    assert np.mean(saved) == pytest.approx(0.64, abs=0.03)
    assert np.mean(gaps) == pytest.approx(0.5, abs=0.02) and np.std(gaps) < 0.7 * np.std(plain)
    assert np.mean(less) == pytest.approx(np.std(gaps), rel=0.15)


def test_a_ratio_is_adjusted_by_its_linear_form():
    values, errors = [], []
    for _ in range(200):
        taste = RNG.beta(2, 18, (2, 400))
        parts = [
            moments(RNG.binomial(20, p), np.full(400, 20.0), RNG.binomial(20, p), np.full(400, 20.0))
            for p in taste
        ]
        found = adjusted(parts[0], parts[1], ratio=True)
        values.append(found.absolute.value)
        errors.append(found.absolute.error)
        assert found.reduction > 0
    assert np.mean(values) == pytest.approx(0, abs=0.002)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)


def test_nothing_known_or_nothing_varying_adjusts_nothing():
    y = RNG.normal(size=(2, 50))
    plain = difference(moments(y[0]), moments(y[1]))
    assert adjusted(moments(y[0]), moments(y[1])) == plain
    constant = np.ones(50)
    same = adjusted(moments(y[0], constant), moments(y[1], constant))
    assert same.absolute.value == pytest.approx(plain.absolute.value) and same.reduction == pytest.approx(0)


def test_the_correction_is_that_of_its_paper():
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.0533333, 0.0533333, 0.5])


class TestLooks:
    def test_boundaries_are_those_of_a_published_design(self):
        """Five even looks, spending 0.05·t: Lan and DeMets' linear family, z of 2.576 at the first."""
        parts = tuple((np.arange(5) + 1) / 5)
        bounds = critical(Looks(parts, parts, 0.05 / 0.9))  # nine tenths are for looks up to the end
        assert bounds[0] == pytest.approx(NormalDist().inv_cdf(1 - 0.05 / 25 / 2), abs=0.01)
        assert all(a > b for a, b in pairwise(bounds))

    def test_any_look_is_wrong_as_seldom_as_promised(self):
        days = 28
        parts = tuple((np.arange(days) + 1) / 14)  # as long again as was planned
        bounds = critical(Looks(parts, parts))
        walk = np.cumsum(np.random.default_rng(1).normal(size=(60_000, days)), axis=1) / np.sqrt(
            np.arange(days) + 1
        )
        wrong = (np.abs(walk) > bounds).any(axis=1).mean()
        naive = (np.abs(walk) > 1.96).any(axis=1).mean()
        assert 0.035 < wrong < 0.05 < 0.2 < naive

    @pytest.mark.parametrize("usual", [14, 28])
    def test_without_an_end_any_look_of_sixty_is_wrong_as_seldom_as_promised(self, usual):
        """A look a day, each by what is known that day alone, also of how long it was planned."""
        paths, days = 4_000, 60
        walk = np.random.default_rng(8).normal(size=(paths, days)).cumsum(axis=1)
        wrong = np.zeros(paths, bool)
        for day in range(1, days + 1):
            planned = planned_days(datetime(2026, 11, 1, tzinfo=UTC), None, None, usual)
            passed = np.arange(1, day + 1)
            bound = critical(Looks(tuple(passed / planned), tuple(passed.astype(float))))[-1]
            wrong |= np.abs(walk[:, day - 1]) / np.sqrt(day) > bound
        assert 0.03 < wrong.mean() < 0.05 + 2 * (0.05 * 0.95 / paths) ** 0.5

    def test_a_fixed_sample_and_a_half_is_enough(self):
        days = 14
        parts = tuple((np.arange(days) + 1) / days)
        drift = (1.96 + 0.8416) * np.sqrt(1.5) * np.sqrt(parts)
        noise = np.random.default_rng(2).normal(size=(20_000, days)).cumsum(axis=1) / np.sqrt(
            np.arange(days) + 1
        )
        assert (np.abs(noise + drift) > critical(Looks(parts, parts))).any(axis=1).mean() > 0.85

    def test_a_mixtures_boundary(self):
        assert mixture(1.0, 1.0, 0.05) == pytest.approx(3.035, abs=0.01)

    @pytest.mark.parametrize("days", [1, 5, 14, 20])
    def test_p_is_the_alpha_whose_boundary_is_crossed(self, days):
        """Found by halving; and below α exactly where the interval leaves out zero."""
        v = tuple((np.arange(days) + 1.0).tolist())
        fraction = tuple(one / 14 for one in v)
        bound = critical(Looks(fraction, v))[-1]
        assert (
            p_value(bound * 1.0001, Looks(fraction, v)) < 0.05 < p_value(bound * 0.9999, Looks(fraction, v))
        )
        for z in (1.0, 2.5, 3.5, 4.5):
            low, high = 1e-8, 1.0
            for _ in range(40):
                half = (low * high) ** 0.5
                low, high = (low, half) if critical(Looks(fraction, v, half))[-1] < z else (half, high)
            assert p_value(z, Looks(fraction, v)) == pytest.approx(high, rel=0.03)
        assert p_value(0.0, Looks(fraction, v)) == 1.0

    def test_looks_go_forward(self):
        with pytest.raises(ValueError, match="order of time"):
            Looks((0.5, 0.2), (1.0, 2.0))


class TestMismatch:
    def test_a_loss_is_found_and_laid_at_a_door(self):
        segments = {"first day": {"2026-11-01": (5_000, 5_010), "2026-11-02": (5_000, 4_000)}}
        found = mismatch({"a": 10_000, "b": 9_010}, {"a": 1, "b": 1}, segments=segments)
        assert found.found and "only in first day: 2026-11-02" in found.causes[0]
        assert found.expected == {"a": 9_505, "b": 9_505}

    def test_even_arms_have_no_cause(self):
        found = mismatch({"a": 10_000, "b": 9_900}, {"a": 1, "b": 1}, crossed=500)
        assert not found.found and found.causes == ()

    def test_slow_and_crossing_arms_are_named(self):
        found = mismatch(
            {"a": 10_000, "b": 9_000}, {"a": 1, "b": 1}, crossed=500, degraded={"a": 0.01, "b": 0.2}
        )
        assert "seen in two arms" in found.causes[0] and "b answers 20.0%" in found.causes[1]
        assert "lost or filtered" in mismatch({"a": 9, "b": 9_000}, {"a": 1, "b": 1}).causes[0]

    def test_the_test_is_scipys(self):
        assert chi_square([90, 60], [2, 1]) == pytest.approx(stats.chisquare([90, 60], [100, 50]).pvalue)


class TestPlanning:
    def test_a_single_look_is_the_textbooks(self):
        need = units_needed(0.05, (0.05 * 0.95) ** 0.5, 0.1)
        assert need.single_look == pytest.approx(16 * 0.05 * 0.95 / 0.005**2 * 2, rel=0.03)  # 16 σ²/δ² an arm
        assert 1.1 < need.units / need.single_look < 1.3

    def test_what_is_needed_is_what_is_detectable(self):
        need = units_needed(2.0, 5.0, 0.03, reduction=0.4)
        assert detectable(need.units, 2.0, 5.0, reduction=0.4) == pytest.approx(0.03, rel=0.01)

    def test_the_planned_length_is_asked_for_or_the_plans_or_usual(self):
        start, until = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 8, tzinfo=UTC)
        assert planned_days(start, until, None) == 7 and planned_days(start, until, 3) == 3
        assert planned_days(start, None, None) == 14 and planned_days(None, None, None, 28) == 28

    def test_days(self):
        assert days_needed(10_000, 2_000, 0.0) == 5
        assert days_needed(10_000, 2_000, 0.5) == 9
        assert days_needed(10**9, 2_000, 0.9) is None
        with pytest.raises(ValueError, match="other than 0"):
            units_needed(0.0, 1.0, 0.1)
