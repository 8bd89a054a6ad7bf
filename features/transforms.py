"""Request-time features over stored records and logs: the same functions online, in training, in replay.

Each function for one customer has a twin over many that gives the same numbers bit for bit; nothing here
looks at a clock: `now` is POSIX seconds, UTC.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.events import WHAT, action_code
from features.ids import key32
from features.schema import Records
from features.views import ATTRIBUTES_KEPT, PROFILE, TAG_BITS

DAY: Final = 86_400.0
_ACTED: Final = WHAT["acted"]

CODED: Final = ("age_band", "gender", "star_level", "payroll", "lifecycle", "city_tier", "segment")
EDGES: Final = {
    "assets": (1.0, 1e4, 5e4, 2e5, 6e5, 2e6, 6e6),  # CNY; a bucket begins at its edge
    "tenure_days": (30.0, 90.0, 180.0, 365.0, 1095.0, 3650.0),
}
_SAYING: Final = PROFILE.part(*CODED, *EDGES, "attributes")
_CODED_BITS: Final = tuple((name, PROFILE.bit(name), _SAYING.at[name]) for name in CODED)
_EDGE_BITS: Final = tuple((n, edges, PROFILE.bit(n), _SAYING.at[n]) for n, edges in EDGES.items())
_ATTRIBUTES: Final = PROFILE.bit("attributes")
_HELD: Final = slice(_SAYING.at["attributes"], _SAYING.at["attributes"] + ATTRIBUTES_KEPT)
_TAGS: Final = PROFILE.bit("tags")
_TAG_TOKENS: Final = np.fromiter((key32(f"tag={bit}") for bit in range(TAG_BITS)), np.uint32)
_NO_TAGS: Final = bytes(TAG_BITS // 8)
_CHUNK: Final = 16_384


@cache
def token(field_name: str, code: int) -> int:
    """The token of a profile field in a bucket: key32 of "field=bucket"."""
    return key32(f"{field_name}={code}")


def attribute_token(name: str, value: str) -> int:
    """What `attributes` holds for another categorical fact; a token as it stands."""
    return key32(f"{name}={value}")


def tokens(values: np.void, known: int) -> NDArray[np.uint32]:
    """The tokens of one profile, in a fixed order; unknown fields give none."""
    said = _SAYING.read(values)  # all at once: one field after the other would be half of the work
    found = [token(name, said[at]) for name, bit, at in _CODED_BITS if known & bit]
    found += [
        token(name, bisect_right(edges, said[at])) for name, edges, bit, at in _EDGE_BITS if known & bit
    ]
    if known & _ATTRIBUTES:
        found += [held for held in said[_HELD] if held]
    result = np.array(found, np.uint32)
    if known & _TAGS and (packed := values["tags"]).tobytes() != _NO_TAGS:
        result = np.concatenate(
            [result, _TAG_TOKENS[np.unpackbits(packed, bitorder="little").view(np.bool_)]]
        )
    return result


def tokens_many(records: Records, known: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """(indptr, tokens) of n profiles; `tokens[indptr[i]:indptr[i + 1]]` is what `tokens` gives for row i."""
    counts = [np.zeros(1, np.int64)]
    parts = [np.zeros(0, np.uint32)]
    for start in range(0, len(records), _CHUNK):
        part = slice(start, start + _CHUNK)
        table = _token_table(records[part], known[part])
        counts.append(np.count_nonzero(table, axis=1))
        parts.append(table[table != 0])
    return np.cumsum(np.concatenate(counts)), np.concatenate(parts)


def _token_table(records: Records, known: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """(n, columns) tokens, 0 where there is none; a token is never 0."""
    head = len(CODED) + len(EDGES)
    table = np.zeros((len(records), head + ATTRIBUTES_KEPT + TAG_BITS), np.uint32)
    codes = [records[name] for name in CODED]
    codes += [np.searchsorted(edges, records[name].astype("f8"), "right") for name, edges in EDGES.items()]
    for column, (name, values) in enumerate(zip((*CODED, *EDGES), codes, strict=True)):
        distinct, inverse = np.unique(values, return_inverse=True)
        of_code = np.array([token(name, code) for code in distinct.tolist()], np.uint32)
        table[:, column] = of_code[inverse]
        table[~_known(known, PROFILE.bit(name)), column] = 0
    held = slice(head, head + ATTRIBUTES_KEPT)
    table[:, held] = records["attributes"] * _known(known, _ATTRIBUTES)[:, None]
    tags = np.unpackbits(records["tags"], axis=1, bitorder="little")
    table[:, head + ATTRIBUTES_KEPT :] = tags * _TAG_TOKENS * _known(known, _TAGS)[:, None]
    return table


def _known(known: NDArray[np.uint64], bit: int) -> NDArray[np.bool_]:
    marked: NDArray[np.bool_] = (known & np.uint64(bit)) != 0
    return marked


def _default_actions() -> Mapping[str, float]:
    return {
        "viewed": 0.5,
        "searched": 0.3,
        "purchased": 4.0,
        "transferred": 1.0,
        "added": 2.0,
        "rated": 1.0,
    } | {"played": 1.0}


@dataclass(frozen=True)
class EventWeights:
    """How much one event says that a customer likes an item; negative: dislikes. Actions not named weigh 0.

    A weight halves every `half_life_days`.
    """

    clicked: float = 1.0
    converted: float = 4.0
    dismissed: float = -1.0
    acted: Mapping[str, float] = field(default_factory=_default_actions)
    half_life_days: float = 30.0

    def __post_init__(self) -> None:
        values = (self.clicked, self.converted, self.dismissed, *self.acted.values())
        if not np.isfinite(values).all():
            raise ValueError("event weights must be finite")
        if not 0 < self.half_life_days < float("inf"):
            raise ValueError(f"half_life_days must be positive, not {self.half_life_days}")

    def of(self, what: NDArray[np.uint8], action: NDArray[np.uint16]) -> NDArray[np.float32]:
        """The weight of each event, before decay."""
        by_what, by_action = self.tables
        return np.where(what == WHAT["acted"], by_action[action], by_what[what])

    def decayed(
        self,
        what: NDArray[np.uint8],
        action: NDArray[np.uint16],
        at: NDArray[np.float64],
        now: float,
    ) -> NDArray[np.float64]:
        """The weight of each event at `now`; an event of the future weighs as one of now."""
        from features.past import faded  # the compiler is heavy, and most of what imports this runs no loop

        return self.of(what, action).astype(np.float64) * faded(now - at, DAY * self.half_life_days)

    @cached_property
    def tables(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights by what-code (256) and by action code (65,536): a look-up instead of a search per event."""
        by_what, by_action = np.zeros(256, np.float32), np.zeros(65_536, np.float32)
        for name in ("clicked", "converted", "dismissed"):
            by_what[WHAT[name]] = getattr(self, name)
        for action, weight in self.acted.items():
            by_action[action_code(action)] = weight
        return by_what, by_action


