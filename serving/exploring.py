"""Exploration: after the deterministic page, independent lotteries over a winner and its runners-up.

Only in slots that declare `explore`, only at places that no rule, cap or campaign is behind. Where a whole
slot is capped (a pop-up), whatever is drawn needs the winner's reservation; when that is refused, there was
no lottery. Runners-up of one place are nobody else's, so every draw is feasible whatever the others give: a
placement's propensity is its lottery's own, and the page's is their product. Random bits come from the
decision's id.

A slot's `explore_budget` is the part of a place's worth that exploring it may cost in expectation: where the
runners-up are poor, the lottery is held that much less often. With `explore_new` a runner-up that is new, or
in a new one's place, is shown as often as it may be the better one. All chances are known before the draw.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

from features.ids import bytes64
from serving.bandit import CELLS, cell_of
from serving.bandit_draws import choice_of, pick
from serving.creative_choices import CreativeAsked, CreativeChoice
from serving.creatives_kernel import explore
from serving.domain import EXPLORING, Candidates, Lottery, Query
from serving.exploring_kernel import (
    ASK,
    CHANCE,
    DRAW_SEAT,
    FIRST,
    NOTHING,
    OTHER,
    PLACE,
    PROPENSITY,
    RUNNERS,
    SCRATCH,
    SECOND,
    SHOWN,
    TOLD,
    TURN,
)
from serving.live import Live
from serving.market import Market
from serving.page import RULE
from serving.seats import OWN_TITLE, ROW, Grid, Seats
from serving.splitting import part_of, salt_of

__all__ = ["RUNNERS", "Held", "Lotteries", "bits_of", "explored"]


@lru_cache(maxsize=8)
def _salts(places: int) -> NDArray[np.uint64]:
    """(2, places): of the lotteries of items and of creatives."""
    return np.array(
        [[salt_of(of, str(at)) for at in range(places)] for of in ("place", "creative")], np.uint64
    )


_SALTED: Final = 256
_SALTS: Final = _salts(_SALTED)
_RULE: Final = RULE["exploration"]
_MOST: Final = 32_000  # of creatives, in 16 bits
_SHAPES: Final = 256  # sets of slots remembered
_NO_SPARES: Final = np.empty(0, np.int32)
# Scratch for the loop alone, which does not let go of the interpreter's lock: one for all threads.
_width = 2_048
_kept = np.empty((SCRATCH, _width), np.int32)
_NO_BANS: Final = np.empty((0, 0), np.bool_)
_UNKNOWN: Final = np.empty((0, 0))  # told from what is known by being this very array


class Held(Sequence[Lottery]):
    """Lotteries that become objects when somebody looks at them, off the request's path."""

    __slots__ = ("_held", "_made")

    _held: int  # how many
    _made: tuple[Lottery, ...] | None

    @abstractmethod
    def _make(self) -> tuple[Lottery, ...]: ...

    @property
    def made(self) -> tuple[Lottery, ...]:
        if self._made is None:
            self._made = self._make()
        return self._made

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


class Lotteries(Held):
    """Those of items on a page, as arrays."""

    __slots__ = ("_keys", "_rows", "_told", "_whole", "turned")

    def __init__(
        self,
        held: int,
        told: NDArray[np.float64],
        whole: NDArray[np.int64],
        rows: NDArray[np.int32],
        keys: NDArray[np.uint64],
        turned: Sequence[int],
    ) -> None:
        """How many; `told` by place as `hold` fills it; `whole`: of serving.seats.Grid, the page without
        lotteries; `rows` are the candidates', `keys` the catalogue's; at `turned` a runner-up was drawn.
        """
        self.turned = turned
        self._held, self._made = held, None
        self._told, self._whole, self._rows, self._keys = told, whole, rows, keys

    @property
    def propensity(self) -> list[float]:
        """By place the chance of what stands there."""
        chances: list[float] = self._told[PROPENSITY].tolist()
        return chances

    def _make(self) -> tuple[Lottery, ...]:
        return tuple(map(self._of, self._told[CHANCE].nonzero()[0].tolist()))

    def _of(self, place: int) -> Lottery:
        first, second, turn, each, other = self._told[[FIRST, SECOND, TURN, CHANCE, OTHER], place].tolist()
        runners = [int(one) for one in (first, second) if one >= 0]
        chances = (each, other)[: len(runners)]
        every = each * len(runners) if each == chances[-1] else each + other
        rows = [self._whole[ROW, place], *(self._rows[one] for one in runners)]
        return Lottery(
            place,
            tuple([int(self._keys[row]) for row in rows]),
            (1.0 - every, *chances),
            int(turn),
        )


