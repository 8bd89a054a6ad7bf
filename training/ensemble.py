"""Weights of several models as one (`serving.ensemble_model`), fitted on the validation cases alone.

Scores of each model are standardised within a customer; weights are searched by coordinates for the best value
of the metric itself, from the best model alone outwards, so that on the validation no single model is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.ensemble_model import standardised
from training.evaluate import Cases, Ranking, Scorer, measure, ranks_of

STEPS: Final = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the largest weight
ROUNDS: Final = 3
MOST_CELLS: Final = 60_000_000  # scores held at once
LEAST_GAIN: Final = 1e-4  # relative: less is noise, and a model more to serve


@dataclass(frozen=True, slots=True)
class _Case:
    """`scores` (models, open items), and where the held-out items stand among those."""

    scores: NDArray[np.float32]
    held: NDArray[np.intp]


def fit_weights(scorers: Mapping[str, Scorer], cases: Cases, metric: str, seed: int) -> dict[str, float]:
    """A weight for each model, the largest 1; 0 where a model adds nothing."""
    names = list(scorers)
    most = max(50, MOST_CELLS // max(cases.n_items * len(names), 1))
    if len(cases) > most:
        rng = np.random.default_rng(seed)
        cases = cases.take(np.sort(rng.choice(len(cases), most, replace=False)))
    table = [_case(list(scorers.values()), cases, case) for case in range(len(cases))]

    def value(weights: NDArray[np.float32]) -> float:
        ranks = np.concatenate([ranks_of(weights @ one.scores, one.held.astype(np.int32)) for one in table])
        ranking = Ranking(ranks, np.zeros((len(cases), 0), np.int32))
        return measure(ranking, cases, np.zeros(cases.n_items), ks=ks_of(metric)).value(metric)

    singles = np.eye(len(names), dtype=np.float32)
    values = [value(one) for one in singles]
    best = int(np.argmax(values))
    weights, reached = singles[best].copy(), values[best]
    for _ in range(ROUNDS):
        before = reached
        for place in sorted(range(len(names)), key=lambda at: -values[at]):
            for step in (0.0, *STEPS):
                tried = weights.copy()
                tried[place] = step * float(np.delete(weights, place).max(initial=0.0) or 1.0)
                if not tried.any():
                    continue
                found = value(tried)
                if found > reached * (1.0 + LEAST_GAIN):
                    weights, reached = tried / tried.max(), found
        if reached <= before * (1.0 + LEAST_GAIN):
            break
    return {name: round(float(weight), 4) for name, weight in zip(names, weights, strict=True)}


def ks_of(metric: str) -> tuple[int, ...]:
    """The list length that a metric's name asks for."""
    return (int(metric.partition("@")[2]),) if "@" in metric else (10,)


def _case(scorers: Sequence[Scorer], cases: Cases, case: int) -> _Case:
    parts = [np.asarray(scorer(case)) for scorer in scorers]
    allowed = np.isfinite(cases.opened(case, np.zeros(cases.n_items, np.float32)))
    known = np.any([np.isfinite(part) for part in parts], axis=0)
    rows = np.flatnonzero(allowed)
    scores = np.stack([standardised(part)[rows] for part in parts])
    scores[:, ~known[rows]] = np.nan
    held = np.searchsorted(rows, cases.held.of(case))
    held = np.minimum(held, len(rows) - 1)
    return _Case(np.ascontiguousarray(scores), held)
