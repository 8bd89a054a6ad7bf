"""The forecast of page views on traffic whose truth is known."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from serving.forecast import Forecast, fit_forecast, flat

START = 1_764_547_200.0  # 2025-12-01 00:00 UTC, a Monday
HOUR = 3600.0
WEEK = 168


def truth(hours: int, start: float = START, payday: float = 1.0) -> np.ndarray:
    """Views per hour: a day's wave, quiet weekends, a payday on the 10th."""
    at = np.arange(hours)
    hour, day = at % 24, (at // 24) % 7
    wave = 1.0 + 0.8 * np.sin((hour - 4) / 24 * 2 * np.pi)
    month_day = ((start + at * HOUR - START) // 86_400).astype(int) % 31 + 1
    return 1000.0 * wave * np.where(day >= 5, 0.7, 1.0) * np.where(month_day == 10, payday, 1.0)


def noisy(means: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).poisson(means).astype(float)


def error(found: np.ndarray, true: np.ndarray) -> float:
    """Mean absolute error over the mean."""
    return float(np.abs(found - true).mean() / true.mean())


def test_a_week_ahead_after_four_weeks():
    forecast = fit_forecast(noisy(truth(4 * WEEK), 1)[None], START)
    ahead = forecast.expected(START + 4 * WEEK * HOUR, WEEK)[0]
    true = truth(5 * WEEK)[4 * WEEK :]
    assert error(ahead, true) < 0.03
    assert abs(ahead.sum() / true.sum() - 1) < 0.01
    assert error(np.full(WEEK, true.mean()), true) > 0.4  # flat would be this bad


def test_few_hours_are_flat_and_none_is_no_failure():
    some = fit_forecast(noisy(truth(30), 2)[None], START)
    assert np.ptp(some.expected(START, 48)) == 0.0
    empty = fit_forecast(np.zeros((3, 0)), START)
    assert empty.left(START, START + 10 * HOUR) == pytest.approx(30.0)
    silent = fit_forecast(np.zeros((2, 300)), START)
    assert 0 < silent.left(START, START + 10 * HOUR) < 1
    assert np.isfinite(silent.curve(START, 24)).all()


def test_a_thin_stream_has_the_shape_of_all_and_its_own_level():
    rich, thin = truth(4 * WEEK), truth(4 * WEEK) / 5000
    counts = np.stack([noisy(rich, 3), noisy(thin, 4)])
    forecast = fit_forecast(counts, START)
    ahead = forecast.expected(START + 4 * WEEK * HOUR, WEEK)
    assert error(ahead[1] / ahead[1].mean(), rich[:WEEK] / rich[:WEEK].mean()) < 0.1
    assert (
        forecast.left(START, START + HOUR, np.array([False, True])) < forecast.left(START, START + HOUR) / 100
    )


def test_a_stream_with_another_shape_keeps_it():
    counts = np.stack([truth(4 * WEEK), np.full(4 * WEEK, 1000.0)])
    ahead = fit_forecast(counts, START).expected(START + 4 * WEEK * HOUR, WEEK)
    assert error(ahead[1], np.full(WEEK, 1000.0)) < 0.05
    assert error(ahead[0], truth(WEEK)) < 0.05


def test_paydays_and_holidays_have_factors():
    days = 56
    means = truth(days * 24, payday=1.6)
    free = {date(2025, 12, 25).toordinal(), date(2025, 12, 26).toordinal(), date(2026, 1, 20).toordinal()}
    at = (np.arange(days * 24) // 24) + date(2025, 12, 1).toordinal()
    means = np.where(np.isin(at, list(free)), 0.5 * means, means)
    history = 35 * 24
    counts = noisy(means, 5)[None]
    known = fit_forecast(counts[:, :history], START, holidays=free)
    ahead = known.expected(START + history * HOUR, 21 * 24)[0]
    true = means[history:]
    plain = fit_forecast(counts[:, :history], START).expected(START + history * HOUR, 21 * 24)[0]
    assert 0.5 < known.holiday < 0.8  # two days of them, shrunk
    assert error(ahead, true) < 0.06
    assert error(ahead, true) < error(plain, true)
    holiday, payday = slice(15 * 24, 16 * 24), slice(5 * 24, 6 * 24)
    assert abs(ahead[holiday].sum() / true[holiday].sum() - 1) < 0.4
    assert ahead[payday].sum() > 1.2 * truth(days * 24)[history:][payday].sum()


def test_a_drop_corrects_the_next_hours_and_not_the_next_week():
    forecast = fit_forecast(truth(4 * WEEK)[None], START)
    first = START + (4 * WEEK + 6) * HOUR
    came = truth(5 * WEEK)[4 * WEEK + 6 : 4 * WEEK + 12]
    came[4:] *= 0.6
    late = first + 6 * HOUR
    lower = forecast.corrected(came, first, late)
    soon = lower.left(late, late + HOUR) / forecast.left(late, late + HOUR)
    later = late + 3 * 86_400
    far = lower.left(later, later + 86_400) / forecast.left(later, later + 86_400)
    assert 0.6 < soon < 0.72
    assert far == pytest.approx(1.0, abs=0.001)
    back = forecast.corrected(
        truth(5 * WEEK)[4 * WEEK + 8 : 4 * WEEK + 14], first + 2 * HOUR, late + 2 * HOUR
    )
    assert back.ratio == pytest.approx(1.0, abs=0.02)


def test_the_hour_that_runs_counts_by_its_part():
    forecast = fit_forecast(truth(4 * WEEK)[None], START)
    first = START + 4 * WEEK * HOUR
    due = forecast.left(first, first + 0.25 * HOUR)
    assert forecast.corrected(np.array([due]), first, first + 0.25 * HOUR).ratio == pytest.approx(1.0)


def test_left_is_additive_and_the_curve_is_its_share():
    forecast = fit_forecast(noisy(truth(3 * WEEK), 7)[None], START)
    begin, middle, end = START + 1.3 * HOUR, START + 17.8 * HOUR, START + 90.1 * HOUR
    whole = forecast.left(begin, end)
    assert forecast.left(begin, middle) + forecast.left(middle, end) == pytest.approx(whole, rel=1e-9)
    assert forecast.left(end, begin) == 0.0
    curve = forecast.curve(START, 48)
    assert curve[0] == 0.0
    assert curve[-1] == pytest.approx(1.0)
    assert (np.diff(curve) >= 0).all()
    share = forecast.left(START, START + 20 * HOUR) / forecast.left(START, START + 48 * HOUR)
    assert curve[20] == pytest.approx(share)


def test_the_same_counts_give_the_same_forecast_bit_for_bit():
    counts = noisy(truth(3 * WEEK), 8)[None]

    def made() -> Forecast:
        return fit_forecast(counts, START).corrected(np.array([100.0]), START, START + 60)

    one, two = made(), made()
    assert one.expected(START, WEEK).tobytes() == two.expected(START, WEEK).tobytes()
    assert one.ratio == two.ratio


def test_what_came_is_bounded():
    forecast = flat(1)
    assert forecast.corrected(np.array([1e12]), START, START + 60).ratio == 5.0
    assert forecast.corrected(np.array([-5.0]), START, START + HOUR).ratio <= 1.0
