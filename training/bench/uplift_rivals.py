"""Other ways to measure uplift, to be compared with: who ranks pages by what a coupon really gains?

Every method learns on the first three of four random weeks. `qini` is measured on the fourth, by inverse
propensity on logged purchases alone: purchases gained per 1,000 pages over a random order, averaged over
how many are taken. `auuc` asks the world instead: the same area as a share of the oracle's, on the first
day after.

    ours         serving.uplift: P(click) × (1 − a)·d
    two_models   a ridge logistic of buying where the coupon was shown less one where it was not
    transformed  ridge regression of Y·(W/e − (1 − W)/(1 − e)) (Athey and Imbens 2016), a bias per coupon
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from serving.uplift import COLUMNS
from training.bench.coupons import LEARNED, CouponBank
from training.uplift import (
    MOST_PAGES,
    RIDGE,
    Seen,
    Study,
    click_model,
    fit_uplift,
    logistic,
    sigmoid,
    standardised,
    standards,
    with_telling_tags,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Floats = NDArray[np.float64]
METHODS: Final = ("ours", "two_models", "transformed")
TRAINED_ON: Final = 0.75


def areas(bank: CouponBank, study: Study) -> dict[str, float]:
    """`qini_{method}` and `auuc_{method}`."""
    pages = len(study.item)
    early, late = (
        study.take(np.arange(int(pages * TRAINED_ON))),
        study.take(np.arange(int(pages * TRAINED_ON), pages)),
    )
    asked = bank.begin(LEARNED)
    seen = bank.seen(LEARNED, asked.customers)
    every = np.tile(np.arange(len(study.keys)), (len(asked.at), 1))
    truth = bank.truth(asked, every, bank.respondent).gain
    best = area(truth, truth)
    found: dict[str, float] = {}
    for name, method in (("ours", served), ("two_models", _two_models), ("transformed", _transformed)):
        score = method(early)
        found[f"qini_{name}"] = area(score(late.seen), logged(late)) * 1000
        found[f"auuc_{name}"] = area(score(seen), truth) / best
    return found


def area(score: Floats, gain: Floats) -> float:
    """Mean over k of what the k best pairs gain beyond k average ones, per pair."""
    order = np.argsort(-score.ravel(), kind="stable")
    summed = np.cumsum(gain.ravel()[order])
    fair = summed[-1] * np.arange(1, len(order) + 1) / len(order)
    return float((summed - fair).mean() / len(order))


def logged(study: Study) -> Floats:
    """(n, I) unbiased for the gain of each coupon on each page."""
    assert study.chance is not None
    bought = study.bought[:, study.group].astype(np.float64)
    treated = study.item[:, None] == np.arange(len(study.keys))
    nothing = 1 - study.chance.sum(axis=1, keepdims=True)
    gain: Floats = bought * (treated / study.chance - (study.item[:, None] < 0) / nothing)
    return gain


def served(study: Study) -> Callable[[Seen], Floats]:
    learned = fit_uplift(study)
    if learned is None:
        raise RuntimeError("too few coupons were used to learn from: ask for more customers")
    model, kept = learned.uplift, _kept(study, learned.uplift.tags)
    told = study._replace(columns=study.columns[:, kept])
    clicks = click_model(told, standardised(told.columns, model.centre, model.scale))
    rows = model.bound(study.keys, study.kinds, study.groups[study.group])

    def score(seen: Seen) -> Floats:
        some = seen.columns[:, kept]
        delta = np.array([rows.per_click(one).delta for one in model.standard(some)], np.float64)
        return delta * clicks.chances(standardised(some, model.centre, model.scale), seen.interest)

    return score


def _two_models(study: Study) -> Callable[[Seen], Floats]:
    kept = _kept(study, with_telling_tags(study).tags)
    centre, scale, x = _standard(study.columns[:, kept])
    ridge = np.full(x.shape[1], RIDGE)
    pairs = []
    for item, group in enumerate(study.group.tolist()):
        label = study.bought[:, group].astype(np.float64)
        shown, not_shown = (
            np.flatnonzero(rows)[:MOST_PAGES] for rows in (study.item == item, study.item < 0)
        )
        pairs.append([logistic(x[rows], label[rows], ridge) for rows in (shown, not_shown)])

    def score(seen: Seen) -> Floats:
        of = standardised(seen.columns[:, kept], centre, scale)
        return np.stack([sigmoid(of @ with_it) - sigmoid(of @ without) for with_it, without in pairs], axis=1)

    return score


def _transformed(study: Study) -> Callable[[Seen], Floats]:
    kept = _kept(study, with_telling_tags(study).tags)
    centre, scale, x = _standard(study.columns[:, kept])
    gain = logged(study)
    bias = gain.mean(axis=0)
    ridge = np.full(x.shape[1], RIDGE * 100)
    curve = x.T @ x + np.diag(ridge)
    found = np.linalg.solve(curve, x.T @ (gain - bias))

    def score(seen: Seen) -> Floats:
        scored: Floats = standardised(seen.columns[:, kept], centre, scale) @ found + bias
        return scored

    return score


def _kept(study: Study, tags: NDArray[np.int64]) -> NDArray[np.int64]:
    """The study's columns with these tags alone."""
    return np.concatenate([np.arange(len(COLUMNS)), len(COLUMNS) + np.searchsorted(study.tags, tags)])


def _standard(columns: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32], Floats]:
    centre, scale = standards(columns)
    return centre, scale, standardised(columns, centre, scale)
