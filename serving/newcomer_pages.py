"""What the running bundle predicted of its new items on pages that were served, from the log's rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from serving.bandit import BanditError, Learned
from serving.live import Live
from serving.newcomers import KNOWN, PREDICTS, Newcomers

LOG: Final = logging.getLogger("fenliu.bandit")
KEPT: Final = 30  # versions whose word is remembered: half an hour's
NONE: Final[Mapping[int, float]] = {}


class Predictions:
    """By row of the log: new item -> P(clicked | displayed). Empty until `watch` was called, and of pages
    whose scores are only an order.

    A page's scores were corrected by what its version had told; that is taken back, or every minute would
    count its own doing. `fetch` gives a version by its name, or raises BanditError.
    """

    def __init__(self, fetch: Callable[[str], Learned]) -> None:
        self._fetch = fetch
        self._live: Live | None = None
        self._tries = False
        self._told: dict[str | None, Newcomers] = {}

    def watch(self, live: Live) -> None:
        """What is run by from now on: no page of another bundle counts."""
        if self._live is None or live.newcomers.shape is not self._live.newcomers.shape:
            self._told.clear()  # another bundle, or rows that were put since
        self._live = live
        views = (live, *live.variants.values())
        self._tries = any(slot.explore_new > 0 for view in views for slot in view.plan.slots.values())

    def __call__(self, row: Mapping[str, Any]) -> Mapping[int, float]:
        live = self._live
        if live is None or not self._tries or row["bundle"] != live.bundle.version:
            return NONE
        if row["effort"] not in PREDICTS:
            return NONE
        items = np.frombuffer(row["items"], "<u8")
        rows = live.items.rows_of_keys(items)
        places = ((rows >= 0) & (live.newcomers.shape.take(rows) < KNOWN)).nonzero()[0]
        if not len(places):
            return NONE
        items, scores = items.take(places), np.frombuffer(row["scores"], "<f4").take(places)
        mean = self._told_by(live, row.get("learned")).mean
        if mean is not None:
            scores = scores / mean.take(rows.take(places))
        return dict(zip(items.tolist(), scores.tolist(), strict=True))

    def _told_by(self, live: Live, version: str | None) -> Newcomers:
        """What a version told of them; nothing where it is gone."""
        known = self._told.get(version)
        if known is None:
            if len(self._told) >= KEPT:
                del self._told[next(iter(self._told))]
            fresh: Mapping[int, tuple[float, float]] = {}
            try:
                one = self._fetch(version) if version is not None else None
                fresh = one.fresh if one is not None and one.bundle == live.bundle.version else {}
            except BanditError:
                LOG.warning("version %s is gone: its pages count as if it had told nothing", version)
            known = self._told[version] = live.newcomers.told(fresh, live.items.rows_of_keys)
        return known
