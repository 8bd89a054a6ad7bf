"""The degradation ladder: which rung the time left and the load allow. A page is late or poor, never
blank.
"""

from __future__ import annotations

from typing import Final

from serving.domain import EFFORTS, Effort

MARGIN: Final = 2.0  # a rung is taken when the time left is this many times what it has been costing
_START_S: Final[dict[Effort, float]] = {
    "full": 0.003,
    "light": 0.002,
    "cached": 0.001,
    "popular": 0.001,
    "fallback": 0.0,
}
_MOST_LOAD: Final[dict[Effort, float]] = {
    "full": 0.75,
    "light": 0.9,
    "cached": 1.0,
    "popular": 1.0,
    "fallback": 9.0,
}


class Ladder:
    """Keeps a moving average of what each rung costs; a rung that is not taken is forgiven slowly."""

    def __init__(self) -> None:
        self._cost = dict(_START_S)

    def choose(self, left_s: float, load: float, *, cached: bool) -> Effort:
        """`left_s`: time until the deadline, less what the answer still needs; `load`: share of places
        taken.
        """
        for effort in EFFORTS[:-1]:
            if effort == "cached" and not cached:
                continue
            if left_s >= MARGIN * self._cost[effort] and load <= _MOST_LOAD[effort]:
                return effort
            self._cost[effort] *= 0.98
        return "fallback"

    def took(self, effort: Effort, seconds: float) -> None:
        self._cost[effort] += 0.1 * (min(seconds, 0.25) - self._cost[effort])


def below(effort: Effort, *, cached: bool) -> Effort | None:
    """The next rung down; None below the last."""
    rest = EFFORTS[EFFORTS.index(effort) + 1 :]
    return next((rung for rung in rest if rung != "cached" or cached), None)
