"""Scores of all items for the cases of an evaluation: the served models' own, of many cases at a time.

Vectors of many customers against those of many items are one product of matrices: a fifteenth of the time of
a product each on 41,000 items. An ensemble is mixed by the serving code from its parts' scores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.domain import Scores
from serving.ensemble_model import EnsembleModel
from serving.models import ServedModel
from serving.vector_model import ItemVectors
from training.evaluate import Cases, Past, Scorer
from training.model import Customers

FEWEST_CELLS: Final = 500_000  # numbers in the item vectors; below them a product each is as good
BLOCK: Final = 64  # cases


def scorer_of(model: ServedModel, cases: Cases, past: Past, customers: Customers) -> Scorer:
    """Scores of all items for a case, as the service would ask for them. May be asked by several threads."""
    if isinstance(model, EnsembleModel) and any(map(_large, model.parts)):
        return _mixed(model, cases, past, customers)

    def alone(case: int) -> Scores:
        user = int(cases.users[case])
        taste = model.represent(past.of(case), customers.tokens_of(user), int(customers.segment[user]))
        return model.score_all(taste)

    return (
        _blocks(model, cases, past, customers) if isinstance(model, ItemVectors) and _large(model) else alone
    )


def _large(model: ServedModel) -> bool:
    return isinstance(model, ItemVectors) and model.vectors.size >= FEWEST_CELLS


def _blocks(model: ItemVectors, cases: Cases, past: Past, customers: Customers) -> Scorer:
    """Whole blocks of cases are scored when one of them is asked for; each thread keeps its latest block."""
    own = threading.local()
    without = np.flatnonzero(~model.has_vector)

    def block(start: int) -> NDArray[np.float32]:
        end = min(start + BLOCK, len(cases))
        tastes = np.empty((end - start, model.width), np.float32)
        for case in range(start, end):
            user = int(cases.users[case])
            known, segment = customers.tokens_of(user), int(customers.segment[user])
            tastes[case - start] = model.represent(past.of(case), known, segment).values  # type: ignore[attr-defined]
        found = tastes @ model.vectors.T
        found[:, without] = np.nan
        return found

    def scores(case: int) -> Scores:
        start = case - case % BLOCK
        if getattr(own, "start", None) != start:
            own.start, own.scores = start, block(start)
        found: Scores = own.scores[case - start]
        return found

    return scores


def _mixed(model: EnsembleModel, cases: Cases, past: Past, customers: Customers) -> Scorer:
    parts = [scorer_of(part, cases, past, customers) for part in model.parts]
    prior: Callable[[int], Scores] | None = None
    if model.prior is not None and model.worth:
        prior = scorer_of(model.prior, cases, past, customers)

    def scores(case: int) -> Scores:
        known = int(np.count_nonzero(past.of(case).rows < model.n_items))
        of_prior = None if prior is None else prior(case)
        return model.mixed(lambda: [part(case) for part in parts], of_prior, known)

    return scores
