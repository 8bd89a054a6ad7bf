"""Log entries of pages under an experiment's arms, and of what customers did with them."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np

from features.log import Entry

NOW = 1_790_000_000.0
_ARMS = [{"name": "control"}, {"name": "a", "changes": {"ranker": "popularity"}}, {"name": "b"}]
RUNNING: dict[str, Any] = {
    "layers": [
        {
            "name": "l",
            "experiments": [
                {"name": "e", "ramp": [{"at": "2026-01-01T00:00:00Z", "enrolled": 1}], "arms": _ARMS}
            ],
        }
    ]
}


def page(who: str, arm: str, *, prefix: str = "u:", **more: Any) -> bytes:
    """Two places asked for and given."""
    row = {
        "t": "served", "subject": prefix + who, "at": NOW - 10, "arms": {"l": f"e/{arm}"}, "forced": [],
        "degraded": [], "effort": "full", "sizes": [2], "place_slot": b"\0\0", "unit": prefix + who, "ms": 12,
    }  # fmt: skip
    packed: bytes = msgpack.packb(row | more)
    return packed


def clicked(who: str, kind: str = "clicked", **more: Any) -> bytes:
    packed: bytes = msgpack.packb({"t": kind, "subject": f"u:{who}", **more})
    return packed


def acted(who: str, action: str) -> bytes:
    return clicked(who, "acted", action=action)


def fill(
    n: int,
    errors: float,
    *,
    usual: float = 0.05,
    seed: int = 1,
    prefix: str = "",
    at: float = NOW - 10,
    **more: Any,
) -> list[Entry]:
    """A page of each of n units in three arms by turns; in arm `a` the rung fails with chance `errors`."""
    rng, found = np.random.default_rng(seed), []
    for number in range(n):
        arm = ("control", "a", "b")[number % 3]
        bad = rng.random() < (errors if arm == "a" else usual)
        rung, lost = ("light", ["full"]) if bad else ("full", [])
        row = page(f"{prefix}{number}", arm, degraded=lost, effort=rung, at=at, **more)
        found.append(Entry(f"{prefix}p{number}", f"u:{prefix}{number}", row))
    return found
