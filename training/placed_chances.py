"""What a bundle says of items at the very places where they stood on a logged page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.decide import page_of
from serving.domain import Query
from serving.live import Live
from serving.ranking import Ranked
from serving.trust import shifted
from training.ranker_rows import page_matrix
from training.sample import scores_of


def chances_of(
    query: Query,
    live: Live,
    keys: NDArray[np.uint64],
    slots: Sequence[str],
    position: NDArray[np.integer],
) -> NDArray[np.float32]:
    """(n,) P(clicked | displayed at this place) of items by key; NaN where the bundle does not rank the item.

    By the bundle's ranker, each at its own place, with what it believes of the bank's own models. A bundle
    without one says what its first stage would: a score that knows no places.
    """
    found = np.full(len(keys), np.nan, np.float32)
    rows = live.items.rows_of_keys(keys)
    ranked = ranked_by(live)
    known = np.flatnonzero(
        (rows >= 0) & (rows < (len(live.bundle) if ranked is None else len(ranked.ranker)))
    )
    if not len(known):
        return found
    some, at = np.unique(rows[known], return_inverse=True)
    some = some.astype(np.int32)
    if ranked is None:
        found[known] = _blended(query, live, some)[at]
        return found
    ranker = ranked.ranker
    matrix = page_matrix(query, live, some, ranked.signals)[:, at]
    slot = np.array([ranker.code(slots[place]) for place in known.tolist()], np.intp)
    mine = ranker.click.at(np.ascontiguousarray(matrix), slot, np.asarray(position)[known])
    said = query.customer.external
    told = ranker.trust.shifts(said, query.now, ranker.facts.keys, some) if len(said) else None
    found[known] = mine if told is None else shifted(mine, told[at])
    return found


def ranked_by(live: Live) -> Ranked | None:
    """The stage that ranks on the rung `full`; None where the bundle has no ranker."""
    return next((one for one in live.pipelines["full"].scorers if isinstance(one, Ranked)), None)


def _blended(query: Query, live: Live, rows: NDArray[np.int32]) -> NDArray[np.float32]:
    page, pipeline = page_of(query, live), live.pipelines["full"]
    for stage in pipeline.understanding:
        stage.understand(page)
    return scores_of(page, pipeline, rows)