class History(NamedTuple):
    """Items that a customer is drawn to: rows of one bundle, most recent last, and positive weights."""

    rows: NDArray[np.int32]
    weights: NDArray[np.float32]


class Histories(NamedTuple):
    """Histories of many customers, one below the other, in the order of `users`."""

    users: NDArray[np.int32]
    rows: NDArray[np.int32]
    weights: NDArray[np.float32]


NO_HISTORY: Final = History(np.zeros(0, np.int32), np.zeros(0, np.float32))

Lookup = Callable[[NDArray[np.uint64]], NDArray[np.int32]]


def history(recent: NDArray[np.void], lookup: Lookup, now: float, weights: EventWeights) -> History:
    """The history in a RECENT log. `lookup` gives rows of item keys, -1 where not known: those are left out.

    Weights of one item are decayed to `now` and summed; items whose sum is not positive are left out.
    """
    if not len(recent):
        return NO_HISTORY
    from features.past import liked

    half_life = DAY * weights.half_life_days
    return History(*liked(recent, lookup(recent["item"]), now, half_life, _ACTED, *weights.tables))


def histories(
    users: NDArray[np.int32],
    rows: NDArray[np.int32],
    what: NDArray[np.uint8],
    action: NDArray[np.uint16],
    at: NDArray[np.float64],
    now: float,
    weights: EventWeights,
) -> Histories:
    """`history` of many customers at once: columns of events, any order; negative users or rows left out."""
    held = (users >= 0) & (rows >= 0)
    users, rows, at = users[held], rows[held], at[held]
    gain = weights.decayed(what[held], action[held], at, now)
    if not len(rows):
        return Histories(np.zeros(0, np.int32), *NO_HISTORY)
    group = users.astype(np.int64) * (int(rows.max()) + 1) + rows
    last, total = _summed(group, at, gain)
    last, total = last[total > 0], total[total > 0]
    order = np.lexsort((last, at[last], users[last]))
    chosen = last[order]
    return Histories(users[chosen], rows[chosen], total[order].astype(np.float32))


