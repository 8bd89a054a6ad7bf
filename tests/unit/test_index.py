"""The nearest-item index: exact while small, measured above."""

from __future__ import annotations

import numpy as np
import pytest

from features.ids import KIND_CODE
from serving.index import ItemIndex
from training.index import build_index, recall_of


def clustered(n, d, seed, clusters=200):
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1, (clusters, d))
    near = centres[rng.integers(0, clusters, n)] + rng.normal(0, 0.25, (n, d))
    return (near * rng.uniform(0.5, 1.5, (n, 1))).astype(np.float32)


def test_small_kinds_are_exact_and_empty_ones_answer_nothing(tmp_path):
    vectors = clustered(500, 16, 1)
    vectors[::7] = 0
    kinds = np.random.default_rng(2).choice([0, 1, 3], 500).astype(np.uint8)
    index, reports = build_index(vectors, kinds, vectors[:20], seed=1)
    assert [report.kind for report in reports] == ["function", "product", "content"]
    assert all(report.form == "flat" and report.recall == 1.0 for report in reports)
    index.save(tmp_path / "index")
    for one in (index, ItemIndex.load(tmp_path / "index", vectors)):
        rows, scores = one.search(vectors[1], 9, 1)
        mine = np.flatnonzero((kinds == 1) & (vectors != 0).any(axis=1))
        wanted = mine[np.argsort(-(vectors[mine] @ vectors[1]), kind="stable")[:9]]
        assert rows.tolist() == wanted.tolist()
        assert scores == pytest.approx(vectors[wanted] @ vectors[1], rel=1e-5)
        assert len(one.search(vectors[1], 9, KIND_CODE["service"]).rows) == 0


def test_above_20k_items_it_is_ivf_with_the_recall_asked_for(tmp_path):
    vectors = clustered(22_000, 16, 3)
    kinds = np.full(22_000, KIND_CODE["content"], np.uint8)
    queries = clustered(128, 16, 3)
    index, (report,) = build_index(vectors, kinds, queries, seed=1, wanted=0.99)
    assert report.form.startswith("ivf") and report.nprobe > 0
    assert report.recall >= 0.99
    index.save(tmp_path / "index")
    loaded = ItemIndex.load(tmp_path / "index", vectors)
    found, truth = [], []
    for query in clustered(64, 16, 9):
        rows, scores = loaded.search(query, 50, KIND_CODE["content"])
        assert rows.tolist() == index.search(query, 50, KIND_CODE["content"]).rows.tolist()
        assert (np.diff(scores) <= 1e-6).all()
        found.append(rows)
        truth.append(np.argsort(-(vectors @ query), kind="stable")[:50].astype(np.int32))
    assert recall_of(found, truth) > 0.9  # on queries it was not tuned for


def test_recall_is_the_share_of_the_truth_that_was_found():
    found = [np.array([1, 2, 3]), np.array([9])]
    truth = [np.array([3, 4, 1, 5]), np.array([9])]
    assert recall_of(found, truth) == pytest.approx((0.5 + 1) / 2)


def test_the_same_seed_builds_the_same_index():
    vectors = clustered(3000, 8, 4)
    kinds = np.zeros(3000, np.uint8)
    one, other = (build_index(vectors, kinds, vectors[:50], seed=5, flat_up_to=100)[0] for _ in range(2))
    for query in vectors[100:140]:
        assert one.search(query, 20, 0).rows.tolist() == other.search(query, 20, 0).rows.tolist()
