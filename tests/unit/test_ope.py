"""Off-policy estimators against sums over everything that could have happened, and plain arithmetic."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from features.ids import key32
from fenliu import main
from serving.decide import decide
from serving.served import record
from serving.wire import RecommendAsk
from tests.worlds import SLOTS, customer, query, tiny_live, tiny_plan
from training.ope.diagnostics import diagnose, diagnose_chain, effective_sample
from training.ope.estimators import (
    ESTIMATORS,
    Logged,
    Parts,
    Slates,
    cascade,
    dr,
    independent,
    ips,
    onwards,
    snips,
)
from training.ope.intervals import bootstrap, empirical_bernstein
from training.ope.policies import Fixed, Replayed, Round, as_logged, as_slates, rounds_of
from training.ope.report import judge
from training.ope.rewards import cross_fitted

DATA = Path(__file__).parents[2] / "../shared/data"
LOGGING = np.array([0.5, 0.3, 0.2])
TARGET = np.array([0.2, 0.2, 0.6])
WORTH = np.array([0.1, 0.4, 0.25])


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


def test_each_estimator_by_hand():
    seen = Logged(
        column(1, 0, 2),
        column(0.5, 0.25, 0.2),
        column(0.25, 0.5, 0.2),
        column(0.5, 0.5, 1),
        column(0.7, 0.6, 0.8),
    )
    assert seen.weight.tolist() == [0.5, 2.0, 1.0]
    assert ips(seen).value == pytest.approx((0.5 * 1 + 2 * 0 + 1 * 2) / 3)
    assert snips(seen).value == pytest.approx(2.5 / 3.5)
    assert ESTIMATORS["dm"](seen).value == pytest.approx((0.7 + 0.6 + 0.8) / 3)
    assert dr(seen).value == pytest.approx((0.7 + 0.5 * 0.5 + 0.6 - 2 * 0.5 + 0.8 + 1 * 1) / 3)
    assert effective_sample(seen.weight) == pytest.approx(3.5**2 / (0.25 + 4 + 1))


@pytest.mark.parametrize("name", ["ips", "dr"])
@pytest.mark.parametrize("model", [np.zeros(3), np.array([0.9, 0.1, 0.3])])
def test_the_mean_over_all_draws_is_the_truth_whatever_the_model(name: str, model: np.ndarray):
    expected = float(TARGET @ model)
    total = 0.0
    for action, reward in product(range(3), (0.0, 1.0)):
        chance = LOGGING[action] * (WORTH[action] if reward else 1 - WORTH[action])
        one = Logged(
            column(reward),
            column(LOGGING[action]),
            column(TARGET[action]),
            column(model[action]),
            column(expected),
        )
        total += chance * ESTIMATORS[name](one).value
    assert total == pytest.approx(float(TARGET @ WORTH))


def test_a_cascade_is_right_where_places_depend_on_those_above():
    """Two places of two items; the second's worth depends on the first. The mean over all pages is exact,
    with the true model and with a wrong one; place by place it is not."""
    first_l, first_t = column(0.5, 0.5), column(0.1, 0.9)
    second_l, second_t = np.array([[0.5, 0.5], [0.4, 0.6]]), np.array([[0.9, 0.1], [0.3, 0.7]])
    own, below = column(0.2, 0.5), np.array([[0.1, 0.8], [0.6, 0.3]])
    truth = sum(first_t[a] * (own[a] + second_t[a] @ below[a]) for a in (0, 1))
    for scale in (1.0, 0.4):
        later = scale * below
        model = scale * own + (second_t * later).sum(axis=1)
        values = {"cascade": 0.0, "independent": 0.0, "plain": 0.0}
        for a, b in product((0, 1), (0, 1)):
            page = Slates(
                np.array([[own[a], below[a, b]]]),
                np.array([[first_l[a], second_l[a, b]]]),
                np.array([[first_t[a], second_t[a, b]]]),
                onward=np.array([[model[a], later[a, b]]]),
                ahead=np.array([[first_t @ model, second_t[a] @ later[a]]]),
            )
            chance = first_l[a] * second_l[a, b]
            values["cascade"] += chance * cascade(page).value
            values["plain"] += chance * cascade(Slates(page.reward, page.logged, page.target)).value
            values["independent"] += chance * independent(Slates(page.reward, page.logged, page.target)).value
        assert values["cascade"] == pytest.approx(truth) == values["plain"]
        assert values["independent"] != pytest.approx(truth, abs=0.02)


def page_of_three(q: np.ndarray, wrong: float = 1.0) -> dict[str, tuple[float, float]]:
    """(mean, variance) of the forms over all pages of three places of two items, rewards being certain:
    1 + a, 2 + b + a, 3 + c + ab. `q`: (3,) what is added to a right Q; `wrong`: factor on the logged chances.
    """
    logged, target = column(0.5, 0.25, 0.4), column(0.8, 0.6, 0.1)  # of item 1; independent of what is above
    names = ("plain", "doubly robust", "by own rewards")
    chances, found = [], {name: [] for name in names}
    for page in product((0, 1), repeat=3):
        a, b, c = page
        own = column(1 + a, 2 + b + a, 3 + c + a * b)
        p, pi = np.where(page, logged, 1 - logged), np.where(page, target, 1 - target)

        def third(a: int, b: int) -> float:
            return 3 + target[2] + a * b

        def second(a: int) -> float:
            return sum((target[1] if b else 1 - target[1]) * (2 + b + a + third(a, b)) for b in (0, 1))

        first = sum((target[0] if a else 1 - target[0]) * (1 + a + second(a)) for a in (0, 1))
        onward = column(own[0] + second(a), own[1] + third(a, b), own[2]) + q
        ahead = column(first, second(a), third(a, b)) + q
        means = column(1 + target[0], 2 + target[1] + a, third(a, b))
        rows = [column_[None] for column_ in (own, p * wrong, pi)]
        chances.append(p.prod())
        found["plain"].append(cascade(Slates(*rows)).value)
        found["doubly robust"].append(cascade(Slates(*rows, onward=onward[None], ahead=ahead[None])).value)
        found["by own rewards"].append(cascade(Slates(*rows, onward=own[None], ahead=means[None])).value)
    mean = {name: float(np.dot(chances, values)) for name, values in found.items()}
    spread = {name: float(np.dot(chances, (np.array(v) - mean[name]) ** 2)) for name, v in found.items()}
    return {name: (mean[name], spread[name]) for name in names} | {"truth": (first, 0.0)}


def test_a_cascade_is_right_where_either_the_weights_or_the_model_are():
    right = page_of_three(np.zeros(3))
    truth = right["truth"][0]
    assert all(mean == pytest.approx(truth) for mean, _ in right.values())
    assert right["doubly robust"][1] == pytest.approx(0.0, abs=1e-9)  # nothing is left to chance
    assert right["plain"][1] > 10 and right["by own rewards"][1] > 1
    assert page_of_three(column(0.5, -1, 2))["doubly robust"][0] == pytest.approx(truth)
    unweighed = page_of_three(np.zeros(3), wrong=0.7)  # chances logged too small, the model right
    assert unweighed["doubly robust"][0] == pytest.approx(truth)
    assert abs(unweighed["plain"][0] - truth) > 1 and abs(unweighed["by own rewards"][0] - truth) > 1


def test_what_is_below_by_places_that_stand_alone():
    q, v = np.array([[1.0, 2.0, 4.0]]), np.array([[10.0, 20.0, 40.0]])
    onward, ahead = onwards(q, v)
    assert onward.tolist() == [[61.0, 42.0, 4.0]] and ahead.tolist() == [[70.0, 60.0, 40.0]]


def test_places_that_stand_alone_are_right_one_by_one():
    reward, truth, total = column(0.3, 0.7), 0.0, 0.0
    logged, target = column(0.25, 0.75), column(0.6, 0.4)
    for a, b in product((0, 1), (0, 1)):
        page = Slates(
            np.array([[reward[a], reward[b]]]),
            np.array([[logged[a], logged[b]]]),
            np.array([[target[a], target[b]]]),
        )
        total += logged[a] * logged[b] * independent(page).value
        truth += target[a] * target[b] * (reward[a] + reward[b])
    assert total == pytest.approx(truth)


def test_intervals():
    rng = np.random.default_rng(1)
    top = rng.exponential(size=4_000)
    low, high = bootstrap(Parts(top), rng)
    error = top.std() / np.sqrt(len(top))
    assert (low, high) == pytest.approx((top.mean() - 1.96 * error, top.mean() + 1.96 * error), abs=0.01)
    wide = empirical_bernstein(Parts(top), 10.0)
    assert wide[0] < low < high < wide[1]
    with pytest.raises(ValueError, match="ratio"):
        empirical_bernstein(Parts(top, top), 10.0)


def test_customers_are_drawn_anew_not_their_rounds():
    """A customer's forty rounds alike are one: intervals are those of as many customers of one round."""
    rng, customers, each = np.random.default_rng(4), 300, 40
    once = (rng.random(customers) < 0.2).astype(float)
    unit, n = np.repeat(np.arange(customers), each), customers * each
    flat = np.full(n, 0.5)
    seen = Logged(np.repeat(once, each), flat, flat, flat, flat, bound=np.ones(n), unit=unit)
    alone = Logged(once, *(flat[:customers],) * 4, bound=np.ones(customers))
    found, by_one = judge(seen, rng, rounds=2_000), judge(alone, rng, rounds=2_000)
    assert (found.units, found.diagnosis.rounds) == (customers, n) and by_one.units == customers
    for name in ("ips", "snips", "dr"):
        mine, theirs = found.of(name), by_one.of(name)
        assert mine.value == pytest.approx(theirs.value)
        assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
        assert mine.bound_low is None or mine.bound_low == pytest.approx(theirs.bound_low)
    assert ips(seen).by(unit).error == pytest.approx(ips(alone).error)
    assert ips(seen).by(unit).error > 6 * ips(seen).error


