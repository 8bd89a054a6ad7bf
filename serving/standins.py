"""Stand-ins of capped places that agree with each other: whatever the ledger refuses, the page's rules hold.

Each stand-in is feasible where its own place alone is refused. Two of them may still share an exclusion group
or a kind of which only one more may stand, so they are taken one after another, each on top of the page and
of those before it; one that would be too many is left out, and its place with it.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

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
        self._have: Counter[tuple[int, int]] = Counter()  # places by (slot, kind)

    def count(self, solution: Solution) -> None:
        """The page without any refusal; first of all."""
        kinds, offers = self._candidates.items["kind"], self._offers.room
        self._kinds = kinds.tolist()
        used = self._market.option_room.take(solution.candidate, axis=0)
        if len(offers):
            tagged = np.where(
                (solution.offer != ORGANIC)[:, None], offers.take(np.maximum(solution.offer, 0), axis=0), -1
            )
            used = np.concatenate([used, tagged], axis=1)
        used = np.sort(used, axis=1)
        used[:, 1:][used[:, 1:] == used[:, :-1]] = -1  # one named twice counts once
        room = self._market.room
        self._left = (room - np.bincount(used.ravel() + 1, minlength=len(room) + 1)[1:]).tolist()
        placed = kinds.take(solution.candidate).tolist()
        self._have = Counter(zip(solution.slot.tolist(), placed, strict=True))

    def take(self, slot: int, place: tuple[int, int], spare: tuple[int, int]) -> bool:
        """Whether `spare` may stand in for `place`, each (candidate, offer); if so it is counted."""
        needs = self._uses(*spare) - self._uses(*place)
        kind, own = self._kinds[spare[0]], self._kinds[place[0]]
        most = int(self._most[slot, kind])
        if kind != own and most != NO_LIMIT and self._have[slot, kind] >= most:
            return False
        if any(self._left[counter] < 1 for counter in needs):
            return False
        for counter in needs:
            self._left[counter] -= 1
        if kind != own:
            self._have[slot, kind] += 1
        return True

    def _uses(self, candidate: int, offer: int) -> set[int]:
        """Counters that a placement draws on; one named twice counts once."""
        used = set(self._market.option_room[candidate].tolist())
        if offer != ORGANIC:
            used.update(self._offers.room[offer].tolist())
        return used - {-1}
