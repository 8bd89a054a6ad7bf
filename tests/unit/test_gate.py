"""The gate: each reason to refuse, alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serving.blend import Blend
from tests.worlds import NOW, tiny_bundle, tiny_plan
from training import gate
from training.config import GateRules
from training.gate import Comparison, Refusal, inspect, judge
from training.golden import check_golden, make_golden

RULES = GateRules(metric="recall@20", margin=0.02, index_recall=0.99, fewest_customers=20)


def against(other="popular", mine=0.20, value=0.20, customers=500):
    gap = (mine - value, mine - value - 0.01, mine - value + 0.01)
    return Comparison(other, "the same customers", mine, value, gap, customers)


def codes(verdict):
    return [refusal.code for refusal in verdict.refusals]


def test_what_has_nothing_against_it_passes():
    verdict = judge(RULES, comparisons=[against(), against("live", 0.25, 0.2)], index_recall={"content": 1.0})
    assert verdict.passed and verdict.promote and not verdict.refusals
    assert verdict.to_json() == {"passed": True, "forced": False, "refusals": []}


@pytest.mark.parametrize("other", ["popular", "live"])
def test_worse_than_another_beyond_the_margin(other):
    verdict = judge(RULES, comparisons=[against(other, 0.195, 0.2)])
    assert codes(verdict) == [f"worse_than_{other}"]
    assert not verdict.promote
    for part in ("recall@20", "0.1950", "0.2000", "2%", "500 customers", "the same customers"):
        assert part in verdict.refusals[0].text


def test_within_the_margin_is_not_worse():
    assert judge(RULES, comparisons=[against("live", 0.1961, 0.2)]).passed


def test_a_metric_that_is_not_a_number():
    assert codes(judge(RULES, comparisons=[against(mine=float("nan"))])) == ["not_finite"]


def test_too_few_customers_to_tell():
    assert codes(judge(RULES, comparisons=[against(customers=19)])) == ["too_few_customers"]


def test_golden_queries_that_fail():
    verdict = judge(RULES, comparisons=[against()], golden=["'newcomer' on home: the page is empty"])
    assert codes(verdict) == ["golden_failed"]
    assert "the page is empty" in verdict.refusals[0].text


@pytest.mark.parametrize("recall", [0.9899, float("nan")])
def test_an_index_that_misses_too_much(recall):
    verdict = judge(RULES, comparisons=[against()], index_recall={"content": recall, "product": 1.0})
    assert codes(verdict) == ["index_recall"]
    assert "content" in verdict.refusals[0].text


def test_all_reasons_are_told_together():
    verdict = judge(
        RULES,
        comparisons=[against(mine=0.1), against("live", 0.1, 0.2)],
        problems=[Refusal("not_finite", "x")],
        golden=["y"],
        index_recall={"content": 0.5},
    )
    assert codes(verdict) == [
        "not_finite",
        "worse_than_popular",
        "worse_than_live",
        "golden_failed",
        "index_recall",
    ]


def test_force_promotes_and_is_recorded():
    verdict = judge(RULES, comparisons=[against(mine=0.1)], force=True)
    assert not verdict.passed and verdict.promote
    said = verdict.to_json()
    assert said["forced"] and not said["passed"]
    assert said["refusals"][0]["code"] == "worse_than_popular"


def test_force_changes_nothing_about_what_passes():
    assert judge(RULES, comparisons=[against()], force=True).to_json()["forced"] is False


def test_a_sound_bundle_has_no_problems():
    assert inspect(tiny_bundle()) == []


@pytest.mark.parametrize("part", ["vectors", "popular", "neighbours", "stats"])
def test_values_that_are_not_finite_are_found(part):
    bundle = tiny_bundle()
    if part == "vectors":
        bundle.model.vectors[3, 1] = np.nan
    elif part == "popular":
        bundle.popular.shares[0, 2] = np.inf
    elif part == "neighbours":
        bundle.neighbours.weights[0] = np.nan
    else:
        bundle.stats["clicks"][0] = np.nan
    found = inspect(bundle)
    assert {refusal.code for refusal in found} == {"not_finite"}
    assert part in found[0].text


def test_two_items_with_one_key_are_found(monkeypatch):
    real = gate.keys64

    def colliding(ids):
        keys = real(ids)
        keys[5] = keys[2]
        return keys

    monkeypatch.setattr(gate, "keys64", colliding)
    found = inspect(tiny_bundle())
    assert [refusal.code for refusal in found] == ["key_collision"]
    assert "'i2'" in found[0].text and "'i5'" in found[0].text


def test_golden_pages_are_given_again():
    bundle, plan = tiny_bundle(), tiny_plan()
    bundle = replace(bundle, golden=make_golden(bundle, plan, NOW))
    assert len(bundle.golden) == 7  # a newcomer, and a fan of each kind
    assert all(sum(map(len, query["gives"].values())) == 22 for query in bundle.golden)
    assert check_golden(bundle, plan) == []


def test_a_bundle_that_gives_other_pages_than_when_published_is_refused():
    bundle, plan = tiny_bundle(), tiny_plan()
    golden = make_golden(bundle, plan, NOW)
    other = replace(bundle, golden=golden, blend=Blend(-bundle.blend.coefficients))
    assert any("another page" in problem for problem in check_golden(other, plan))


def test_golden_queries_see_a_page_that_cannot_be_filled():
    bundle, plan = tiny_bundle(), tiny_plan()
    golden = make_golden(bundle, plan, NOW)
    small = tiny_bundle(n_items=12)
    problems = check_golden(replace(small, golden=golden), plan)
    assert problems and "plan" in problems[0]
