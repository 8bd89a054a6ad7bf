"""What happens: a row a displayed place, click, dismissal, conversion, action or outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.events import ACTIONS, WHAT

Rows = NDArray[np.void]

ROW: Final = np.dtype(
    [
        ("page", "<i8"),  # the decision's number; -1: not on a page
        ("place", "<i2"),  # column of the page's layout
        ("customer", "<i4"),
        ("item", "<i4"),  # row of the catalogue; -1: none
        ("family", "<i2"),  # row of FAMILIES, where a purchase meets a need; -1: none
        ("what", "u1"),  # features.events.WHAT; 8 = an outcome, known to the bank's own systems only
        ("action", "u1"),  # ACTIONS code + 1 of `acted`
        ("late", "?"),  # displayed after the page had expired
        ("decided_at", "<f8"),
        ("occurred_at", "<f8"),  # by the client's clock
        ("received_at", "<f8"),
        ("amount", "<f8"),  # CNY; nan: none
    ]
)
_EMPTY = {"page": -1, "place": -1, "item": -1, "family": -1, "decided_at": np.nan, "amount": np.nan}

DISPLAYED, CLICKED, DISMISSED, CONVERTED = (
    WHAT[name] for name in ("displayed", "clicked", "dismissed", "converted")
)
ACTED, OUTCOME = WHAT["acted"], WHAT["outcome"]
ACTION: Final = {action: code + 1 for code, action in enumerate(ACTIONS)}


def rows_of(count: int, **columns: Any) -> Rows:
    """`count` rows with these columns; the others say "none"."""
    rows = np.zeros(count, ROW)
    for name, value in {**_EMPTY, **columns}.items():
        rows[name] = value
    return rows


def joined(parts: Sequence[Rows]) -> Rows:
    return np.concatenate(parts) if parts else np.zeros(0, ROW)


class Outbox:
    """Rows that have happened, or will, but have not arrived yet."""

    def __init__(self) -> None:
        self._parts: list[Rows] = []

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def add(self, rows: Rows) -> None:
        if len(rows):
            self._parts.append(rows)

    def due(self, until: float) -> Rows:
        """Takes out the rows with received_at < until, ordered by it (ties: in the order they were added)."""
        waiting = joined(self._parts)
        arrived = waiting["received_at"] < until
        self._parts = [waiting[~arrived]] if not arrived.all() else []
        rows = waiting[arrived]
        ordered: Rows = rows[np.argsort(rows["received_at"], kind="stable")]
        return ordered
