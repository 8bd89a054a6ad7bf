"""The price controller: on target from wrong starts, shocks and noise; bounded, finite, signed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from serving.curves import (
    ASAP,
    EVEN,
    FLAT,
    FRONT_LOADED,
    HOUR_S,
    asap_by,
    fit_season,
    target,
    timeline,
)
from serving.pacing import (
    AHEAD,
    AT_CEILING,
    BEHIND,
    ENDED,
    MET,
    WAITING,
    Goals,
    GoalsSeen,
    PacingSettings,
    Quotas,
    QuotasSeen,
    begin,
    learned_ratio,
    progress_of,
    update,
)

NONE = np.zeros(0)
NO_QUOTAS = Quotas(NONE, NONE, NONE)
NO_SPENT = QuotasSeen(NONE, NONE, NONE, NONE, NONE)


def goals(**changes):
    columns = {
        "pacing": np.array([EVEN], np.uint8),
        "ceiling": np.array([2.0]),
        "start": np.array([0.1]),
        "answer": np.array([20.0]),
        "counted_late": np.array([False]),
    }
    return Goals(**{**columns, **changes})


def seen(**changes):
    columns = {name: np.array([0.0]) for name in GoalsSeen._fields}
    columns |= {"wanted": np.array([1000.0]), "whole": np.array([1.0]), "eligible": np.array([3000.0])}
    return GoalsSeen(**{**columns, **{name: np.array([value]) for name, value in changes.items()}})


def fly(start, right=0.12, answer=20.0, wanted=4000.0, steps=1500, shock=None, pacing=EVEN, seed=1):
    """One campaign whose delivery is Poisson with mean proportional to exp(answer·(price − right))."""
    rng = np.random.default_rng(seed)
    fixed = goals(start=np.array([start]), pacing=np.array([pacing], np.uint8))
    state, delivered, worst = begin(fixed, NO_QUOTAS), 0.0, 0.0
    for step in range(steps):
        part = step / steps
        now = seen(wanted=wanted, delivered=delivered, passed=part, eligible=wanted * 3)
        state, paced = update(state, fixed, NO_QUOTAS, now, NO_SPENT)
        assert np.isfinite(paced.goals).all()
        price = paced.goals[0]
        supply = 1.0 if shock is None else shock(part)
        mean = supply * wanted / steps * min(np.exp(answer * (price - right)), 3.0) if price > 0 else 0.0
        delivered += rng.poisson(mean)
        worst = max(worst, abs(delivered / wanted - part))
    return delivered / wanted, worst


class TestGoals:
    @pytest.mark.parametrize("start", [0.0, 0.12, 0.5])
    @pytest.mark.parametrize("answer", [8.0, 20.0, 50.0])
    def test_lands_on_target_though_price_and_answer_were_wrong(self, start, answer):
        reached, _ = fly(start, answer=answer, steps=4000)
        assert 0.995 <= reached <= 1.01

    def test_even_stays_on_its_curve(self):
        _, worst = fly(0.12)
        assert worst < 0.03

    def test_a_drop_and_a_burst_are_worked_off(self):
        reached, worst = fly(
            0.12, shock=lambda part: 0.5 if 0.3 < part < 0.35 else 4 if 0.6 < part < 0.61 else 1
        )
        assert 0.995 <= reached <= 1.01
        assert worst < 0.06

    @pytest.mark.parametrize("pacing", [ASAP, FRONT_LOADED])
    def test_other_curves_end_on_target_too(self, pacing):
        reached, _ = fly(0.12, pacing=pacing)
        assert 0.995 <= reached <= 1.01

    def test_what_cannot_be_delivered_is_at_its_ceiling_and_says_so(self):
        fixed = goals()
        state = begin(fixed, NO_QUOTAS)
        for step in range(1, 500):
            state, paced = update(state, fixed, NO_QUOTAS, seen(passed=step / 500), NO_SPENT)
        assert paced.goals[0] == 2.0
        assert paced.causes[0] == AT_CEILING

    def test_after_the_ceiling_it_comes_down_at_once(self):
        """Anti-windup: the integral part did not grow while the price was at its ceiling."""
        fixed = goals()
        state = begin(fixed, NO_QUOTAS)
        for step in range(1, 500):
            state, paced = update(state, fixed, NO_QUOTAS, seen(passed=step / 1000), NO_SPENT)
        state, paced = update(state, fixed, NO_QUOTAS, seen(passed=0.5, delivered=560.0), NO_SPENT)
        assert paced.goals[0] < 2.0

    def test_met_takes_the_tag_off(self):
        _, paced = update(
            begin(goals(), NO_QUOTAS), goals(), NO_QUOTAS, seen(passed=0.5, delivered=1001.0), NO_SPENT
        )
        assert paced.goals[0] == -2.0
        assert paced.causes[0] == MET

    def test_in_flight_counts(self):
        _, paced = update(
            begin(goals(), NO_QUOTAS),
            goals(),
            NO_QUOTAS,
            seen(passed=0.9, delivered=990.0, in_flight=11.0),
            NO_SPENT,
        )
        assert paced.causes[0] == MET

    @pytest.mark.parametrize(
        ("passed", "delivered", "cause"),
        [(0.0, 0.0, WAITING), (0.5, 300.0, BEHIND), (0.5, 700.0, AHEAD), (1.0, 990.0, ENDED)],
    )
    def test_causes(self, passed, delivered, cause):
        _, paced = update(
            begin(goals(), NO_QUOTAS), goals(), NO_QUOTAS, seen(passed=passed, delivered=delivered), NO_SPENT
        )
        assert paced.causes[0] == cause

    def test_how_often_it_is_called_hardly_matters(self):
        often, _ = fly(0.3, steps=4000)
        seldom, _ = fly(0.3, steps=800)
        assert abs(often - seldom) < 0.01

    def test_a_share_begins_anew_each_day(self):
        fixed = goals()
        state, _ = update(
            begin(fixed, NO_QUOTAS), fixed, NO_QUOTAS, seen(passed=0.9, delivered=900), NO_SPENT
        )
        level = state.level[0]
        state, paced = update(state, fixed, NO_QUOTAS, seen(passed=0.01, delivered=10), NO_SPENT)
        assert state.level[0] == pytest.approx(level, rel=0.05)
        assert np.isfinite(paced.goals).all()


class TestCountedLate:
    late = goals(counted_late=np.array([True]))

    def test_young_displays_count_as_expected_times_the_ratio(self):
        now = seen(delivered=500.0, matured=300.0, actual=360.0)
        progress, ratio = progress_of(now, self.late, PacingSettings())
        assert ratio[0] == pytest.approx(560 / 500)
        assert progress[0] == pytest.approx(360 + 200 * 560 / 500)

    def test_late_counts_alone_never_lower_progress(self):
        """Nothing has matured yet: what was displayed counts as expected."""
        progress, _ = progress_of(seen(delivered=500.0), self.late, PacingSettings())
        assert progress[0] == 500.0

    def test_a_feed_that_stands_still_is_bounded(self):
        now = seen(delivered=10_000.0, matured=9_000.0, actual=0.0)
        progress, ratio = progress_of(now, self.late, PacingSettings())
        assert ratio[0] == 0.25
        assert progress[0] >= 2_500.0

    def test_displays_have_no_ratio(self):
        assert learned_ratio(seen(matured=10.0, actual=99.0), goals(), PacingSettings())[0] == 1.0


class TestQuotas:
    fixed = Quotas(np.array([2.0]), np.array([0.0]), np.array([20.0]))
    no_goals = Goals(NONE.astype(np.uint8), NONE, NONE, NONE, NONE.astype(bool))
    unseen = GoalsSeen(*(NONE for _ in GoalsSeen._fields))

    def spend(self, natural, steps=2000, at_most=1000.0):
        state, spent, prices = begin(self.no_goals, self.fixed), 0.0, []
        for step in range(steps):
            one = np.ones(1)
            now = QuotasSeen(one * at_most, one * spent, one * 0, one * step / steps, one)
            state, paced = update(state, self.no_goals, self.fixed, self.unseen, now)
            prices.append(paced.quotas[0])
            if not paced.closed[0]:
                spent += natural / steps * np.exp(-20.0 * paced.quotas[0])
        return spent, np.array(prices), paced

    def test_costs_nothing_when_it_does_not_bind(self):
        spent, prices, _ = self.spend(600.0)
        assert spent == pytest.approx(600.0)
        assert (prices == 0.0).all()

    def test_is_spread_over_the_flight_when_it_binds(self):
        spent, prices, _ = self.spend(2000.0)
        assert 980.0 <= spent <= 1001.0
        assert np.median(prices[500:]) == pytest.approx(np.log(2.0) / 20.0, rel=0.1)

    def test_is_closed_when_spent(self):
        one = np.ones(1)
        now = QuotasSeen(one * 10, one * 9, one, one * 0.5, one)
        _, paced = update(begin(self.no_goals, self.fixed), self.no_goals, self.fixed, self.unseen, now)
        assert paced.closed[0]


wild = arrays(np.float64, 3, elements=st.floats(allow_nan=True, allow_infinity=True))


@settings(max_examples=150, deadline=None)
@given(st.lists(wild, min_size=8, max_size=8), st.lists(wild, min_size=5, max_size=5), wild, wild)
def test_prices_are_finite_and_bounded_whatever_comes(of_goals, of_quotas, start, answer):
    ceiling = np.array([0.5, 2.0, 40.0])
    fixed = Goals(
        np.array([EVEN, ASAP, FRONT_LOADED], np.uint8), ceiling, start, answer, np.array([False, True, False])
    )
    quotas = Quotas(ceiling, start, answer)
    state = begin(fixed, quotas)
    for _ in range(3):
        with np.errstate(over="ignore", invalid="ignore"):
            state, paced = update(state, fixed, quotas, GoalsSeen(*of_goals), QuotasSeen(*of_quotas))
        assert np.isfinite(paced.goals).all()
        assert (np.abs(paced.goals) <= ceiling).all()
        assert np.isfinite(paced.quotas).all()
        assert ((paced.quotas >= 0) & (paced.quotas <= ceiling)).all()
        assert all(np.isfinite(column).all() for column in state)


class TestCurves:
    def test_season_is_learned_from_counts(self):
        hour = np.arange(24 * 28)
        counts = 100.0 * (1.0 + 0.5 * np.sin(hour / 24 * 2 * np.pi)) * np.where(hour // 24 % 7 >= 5, 0.5, 1.0)
        start = 4 * 86_400.0  # a Monday
        season = fit_season(counts, start)
        ahead = season.weights(start + 28 * 86_400.0, HOUR_S, 168)
        assert np.corrcoef(ahead, counts[:168])[0, 1] > 0.995

    def test_a_payday_is_learned(self):
        start = 1_793_548_800.0 - 30 * 86_400.0
        counts = np.full(24 * 60, 100.0)
        first = fit_season(counts, start).days
        assert first == pytest.approx(np.ones(32), abs=1e-9)
        times = start + (np.arange(len(counts)) + 0.5) * HOUR_S
        tenth = (times.astype("datetime64[s]").astype("datetime64[D]").astype(str).astype("U10")).tolist()
        counts[[day.endswith("-10") for day in tenth]] *= 2.0
        assert fit_season(counts, start).days[10] > 1.4

    def test_less_than_a_week_says_nothing(self):
        assert fit_season(np.ones(24), 0.0) is FLAT

    def test_a_timeline_sums_open_time_only(self):
        opened = np.array([[True, True, False, True]])
        line = timeline(np.array([1.0, 2.0, 4.0, 8.0]), opened, 0.0, 10.0)
        assert [float(line.at(now)[0][0]) for now in (-5.0, 0.0, 5.0, 20.0, 30.0, 40.0, 99.0)] == [
            0, 0, 0.5, 3, 3, 11, 11,
        ]  # fmt: skip
        assert line.at(0.0)[1][0] == 11.0

    def test_a_timeline_of_other_lengths_is_refused(self):
        with pytest.raises(ValueError, match="do not fit"):
            timeline(np.ones(3), np.ones((1, 4), bool), 0.0, 1.0)

    @given(arrays(np.float64, 5, elements=st.floats(0, 1)))
    def test_targets_rise_from_nothing_to_all(self, part):
        part = np.sort(part)
        for pacing in (EVEN, ASAP, FRONT_LOADED):
            column = np.full(5, pacing, np.uint8)
            due = target(part, column, np.full(5, 0.4))
            assert (np.diff(due) >= 0).all()
            assert (due >= part - 1e-12).all()
            ends = target(np.array([0.0, 1.0]), column[:2], np.full(2, 0.4))
            assert ends.tolist() == [0.0, 1.0]

    def test_asap_never_needs_all_the_traffic(self):
        by = asap_by(np.array([10.0, 600.0, 999.0]), np.full(3, 1000.0))
        assert by == pytest.approx([0.25, 0.9, 1.0])
