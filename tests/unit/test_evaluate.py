"""Metrics against hand-computed values and brute force."""

from __future__ import annotations

import numpy as np
import pytest

from serving.ials_model import Ridge
from serving.models import EnsembleModel, IalsModel, NeighbourModel, Neighbours, Prior
from training import evaluate, scoring
from training.evaluate import (
    Cases,
    Lists,
    Measures,
    Past,
    Ranking,
    difference,
    measure,
    rank,
    ranks_of,
)
from training.model import Customers
from training.scoring import scorer_of


def cases_of(held, seen, n_items):
    def lists(parts):
        pairs = [(case, item) for case, items in enumerate(parts) for item in items]
        case = np.array([pair[0] for pair in pairs], np.int64)
        return Lists.group(case, np.array([pair[1] for pair in pairs], np.int32), len(parts))

    return Cases(np.arange(len(held), dtype=np.int32), lists(held), lists(seen), n_items)


def test_by_hand():
    # Customer 0 wants items 1 and 3; the model ranks 0, 1, 2, 3, 4. Customer 1 wants 0, ranked second.
    cases = cases_of([[1, 3], [0]], [[], []], 5)
    scores = np.array([[5, 4, 3, 2, 1], [4, 5, 1, 2, 3]], np.float32)
    ranking = rank(lambda case: scores[case], cases, depth=2)
    assert ranking.ranks.tolist() == [1, 3, 1]
    assert ranking.top.tolist() == [[0, 1], [1, 0]]
    values = measure(ranking, cases, np.array([0.5, 0.25, 0.125, 0.1, 0.1]), ks=(1, 2, 4)).values()
    assert values["hr@1"] == 0 and values["hr@2"] == 1
    assert values["recall@2"] == pytest.approx((1 / 2 + 1) / 2)
    assert values["recall@4"] == 1
    assert values["recall_capped@1"] == 0
    assert values["recall_capped@2"] == pytest.approx((1 / 2 + 1) / 2)
    ideal = 1 + 1 / np.log2(3)
    assert values["ndcg@2"] == pytest.approx(((1 / np.log2(3)) / ideal + 1 / np.log2(3)) / 2)
    assert values["mrr"] == pytest.approx(1 / 2)
    assert values["map"] == pytest.approx(((1 / 2 + 2 / 4) / 2 + 1 / 2) / 2)
    assert values["coverage@2"] == pytest.approx(2 / 5)
    assert values["novelty@2"] == pytest.approx((1 + 2) / 2)


def test_the_two_recalls_differ_by_their_denominator():
    cases = cases_of([list(range(30))], [[]], 40)
    values = measure(rank(lambda _: -np.arange(40, dtype=np.float32), cases), cases, np.ones(40)).values()
    assert values["recall@10"] == pytest.approx(10 / 30)
    assert values["recall_capped@10"] == 1


def test_what_was_seen_is_not_ranked():
    cases = cases_of([[2]], [[0, 1]], 4)
    ranking = rank(lambda _: np.array([9, 8, 7, 6], np.float32), cases, depth=4)
    assert ranking.ranks.tolist() == [0]
    assert ranking.top.tolist() == [[2, 3, -1, -1]]


def test_what_cannot_be_scored_is_not_found():
    cases = cases_of([[0, 1]], [[]], 3)
    ranking = rank(lambda _: np.array([np.nan, 1, np.inf], np.float32), cases)
    assert ranking.ranks.tolist() == [-1, 0]
    values = measure(ranking, cases, np.ones(3)).values()
    assert values["recall@10"] == 0.5
    assert values["map"] == pytest.approx(0.5)


def test_ties_go_to_the_lower_row_as_in_serving():
    scores = np.array([1, 2, 2, 2, 0], np.float32)
    assert ranks_of(scores, np.array([1, 2, 3, 0], np.int32)).tolist() == [0, 1, 2, 3]
    cases = cases_of([[3]], [[]], 5)
    ranking = rank(lambda _: scores, cases, depth=4)
    assert ranking.top[0, ranking.ranks[0]] == 3


def brute(scores, held, seen, k):
    order = [i for i in np.argsort(-scores, kind="stable") if i not in seen]
    top = order[:k]
    hits = [i in held for i in top]
    gain = sum(hit / np.log2(place + 2) for place, hit in enumerate(hits))
    ideal = sum(1 / np.log2(place + 2) for place in range(min(k, len(held))))
    ranks = sorted(order.index(i) for i in held)
    return {
        f"recall@{k}": sum(hits) / len(held),
        f"recall_capped@{k}": sum(hits) / min(k, len(held)),
        f"ndcg@{k}": gain / ideal,
        f"hr@{k}": float(any(hits)),
        "mrr": 1 / (ranks[0] + 1),
        "map": np.mean([(nth + 1) / (place + 1) for nth, place in enumerate(ranks)]),
    }


