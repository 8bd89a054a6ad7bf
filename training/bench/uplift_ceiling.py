"""How much of the oracle's uplift could be known at all, from what customers show.

A large forest is taught the truth itself, free of chance, on pages of other customers, by everything that a
bank sees of them: columns, interest in each coupon and in its category, how much they do, what became of
earlier displays. What it orders is a lower bound of what is knowable; what it misses hides in tastes, thrift
and contrariness that no record tells of.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.bench.coupons import LEARNED, CouponBank, Pages
from training.trees import lightgbm

Floats = NDArray[np.float64]

PAGES: Final = 20_000  # that teach, drawn by how often customers come
TREES: Final = 250
FOLDS: Final = 2
_SETTINGS: Final[dict[str, Any]] = {
    "objective": "l2", "num_leaves": 31, "learning_rate": 0.06, "min_data_in_leaf": 40, "lambda_l2": 5.0,
    "feature_fraction": 0.4, "max_bin": 127, "num_threads": 1, "verbosity": -1, "deterministic": True,
    "force_col_wise": True,
}  # fmt: skip


def knowable(bank: CouponBank, asked: Pages) -> Floats:
    """(n, I) gains of the first day after learning, by forests that have seen none of their customers."""
    rng = np.random.default_rng([bank.world.seed, 15])
    people, items = len(bank.world.customers), len(bank.coupons.rows)
    often = bank.world.customers.activity
    taught = Pages(rng.choice(people, PAGES, p=often / often.sum()), rng.choice(asked.at, PAGES))
    every = np.tile(np.arange(items), (PAGES, 1))
    truth = bank.truth(taught, every, bank.respondent).gain
    known = _everything(bank)
    fold = rng.permutation(people) % FOLDS
    found = np.zeros((len(asked.at), items))
    for one in range(FOLDS):
        mine, theirs = fold[asked.customers] == one, fold[taught.customers] != one
        label = truth[theirs].T.ravel()
        learner = lightgbm()
        x = _rows(known, taught.customers[theirs])
        settings = _SETTINGS | {"seed": bank.world.seed}
        data = learner.Dataset(x, label / label.mean(), params=settings)
        forest = learner.train(settings, data, TREES)
        told = np.asarray(forest.predict(_rows(known, asked.customers[mine]), num_threads=1))
        found[mine] = told.reshape(items, -1).T
    return found


def _everything(bank: CouponBank) -> list[NDArray[np.float32]]:
    """Of each coupon (customers, features) as the learning days left them."""
    everybody = np.arange(len(bank.world.customers))
    seen, shares, met = bank.seen(LEARNED, everybody), bank.shares(LEARNED), bank.met()
    whole = shares.sum(axis=1, keepdims=True)
    category = bank.categories[bank.coupons.rows]
    shared = np.hstack([seen.columns, seen.interest, whole, met.sum(axis=2)])
    return [
        np.hstack([
            shared, shares[:, one, None], seen.interest[:, item, None], met[:, :, item],
            np.full((len(everybody), 1), item, np.float32),
        ])
        for item, one in enumerate(category.tolist())
    ]  # fmt: skip


def _rows(known: list[NDArray[np.float32]], who: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.concatenate([one[who] for one in known])
