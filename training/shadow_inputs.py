"""What records name (plans, prices, item changes, the bandit), as the tail of the log brings it.

A version stands in the log before the first record that names it, but in another shard: so all that a step
has read is taken before the step's pages are decided. What was logged before the tail began is read once, a
day and a kind at a time, from the lake and the log; and again, at most once a step, when a version is not
found that way.
"""

from __future__ import annotations

from typing import Any

from features.log import EventLog
from training.lake import Lake
from training.logged import DAY_S, Logged


class TailedInputs(Logged):
    """`Logged` for one who reads on. What `bodies` has given is filled further as the tail goes on."""

    def __init__(self, lake: Lake, log: EventLog) -> None:
        super().__init__(lake, log)
        self._held: dict[tuple[str, float], dict[str, bytes]] = {}
        self._fresh = True

    def take(self, row: dict[str, Any]) -> None:
        """An entry of the log of type `input`. Raises KeyError, TypeError for what is none."""
        day = float(row["at"]) // DAY_S * DAY_S
        held = self._held.get((str(row["kind"]), day))
        if held is not None:  # else the first to ask reads it
            held[str(row["version"])] = row["body"]

    def moved(self) -> None:
        """The tail has gone on: what is missing may have been written since."""
        self._fresh = False

    def again(self) -> bool:
        """Read everything anew; False where that was done since the tail last moved."""
        if self._fresh:
            return False
        self._fresh = True
        for (kind, day), held in self._held.items():
            held.update(super().bodies(kind, day))
        return True

    def body(self, kind: str, version: str, at: float) -> bytes | None:
        return self.bodies(kind, at).get(version)

    def bodies(self, kind: str, at: float) -> dict[str, bytes]:
        day = at // DAY_S * DAY_S
        held = self._held.get((kind, day))
        if held is None:
            held = self._held[kind, day] = dict(super().bodies(kind, day))
        return held
