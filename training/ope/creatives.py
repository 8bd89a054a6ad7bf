"""Which creative an item is shown by, as a part of what a policy does at a place: logged, and a candidate's.

The log has the chances of the creatives of the item that was shown. The candidate's of that very item are
those of its own lottery where its page has the item there too; where its own draw put another one there, they
are worked out as that page would have, from the same version of the bandit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from serving.bandit import cell_of
from serving.bandit_draws import choice_of
from serving.creative_choices import CreativeAsked
from serving.domain import Decision, SlotRequest
from serving.live import Live

Chances = Mapping[int, float]  # by key32 of a creative; 0: the item's own title


class Drawn(NamedTuple):
    """Of the item at a place: the creative that was shown, its chances as logged and the candidate's."""

    shown: int
    logged: Chances
    target: Chances

    @property
    def probability(self) -> float:
        return self.logged[self.shown]

    @property
    def chance(self) -> float:
        return self.target.get(self.shown, 0.0)

    @property
    def same(self) -> bool:
        return self.logged == self.target

    @property
    def supported(self) -> float:
        """The part of the candidate's chances that the log might have drawn."""
        return sum(self.target.get(key, 0.0) for key in self.logged)

    @property
    def bound(self) -> float:
        """Of its part of the weight, whatever had been drawn."""
        return max(self.target.get(key, 0.0) / chance for key, chance in self.logged.items())


CERTAIN: Final = Drawn(0, {0: 1.0}, {0: 1.0})


def logged_creatives(record: Mapping[str, Any]) -> list[tuple[int, Chances]]:
    """By place of a logged page: the creative, and the chances it was drawn by."""
    shown = np.frombuffer(record["creatives"], "<u4").tolist()
    draws = record.get("draws") or ()
    held = {place: dict(zip(keys, chances, strict=True)) for place, keys, chances, _ in draws}
    return [(key, held.get(place, {key: 1.0})) for place, key in enumerate(shown)]


class Creatives:
    """The candidate's chances on one page that it decided."""

    def __init__(self, decision: Decision, live: Live) -> None:
        self._decision, self._live = decision, live.of(decision)
        self._at = {
            (decision.query.slots[place.slot].spec.name, place.position): index
            for index, place in enumerate(decision.placements)
        }
        self._draws = {
            one.place: dict(zip(one.keys, one.probabilities, strict=True)) for one in decision.draws
        }

    def of(self, slot: str, position: int, item: int) -> Chances:
        """By creative of an item (key64), should it stand there; nothing: it cannot be rendered there."""
        index = self._at.get((slot, position))
        if index is None:
            return {}
        place = self._decision.placements[index]
        if place.key == item:
            return self._draws.get(index, {place.creative_key: 1.0})
        return self._drawn_beside(self._decision.query.slots[place.slot], item, capped=place.capped)

    def _drawn_beside(self, asked: SlotRequest, item: int, *, capped: bool) -> Chances:
        """Of the winner, or a runner-up, that was not drawn: no campaign is behind it."""
        query, live, spec = self._decision.query, self._live, asked.spec
        row = int(live.items.rows_of_keys(np.array([item], np.uint64))[0])
        english = query.context.locale.startswith("en")
        own = live.creative(row, spec.layout_code, english, query.now) if row >= 0 else None
        if own is None:
            return {}
        if own < 0:
            return {0: 1.0}
        if spec.explore > 0 and not capped:
            cell = cell_of(int(query.customer.get("segment")))
            bit = spec.bit.bit_length() - 1
            found = choice_of(query, live, CreativeAsked(row, own, -1, bit, cell), spec)
            if len(found.keys) > 1:
                return dict(zip(found.keys, found.chances, strict=True))
        return {live.texts[row].creative_key(own): 1.0}
