"""Exploration: after the deterministic page, independent lotteries over a winner and its runners-up.

Only in slots that declare `explore`, only at places that no rule, cap or campaign is behind. The runners-up
of one place are nobody else's, so every draw is feasible whatever the others give: a placement's propensity
is its lottery's own, and the page's is their product. Random bits come from the decision's id.

A slot's `explore_budget` is the part of a place's worth that exploring it may cost in expectation: where the
runners-up are poor, the lottery is held that much less often. The chances stay known before the draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

import numpy as np

from features.ids import KINDS
from serving.domain import Candidates, Lottery, Query
from serving.live import OWN_TITLE, Live
from serving.market import Market
from serving.splitting import part_of, salt_of

RUNNERS: Final = 2  # of a place
LEAST: Final = 1e-3  # a chance below this is not worth a lottery: its weight would be a thousand
_KINDS: Final = np.arange(len(KINDS) + 1)
_SALTS: Final = [salt_of("place", str(place)) for place in range(256)]


class Draw:
    """Draws for one page. `taken`: the rows on it and those that stand by."""

    def __init__(
        self, query: Query, live: Live, candidates: Candidates, market: Market, taken: set[int]
    ) -> None:
        self._query, self._live, self._candidates = query, live, candidates
        self._market, self._taken = market, taken
        self._bits = bits_of(query)
        free = (market.option_capped == 0) & (market.option_room < 0).all(axis=1) & (market.value > 0)
        where = free.nonzero()[0]
        value, kind = market.value.take(where), candidates.items["kind"].take(where)
        order = np.lexsort((-value, kind))  # by kind, the best first; ties by row
        where, kind = where.take(order), kind.take(order)
        rows = candidates.rows.take(where)
        self._begins: list[int] = kind.searchsorted(_KINDS).tolist()
        self._at: list[int] = where.tolist()
        self._row: list[int] = rows.tolist()
        self._key: list[int] = live.keys.take(rows).tolist()
        self._slots: list[int] = live.plan.members.take(rows).tolist()
        self._value: list[float] = value.take(order).tolist()
        self._supply: dict[tuple[int, int], Iterator[tuple[int, int]]] = {}

    def at(self, place: int, slot: int, row: int, value: float) -> tuple[Lottery, int, int] | None:
        """The lottery at a place that holds `row`, worth `value`: what was drawn, the candidate (−1: the
        winner stays) and its creative. None where nothing else is feasible, or worth the risk.
        """
        spec = self._query.slots[slot].spec
        if not spec.explore:
            return None
        runners = self._runners(slot, self._live.kind_of[row])
        if not runners:
            return None
        live = self._live
        worth = [self._value[free] for free, _ in runners]
        each = affordable(spec.explore, spec.explore_budget, value, worth) / len(runners)
        if each < LEAST:
            return None
        keys = (int(live.keys[row]), *(self._key[free] for free, _ in runners))
        chances = (1.0 - each * len(runners), *([each] * len(runners)))
        drawn = _pick(chances, self._bits, place)
        lottery = Lottery(place, keys, chances, drawn)
        if not drawn:
            return lottery, -1, OWN_TITLE
        runner, creative = runners[drawn - 1]
        return lottery, self._at[runner], creative

    def _runners(self, slot: int, kind: int) -> list[tuple[int, int]]:
        """The next feasible candidates of the same kind, so that limits by kind hold whatever is drawn."""
        supply = self._supply.get((slot, kind))
        if supply is None:
            supply = self._supply[slot, kind] = self._ordered(slot, kind)
        found: list[tuple[int, int]] = []
        for one in supply:
            row = self._row[one[0]]
            if row in self._taken:
                continue
            self._taken.add(row)
            found.append(one)
            if len(found) == RUNNERS:
                break
        return found

    def _ordered(self, slot: int, kind: int) -> Iterator[tuple[int, int]]:
        """What of a kind the slot may hold freely, best first: (number among the free, creative)."""
        asked, live, anchor = self._query.slots[slot], self._live, self._query.anchor_row
        bit, layout, now = asked.spec.bit, asked.spec.layout_code, self._query.now
        english = self._query.context.locale.startswith("en")
        for free in range(self._begins[kind], self._begins[kind + 1]):
            row = self._row[free]
            if not self._slots[free] & bit or row in self._taken or row == anchor:
                continue
            if asked.exclude and self._key[free] in asked.exclude:
                continue
            creative = live.creative(row, layout, english, now)
            if creative is not None:
                yield free, creative


def affordable(explore: float, budget: float, value: float, runners: list[float]) -> float:
    """The part of a place's displays that is explored: `explore`, or less where it would cost more than
    `budget` of the place's worth in expectation."""
    loss = value - sum(runners) / len(runners)
    if loss <= 0 or budget >= 1:
        return explore
    return min(explore, max(0.0, budget * value / loss))


def bits_of(query: Query) -> int:
    """The 64 random bits of a decision: the same in every replay."""
    digest = blake2b(f"{query.subject}\0{query.decision_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _pick(chances: tuple[float, ...], bits: int, place: int) -> int:
    """By 53 bits of a hash of the decision's and the place."""
    left = part_of(bits, _SALTS[place] if place < len(_SALTS) else salt_of("place", str(place)))
    for at, chance in enumerate(chances):
        left -= chance
        if left < 0:
            return at
    return 0
