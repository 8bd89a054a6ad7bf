"""Checked columns -> the lake's event table; and what an event type may be called in the files of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.events import WHAT, action_code
from features.ids import BadId, check_id, key32, keys64, user_subject
from features.transforms import EventWeights
from training.cells import arrow, pc
from training.columns import Codes
from training.lake import EVENT_COLUMNS
from training.source import MARKS, Mask

IMPORTABLE: Final = ("displayed", "clicked", "dismissed", "converted")
WITHOUT_ITEM: Final = frozenset({"login", "searched", "transferred", "complained"})
_CALLED: Final = {
    "displayed": "display impression impressions exposure exposed show shown",
    "clicked": "click clicks clk",
    "dismissed": "dismiss dislike disliked hide hidden close",
    "converted": "convert conversion redeem redeemed redemption apply applied subscribe",
    "viewed": "view views pv pageview page_view detail browse visit read",
    "purchased": "buy bought purchase purchases order ordered transaction pay paid",
    "added": "add cart add_to_cart addtocart favorite favourite fav like liked collect wishlist save",
    "rated": "rate rating",
    "played": "play plays listen listened watch watched stream",
    "searched": "search query",
    "transferred": "transfer",
    "complained": "complain complaint",
    "login": "log_in signin",
}
_BY_NAME: Final = {word: name for name, words in _CALLED.items() for word in (name, *words.split())}


@dataclass(frozen=True, slots=True)
class Type:
    """What an event is: a type of PRODUCT's events and, for `acted`, the action."""

    what: str
    action: str | None = None


def event_type(text: str, types: Mapping[str, str]) -> Type | None:
    """The type behind a name, by `types` first, then by common usage; `acted:NAME` is any action. None: not
    known.
    """
    name = types.get(text, text).strip()
    if name.startswith("acted:"):
        return _action(name.removeprefix("acted:"))
    known = _BY_NAME.get(name.casefold().replace(" ", "_").replace("-", "_"))
    if known is None:
        return None
    return Type(known) if known in IMPORTABLE else Type("acted", known)


def _action(name: str) -> Type | None:
    try:
        return Type("acted", check_id(name, "action"))
    except BadId:
        return None


