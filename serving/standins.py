"""Stand-ins of capped places that agree with each other: whatever the ledger refuses, the page's rules hold.

Each stand-in is feasible where its own place alone is refused. Two of them may still share an exclusion group
or a kind of which only one more may stand, so they are taken one after another, each on top of the page and
of those before it; one that would be too many is left out, and its place with it.
"""

from __future__ import annotations

from serving.domain import Candidates
from serving.market import Market
from serving.page import NO_LIMIT, ORGANIC, Offers, Slots, Solution


class StandIns:
    """Of one solved page."""

    def __init__(self, market: Market, offers: Offers, slots: Slots, candidates: Candidates) -> None:
        self._market, self._offers, self._candidates = market, offers, candidates
        self._most = slots.kind_most
        self._kinds: list[int] = []
        self._left: list[int] = []
        self._have: dict[tuple[int, int], int] = {}  # places by (slot, kind)

    def count(self, solution: Solution) -> None:
        """The page without any refusal; first of all."""
        self._kinds = self._candidates.items["kind"].tolist()
        self._left = self._market.room.tolist()
        self._have = {}
        columns = (solution.slot, solution.candidate, solution.offer)
        for slot, candidate, offer in zip(*(column.tolist() for column in columns), strict=True):
            for counter in self._uses(candidate, offer):
                self._left[counter] -= 1
            self._more(slot, self._kinds[candidate])

    def take(self, slot: int, place: tuple[int, int], spare: tuple[int, int]) -> bool:
        """Whether `spare` may stand in for `place`, each (candidate, offer); if so it is counted."""
        needs = self._uses(*spare) - self._uses(*place)
        kind, own = self._kinds[spare[0]], self._kinds[place[0]]
        most = int(self._most[slot, kind])
        if kind != own and most != NO_LIMIT and self._have.get((slot, kind), 0) >= most:
            return False
        if any(self._left[counter] < 1 for counter in needs):
            return False
        for counter in needs:
            self._left[counter] -= 1
        if kind != own:
            self._more(slot, kind)
        return True

    def _more(self, slot: int, kind: int) -> None:
        self._have[slot, kind] = self._have.get((slot, kind), 0) + 1

    def _uses(self, candidate: int, offer: int) -> set[int]:
        """Counters that a placement draws on; one named twice counts once."""
        used = set(self._market.option_room[candidate].tolist())
        if offer != ORGANIC:
            used.update(self._offers.room[offer].tolist())
        return used - {-1}
