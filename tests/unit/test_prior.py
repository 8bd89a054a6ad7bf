"""The prior from the profile: a ridge regression, and what the fold-in makes of it."""

from __future__ import annotations

import numpy as np
import pytest

from features.transforms import NO_HISTORY
from serving.models import VectorModel
from training.model import Customers
from training.prior import RAREST, RIDGE, fit_prior, precise


def customers(rng, n=400, tokens=(10, 20, 30)):
    held = [np.array([token for token in tokens if rng.random() < 0.5], np.uint32) for _ in range(n)]
    held[0] = np.array([999], np.uint32)  # a token that one customer has
    indptr = np.concatenate(([0], np.cumsum([len(one) for one in held])))
    zeros = np.zeros(n)
    return Customers(indptr, np.concatenate(held), zeros.astype(np.uint16), zeros.astype(np.uint32)), held


def test_it_is_the_ridge_solution_with_a_free_intercept():
    rng = np.random.default_rng(1)
    who, held = customers(rng)
    z = np.array([[token in one for token in (10, 20, 30)] for one in held], float)
    factors = (z @ rng.normal(0, 1, (3, 5)) + 2 + rng.normal(0, 0.1, (400, 5))).astype(np.float32)
    active = rng.random(400) < 0.9
    prior = fit_prior(factors, active, who)
    assert prior.tokens.tolist() == [10, 20, 30]
    x = z[active] - z[active].mean(axis=0)
    y = factors[active].astype(float)
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(3), x.T @ (y - y.mean(axis=0)))
    assert prior.weights == pytest.approx(weights, rel=1e-3, abs=1e-4)
    assert prior.mean == pytest.approx(y.mean(axis=0) - z[active].mean(axis=0) @ weights, rel=1e-3, abs=1e-4)


def test_a_rare_token_is_not_learned():
    rng = np.random.default_rng(2)
    who, held = customers(rng, n=60)
    assert sum(10 in one for one in held) >= RAREST
    prior = fit_prior(rng.normal(size=(60, 3)).astype(np.float32), np.ones(60, bool), who)
    assert 999 not in prior.tokens


def test_without_history_the_fold_in_gives_back_the_prior():
    rng = np.random.default_rng(3)
    who, _ = customers(rng)
    vectors = rng.normal(0, 0.5, (50, 5)).astype(np.float32)
    prior = fit_prior(rng.normal(1, 1, (400, 5)).astype(np.float32), np.ones(400, bool), who)
    gram = vectors.T.astype(np.float64) @ vectors
    for tau in (0.1, 10.0, 1000.0):
        served = precise(prior, gram, 4.0, tau)
        model = VectorModel(vectors, np.zeros(50, np.uint8), served, regularization=4.0, tau=tau, alpha=1.0)
        taste = model.represent(NO_HISTORY, np.array([20, 77], np.uint32), 0)
        assert taste.values == pytest.approx(prior.mean + prior.weights[1], rel=1e-3, abs=1e-4)
        assert taste.informed
        assert not model.represent(NO_HISTORY, np.array([77], np.uint32), 0).informed


def test_nobody_active_is_a_prior_of_nothing():
    prior = fit_prior(np.ones((4, 3), np.float32), np.zeros(4, bool), Customers.unknown(4))
    assert prior.mean.tolist() == [0, 0, 0] and len(prior.tokens) == 0


def test_customers_without_any_profile_give_the_mean():
    factors = np.random.default_rng(5).normal(size=(30, 4)).astype(np.float32)
    prior = fit_prior(factors, np.ones(30, bool), Customers.unknown(30))
    assert prior.mean == pytest.approx(factors.mean(axis=0), rel=1e-5)
