"""The synthetic bank that its tests share, and how near a frequency must be to its chance."""

from __future__ import annotations

from functools import cache

import numpy as np

from features.ids import KIND_CODE
from training.world import HOME, World

Z = 4.5  # standard errors that a frequency may be away from its probability


@cache
def world() -> World:
    return World.create(11, customers=3_000, items=900, visits_per_day=0.4)


@cache
def past():
    """(rows, respondent, days) of twelve days."""
    respondent = world().respondent()
    days = list(world().history(12, respondent=respondent))
    return np.concatenate([day.rows for day in days]), respondent, days


def random_pages(rng: np.random.Generator, count: int, w: World | None = None) -> np.ndarray:
    """Pages of items that fit their slots, none twice in a slot."""
    w = w or world()
    pages = np.empty((count, HOME.places), np.int64)
    for index, slot in enumerate(HOME.slots):
        pool = np.flatnonzero(np.isin(w.catalogue.kind, [KIND_CODE[kind] for kind in slot.kinds]))
        pages[:, HOME.columns(index)] = pool[
            np.argsort(rng.random((count, len(pool))), axis=1)[:, : slot.size]
        ]
    return pages


def close(hits: np.ndarray | float, chances: np.ndarray) -> bool:
    """Whether a number of hits agrees with the sum of its chances, within Z standard errors."""
    spread = np.sqrt((chances * (1 - chances)).sum())
    return bool(abs(float(np.sum(hits)) - chances.sum()) <= Z * spread + 1e-9)
