"""What the lake knows of every customer, as columns at any moment: lifecycle models' features and labels.

Events and outcomes are read once. `Past.features(at)` looks at nothing later than `at`, except facts of the
customers' table, of which the lake keeps today's only; `features.aggregate` makes the profile's aggregates,
the same code as in service.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.aggregate import fill, user_features
from features.events import WHAT, action_code
from features.ids import KIND_CODE, Vocabulary, user_subject
from features.transforms import DAY
from serving.catalogue import CompiledItems, compile_items, parse_item
from serving.uplift import COLUMNS, columns_of
from training.cells import pc
from training.lake import Lake
from training.profiles import USER_ID, Profiles, as_served, profile_records
from training.results import OutcomeRules, reported
from training.source import DataError

MOST_FAMILIES: Final = 12
LONG_AGO: Final = 400.0  # days
DAYS: Final = (7, 30, 90)
MOST_GRACE: Final = 3 * DAY
FUNCTION: Final = KIND_CODE["function"]
BENEFIT: Final = KIND_CODE["benefit"]
_READ: Final = ("type", "subject", "item_key", "action", "at", "received_at")
_COLUMNS: Final = ("user", "item", "what", "action", "at", "arrived", "bought")
_TYPES: Final = ("displayed", "clicked", "dismissed", "converted", "acted")
_BOUGHT: Final = action_code("purchased")

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Past:
    """Columns over what happened, in order of time: `user` and `item` rows (-1: no item), `what` of
    `features.events.WHAT`, `action`, `at` POSIX seconds, `arrived` when it was known; `bought`: purchases,
    the bank's own reports too.
    """

    ids: tuple[str, ...]
    items: Vocabulary
    compiled: CompiledItems
    profiles: Profiles
    families: tuple[str, ...]
    family_of: NDArray[np.int64]  # (items + 1,) place among `families`, -1 for others and for no item
    user: NDArray[np.int64]
    item: NDArray[np.int64]
    what: NDArray[np.uint8]
    action: NDArray[np.uint16]
    at: Floats
    arrived: Floats
    bought: Mask
    now: float

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def kind(self) -> NDArray[np.int64]:
        """(events,) code of the item's kind, 255 for none."""
        kinds = np.append(self.compiled.table["kind"].astype(np.int64), 255)
        found: NDArray[np.int64] = kinds[self.item]
        return found

    @cached_property
    def family(self) -> NDArray[np.int64]:
        """(events,) place of the item's product family, -1 for none."""
        found: NDArray[np.int64] = self.family_of[self.item]
        return found

    def between(self, since: float, until: float) -> Mask:
        """(events,) those with since < at <= until."""
        return (self.at > since) & (self.at <= until)

    def count(self, which: Mask) -> Floats:
        """(customers,) how many of these events each has."""
        return np.bincount(self.user[which], minlength=len(self)).astype(np.float64)

    def days_active(self, since: float, until: float) -> Floats:
        """(customers,) distinct days with anything."""
        some = self.between(since, until)
        day = ((until - self.at[some]) // DAY).astype(np.int64)
        width = int(day.max(initial=0)) + 1
        cell = np.unique(self.user[some] * width + day)
        return np.bincount(cell // width, minlength=len(self)).astype(np.float64)

    def since_last(self, which: Mask, at: float) -> Floats:
        """(customers,) days from each one's last of these events to `at`; LONG_AGO where there is none."""
        last = np.full(len(self), -np.inf)
        np.maximum.at(last, self.user[which], self.at[which])
        return np.minimum((at - last) / DAY, LONG_AGO)

    def known_at(self, at: float, back: float = np.inf) -> Past:
        """With what had arrived by then alone, as what is late is late for a model in service too, and
        nothing older than `back` seconds: a young lake would else know less of its earlier moments.
        """
        held = (self.arrived <= at) & (self.at <= at) & (self.at > at - back)
        columns = {name: getattr(self, name)[held] for name in _COLUMNS}
        return replace(self, **columns)

    @cached_property
    def grace(self) -> float:
        """Seconds after which nearly all of what happened has arrived; at most three days."""
        delay = self.arrived - self.at
        return float(np.clip(np.quantile(delay, 0.995), 0.0, MOST_GRACE))

    def features(self, at: float) -> NDArray[np.float32]:
        """(customers, `names`) f4 as of `at`, of a past that is `known_at` it; NaN where a fact is not known,
        or may not be looked at.
        """
        before = self.between(-np.inf, at)
        columns = [
            *self._profile(at).T, *self._recency(before, at), *self._counts(at), *self._families(before, at),
            self._level(),
        ]  # fmt: skip
        found = np.stack(columns, axis=1).astype(np.float32)
        found[self.refused] = np.nan
        return found

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the features, in their order."""
        counts = [f"{name}_{days}d" for days in DAYS for name in ("active", "acts", "clicks", "bought")]
        families = [f"{name}_{family}" for family in self.families for name in ("bought", "looked", "rests")]
        return (
            *COLUMNS, "since_seen", "since_act", "since_click", "since_bought", *counts, "trend",
            *families, "families_held", "to_next_level",
        )  # fmt: skip

    @cached_property
    def refused(self) -> Mask:
        """(customers,) who refused profiling: nothing is foretold of them."""
        found: Mask = np.asarray(self.profiles.records["profiling"] == 0)
        return found

    def _profile(self, at: float) -> NDArray[np.float32]:
        records, known = self.profiles.records.copy(), self.profiles.known.copy()
        keys = np.append(self.compiled.table["key"], np.uint64(0))
        events = {
            "user_index": self.user.astype(np.int32), "item_key": keys[self.item],
            "kind": self.kind.astype(np.uint8), "what": self.what, "action": self.action, "at": self.at,
        }  # fmt: skip
        fill(records, known, user_features(events, len(self), as_of=at))
        records["tenure_days"] = np.maximum(records["tenure_days"] - (self.now - at) / DAY, 0)
        served = as_served(Profiles(records, known))
        return columns_of(served.records, served.known, np.zeros(0, np.int64))

    def _recency(self, before: Mask, at: float) -> list[Floats]:
        acts, clicks = self.what == WHAT["acted"], self.what == WHAT["clicked"]
        which = (before, before & acts, before & clicks, before & self.bought)
        return [np.log1p(self.since_last(one, at)) for one in which]

    def _counts(self, at: float) -> list[Floats]:
        found: list[Floats] = []
        for days in DAYS:
            since = at - days * DAY
            some = self.between(since, at)
            found += [
                self.days_active(since, at), np.log1p(self.count(some & (self.what == WHAT["acted"]))),
                np.log1p(self.count(some & (self.what == WHAT["clicked"]))),
                np.log1p(self.count(some & self.bought)),
            ]  # fmt: skip
        month, before = self.days_active(at - 30 * DAY, at), self.days_active(at - 60 * DAY, at - 30 * DAY)
        return [*found, np.log((month + 1) / (before + 1))]

    def _families(self, before: Mask, at: float) -> list[Floats]:
        """Of each product family purchases, looks of 90 days and rest since the last purchase; how many."""
        found: list[Floats] = []
        held = np.zeros(len(self))
        looked = before & (self.at > at - 90 * DAY) & ~self.bought & (self.what != WHAT["displayed"])
        for place in range(len(self.families)):
            mine = self.family == place
            bought = self.count(before & mine & self.bought)
            held += bought > 0
            rest = self.since_last(before & mine & self.bought, at)
            found += [np.log1p(bought), np.log1p(self.count(looked & mine)), np.log1p(rest)]
        return [*found, held]

    def _level(self) -> Floats:
        """Log of what assets lack to the next customer level; NaN at the highest, or where not known."""
        level, assets = self.profiles.records["star_level"], self.profiles.records["assets"].astype(float)
        return to_next_level(level.astype(np.int64), assets)


def to_next_level(level: NDArray[np.int64], assets: Floats) -> Floats:
    """(n,) log1p of the CNY missing to the next level, whose bound is the 2nd percentile of who has it."""
    found = np.full(len(level), np.nan)
    levels = [int(one) for one in np.unique(level) if one > 0]
    for here, above in pairwise(levels):
        bound = float(np.quantile(assets[level == above], 0.02))
        mine = level == here
        found[mine] = np.log1p(np.maximum(bound - assets[mine], 0))
    return found


def past_of(lake: Lake, *, rules: OutcomeRules | None = None) -> Past:
    """Everything in the lake. Raises DataError where it names no customer."""
    compiled = compile_items([parse_item(raw) for raw in lake.read_items()])
    vocabulary = Vocabulary(compiled.ids)
    table: Any = lake.events(columns=_READ)
    table = table.filter(pc.is_in(table["type"].cast(pa.string()), pa.array(_TYPES)))
    users = lake.read_users()
    named = [] if users is None else [str(one) for one in users[USER_ID].to_pylist()]
    subjects = table["subject"].cast(pa.string()).combine_chunks().dictionary_encode()
    known = [name[2:] for name in subjects.dictionary.to_pylist() if name and name.startswith("u:")]
    ids = tuple(sorted({*named, *known}))
    if not ids or not table.num_rows:
        raise DataError("the lake", None, None, "knows no customer's events", "Import or ingest events first")
    place = {user_subject(name): row for row, name in enumerate(ids)}
    user = np.array([place.get(name, -1) for name in subjects.dictionary.to_pylist()] + [-1], np.int64)
    user = user[subjects.indices.fill_null(len(user) - 1).to_numpy(zero_copy_only=False)]
    what = _coded(table["type"], lambda name: WHAT[name])
    action = _coded(table["action"], lambda name: action_code(name) if name else 0)
    item = vocabulary.rows_of_keys(table["item_key"].fill_null(0).to_numpy()).astype(np.int64)
    at = table["at"].to_numpy()
    now = float(at.max())
    told = reported(lake, rules or OutcomeRules(), now)
    theirs = np.array([place.get(user_subject(one), -1) for one in told["user_id"].to_pylist()], np.int64)
    bank = vocabulary.rows_of_keys(told["item_key"].fill_null(0).to_numpy()).astype(np.int64)
    n = len(theirs)
    pairs = (
        (user, theirs), (item, bank), (what, np.full(n, WHAT["converted"])), (action, np.zeros(n, np.int64)),
        (at, told["occurred_at"].to_numpy()), (_arrived(table), _arrived(told, "occurred_at")),
    )  # fmt: skip
    columns = [np.concatenate(pair) for pair in pairs]
    order = np.argsort(columns[4], kind="stable")
    order = order[columns[0][order] >= 0]
    user, item, what, action, at, arrived = (column[order] for column in columns)
    bought = (what == WHAT["converted"]) | ((what == WHAT["acted"]) & (action == _BOUGHT))
    families, family_of = _families_of(lake, compiled, item[bought])
    return Past(
        ids, vocabulary, compiled, profile_records(users, ids), families, family_of, user, item,
        what.astype(np.uint8), action.astype(np.uint16), at, arrived, bought, now,
    )  # fmt: skip


def _arrived(table: Any, happened: str = "at") -> Floats:
    """When each row was known; when it happened, where most came late: that is an import of what was."""
    at, received = table[happened].to_numpy(), table["received_at"].to_numpy()
    late = np.nan_to_num(received - at, nan=0.0)
    if len(late) and float(np.median(late)) > MOST_GRACE:
        return np.asarray(at, np.float64)
    found: Floats = np.maximum(np.nan_to_num(received, nan=0.0), at)
    return found


def _families_of(
    lake: Lake, compiled: CompiledItems, bought: NDArray[np.int64]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The product families most bought: top categories of items of kind product."""
    names = {str(item["id"]): str(item.get("category") or "").partition("/")[0] for item in lake.read_items()}
    product = compiled.table["kind"] == KIND_CODE["product"]
    mine = [names.get(one, "") if yes else "" for one, yes in zip(compiled.ids, product, strict=True)]
    sold = np.bincount(bought[bought >= 0], minlength=len(mine))
    total: dict[str, int] = {}
    for name, count in zip(mine, sold.tolist(), strict=True):
        if name:
            total[name] = total.get(name, 0) + count
    chosen = tuple(sorted(sorted(total, key=lambda name: (-total[name], name))[:MOST_FAMILIES]))
    return chosen, np.array([*(chosen.index(one) if one in chosen else -1 for one in mine), -1], np.int64)


def _coded(column: Any, code: Any) -> NDArray[np.int64]:
    coded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    table = np.array([*(code(name) for name in coded.dictionary.to_pylist()), 0], np.int64)
    found: NDArray[np.int64] = table[coded.indices.fill_null(len(table) - 1).to_numpy(zero_copy_only=False)]
    return found
