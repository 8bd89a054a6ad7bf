"""Builds the nearest-item index of each kind, and measures what it misses against exact search.

Flat up to 20,000 items of a kind; above, IVF on inner products, with as few probes as give the wanted recall.
(HNSW on inner products with spread norms stayed below 0.79 recall@200.)
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from features.ids import KINDS
from serving.domain import Rows
from serving.index import FLAT_UP_TO, ItemIndex, KindIndex, flat_kind
from serving.models import KindRows

MEASURED_AT = 50  # neighbours asked for when recall is measured
MOST_QUERIES = 256


@dataclass(frozen=True, slots=True)
class IndexReport:
    """One kind's index of one model: `recall` of the exact top 50, and microseconds a query for both."""

    kind: str
    items: int
    form: str
    nprobe: int
    recall: float
    index_us: float
    exact_us: float
    model: str = "als"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def build_index(
    vectors: NDArray[np.float32],
    codes: NDArray[np.uint8],
    queries: NDArray[np.float32],
    *,
    seed: int,
    wanted: float = 0.99,
    flat_up_to: int = FLAT_UP_TO,
) -> tuple[ItemIndex, tuple[IndexReport, ...]]:
    """The index of all kinds and a report per kind that has items with a vector.

    `vectors` (n_items, d), `codes` (n_items,) kind codes, `queries` (q, d): customers' vectors, on which
    recall is measured. Repeatable from the seed: everything here runs on one thread.
    """
    has_vector = (vectors != 0).any(axis=1)
    kinds: list[KindIndex | None] = []
    reports: list[IndexReport] = []
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            for name, rows in zip(KINDS, KindRows(codes).rows, strict=True):
                rows = rows[has_vector[rows]]
                built = None
                if len(rows):
                    built, report = _build_kind(name, vectors, rows, queries, seed, wanted, flat_up_to)
                    reports.append(report)
                kinds.append(built)
    finally:
        faiss.omp_set_num_threads(threads)
    return ItemIndex(tuple(kinds)), tuple(reports)


def _build_kind(
    name: str,
    vectors: NDArray[np.float32],
    rows: Rows,
    queries: NDArray[np.float32],
    seed: int,
    wanted: float,
    flat_up_to: int,
) -> tuple[KindIndex, IndexReport]:
    exact = flat_kind(vectors, rows)
    asked = queries[:MOST_QUERIES] if len(queries) else vectors[rows[:MOST_QUERIES]]
    truth, exact_us = _search(exact, asked)
    if len(rows) <= flat_up_to:
        return exact, IndexReport(name, len(rows), "flat", 0, 1.0, exact_us, exact_us)
    built = _ivf(vectors[rows], seed)
    nprobe, lists = 8, built.nlist
    while True:
        built.nprobe = min(nprobe, lists)
        index = KindIndex(rows, built, built.nprobe)
        found, index_us = _search(index, asked)
        recall = recall_of(found, truth)
        if recall >= wanted or built.nprobe == lists:
            break
        nprobe = int(np.ceil(nprobe * 1.5))
    return index, IndexReport(name, len(rows), f"ivf{lists}", built.nprobe, recall, index_us, exact_us)


def _ivf(vectors: NDArray[np.float32], seed: int) -> Any:
    """An IVF index of about sqrt(n) * 2 lists, trained and filled."""
    n, width = vectors.shape
    lists = int(max(16, min(4096, 2 * np.sqrt(n))))
    index: Any = faiss.index_factory(width, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed % (1 << 31)
    index.cp.niter = 10
    index.train(vectors)
    index.add(vectors)
    return index


def _search(index: KindIndex, queries: NDArray[np.float32]) -> tuple[list[Rows], float]:
    """The rows found for each query, one query at a time as in serving, and the median microseconds."""
    found, spent = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(index.search(query, MEASURED_AT)[0])
        spent.append(time.perf_counter() - start)
    return found, float(np.median(spent)) * 1e6 if spent else 0.0


def recall_of(found: list[Rows], truth: list[Rows]) -> float:
    """The mean share of each true list that was found."""
    shares = [np.isin(right, got).mean() for got, right in zip(found, truth, strict=True) if len(right)]
    return float(np.mean(shares)) if shares else 1.0