def test_against_brute_force():
    rng = np.random.default_rng(4)
    n, customers = 60, 25
    held = [rng.choice(n, rng.integers(1, 30), replace=False).tolist() for _ in range(customers)]
    seen = [[i for i in rng.choice(n, 20).tolist() if i not in held[c]] for c in range(customers)]
    scores = np.round(rng.normal(0, 1, (customers, n)), 1).astype(np.float32)  # with ties
    cases = cases_of(held, seen, n)
    measures = measure(rank(lambda case: scores[case], cases), cases, np.ones(n))
    for k in (10, 20, 50):
        wanted = [brute(scores[c], set(held[c]), set(seen[c]), k) for c in range(customers)]
        for name in wanted[0]:
            assert measures.of_case(name) == pytest.approx([one[name] for one in wanted]), name


def test_intervals_hold_the_mean_and_narrow_with_customers():
    rng = np.random.default_rng(1)

    def measures(n):
        return Measures(("hr@10",), (rng.random((n, 1)) < 0.3).astype(float), {})

    few, many = measures(100), measures(10_000)
    low, high = few.intervals(np.random.default_rng(2))["hr@10"]
    assert low < few.value("hr@10") < high
    narrow = many.intervals(np.random.default_rng(2))["hr@10"]
    assert (narrow[1] - narrow[0]) < (high - low) / 5
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 100), rel=0.25)
    assert few.intervals(np.random.default_rng(2)) == few.intervals(np.random.default_rng(2))


def test_a_paired_difference_is_narrower_than_two_intervals():
    rng = np.random.default_rng(3)
    base = rng.random((500, 1))
    a, b = Measures(("mrr",), base + 0.01, {}), Measures(("mrr",), base, {})
    gap, low, high = difference(a, b, "mrr", np.random.default_rng(1))
    assert gap == pytest.approx(0.01) and low == pytest.approx(0.01) and high == pytest.approx(0.01)


def test_no_customers_give_zeros_not_errors():
    cases = cases_of([], [], 5)
    ranking = Ranking(np.zeros(0, np.int64), np.zeros((0, 50), np.int32))
    measures = measure(ranking, cases, np.ones(5))
    assert set(measures.values().values()) == {0.0}
    assert measures.intervals(np.random.default_rng(1))["mrr"] == (0.0, 0.0)


def test_an_unknown_metric_is_named():
    cases = cases_of([[1]], [[]], 5)
    measures = measure(rank(lambda _: np.arange(5, dtype=np.float32), cases), cases, np.ones(5))
    with pytest.raises(KeyError, match="auc"):
        measures.value("auc")


def test_cases_can_be_sampled():
    cases = cases_of([[1], [2, 3], [4]], [[0], [], [1, 2]], 5).take(np.array([2, 0]))
    assert cases.users.tolist() == [2, 0]
    assert [cases.held.of(0).tolist(), cases.held.of(1).tolist()] == [[4], [1]]
    assert [cases.seen.of(0).tolist(), cases.seen.of(1).tolist()] == [[1, 2], [0]]


def test_threads_and_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    n_items, n = 300, 150
    monkeypatch.setattr(evaluate, "WORTH_THREADS", 1)
    held = Lists.group(np.arange(n), rng.integers(0, n_items, n).astype(np.int32), n)
    seen = Lists.group(np.arange(n), rng.integers(0, n_items, n).astype(np.int32), n)
    cases = Cases(np.arange(n, dtype=np.int32), held, seen, n_items)
    indptr = np.minimum(np.arange(n + 1) // 2, 70).astype(np.int64) * 2  # some without any history
    past = Past(
        indptr, rng.integers(0, n_items, indptr[-1]).astype(np.int32), np.ones(indptr[-1], np.float32)
    )
    vectors = np.linalg.qr(rng.standard_normal((n_items, 8)))[0].astype(np.float32)
    vectors[7] = 0  # nobody met it
    prior = Prior(np.ones(8, np.float32), np.zeros(0, np.uint32), np.zeros((0, 8), np.float32))
    kinds = np.zeros(n_items, np.uint8)
    vector = IalsModel(vectors, kinds, prior, ridge=Ridge(0.1, 0.1, 1.0, 3.0), strength=1.0)
    shares = rng.random((1, n_items)).astype(np.float32)
    popular = NeighbourModel(
        Neighbours(np.zeros(n_items + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)),
        shares, np.zeros(0, np.uint16), kinds, pseudo=1.0,
    )  # fmt: skip
    whole = EnsembleModel([vector, popular], [1.0, 0.5], popular, worth=2.0)
    for model in (vector, popular, whole):
        plain = rank(scorer_of(model, cases, past, Customers.unknown(n)), cases, 10)
        with monkeypatch.context() as patch:
            patch.setattr(scoring, "FEWEST_CELLS", 1)
            scorer = scorer_of(model, cases, past, Customers.unknown(n))
            fast = rank(scorer, cases, 10, threads=2)
        assert np.array_equal(plain.ranks, fast.ranks)
        assert np.array_equal(plain.top, fast.top)
