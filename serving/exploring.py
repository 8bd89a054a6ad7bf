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
from typing import Final, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from serving.domain import EXPLORING, Candidates, Lottery, Query
from serving.exploring_kernel import (
    ASK,
    CHANCE,
    FIRST,
    NOTHING,
    NOW_SCORE,
    PLACE,
    PROPENSITY,
    RUNNERS,
    SECOND,
    TURN,
    hold,
)
from serving.live import OWN_TITLE, Live, LotterySlots
from serving.market import Market
from serving.page import RULE
from serving.seats import ROW, Grid, Seats
from serving.splitting import salt_of

__all__ = ["RUNNERS", "Explored", "Lotteries", "bits_of", "explored"]

_SALTS: Final = np.array([salt_of("place", str(place)) for place in range(1_000)], np.uint64)
_RULE: Final = RULE["exploration"]
_MOST: Final = 32_000  # of creatives, in 16 bits
_SHAPES: Final = 256  # sets of slots remembered
_NO_SPARES: Final = np.empty(0, np.int32)
_NO_BANS: Final = np.empty((0, 0), np.bool_)


class Lotteries(Sequence[Lottery]):
    """The lotteries of a page as arrays; objects when somebody looks at them, off the request's path."""

    __slots__ = ("_chances", "_held", "_keys", "_lots", "_made", "_rows", "_winner")

    def __init__(
        self,
        held: int,
        lots: NDArray[np.int64],
        chances: NDArray[np.float64],
        winner: NDArray[np.int64],
        rows: NDArray[np.int32],
        keys: NDArray[np.uint64],
    ) -> None:
        """How many; `lots` and `chances` by place as `hold` fills them; `winner`: the row that the page has
        there without a lottery; `rows` are the candidates', `keys` the catalogue's.
        """
        self._held, self._lots, self._chances = held, lots, chances
        self._winner, self._rows, self._keys = winner, rows, keys
        self._made: tuple[Lottery, ...] | None = None

    @property
    def made(self) -> tuple[Lottery, ...]:
        if self._made is None:
            self._made = tuple(map(self._of, self._chances[CHANCE].nonzero()[0].tolist()))
        return self._made

    def _of(self, place: int) -> Lottery:
        runners = [one for one in self._lots[:TURN, place].tolist() if one >= 0]
        rows = [self._winner[place], *(self._rows[one] for one in runners)]
        each = float(self._chances[CHANCE, place])
        return Lottery(
            place,
            tuple([int(self._keys[row]) for row in rows]),
            (1.0 - each * len(runners), *([each] * len(runners))),
            int(self._lots[TURN, place]),
        )

    def __len__(self) -> int:
        return self._held

    @overload
    def __getitem__(self, at: int) -> Lottery: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Lottery]: ...
    def __getitem__(self, at: int | slice) -> Lottery | Sequence[Lottery]:
        return self.made[at]

    def __iter__(self) -> Iterator[Lottery]:
        return iter(self.made)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.made == tuple(other)

    def __hash__(self) -> int:
        return hash(self.made)


class Explored(NamedTuple):
    """What stands after the lotteries, by place the chance of it, and the lotteries."""

    seats: Seats
    propensity: list[float]
    lotteries: Sequence[Lottery]


def explored(
    query: Query, live: Live, candidates: Candidates, market: Market, seats: Seats
) -> Explored | None:
    """The page after its lotteries; None where none is held."""
    slots = _slots(query, live, market)
    if slots is None:
        return None
    rows = candidates.rows
    grid = seats.as_grid(rows)
    p = len(grid.slot)
    english, bits = query.context.locale.startswith("en"), np.uint64(bits_of(query))
    picks = live.pick_table(english)
    banned = _bans(query, live, rows)
    lots, chances = np.empty((7, p), np.int64), np.empty((5, p))
    standing = _NO_SPARES
    if seats.spares:
        standing = np.array([spare.row for spare in seats.spares.values()], np.int32)
    while True:
        held, turned = hold(
            rows, market.value, market.option_capped, market.option_room, candidates.score, candidates.origin,
            live.kinds, live.plan.members, picks, *grid, standing, *slots, banned, bits, _SALTS,
            lots, chances,
        )  # fmt: skip
        if not held:
            return None
        if held > 0:
            break
        if not len(banned):
            banned = np.zeros((len(query.slots), len(rows)), np.bool_)
        if _may_stand(query, live, rows, grid, lots, picks, banned, english):
            held = -held
            break
    if turned:
        seats = _turned(query, live, seats, lots[PLACE:, :turned], chances[NOW_SCORE:, :turned], english)
    made = Lotteries(held, lots, chances, grid.whole[ROW], rows, live.keys)
    return Explored(seats, chances[PROPENSITY].tolist(), made)