def test_a_bound_is_of_what_could_have_been_drawn():
    """Not of the largest weight that was: here the heavy one, four times, was never drawn."""
    n = 1_000
    rng = np.random.default_rng(6)
    reward = (rng.random(n) < 0.3).astype(float)
    logged, target, half = np.full(n, 0.9), np.full(n, 0.6), np.full(n, 0.5)
    seen = Logged(reward, logged, target, half, half, bound=np.full(n, 4.0))
    verdict, told = judge(seen, rng, rounds=10), np.log(4 / 0.05)
    for name, width in (("ips", 4.0), ("dm", 1.0), ("dr", 9.0)):
        one, top = verdict.of(name), ESTIMATORS[name](seen).top
        radius = np.sqrt(2 * top.var(ddof=1) * told / n) + 7 * width * told / (3 * (n - 1))
        assert one.bound_high == pytest.approx(one.value + radius)
    assert judge(seen, rng, most=None, rounds=10).of("dr").bound_low is None  # CNY: no bound is known
    assert judge(Logged(reward, logged, target), rng, rounds=10).of("ips").bound_low is None


def test_a_log_that_cannot_tell_is_refused_and_says_why():
    n = 2_000
    flat = np.full(n, 0.1)
    assert not diagnose(Logged(flat, flat, flat)).warnings
    rare = flat.copy()
    rare[:] = 1e-4
    rare[:3] = 0.9
    found = diagnose(Logged(flat, flat, rare))
    assert found.refused and "effective sample of" in found.warnings[0]
    assert any("mean weight" in warning for warning in found.warnings)
    few = Logged(flat, flat, flat, unit=np.arange(n) % 20)
    assert diagnose(few).refused and "20 customers alone" in diagnose(few).warnings[0]
    half = Logged(flat, flat, flat, supported=np.full(n, 0.5))
    assert "50.0% of what the target shows" in diagnose(half).warnings[0]
    with pytest.raises(ValueError, match="logged chance is 0"):
        Logged(flat, np.zeros(n), flat)


