"""iALS against a plain reference, its objective, and the served fold-in."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import sparse

from features.transforms import History
from serving.ials_model import IalsModel, Ridge
from serving.models import Prior, load_model
from training.ials import Factors, Fitting, FrequencyALS, fit_factors, observed, served
from training.model import Customers, Effort, Positives, TrainData

PARAMS = {
    "factors": 6.0,
    "epochs": 5.0,
    "regularization": 0.05,
    "unobserved": 0.2,
    "ratio": 0.0,
    "exponent": 0.8,
    "half_life_days": float("inf"),
    "strength": 2.0,
}
NO_TOKENS = np.zeros(0, np.uint32)


def data(seed: int = 0, users: int = 40, items: int = 25, rows: int = 300) -> TrainData:
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, rows).astype(np.int32)
    item = (rng.integers(0, items, rows) * rng.random(rows)).astype(np.int32)
    weight = rng.choice([1.0, 3.0], rows).astype(np.float32)
    positives = Positives(user, item, np.zeros(rows), weight)
    return TrainData(positives, Customers.unknown(users), np.zeros(items, np.uint8), 0.0)


def reference(seen: sparse.csr_matrix, users: np.ndarray, items: np.ndarray, params: dict, epochs: int):
    """Each row's normal equations, one after another, in double precision."""
    v = seen.toarray().astype(np.float64)
    x, y = users.astype(np.float64), items.astype(np.float64)
    lam, a0, nu = params["regularization"], params["unobserved"], params["exponent"]

    def solve(v: np.ndarray, other: np.ndarray) -> np.ndarray:
        found = np.zeros((len(v), other.shape[1]))
        for row, weights in enumerate(v):
            ridge = lam * (weights.sum() + a0 * v.shape[1]) ** nu
            system = (
                other.T @ (weights[:, None] * other) + a0 * other.T @ other + ridge * np.eye(other.shape[1])
            )
            found[row] = np.linalg.solve(system, weights @ other)
        return found

    for _ in range(epochs):
        x = solve(v, y)
        y = solve(v.T, x)
    return x, y


def test_a_whole_block_is_the_exact_solution_of_the_reference() -> None:
    one = data()
    seen = observed(one, float("inf"))
    fitting = Fitting(seen, 6, PARAMS, Effort(3, 2), block=6)
    x, y = reference(seen, fitting.users, fitting.items, PARAMS, 3)
    for _ in range(3):
        fitting.epoch()
    np.testing.assert_allclose(fitting.users, x, atol=2e-4)
    np.testing.assert_allclose(fitting.items, y, atol=2e-4)


@pytest.mark.parametrize("block", [1, 2, 4, 6])
def test_every_epoch_lowers_the_objective_whatever_the_block(block: int) -> None:
    fitting = Fitting(observed(data(1), float("inf")), 6, PARAMS, Effort(3, 1), block)
    values = [fitting.objective()]
    for _ in range(8):
        fitting.epoch()
        values.append(fitting.objective())
    assert all(later <= before * (1 + 1e-5) for before, later in pairwise(values))
    assert values[-1] < 0.9 * values[0]


def test_blocks_end_where_the_whole_solver_ends() -> None:
    seen = observed(data(2), float("inf"))
    ends = []
    for block in (2, 6):
        fitting = Fitting(seen, 6, PARAMS, Effort(3, 1), block)
        for _ in range(150):
            fitting.epoch()
        ends.append(fitting.objective())
    assert ends[0] == pytest.approx(ends[1], rel=0.01)


def test_a_fit_repeats_bit_for_bit_on_any_number_of_threads() -> None:
    one = data()
    alone, both = (fit_factors(one, PARAMS, Effort(5, threads)) for threads in (1, 2))
    assert np.array_equal(alone.items, both.items)
    assert np.array_equal(alone.users, both.users)


def test_serving_folds_a_user_in_to_the_vector_that_training_would_solve() -> None:
    one = data()
    params = PARAMS | {"strength": 0.0, "epochs": 40.0}
    found = fit_factors(one, params, Effort(3, 1))
    model = served(found, one, params)
    seen = observed(one, float("inf"))
    v = seen.toarray()
    for user in range(one.n_users):
        rows = np.flatnonzero(v[user]).astype(np.int32)
        if not len(rows):
            continue
        history = History(rows, (np.exp2(v[user][rows]) - 1).astype(np.float32))
        wanted = _solved(v[user], found.items, params)
        scores = model.score_all(model.represent(history, NO_TOKENS, 0))
        met = model.has_vector
        np.testing.assert_allclose(scores[met], (found.items @ wanted)[met], atol=2e-4)


