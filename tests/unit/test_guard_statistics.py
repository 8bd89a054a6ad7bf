"""The tests that a guard goes by: harm is found, and whoever looks how often accuses nobody."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import nchypergeom_fisher

from serving.experiment import Guardrail
from serving.guard_counts import GuardCounts, between
from serving.guard_drawn import Drawn, DrawnFailures
from serving.guard_drawn import log_ratio as drawn_ratio
from serving.guard_failures import AT_ONCE, RATIOS, SHARES, FirstFailures, Fresh, log_ratio
from serving.guard_statistics import ALPHA, AT, COLUMNS, OF_MOST, Sums, Watched, boundary, guards_of
from tests.exposed import clicked, page

NOW = 1_790_000_000.0


def units(rng: np.random.Generator, n: int, errors: float) -> Sums:
    table = np.zeros((n, len(COLUMNS)))
    table[:, AT["one"]] = 1
    table[:, AT["pages"]] = pages = rng.poisson(1.0, n) + 1
    table[:, AT["errors"]] = rng.binomial(pages, errors)
    table[:, AT["asked"]] = 20 * pages
    table[:, AT["filled"]] = 20 * pages
    table[:, AT["ms"]] = pages * rng.lognormal(2, 0.5, n)
    return Sums.of(table)


def plus(one: Sums | None, other: Sums) -> Sums:
    return other if one is None else Sums(*(a + b for a, b in zip(one, other, strict=True)))


def fresh(arm: Sums, control: Sums) -> dict[str, tuple[Fresh, Fresh]]:
    """Units that are all new to both arms."""
    pair = [Fresh(int(one.units), int(one.met[AT["errors"]])) for one in (arm, control)]
    return {"errors": (pair[0], pair[1])}


def first_breach(rng: np.random.Generator, errors: tuple[float, float], most: int = 4_000) -> int | None:
    """Exposed units of both arms when the arm goes; looked at every 100."""
    watched, arms = Watched(guards_of(()), ALPHA), [None, None]
    for seen in range(100, most + 1, 100):
        new = [units(rng, 50, rate) for rate in errors]
        arms = [plus(one, more) for one, more in zip(arms, new, strict=True)]
        if any(look.breached for look in watched.look(arms[1], arms[0], fresh(new[1], new[0]))):
            return seen
    return None


class TestTheTest:
    def test_twice_the_errors_are_found_within_2000_units(self) -> None:
        rng = np.random.default_rng(3)
        found = [first_breach(rng, (0.06, 0.12)) for _ in range(20)]
        assert sum(one is not None and one <= 2_000 for one in found) >= 19

    def test_equal_arms_are_left_alone_whoever_looks(self) -> None:
        rng = np.random.default_rng(4)
        found = [first_breach(rng, (0.06, 0.06)) for _ in range(60)]
        assert sum(one is not None for one in found) <= 5  # 3 expected at most

    def test_a_small_arm_that_met_no_large_customer_is_left_alone(self) -> None:
        """A tenth of the units; one in a hundred of those who buy has most of the value. By its own spread
        the arm was accused in one run of six.
        """
        rng, accused, n = np.random.default_rng(4), 0, 8_000
        for _ in range(60):
            table = np.zeros((n, len(COLUMNS)))
            table[:, AT["one"]] = 1
            table[:, AT["value"]] = np.where(rng.random(n) < 0.02, np.exp(rng.normal(4, 2, n)), 0)
            arm = rng.random(n) < 0.1
            watched = Watched([Guardrail(metric="value")], ALPHA)
            for most in range(1_000, n + 1, 1_000):
                seen = np.arange(n) < most
                (look,) = watched.look(Sums.of(table[seen & arm]), Sums.of(table[seen & ~arm]))
                accused += look.breached
        assert accused <= 1

    def test_few_units_and_few_events_say_nothing(self) -> None:
        rng, watched = np.random.default_rng(5), Watched(guards_of(()), ALPHA)
        few = watched.look(units(rng, 90, 0.5), units(rng, 500, 0.01))
        rare = watched.look(units(rng, 500, 0.01), units(rng, 500, 0.01))
        assert all(np.isnan(one.z) for one in few) and not any(one.breached for one in rare)
        assert [np.isnan(one.z) for one in rare if one.metric == "errors"] == [True, True]

    def test_a_declared_tolerance_replaces_the_usual_one(self) -> None:
        rng = np.random.default_rng(6)
        one, other = units(rng, 3_000, 0.2), units(rng, 3_000, 0.1)
        lax = Watched(guards_of((Guardrail(metric="errors", tolerance=1.5),)), ALPHA)
        assert [x for x in lax.look(one, other) if x.breached] == []
        usual = [x for x in Watched(guards_of(()), ALPHA).look(one, other) if x.breached]
        assert [x.metric for x in usual] == ["errors"] and "+" in usual[0].told

    def test_a_declared_value_is_guarded_against_falling(self) -> None:
        """An arm that earns more stays, one that earns less goes; so of every metric by its own direction."""
        rng = np.random.default_rng(11)

        def earning(mean: float) -> Sums:
            table = np.zeros((2_000, len(COLUMNS)))
            table[:, [AT["one"], AT["pages"]]] = 1
            table[:, AT["value"]] = rng.exponential(mean, 2_000)
            return Sums.of(table)

        guards = guards_of((Guardrail(metric="value"),))
        assert [one.metric for one in guards].count("value") == 1
        for mean, gone in ((2.0, []), (0.5, ["value"])):
            looks = Watched(guards, ALPHA).look(earning(mean), earning(1.0))
            assert [one.metric for one in looks if one.breached] == gone

    @pytest.mark.parametrize("alone", [False, True])
    def test_all_tests_together_have_alpha_and_first_errors_most_of_it(self, alone: bool) -> None:
        """Each test's own level, read back from what it asks for."""
        others = [Guardrail(metric=name) for name in ("lower_rungs", "latency", "fill", "value", "clicks")]
        watched, rng = Watched(others if alone else guards_of([]), ALPHA), np.random.default_rng(7)
        looks = watched.look(units(rng, 500, 0.1), units(rng, 500, 0.1))
        firsts = {one.metric: float(np.exp(-one.needed)) for one in looks if one.first}
        sums = [one.metric for one in looks if not one.first]
        assert firsts.keys() == ({"lower_rungs"} if alone else {"errors"}) and len(sums) >= 5
        each = [watched._share(metric) for metric in sums]
        assert sum(each) + sum(firsts.values()) == pytest.approx(ALPHA)
        assert len(set(each)) == 1 and firsts[min(firsts)] == pytest.approx(
            each[0] if alone else OF_MOST * ALPHA
        )

    def test_the_boundary_widens_away_from_where_it_is_tuned(self) -> None:
        at = [boundary(v, 100.0, 0.05) for v in (10, 100, 1_000, 100_000)]
        assert min(at) > 2.4 and at[0] > at[1] and at[3] > at[2]


