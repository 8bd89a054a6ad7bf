"""What the ranker knows of items before any customer comes: click rates freed of the place, ties, hours.

A place's draw and an item's are told apart by proportional fitting of clicks to displays x place x item (the
position-based model of Richardson et al. 2007): what stood at the top is not taken for liked. Both come from
displays before the cut that the caller chose, so that a display never explains itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from features.ids import KINDS
from features.ranking import OF_ITEM, Clock, Facts
from features.ranking_kernel import MOMENTS, OLD
from features.transforms import DAY
from serving.domain import Column

ROUNDS: Final = 12
MEAN_PLACE: Final = 0.03  # clicks per display, over places: items are measured against this, not one another
ITEM_WEIGHT: Final = 1.5  # expected clicks that an item's category counts for
CATEGORY_WEIGHT: Final = 10.0  # … and that a category's kind does
CONVERTING_WEIGHT: Final = 20.0  # clicks that a kind's conversion rate counts for
TIE_WEIGHT: Final = 0.5  # expected clicks that "no tie" counts for
OWN_WEIGHT: Final = 0.5  # … and a category's tie for its items
HOUR_WEIGHT: Final = 40.0
TIE_ROUNDS: Final = 12
TIES_S: Final = 16 * DAY  # ties are learnt from clicks of so long …
SNAPSHOT_S: Final = 4 * DAY  # … each by what its customer's interest was at most this before

Floats = NDArray[np.float64]


class Counts(NamedTuple):
    """Displays (m) to learn from, parallel: place (a code from 0), item row, answers."""

    place: NDArray[np.int64]
    item: NDArray[np.int32]
    clicked: NDArray[np.bool_]
    converted: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """`place` (P,) clicks per display of an average item; `item` (n,) how many times that it draws, shrunken;
    `expected` (n,) clicks that an average item had had in its places; `converts` (n,) per click, shrunken.
    """

    place: Floats
    item: Floats
    expected: Floats
    converts: Floats


def fit_rates(counts: Counts, places: int, category: NDArray[np.int32], kind: NDArray[np.int32]) -> Rates:
    """`category`, `kind` (n,) codes of the items. Deterministic; finite also without any display.

    Only products of place and item are found; how much is the place's is a matter of scale. It is the places
    that stay the same while what is displayed gets better: against the average item an item would draw less
    every week, and what was learnt of last month's displays would expect too little of today's.
    """
    n = len(category)
    cell = counts.place * n + counts.item
    shown = np.bincount(cell, minlength=places * n).reshape(places, n).astype(np.float64)
    clicks = np.bincount(cell, counts.clicked, places * n).reshape(places, n)
    by_place, by_item = clicks.sum(axis=1), clicks.sum(axis=0)
    overall = (clicks.sum() + 1.0) / (shown.sum() + 25.0)
    place, item, expected = np.full(places, overall), np.ones(n), np.zeros(n)
    for _ in range(ROUNDS):
        place = (by_place + overall) / (shown @ item + 1.0)
        expected = place @ shown
        item = shrunken(by_item, expected, category, kind)
    used = shown.sum(axis=1) > 0
    if used.any():
        by = float(place[used].mean()) / MEAN_PLACE
        place, item = place / by, item * by
    bought = np.bincount(counts.item, counts.converted & counts.clicked, n)
    of_kind = (np.bincount(kind, bought, len(KINDS) + 1) + 1.0) / (
        np.bincount(kind, by_item, len(KINDS) + 1) + 20.0
    )
    converts = (bought + CONVERTING_WEIGHT * of_kind[kind]) / (by_item + CONVERTING_WEIGHT)
    return Rates(place, item, expected, converts)


def shrunken(
    clicks: Floats, expected: Floats, category: NDArray[np.int32], kind: NDArray[np.int32]
) -> Floats:
    """Clicks over expected ones by item, drawn to its category's, and that to its kind's."""
    of_kind = (np.bincount(kind, clicks) + 1.0) / (np.bincount(kind, expected) + 1.0)
    kind_of = np.zeros(int(category.max(initial=0)) + 1, np.int64)
    kind_of[category] = kind
    prior = of_kind[kind_of]
    of_category = (np.bincount(category, clicks) + CATEGORY_WEIGHT * prior) / (
        np.bincount(category, expected) + CATEGORY_WEIGHT
    )
    found: Floats = (clicks + ITEM_WEIGHT * of_category[category]) / (expected + ITEM_WEIGHT)
    return found


def fit_ties(
    share: Floats,
    customer: NDArray[np.int64],
    item: NDArray[np.int32],
    clicked: NDArray[np.bool_],
    expected: Floats,
    category: NDArray[np.int32],
) -> NDArray[np.float32]:
    """(n, C) f4: how many times likelier customers of each category click on an item than anybody does.

    `share` (u, C) of customers' interest before, rows sum to at most 1 (a customer may stand there once for
    each of several moments); then displays (m) with the clicks that an average customer would have made;
    `category` (n,) of the items. Clicks are Poisson with mean expected x (what is left of 1 + share @ ties):
    maximum likelihood by multiplicative steps, an item's ties drawn to its category's, and those to 1.
    """
    width, n = share.shape[1], len(category)
    hit = np.flatnonzero(clicked)
    mine, wanted = share[customer[hit]], item[hit]
    rest = np.maximum(1.0 - mine.sum(axis=1), 0.0)
    due = _times(sparse.csr_array((expected, (item, customer)), shape=(n, len(share))), share)
    member = sparse.csr_array((np.ones(n), (category, np.arange(n))), shape=(width, n))
    due_of = _times(member, due)
    of = np.ones((width, width))
    for _ in range(TIE_ROUNDS):
        lift = of[category[wanted]]
        pull = mine / (rest + (mine * lift).sum(axis=1))[:, None]
        of = (of * _summed(pull, category[wanted], width) + TIE_WEIGHT) / (due_of + TIE_WEIGHT)
    ties = prior = of[category]
    for _ in range(TIE_ROUNDS):
        pull = mine / (rest + (mine * ties[wanted]).sum(axis=1))[:, None]
        ties = (ties * _summed(pull, wanted, n) + OWN_WEIGHT * prior) / (due + OWN_WEIGHT)
    return ties.astype(np.float32)


def _times(some: sparse.csr_array, values: Floats) -> Floats:
    """Their product, as the dense array that it is."""
    product: Any = some @ values
    found: Floats = product
    return found


def _summed(values: Floats, row: NDArray[np.int32], rows: int) -> Floats:
    """(rows, C): the sum of the values of each row."""
    picks = sparse.csr_array((np.ones(len(row)), (row, np.arange(len(row)))), shape=(rows, len(row)))
    return _times(picks, values)


def fit_hours(
    area: NDArray[np.int32], clock: Clock, clicked: NDArray[np.bool_], expected: Floats, areas: int
) -> NDArray[np.float32]:
    """(areas, MOMENTS) f4 log lifts: of the hours, then what days of the month add to them (paydays)."""
    found = np.zeros(areas * MOMENTS)
    lifted = expected
    for cell in (area * MOMENTS + clock.hour, area * MOMENTS + clock.day):
        good, due = np.bincount(cell, clicked, len(found)), np.bincount(cell, lifted, len(found))
        found += np.log((good + HOUR_WEIGHT) / (due + HOUR_WEIGHT))
        lifted = lifted * np.exp(found[cell])
    return found.reshape(areas, MOMENTS).astype(np.float32)


def snapshots(since: float, cut: float) -> Floats:
    """When customers' interest is looked at for the ties of clicks until the cut: every SNAPSHOT_S."""
    return np.arange(since, cut, SNAPSHOT_S)


