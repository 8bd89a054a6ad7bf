"""Fits the score by which candidates of different sources and kinds are compared: one logistic per item kind.

Where the validation window has displays, it is the probability of a click or conversion given a display. Else
held-out positives are set against the candidates that the service would have met (the model's and the most
popular), and the effect of repeated display is an assumption, not a measurement. A kind with little data
stays near what all kinds say together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS
from serving.blend import TERMS, Blend, columns_of
from serving.domain import Scores
from serving.models import Popular, ServedModel, best_rows
from training.evaluate import Cases, Past, Scorer
from training.model import Customers
from training.scoring import scorer_of

CANDIDATES = 100
MOST_CASES = 1500
FEWEST_DISPLAYS = 2000
ASSUMED_FATIGUE = -0.25  # log-odds per recent display without a click, where nothing was displayed
LEAST_SLOPE = 0.3  # log-odds per standard deviation of the model's score within a customer
LEAST_SAY = 0.5  # of popularity's slope
RIDGE = 1.0
KIND_RIDGE = 50.0

_MODEL, _POPULAR, _HAS, _FATIGUE = (TERMS.index(name) for name in TERMS[1:])


@dataclass(frozen=True, slots=True)
class Examples:
    """Candidates, one entry each: the customer (`case`), `columns` (n, 5) by TERMS, `label` 0 or 1."""

    case: NDArray[np.int64]
    columns: NDArray[np.float32]
    kinds: NDArray[np.uint8]
    label: NDArray[np.float64]
    measured_fatigue: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """Displays of a window: case, item row, whether it was clicked or converted, fatigue before it."""

    case: NDArray[np.int32]
    item: NDArray[np.int32]
    label: NDArray[np.float64]
    fatigue: NDArray[np.float32]


def examples_from_displays(
    shown: Shown, model: ServedModel, popular: Popular, cases: Cases, past: Past, customers: Customers
) -> Examples:
    """One example per display, scored as the service would have."""
    scorer = scorer_of(model, cases, past, customers)
    score = np.empty(len(shown.item), np.float32)
    share = np.empty(len(shown.item), np.float32)
    order = np.argsort(shown.case, kind="stable")
    starts = np.searchsorted(shown.case[order], np.arange(len(cases) + 1))
    for case in np.unique(shown.case):
        mine = order[starts[case] : starts[case + 1]]
        rows = shown.item[mine]
        score[mine] = scorer(int(case))[rows]
        share[mine] = popular.log_share(int(customers.segment[cases.users[case]]), rows)
    columns = columns_of(score, share, shown.fatigue)
    kinds = model_kinds(model)[shown.item]
    return Examples(shown.case.astype(np.int64), columns, kinds, shown.label, True)


def examples_from_positives(
    model: ServedModel,
    popular: Popular,
    cases: Cases,
    past: Past,
    customers: Customers,
    rng: np.random.Generator,
) -> Examples:
    """The candidates that the service would have met: was each among the held-out items?"""
    chosen = np.arange(len(cases))
    if len(chosen) > MOST_CASES:
        chosen = np.sort(rng.choice(chosen, MOST_CASES, replace=False))
    scorer = scorer_of(model, cases, past, customers)
    parts: list[tuple[Scores, NDArray[np.int32], Scores, NDArray[np.float64]]] = []
    for case in chosen.tolist():
        segment = int(customers.segment[cases.users[case]])
        scores = np.array(scorer(case), np.float32)
        open_scores = scores.copy()
        open_scores[cases.seen.of(case)] = np.nan
        shares = np.array(popular.shares[popular.row_of(segment)])
        shares[cases.seen.of(case)] = np.nan
        held = cases.held.of(case)
        # Only what would have been met: held-out items that no source proposes have low scores by selection,
        # and would teach the blend that a low score is good.
        met = np.union1d(best_rows(open_scores, CANDIDATES), best_rows(shares, CANDIDATES))
        rows = met.astype(np.int32)
        label = np.isin(rows, held).astype(np.float64)
        parts.append((scores[rows], rows, popular.log_share(segment, rows), label))
    score, item, share, label = (np.concatenate(column) for column in zip(*parts, strict=True))
    columns = columns_of(score, share, np.zeros(len(score), np.float32))
    owner = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    return Examples(owner, columns, model_kinds(model)[item], label, False)


def fit_blend(examples: Examples, *, with_popularity: bool = True) -> Blend:
    """Slopes from comparisons within a customer, as a page is chosen; then the level that fits on average.

    Customers differ in how much they do, and heavy users have other scores than new ones: pooled, the slope
    of a good model's score can come out negative. So columns are centred by customer, whose own rate is given
    as an offset. `with_popularity` False: monotone in the model's score, never reordering within a kind.
    """
    used = [0, _MODEL, _HAS] + [_POPULAR] * with_popularity + [_FATIGUE] * examples.measured_fatigue
    within, offset = _by_case(examples)
    scale = within.std(axis=0)
    scale[scale < 1e-9] = 1.0
    within = within[:, used] / scale[used]
    within[:, 0] = 1.0
    label, free = examples.label, np.zeros(len(used))
    overall = _logistic(within, label, offset, free, _ridge(len(used), RIDGE))
    table = np.zeros((len(KINDS), len(TERMS)))
    for kind in range(len(KINDS)):
        mine = examples.kinds == kind
        ridge = np.full(len(used), KIND_RIDGE)
        table[kind, used] = _logistic(within[mine], label[mine], offset[mine], overall, ridge)
    table = _grounded(table)
    table[:, 1:] /= scale[1:]
    if not examples.measured_fatigue:
        table[:, _FATIGUE] = ASSUMED_FATIGUE
    table[:, 0] -= table[:, 1:] @ examples.columns[:, 1:].mean(axis=0, dtype=np.float64)
    table[:, 0] += _level(table, examples)
    return Blend(table.astype(np.float32))


def _by_case(examples: Examples) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns less their customer's mean, and the log-odds of the customer's own rate."""
    _, case = np.unique(examples.case, return_inverse=True)
    count = np.bincount(case).astype(np.float64)
    columns = examples.columns.astype(np.float64)
    means = np.stack([np.bincount(case, column) / count for column in columns.T], axis=1)
    rate = (np.bincount(case, examples.label) + 0.5) / (count + 1.0)
    return columns - means[case], np.log(rate / (1.0 - rate))[case]