def _solved(weights: np.ndarray, items: np.ndarray, params: dict) -> np.ndarray:
    y = items.astype(np.float64)
    ridge = params["regularization"] * (weights.sum() + params["unobserved"] * len(y)) ** params["exponent"]
    system = y.T @ (weights[:, None] * y) + params["unobserved"] * y.T @ y + ridge * np.eye(y.shape[1])
    return np.linalg.solve(system, weights @ y)


def model_of(width: int = 4, items: int = 12, strength: float = 3.0) -> IalsModel:
    rng = np.random.default_rng(4)
    turn = np.linalg.qr(rng.standard_normal((items, width)))[0]
    vectors = (turn * np.arange(width, 0, -1)).astype(np.float32)
    tokens = np.array([7, 9], np.uint32)
    prior = Prior(
        rng.standard_normal(width).astype("f4"), tokens, rng.standard_normal((2, width)).astype("f4")
    )
    ridge = Ridge(0.05, 0.3, 0.9, 0.3 * items)
    return IalsModel(vectors, np.zeros(items, np.uint8), prior, ridge=ridge, strength=strength)


def test_without_history_the_vector_is_the_prior() -> None:
    model = model_of()
    taste = model.represent(
        History(np.zeros(0, np.int32), np.zeros(0, np.float32)), np.array([9], np.uint32), 0
    )
    np.testing.assert_allclose(taste.values, model.prior.mean + model.prior.weights[1], atol=1e-6)
    assert taste.informed


@pytest.mark.parametrize("length", [1, 3, 4, 5, 9])
def test_short_and_long_histories_solve_the_same_equation(length: int) -> None:
    model = model_of()
    rng = np.random.default_rng(length)
    rows = rng.choice(12, length, replace=False).astype(np.int32)
    weights = rng.random(length).astype(np.float32) * 3
    taste = model.represent(History(rows, weights), NO_TOKENS, 0)
    v, y = np.log2(1 + weights.astype(float)), model.vectors.astype(float)
    gram, n = 0.3 * y.T @ y, v.sum()
    right = v @ y[rows] + 3 / (3 + length) * (gram + model.ridge.of(0) * np.eye(4)) @ model.prior.mean
    system = y[rows].T @ (v[:, None] * y[rows]) + gram + model.ridge.of(n) * np.eye(4)
    np.testing.assert_allclose(taste.values, np.linalg.solve(system, right), atol=1e-4)


def test_what_is_saved_answers_the_same(tmp_path) -> None:
    model = model_of()
    model.save(tmp_path / "m")
    again = load_model(tmp_path / "m")
    history = History(np.array([1, 5], np.int32), np.ones(2, np.float32))
    assert isinstance(again, IalsModel)
    taste, other = (one.represent(history, NO_TOKENS, 0) for one in (model, again))
    assert np.array_equal(model.score_all(taste), again.score_all(other))


def test_items_that_nobody_met_have_no_score() -> None:
    one = data(items=30)
    positives = one.positives.take(one.positives.item != 3)
    lonely = TrainData(positives, one.customers, one.kinds, 0.0)
    model = FrequencyALS().fit(lonely, PARAMS, Effort(1, 1))
    scores = model.score_all(
        model.represent(History(np.array([3, 1], np.int32), np.ones(2, np.float32)), NO_TOKENS, 0)
    )
    assert np.isnan(scores[3])
    assert np.isfinite(scores[np.unique(positives.item)]).all()


def test_a_fit_that_diverges_says_what_to_do() -> None:
    one = data()
    huge = TrainData(
        Positives(one.positives.user, one.positives.item, one.positives.at, np.full(300, np.inf, np.float32)),
        one.customers, one.kinds, 0.0,
    )  # fmt: skip
    with pytest.raises(ValueError, match="raise the regularization"):
        fit_factors(huge, PARAMS, Effort(1, 1))


def test_rotation_leaves_a_diagonal_gram_and_the_scores() -> None:
    rng = np.random.default_rng(0)
    found = Factors(
        rng.standard_normal((40, 5)).astype("f4"),
        rng.standard_normal((25, 5)).astype("f4"),
        np.ones(40, bool),
        0.2,
    )
    model = served(found, data(), PARAMS)
    gram = model.vectors.T @ model.vectors
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-3
    np.testing.assert_allclose(
        np.sort(np.linalg.norm(model.vectors, axis=1)),
        np.sort(np.linalg.norm(found.items, axis=1)),
        rtol=1e-4,
    )


def test_the_ratio_is_the_weight_of_what_an_average_user_has_not_met() -> None:
    seen = observed(data(), float("inf"))
    by_ratio = Fitting(seen, 4, PARAMS | {"unobserved": 0.0, "ratio": 7.0}, Effort(0, 1))
    met = seen.toarray().sum(axis=1)
    assert by_ratio.unobserved * seen.shape[1] == pytest.approx(7.0 * met[met > 0].mean(), rel=1e-6)
    assert Fitting(seen, 4, PARAMS, Effort(0, 1)).unobserved == 0.2
