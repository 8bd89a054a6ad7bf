"""Uplift of offers by LightGBM, from pages on which chance decided: the T-, the X- and an R-learner.

    T  P(bought | shown i, x) − P(bought | not shown, x), a forest each
    X  the other side's forecast taken off each side's answers, both regressed on x (Künzel et al. 2019)
    R  what is left of a purchase after its forecast, on what is left of the display after its chance (Nie and
       Wager 2021), with the effect written as P(clicked | x, i) · δ(x, i): an offer works through its clicks,
       of which there are ten times as many as purchases that it causes

Each gives (n, I) purchases gained by showing offer i to customer x, who is known by columns and by the
interest in the offer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.trees import lightgbm
from training.uplift import Seen, Study, click_model, sigmoid, standardised, standards

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]
Score = Callable[[Seen], Floats]
Forest = Callable[[Matrix], Floats]

FOLDS: Final = 2
CLICK_TREES: Final = 100
BASE_TREES: Final = 80
EFFECT_TREES: Final = 30
EFFECT_SIZES: Final = (0, 8, 30)  # trees of δ: as many as foretell pages best that they have not seen
FEWEST_CLICKS: Final = 200


class UpliftError(ValueError):
    """The pages cannot teach an uplift; the message says why."""


def t_learner(study: Study, *, seed: int = 7) -> Score:
    """Raises UpliftError where chance did not decide."""
    _randomised(study)
    shown, quiet = _sides(study, seed)

    def score(seen: Seen) -> Floats:
        each = (_of(seen, item) for item in range(len(shown)))
        both = zip(each, shown, quiet, strict=True)
        return np.stack([with_it(x) - without(x) for x, with_it, without in both], axis=1)

    return score


def x_learner(study: Study, *, seed: int = 7) -> Score:
    """Raises UpliftError where chance did not decide."""
    chance = _randomised(study)
    shown, quiet = _sides(study, seed)
    parts: list[tuple[Forest, Forest, float]] = []
    for item, group in enumerate(study.group.tolist()):
        bought, x = study.bought[:, group].astype(np.float64), _of(study.seen, item)
        on, off = study.item == item, study.item < 0
        caused = bought[on] - quiet[item](x[on])
        missed = shown[item](x[off]) - bought[off]
        share = float(chance[:, item].mean()) / float((chance[:, item] + 1 - chance.sum(axis=1)).mean())
        parts.append((
            _forest(x[on], caused, "l2", EFFECT_TREES, seed),
            _forest(x[off], missed, "l2", EFFECT_TREES, seed), share,
        ))  # fmt: skip

    def score(seen: Seen) -> Floats:
        each = ((_of(seen, item), *part) for item, part in enumerate(parts))
        return np.stack([share * off(x) + (1 - share) * on(x) for x, on, off, share in each], axis=1)

    return score


def r_learner(study: Study, *, seed: int = 7) -> Score:
    """Raises UpliftError where chance did not decide, or too little was clicked."""
    chance = _randomised(study)
    if study.clicked.sum() < FEWEST_CLICKS:
        raise UpliftError(f"{int(study.clicked.sum()):,} clicks: {FEWEST_CLICKS} are needed")
    n, items = len(study.item), len(study.keys)
    fold = np.random.default_rng(seed).permutation(n) % FOLDS
    click, left = np.zeros((n, items)), np.zeros((n, len(study.groups)))
    for one in range(FOLDS):  # forecasts of pages by forests that have not seen them
        out = fold == one
        click[out] = clicks_alone(study.take(~out), seed=seed)(study.take(out).seen)
        for group in range(len(study.groups)):
            bought = study.bought[:, group].astype(np.float64)
            base = _forest(study.columns[~out], bought[~out], "cross_entropy", BASE_TREES, seed)
            left[out, group] = bought[out] - base(study.columns[out])
    move = ((study.item[:, None] == np.arange(items)) - chance) * click
    weight, over = move**2, left[:, study.group]
    mean = float((move * over).sum() / max(weight.sum(), 1e-12))
    target = np.where(np.abs(move) > 1e-9, over / np.where(np.abs(move) > 1e-9, move, 1.0), 0.0)

    def effect_of(rows: NDArray[np.bool_], trees: int) -> Forest:
        """δ less its mean, by so many trees on these pages; 0 by none."""
        if not trees:
            return lambda x: np.zeros(len(x))
        seen = study.take(rows).seen
        x = np.concatenate([_with(seen, item) for item in range(items)])
        label = target[rows].T.ravel() - mean
        return _forest(x, label, "l2", trees, seed, weight=weight[rows].T.ravel())

    def lost(trees: int) -> float:
        """Of pages that the effect has not seen: what is left of purchases, squared."""
        total = 0.0
        for one in range(FOLDS):
            out = fold == one
            found, seen = effect_of(~out, trees), study.take(out).seen
            for item in range(items):
                said = mean + found(_with(seen, item))
                total += float(((over[out, item] - move[out, item] * said) ** 2).sum())
        return total

    effect = effect_of(np.ones(n, np.bool_), min(EFFECT_SIZES, key=lost))
    clicks = clicks_alone(study, seed=seed)

    def score(seen: Seen) -> Floats:
        each = [mean + effect(_with(seen, item)) for item in range(items)]
        return clicks(seen) * np.stack(each, axis=1)

    return score


def clicks_alone(study: Study, *, seed: int = 7) -> Score:
    """No uplift at all: P(clicked | shown), to be compared with. One forest on top of the logistic."""
    centre, scale = standards(study.columns)
    x = standardised(study.columns, centre, scale)
    line = click_model(study, x)
    on = np.flatnonzero(study.item >= 0)
    begin = line.logit(x, study.interest)[on, study.item[on]]
    own = study.take(on).seen
    named = np.hstack([own.columns, own.interest[np.arange(len(on)), study.item[on], None]])
    named = np.hstack([named, study.item[on, None].astype(np.float32)])
    label = study.clicked[on].astype(np.float64)
    forest = _forest(named, label, "cross_entropy", CLICK_TREES, seed, item=True, begin=begin)

    def score(seen: Seen) -> Floats:
        raw = line.logit(standardised(seen.columns, centre, scale), seen.interest)
        return sigmoid(raw + np.stack([forest(_with(seen, item)) for item in range(len(study.keys))], axis=1))

    return score


def _randomised(study: Study) -> NDArray[np.float32]:
    if study.chance is None:
        raise UpliftError("no page was decided by chance: run a randomised slice, or use ghosts' pages")
    return study.chance


def _sides(study: Study, seed: int) -> tuple[list[Forest], list[Forest]]:
    """Of each item P(bought in its group) where it was shown, and where nothing was."""
    sides: tuple[list[Forest], list[Forest]] = ([], [])
    for item, group in enumerate(study.group.tolist()):
        bought, x = study.bought[:, group].astype(np.float64), _of(study.seen, item)
        for side, rows in zip(sides, (study.item == item, study.item < 0), strict=True):
            side.append(_forest(x[rows], bought[rows], "cross_entropy", BASE_TREES, seed))
    return sides


def _of(seen: Seen, item: int) -> Matrix:
    """Columns and the interest in one item."""
    return np.hstack([seen.columns, seen.interest[:, item, None]])


def _with(seen: Seen, item: int) -> Matrix:
    """… and its number."""
    return np.hstack([_of(seen, item), np.full((len(seen.columns), 1), item, np.float32)])


def _forest(
    x: Matrix, label: Floats, objective: str, trees: int, seed: int, *, weight: Floats | None = None,
    item: bool = False, begin: Floats | None = None,
) -> Forest:  # fmt: skip
    """`item`: the last column is the number of an item, not an amount. Given log-odds to `begin` with, the
    forest gives what to add to them.
    """
    learner = lightgbm()
    settings: dict[str, Any] = {
        "objective": objective, "seed": seed, "num_threads": 1, "verbosity": -1, "deterministic": True,
        "force_col_wise": True, "num_leaves": 12, "learning_rate": 0.05, "min_data_in_leaf": 100,
        "lambda_l2": 10.0, "feature_fraction": 0.5, "max_bin": 127,
    }  # fmt: skip
    named: Any = [x.shape[1] - 1] if item else "auto"
    data = learner.Dataset(
        x, label, weight=weight, init_score=begin, params=settings, categorical_feature=named
    )
    booster = learner.train(settings, data, trees)

    def forest(asked: Matrix) -> Floats:
        raw = begin is not None
        found: Floats = np.asarray(booster.predict(asked, num_threads=1, raw_score=raw), np.float64)
        return found

    return forest
