"""Imported scores reach the customer's records in a store, and leave them by difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from features.external import external_key, unpack
from features.redis_plain import opened
from tests.unit.test_external import entries
from training.lake import Lake
from training.scores import Imported, Scores

LATER = 4e9


def of(model: str, **items: str) -> Imported:
    rows = entries(model, *((item, 1.0, LATER) for item in items.values()))
    return Imported(tuple(items), np.arange(len(items) + 1), rows, ())


def held(url: str, user: str) -> int:
    with opened(url) as client:
        blob = client.get(external_key(user))
    return len(unpack(blob))


def test_records_follow_the_live_version(tmp_path: Path, valkey_url: str) -> None:
    scores = Scores(Lake(tmp_path / "lake"), valkey_url)
    scores.put("a", of("a", u1="i1", u2="i2"), at=0.0)
    scores.put("b", of("b", u2="i3", u4="i4"), at=0.0)
    assert [held(valkey_url, user) for user in ("u1", "u2", "u4", "u5")] == [1, 2, 1, 0]
    with opened(valkey_url) as client:
        assert client.ttl(external_key("u1")) > 0
    scores.put("a", of("a", u1="i1", u5="i5"), at=0.0)
    assert [held(valkey_url, user) for user in ("u1", "u2", "u4", "u5")] == [1, 1, 1, 1]
    assert scores.rollback("a") == 1
    assert [held(valkey_url, user) for user in ("u1", "u2", "u5")] == [1, 2, 0]
    scores.remove("a")
    scores.remove("b")
    assert not any(held(valkey_url, user) for user in ("u1", "u2", "u4", "u5"))
