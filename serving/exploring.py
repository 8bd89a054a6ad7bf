"""Exploration: after the deterministic page, independent lotteries over a winner and its runners-up.

Only in slots that declare `explore`, only at places that no rule, cap or campaign is behind. Where a whole
slot is capped (a pop-up), whatever is drawn needs the winner's reservation; when that is refused, there was
no lottery. Runners-up of one place are nobody else's, so every draw is feasible whatever the others give: a
placement's propensity is its lottery's own, and the page's is their product. Random bits come from the
decision's id.

A slot's `explore_budget` is the part of a place's worth that exploring it may cost in expectation: where the
runners-up are poor, the lottery is held that much less often. The chances stay known before the draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

from serving.domain import EXPLORING, Candidates, Lottery, Query
from serving.exploring_kernel import ASK, NOTHING, RUNNERS, hold
from serving.live import Live
from serving.market import Market
from serving.page import RULE
from serving.placed import Columns
from serving.splitting import salt_of

__all__ = ["RUNNERS", "Explored", "Lotteries", "bits_of", "explored"]

_SALTS: Final = np.array([salt_of("place", str(place)) for place in range(1_000)], np.uint64)
_CHANGED: Final = (
    *("row", "key", "score", "origin", "reason", "creative", "creative_key", "flags", "value", "base"),
    *("tag", "rule"),
)
_RULE: Final = RULE["exploration"]
_MOST: Final = 32_000  # of creatives, in 16 bits


class Lotteries(Sequence[Lottery]):
    """The lotteries of a page as columns; each is made when somebody looks at it, off the request's path."""

    __slots__ = ("_all_keys", "_chance", "_drawn", "_rows", "_runner", "_where", "_winner")

    def __init__(
        self,
        where: list[int],
        winner: list[int],
        runner: list[list[int]],
        chance: list[float],
        drawn: list[int],
        rows: NDArray[np.int32],
        keys: NDArray[np.uint64],
    ) -> None:
        """Places that hold one, and by place of the page: key of the winner, runners-up among the candidates'
        `rows` (−1 none), chance of each, which was drawn. `keys` are the catalogue's.
        """
        self._where, self._winner, self._runner = where, winner, runner
        self._chance, self._drawn, self._rows, self._all_keys = chance, drawn, rows, keys

    def __len__(self) -> int:
        return len(self._where)

    @overload
    def __getitem__(self, at: int) -> Lottery: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Lottery]: ...
    def __getitem__(self, at: int | slice) -> Lottery | Sequence[Lottery]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        place = self._where[at]
        keys = [int(self._all_keys[self._rows[one]]) for one in self._runner[place] if one >= 0]
        each = self._chance[place]
        chances = (1.0 - each * len(keys), *([each] * len(keys)))
        return Lottery(place, (self._winner[place], *keys), chances, self._drawn[place])

    def __iter__(self) -> Iterator[Lottery]:
        return (self[at] for at in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self))


Explored = tuple[Columns, Sequence[Lottery]]


def explored(
    query: Query,
    live: Live,
    candidates: Candidates,
    market: Market,
    places: Columns,
    spares: Sequence[int],
) -> Explored:
    """The page after its lotteries. `spares`: rows that stand by. A drawn placement has no reason: −1."""
    p, rows = len(places.slot), candidates.rows
    read = (places.slot, places.row, places.value, places.campaign, places.capped, places.flags)
    facts = np.ascontiguousarray(np.array(read, np.float64).T)
    slots = _slots(query, live)
    english, bits = query.context.locale.startswith("en"), np.uint64(bits_of(query))
    picks = live.pick_table(english)
    banned = _bans(query, live, rows)
    runner, each = np.empty((p, RUNNERS), np.int32), np.empty(p)
    drawn = np.empty(p, np.int8)
    reserved = np.array(market.slot_capped, np.bool_)
    while held := hold(
        rows, market.value, market.option_capped, market.option_room, live.kinds, live.plan.members, picks,
        facts, np.array(spares, np.int32), slots, reserved, banned, bits, _SALTS, runner, each, drawn,
    ):  # fmt: skip
        if held > 0 or _may_stand(query, live, rows, facts, runner, picks, banned, english):
            return _made(query, live, candidates, market, places, runner, each, drawn, english)
    return places, ()


