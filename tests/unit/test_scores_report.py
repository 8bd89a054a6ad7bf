"""What became of the items that imported scores proposed."""

from __future__ import annotations

import numpy as np
import pytest

from features.external import pack
from features.ids import key32, key64
from serving.surfaces import BIT
from tests.unit.test_external import entries
from training.scores_report import told

NAMES = {key32("m"): "m", key32("other"): "other"}
MINE, BOTH = 1 << BIT["external"], 1 << BIT["external"] | 1 << BIT["nearest_to_customer"]
AT = 1_000.0


def record(name: str, held: bytes | None, origins: list[int]) -> dict:
    """A page of one slot: items i0, i1, … of these origins."""
    n = len(origins)
    items = np.array([key64(f"i{k}") for k in range(n)], "<u8")
    zero = {"campaigns": "<u4", "creatives": "<u4", "scores": "<f4", "propensity": "<f4"}
    return {
        "id": name, "at": AT, "blobs": [None] * 5 + [held], "items": items.tobytes(),
        "place_slot": bytes(n), "reasons": bytes(n), "origins": np.array(origins, "<u4").tobytes(),
        **{field: np.zeros(n, kind).tobytes() for field, kind in zero.items()},
    }  # fmt: skip


def test_the_lift_is_within_the_same_pages_and_only_of_what_the_model_named() -> None:
    held = pack(np.concatenate([entries("m", ("i0", 1.0, AT + 1)), entries("other", ("i1", 1.0, AT - 1))]))
    served = [record(f"d{n}", held, [MINE if n % 2 else BOTH, BOTH, 2]) for n in range(200)]
    served.append(record("plain", None, [2, 2, 2]))
    seen = {(f"d{n}", key64(f"i{k}")) for n in range(200) for k in range(3)}
    clicks = {(f"d{n}", key64("i0")) for n in range(60)} | {(f"d{n}", key64("i2")) for n in range(40)}
    found = told(served, seen, clicks, NAMES)
    assert set(found) == {"m"}  # the other's entry had expired
    one = found["m"]
    assert (one.displays, one.alone, one.clicks) == (200, 100, 60)
    assert one.lift == pytest.approx(0.3 / 0.1)
    assert 1.0 < one.interval[0] < one.lift < one.interval[1]


def test_nothing_displayed_is_nothing_told() -> None:
    held = pack(entries("m", ("i0", 1.0, AT + 1)))
    assert told([record("d", held, [MINE])], set(), set(), NAMES) == {}
    older = record("d", held, [MINE])
    older["blobs"] = older["blobs"][:5]
    assert told([older], {("d", key64("i0"))}, set(), NAMES) == {}
