"""EASE against its closed form, its served table, and the ensemble of models."""

from __future__ import annotations

import numpy as np
import pytest

from features.transforms import History
from serving.ensemble_model import standardised
from serving.models import EaseModel, EnsembleModel, load_model
from training import ensemble
from training.ease import Ease, everything_had, fit_weights
from training.ensemble import _ranks, choose, part_of
from training.ensemble import fit_weights as fit_ensemble
from training.evaluate import Cases, Lists, ranks_of
from training.model import Customers, Effort, Positives, TrainData
from training.popular import PopularByDecay

NO_TOKENS = np.zeros(0, np.uint32)


def data(users: int = 60, items: int = 20, rows: int = 400, seed: int = 0) -> TrainData:
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, rows).astype(np.int32)
    item = (rng.integers(0, items, rows) * rng.random(rows)).astype(np.int32)
    positives = Positives(user, item, np.zeros(rows), np.ones(rows, np.float32))
    return TrainData(positives, Customers.unknown(users), np.zeros(items, np.uint8), 0.0)


def closed_form(had: np.ndarray, l2: float) -> np.ndarray:
    inverse = np.linalg.inv(had.T @ had + l2 * np.eye(had.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def dense(model: EaseModel) -> np.ndarray:
    if model.whole is not None:
        return model.whole
    table = np.zeros((model.n_items, model.n_items))
    for item in range(model.n_items):
        start, end = model.neighbours.indptr[item : item + 2]
        table[item, model.neighbours.rows[start:end]] = model.neighbours.weights[start:end]
    return table


@pytest.mark.parametrize("whole_up_to", [0, 100])
def test_the_weights_are_the_closed_form(whole_up_to: int) -> None:
    one = data()
    model = Ease(top=20, whole_up_to=whole_up_to).fit(
        one, {"l2": 5.0, "pseudo": 0.0, "half_life_days": float("inf")}, Effort(0, 1)
    )
    had = everything_had(one).toarray().astype(float)
    met = had.sum(axis=0) > 0
    wanted = np.zeros((20, 20))
    wanted[np.ix_(met, met)] = closed_form(had[:, met], 5.0)
    np.testing.assert_allclose(dense(model), wanted, atol=1e-6)


def test_the_weights_minimise_the_objective_with_a_zero_diagonal() -> None:
    had = everything_had(data())
    full = had.toarray().astype(float)
    kept = full[:, full.sum(axis=0) > 0]
    best = closed_form(kept, 5.0)

    def loss(weights: np.ndarray) -> float:
        return float(((kept - kept @ weights) ** 2).sum() + 5.0 * (weights**2).sum())

    rng = np.random.default_rng(1)
    for _ in range(20):
        other = best + 0.01 * rng.standard_normal(best.shape)
        np.fill_diagonal(other, 0)
        assert loss(other) > loss(best)


def test_of_each_item_the_largest_weights_are_kept_those_below_zero_too() -> None:
    had = everything_had(data())
    whole, few = fit_weights(had, 5.0, 0), fit_weights(had, 5.0, 4)
    targets = np.bincount(few.rows, minlength=20)
    assert targets.max() <= 4
    assert (few.weights < 0).any()
    for target in np.unique(few.rows).tolist():
        kept = np.abs(few.weights[few.rows == target])
        every = np.sort(np.abs(whole.weights[whole.rows == target]))[::-1]
        np.testing.assert_allclose(np.sort(kept)[::-1], every[: len(kept)], rtol=1e-6)


def test_blocks_of_the_inverse_fit_together() -> None:
    one = data(users=900, items=1100, rows=20_000)
    had = everything_had(one)
    found = fit_weights(had, 20.0, 0)
    full = had.toarray().astype(float)
    met = np.flatnonzero(full.sum(axis=0) > 0)
    wanted = np.zeros((1100, 1100))
    wanted[np.ix_(met, met)] = closed_form(full[:, met], 20.0)
    table = np.zeros((1100, 1100))
    table[np.repeat(np.arange(1100), np.diff(found.indptr)), found.rows] = found.weights
    np.testing.assert_allclose(table, wanted, atol=1e-6)


def test_no_history_is_popularity_and_history_counts_at_once() -> None:
    one = data()
    model = Ease().fit(one, {"l2": 5.0, "pseudo": 0.01, "half_life_days": float("inf")}, Effort(0, 1))
    nothing = model.represent(History(np.zeros(0, np.int32), np.zeros(0, np.float32)), NO_TOKENS, 0)
    counts = everything_had(one).sum(axis=0)
    assert int(np.argmax(model.score_all(nothing))) == int(np.argmax(counts))
    some = model.represent(History(np.array([4], np.int32), np.ones(1, np.float32)), NO_TOKENS, 0)
    assert not np.array_equal(model.score_all(nothing), model.score_all(some))


def test_all_weights_score_as_the_table_of_all_does() -> None:
    one = data()
    params = {"l2": 5.0, "pseudo": 0.5, "half_life_days": 30.0}
    table, whole = (Ease(top=20, whole_up_to=n).fit(one, params, Effort(0, 1)) for n in (0, 100))
    assert table.whole is None
    assert whole.whole is not None
    history = History(np.array([2, 4, 99], np.int32), np.array([1, 3, 1], np.float32))
    scores = [model.score_all(model.represent(history, NO_TOKENS, 0)) for model in (table, whole)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)


def test_a_ridge_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        fit_weights(everything_had(data()), 0.0, 10)


def test_what_is_saved_answers_the_same(tmp_path) -> None:
    one = data()
    ease = Ease().fit(one, {"l2": 5.0, "pseudo": 0.01, "half_life_days": float("inf")}, Effort(0, 1))
    popular = PopularByDecay().fit(one, {"half_life_days": float("inf"), "smoothing": 10.0}, Effort(0, 1))
    both = EnsembleModel([ease, popular], [1.0, 0.5])
    history = History(np.array([2, 4], np.int32), np.ones(2, np.float32))
    for model in (ease, both):
        model.save(tmp_path / model.name)
        again = load_model(tmp_path / model.name)
        assert type(again) is type(model)
        taste, other = (one.represent(history, NO_TOKENS, 0) for one in (model, again))
        assert np.array_equal(model.score_all(taste), again.score_all(other))
        assert np.array_equal(model.nearest(taste, 5, 0).rows, again.nearest(other, 5, 0).rows)
        assert np.array_equal(model.score(taste, np.array([3, 1], np.int32)), model.score_all(taste)[[3, 1]])


def test_standardised_scores_ignore_what_has_none() -> None:
    scores = np.array([1.0, 2.0, 3.0, np.nan], np.float32)
    found = standardised(scores)
    assert found[:3].mean() == pytest.approx(0, abs=1e-6)
    assert found[:3].std() == pytest.approx(1, rel=1e-5)
    assert found[3] == found[0]
    assert not standardised(np.full(4, 2.0, np.float32)).any()


def test_an_ensemble_is_of_one_catalogue() -> None:
    parts = [
        Ease().fit(data(items=n), {"l2": 5.0, "pseudo": 0.0, "half_life_days": 1.0}, Effort(0, 1))
        for n in (20, 21)
    ]
    with pytest.raises(ValueError, match="one catalogue"):
        EnsembleModel(parts, [1.0, 1.0])


def test_what_is_far_down_for_all_models_changes_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    n, items = 40, 700
    hidden, *seen = rng.standard_normal((4, n, items)).astype(np.float32)
    held = np.argpartition(-hidden, 3, axis=1)[:, :3].astype(np.int32)
    lists = Lists.group(np.repeat(np.arange(n), 3), held.ravel(), n)
    cases = Cases(np.arange(n, dtype=np.int32), lists, Lists.group(held[:0, 0], held[:0, 0], n), items)
    scorers = {f"m{k}": (hidden + (k + 1) * noise).__getitem__ for k, noise in enumerate(seen)}
    whole = fit_ensemble(scorers, cases, "ndcg@10", 7)
    monkeypatch.setattr(ensemble, "BEST", 150)
    assert fit_ensemble(scorers, cases, "ndcg@10", 7) == whole


@pytest.mark.parametrize("held", [1, 3, 8])
def test_ranks_by_comparison_are_ranks_by_sorting(held: int) -> None:
    rng = np.random.default_rng(held)
    for _ in range(20):
        scores = rng.integers(0, 9, 30).astype(np.float32)
        scores[rng.integers(0, 30, 4)] = np.nan
        rows = np.sort(rng.choice(30, held, replace=False))
        assert np.array_equal(_ranks(scores, rows), ranks_of(scores, rows.astype(np.int32)))


def test_beside_others_another_ridge_may_be_better() -> None:
    own = {"ease": {"l2": 300.0, "half_life_days": 30.0}, "popular": {"half_life_days": 7.0}}
    worth = {300.0: 0.5, 1000.0: 0.4, 100.0: 0.6, 30.0: 0.6}
    fits = lambda name, params: (name, params.get("l2"))  # noqa: E731
    weigh = lambda fitted, _: ({"ease": 1.0, "popular": 0.0}, worth[fitted["ease"][1]])  # noqa: E731
    value, params = choose(own, fits, {"ease": Ease()}, weigh)
    assert value == 0.6
    assert params == {
        "half_life_days": 30.0,
        "ease.weight": 1.0,
        "ease.l2": 30.0,
        "ease.half_life_days": 30.0,
    }
    assert part_of(params, "ease") == {"l2": 30.0, "half_life_days": 30.0}


@pytest.mark.parametrize("cells", [60_000_000, 1])
def test_weights_follow_the_model_that_knows(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "MOST_CELLS", cells)  # the second: a sample of the cases
    rng = np.random.default_rng(0)
    held = rng.integers(0, 50, 80).astype(np.int32)
    cases = Cases(
        np.arange(80, dtype=np.int32),
        Lists.group(np.arange(80), held, 80),
        Lists.group(np.zeros(0, np.int64), np.zeros(0, np.int32), 80),
        50,
    )
    noise = rng.standard_normal((80, 50)).astype(np.float32)
    signal = rng.standard_normal((80, 50)).astype(np.float32)
    signal[np.arange(80), held] += 2.5
    weights = fit_ensemble({"noise": noise.__getitem__, "signal": signal.__getitem__}, cases, "ndcg@10", 0)
    assert weights["signal"] == 1.0
    assert weights["noise"] < 0.3
