"""The bandit on a page: which of an item's creatives is shown at places of slots that explore, and which arm
of an adaptive experiment the page has (a lever, a paused campaign, anything that an arm may change).

After the page is decided, item by item; nothing else on it moves. A lottery is over the creatives that may be
shown here (approved, in their time, of the same language, among those that the campaign names), by the table
of the item for the customer's segment. A slot's `explore_budget` bounds what drawing may give up of the best
creative's reward in expectation: beyond it the best one is drawn that much more often. Places that need a
reservation keep their creative, because a cap may count it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from features.ids import key64
from serving.bandit import HOUR_S, Learned, Table, cell_of, untold
from serving.domain import ArmDraw, Lottery
from serving.experiments import Assigned
from serving.exploring import Held, bits_of, signed
from serving.live import CreativeAsked, CreativeChoice, Live
from serving.seats import Seats
from serving.splitting import part_of, salt_of
from serving.splitting_kernel import split

if TYPE_CHECKING:
    from serving.domain import Effort, Query


SETTLE_S: Final = 300.0  # after the hour; a version is written and taken up each minute
_NOT_ADAPTIVE: Final[tuple[tuple[Assigned, ...], tuple[str, ...]]] = (), ()
MOST_KEPT: Final = 20_000
NO_PARTS: Final[list[float]] = []
T = TypeVar("T")


def _salts(places: int) -> NDArray[np.uint64]:
    return np.array([salt_of("creative", str(place)) for place in range(places)], np.uint64)


_SALTS: Final = _salts(256)


class Draws(Held):
    """Those of creatives on a page: place, keys, chances, which was drawn."""

    __slots__ = ("_drawn",)

    def __init__(self, drawn: list[tuple[int, tuple[int, ...], tuple[float, ...], int]]) -> None:
        super().__init__(len(drawn))
        self._drawn = drawn

    def _make(self) -> tuple[Lottery, ...]:
        return tuple([Lottery(*one) for one in self._drawn])


def drawn_creatives(
    query: Query, live: Live, effort: Effort, seats: Seats, segment: int, bits: int | None = None
) -> Sequence[Lottery]:
    """Draws creatives for `seats`, and gives the lotteries: `keys` are key32s, the page's own first.

    Nothing where the customer is not to be profiled, and on lower rungs. `bits`: of the decision, where they
    are known.
    """
    creatives = seats.creative
    if effort != "full" or not query.profiling:
        return ()
    held: list[tuple[int, tuple[int, ...], tuple[float, ...], int]] = []
    cell, parts = cell_of(segment), NO_PARTS
    for at in [at for at, own in enumerate(creatives) if own >= 0]:  # the others have titles of their own
        spec = query.slots[seats.slot[at]].spec
        if not spec.explore or seats.capped[at]:
            continue
        row, own, campaign = seats.row[at], creatives[at], seats.campaign[at]
        asked = row, own, campaign, spec.layout_code, cell, spec.explore_budget
        found = live.draws.get(asked) or _choice(query, live, asked)
        if len(found.keys) < 2:
            continue
        parts = parts or _parts(bits_of(query) if bits is None else bits, len(creatives))
        drawn = pick(found.chances, parts[at])
        held.append((at, found.keys, found.chances, drawn))
        creatives[at] = found.creatives[drawn]
    return Draws(held) if held else ()


def drawn_arms(
    query: Query, live: Live, arms: tuple[Assigned, ...]
) -> tuple[tuple[Assigned, ...], tuple[ArmDraw, ...]]:
    """The arms of a page with those of adaptive experiments drawn by the table of the customer's segment.

    Randomness is the unit's and the hour's, and tables of experiments are made anew once an hour, so that a
    page does not change from view to view. Hours begin `SETTLE_S` late, when every replica has the new table.
    Testers keep the arm they are given.
    """
    adaptive = live.experiments.adaptive
    made, draws = list(arms), []
    cell, hour = cell_of(int(query.customer.get("segment"))), int((query.now - SETTLE_S) // HOUR_S)
    for at, one in enumerate(arms):
        name = one.name.partition("/")[0]
        options, names = adaptive.get(name, _NOT_ADAPTIVE)
        if one.forced or len(options) < 2:
            continue
        asked = group_of(name), cell, names
        chances = live.chances.get(asked)
        if chances is None:
            table = live.learned.tables.get(asked[0])
            row = table.row(cell) if table is not None else 0
            told, _, _ = _of(table, row, names) if table is not None else _untold(len(names))
            chances = kept(live.chances, asked, told)
        unit = key64(query.customer.unit or query.subject)
        drawn = pick(chances, part_of(unit, _hours_salt(name, hour)))
        made[at] = options[drawn]
        draws.append(ArmDraw(name, names, chances, drawn))
    return tuple(made), tuple(draws)


@lru_cache(maxsize=1024)
def _hours_salt(experiment: str, hour: int) -> int:
    return salt_of("adaptive", experiment, str(hour))


@lru_cache(maxsize=256)
def group_of(experiment: str) -> int:
    """What the bandit knows an adaptive experiment by."""
    return key64(f"experiment:{experiment}")


def _parts(bits: int, places: int) -> list[float]:
    """By place, a number in [0, 1) of the decision."""
    salts = _SALTS if places <= len(_SALTS) else _salts(places)
    told = np.empty(places)
    split(signed(bits), salts[:places], told)
    parts: list[float] = told.tolist()
    return parts


def kept(memo: dict[Any, T], name: Any, value: T) -> T:
    """The value, remembered."""
    if len(memo) >= MOST_KEPT:
        memo.clear()
    memo[name] = value
    return value


def _choice(query: Query, live: Live, asked: CreativeAsked) -> CreativeChoice:
    """What may stand at a place, and its chances; remembered where that is the same at any time."""
    row, shown, campaign, layout, cell, budget = asked
    text = live.texts[row]
    choices = _choices(query, live, row, shown, campaign, layout)
    keys = tuple([text.creatives[choice].key for choice in choices])
    chances = chances_of(live.learned, int(live.keys[row]), cell, keys, budget) if len(keys) > 1 else ()
    found = CreativeChoice(choices, keys, chances)
    return kept(live.draws, asked, found) if text.timeless else found


def _choices(query: Query, live: Live, row: int, shown: int, campaign: int, layout: int) -> tuple[int, ...]:
    """Indices of the creatives that may stand there, the page's own first."""
    text = live.texts[row]
    creatives = text.creatives
    if len(creatives) < 2:
        return ()
    named = None
    if campaign >= 0:
        named = live.plan.campaigns.specs[campaign].creatives.get(text.id)
    own = creatives[shown]
    return (
        shown,
        *(
            at
            for at, one in enumerate(creatives)
            if at != shown
            and one.locale == own.locale
            and one.key not in live.kills.creatives
            and (named is None or one.id in named)
            and one.shows(layout, query.now)
        ),
    )


