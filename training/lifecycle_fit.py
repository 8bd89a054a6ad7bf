"""A lifecycle model: a LightGBM forest on top of a logistic, calibrated on customers it has not seen.

Learnt from the earlier moments whose horizon had ended by the moment that judges: no customer's future is
among what it learns from. The ridge logistic alone, on the same columns, stands beside it: trees take part
only as far as they foretell customers better that they have not seen. Metrics: AUC, lift of the best tenth,
sums of probabilities over what came (with intervals).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.ranker_gate import Sum, summed
from training.trees import lightgbm
from training.uplift import logistic, sigmoid, standardised

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]

FEWEST: Final = 60  # positives, and as many others, below which nothing is learnt
FOLDS: Final = 3
SIZES: Final = (0, 10, 20, 40, 80, 140)  # trees: as many as foretell customers best that they have not seen
FEWEST_IN_TENTH: Final = 20  # positives of a tenth by score whose sums are told
RESAMPLES: Final = 200
RIDGE: Final = 20.0
MOST_ROWS: Final = 200_000
MOST_JUDGED: Final = 40_000  # for the bootstrap


@dataclass(frozen=True, slots=True)
class Rows:
    """`x` (n, features), `label` (n,) 0 or 1, `who` (n,) customers: folds keep a customer together."""

    x: Matrix
    label: Floats
    who: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    def take(self, chosen: NDArray[Any]) -> Rows:
        return Rows(self.x[chosen], self.label[chosen], self.who[chosen])

    @classmethod
    def joined(cls, parts: list[Rows]) -> Rows:
        return cls(
            np.concatenate([one.x for one in parts]),
            np.concatenate([one.label for one in parts]),
            np.concatenate([one.who for one in parts]),
        )


@dataclass(frozen=True, slots=True)
class Line:
    """A ridge logistic: `centre`, `scale` (features,) of the columns, `gaps`: places of those that may be
    missing, flagged beside; `weights` (1 + features + gaps,).
    """

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    gaps: tuple[int, ...]
    weights: tuple[float, ...]

    def raw(self, x: Matrix) -> Floats:
        """(n,) log-odds."""
        found: Floats = self.design(x) @ np.array(self.weights)
        return found

    def design(self, x: Matrix) -> Floats:
        plain = standardised(x, np.array(self.centre, np.float32), np.array(self.scale, np.float32))
        return np.hstack([plain, ~np.isfinite(x[:, list(self.gaps)])])


@dataclass(frozen=True, slots=True)
class Scorer:
    """A fitted model: the logistic, LightGBM's own text of what it adds ("": nothing), and the calibration of
    their sum.
    """

    line: Line
    text: str
    slope: float
    level: float

    def chances(self, x: Matrix) -> Floats:
        """(n,) probabilities."""
        raw = self.line.raw(x)
        if self.text:
            booster = lightgbm().Booster(model_str=self.text)
            raw = raw + np.asarray(booster.predict(x, raw_score=True, num_threads=1))
        return sigmoid(self.slope * raw + self.level)


@dataclass(frozen=True, slots=True)
class Judged:
    """One way of foretelling, on the same rows. `lift`: of the best tenth against all."""

    auc: float
    lift: float
    total: Sum

    def to_json(self) -> dict[str, Any]:
        return {"auc": self.auc, "lift": self.lift, "sums": self.total.to_json()}


@dataclass(frozen=True, slots=True)
class Report:
    """Of held-out rows: the forest, the logistic, and the forest's AUC less the logistic's with its paired
    95 % interval; `deciles`: Σp/Σy of each tenth by score.
    """

    rows: int
    positives: int
    forest: Judged
    baseline: Judged
    gap: tuple[float, float, float]
    auc_interval: tuple[float, float]
    deciles: tuple[float | None, ...]
    telling: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows, "positives": self.positives, "forest": self.forest.to_json(),
            "baseline": self.baseline.to_json(), "auc_gap": list(self.gap),
            "auc_interval": list(self.auc_interval), "deciles": list(self.deciles),
            "telling": list(self.telling),
        }  # fmt: skip


def _telling(scorer: Scorer, n: int) -> Floats:
    """(n,) how much each feature moves: of the logistic by its weight, of the forest by its share of gain."""
    found = np.abs(np.array(scorer.line.weights[1 : n + 1]))
    if scorer.text:
        gain = lightgbm().Booster(model_str=scorer.text).feature_importance("gain")
        found = found / max(found.sum(), 1e-9) + gain / max(gain.sum(), 1e-9)
    told: Floats = found
    return told


def fit(rows: Rows, *, seed: int = 7, threads: int = 1) -> Scorer | None:
    """None where there are too few of either kind to learn from."""
    some = _some(rows, MOST_ROWS, seed)
    if not enough(some.label):
        return None
    fold = (some.who * np.int64(2_654_435_761) >> 7) % FOLDS
    raw = np.zeros((len(SIZES), len(some)))  # of each customer by models that have not seen them
    for one in range(FOLDS):
        out = fold == one
        rest = some.take(~out)
        if not out.any() or not enough(rest.label, 10):
            continue
        line = fit_line(rest)
        booster = _boosted(rest, line.raw(rest.x), seed, threads)
        for place, trees in enumerate(SIZES):
            raw[place, out] = line.raw(some.x[out])
            if trees:
                raw[place, out] += booster.predict(some.x[out], raw_score=True, num_iteration=trees)
    best = int(np.argmin([_loss(one, some.label) for one in raw]))
    line, text = fit_line(some), ""
    if SIZES[best]:
        booster = _boosted(some, line.raw(some.x), seed, threads)
        text = booster.model_to_string(num_iteration=SIZES[best])
    design = np.stack([np.ones(len(some)), raw[best]], axis=1)
    level, bend = logistic(design, some.label, np.array([1e-3, 50.0]), offset=raw[best])  # drawn to slope 1
    return Scorer(line, text, float(1.0 + bend), float(level))


def _loss(raw: Floats, label: Floats) -> float:
    return float(np.mean(np.logaddexp(0.0, raw) - label * raw))


def enough(label: Floats, least: int = FEWEST) -> bool:
    """Whether there are positives and others to learn from."""
    return bool(min(label.sum(), len(label) - label.sum()) >= least)


def judge(scorer: Scorer, learnt: Rows, held: Rows, names: tuple[str, ...], *, seed: int = 7) -> Report:
    """On rows of later moments."""
    held = _some(held, MOST_JUDGED, seed)
    p = scorer.chances(held.x)
    base = sigmoid(fit_line(_some(learnt, MOST_ROWS, seed)).raw(held.x))
    rng = np.random.default_rng(seed)
    gaps, aucs = [], []
    for _ in range(RESAMPLES):
        weight = rng.poisson(1.0, len(held)).astype(np.float64)
        aucs.append(auc(p, held.label, weight))
        gaps.append(aucs[-1] - auc(base, held.label, weight))
    mine, other = (_judged(one, held) for one in (p, base))
    low, high = np.nanquantile(gaps, (0.025, 0.975)).tolist()
    tenth = np.minimum(np.argsort(np.argsort(p, kind="stable")) * 10 // len(p), 9)
    said, came = np.bincount(tenth, p, 10), np.bincount(tenth, held.label, 10)
    deciles = tuple(
        round(float(a / b), 3) if b >= FEWEST_IN_TENTH else None for a, b in zip(said, came, strict=True)
    )
    telling = tuple(names[at] for at in np.argsort(-_telling(scorer, len(names)), kind="stable")[:5])
    interval = np.nanquantile(aucs, (0.025, 0.975)).tolist()
    return Report(
        len(held), int(held.label.sum()), mine, other, (mine.auc - other.auc, low, high),
        (interval[0], interval[1]), deciles, telling,
    )  # fmt: skip


def fit_line(rows: Rows) -> Line:
    """The logistic of standardised columns; what is not known is the mean, and flagged."""
    known = np.isfinite(rows.x)
    count = np.maximum(known.sum(axis=0), 1)
    centre = np.where(known, rows.x, 0).sum(axis=0, dtype=np.float64) / count
    spread = np.sqrt(np.where(known, (rows.x - centre) ** 2, 0).sum(axis=0) / count)
    spread[spread < 1e-6] = 1.0
    gaps = np.flatnonzero(~known.all(axis=0))
    blank = Line(tuple(centre.tolist()), tuple(spread.tolist()), tuple(gaps.tolist()), ())
    ridge = np.full(1 + rows.x.shape[1] + len(gaps), RIDGE)
    ridge[0] = 1e-3
    return replace(blank, weights=tuple(logistic(blank.design(rows.x), rows.label, ridge).tolist()))


def auc(score: Floats, label: Floats, weight: Floats | None = None) -> float:
    """The chance that one with a label stands above one without, ties half; NaN without both kinds."""
    weight = np.ones(len(score)) if weight is None else weight
    level, place = np.unique(score, return_inverse=True)
    good, bad = (np.bincount(place, weight * part, len(level)) for part in (label, 1 - label))
    if not good.sum() or not bad.sum():
        return float("nan")
    below = np.cumsum(bad) - 0.5 * bad
    return float((good * below).sum() / (good.sum() * bad.sum()))


def lift(score: Floats, label: Floats, share: float = 0.1) -> float:
    """How many times the average the best `share` by score has; NaN where nobody has the label."""
    best = np.argsort(-score, kind="stable")[: max(1, round(len(score) * share))]
    return float(label[best].mean() / label.mean()) if label.any() else float("nan")


def _judged(p: Floats, held: Rows) -> Judged:
    return Judged(auc(p, held.label), lift(p, held.label), summed(p, held.label, held.who))


def _boosted(rows: Rows, start: Floats, seed: int, threads: int) -> Any:
    learner = lightgbm()
    settings: Mapping[str, Any] = {
        "objective": "binary", "seed": seed, "num_threads": threads, "verbosity": -1, "deterministic": True,
        "force_col_wise": True, "max_bin": 127, "num_leaves": 8, "learning_rate": 0.05, "lambda_l2": 10.0,
        "min_data_in_leaf": 60, "feature_fraction": 0.6, "bagging_fraction": 0.8, "bagging_freq": 1,
    }  # fmt: skip
    data = learner.Dataset(rows.x, rows.label, init_score=start, params=dict(settings))
    return learner.train(dict(settings), data, SIZES[-1])


def _some(rows: Rows, most: int, seed: int) -> Rows:
    if len(rows) <= most:
        return rows
    return rows.take(np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False)))
