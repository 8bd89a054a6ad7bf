"""What the service is running by right now: one `Live`, replaced whole by one assignment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from serving.errors import Problem
from serving.live import Live

STALE_S: Final = 5.0


class Holder:
    """A request takes `live` once and uses nothing newer until it has answered."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._live: Live | None = None
        self._polled: float | None = None
        self.reason = "the service is starting"
        """Why there is nothing to run by, for /readyz."""

    @property
    def live(self) -> Live:
        """Raises Problem `not_ready` while nothing has been loaded."""
        if self._live is None:
            raise Problem("not_ready", self.reason)
        return self._live

    @property
    def current(self) -> Live | None:
        return self._live

    def swap(self, live: Live) -> None:
        self._live = live

    def polled(self) -> None:
        """Control has answered, and everything it said is in force or was refused."""
        self._polled = self._monotonic()

    @property
    def stale(self) -> bool:
        """Whether control has been silent for so long that pages should say so."""
        return self._polled is None or self._monotonic() - self._polled > STALE_S
