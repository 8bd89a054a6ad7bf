"""What an epoch of the factor models costs, and how soon each model ranks held-out items well.

Customers with tastes are made up: nothing is read. Seconds are CPU time of all threads, so that company on
the machine counts little; the bar is the ratio of `ials` (exact rows) to `implicit` with `use_cg=False`,
which solves the same size of system for each row.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits

from training.bench.harness import Bar, Result
from training.ease import everything_had, fit_weights
from training.ials import Fitting, unobserved_of
from training.model import Customers, Effort, Positives, TrainData

ABOUT = "what an epoch of als and ials costs, and the time to the same validation NDCG"
GOOD = 0.98  # of the weakest model's best NDCG: what every model is timed to
MOST_EPOCHS = 15
TASTES = 24
_SETTING = {"regularization": 0.01, "unobserved": 0.0, "ratio": 10.0, "exponent": 1.0}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--users", type=int, default=6_000)
    parser.add_argument("--items", type=int, default=3_700)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--factors", type=int, default=192)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)


def run(args: argparse.Namespace) -> Result:
    """Bars: an epoch of ials over one of implicit's Cholesky at most 1.5."""
    if args.quick:
        args.users, args.items, args.rows, args.factors = 2_000, 1_500, 150_000, 64
    train, held = made(args.users, args.items, args.rows, args.seed)
    runs = {
        "ials": _ials(train, args, args.factors),
        "ials_blocks": _ials(train, args, min(64, args.factors // 2)),
        "als_cholesky": _als(train, args, use_cg=False),
        "als_cg": _als(train, args, use_cg=True),
    }
    curves = {name: list(_timed(steps, train, held)) for name, steps in runs.items()}
    started = time.process_time()
    ease = _ease_scores(train, args.threads)
    curves["ease"] = [(time.process_time() - started, ndcg(ease, train, held))]
    target = GOOD * min(max(value for _, value in curve) for curve in curves.values())
    figures: dict[str, float] = {"target_ndcg@10": target}
    for name, curve in curves.items():
        figures[f"{name}_best_ndcg@10"] = max(value for _, value in curve)
        figures[f"{name}_to_target_s"] = next(spent for spent, value in curve if value >= target)
        if len(curve) > 1:
            figures[f"{name}_epoch_s"] = float(np.median(np.diff([spent for spent, _ in curve])))
    figures["ials_over_cholesky"] = figures["ials_epoch_s"] / figures["als_cholesky_epoch_s"]
    bars: dict[str, Bar] = {"ials_over_cholesky": ("<=", 1.5)}
    units = {name: "s CPU" for name in figures if name.endswith("_s")}
    return Result(figures, bars, units)


def made(users: int, items: int, rows: int, seed: int) -> tuple[sparse.csr_matrix, NDArray[np.int64]]:
    """Who has what, (users, items) of ones, and a held-out item of each user."""
    rng = np.random.default_rng(seed)
    taste, flavour = rng.integers(0, TASTES, (users, 2)), rng.integers(0, TASTES, items)
    base = 1.0 / (10.0 + rng.permutation(items))
    cells = []
    for which in range(TASTES):
        likes = base * np.where(flavour == which, 12.0, 1.0)
        chance = np.cumsum(likes / likes.sum())
        fans = np.repeat(np.arange(users), 2)[taste.ravel() == which]
        drawn = rng.choice(fans, int(rows * 1.4 * len(fans) / (2 * users)))
        cells.append(drawn * items + np.minimum(np.searchsorted(chance, rng.random(len(drawn))), items - 1))
    cell = rng.permutation(np.unique(np.concatenate(cells)))[: rows + users]
    user, item = np.divmod(cell, items)
    _, first = np.unique(user, return_index=True)
    held = np.full(users, -1, np.int64)
    held[user[first]] = item[first]
    kept = np.ones(len(cell), np.bool_)
    kept[first] = False
    ones = np.ones(int(kept.sum()), np.float32)
    return sparse.csr_matrix((ones, (user[kept], item[kept])), shape=(users, items)), held


def _timed(
    steps: Iterator[Callable[[], NDArray[np.float32]]], train: sparse.csr_matrix, held: NDArray[np.int64]
) -> Iterator[tuple[float, float]]:
    """(CPU seconds so far, NDCG@10) after each epoch; looking at it is not counted."""
    spent, started = 0.0, time.process_time()
    for scores in steps:
        spent += time.process_time() - started
        yield spent, ndcg(scores(), train, held)
        started = time.process_time()


def _ials(
    train: sparse.csr_matrix, args: argparse.Namespace, block: int
) -> Iterator[Callable[[], NDArray[np.float32]]]:
    effort = Effort(args.seed, args.threads)
    Fitting(
        train[:50], 4, _SETTING | {"unobserved": unobserved_of(train, _SETTING)}, effort
    ).epoch()  # compiled
    fitting = Fitting(train, args.factors, _SETTING, effort, block)
    for _ in range(MOST_EPOCHS):
        fitting.epoch()
        yield lambda: fitting.users @ fitting.items.T


def _als(
    train: sparse.csr_matrix, args: argparse.Namespace, *, use_cg: bool
) -> Iterator[Callable[[], NDArray[np.float32]]]:
    with threadpool_limits(limits=1, user_api="blas"):
        model = AlternatingLeastSquares(
            factors=args.factors, regularization=30.0, alpha=5.0, iterations=1, use_cg=use_cg,
            num_threads=args.threads, random_state=args.seed,
        )  # fmt: skip
        for _ in range(MOST_EPOCHS):
            model.fit(train, show_progress=False)
            yield lambda: np.asarray(model.user_factors) @ np.asarray(model.item_factors).T


def _ease_scores(train: sparse.csr_matrix, threads: int) -> NDArray[np.float32]:
    user, item = train.nonzero()
    ones = np.ones(len(user))
    positives = Positives(user.astype(np.int32), item.astype(np.int32), 0 * ones, ones.astype(np.float32))
    data = TrainData(positives, Customers.unknown(train.shape[0]), np.zeros(train.shape[1], np.uint8), 0.0)
    weights = fit_weights(everything_had(data), 300.0, 200, threads)
    table = sparse.csr_matrix((weights.weights, weights.rows, weights.indptr), shape=(train.shape[1],) * 2)
    return np.asarray((train @ table).toarray(), np.float32)


def ndcg(scores: NDArray[np.float32], train: sparse.csr_matrix, held: NDArray[np.int64]) -> float:
    """NDCG@10 of one held-out item a user among all that the user has not."""
    scores = np.array(scores)
    scores[train.nonzero()] = -np.inf
    asked = np.flatnonzero(held >= 0)
    rank = (scores[asked] > scores[asked, held[asked]][:, None]).sum(axis=1)
    return float(np.where(rank < 10, 1.0 / np.log2(rank + 2.0), 0.0).mean())