def codes_of(table: NDArray[np.void]) -> NDArray[np.int32]:
    """(n, 3) dense category, area and kind of ITEM records."""
    category = np.unique(table["category"], return_inverse=True)[1]
    area = np.unique(table["top_category"], return_inverse=True)[1]
    kind = np.minimum(table["kind"], len(KINDS))
    return np.column_stack([category, area, kind]).astype(np.int32)


def facts_of(
    table: NDArray[np.void], rates: Rates, ties: NDArray[np.float32], hours: NDArray[np.float32]
) -> Facts:
    """`table` (n,) ITEM records, `rates` of the same rows."""
    codes = codes_of(table)
    columns: dict[str, Column] = {
        "kind": codes[:, 2],
        "min_amount": np.log1p(np.maximum(_known(table["min_amount"]), 0)),
        "rate": _known(table["rate"]),
        "risk_class": table["risk_class"],
        "age_days": np.where(table["published_at"] > 0, table["published_at"] / DAY, -OLD),
        "price": np.log1p(np.maximum(_known(table["price"]), 0)),
        "item_clicks": np.log(rates.item),
        "item_evidence": np.log1p(rates.expected),
        "item_conversions": np.log(rates.converts),
    }
    values = np.column_stack([columns[name] for name in OF_ITEM]).astype(np.float32)
    return Facts(np.ascontiguousarray(table["key"]), codes, values, ties, hours)


def _known(values: Column) -> Column:
    known: Column = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return known
