"""What the bank's own systems report (outcomes) as positives: a purchase in a branch says what one in the app
does.

An outcome that names an item counts for that item, whether or not a display or click is credited with it
(unless the rules want only credited ones). One that names a family only counts for the items whose displays
or clicks are credited with it, by share. A purchase that the app reported as well counts once. The live
history of a customer has no outcomes, so the histories that models are judged by have none either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.attribution import Attribution, Results, Touches, attribute
from features.events import WHAT, action_code
from features.ids import Vocabulary, key32, user_subject
from features.transforms import DAY
from serving.catalogue import CompiledItems
from training.cells import pc
from training.interactions import Interactions
from training.lake import Lake

SAME_PURCHASE_S: Final = DAY  # the app's own report of a purchase lies this near to the bank's
BOUGHT: Final = action_code("purchased")


@dataclass(frozen=True, slots=True)
class OutcomeRules:
    """`kinds`: the outcomes that are positive, in the bank's own words. `attribution`: what they are credited
    to. `organic`: those that nothing is credited with count as well, where they name an item.
    """

    kinds: tuple[str, ...] = ("purchase", "purchased", "converted", "conversion")
    attribution: Attribution = field(default_factory=Attribution)
    organic: bool = True


class Conversions(NamedTuple):
    """Outcomes as positives, parallel columns: whose, item rows, POSIX seconds, the share that is credited,
    and BOUGHT where the item itself was named. `dropped`: how many were not used, by reason.
    """

    subjects: list[str]
    item: NDArray[np.int32]
    at: NDArray[np.float64]
    share: NDArray[np.float64]
    action: NDArray[np.uint16]
    dropped: dict[str, int]


def reported(lake: Lake, rules: OutcomeRules, now: float) -> Any:
    """The outcomes until `now` that are positive, as last corrected: not taken back, not below zero."""
    table: Any = lake.outcomes(until=float(np.nextafter(now, np.inf)))
    chosen = pc.is_in(table["kind"], pa.array(rules.kinds, pa.string()))
    return table.filter(pc.and_(chosen, pc.fill_null(pc.greater(table["amount"], 0.0), True)))


def conversions(
    table: Any,
    events: Any,
    links: Mapping[str, str],
    vocabulary: Vocabulary,
    items: CompiledItems,
    rules: OutcomeRules,
) -> Conversions:
    """`table` as `reported` gives it; `events` with type, subject, item_key, at and channel. `links`: visitor
    subject -> user subject.
    """
    names = [user_subject(user) for user in table["user_id"].to_pylist()]
    place = {name: row for row, name in enumerate(dict.fromkeys(names))}
    results = results_of(table, place)
    item = vocabulary.rows_of_keys(results.item)
    touches, touched = touches_of(events, place, links, vocabulary, items)
    credits = attribute(touches, results, rules.attribution)
    credited = np.isin(np.arange(len(item)), credits.outcome)
    named = np.flatnonzero((item >= 0) & (credited | rules.organic))
    by_family = results.item[credits.outcome] == 0
    whose, what = credits.outcome[by_family], touched[credits.touch[by_family]]
    rows = np.concatenate((named, whose))
    unknown, lost = (results.item != 0) & (item < 0), (results.item == 0) & ~credited
    return Conversions(
        [names[row] for row in rows.tolist()],
        np.concatenate((item[named], what)).astype(np.int32),
        results.at[rows],
        np.concatenate((np.ones(len(named)), credits.share[by_family])),
        np.repeat(np.array([BOUGHT, 0], np.uint16), [len(named), len(whose)]),
        {
            "outcomes about items that the catalogue does not have": int(unknown.sum()),
            "outcomes of a family that no display or click explains": int(lost.sum()),
        },
    )


def results_of(table: Any, place: Mapping[str, int]) -> Results:
    """Outcomes as attribution takes them; `place` numbers the subjects, all of which it has."""
    families = [0 if family is None else key32(family) for family in table["family"].to_pylist()]
    return Results(
        np.array([place[user_subject(user)] for user in table["user_id"].to_pylist()], np.uint64),
        table["item_key"].fill_null(0).to_numpy(),
        np.array(families, np.uint32),
        table["occurred_at"].to_numpy(),
        table["amount"].fill_null(1.0).to_numpy(),
    )


def touches_of(
    events: Any,
    place: Mapping[str, int],
    links: Mapping[str, str],
    vocabulary: Vocabulary,
    items: CompiledItems,
) -> tuple[Touches, NDArray[np.int32]]:
    """Displays and clicks of the subjects in `place`, linked visitors among them, and their item rows."""
    wanted = [*place, *(visitor for visitor, user in links.items() if user in place)]
    mine = pc.and_(
        pc.is_in(events["type"].cast(pa.string()), pa.array(["displayed", "clicked"])),
        pc.is_in(events["subject"].cast(pa.string()), pa.array(wanted, pa.string())),
    )
    some = events.filter(mine)
    row = vocabulary.rows_of_keys(some["item_key"].fill_null(0).to_numpy())
    some, row = some.filter(pa.array(row >= 0)), row[row >= 0]
    subjects = (links.get(name, name) for name in some["subject"].to_pylist())
    return Touches(
        np.fromiter((place[name] for name in subjects), np.uint64, len(row)),
        some["item_key"].to_numpy(),
        items.table["category"][row],
        some["at"].to_numpy(),
        np.array([WHAT[name] for name in some["type"].to_pylist()], np.uint8),
        some["channel"].fill_null(0).to_numpy(),
    ), row


def without_repeated(
    found: Conversions, user: NDArray[np.int32], events: Interactions, n_items: int
) -> NDArray[np.bool_]:
    """Which conversions the app did not report itself. `user`: the customers' rows of `found`."""
    taken = events.take(events.taken)
    cell, at = taken.user.astype(np.int64) * n_items + taken.item, taken.at
    order = np.lexsort((at, cell))
    cell, at = cell[order], at[order]
    wanted = user.astype(np.int64) * n_items + found.item
    fresh = np.ones(len(wanted), np.bool_)
    low, high = np.searchsorted(cell, wanted), np.searchsorted(cell, wanted, side="right")
    for one in np.flatnonzero(high > low).tolist():
        gap = np.abs(at[low[one] : high[one]] - found.at[one])
        fresh[one] = bool(gap.min() > SAME_PURCHASE_S)
    return fresh