class Draws(Held):
    """Those of creatives on a page, as arrays."""

    __slots__ = ("_choices", "_told")

    def __init__(self, held: int, told: NDArray[np.float64], choices: Sequence[CreativeChoice]) -> None:
        """How many; `told` as `draw` fills it; `choices` by their number."""
        self._held, self._made = held, None
        self._told, self._choices = told, choices

    def _make(self) -> tuple[Lottery, ...]:
        made, places = self._told[DRAW_SEAT:, : self._held].T.astype(int).tolist(), self._told.shape[1]
        return tuple([self._of(seat % places, self._choices[choice], drawn) for seat, choice, drawn in made])

    @staticmethod
    def _of(place: int, found: CreativeChoice, drawn: int) -> Lottery:
        return Lottery(place, found.keys, found.chances, drawn)


def explored(
    query: Query, live: Live, candidates: Candidates, market: Market, seats: Seats, segment: int
) -> tuple[Lotteries | None, Sequence[Lottery]]:
    """Holds the page's lotteries, of items and then of creatives: what is drawn takes its place in `seats`.

    None: of items none is held. `segment`: the customer's. The keys of creatives are key32s, the page's own
    first.
    """
    slots = _slots(query, live, market)
    if slots is None:
        return None, ()
    rows = candidates.rows
    grid = seats.grid or seats.as_grid(rows, market.value)
    places = len(grid.slot)
    english = query.context.locale.startswith("en")
    items, banned = live.lottery_items(english), _bans(query, live, rows)
    bits = bits_of(query)
    scratch = _kept if len(rows) <= _width else _wider(len(rows))
    salts = _SALTS if places <= _SALTED else _salts(places)
    told = np.empty((TOLD, places))
    standing, choices = _NO_SPARES, live.choices.kept
    cell = segment if 0 <= segment < CELLS else cell_of(segment)
    if seats.spares:
        standing = np.array([spare.row for spare in seats.spares.values()], np.int32)
    while True:
        held, turned, drawn, unknown = explore(
            rows, market.value, market.options, candidates.score, candidates.origin, items,
            *grid, standing, market.offers, slots, banned, bits, salts, scratch, told,
            cell, choices.names, choices.rows,
        )  # fmt: skip
        if held >= 0:
            break
        if not len(banned):
            banned = np.zeros((len(query.slots), len(rows)), np.bool_)
        if _may_stand(query, live, rows, grid, told, items["picks"], banned, english):
            held = -held
            break
    places_turned: Sequence[int] = ()
    if turned:
        places_turned = _turn(query, live, seats, told[PLACE:DRAW_SEAT, :turned].T.tolist(), english)
    draws: Sequence[Lottery] = ()
    if unknown:
        draws = _drawn(query, live, seats, told[DRAW_SEAT:, :drawn], choices.made, cell, bits, salts[1])
    elif drawn:
        draws = Draws(drawn, told, choices.made)
        for seat in told[DRAW_SEAT, :drawn].tolist():
            creative, place = divmod(int(seat), places)
            seats.creative[place] = creative
    return Lotteries(held, told, grid.whole, rows, live.keys, places_turned) if held else None, draws


