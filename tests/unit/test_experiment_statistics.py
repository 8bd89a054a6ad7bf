"""The statistics of experiments against plain arithmetic, simulation and published values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
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
)

RNG = np.random.default_rng(5)


def moments(*columns):
    return Moments.of([np.asarray(column, np.float64) for column in columns])


def test_a_mean_and_its_variance_are_pythons_own():
    y = [3, 1, 4, 1, 5, 9, 2, 6]
    found = difference(moments(y), moments(y)).control
    assert found.value == mean(y) and found.variance == pytest.approx(variance(y) / len(y))


def test_a_difference_is_welchs_with_a_normal_tail():
    a, b = RNG.gamma(2, size=900), RNG.gamma(2.2, size=700)
    found = difference(moments(a), moments(b))
    assert found.z == pytest.approx(stats.ttest_ind(b, a, equal_var=False).statistic)
    assert found.p == pytest.approx(2 * NormalDist().cdf(-abs(found.z)))


def shown_and_clicked(rng, units, arms=2):
    """Per arm (clicks, displays) of units whose displays and clicks go along."""
    for _ in range(arms):
        shown = rng.poisson(rng.gamma(2, 5, units)) + 1
        yield moments(rng.binomial(shown, rng.beta(2, 18, units)), shown)


def test_a_small_arm_does_not_believe_itself_exact():
    """One unit in a hundred has nearly everything; a tenth of the units are in the treatment. By its own
    variance the arm that met none of them is sure to be worse.
    """
    rng, z, own = np.random.default_rng(10), [], []
    for _ in range(1_000):
        value = np.where(rng.random(1_000) < 0.01, rng.gamma(2.0, 500.0, 1_000), rng.gamma(2.0, size=1_000))
        arm = rng.random(1_000) < 0.1
        z.append(difference(moments(value[~arm]), moments(value[arm])).z)
        own.append(stats.ttest_ind(value[arm], value[~arm], equal_var=False).statistic)
    assert np.mean(np.abs(own) > 2.576) > 0.15 and np.mean(np.abs(z) > 2.576) < 0.03
    assert np.std(z) < 1.05


def test_ratios_are_each_arms_own_and_their_error_that_of_many_samples():
    rng, gaps, errors = np.random.default_rng(6), [], []
    for _ in range(500):
        control, treatment = shown_and_clicked(rng, 500)
        found = difference(control, treatment, ratio=True)
        assert found.control.value == pytest.approx(control.mean[0] / control.mean[1])
        assert found.treatment.value == pytest.approx(treatment.mean[0] / treatment.mean[1])
        gaps.append(found.absolute.value)
        errors.append(found.absolute.error)
    assert np.mean(errors) == pytest.approx(np.std(gaps), rel=0.1)


def test_a_ratios_difference_is_as_large_as_it_seems_for_few_units_too():
    """Eighty units in the smaller arm, few of them with most displays: z of nothing deviates by 1 at most. By
    each arm's own ratio and denominator it has 1.13.
    """
    rng, common, own = np.random.default_rng(9), [], []
    for _ in range(2_000):
        shown = np.ceil(3 * rng.pareto(2, 400) + 0.1)
        clicks = rng.binomial(shown.astype(np.int64), rng.beta(1, 9, 400)).astype(np.float64)
        arm = rng.permutation(400) < 80
        parts = [moments(clicks[~arm], shown[~arm]), moments(clicks[arm], shown[arm])]
        common.append(difference(*parts, ratio=True).z)
        each = [one.mean[0] / one.mean[1] for one in parts]
        variance_of = [
            (one.covariance[0, 0] - 2 * r * one.covariance[0, 1] + r**2 * one.covariance[1, 1])
            / (one.n * one.mean[1] ** 2)
            for one, r in zip(parts, each, strict=True)
        ]
        own.append((each[1] - each[0]) / sum(variance_of) ** 0.5 if sum(variance_of) else 0.0)
    assert 0.85 < np.std(common) < 1.02 and np.std(own) > 1.1


def test_a_ratios_information_grows_as_a_walks():
    """Days after days of the same units, each day's own displays: what correlates looks is what they share.

    The difference's own variance times the units squared hardly grows, for the displays grow too: boundaries
    by it took fourteen looks for little more than one, and found something in 6 % of null experiments.
    """
    rng, runs, days, units = np.random.default_rng(13), 400, 5, 300
    z, shares = np.zeros((runs, days)), []
    for run in range(runs):
        shown = (rng.poisson(5, (2, days, units)) + 1).cumsum(axis=1)
        clicks = rng.binomial(np.diff(shown, axis=1, prepend=0), 0.2).cumsum(axis=1)
        looks = [
            difference(
                moments(clicks[0, day], shown[0, day]), moments(clicks[1, day], shown[1, day]), ratio=True
            )
            for day in range(days)
        ]
        z[run] = [one.z for one in looks]
        shares.append([one.information / looks[-1].information for one in looks])
    share = np.mean(shares, axis=0)
    assert share == pytest.approx(np.arange(1, days + 1) / days, rel=0.05)
    assert np.corrcoef(z.T)[:, -1] == pytest.approx(share**0.5, abs=0.1)


class TestRelative:
    def test_it_leaves_out_zero_exactly_where_the_difference_does(self):
        rng, sides = np.random.default_rng(3), set()
        for _ in range(400):
            found = difference(
                *(moments(rng.gamma(0.3, size=40) * scale) for scale in (1.0, rng.uniform(0.5, 2)))
            )
            for z in (1.0, 2.0, 3.0):
                (low, high), (least, most) = found.absolute.interval(z), found.relative_interval(z)
                assert (low > 0, high < 0) == (least > 0, most < 0)
                sides.add((low > 0, high < 0))
        assert len(sides) == 3

    def test_it_covers_what_is_true(self):
        rng, runs, held = np.random.default_rng(4), 2_000, 0
        for _ in range(runs):
            found = difference(moments(rng.gamma(2, size=60)), moments(rng.gamma(2, size=60) * 1.5))
            low, high = found.relative_interval(1.96)
            held += low <= 0.5 <= high
        assert held / runs == pytest.approx(0.95, abs=0.015)

    def test_a_control_of_next_to_nothing_sets_no_upper_end(self):
        rare, often = np.zeros(400), np.zeros(400)
        rare[:2], often[:60] = 1, 1
        low, high = difference(moments(rare), moments(often)).relative_interval(2.0)
        assert 3 < low < 29 and high == np.inf
        assert np.isnan(difference(moments(rare), moments(rare)).relative_interval(2.0)).all()
        assert np.isnan(difference(moments(np.zeros(9)), moments(often)).relative_interval(2.0)).all()
        assert difference(moments(np.full(9, 2.0)), moments(np.full(9, 3.0))).relative == 0.5


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
        hours = timedelta(hours=8)  # the dates that it touches: their looks are within the plan
        assert planned_days(start + hours, until + hours, None) == 8
        assert planned_days(start, None, None) == 14 and planned_days(None, None, None, 28) == 28

    def test_days(self):
        assert days_needed(10_000, 2_000, 0.0) == 5
        assert days_needed(10_000, 2_000, 0.5) == 9
        assert days_needed(10**9, 2_000, 0.9) is None
        with pytest.raises(ValueError, match="other than 0"):
            units_needed(0.0, 1.0, 0.1)
