"""What scores a bundle gives: of logged pages, decided again by it, so that drift has something to be from.

Pages are taken evenly from the days before, whatever rung they were served on, and decided on the rung
`full`, for that is what is held against them. Nothing of a customer is kept: deciles of whole surfaces.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from features.events import unpack
from serving.decide import decide
from serving.live import Live
from serving.score_drift import Reference
from training.lake import Lake
from training.replay import Record, ReplayError, query_of
from training.sample import as_of

PAGES: Final = 4_000
DAYS: Final = 7
DAY_S: Final = 86_400.0


def score_reference(
    lake: Lake, candidate: Live, until: float, *, pages: int = PAGES, days: int = DAYS
) -> dict[str, dict[str, Any]]:
    """By surface, templates as one, for the manifest; surfaces with too few pages are left out."""
    scores: dict[str, list[float]] = {}
    for record in _evenly(lake, until, pages, days):
        try:
            page = decide(query_of(as_of(record, candidate), candidate), candidate, "full")
        except (ReplayError, KeyError):
            continue  # the plan serves this surface no more
        if page.placements:
            mean = sum(one.score for one in page.placements) / len(page.placements)
            scores.setdefault(candidate.plan.called(record["surface"])[-1], []).append(mean)
    made = {surface: Reference.of(some) for surface, some in sorted(scores.items())}
    return {surface: one.to_json() for surface, one in made.items() if one is not None}


def _evenly(lake: Lake, until: float, pages: int, days: int) -> Iterator[Record]:
    """About `pages` of the records of those days, day by day, so that they are never all in memory."""
    starts = (until - DAY_S * np.arange(days, 0, -1)).tolist()
    counts = [lake.served(start, start + DAY_S, columns=["at"]).num_rows for start in starts]
    total = sum(counts)
    some = min(pages, total)
    chosen = np.arange(some) * total // max(some, 1)  # whole numbers: a fraction may round to one too many
    ends = np.cumsum([0, *counts])
    for start, low, high in zip(starts, ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        rows = chosen[(chosen >= low) & (chosen < high)] - low
        if len(rows):
            packed = lake.served(start, start + DAY_S, columns=["record"])["record"].take(rows)
            yield from (unpack(one.as_py()) for one in packed)