def _drawn(
    query: Query,
    live: Live,
    seats: Seats,
    told: NDArray[np.float64],
    choices: Sequence[CreativeChoice],
    cell: int,
    bits: int,
    salts: NDArray[np.uint64],
) -> tuple[Lottery, ...]:
    """The creatives' lotteries of a page where something is not remembered: that is asked for."""
    draws = []
    for seat, number, drawn in told.T.astype(int).tolist():
        creative, place = divmod(seat, len(seats.row))
        if number >= 0:
            found = choices[number]
        else:
            if seats.creative[place] < 0:
                continue
            spec = query.slots[seats.slot[place]].spec
            own = seats.row[place], seats.creative[place], seats.campaign[place]
            found = choice_of(query, live, CreativeAsked(*own, spec.bit.bit_length() - 1, cell), spec)
            if len(found.keys) < 2:
                continue
            drawn = pick(found.chances, part_of(bits % 2**64, int(salts[place])))
            creative = found.creatives[drawn]
        seats.creative[place] = creative
        draws.append(Lottery(place, found.keys, found.chances, drawn))
    return tuple(draws)


def _slots(query: Query, live: Live, market: Market) -> NDArray[np.float64] | None:
    """What `hold` needs of the slots, the same for pages of the same ones; None: none of them explores."""
    asked = market.slots, market.slot_capped
    held = live.lottery_slots.get(asked, _UNKNOWN)
    if held is not _UNKNOWN:
        return held
    specs, held = [one.spec for one in query.slots], None
    if any(spec.explore or spec.explore_new for spec in specs):
        columns = [
            (
                *(spec.bit.bit_length() - 1, spec.explore, spec.explore_new, spec.explore_budget),
                *(spec.layout_code, capped),
            )
            for spec, capped in zip(specs, market.slot_capped, strict=True)
        ]
        held = np.zeros((len(specs), SHOWN + max(len(spec.shown) for spec in specs)))
        held[:, :SHOWN] = columns
        for at, spec in enumerate(specs):
            held[at, SHOWN : SHOWN + len(spec.shown)] = spec.shown
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
        if asked.exclude and (asked.spec.explore or asked.spec.explore_new):
            banned[at] |= np.isin(live.keys.take(rows), np.fromiter(asked.exclude, np.uint64))
    return banned


def _may_stand(
    query: Query,
    live: Live,
    rows: NDArray[np.int32],
    grid: Grid,
    told: NDArray[np.float64],
    picks: NDArray[np.int16],
    banned: NDArray[np.bool_],
    english: bool,
) -> bool:
    """Whether every runner-up, drawn or not, can be shown now; those that cannot are banned.

    Chances may not depend on what is drawn, so the lotteries are held anew without them. What is learnt of
    the others is remembered in `picks`.
    """
    good = True
    for runner in told[[FIRST, SECOND]]:
        for at in (runner >= 0).nonzero()[0].tolist():
            one, of = int(runner[at]), int(grid.slot[at])
            row, code = int(rows[one]), query.slots[of].spec.layout_code
            if picks[row, code] != ASK:
                continue
            if live.creative(row, code, english, query.now) is None:
                banned[of, one], good = True, False
            if live.texts[row].timeless:
                picked = live.picks(code, english)[row]
                picks[row, code] = NOTHING if picked < OWN_TITLE else picked if picked < _MOST else ASK
    return good


def _turn(query: Query, live: Live, seats: Seats, drawn: list[list[float]], english: bool) -> list[int]:
    """Seat the runners-up that were drawn, of each what the kernel tells by PLACE …; and where."""
    for place, row, origin, creative, score, value, tag in drawn:
        at, now, picked = int(place), int(row), int(creative)
        if picked < OWN_TITLE:
            layout = query.slots[seats.slot[at]].spec.layout_code
            asked = live.creative(now, layout, english, query.now)
            assert asked is not None  # looked at before
            picked = asked
        seats.row[at], seats.score[at], seats.origin[at], seats.creative[at] = now, score, int(origin), picked
        seats.value[at] = seats.base[at] = value
        seats.tag[at], seats.rule[at] = tag, _RULE
        seats.flags[at] |= EXPLORING
    return [int(one[0]) for one in drawn]


def _wider(candidates: int) -> NDArray[np.int32]:
    """`_kept` for pages of so many."""
    global _kept, _width
    _kept = made = np.empty((SCRATCH, 2 * candidates), np.int32)
    _width = 2 * candidates  # last: another thread may read it in between
    return made


def bits_of(query: Query) -> int:
    """The 64 random bits of a decision, signed: the same in every replay."""
    return int.from_bytes(bytes64(f"{query.subject}\0{query.decision_id}"), "big", signed=True)
