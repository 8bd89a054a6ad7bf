"""The event log read on and on by one who leads: every shard from a time, then what came since."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from features.log import EventLog

PART: Final = 2_000  # entries read at once
MOST: Final = 100_000  # entries a step; what is left waits for the next


class Tail:
    """`since`: POSIX seconds. Blocking. Shards take turns, so that none waits for another's backlog."""

    def __init__(self, log: EventLog, since: float, *, part: int = PART, most: int = MOST) -> None:
        self._log, self._since, self._part, self._most = log, since, part, most
        self._offsets: dict[int, str] = {}
        self.caught_up = False  # whether the last step read every shard to its end

    def read(self) -> Iterator[list[bytes]]:
        """Payloads in parts, each of one shard and in its order. Raises StoreUnavailable."""
        left, waiting = self._most, list(range(self._log.shards))
        self.caught_up = False
        while waiting and left > 0:
            for shard in tuple(waiting):
                at = self._offsets.get(shard) or self._log.since(self._since)
                if left <= 0:
                    return
                entries = self._log.read(shard, at, self._part)
                if len(entries) < self._part:
                    waiting.remove(shard)
                if entries:
                    self._offsets[shard], left = entries[-1][0], left - len(entries)
                    yield [payload for _, payload in entries]
        self.caught_up = not waiting