def test_a_model_knows_no_round_that_it_is_asked_about():
    rng = np.random.default_rng(2)
    reward = rng.random(200)
    action = np.arange(200) % 4
    policy = np.full((1, 4), 0.25)
    q, _ = cross_fitted(reward, action, np.zeros(200, np.int64), policy, np.random.default_rng(0))
    other = reward.copy()
    other[7] += 100
    again, _ = cross_fitted(other, action, np.zeros(200, np.int64), policy, np.random.default_rng(0))
    assert again[7] == q[7] and (again != q).sum() > 90


def explored(explore: float):
    slots = [slot | {"explore": explore} if slot["name"] == "home.feed" else slot for slot in SLOTS]
    return tiny_live(plan=tiny_plan(slots=slots))


def test_the_products_own_pages_are_a_log():
    """Pages of one plan seen under another: exact weights, and its own value is its own mean."""
    live, other = explored(0.4), explored(0.2)
    ask, logged = RecommendAsk(user_id="u1"), []
    blobs = (None, None, None, None, None, None)
    earned = {}
    for number in range(60):
        from features.customer import Blobs, decode_customer

        known = decode_customer(Blobs(*blobs), now=query(live).now)
        page = decide(query(live, known, decision_id=f"d{number}"), live)
        logged.append(record(page, Blobs(*blobs), ask, live))
        for one in page.lotteries:
            place = page.placements[one.place]
            if place.position == 0:
                earned["u:u1", f"d{number}", key32("home.feed"), 0] = 1.0
    found = rounds_of(logged, lambda _: other, earned)
    assert found.pages == 60 and found.left_out == 0 and found.same == 1.0
    weights = {round(one.chance / one.logged[one.shown], 6) for one in found.rounds}
    assert weights == {round(0.8 / 0.6, 6), 0.5}
    rng = np.random.default_rng(0)
    seen = as_logged(found, rng)
    assert seen.supported is not None and seen.supported.min() == pytest.approx(1.0)
    (slates,) = as_slates(found, rng)
    each = len(found.rounds) // 60
    assert slates.reward.shape[0] == 60 and (slates.logged < 1).sum(axis=1).tolist() == [each] * 60
    assert slates.onward is not None and slates.model is not None and slates.expected is not None
    below = slates.onward[:, 0] - slates.model[:, 0]
    assert below == pytest.approx(slates.expected[:, 1:].sum(axis=1))
    own = as_logged(rounds_of(logged, lambda _: live, earned), rng)
    assert own.weight == pytest.approx(np.ones(len(own)))
    assert ips(own).value == own.reward.mean() == pytest.approx(1 / each)
    verdict = judge(seen, rng, slates=(slates,), rounds=50)
    assert verdict.of("snips").value == pytest.approx(verdict.logged, rel=0.5)
    assert customer().profiling


