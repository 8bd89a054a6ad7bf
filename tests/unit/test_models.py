"""Served models against direct solves and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from features.transforms import NO_HISTORY, History
from serving.models import PopularModel, Prior, VectorModel, best_rows, load_model
from serving.table_models import NeighbourModel
from serving.taste import evidence
from training.als import ImplicitALS, confidence, factorise
from training.model import Customers, Effort, Positives, TrainData
from training.neighbours import NeighboursByProbability, build_neighbours, cooccurrence, owned
from training.popular import PopularByDecay, build_popular

NO_TOKENS = np.zeros(0, np.uint32)
DAY = 86_400.0


def a_vector_model(n=40, d=6, seed=3, missing=()):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(0, 0.4, (n, d)).astype(np.float32)
    vectors[list(missing)] = 0
    tokens = np.array([5, 9, 70], np.uint32)
    weights = rng.normal(0, 0.3, (3, d)).astype(np.float32)
    prior = Prior(rng.normal(0, 0.3, d).astype(np.float32), tokens, weights)
    kinds = rng.integers(0, 6, n).astype(np.uint8)
    return VectorModel(vectors, kinds, prior, regularization=0.7, tau=2.5, alpha=3.0)


def solved_directly(model, history, rows_of_tokens):
    """The formula of the module, with dense C."""
    y = model.vectors.astype(np.float64)
    c = np.ones(len(y))
    p = np.zeros(len(y))
    c[history.rows] = 1 + model.alpha * np.log1p(history.weights.astype(np.float64))
    p[history.rows] = 1
    m = model.prior.mean.astype(np.float64) + model.prior.weights[rows_of_tokens].sum(axis=0)
    a = y.T @ (c[:, None] * y) + (model.regularization + model.tau) * np.eye(y.shape[1])
    return np.linalg.solve(a, y.T @ (c * p) + model.tau * m)


@pytest.mark.parametrize("length", [0, 1, 3, 6, 7, 25])
@pytest.mark.parametrize("tokens", [[], [9], [5, 8, 70]])
def test_fold_in_is_the_dense_solution(length, tokens):
    model = a_vector_model()
    rng = np.random.default_rng(length)
    rows = rng.choice(model.n_items, length, replace=False).astype(np.int32)
    history = History(rows, rng.uniform(0.01, 20, length).astype(np.float32))
    taste = model.represent(history, np.array(tokens, np.uint32), 0)
    known = [[5, 9, 70].index(token) for token in tokens if token in (5, 9, 70)]
    assert taste.values == pytest.approx(solved_directly(model, history, known), rel=2e-4, abs=2e-5)
    assert taste.informed == bool(length or known)


def test_woodbury_and_direct_agree():
    model = a_vector_model(d=12)
    rows = np.arange(12, dtype=np.int32)
    weights = np.linspace(0.2, 8, 12).astype(np.float32)
    by_woodbury = model.represent(History(rows, weights), NO_TOKENS, 0).values
    direct = model._direct(rows, evidence(weights).astype(np.float64), np.zeros(0, np.intp))
    assert by_woodbury == pytest.approx(direct, rel=1e-4, abs=1e-5)


def test_items_of_the_overlay_and_items_without_a_vector_are_left_out_of_the_history():
    model = a_vector_model(missing=(4,))
    full = History(np.array([1, 4, 2, 40, 99], np.int32), np.ones(5, np.float32))
    known = History(np.array([1, 2], np.int32), np.ones(2, np.float32))
    assert np.array_equal(
        model.represent(full, NO_TOKENS, 0).values, model.represent(known, NO_TOKENS, 0).values
    )


def test_a_score_is_nan_where_the_model_knows_nothing():
    model = a_vector_model(missing=(4,))
    taste = model.represent(NO_HISTORY, NO_TOKENS, 0)
    scores = model.score(taste, np.array([0, 4, 40, 1], np.int32))
    assert np.isnan(scores[[1, 2]]).all() and np.isfinite(scores[[0, 3]]).all()
    assert scores[0] == pytest.approx(model.score_all(taste)[0])
    assert np.isnan(model.score_all(taste)[4])


def test_nearest_is_the_best_of_the_kind():
    model = a_vector_model(missing=(4,))
    taste = model.represent(History(np.array([7], np.int32), np.ones(1, np.float32)), NO_TOKENS, 0)
    everything = model.score_all(taste)
    for kind in range(6):
        rows, scores = model.nearest(taste, 5, kind)
        mine = model.kinds.rows[kind]
        wanted = mine[best_rows(everything[mine], 5)]
        assert rows.tolist() == wanted.tolist()
        assert scores == pytest.approx(everything[wanted], rel=1e-5)


def test_best_rows_puts_ties_in_row_order_and_leaves_out_what_is_not_finite():
    scores = np.array([1, np.nan, 3, 3, 2, 3, np.inf, -np.inf], np.float32)
    assert best_rows(scores, 2).tolist() == [2, 3]
    assert best_rows(scores, 4).tolist() == [2, 3, 5, 4]
    assert best_rows(scores, 50).tolist() == [2, 3, 5, 4, 0]
    assert best_rows(np.zeros(0, np.float32), 3).tolist() == []


def a_window(users=30, items=12, events=400, seed=1, segments=True):
    rng = np.random.default_rng(seed)
    at = np.sort(rng.uniform(0, 100 * DAY, events))
    positives = Positives(
        rng.integers(0, users, events).astype(np.int32),
        (rng.beta(1, 3, events) * items).astype(np.int32),
        at,
        rng.choice([1.0, 4.0], events).astype(np.float32),
    )
    segment = rng.integers(0, 3, users).astype(np.uint16) * 7 if segments else np.zeros(users, np.uint16)
    customers = Customers(
        np.zeros(users + 1, np.int64), NO_TOKENS, segment, rng.choice([0, 11, 12], users).astype(np.uint32)
    )
    return TrainData(positives, customers, rng.integers(0, 2, items).astype(np.uint8), 100 * DAY)


def test_popularity_is_the_decayed_smoothed_share():
    data = a_window()
    popular = build_popular(data, {"half_life_days": 20.0, "smoothing": 30.0})
    p = data.positives
    weight = p.weight * 0.5 ** ((data.now - p.at) / (20 * DAY))
    overall = np.array([weight[p.item == i].sum() for i in range(12)]) / weight.sum()
    assert popular.shares[0] == pytest.approx(overall, rel=1e-5)
    for segment in (7, 14):
        mine = data.customers.segment[p.user] == segment
        counts = np.array([weight[mine & (p.item == i)].sum() for i in range(12)])
        wanted = (counts + 30 * overall) / (counts.sum() + 30)
        assert popular.shares[popular.row_of(segment)] == pytest.approx(wanted, rel=1e-5)
    assert popular.shares.sum(axis=1) == pytest.approx(1, rel=1e-5)
    assert popular.row_of(3) == popular.row_of(0) == 0


def test_popular_tops_are_the_best_of_the_kind_by_segment_and_city():
    data = a_window(events=2000)
    popular = build_popular(data, {"half_life_days": 20.0, "smoothing": 30.0})
    for segment, kind in ((0, 0), (7, 1), (999, 0)):
        found = popular.top(segment, 0, kind, 4)
        shares = popular.shares[popular.row_of(segment)]
        wanted = sorted(np.flatnonzero(data.kinds == kind), key=lambda i: (-shares[i], i))[:4]
        assert found.rows.tolist() == [i for i in wanted if shares[i] > 0]
    p = data.positives
    weight = p.weight * 0.5 ** ((data.now - p.at) / (20 * DAY))
    here = data.customers.city[p.user] == 11
    counts = np.array([weight[here & (p.item == i)].sum() for i in range(12)])
    found = popular.top(0, 11, 0, 3)
    wanted = sorted(np.flatnonzero(data.kinds == 0), key=lambda i: (-counts[i], i))[:3]
    assert found.rows.tolist() == [i for i in wanted if counts[i] > 0]
    assert found.score == pytest.approx(counts[found.rows] / counts.sum(), rel=1e-4)
    assert len(popular.top(7, 404, 0, 3).rows) == 0


def test_log_share_is_finite_for_what_nobody_touched_and_nan_beyond_the_bundle():
    data = a_window()
    popular = build_popular(data, {"half_life_days": 20.0, "smoothing": 30.0})
    logs = popular.log_share(0, np.array([0, 11, 12, 500], np.int32))
    assert np.isfinite(logs[:2]).all() and np.isnan(logs[2:]).all()


def brute_neighbours(data, damping, shrink):
    p = data.positives
    had = np.zeros((data.n_users, data.n_items))
    had[p.user, p.item] = 1
    together = had.T @ had
    users = had.sum(axis=0)
    active = (had.sum(axis=1) > 0).sum()
    share = np.maximum(users, 1e-9) / active
    weight = together / (users[:, None] + shrink) / share[None, :] ** damping
    weight[together == 0] = 0
    np.fill_diagonal(weight, 0)
    return weight


@pytest.mark.parametrize("damping", [0.0, 0.4])
def test_neighbours_are_the_brute_force_ones(damping):
    data = a_window(users=60, events=300)
    had = owned(data)
    found = build_neighbours(had, cooccurrence(had), damping, 2.0, top=5)
    wanted = brute_neighbours(data, damping, 2.0)
    for row in range(data.n_items):
        near = found.similar(row, 99)
        best = np.sort(wanted[row])[::-1][:5]
        assert near.score == pytest.approx(best[best > 0], rel=1e-5)
        assert near.score == pytest.approx(wanted[row][near.rows], rel=1e-5)
        assert row not in near.rows
    assert len(found.similar(12, 5).rows) == 0


def test_the_neighbour_model_is_the_shrunk_mean_of_the_brute_force_weights():
    data = a_window(users=60, events=300)
    params = {"damping": 0.0, "shrink": 2.0, "pseudo": 0.5, "half_life_days": 30.0}
    model = NeighboursByProbability().fit(data, params, Effort(1, 1))
    wanted = brute_neighbours(data, 0.0, 2.0)
    history = History(np.array([3, 1, 500], np.int32), np.array([2.0, 0.5, 1.0], np.float32))
    weights = np.log1p([2.0, 0.5])
    taste = model.represent(history, NO_TOKENS, 7)
    prior = model.prior[1 + model.segments.tolist().index(7)]
    expected = (weights @ wanted[[3, 1]] + 0.5 * prior) / (weights.sum() + 0.5)
    assert model.score_all(taste) == pytest.approx(expected, rel=1e-4)
    newcomer = model.represent(NO_HISTORY, NO_TOKENS, 0)
    share = np.bincount(
        np.unique(data.positives.user.astype(int) * 12 + data.positives.item) % 12, minlength=12
    )
    assert model.score_all(newcomer) == pytest.approx(share / len(np.unique(data.positives.user)), rel=1e-5)
    assert not newcomer.informed


def test_a_long_history_counts_only_its_latest_items(monkeypatch):
    monkeypatch.setattr("training.neighbours.LONGEST", 2)
    positives = Positives(
        np.zeros(4, np.int32),
        np.array([0, 1, 2, 1], np.int32),
        np.arange(4.0),
        np.ones(4, np.float32),
    )
    data = TrainData(positives, Customers.unknown(1), np.zeros(3, np.uint8), 5.0)
    assert owned(data).toarray().tolist() == [[0, 1, 1]]


def test_als_is_bare_implicit_on_the_same_matrix_and_repeats_bit_for_bit():
    data = a_window(users=80, items=40, events=1500)
    params = {
        "factors": 8.0,
        "iterations": 4.0,
        "regularization": 2.0,
        "alpha": 3.0,
        "half_life_days": 50.0,
        "strength": 1.0,
    }
    matrix = confidence(data, 3.0, 50.0)
    users, items = factorise(matrix, params, Effort(5, 2))
    with threadpool_limits(limits=1, user_api="blas"):
        bare = AlternatingLeastSquares(
            factors=8, regularization=2.0, iterations=4, num_threads=2, random_state=5
        )
        bare.fit(matrix, show_progress=False)
    assert np.array_equal(items, bare.item_factors) and np.array_equal(users, bare.user_factors)
    first = ImplicitALS().fit(data, params, Effort(5, 2))
    second = ImplicitALS().fit(data, params, Effort(5, 2))
    assert np.array_equal(first.vectors, second.vectors)
    assert np.array_equal(first.prior.mean, second.prior.mean)


def test_an_item_nobody_met_has_no_vector():
    data = a_window(users=80, items=40, events=300)
    model = ImplicitALS(factors=8, iterations=3).fit(data, ImplicitALS().trials()[0], Effort(5, 1))
    met = np.bincount(data.positives.item, minlength=40) > 0
    assert not met.all()
    assert np.array_equal(model.has_vector, met)


@pytest.mark.parametrize("name", ["als", "neighbours", "popular"])
def test_what_is_saved_is_what_is_loaded(tmp_path, name):
    data = a_window(users=80, items=40, events=1500)
    trainer = {
        "als": ImplicitALS(factors=8),
        "neighbours": NeighboursByProbability(),
        "popular": PopularByDecay(),
    }
    model = trainer[name].fit(data, trainer[name].trials()[0], Effort(5, 1))
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    history = History(np.array([3, 1, 20], np.int32), np.array([2.0, 0.5, 1.0], np.float32))
    one, other = (m.represent(history, NO_TOKENS, 7) for m in (model, loaded))
    assert np.array_equal(one.values, other.values)
    assert np.array_equal(model.score_all(one), loaded.score_all(other), equal_nan=True)
    assert model.nearest(one, 7, 0).rows.tolist() == loaded.nearest(other, 7, 0).rows.tolist()
    assert loaded.name == name and loaded.n_items == 40


def test_a_model_of_another_version_is_named(tmp_path):
    (tmp_path / "model.json").write_text('{"model": "quantum"}')
    with pytest.raises(ValueError, match="quantum"):
        load_model(tmp_path)


def test_every_model_answers_nan_beyond_its_items():
    data = a_window()
    for model in (
        PopularModel(build_popular(data, {"half_life_days": 9.0, "smoothing": 9.0}), data.kinds),
        NeighboursByProbability().fit(data, NeighboursByProbability().trials()[0], Effort(1, 1)),
    ):
        assert isinstance(model, PopularModel | NeighbourModel)
        taste = model.represent(NO_HISTORY, NO_TOKENS, 0)
        assert np.isnan(model.score(taste, np.array([0, 12], np.int32))).tolist() == [False, True]
