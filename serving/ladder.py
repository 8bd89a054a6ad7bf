"""The degradation ladder: which rung the time left and the queue allow. A page is late or poor, never blank.

The time that is left is not one page's alone: whoever waits behind it waits for it. So a page may take its
share of it, and as the queue grows the work per page shrinks, rung by rung, before anything is refused. What
cannot be answered in time even on the last rung is refused at once, while that is cheap.
"""

from __future__ import annotations

from typing import Final

from serving.domain import EFFORTS, Effort

MARGIN: Final = 2.0  # a rung is taken when the time left is this many times what it has been costing
PATIENCE: Final = 0.5  # of a deadline to be waited in this queue: as much may be waited before, unread
HOPELESS: Final = 5.0  # deadlines that a page has waited before it was read, after which it is refused
LAST_S: Final = 0.002  # the last rung looks up what is ready: if it took longer, it was disturbed
SAVING: Final = 1.1  # a rung is left only for one that costs less by so much
MOST_S: Final = 0.004  # a page that took more of the processor was charged with what others did
LATELY: Final = 0.05  # weight of the last page in what pages take lately
FORGIVE: Final = 0.98
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
        self._whole = self._decision = 0.0  # what a page takes lately; its decision's part in it

    @property
    def _around(self) -> float:
        """What a page takes beside its decision."""
        return max(self._whole - self._decision, 0.0)

    def choose(self, left_s: float, load: float, *, cached: bool, waiting: int = 1) -> Effort:
        """`left_s`: time until the deadline, less what the answer still needs; `load`: share of places
        taken; `waiting`: pages that are to be decided in this time, this one among them.
        """
        share_s = PATIENCE * left_s / waiting if waiting > 1 else left_s
        rungs = [effort for effort in EFFORTS if effort != "cached" or cached]
        least = SAVING * min(self._cost[effort] for effort in rungs)
        for effort in rungs[:-1]:
            cost = self._cost[effort]
            if left_s >= MARGIN * cost and load <= _MOST_LOAD[effort] and share_s >= cost + self._around:
                return effort
            if cost <= least and load <= _MOST_LOAD[effort]:
                return effort  # no rung below it would save anything
            self._cost[effort] *= 0.98
        return "fallback"

    def admits(self, waiting: int, deadline_s: float, waited_s: float = 0.0) -> bool:
        """Whether a page that comes behind `waiting` others, decided or not, can be answered in time on the
        last rung.

        One that has stood in line for a few deadlines already is let go: whoever asked has gone. A shorter
        stall costs rungs and not pages, and a page that nobody is before is always answered.

        Who is refused teaches nothing, so each refusal forgives a little: costs that were wrong do not stay.
        """
        if not waiting:
            return True
        if waited_s > HOPELESS * deadline_s:
            return False
        if waiting * (self._cost["fallback"] + self._around) <= PATIENCE * deadline_s:
            return True
        self._cost["fallback"] *= FORGIVE
        self._whole = self._decision + FORGIVE * self._around
        return False

    def took(self, effort: Effort, seconds: float) -> None:
        most = LAST_S if effort == "fallback" else 0.25
        self._cost[effort] += 0.1 * (min(seconds, most) - self._cost[effort])
        self._decision += LATELY * (min(seconds, MOST_S) - self._decision)

    def answered(self, seconds: float) -> None:
        """A page was; `seconds` of the processor have passed since the one before: for all that a page needs,
        and what else the process does meanwhile.
        """
        self._whole += LATELY * (min(seconds, MOST_S) - self._whole)


def below(effort: Effort, *, cached: bool) -> Effort | None:
    """The next rung down; None below the last."""
    rest = EFFORTS[EFFORTS.index(effort) + 1 :]
    return next((rung for rung in rest if rung != "cached" or cached), None)