def _slots(query: Query, live: Live) -> NDArray[np.float64]:
    """(s, 4): the number of the slot's bit, explore, budget, layout; the same for pages of the same slots."""
    asked = tuple([one.spec.index for one in query.slots])
    held = live.lottery_slots.get(asked)
    if held is None:
        specs = [one.spec for one in query.slots]
        columns = [
            (one.bit.bit_length() - 1, one.explore, one.explore_budget, one.layout_code) for one in specs
        ]
        held = live.lottery_slots[asked] = np.array(columns, np.float64)
    return held


def _bans(query: Query, live: Live, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(slots, n): the anchor, and what the app left out."""
    banned = np.zeros((len(query.slots), len(rows)), np.bool_)
    if query.anchor_row is not None:
        banned[:, rows == query.anchor_row] = True
    for at, asked in enumerate(query.slots):
        if asked.exclude and asked.spec.explore:
            banned[at] |= np.isin(live.keys.take(rows), np.fromiter(asked.exclude, np.uint64))
    return banned


def _may_stand(
    query: Query,
    live: Live,
    rows: NDArray[np.int32],
    facts: NDArray[np.float64],
    runner: NDArray[np.int32],
    picks: NDArray[np.int16],
    banned: NDArray[np.bool_],
    english: bool,
) -> bool:
    """Whether every runner-up, drawn or not, can be shown now; those that cannot are banned.

    Chances may not depend on what is drawn, so the lotteries are held anew without them.
    """
    layout = np.array([asked.spec.layout_code for asked in query.slots])
    slot = facts[:, 0].astype(np.intp)
    unknown = (runner >= 0) & (picks[layout[slot][:, None], rows[runner]] == ASK)
    if not unknown.any():
        return True
    good = True
    for at, turn in zip(*(one.tolist() for one in unknown.nonzero()), strict=True):
        one, of = int(runner[at, turn]), int(slot[at])
        row, code = int(rows[one]), int(layout[of])
        if live.creative(row, code, english, query.now) is None:
            banned[of, one], good = True, False
        if live.texts[row].timeless:
            picked = live.picks(code, english)[row]
            picks[code, row] = NOTHING if picked < NOTHING + 1 else min(picked, _MOST)
    return good


def _made(
    query: Query,
    live: Live,
    candidates: Candidates,
    market: Market,
    places: Columns,
    runner: NDArray[np.int32],
    each: NDArray[np.float64],
    drawn: NDArray[np.int8],
    english: bool,
) -> Explored:
    chances, outcome, pairs = each.tolist(), drawn.tolist(), runner.tolist()
    where = [at for at, chance in enumerate(chances) if chance]
    if not where:
        return places, ()
    propensity = list(places.propensity)
    for at in where:
        held = 2 if pairs[at][1] >= 0 else 1
        propensity[at] = chances[at] if outcome[at] else 1.0 - chances[at] * held
    made = places._replace(propensity=propensity)
    changed = {name: list(getattr(places, name)) for name in _CHANGED} if drawn.any() else {}
    for at in drawn.nonzero()[0].tolist():
        one = pairs[at][outcome[at] - 1]
        row, value = int(candidates.rows[one]), float(market.value[one])
        layout = query.slots[places.slot[at]].spec.layout_code
        creative = live.creative(row, layout, english, query.now)
        assert creative is not None  # looked at before
        told = (
            *(
                row,
                int(live.keys[row]),
                float(candidates.score[one]),
                int(candidates.origin[one]),
                -1,
                creative,
            ),
            live.texts[row].creative_key(creative) if creative >= 0 else 0,
            *(
                places.flags[at] | EXPLORING,
                value,
                value,
                (places.base[at] - value) * places.shown[at],
                _RULE,
            ),
        )
        for name, said in zip(_CHANGED, told, strict=True):
            changed[name][at] = said
    return made._replace(**changed), Lotteries(
        where, list(places.key), pairs, chances, outcome, candidates.rows, live.keys
    )


def bits_of(query: Query) -> int:
    """The 64 random bits of a decision: the same in every replay."""
    digest = blake2b(f"{query.subject}\0{query.decision_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
