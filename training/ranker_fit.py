"""Learns the ranker: a small forest on top of counts, calibrated on days that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS
from features.ranking import FEATURES
from features.ranking_kernel import DAY, KNOTS
from serving.forest import MOST_LEAVES, Forest
from serving.ranker import POSITIONS, Answer, Ranker
from training.ranker_bend import bend_of, bent
from training.ranker_facts import Rates
from training.ranker_floor import LAST, Floors
from training.trees import forest_of, lightgbm

Floats = NDArray[np.float64]
_KIND: Final = FEATURES.index("kind")
FOLDS: Final = 3
SLOPE_RIDGE: Final = 4000.0  # what "as the larger group" weighs, in sums of p (1 - p) times log-odds squared
LEVEL_RIDGE: Final = 300.0  # … and in sums of p (1 - p): about as many answers
MONOTONE: Final[Mapping[str, int]] = {"tired": -1}
"""By default only this: showing again what was not wanted never helps. A business may ask more."""


@dataclass(frozen=True, slots=True)
class Setting:
    """`monotone`: by feature name 1 (more never lowers the score) or -1. `large_*`: of the forest that the
    one that serves is compared with.
    """

    seed: int = 7
    threads: int = 1
    trees: int = 32
    leaves: int = 16
    rate: float = 0.18
    large_trees: int = 120
    large_leaves: int = 31
    large_rate: float = 0.06
    monotone: Mapping[str, int] = field(default_factory=lambda: dict(MONOTONE))

    def __post_init__(self) -> None:
        strange = sorted(set(self.monotone) - set(FEATURES))
        if strange:
            raise ValueError(f"monotone names {', '.join(strange)}: features are {', '.join(FEATURES)}")
        if not 2 <= self.leaves <= MOST_LEAVES:
            raise ValueError(f"a tree that serves has 2 to {MOST_LEAVES} leaves, not {self.leaves}")


class Rows(NamedTuple):
    """Displays (m) as they are learnt from: `matrix` (features, m), `slot` codes, `position`, item row, POSIX
    seconds of the page, whether it was clicked, and when its conversion arrived (inf: never).
    """

    matrix: NDArray[np.float32]
    slot: NDArray[np.int64]
    position: NDArray[np.int64]
    item: NDArray[np.int32]
    at: Floats
    clicked: NDArray[np.bool_]
    converted: Floats

    @property
    def size(self) -> int:
        return len(self.slot)

    def take(self, chosen: NDArray[Any]) -> Rows:
        return Rows(np.ascontiguousarray(self.matrix[:, chosen]), *(one[chosen] for one in self[1:]))

    @property
    def kind(self) -> NDArray[np.int64]:
        kind: NDArray[np.int64] = self.matrix[_KIND].astype(np.int64)
        return kind


class RankerVerdict(NamedTuple):
    """What the step found: the ranker, or None where there is none to serve; `report` is JSON-able."""

    ranker: Ranker | None
    report: dict[str, Any]


def placed_together(parts: list[Rows]) -> Rows:
    """Rows of several stretches of time as one."""
    columns = list(zip(*(part[1:] for part in parts), strict=True))
    matrix = np.concatenate([part.matrix for part in parts], axis=1)
    return Rows(matrix, *(np.concatenate(column) for column in columns))


def place_table(rates: Rates, slots: int) -> NDArray[np.float32]:
    """(slots + 1, POSITIONS) log-odds from rates by slot · POSITIONS + position; the last row their mean."""
    rate = np.clip(rates.place.reshape(slots, POSITIONS), 1e-5, 0.9)
    logit = np.log(rate / (1 - rate))
    return np.concatenate([logit, logit.mean(axis=0, keepdims=True)]).astype(np.float32)


def blank(place: NDArray[np.float32], *, buys: bool) -> Answer:
    """Counts alone: no forest, no calibration."""
    ones = np.ones((len(place), len(KINDS) + 1), np.float32)
    bend = np.zeros((len(place), KNOTS), np.float32)
    return Answer(Forest.nothing(), place, ones, np.zeros_like(ones), bend, np.zeros_like(place), buys)


def fit_answer(rows: Rows, label: Floats, start: Answer, setting: Setting) -> Answer:
    """The forest on what `start` leaves unexplained, with the floors of the places beside it, then the places
    once more. `label` (m,) in [0, 1]. Of conversions there is no floor.

    Straight from the labels: distilled from a large forest, as small a one attains half a point less of the
    synthetic bank's log loss (`fenliu bench ranker` prints both).
    """
    base = raw_of(start, rows)
    floors = Floors(
        np.exp(start.place[:-1].astype(np.float64)),
        np.minimum(rows.slot, len(start.place) - 2) * POSITIONS + np.minimum(rows.position, POSITIONS - 1),
        learnt=not start.buys,
    )
    level = floors.level(base, label)
    base += level
    columns = np.ascontiguousarray(rows.matrix.T)
    grown = boosted(columns, label, base, setting, large=False, floors=floors)
    odds = base + grown.predict(columns, raw_score=True, num_threads=setting.threads)
    for _ in range(LAST):
        floors.look(odds, label)
    place = start.place + np.float32(level)
    place[:-1] += floors.shifts(odds, label).astype(np.float32)
    table = floors.table
    floor = np.concatenate([table, table.mean(axis=0, keepdims=True)]).astype(np.float32)
    return replace(start, forest=forest_of(grown), place=place, floor=floor)


def boosted(
    columns: NDArray[np.float32],
    label: Floats,
    base: Floats,
    setting: Setting,
    *,
    large: bool,
    weight: Floats | None = None,
    floors: Floors | None = None,
) -> Any:
    """A booster on top of the log-odds `base`, above `floors` learnt beside its trees; `label` may be
    a probability (`cross_entropy`).

    `columns` (m, FEATURES and what a study adds to them).
    """
    learner = lightgbm()
    shared = {
        "objective": "cross_entropy", "seed": setting.seed, "num_threads": setting.threads, "verbosity": -1,
        "deterministic": True, "force_col_wise": True, "max_bin": 127, "lambda_l2": 5.0,
        "min_data_in_leaf": 100, "boost_from_average": False,
        "monotone_constraints": [
            *(setting.monotone.get(name, 0) for name in FEATURES), *[0] * (columns.shape[1] - len(FEATURES))
        ],
    }  # fmt: skip
    if large:
        trees = setting.large_trees
        own = {
            "num_leaves": setting.large_leaves,
            "learning_rate": setting.large_rate,
            "feature_fraction": 0.7,
        }
    else:
        trees, own = setting.trees, {"num_leaves": setting.leaves, "learning_rate": setting.rate}
    asked: dict[str, Any] = shared | own
    if floors is not None:
        asked["objective"] = floors.objective(label)
    data = learner.Dataset(columns, label, weight=weight, init_score=base, params=shared)
    return learner.train(asked, data, trees)


def fit_calibrated(rows: Rows, label: Floats, start: Answer, setting: Setting) -> Answer:
    """`fit_answer` of all rows, calibrated on days that it has not seen."""
    return fit_foretold(rows, label, start, setting)[0]


def fit_foretold(rows: Rows, label: Floats, start: Answer, setting: Setting) -> tuple[Answer, Floats]:
    """`fit_calibrated`, and what it says of each display (m,) by forests that have not seen its day.

    Days are dealt to FOLDS parts; each is foretold by forests of the others, and slopes and levels are fitted
    on all that was foretold: many days, so that no weekend's mood becomes the level.
    """
    fold = np.floor_divide(rows.at, DAY).astype(np.int64) % FOLDS
    raw = np.zeros(rows.size)
    for one in np.unique(fold).tolist():
        out = fold == one
        if out.all():
            continue
        made = fit_answer(rows.take(~out), label[~out], start, setting)
        raw[out] = raw_of(made, rows.take(out))
    whole = fit_answer(rows, label, start, setting)
    if not raw.any():
        return whole, expected(whole, rows)
    found = calibrated(whole, rows, raw, label)
    return found, logistic(_calibrated(found, rows, raw))


def calibrated(answer: Answer, rows: Rows, raw: Floats, label: Floats) -> Answer:
    """Slope and level by slot and kind, then a bend by slot, from log-odds `raw` (m,) of displays that their
    forest had not seen.

    What is displayed was chosen for its score: of equal scores, those chosen were luckier (the winner's
    curse), so calibration is learnt where it is used. A cell with little data stays near its slot's, and that
    near what all displays say.
    """
    slope, level = np.ones_like(answer.slope), np.zeros_like(answer.level)
    kind = rows.kind
    overall = platt(raw, label, (1.0, 0.0))
    slope[:, :], level[:, :] = overall
    for slot in range(len(slope) - 1):
        here = rows.slot == slot
        of_slot = platt(raw[here], label[here], overall)
        slope[slot, :], level[slot, :] = of_slot
        for one in range(len(KINDS)):
            mine = here & (kind == one)
            if mine.any():
                slope[slot, one], level[slot, one] = platt(raw[mine], label[mine], of_slot)
    lined = slope[rows.slot, kind] * raw + level[rows.slot, kind]
    of_all = bend_of(lined, label, np.zeros(KNOTS))
    bend = np.tile(of_all, (len(slope), 1))
    for slot in np.unique(rows.slot).tolist():
        here = rows.slot == slot
        bend[slot] = bend_of(lined[here], label[here], of_all)
    return replace(
        answer,
        slope=slope.astype(np.float32),
        level=level.astype(np.float32),
        bend=bend.astype(np.float32),
    )


def _calibrated(answer: Answer, rows: Rows, raw: Floats) -> Floats:
    """(m,) log-odds `raw` as the answer's calibration has them."""
    found = answer.slope[rows.slot, rows.kind] * raw + answer.level[rows.slot, rows.kind]
    for slot in np.unique(rows.slot).tolist():
        here = rows.slot == slot
        found[here] = bent(found[here], answer.bend[slot].astype(np.float64))
    return found