def test_every_slot_is_a_cascade_of_its_own():
    """Two slots that explore; in one of them the candidate puts something else above a lottery."""
    rounds, fixed = [], []
    rng = np.random.default_rng(5)
    for page in range(40):
        for slot, position in (("a", 0), ("a", 2), ("b", 1)):
            shown = int(rng.integers(1, 3))
            rounds.append(Round(page, slot, position, shown, {1: 0.5, 2: 0.5}, {1: 0.2, 2: 0.8}, 1.0))
        fixed.append(Fixed(page, "b", 0, 0.0))
    found = Replayed(tuple(rounds), tuple(fixed), tuple(f"u{page % 7}" for page in range(40)), 40, 0, {}, 1.0)
    a, b = as_slates(found, rng)
    assert a.chain.shape == (40, 3) and b.chain.shape == (40, 2)
    weight = as_logged(found, rng).weight.reshape(40, 3)
    assert a.chain[:, 2] == pytest.approx(weight[:, 0] * weight[:, 1]) and a.chain[:, 0].tolist() != [1] * 40
    assert not b.chain.any()  # what comes after it was not seen
    assert independent(b).value != 0
    told = diagnose_chain(b)
    assert (
        told.effective == 0 and "cascade in b is refused" in told.warnings[0] and "not 1" in told.warnings[1]
    )
    verdict = judge(as_logged(found, rng), rng, slates=(a, b), rounds=10)
    assert verdict.refused("cascade, a page")
    assert a.unit is not None and a.unit.tolist() == [page % 7 for page in range(40)]
    assert as_logged(found, rng).bound == pytest.approx(np.full(120, 1.6))


def test_a_long_cascade_needs_more_than_its_places_one_by_one():
    rng, n, places = np.random.default_rng(8), 2_000, 12
    drawn = rng.random((n, places)) < 0.7
    logged, target = np.where(drawn, 0.7, 0.3), np.where(drawn, 0.95, 0.05)
    long = Slates(np.zeros((n, places)), logged, target, slot="home.feed")
    assert not diagnose(Logged(np.zeros(n), logged[:, 0], target[:, 0])).refused
    assert (
        diagnose_chain(long).effective < 0.1 * n
        and "home.feed is refused" in diagnose_chain(long).warnings[0]
    )
    short = Slates(np.zeros((n, 3)), logged[:, :3], target[:, :3])
    assert not diagnose_chain(short).warnings
    empty = Slates(np.zeros((n, 3)), logged[:, :3], np.zeros((n, 3)), nothing=np.ones((n, 3)))
    assert diagnose_chain(empty).effective == n  # nothing is shown: what it is worth is known


@pytest.mark.data
def test_open_bandit_says_what_was_published(tmp_path: Path, capsys):
    if not (DATA / "open-bandit-men").is_dir():
        pytest.skip("the Open Bandit data is not there")
    home = ["--home", str(tmp_path), "ope", "--json", "--bootstrap", "400", "--open-bandit"]
    assert main([*home, "random-bts"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = next(one for one in told["estimates"] if one["estimator"] == "ips")
    assert [found[name] for name in ("value", "low", "high")] == pytest.approx(
        [0.0057, 0.0031, 0.0086], abs=2e-4
    )
    assert 0.9 < told["diagnosis"]["mean_weight"] < 1.1 and not told["diagnosis"]["refused"]
    assert main([*home, "bts-random", "--bootstrap", "20"]) == 1
    assert json.loads(capsys.readouterr().out)["diagnosis"]["refused"]
    assert (tmp_path / "ope" / "verdict.png").exists()
