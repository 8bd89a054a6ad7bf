"""What a replica remembers of customers beside its stores: not much, and not for long.

Erasure reaches stores and files and no replica's memory, so what lies there goes by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
KEPT_S: Final = 600.0  # as long as a decision is remembered for retries


class Lately(Generic[K, V]):
    """At most `most` values, each for `kept_s` after it was last put, also where nobody asks any more.

    `clock` is monotonic. What is over is let go by a timer of the running loop, at the latest after twice
    `kept_s`; before that it is not given out any more.
    """

    def __init__(
        self, most: int, kept_s: float = KEPT_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._kept_s, self._clock = most, kept_s, clock
        self._held: OrderedDict[K, tuple[float, V]] = OrderedDict()  # longest ago first
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: K) -> bool:
        found = self._held.get(key)
        return found is not None and self._clock() - found[0] < self._kept_s

    def get(self, key: K) -> V | None:
        found = self._held.get(key)
        return None if found is None or self._clock() - found[0] >= self._kept_s else found[1]

    def put(self, key: K, value: V) -> None:
        self._held[key] = self._clock(), value
        self._held.move_to_end(key)
        if len(self._held) > self._most:
            self._held.popitem(last=False)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._kept_s, self._swept)

    def _swept(self) -> None:
        """Let go of what is over; look again as long as something is held."""
        before = self._clock() - self._kept_s
        while self._held and next(iter(self._held.values()))[0] <= before:
            self._held.popitem(last=False)
        again = bool(self._held)
        self._timer = asyncio.get_running_loop().call_later(self._kept_s, self._swept) if again else None