def platt(raw: Floats, label: Floats, towards: tuple[float, float]) -> tuple[float, float]:
    """(slope, level) of the likeliest logistic of `raw`, drawn `towards` another; slope at least 0.2."""
    found = np.array(towards, np.float64)
    ridge = np.array([SLOPE_RIDGE, LEVEL_RIDGE])
    for _ in range(30 if len(raw) else 0):
        p = logistic(found[0] * raw + found[1])
        design = np.stack([raw, np.ones_like(raw)])
        push = design @ (label - p) - ridge * (found - towards)
        curve = (design * (p * (1 - p))) @ design.T + np.diag(ridge)
        step = np.clip(np.linalg.solve(curve, push), -1.0, 1.0)
        found += step
        if float(np.abs(step).max()) < 1e-8:
            break
    return max(float(found[0]), 0.2), float(found[1])


def raw_of(answer: Answer, rows: Rows) -> Floats:
    """(m,) log-odds of each display at its own place, before calibration."""
    where = rows.slot, np.minimum(rows.position, POSITIONS - 1)
    return answer.raw(rows.matrix, answer.place[where], answer.floor[where]).astype(np.float64)


def expected(answer: Answer, rows: Rows) -> Floats:
    """(m,) what the ranker says of each display at its own place."""
    return answer.at(rows.matrix, rows.slot, rows.position).astype(np.float64)


def log_loss(p: Floats, label: Floats) -> float:
    """Mean; `label` may be a probability. 0 and 1 are moved in by 1e-7."""
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return float(-(label * np.log(p) + (1 - label) * np.log1p(-p)).mean())


def level_of(base: Floats, label: Floats) -> float:
    """What to add to all log-odds so that they add up to the labels."""
    level = 0.0
    for _ in range(30):
        p = logistic(base + level)
        step = float((label - p).sum() / max((p * (1 - p)).sum(), 1e-9))
        level += min(max(step, -1.0), 1.0)
        if abs(step) < 1e-9:
            break
    return level


def logistic(logit: Floats) -> Floats:
    found: Floats = 1.0 / (1.0 + np.exp(-np.clip(logit, -30.0, 30.0)))
    return found
