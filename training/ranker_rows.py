"""Displays as rows to learn from: each logged page goes through the stages that a served one goes through."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.ranking import FEATURES
from features.ranking_kernel import UNKNOWN
from serving.decide import page_of
from serving.domain import Column, Query, Rows
from serving.hydrators import Affinity
from serving.live import Live
from serving.ranking import Signals
from serving.sources import NearestToCustomer, Taste

_MODEL: Final = FEATURES.index("model")
UNSCALED: Final = (0.0, 1.0)


def page_matrix(query: Query, live: Live, rows: Rows, signals: Signals) -> NDArray[np.float32]:
    """(features, n) f4 of items `rows` (n,), ascending, for a query: what `serving.ranking.Ranked` sees."""
    page, pipeline = page_of(query, live), live.pipelines["full"]
    for stage in pipeline.understanding:
        if isinstance(stage, Taste):
            stage.understand(page)
    for _, source in pipeline.sources:
        if isinstance(source, NearestToCustomer) and source.enabled(page):
            source.propose(page)  # it leaves the scores of all rows, as in service
    some = pipeline.candidates(rows)
    columns: dict[str, Column] = {}
    for hydrator in pipeline.hydrators:
        if isinstance(hydrator, Affinity) and hydrator.enabled(page):
            columns |= hydrator.columns(page, some)
    return signals.matrix(page, some.widened(columns))


def scale_of(matrix: NDArray[np.float32]) -> tuple[float, float]:
    """(mean, deviation) of the model's scores in a matrix made with UNSCALED, which it is without any."""
    scores = matrix[_MODEL].astype(np.float64)
    known = scores[scores != UNKNOWN]
    if len(known) < 2 or not known.std() > 1e-9:
        return UNSCALED
    return float(known.mean()), float(known.std())


def rescaled(matrix: NDArray[np.float32], scale: tuple[float, float]) -> NDArray[np.float32]:
    """A matrix made with UNSCALED as `Signals` makes it with `scale`; in place."""
    scores = matrix[_MODEL]
    known = scores != UNKNOWN
    scores[known] = (scores[known] - np.float32(scale[0])) / np.float32(scale[1])
    return matrix
