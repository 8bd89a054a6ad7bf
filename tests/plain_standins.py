"""Stand-ins that agree with each other, by sets and counters: the twin of serving.standins."""

from __future__ import annotations

from collections import Counter

import numpy as np

from serving.standins import Rules, Stand


def plain_agreeing(page: Stand, at: np.ndarray, spares: Stand, rules: Rules) -> list[bool]:
    one = _StandIns(page, rules)
    taken = []
    for spare, place in enumerate(at.tolist()):
        stands = int(page.candidate[place]), int(page.offer[place])
        instead = int(spares.candidate[spare]), int(spares.offer[spare])
        taken.append(one.take(int(page.slot[place]), stands, instead))
    return taken


class _StandIns:
    def __init__(self, page: Stand, rules: Rules) -> None:
        self._rules = rules
        self._kinds = rules.kind.tolist()
        self._left = rules.room.tolist()
        self._have: Counter[tuple[int, int]] = Counter()
        for slot, candidate, offer in zip(*(column.tolist() for column in page), strict=True):
            self._have[slot, self._kinds[candidate]] += 1
            for counter in self._uses(candidate, offer):
                self._left[counter] -= 1

    def take(self, slot: int, place: tuple[int, int], spare: tuple[int, int]) -> bool:
        """Whether `spare` may stand in for `place`, each (candidate, offer); if so it is counted."""
        needs = self._uses(*spare) - self._uses(*place)
        kind, own = self._kinds[spare[0]], self._kinds[place[0]]
        most = int(self._rules.kind_most[slot, kind])
        if kind != own and most != 255 and self._have[slot, kind] >= most:
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
        used = set(self._rules.option_room[candidate].tolist())
        if offer >= 0:
            used.update(self._rules.offer_room[offer].tolist())
        return used - {-1}