def _level(table: NDArray[np.float64], examples: Examples) -> float:
    """What to add to every bias so that the mean prediction is the mean label."""
    logit = np.einsum("ij,ij->i", table[examples.kinds], examples.columns.astype(np.float64))
    found = _logistic(np.ones((len(logit), 1)), examples.label, logit, np.zeros(1), np.full(1, 1e-6))
    return float(found[0])


def blended(
    scorer: Scorer, blend: Blend, popular: Popular, kinds: NDArray[np.uint8], segment: Callable[[int], int]
) -> Scorer:
    """A scorer of what is served: the model's scores through the blend, nobody tired of anything."""
    rested = np.zeros(len(kinds), np.float32)
    rows = np.arange(len(kinds), dtype=np.int32)

    def scores(case: int) -> Scores:
        return blend.logit(kinds, scorer(case), popular.log_share(segment(case), rows), rested)

    return scores


def model_kinds(model: ServedModel) -> NDArray[np.uint8]:
    """(n_items,) kind codes as the model holds them."""
    kinds: NDArray[np.uint8] = model.kinds.codes
    return kinds


def _grounded(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slopes per standard deviation, of the right sign, and the model's large enough to be heard.

    More popularity never counts against an item, nor fatigue for it. The model was picked for its ranking of
    later data; displays were picked by another policy and may tell little of it, but it is through the model
    that a page answers what the customer just did.
    """
    table[:, _POPULAR] = np.maximum(table[:, _POPULAR], 0.0)
    table[:, _MODEL] = np.maximum(table[:, _MODEL], np.maximum(LEAST_SLOPE, LEAST_SAY * table[:, _POPULAR]))
    table[:, _FATIGUE] = np.minimum(table[:, _FATIGUE], 0.0)
    return table


def _ridge(terms: int, strength: float) -> NDArray[np.float64]:
    ridge = np.full(terms, strength)
    ridge[0] = 1e-6
    return ridge


def _logistic(
    columns: NDArray[np.float64],
    label: NDArray[np.float64],
    offset: NDArray[np.float64],
    towards: NDArray[np.float64],
    ridge: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Penalised maximum likelihood by Newton's method, pulled `towards` given coefficients."""
    found = towards.copy()
    for _ in range(50 if len(label) else 0):
        p = 1.0 / (1.0 + np.exp(-np.clip(columns @ found + offset, -30, 30)))
        slope = columns.T @ (label - p) - ridge * (found - towards)
        curve = (columns * (p * (1 - p))[:, None]).T @ columns + np.diag(ridge + 1e-9)
        step = np.linalg.solve(curve, slope)
        found = found + np.clip(step, -5.0, 5.0)
        if float(np.abs(step).max()) < 1e-8:
            break
    return found
