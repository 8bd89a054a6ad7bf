"""A small ranker over a small bundle, for tests of anything that ranks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from features.ids import KINDS
from features.ranking import FEATURES
from features.ranking_kernel import KNOTS, MOMENTS
from serving.bundle import Bundle
from serving.forest import MOST_LEAVES, Forest
from serving.ranker import POSITIONS, Answer, Ranker
from tests.worlds import SLOTS
from training.ranker_facts import Rates, codes_of, facts_of

STUMPS = (
    ("tired", 0.5, 0.3, -0.6),
    ("hour", 11.5, -0.1, 0.2),
    ("model", 0.0, -0.5, 0.5),
    ("kind", 2.5, 0.1, -0.1),
)


def stumps(scale: float = 1.0) -> Forest:
    """Trees of one split each: (feature, threshold, left, right)."""
    leaves = np.zeros((len(STUMPS), MOST_LEAVES), np.float32)
    leaves[:, :2] = [[left * scale, right * scale] for *_, left, right in STUMPS]
    return Forest(
        np.array([FEATURES.index(name) for name, *_ in STUMPS], np.int32),
        np.array([limit for _, limit, *_ in STUMPS], np.float32),
        np.full(len(STUMPS), 0xFFFE, np.uint16), np.arange(len(STUMPS) + 1, dtype=np.int32), leaves,
    )  # fmt: skip


def tiny_ranker(bundle: Bundle, seed: int = 0) -> Ranker:
    rng = np.random.default_rng(seed)
    table, n = bundle.compiled.table, len(bundle)
    codes = codes_of(table)
    rates = Rates(np.zeros(0), rng.gamma(3.0, 0.3, n), rng.gamma(2.0, 5.0, n), rng.uniform(0.02, 0.2, n))
    ties = rng.gamma(2.0, 0.5, (n, int(codes[:, 0].max()) + 1)).astype(np.float32)
    hours = rng.normal(0, 0.1, (int(codes[:, 1].max()) + 1, MOMENTS)).astype(np.float32)
    slots = tuple(slot["name"] for slot in SLOTS)
    place = -2.5 - 0.1 * np.arange(POSITIONS) + rng.normal(0, 0.3, (len(slots) + 1, 1))
    cells = (len(slots) + 1, len(KINDS) + 1)

    floor = np.full(place.shape, 0.01, np.float32)

    def answer(*, buys: bool) -> Answer:
        slope = rng.uniform(0.9, 1.1, cells).astype(np.float32)
        bend = np.repeat(np.linspace(0.1, -0.1, KNOTS, dtype=np.float32)[None], cells[0], axis=0)
        return Answer(
            stumps(), place.astype(np.float32), slope, np.zeros(cells, np.float32), bend, floor, buys
        )

    facts = facts_of(table, rates, ties, hours)
    return Ranker(
        facts, slots, answer(buys=False), answer(buys=True), np.zeros(len(FEATURES), np.float32), (0.0, 0.3)
    )


def ranked_bundle(bundle: Bundle) -> Bundle:
    return replace(bundle, ranker=tiny_ranker(bundle))
