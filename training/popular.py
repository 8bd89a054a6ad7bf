"""Popularity by segment and city, with decay: a baseline that is hard to beat, and the service's fallback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from serving.models import KindRows, Popular, PopularModel
from serving.tables import top_table
from training.model import Effort, Params, TrainData, decayed

TOP = 200  # published per segment, city and kind
MOST_CITIES = 500  # cities with the most behaviour get a table of their own
FEWEST_IN_CITY = 50.0  # decayed weight below which a city's own table would be noise


@dataclass(frozen=True, slots=True)
class PopularByDecay:
    """Tries half-lives and smoothings. `smoothing` is the weight of everybody's shares in a segment's own."""

    half_lives: tuple[float, ...] = (30.0, 90.0, 365.0, float("inf"), 7.0)
    smoothings: tuple[float, ...] = (200.0, 2000.0, float("inf"))
    name: ClassVar[str] = "popular"

    def trials(self) -> Sequence[Params]:
        return [
            {"half_life_days": half_life, "smoothing": smoothing}
            for smoothing in self.smoothings
            for half_life in self.half_lives
        ]

    def fit(self, data: TrainData, params: Params, effort: Effort) -> PopularModel:  # noqa: ARG002
        return PopularModel(build_popular(data, params, cities=False), data.kinds)


def build_popular(data: TrainData, params: Params, *, cities: bool = True, top: int = TOP) -> Popular:
    """Shares by segment (and city) smoothed towards everybody's: (c_si + m g_i) / (C_s + m)."""
    weight = decayed(data.positives, data.now, params["half_life_days"])
    kinds = KindRows(data.kinds)
    everybody = _counts(np.zeros(len(weight), np.int64), 1, data, weight)[0]
    total = everybody.sum()
    overall = everybody / total if total > 0 else everybody
    segments, shares = _segment_shares(data, weight, overall, params["smoothing"])
    table = np.concatenate((overall[None, :], shares)).astype(np.float32)
    top_rows, top_scores = top_table(table, kinds, top)
    codes, city_table = _city_shares(data, weight) if cities else _no_cities(data.n_items)
    city_rows, city_scores = top_table(city_table, kinds, top)
    return Popular(table, segments, top_rows, top_scores, codes, city_rows, city_scores)


def _segment_shares(
    data: TrainData, weight: NDArray[np.float32], overall: NDArray[np.float64], smoothing: float
) -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
    segments = np.unique(data.customers.segment)
    segments = segments[segments > 0]
    if not len(segments) or not np.isfinite(smoothing):
        return segments[:0], np.zeros((0, data.n_items))
    group = np.searchsorted(segments, data.customers.segment)
    group = np.where(data.customers.segment > 0, group, len(segments))  # the last: not known
    counts = _counts(group[data.positives.user], len(segments) + 1, data, weight)[:-1]
    return segments, (counts + smoothing * overall) / (counts.sum(axis=1, keepdims=True) + smoothing)


def _city_shares(
    data: TrainData, weight: NDArray[np.float32]
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Unsmoothed shares of the busiest cities: "popular here" must be what is popular here."""
    city = data.customers.city[data.positives.user]
    codes, place = np.unique(city, return_inverse=True)
    busy = np.bincount(place, weight, len(codes))
    kept = np.flatnonzero((codes > 0) & (busy >= FEWEST_IN_CITY))
    kept = np.sort(kept[np.argsort(-busy[kept], kind="stable")[:MOST_CITIES]])
    if not len(kept):
        return _no_cities(data.n_items)
    group = np.full(len(codes), len(kept), np.int64)
    group[kept] = np.arange(len(kept))
    counts = _counts(group[place], len(kept) + 1, data, weight)[:-1]
    return codes[kept], (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)


def _no_cities(n_items: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    return np.zeros(0, np.uint32), np.zeros((0, n_items), np.float32)


def _counts(
    group: NDArray[np.int64], groups: int, data: TrainData, weight: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Decayed weight per group and item: (groups, n_items)."""
    cell = group * data.n_items + data.positives.item
    counts = np.bincount(cell, weight, groups * data.n_items).astype(np.float64)
    return counts.reshape(groups, data.n_items)
