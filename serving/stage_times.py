"""Where a page's time goes: by stage, and from its arrival to its body by surface.

Of one page in `EVERY` on average, drawn by chance, because an observation with its labels costs as much as a
stage may: the others pay for a subtraction. The stages are those of `serving.traces`, and `decode` between
the store's answer and the decision.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Histogram

EVERY: Final = 16
EVENTS, STORE_READ, DECODE, DECIDE = "events", "store read", "decode", "decide"
RESERVE, WRITE, REMEMBER = "reserve", "write", "remember"
STAGES: Final = (EVENTS, STORE_READ, DECODE, DECIDE, RESERVE, WRITE, REMEMBER)
STAGE_BUCKETS: Final = (
    0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02,
    0.03, 0.05, 0.1, 0.2, 0.5, 1.0,
)  # fmt: skip


class Marks:
    """The stages of one page, as they end. Of most pages nobody wants to know: that does nothing."""

    __slots__ = ()
    spent: Sequence[tuple[str, float]] = ()

    def ended(self, stage: str) -> None:
        """What passed since the stage before belongs to this one."""


UNTIMED: Final = Marks()


class Timed(Marks):
    """Seconds of the clock that it is given."""

    __slots__ = ("_clock", "_last", "spent")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._last = clock, clock()
        self.spent: list[tuple[str, float]] = []

    def ended(self, stage: str) -> None:
        now = self._clock()
        self.spent.append((stage, now - self._last))
        self._last = now


class StageTimes:
    """Registered once per process. `gap`: pages from one that is timed to the next, `EVERY` on average."""

    def __init__(
        self,
        registry: CollectorRegistry,
        page_buckets: Sequence[float],
        *,
        gap: Callable[[], int] = lambda: random.randrange(1, 2 * EVERY),  # of one in N, not of each N-th
    ) -> None:
        of = f"of one page in {EVERY}, drawn by chance"
        stages = Histogram(
            "fenliu_stage_seconds", f"time of a stage of a page, {of}", ("stage",),
            registry=registry, buckets=STAGE_BUCKETS,
        )  # fmt: skip
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self._pages = Histogram(
            "fenliu_page_seconds", f"time from a page's arrival to its body, by surface, {of}", ("surface",),
            registry=registry, buckets=page_buckets,
        )  # fmt: skip
        self._surfaces: dict[str, Histogram] = {}
        self._gap, self._left = gap, gap()

    def drawn(self, clock: Callable[[], float]) -> Marks:
        """What to mark the stages of the next page in."""
        self._left -= 1
        if self._left > 0:
            return UNTIMED
        self._left = self._gap()
        return Timed(clock)

    def told(self, marks: Marks, surface: str, seconds: float) -> None:
        """A page that is timed was answered. `surface`: as the plan names it, so that names stay few."""
        for stage, spent in marks.spent:
            self._stages[stage].observe(spent)
        child = self._surfaces.get(surface)
        if child is None:
            child = self._surfaces[surface] = self._pages.labels(surface)
        child.observe(seconds)
