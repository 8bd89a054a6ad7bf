"""The lake as a study of uplift: clicks on benefits and what followed, and who buys by themselves.

Every customer's columns are as of the study's first instant: behaviour after it is not among them. (Facts
that the customers' table states are today's: the lake keeps no older ones.) No click was decided by chance:
clicks tell who buys anyway and who is persuaded. Whom campaigns of benefits held out (`uplift_ghosts`), and
whom they were shown to, are the study's trial, which tells whether that is what displays bring; without
ghosts the shift of clickers is told by the clicks alone.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from features.aggregate import fill, user_features
from features.events import WHAT, action_code
from features.ids import KIND_CODE, key32, user_subject
from features.transforms import DAY
from features.views import TAG_BITS
from serving.uplift import columns_of
from training.dataset import Dataset
from training.lake import Lake
from training.profiles import Profiles, as_served
from training.results import OutcomeRules, reported
from training.uplift import HORIZON_S, MOST_PAGES, Study, first_of
from training.uplift_ghosts import Draws, draws_of

pc: Any = pyarrow.compute
LONGEST_S: Final = 28 * DAY  # of clicks that are looked at
SHORTEST_S: Final = 3 * DAY
_READ: Final = ("type", "subject", "item_key", "action", "at")
_TYPES: Final = ("displayed", "clicked", "dismissed", "converted", "acted")


class Told(NamedTuple):
    """Events or outcomes, parallel columns: rows of users and items (−1 unknown), what, when."""

    user: NDArray[Any]
    item: NDArray[Any]
    what: NDArray[Any]  # events.WHAT
    action: NDArray[Any]  # events.action_code
    at: NDArray[Any]  # POSIX seconds
    group: NDArray[Any]  # key32 of the family or the item's top category, 0 unknown

    def take(self, rows: NDArray[np.bool_]) -> Told:
        return Told(*(column[rows] for column in self))


def study_of(lake: Lake, dataset: Dataset, rules: OutcomeRules, *, seed: int = 0) -> Study | None:
    """None where there are no benefits, or too few days to see what comes of a click."""
    items = dataset.compiled.table
    benefit = np.flatnonzero(items["kind"] == KIND_CODE["benefit"])
    events = _events(lake, dataset)
    until = dataset.now - HORIZON_S
    start = max(float(events.at.min(initial=dataset.now)), until - LONGEST_S)
    if not len(benefit) or until - start < SHORTEST_S:
        return None
    groups = np.unique(items["top_category"][benefit])
    bought = joined((_purchases(events), _outcomes(lake, dataset, rules)))
    clicks = events.take((events.what == WHAT["clicked"]) & np.isin(events.item, benefit))
    clicks = clicks.take((clicks.at >= start) & (clicks.at < until))
    people = np.arange(dataset.n_users)
    if len(people) > MOST_PAGES:
        people = np.sort(np.random.default_rng(seed).choice(people, MOST_PAGES, replace=False))
    user = np.concatenate([people, clicks.user])
    at = np.concatenate([np.full(len(people), start), clicks.at])
    item = np.concatenate([np.full(len(people), -1), np.searchsorted(benefit, clicks.item)])
    quiet = item < 0
    columns = _columns(dataset, events, start, np.arange(TAG_BITS))
    fresh = first_of(clicks.user * len(groups) + np.searchsorted(groups, clicks.group), clicks.at)
    found = Study(
        columns=columns[user],
        interest=np.zeros((len(user), len(benefit)), np.float32),  # chance decided no click: it is not read
        tags=np.arange(TAG_BITS),
        item=item,
        clicked=item >= 0,
        used=np.concatenate([np.zeros(len(people), np.bool_), _used(clicks, bought, dataset.n_items)]),
        fresh=np.concatenate([np.zeros(len(people), np.bool_), fresh]),
        bought=np.stack([_bought(user, at, bought, group) for group in groups.tolist()], axis=1),
        chance=None,
        quiet=quiet,
        keys=items["key"][benefit],
        kinds=items["kind"][benefit],
        group=np.searchsorted(groups, items["top_category"][benefit]),
        groups=groups,
    )
    users = {subject: row for row, subject in enumerate(dataset.subjects)}
    known_from = np.full(dataset.n_users, np.inf)
    np.minimum.at(known_from, dataset.interactions.user, dataset.interactions.at)
    draws = draws_of(lake, users, known_from, found.keys, since=start, until=until, seed=seed)
    return (
        found
        if draws is None
        else found._replace(trial=_trial(found, draws, columns, events, bought, benefit))
    )


def _trial(
    study: Study,
    draws: Draws,
    columns: NDArray[np.float32],
    events: Told,
    bought: Told,
    benefit: NDArray[np.int64],
) -> Study:
    """Each page with one item or, of who was held out, with none; what was clicked and bought after it."""
    n, rows = len(draws.item), np.arange(len(draws.item))
    clicks = events.take(events.what == WHAT["clicked"])
    chance = np.zeros((n, len(benefit)), np.float32)
    chance[rows, draws.item] = draws.chance
    cells, of = draws.user * (len(benefit) + 1) + draws.item, np.searchsorted(benefit, clicks.item)
    mine = np.isin(clicks.item, benefit)
    clicked = within(
        cells, draws.at, (clicks.user * (len(benefit) + 1) + of)[mine], clicks.at[mine], HORIZON_S
    )
    each = [_bought(draws.user, draws.at, bought, group) for group in study.groups.tolist()]
    none = np.zeros(n, np.bool_)
    return study._replace(
        columns=columns[draws.user],
        interest=np.zeros((n, len(benefit)), np.float32),  # as of the study: nobody's is known
        item=np.where(draws.shown, draws.item, -1),
        clicked=clicked,
        used=none,
        fresh=none,
        bought=np.stack(each, axis=1),
        chance=chance,
        quiet=none,
    )


def last_before(
    cells: NDArray[np.int64], times: NDArray[np.float64], of: NDArray[np.int64], at: NDArray[np.float64]
) -> NDArray[np.int64]:
    """For each (of, at): the last of (cells, times), which are in order, of the cell, not later; −1."""
    origin = min(times.min(initial=np.inf), at.min(initial=np.inf))
    span = max(times.max(initial=-np.inf), at.max(initial=-np.inf)) - origin + 1.0
    place = np.searchsorted(cells * span + (times - origin), of * span + (at - origin), side="right") - 1
    found: NDArray[np.int64] = np.where((place >= 0) & (cells[np.maximum(place, 0)] == of), place, -1)
    return found


def within(
    cells: NDArray[np.int64],
    times: NDArray[np.float64],
    of: NDArray[np.int64],
    at: NDArray[np.float64],
    horizon: float,
) -> NDArray[np.bool_]:
    """(cells,) whether one of (of, at) is of the same cell and in (time, time + horizon]."""
    if not len(times) or not len(at):
        return np.zeros(len(times), np.bool_)
    origin = times.min()
    span = times.max() - origin + 2 * horizon + DAY
    near = (at > origin) & (at <= times.max() + horizon)
    keys = np.sort(of[near] * span + (at[near] - origin))
    begins = cells * span + (times - origin)
    found: NDArray[np.bool_] = np.searchsorted(keys, begins + horizon, "right") > np.searchsorted(
        keys, begins, "right"
    )
    return found


def joined(parts: tuple[Told, ...]) -> Told:
    return Told(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _events(lake: Lake, dataset: Dataset) -> Told:
    table: Any = lake.events(until=float(np.nextafter(dataset.now, np.inf)), columns=_READ)
    table = table.filter(pc.is_in(table["type"].cast(pa.string()), pa.array(_TYPES)))
    place = {subject: row for row, subject in enumerate(dataset.subjects)}
    item = dataset.items.rows_of_keys(table["item_key"].fill_null(0).to_numpy()).astype(np.int64)
    told = Told(
        _coded(table["subject"], lambda name: place.get(name, -1)).astype(np.int64),
        item,
        _coded(table["type"], lambda name: WHAT[name]).astype(np.uint8),
        _coded(table["action"], lambda name: action_code(name) if name else 0).astype(np.uint16),
        table["at"].to_numpy(),
        _tops(dataset, item),
    )
    return told.take(told.user >= 0)


def _outcomes(lake: Lake, dataset: Dataset, rules: OutcomeRules) -> Told:
    table = reported(lake, rules, dataset.now)
    place = {subject: row for row, subject in enumerate(dataset.subjects)}
    item = dataset.items.rows_of_keys(table["item_key"].fill_null(0).to_numpy()).astype(np.int64)
    family = np.array([key32(one) if one else 0 for one in table["family"].to_pylist()], np.uint32)
    told = Told(
        np.array([place.get(user_subject(one), -1) for one in table["user_id"].to_pylist()], np.int64),
        item,
        np.full(len(item), WHAT["converted"], np.uint8),
        np.zeros(len(item), np.uint16),
        table["occurred_at"].to_numpy(),
        np.where(item >= 0, _tops(dataset, item), family).astype(np.uint32),
    )
    return told.take(told.user >= 0)


def _purchases(events: Told) -> Told:
    bought = (events.what == WHAT["acted"]) & (events.action == action_code("purchased"))
    return events.take((events.what == WHAT["converted"]) | bought)


def _tops(dataset: Dataset, item: NDArray[np.int64]) -> NDArray[np.uint32]:
    found: NDArray[np.uint32] = np.append(dataset.compiled.table["top_category"], np.uint32(0))[item]
    return found


def _columns(dataset: Dataset, events: Told, start: float, tags: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n_users, columns) as of `start`, of those who refused profiling nothing."""
    records, known = dataset.profiles.records.copy(), dataset.profiles.known.copy()
    kinds = np.append(dataset.kinds, np.uint8(255))
    before = {
        "user_index": events.user.astype(np.int32),
        "item_key": np.append(dataset.compiled.table["key"], np.uint64(0))[events.item],
        "kind": kinds[events.item],
        "what": events.what,
        "action": events.action,
        "at": events.at,
    }
    fill(records, known, user_features(before, dataset.n_users, as_of=start, weights=dataset.weights))
    served = as_served(Profiles(records, known))
    return columns_of(served.records, served.known, tags)


def _used(clicks: Told, bought: Told, n_items: int) -> NDArray[np.bool_]:
    """Of each click, whether a use is credited to it: the last click on the item before it."""
    used = np.zeros(len(clicks.at), np.bool_)
    cell = clicks.user * n_items + clicks.item
    order = np.lexsort((clicks.at, cell))
    named = bought.take(bought.item >= 0)
    place = last_before(cell[order], clicks.at[order], named.user * n_items + named.item, named.at)
    near = place >= 0
    near[near] = named.at[near] <= clicks.at[order][place[near]] + HORIZON_S
    used[order[place[near]]] = True
    return used


def _bought(user: NDArray[np.int64], at: NDArray[np.float64], bought: Told, group: int) -> NDArray[np.bool_]:
    mine = bought.take(bought.group == group)
    return within(user, at, mine.user, mine.at, HORIZON_S)


def _coded(column: Any, code: Any) -> NDArray[Any]:
    coded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    table = np.array([code(name) for name in coded.dictionary.to_pylist()] + [0])
    indices = pc.fill_null(coded.indices, len(table) - 1)
    found: NDArray[Any] = table[indices.to_numpy(zero_copy_only=False).astype(np.int64)]
    return found