def _slots(query: Query, live: Live, market: Market) -> LotterySlots | None:
    """The same for pages of the same slots; None: none of them explores."""
    asked = tuple([one.spec.index for one in query.slots]), market.slot_capped
    if asked in live.lottery_slots:
        return live.lottery_slots[asked]
    specs = [one.spec for one in query.slots]
    held = None
    if any(spec.explore for spec in specs):
        columns = [
            (spec.bit.bit_length() - 1, spec.explore, spec.explore_budget, spec.layout_code, capped)
            for spec, capped in zip(specs, market.slot_capped, strict=True)
        ]
        shown = np.zeros((len(specs), max(len(spec.shown) for spec in specs)))
        for at, spec in enumerate(specs):
            shown[at, : len(spec.shown)] = spec.shown
        held = LotterySlots(np.array(columns, np.float64), shown)
    if len(live.lottery_slots) >= _SHAPES:
        live.lottery_slots.clear()
    live.lottery_slots[asked] = held
    return held


def _bans(query: Query, live: Live, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(slots, n): the anchor, and what the app left out. (0, 0): nothing."""
    if query.anchor_row is None:
        for asked in query.slots:
            if asked.exclude:
                break
        else:
            return _NO_BANS
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
    grid: Grid,
    lots: NDArray[np.int64],
    picks: NDArray[np.int16],
    banned: NDArray[np.bool_],
    english: bool,
) -> bool:
    """Whether every runner-up, drawn or not, can be shown now; those that cannot are banned.

    Chances may not depend on what is drawn, so the lotteries are held anew without them. What is learnt of
    the others is remembered in `picks`.
    """
    good = True
    for runner in lots[[FIRST, SECOND]]:
        for at in (runner >= 0).nonzero()[0].tolist():
            one, of = int(runner[at]), int(grid.slot[at])
            row, code = int(rows[one]), query.slots[of].spec.layout_code
            if picks[code, row] != ASK:
                continue
            if live.creative(row, code, english, query.now) is None:
                banned[of, one], good = True, False
            if live.texts[row].timeless:
                picked = live.picks(code, english)[row]
                picks[code, row] = NOTHING if picked < OWN_TITLE else picked if picked < _MOST else ASK
    return good


def _turned(
    query: Query,
    live: Live,
    seats: Seats,
    drawn: NDArray[np.int64],
    worth: NDArray[np.float64],
    english: bool,
) -> Seats:
    """The page with the runners-up that were drawn: by PLACE … and by NOW_SCORE … of the kernel."""
    row, score, origin, creative = seats.row[:], seats.score[:], seats.origin[:], seats.creative[:]
    flags, value, base, tag, rule = seats.flags[:], seats.value[:], seats.base[:], seats.tag[:], seats.rule[:]
    for at, now, source, picked, chance, each, less in zip(*drawn.tolist(), *worth.tolist(), strict=True):
        if picked < OWN_TITLE:
            layout = query.slots[seats.slot[at]].spec.layout_code
            asked = live.creative(now, layout, english, query.now)
            assert asked is not None  # looked at before
            picked = asked
        row[at] = now
        score[at] = chance
        origin[at] = source
        creative[at] = picked
        value[at] = base[at] = each
        tag[at] = less
        flags[at] |= EXPLORING
        rule[at] = _RULE
    slot, position, _, _, _, _, _, campaign, _, _, _, _, by, capped, pin, spares, _ = seats
    return Seats(
        *(slot, position, row, score, origin, creative, flags, campaign, value, base, tag, rule, by, capped),
        *(pin, spares),
    )


def bits_of(query: Query) -> int:
    """The 64 random bits of a decision: the same in every replay."""
    digest = blake2b(f"{query.subject}\0{query.decision_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