@dataclass(frozen=True, slots=True)
class EventRows:
    """Events as columns of the same length; `kinds[kind]` is a row's type, `mark` a position in MARKS.

    `at` is POSIX seconds. `item` may hold -1: an event without an item. `event_id` None: ids are made from
    the content.
    """

    user: Codes
    item: Codes
    kinds: tuple[Type, ...]
    kind: NDArray[np.int32]
    at: NDArray[np.float64]
    mark: NDArray[np.uint8]
    weight: NDArray[np.float64] | None = None
    amount: NDArray[np.float64] | None = None
    channel: NDArray[np.uint8] | None = None
    event_id: Any = None

    def __len__(self) -> int:
        return len(self.at)

    def take(self, rows: Mask) -> EventRows:
        def cut(column: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if column is None else column[rows]

        return EventRows(
            self.user.taken(rows),
            self.item.taken(rows),
            self.kinds,
            self.kind[rows],
            self.at[rows],
            self.mark[rows],
            cut(self.weight),
            cut(self.amount),
            cut(self.channel),
            None if self.event_id is None else self.event_id.filter(pa.array(rows)),
        )

    def positive(self) -> Mask:
        """Rows that say somebody likes an item."""
        what = np.array([WHAT[kind.what] for kind in self.kinds], np.uint8)
        action = np.array([action_code(kind.action) if kind.action else 0 for kind in self.kinds], np.uint16)
        return np.asarray((EventWeights().of(what, action) > 0)[self.kind] & (self.item.codes >= 0))


def to_table(rows: EventRows, *, name: str, now: float) -> pa.Table:
    """The rows in the lake's columns, ordered by time (equal times in the given order). `now`: when they
    were received.
    """
    n = len(rows)
    keys = np.append(keys64(rows.item.values), np.uint64(0))
    subjects = Codes(tuple(user_subject(user) for user in rows.user.values), rows.user.codes)
    item = rows.item.text()
    marks = tuple(f"{name}:{mark}" if mark else name for mark in MARKS)
    ids = made_ids(rows, name) if rows.event_id is None else rows.event_id
    columns: dict[str, Any] = {
        "event_id": ids,
        "type": _dictionary(rows.kind, [kind.what for kind in rows.kinds]),
        "occurred_at": rows.at,
        "received_at": np.full(n, now),
        "at": np.minimum(rows.at, now),
        "subject": subjects.text(),
        "user_id": rows.user.text(),
        "item_key": pa.array(keys[rows.item.codes], mask=rows.item.codes < 0),
        "item_id": item,
        "action": _dictionary(rows.kind, [kind.action for kind in rows.kinds]),
        "channel": np.zeros(n, np.uint8) if rows.channel is None else rows.channel,
        "late": np.zeros(n, np.bool_),
        "source": _dictionary(rows.mark.astype(np.int32), marks),
    }
    if rows.weight is not None:
        columns["weight"] = rows.weight.astype(np.float32)
    if rows.amount is not None:
        columns["amount"] = pa.array(rows.amount, mask=np.isnan(rows.amount))
    table = _fitted(columns, n)
    in_order = bool((rows.at[1:] >= rows.at[:-1]).all())
    return table if in_order else table.take(arrow.array(np.argsort(rows.at, kind="stable")))


def _dictionary(codes: NDArray[np.int32], values: Any) -> Any:
    """Text by position in `values`, of which several may be equal, or None."""
    distinct = list(dict.fromkeys(value for value in values if value is not None))
    place = np.array([-1 if value is None else distinct.index(value) for value in values], np.int32)[codes]
    return arrow.DictionaryArray.from_arrays(pa.array(place, mask=place < 0), pa.array(distinct, pa.string()))


def _fitted(columns: Mapping[str, Any], n: int) -> pa.Table:
    arrays = []
    for name, kind in zip(EVENT_COLUMNS.names, EVENT_COLUMNS.types, strict=True):
        column = columns.get(name)
        if column is None:
            column = arrow.nulls(n, kind)
        elif not isinstance(column, pa.Array):
            column = pa.array(column)
        arrays.append(column if column.type == kind else column.cast(kind))
    return pa.Table.from_arrays(arrays, schema=EVENT_COLUMNS)


def made_ids(rows: EventRows, name: str) -> Any:
    """Event ids that follow from the content: the same row of a grown file, whatever it is called by now,
    keeps its id.

    128 bits mixed from user, item, type, the time (where a row has none, the source's name) and how many
    equal rows came before.
    """
    kinds = np.array([key32(f"{kind.what}:{kind.action}") for kind in rows.kinds], np.uint64)
    items = np.append(keys64(rows.item.values), np.uint64(0))
    undated = rows.mark == MARKS.index("undated")
    at = np.where(undated, np.uint64(key32(name)), rows.at.view(np.uint64))
    content = (keys64(rows.user.values)[rows.user.codes], items[rows.item.codes], kinds[rows.kind], at)
    first = _mixed(content, np.uint64(0))
    first = _mixed((first, _earlier(first)), np.uint64(1))
    second = _mixed((first, *content), np.uint64(2))
    numbers = [pc.cast(pa.array(part), pa.string()) for part in (first, second)]
    return pc.binary_join_element_wise("i", *numbers, "-")


def _mixed(columns: tuple[NDArray[np.uint64], ...], seed: np.uint64) -> NDArray[np.uint64]:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014) folded over the columns."""
    state = np.full(len(columns[0]), seed, np.uint64)
    for column in columns:
        state = (state ^ column) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


def _earlier(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """How many equal values stand before each."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    fresh = np.append(True, ordered[1:] != ordered[:-1])
    start = np.maximum.accumulate(np.where(fresh, np.arange(len(values)), 0))
    count = np.empty(len(values), np.uint64)
    count[order] = np.arange(len(values)) - start
    return count