def crossed(rng: np.random.Generator, rate: Any, ratio: Any, steps: int, alpha: float) -> int | None:
    """The step in which a bet on first failures crosses 1/α. 400 customers of their own rates come back again
    and again; `rate` and `ratio` of the arm: by step."""
    arm, own = rng.random(400) < 0.5, rng.gamma(0.5, 2.0, 400)
    failed, test = np.zeros(400, bool), FirstFailures(0.0)
    for step in range(steps):
        here = (rng.random(400) < 0.3) & ~failed
        chance = np.minimum(own * rate(step) * np.where(arm, ratio(step), 1.0), 1.0)
        bad = here & (rng.random(400) < chance)
        told = [Fresh(int((here & of).sum()), int((bad & of).sum())) for of in (arm, ~arm)]
        test.take(told[0], told[1])
        failed |= bad
        if test.evidence > -np.log(alpha):
            return step
    return None


class TestFirstFailures:
    def test_a_bet_is_fair_where_the_arm_is_as_bad_as_is_tolerated(self) -> None:
        """The mean of the ratio under Fisher's noncentral distribution, by another library."""
        for arm, control, failed, least in (
            (40, 60, 7, 1.0),
            (5, 90, 9, 1.0),
            (70, 30, 20, 1.5),
            (3, 2, 4, 1.0),
        ):
            law = nchypergeom_fisher(arm + control, arm, failed, least)
            each = [
                np.exp(log_ratio(Fresh(arm, k), Fresh(control, failed - k), least * RATIOS, least))
                * law.pmf(k)
                for k in range(max(0, failed - control), min(failed, arm) + 1)
            ]
            assert np.sum(each, axis=0) == pytest.approx(np.ones(len(RATIOS)), rel=1e-6)

    def test_a_better_arm_is_no_bet(self) -> None:
        law = nchypergeom_fisher(100, 50, 10, 0.7)
        each = [
            np.exp(log_ratio(Fresh(50, k), Fresh(50, 10 - k), RATIOS, 1.0)) * law.pmf(k) for k in range(11)
        ]
        assert (np.sum(each, axis=0) < 1).all()

    def test_nobody_is_accused_while_everything_fails_at_times(self) -> None:
        """Customers differ, come back, and the service has an outage: none of it is the arm's."""
        rng = np.random.default_rng(8)
        found = [
            crossed(rng, lambda at: 0.3 if 10 <= at < 13 else 0.01, lambda at: 1.0, 60, 0.05)
            for _ in range(200)
        ]
        assert sum(one is not None for one in found) <= 16  # 10 expected at most; 3 standard errors are 9

    def test_an_arm_that_turns_bad_late_is_found(self) -> None:
        def late(at: int) -> float:
            return 1.0 if at < 60 else 6.0

        found = [crossed(np.random.default_rng(seed), lambda at: 0.01, late, 200, 0.05) for seed in range(20)]
        assert sum(one is not None and one >= 60 for one in found) >= 18

    def test_the_shares_of_the_bet_are_one_bet(self) -> None:
        assert SHARES.sum() == pytest.approx(1.0) and AT_ONCE < 1 and FirstFailures(0.0).evidence == 0.0
        test = FirstFailures(0.0)
        for _ in range(30):
            test.take(Fresh(50, 0), Fresh(50, 1))
        assert -4 < test.evidence < 0  # what was not placed is still there

    def test_a_tolerance_of_rates_is_one_of_odds(self) -> None:
        """Half as many again are tolerated: at 20 % against 30 % nothing is won in the mean."""
        rng = np.random.default_rng(9)
        test = FirstFailures(0.5)
        for _ in range(200):
            test.take(Fresh(100, int(rng.binomial(100, 0.3))), Fresh(100, int(rng.binomial(100, 0.2))))
        assert test.evidence < 0
        worse = FirstFailures(0.5)
        for _ in range(200):
            worse.take(Fresh(100, int(rng.binomial(100, 0.6))), Fresh(100, int(rng.binomial(100, 0.2))))
        assert worse.evidence > 50

    @pytest.mark.parametrize(
        ("rate", "tolerance", "units"), [(0.6, 0.5, 30), (0.45, 1.0, 10), (0.3, 0.25, 20)]
    )
    def test_an_arm_as_bad_as_is_tolerated_is_not_accused(
        self, rate: float, tolerance: float, units: int
    ) -> None:
        """Rates are high, and the control's is not known yet when the first bets are placed."""
        rng, accused = np.random.default_rng(10), 0
        for _ in range(100):
            test = FirstFailures(tolerance)
            for _ in range(40):
                bad = (rng.binomial(units, rate * (1 + tolerance)), rng.binomial(units, rate))
                test.take(Fresh(units, int(bad[0])), Fresh(units, int(bad[1])))
                if test.evidence > -np.log(ALPHA):
                    accused += 1
                    break
        assert accused <= 11  # 5 expected at most; 3 standard errors are 6


