"""Events -> records: the only definition of each aggregated feature. Pure, vectorised, exact.

Events are columns of one length n: `user_index` i4 (row of the customer, -1 none), `item_key` u8 (0 none),
`kind` u1 (code of the item's kind, others: none), `what` u1, `action` u2, `at` f8 (POSIX seconds). What
happened after the watermark `as_of` does not count. Decayed weights are rounded to multiples of 2**-24, so
that sums are exact and the order of events does not change a bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.events import WHAT
from features.ids import KINDS
from features.schema import Records
from features.transforms import DAY, EventWeights
from features.views import AGGREGATED_FIELDS, ITEM_STATS, PROFILE

Events = Mapping[str, NDArray[Any]]

EVENT_COLUMNS: Final = ("user_index", "item_key", "kind", "what", "action", "at")
USER_DTYPE: Final = np.dtype([(name, PROFILE.dtype[name]) for name in AGGREGATED_FIELDS])
ITEM_HALF_LIFE_DAYS: Final = 14.0

_BEHAVIOUR: Final = tuple(WHAT[name] for name in ("displayed", "clicked", "dismissed", "converted", "acted"))
_GRAIN: Final = 2.0**24


def user_features(
    events: Events, n: int, *, as_of: float, weights: EventWeights | None = None
) -> NDArray[np.void]:
    """The aggregated PROFILE fields of `n` customers: `USER_DTYPE`. Raises ValueError for ragged columns."""
    columns = _until(events, as_of)
    user, what, at = columns["user_index"], columns["what"], columns["at"]
    inside = (user >= 0) & (user < n) & np.isin(what, _BEHAVIOUR)
    columns = {name: column[inside] for name, column in columns.items()}
    user, what, at = columns["user_index"], columns["what"], columns["at"]
    result = np.zeros(n, USER_DTYPE)
    result["kind_affinity"] = _kind_affinity(columns, n, as_of, weights or EventWeights())
    for name, event, days in _COUNTED:
        counted = (what == WHAT[event]) & (at > as_of - days * DAY)
        result[name] = np.bincount(user[counted], minlength=n)
    result["active_days_30d"] = _active_days(user, at, n, as_of - 30 * DAY)
    last = np.zeros(n)
    np.maximum.at(last, user, at)
    result["last_active"] = last
    return result


_COUNTED: Final = (
    ("clicks_30d", "clicked", 30),
    ("displays_30d", "displayed", 30),
    ("conversions_90d", "converted", 90),
)


def fill(records: Records, known: NDArray[np.uint64], features: NDArray[np.void]) -> None:
    """Write aggregated features into profiles, in place, and mark them known."""
    for name in AGGREGATED_FIELDS:
        records[name] = features[name]
    known |= np.uint64(PROFILE.mask(AGGREGATED_FIELDS))


def item_stats(
    events: Events,
    keys: NDArray[np.uint64],
    *,
    as_of: float,
    weights: EventWeights | None = None,
    half_life_days: float = ITEM_HALF_LIFE_DAYS,
) -> Records:
    """ITEM_STATS of the items with these distinct keys, in their order; events of others are left out."""
    columns = _until(events, as_of)
    item = _positions(columns["item_key"], keys)
    held = (item >= 0) & np.isin(columns["what"], _BEHAVIOUR)
    columns, item = {name: column[held] for name, column in columns.items()}, item[held]
    what, at, n = columns["what"], columns["at"], len(keys)
    faded = _grains(np.exp2((as_of - at) * (-1.0 / (DAY * half_life_days))))
    result = ITEM_STATS.blank(n)
    for name, event in _FADED:
        counted = what == WHAT[event]
        result[name] = np.bincount(item[counted], faded[counted], n)
    positive = (weights or EventWeights()).of(what, columns["action"]) > 0
    result["interactions"] = np.bincount(item[positive], minlength=n)
    by = positive & (columns["user_index"] >= 0)
    result["users"] = _distinct(item[by], columns["user_index"][by], n)
    first, last = np.full(n, np.inf), np.zeros(n)
    np.minimum.at(first, item, at)
    np.maximum.at(last, item, at)
    result["first_seen"], result["last_seen"] = np.where(np.isinf(first), 0.0, first), last
    return result


_FADED: Final = (
    ("displays", "displayed"),
    ("clicks", "clicked"),
    ("conversions", "converted"),
    ("dismissals", "dismissed"),
)


def _until(events: Events, as_of: float) -> dict[str, NDArray[Any]]:
    sizes = {name: len(events[name]) for name in EVENT_COLUMNS}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"event columns differ in length: {sizes}")
    counted = events["at"] <= as_of
    return {name: events[name][counted] for name in EVENT_COLUMNS}


def _kind_affinity(columns: Events, n: int, as_of: float, weights: EventWeights) -> NDArray[np.float64]:
    """(n, kinds): each kind's share of the decayed positive weight; all 0 without any."""
    gain = weights.decayed(columns["what"], columns["action"], columns["at"], as_of)
    kinds = len(KINDS)
    counted = (gain > 0) & (columns["kind"] < kinds)
    cell = columns["user_index"][counted].astype(np.int64) * kinds + columns["kind"][counted]
    total = np.bincount(cell, _grains(gain[counted]), n * kinds).reshape(n, kinds)
    everything = total.sum(axis=1, keepdims=True)
    share: NDArray[np.float64] = total / np.where(everything > 0, everything, 1.0)
    return share


def _active_days(user: NDArray[np.int32], at: NDArray[np.float64], n: int, since: float) -> NDArray[np.int64]:
    late = at > since
    return _distinct(user[late], np.floor(at[late] / DAY).astype(np.int64), n)


def _distinct(group: NDArray[Any], value: NDArray[Any], n: int) -> NDArray[np.int64]:
    """How many distinct values (not negative) each of `n` groups has."""
    if not len(group):
        return np.zeros(n, np.int64)
    lowest = int(value.min())
    span = int(value.max()) - lowest + 1
    pairs = np.unique(group.astype(np.int64) * span + (value - lowest))
    return np.bincount(pairs // span, minlength=n)


def _positions(values: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where each value stands in `keys`, -1 where it does not."""
    if not len(keys):
        return np.full(len(values), -1, np.int64)
    order = np.argsort(keys, kind="stable")
    place = np.minimum(np.searchsorted(keys, values, sorter=order), len(keys) - 1)
    return np.where(keys[order[place]] == values, order[place], -1)


def _grains(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    rounded: NDArray[np.float64] = np.rint(weight * _GRAIN) / _GRAIN
    return rounded