def _summed(
    group: NDArray[np.int32] | NDArray[np.int64], at: NDArray[np.float64], gain: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Per distinct group: where its latest entry is, and its sum, taken in order of time."""
    order = np.lexsort((at, group))
    ordered = group[order]
    ends = np.flatnonzero(ordered[1:] != ordered[:-1])
    place = np.zeros(len(order), np.intp)
    place[ends + 1] = 1
    total = np.bincount(np.cumsum(place), gain[order]).astype(np.float64, copy=False)
    return order[np.append(ends, len(order) - 1)], total


FATIGUE_WINDOW_DAYS: Final = 7.0
FATIGUE_HALF_LIFE_DAYS: Final = 2.0
_FATIGUE_WINDOW_S: Final = FATIGUE_WINDOW_DAYS * DAY
_FATIGUE_HALF_LIFE_S: Final = FATIGUE_HALF_LIFE_DAYS * DAY


def fatigue_of(
    contact: NDArray[np.void], rows: NDArray[np.int32], lookup: Lookup, now: float
) -> NDArray[np.float32]:
    """`fatigue` of items by their `rows` (n,), ascending; `lookup` gives rows of item keys, −1 not known."""
    from features.past import tired

    codes = WHAT["displayed"], WHAT["clicked"]
    item = lookup(contact["item"])
    return tired(contact, item, rows, now, _FATIGUE_WINDOW_S, _FATIGUE_HALF_LIFE_S, *codes)


def fatigue(contact: NDArray[np.void], keys: NDArray[np.uint64], now: float) -> NDArray[np.float32]:
    """Per item key: displays in the last 7 days since its last click, each halved every 2 days."""
    from features.past import faded

    what, item = contact["what"], contact["item"]
    clicked = what == WHAT["clicked"]
    told = np.flatnonzero(clicked | ((what == WHAT["displayed"]) & (contact["at"] > now - _FATIGUE_WINDOW_S)))
    if not len(told):
        return np.zeros(len(keys), np.float32)
    told = told[np.argsort(item[told], kind="stable")]
    item, at, clicked = item[told], contact["at"][told].astype(np.float64), clicked[told]
    starts = np.concatenate(([0], np.flatnonzero(item[1:] != item[:-1]) + 1))
    last_click = np.maximum.reduceat(np.where(clicked, at, -1.0), starts)
    since = np.repeat(last_click, np.diff(starts, append=len(item)))
    left = np.where(at > since, faded(now - at, _FATIGUE_HALF_LIFE_S), 0.0)
    total = np.add.reduceat(left, starts).astype(np.float32)
    place = np.minimum(np.searchsorted(item[starts], keys), len(starts) - 1)
    return np.where(item[starts][place] == keys, total[place], np.float32(0))