def chances_of(
    learned: Learned, item: int, cell: int, keys: tuple[int, ...], budget: float
) -> tuple[float, ...]:
    """The chance of each creative; they sum to 1. The same for the same version, on every replica."""
    table = learned.tables.get(item)
    names = tuple([f"{key:08x}" for key in keys])
    held = _of(table, table.row(cell), names) if table is not None else _untold(len(keys))
    chances, best, loss = held
    part = 1.0 if budget >= 1 or loss <= 0 else min(1.0, budget / loss)
    if part >= 1:
        return chances
    return tuple([part * chance + (1 - part) * (at == best) for at, chance in enumerate(chances)])


@lru_cache(maxsize=8192)
def _of(table: Table, row: int, names: tuple[str, ...]) -> tuple[tuple[float, ...], int, float]:
    """Chances of some arms by a row, the best of them, and what drawing gives up of its reward.

    One that the table does not know has the chance of one among equals.
    """
    known = {name: at for at, name in enumerate(table.arms)}
    at = [known.get(name, -1) for name in names]
    told = np.array([table.chances[row, one] if one >= 0 else 0.0 for one in at])
    fresh = np.array([one < 0 for one in at])
    if told.sum() > 0:
        told *= (1 - fresh.mean()) / told.sum()
    chances = np.where(fresh, 1 / len(names), told)
    chances /= chances.sum()
    mean = np.array([table.mean[row, one] if one >= 0 else -np.inf for one in at])
    best = int(mean.argmax()) if np.isfinite(mean).any() else 0
    return tuple(chances.tolist()), best, float(table.loss[row])


@lru_cache(maxsize=16)
def _untold(k: int) -> tuple[tuple[float, ...], int, float]:
    table = untold(k)
    return tuple(table.chances[0].tolist()), 0, float(table.loss[0])


def pick(chances: tuple[float, ...], left: float) -> int:
    """Which one a number in [0, 1) draws."""
    for at, chance in enumerate(chances):
        left -= chance
        if left < 0:
            return at
    return 0
