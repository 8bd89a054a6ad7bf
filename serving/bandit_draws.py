"""The bandit on a page: which of an item's creatives is shown at places of slots that explore, and which arm
of an adaptive experiment the page has (a lever, a paused campaign, anything that an arm may change).

After the page is decided, item by item; nothing else on it moves. A lottery is over the creatives that may be
shown here (approved, in their time, of the same language, among those that the campaign names), by the table
of the item for the customer's segment. A slot's `explore_budget` bounds what drawing may give up of the best
creative's reward in expectation: beyond it the best one is drawn that much more often. Places that need a
reservation keep their creative, because a cap may count it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from features.ids import key64
from serving.bandit import HOUR_S, Learned, Table, cell_of, untold
from serving.creative_choices import CreativeAsked, CreativeChoice
from serving.domain import ArmDraw
from serving.experiments import Assigned
from serving.live import Live
from serving.splitting import part_of, salt_of

if TYPE_CHECKING:
    from serving.domain import Query
    from serving.plan import CompiledSlot

SETTLE_S: Final = 300.0  # after the hour; a version is written and taken up each minute
_NOT_ADAPTIVE: Final[tuple[tuple[Assigned, ...], tuple[str, ...]]] = (), ()
MOST_KEPT: Final = 20_000
T = TypeVar("T")


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


def kept(memo: dict[Any, T], name: Any, value: T) -> T:
    """The value, remembered."""
    if len(memo) >= MOST_KEPT:
        memo.clear()
    memo[name] = value
    return value


def choice_of(query: Query, live: Live, asked: CreativeAsked, spec: CompiledSlot) -> CreativeChoice:
    """What may stand at a place of a slot, and its chances; remembered where that is the same at any time."""
    text = live.texts[asked.row]
    some = _choices(query, live, asked, spec.layout_code)
    keys = tuple([text.creatives[choice].key for choice in some])
    chances: tuple[float, ...] = ()
    if len(keys) > 1:
        chances = chances_of(live.learned, int(live.keys[asked.row]), asked.cell, keys, spec.explore_budget)
    found = CreativeChoice(some, keys, chances)
    if text.timeless:
        live.choices.keep(asked, found)
    return found


def _choices(query: Query, live: Live, asked: CreativeAsked, layout: int) -> tuple[int, ...]:
    """Indices of the creatives that may stand there, the page's own first."""
    text, shown = live.texts[asked.row], asked.creative
    creatives = text.creatives
    if len(creatives) < 2:
        return ()
    named = None
    if asked.campaign >= 0:
        named = live.plan.campaigns.specs[asked.campaign].creatives.get(text.id)
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
