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
from numpy.typing import NDArray

from features.ids import key64
from serving.bandit import HOUR_S, Learned, Table, cell_of, untold
from serving.domain import ArmDraw, Lottery
from serving.experiments import Assigned
from serving.exploring import bits_of, signed
from serving.placed import Columns, Placements
from serving.splitting import part_of, salt_of
from serving.splitting_kernel import split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving.domain import Effort, Placement, Query
    from serving.live import Live

SETTLE_S: Final = 300.0  # after the hour; a version is written and taken up each minute
NO_BUDGET: Final = 1.0
_NOT_ADAPTIVE: Final[tuple[tuple[Assigned, ...], tuple[str, ...]]] = (), ()
MOST_KEPT: Final = 20_000
NO_PARTS: Final[list[float]] = []
T = TypeVar("T")


def _salts(places: int) -> NDArray[np.uint64]:
    return np.array([salt_of("creative", str(place)) for place in range(places)], np.uint64)


_SALTS: Final = _salts(256)


def drawn_creatives(
    query: Query, live: Live, effort: Effort, placements: Sequence[Placement]
) -> tuple[Sequence[Placement], tuple[Lottery, ...]]:
    """The page with drawn creatives, and the lotteries: `keys` are key32s of creatives, the page's own first.

    Nothing where the customer is not to be profiled, and on lower rungs.
    """
    if effort != "full" or not query.profiling:
        return placements, ()
    columns = Columns.of(placements)
    if max(columns.creative, default=-1) < 0:  # titles of their own everywhere: nothing to choose from
        return placements, ()
    slots = [asked.spec for asked in query.slots]
    if not any(spec.explore for spec in slots):
        return placements, ()
    shown, keyed = list(columns.creative), list(columns.creative_key)
    lotteries: list[Lottery] = []
    cell, parts = cell_of(int(query.customer.get("segment"))), NO_PARTS
    for index, creative in enumerate(columns.creative):
        if creative < 0 or columns.capped[index]:
            continue
        spec = slots[columns.slot[index]]
        if not spec.explore:
            continue
        row, key = columns.row[index], columns.key[index]
        choices, keys = _options(query, live, row, creative, columns.campaign[index], spec.layout_code)
        if len(choices) < 2:
            continue
        asked = key, cell, keys, spec.explore_budget
        chances = live.chances.get(asked)
        if chances is None:
            chances = kept(live.chances, asked, chances_of(live.learned, *asked))
        parts = parts or _parts(query, len(columns.creative))
        drawn = pick(chances, parts[index])
        lotteries.append(Lottery(index, keys, chances, drawn))
        shown[index], keyed[index] = choices[drawn], keys[drawn]
    if not lotteries:
        return placements, ()
    return Placements(columns._replace(creative=shown, creative_key=keyed)), tuple(lotteries)


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
        asked = group_of(name), cell, names, NO_BUDGET
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


def _parts(query: Query, places: int) -> list[float]:
    """By place, a number in [0, 1) of the decision."""
    salts = _SALTS if places <= len(_SALTS) else _salts(places)
    told = np.empty(places)
    split(signed(bits_of(query)), salts[:places], told)
    parts: list[float] = told.tolist()
    return parts


def kept(memo: dict[Any, T], name: Any, value: T) -> T:
    """The value, remembered."""
    if len(memo) >= MOST_KEPT:
        memo.clear()
    memo[name] = value
    return value


def _options(
    query: Query, live: Live, row: int, shown: int, campaign: int, layout: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Indices of the creatives that may stand there, the page's own first, and their key32s; remembered where
    they are the same at any time.
    """
    name = row, shown, campaign, layout
    found = live.choices.get(name)
    if found is None:
        text = live.texts[row]
        choices = _choices(query, live, row, shown, campaign, layout)
        found = choices, tuple([text.creatives[choice].key for choice in choices])
        if text.timeless:
            kept(live.choices, name, found)
    return found


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
