"""Exploration: after the deterministic page, independent lotteries over a winner and its runners-up.

Only in slots that declare `explore`, only at places that no rule, cap or campaign is behind. The runners-up
of one place are nobody else's, so every draw is feasible whatever the others give: a placement's propensity
is its lottery's own, and the page's is their product. Random bits come from the decision's id.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

import numpy as np

from serving.domain import Candidates, Lottery, Query
from serving.live import OWN_TITLE, Live
from serving.market import Market

RUNNERS: Final = 2  # of a place


class Draw:
    """Draws for one page. `taken`: the rows on it and those that stand by."""

    def __init__(
        self, query: Query, live: Live, candidates: Candidates, market: Market, taken: set[int]
    ) -> None:
        self._query, self._live, self._candidates = query, live, candidates
        self._market, self._taken = market, taken
        self._supply: dict[tuple[int, int], Iterator[tuple[int, int]]] = {}

    def at(self, place: int, slot: int, row: int) -> tuple[Lottery, int, int] | None:
        """The lottery at a place that holds `row`: what was drawn, the candidate (−1: the winner stays) and
        its creative. None where nothing else is feasible.
        """
        explore = self._query.slots[slot].spec.explore
        runners = self._runners(slot, self._live.kind_of[row])
        if not explore or not runners:
            return None
        candidates, live = self._candidates, self._live
        keys = (row, *(int(candidates.rows[at]) for at, _ in runners))
        each = explore / len(runners)
        chances = (1.0 - explore, *([each] * len(runners)))
        drawn = _pick(chances, self._query, place)
        lottery = Lottery(place, tuple(int(live.keys[one]) for one in keys), chances, drawn)
        return (lottery, -1, OWN_TITLE) if not drawn else (lottery, *runners[drawn - 1])

    def _runners(self, slot: int, kind: int) -> list[tuple[int, int]]:
        """The next feasible candidates of the same kind, so that limits by kind hold whatever is drawn."""
        supply = self._supply.get((slot, kind))
        if supply is None:
            supply = self._supply[slot, kind] = self._ordered(slot, kind)
        found: list[tuple[int, int]] = []
        for at, creative in supply:
            row = int(self._candidates.rows[at])
            if row in self._taken:
                continue
            self._taken.add(row)
            found.append((at, creative))
            if len(found) == RUNNERS:
                break
        return found

    def _ordered(self, slot: int, kind: int) -> Iterator[tuple[int, int]]:
        """What of a kind the slot may hold freely, best first: (candidate, creative)."""
        asked, live, candidates, market = self._query.slots[slot], self._live, self._candidates, self._market
        members = live.plan.members.take(candidates.rows)
        free = ((members >> np.uint64(asked.spec.index)) & np.uint64(1)) != 0
        free &= candidates.items["kind"] == kind
        free &= (market.option_capped == 0) & (market.option_room < 0).all(axis=1) & (market.value > 0)
        where = free.nonzero()[0]
        order = (-market.value[where]).argsort(kind="stable")
        english = self._query.context.locale.startswith("en")
        for at in where[order].tolist():
            row = int(candidates.rows[at])
            if int(live.keys[row]) in asked.exclude or row == self._query.anchor_row:
                continue
            creative = live.creative(row, asked.spec.layout_code, english, self._query.now)
            if creative is not None:
                yield at, creative


def _pick(chances: tuple[float, ...], query: Query, place: int) -> int:
    """By the first 53 bits of the hash of (subject, decision id, place): the same in every replay."""
    digest = blake2b(f"{query.subject}\0{query.decision_id}\0{place}".encode(), digest_size=8).digest()
    left = (int.from_bytes(digest, "big") >> 11) / (1 << 53)
    for at, chance in enumerate(chances):
        left -= chance
        if left < 0:
            return at
    return 0
