"""The event log read on and on by one who leads: every shard from a time, then what came since."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from features.log import EventLog

PART: Final = 2_000  # entries read at once
MOST: Final = 100_000  # entries a step; what is left waits for the next


class Tail:
    """`since`: POSIX seconds. Blocking."""

    def __init__(self, log: EventLog, since: float) -> None:
        self._log, self._since = log, since
        self._offsets: dict[int, str] = {}

    def read(self) -> Iterator[list[bytes]]:
        """Payloads in parts, each of one shard and in its order. Raises StoreUnavailable."""
        left = MOST
        for shard in range(self._log.shards):
            at = self._offsets.get(shard) or self._log.since(self._since)
            while left > 0 and (entries := self._log.read(shard, at, PART)):
                at, left = entries[-1][0], left - len(entries)
                self._offsets[shard] = at
                yield [payload for _, payload in entries]