class TestDrawnFailures:
    """Arms of an adaptive experiment: whom each meets, and when, moves with what was learned."""

    @pytest.mark.parametrize("least", [1.0, 1.5])
    def test_a_bet_is_fair_whatever_the_chances_were(self, least: float) -> None:
        for chance in (0.02, 0.3, 0.5, 0.95):
            arms = least * chance / (least * chance + 1 - chance)  # as bad as is tolerated
            each = [np.exp(drawn_ratio(of, chance, least * RATIOS, least)) for of in (True, False)]
            assert arms * each[0] + (1 - arms) * each[1] == pytest.approx(np.ones(len(RATIOS)))

    def failures(self, rng: np.random.Generator, times: float, pages: int = 20_000) -> Drawn:
        """The arm gets more and more of the customers who fail more often, and at times all fails."""
        poor, late = rng.random(pages) < 0.3, np.arange(pages) / pages
        chance = np.where(poor, 0.5 + 0.4 * late, 0.5 - 0.4 * late)
        rate = np.where(poor, 0.03, 0.003) + 0.03 * ((late > 0.8) & (late < 0.85))
        arm = rng.random(pages) < chance
        bad = rng.random(pages) < rate * np.where(arm, times, 1.0)
        return Drawn(arm[bad].tolist(), chance[bad].tolist())

    def test_an_arm_that_is_sent_the_worse_pages_is_not_accused(self) -> None:
        accused, counted = 0, 0
        for seed in range(100):
            step, test = self.failures(np.random.default_rng(seed), 1.0), DrawnFailures.of(0.0)
            most = -np.inf
            for one, chance in zip(*step, strict=True):
                test.take(Drawn([one], [chance]))
                most = max(most, test.evidence)
            accused += most > -np.log(ALPHA)
            counted += sum(step.in_arm) / len(step.in_arm) > 0.5
        assert accused <= 11  # 5 expected at most; 3 standard errors are 6
        assert counted > 90, "it has two pages in five, and more than half of what fails"

    def test_an_arm_that_fails_twice_as_often_is_found(self) -> None:
        found = 0
        for seed in range(20):
            test = DrawnFailures.of(0.0)
            test.take(self.failures(np.random.default_rng(seed), 2.0))
            found += test.evidence > -np.log(ALPHA)
        assert found >= 18

    def test_a_customers_hour_is_drawn_once_and_weighs_by_its_chance(self) -> None:
        counts = GuardCounts(since=NOW - NOW % 3_600)
        at = NOW - NOW % 3_600 + 60

        def met(who: str, arm: str, chance: float, later: float = 0.0, **more: Any) -> bytes:
            draw = ["e", ["control", "a"], [1 - chance, chance], int(arm == "a")]
            return page(who, arm, at=at + later, arm_draws=[draw], **more)

        bad: dict[str, Any] = {"degraded": ["full"]}
        rows = [met("u1", "a", 0.2, **bad), met("u1", "control", 0.1, 9.0, **bad), clicked("u1")]
        rows += [met("u2", "control", 0.2), met("u1", "control", 0.2, 3_600.0, **bad), clicked("u1")]
        rows += [met("u3", "a", 0.2, -3_600.0, **bad), page("u4", "a", at=at)]  # begun before; not drawn
        counts.take(rows, {"e": False}, {"e"})
        own, control = counts.sums("e", "a"), counts.sums("e", "control")
        assert own is not None and control is not None and counts.units("e") == 3
        assert own.first[AT["one"]] == pytest.approx(2.5) and own.units == pytest.approx(1.0)
        assert own.first[AT["pages"]] == pytest.approx(5.0), (
            "the second page of the hour is the first's arm's"
        )
        assert own.first[AT["clicks"]] == pytest.approx(2.5)
        assert control.first[AT["one"]] == pytest.approx(1.25)
        assert control.first[AT["clicks"]] == pytest.approx(0.625)
        failed = between(counts.drawn("e")["errors"], "a", "control")
        assert list(failed.in_arm) == [True, False] and list(failed.chance) == pytest.approx([0.2, 0.2])
        assert counts.drawn("e")["errors"] == [] and counts.fresh("e") == {}

    def test_weighted_sums_tell_the_rates_of_all_customers(self) -> None:
        """The arm has nine in ten of those who fill little: by weights both arms' fill is the same."""
        rng = np.random.default_rng(12)
        poor = rng.random(20_000) < 0.5
        chance = np.where(poor, 0.9, 0.1)
        arm = rng.random(20_000) < chance
        table = np.zeros((20_000, len(COLUMNS)))
        table[:, [AT["one"], AT["pages"]]] = 1
        table[:, AT["asked"]] = 10
        table[:, AT["filled"]] = np.where(poor, 6, 10)
        weight = 0.5 / np.where(arm, chance, 1 - chance)
        own, control = (Sums.of(table[of], weight[of]) for of in (arm, ~arm))
        looks = Watched(guards_of(()), ALPHA, drawn=True).look(own, control)
        assert not any(one.breached for one in looks) and own.units < arm.sum()
        plain = [Sums.of(table[of]) for of in (arm, ~arm)]
        assert any(
            one.metric == "fill" and one.breached for one in Watched(guards_of(()), ALPHA).look(*plain)
        )


def test_an_arm_that_nobody_has_met_yet_says_nothing():
    rng = np.random.default_rng(3)
    nobody, some = Sums.of(np.zeros((0, len(COLUMNS)))), units(rng, 5_000, 0.1)
    watched = Watched(guards_of(()), ALPHA)
    for arm, control in ((nobody, nobody), (some, nobody), (nobody, some)):
        looks = watched.look(arm, control)
        assert looks and not any(one.breached for one in looks)
    assert nobody.units == 0.0
