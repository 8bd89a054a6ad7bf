"""A circuit breaker around a store: while it does not answer, pages do not wait for it.

Without one every page waits out its time for reading, and behind that its time for reserving. It opens after
eight late answers in a row, or when more than half are late; then one call in `probe_s` is let through, and
three good ones in a row close it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

PROBE_S: Final = 0.1
MEMORY: Final = 0.1  # weight of the last call in the share of late ones
TOO_MANY: Final = 0.55
GOOD: Final = 3  # probes in a row that close it

Changed = Callable[[bool], None]


class Breaker:
    """`allows` before a call, `told` after it. `changed` hears True when it opens, False when it closes."""

    def __init__(
        self, monotonic: Callable[[], float], changed: Changed = lambda _: None, *, probe_s: float = PROBE_S
    ) -> None:
        self._monotonic, self._changed, self._probe_s = monotonic, changed, probe_s
        self._late, self._good, self._probed = 0.0, 0, float("-inf")
        self.open = False

    def allows(self) -> bool:
        """Whether to call the store now; an open one lets a probe through now and then."""
        if not self.open:
            return True
        now = self._monotonic()
        if now - self._probed < self._probe_s:
            return False
        self._probed = now
        return True

    def told(self, good: bool) -> None:
        """What became of a call that was made."""
        if self.open:
            self._good = self._good + 1 if good else 0
            if self._good >= GOOD:
                self.open, self._late = False, 0.0
                self._changed(False)
            return
        self._late += MEMORY * ((not good) - self._late)
        if self._late > TOO_MANY:
            self.open, self._good, self._probed = True, 0, self._monotonic()
            self._changed(True)


class Breakers:
    """One for each role that a page reads; `report` hears of every change."""

    def __init__(
        self, monotonic: Callable[[], float], report: Callable[[str, bool], None] = lambda *_: None
    ) -> None:
        def one(role: str) -> Breaker:
            return Breaker(monotonic, lambda opened: report(role, opened))

        self.features, self.live = one("features"), one("live")

    def skipped(self) -> tuple[str, ...]:
        """The roles not to be asked by this page."""
        return tuple(role for role in ("features", "live") if not self.of(role).allows())

    def of(self, role: str) -> Breaker:
        return self.live if role == "live" else self.features

    @property
    def any_open(self) -> bool:
        return self.features.open or self.live.open
