"""How many items of a history popularity is worth: chosen on validation, told only a little of each case.

The cases are asked as if known by their latest 0, 1, 3, 5, 10 and all items. Chosen is what is best on
average over these lengths among what is nowhere below popularity and, with whole histories, no worse than
without a prior.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.ensemble_model import EnsembleModel, drawn, standardised
from serving.models import ServedModel
from training.evaluate import Cases, Past, Ranking, measure, ranks_of
from training.model import Customers
from training.scoring import scorer_of

LENGTHS: Final = (0, 1, 3, 5, 10)
WORTHS: Final = (0.0, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
MOST_CASES: Final = 600
LOSS: Final = 2e-3  # relative, with whole histories: less is noise


def shortened(past: Past, latest: int) -> Past:
    """The same histories, cut to their latest items; none at all for 0."""
    ends = past.indptr[1:]
    counts = np.minimum(np.diff(past.indptr), latest)
    indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    rows = np.repeat(ends - counts - indptr[:-1], counts) + np.arange(int(indptr[-1]))
    return Past(indptr, past.rows[rows], past.weights[rows])


def fit_worth(
    whole: EnsembleModel,
    popular: ServedModel,
    cases: Cases,
    past: Past,
    customers: Customers,
    value_of: Callable[[Ranking, Cases], float],
) -> float:
    """The worth of the prior in items; `value_of` is the metric, `past` belongs to the cases."""
    chosen = np.linspace(0, len(cases) - 1, min(MOST_CASES, len(cases))).astype(np.intp)
    if not len(cases):
        return 0.0
    chosen = np.unique(chosen)
    some = cases.take(chosen)
    mine = _picked(past, chosen)
    values = np.empty((len(LENGTHS) + 1, len(WORTHS)))
    floor = np.empty(len(LENGTHS) + 1)
    for place, latest in enumerate((*LENGTHS, None)):
        told = mine if latest is None else shortened(mine, latest)
        values[place], floor[place] = _values(whole, popular, some, told, customers, value_of)
    good = (values >= floor[:, None]).all(axis=0) & (values[-1] >= values[-1, 0] * (1.0 - LOSS))
    if not good.any():
        good = values[-1] >= values[-1, 0] * (1.0 - LOSS)
    means = np.where(good, values.mean(axis=0), -np.inf)
    return WORTHS[int(np.argmax(means))]


def _values(
    whole: EnsembleModel,
    popular: ServedModel,
    cases: Cases,
    past: Past,
    customers: Customers,
    value_of: Callable[[Ranking, Cases], float],
) -> tuple[NDArray[np.float64], float]:
    """The metric with each worth, and that of popularity alone."""
    base = scorer_of(popular, cases, past, customers)
    full = scorer_of(whole, cases, past, customers)
    known = np.diff(past.indptr)
    ranks: list[list[NDArray[np.int64]]] = [[] for _ in (*WORTHS, None)]
    for case in range(len(cases)):
        held, prior, scores = cases.held.of(case), base(case), full(case)
        for place, worth in enumerate((*WORTHS, None)):
            if worth is None or (worth and not known[case]):
                found = standardised(prior)
            else:
                found = drawn(scores, prior, worth / (worth + known[case])) if worth else scores
            ranks[place].append(ranks_of(cases.opened(case, found), held))
    none = np.zeros((len(cases), 0), np.int32)
    every = [value_of(Ranking(np.concatenate(one), none), cases) for one in ranks]
    return np.array(every[:-1]), every[-1]


def _picked(past: Past, chosen: NDArray[np.intp]) -> Past:
    counts = np.diff(past.indptr)[chosen]
    indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    rows = np.repeat(past.indptr[chosen] - indptr[:-1], counts) + np.arange(int(indptr[-1]))
    return Past(indptr, past.rows[rows], past.weights[rows])


def metric_of(name: str, ks: tuple[int, ...]) -> Callable[[Ranking, Cases], float]:
    """The value of one metric."""
    return lambda ranking, cases: measure(ranking, cases, np.zeros(cases.n_items), ks).value(name)
