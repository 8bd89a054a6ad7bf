"""New items on pages that were served, from the log's rows: the clicks predicted where each was displayed.

What is predicted of a place is for the first of its slot, by a model that may be off for everything, and
clicks that come late are not waited for. So the known items on the same places are counted too, and of each
place new items are held to the share of the predicted clicks that known ones got: only what a new item does
otherwise than they do is its own. Looked at are slots that try new items, on pages of the running bundle,
decided in full and under no arm that changes anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Set
from functools import lru_cache
from itertools import groupby
from typing import Any, Final, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from serving.bandit import BanditError, Counts, Learned
from serving.live import Live
from serving.newcomers import KNOWN, Newcomers

LOG: Final = logging.getLogger("fenliu.bandit")
KEPT: Final = 30  # versions whose word is remembered: half an hour's
SHRUNK: Final = 20.0  # clicks that a slot's share counts for at one of its places, and 1 for a slot's
MOST_FRESH: Final = 2_000  # new items that are counted
ONE_IN: Final = 8  # pages without a new item that are looked at


class Watched(NamedTuple):
    """Places of one page, side by side: item keys, SLOT:POSITION, clicks predicted, whether it is new."""

    items: NDArray[np.uint64]
    places: tuple[str, ...]
    predicted: NDArray[np.float32]
    new: NDArray[np.bool_]


class Predictions:
    """By row of the log what is to be watched, or None. Nothing until `watch` was called.

    Scores of new items were corrected by what the page's version had told; that is taken back, or every
    minute would count its own doing. `fetch` gives a version by its name, or raises BanditError.
    """

    def __init__(self, fetch: Callable[[str], Learned]) -> None:
        self._fetch = fetch
        self._live: Live | None = None
        self._slots: frozenset[str] = frozenset()
        self._changed: frozenset[str] = frozenset()
        self._told: dict[str | None, Newcomers] = {}

    def watch(self, live: Live) -> bool:
        """What is run by from now on: no page of another bundle counts. Whether there was another before."""
        other = self._live is not None and self._live.bundle.version != live.bundle.version
        if self._live is None or live.newcomers.shape is not self._live.newcomers.shape:
            self._told.clear()  # another bundle, or rows that were put since
        self._live = live
        self._slots = frozenset(name for name, slot in live.plan.slots.items() if slot.explore_new > 0)
        self._changed = frozenset(live.experiments.arms)
        return other

    def __call__(self, row: Mapping[str, Any]) -> Watched | None:
        live = self._live
        if live is None or not self._slots or row["bundle"] != live.bundle.version:
            return None
        if row["effort"] != "full" or not self._changed.isdisjoint(row["arms"].values()):
            return None
        looked_at, places = _places(tuple(row["slots"]), row["place_slot"], self._slots)
        if not places:
            return None
        items = np.frombuffer(row["items"], "<u8").take(looked_at)
        rows = live.items.rows_of_keys(items)
        new = (rows >= 0) & (live.newcomers.shape.take(rows) < KNOWN)
        if not new.any() and crc32(row["id"].encode()) % ONE_IN:
            return None
        scores = np.frombuffer(row["scores"], "<f4").take(looked_at)
        mean = self._told_by(live, row.get("learned")).mean
        if mean is not None and new.any():
            scores = scores.copy()
            scores[new] /= mean.take(rows[new])
        return Watched(items, places, scores, new)

    def _told_by(self, live: Live, version: str | None) -> Newcomers:
        """What a version told of new items; nothing where it is gone."""
        known = self._told.get(version)
        if known is None:
            if len(self._told) >= KEPT:
                del self._told[next(iter(self._told))]
            fresh: Counts[int] = {}
            try:
                one = self._fetch(version) if version is not None else None
                fresh = one.fresh if one is not None and one.bundle == live.bundle.version else {}
            except BanditError:
                LOG.warning("version %s is gone: its pages count as if it had told nothing", version)
            known = self._told[version] = live.newcomers.told(fresh, live.items.rows_of_keys)
        return known


@lru_cache(maxsize=1024)
def _places(
    names: tuple[str, ...], of: bytes, slots: frozenset[str]
) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """Which places of a page are in these slots, and their names; `of`: the slot of each place."""
    every = [f"{names[slot]}:{at}" for slot, some in groupby(of) for at, _ in enumerate(some)]
    looked_at = [at for at, slot in enumerate(of) if names[slot] in slots]
    return np.array(looked_at, np.intp), tuple([every[at] for at in looked_at])


def counted(
    fresh: Counts[int],
    usual: Counts[str],
    pages: Iterable[tuple[Watched, Set[int], Set[int]]],
) -> tuple[dict[int, tuple[float, float]], dict[str, tuple[float, float]]]:
    """Both and these pages, each with the keys of items displayed and of items clicked.

    `fresh`: of new items, clicks expected of them and met; `usual`: of known ones by place, clicks predicted
    and met.
    """
    sums, places = dict(fresh), dict(usual)
    waiting: list[tuple[int, str, float, bool]] = []
    for watched, shown, clicked in pages:
        items, places_of, clicks, fresh_ones = watched
        for item, place, predicted, new in zip(
            items.tolist(), places_of, clicks.tolist(), fresh_ones.tolist(), strict=True
        ):
            if item not in shown and item not in clicked:
                continue
            if new:
                waiting.append((item, place, predicted, item in clicked))
            else:
                _add(places, place, predicted, item in clicked)
    share = shares_of(places)
    for item, place, predicted, hit in waiting:
        if item in sums or len(sums) < MOST_FRESH:
            _add(sums, item, predicted * share(place), hit)
    return sums, places


def shares_of(usual: Counts[str]) -> Callable[[str], float]:
    """Of the clicks predicted at a place, the part that known items got there; little known: the slot's."""
    slots: dict[str, tuple[float, float]] = {}
    for place, (predicted, met) in usual.items():
        slot = place.rpartition(":")[0]
        before, hits = slots.get(slot, (0.0, 0.0))
        slots[slot] = before + predicted, hits + met

    def share(place: str) -> float:
        predicted, met = slots.get(place.rpartition(":")[0], (0.0, 0.0))
        whole = (SHRUNK + met) / (SHRUNK + predicted)
        predicted, met = usual.get(place, (0.0, 0.0))
        return (SHRUNK * whole + met) / (SHRUNK + predicted)

    return share


def _add(sums: dict[Any, tuple[float, float]], key: Any, predicted: float, hit: bool) -> None:
    before, met = sums.get(key, (0.0, 0.0))
    sums[key] = before + predicted, met + hit
