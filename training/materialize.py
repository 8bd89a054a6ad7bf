"""Profiles and aggregates -> PROFILE and MEMBERSHIP records -> the feature key space; and ITEM_STATS.

The watermark of every record is the dataset's `now`: the last event it has seen. What happens afterwards lies
in the live logs and patches, and wins until the next materialisation has seen it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from features.aggregate import fill, item_stats, user_features
from features.bulk import count_held
from features.events import WHAT, action_code
from features.keyspace import KeySpace, KeySpaceError, ViewBatch, parse_keyspace, swap
from features.materialise import materialise
from features.tags import TagDictionary
from features.views import MEMBERSHIP, PROFILE
from serving.control import Control, ControlState
from serving.redis_control import RedisControl
from training.base_columns import BaseCopy
from training.dataset import Dataset
from training.lake import Lake
from training.lists import with_lists
from training.profiles import USER_ID, membership_records, profile_records, tag_age

pc: Any = pyarrow.compute
_READ = ("type", "subject", "item_key", "action", "at")
_COUNTED = ("displayed", "clicked", "dismissed", "converted", "acted")


@dataclass(frozen=True, slots=True)
class Aggregates:
    """`ids` bare user ids, ascending; their aggregated fields; the items' statistics, in catalogue order."""

    ids: tuple[str, ...]
    features: NDArray[np.void]
    stats: NDArray[np.void]


def aggregate(lake: Lake, dataset: Dataset) -> Aggregates:
    """Everything that was displayed or done up to the dataset's `now`, aggregated by the one definition."""
    table: Any = lake.events(until=float(np.nextafter(dataset.now, np.inf)), columns=_READ)
    table = table.filter(pc.is_in(table["type"].cast(pa.string()), pa.array(_COUNTED)))
    ids = customer_ids(lake, dataset)
    place = {f"u:{one}": row for row, one in enumerate(ids)}
    key = table["item_key"].fill_null(0).to_numpy()
    row = dataset.items.rows_of_keys(key)
    kinds = np.append(dataset.kinds, np.uint8(255))
    events = {
        "user_index": _coded(table["subject"], lambda name: place.get(name, -1)).astype(np.int32),
        "item_key": key,
        "kind": kinds[row],
        "what": _coded(table["type"], lambda name: WHAT.get(name, 0)).astype(np.uint8),
        "action": _coded(table["action"], lambda name: action_code(name) if name else 0).astype(np.uint16),
        "at": table["at"].to_numpy(),
    }
    return Aggregates(
        ids,
        user_features(events, len(ids), as_of=dataset.now, weights=dataset.weights),
        item_stats(events, dataset.items.keys, as_of=dataset.now, weights=dataset.weights),
    )


def customer_ids(lake: Lake, dataset: Dataset) -> tuple[str, ...]:
    """Every user of the customers' table or of the events; not the visitors, who have no batch record."""
    known = {subject[2:] for subject in dataset.subjects if subject.startswith("u:")}
    users: Any = lake.read_users()
    if users is not None:
        known |= {str(one) for one in users[USER_ID].to_pylist() if one is not None}
    return tuple(sorted(known))


def view_batches(
    lake: Lake, dataset: Dataset, found: Aggregates, tags: TagDictionary | None = None
) -> list[ViewBatch]:
    """PROFILE records of every customer, and MEMBERSHIP of those in some audience or list."""
    users = lake.read_users()
    age = tag_age(lake.users_written_at(), dataset.now)
    records, known = profile_records(users, found.ids, tags=tags, tag_age=age)
    _take_over(records, known, dataset, found.ids)
    fill(records, known, found.features)
    as_of = watermark(lake, dataset)
    profiles = PROFILE.pack(records, as_of=as_of, known=known)
    member_records, member = membership_records(users, found.ids)
    members, member_records = with_lists(lake, found.ids, member_records, member)
    memberships = MEMBERSHIP.pack(member_records, as_of=as_of)
    return [
        ViewBatch(PROFILE, found.ids, profiles, as_of),
        ViewBatch(MEMBERSHIP, members, memberships, as_of),
    ]


def watermark(lake: Lake, dataset: Dataset) -> float:
    """Up to when the records describe customers: when their table was written, else when events last came in.

    Not the last event's time: an old data set that was imported today describes its customers as of today.
    """
    written = lake.users_written_at()
    return max(dataset.now, lake.changed_at() if written is None else written)


def _take_over(
    records: NDArray[np.void], known: NDArray[np.uint64], dataset: Dataset, ids: tuple[str, ...]
) -> None:
    """Customers with behaviour: the dataset's records, which also hold what follows from their purchases."""
    place = {subject: row for row, subject in enumerate(dataset.subjects)}
    at = np.fromiter((place.get(f"u:{one}", -1) for one in ids), np.int64, len(ids))
    have = at >= 0
    records[have] = dataset.profiles.records[at[have]]
    known[have] = dataset.profiles.known[at[have]]


def write_features(
    url: str,
    version: str,
    batches: list[ViewBatch],
    *,
    rng: np.random.Generator,
    progress: Callable[[int], None] | None = None,
    copy: BaseCopy | None = None,
) -> KeySpace:
    """Write a key space, verified, and its columnar copy. Raises what `features.keyspace.materialise` does,
    OSError when the copy cannot be written.
    """
    space = materialise(url, version, batches, rng=rng, progress=progress)
    if copy is not None:
        copy.write(version, batches)
    return space


def in_use(url: str, control: Control | str, version: str, ids: tuple[str, ...]) -> bool:
    """Whether control points at this key space, and the store at `url` holds the profiles of all `ids`.

    Both are asked: a store may have been lost, or pointed elsewhere, since the space was written.
    """
    told = pointers(control).features
    try:
        points = told is not None and parse_keyspace(told).version == version
    except KeySpaceError:  # not a key space of ours: written again, and pointed at
        return False
    return points and count_held(url, PROFILE, version, ids) == len(ids)


def pointers(control: Control | str) -> ControlState:
    """What control says, asked from outside any event loop."""

    async def ask() -> ControlState:
        port = RedisControl.at(control) if isinstance(control, str) else control
        try:
            return await port.poll()
        finally:
            if isinstance(control, str):
                await port.close()

    return asyncio.run(ask())


def point_at(control: Control | str, field: str, value: str) -> None:
    """Set a pointer from outside any event loop. `control`: the port, or a store's URL."""

    async def change() -> None:
        port = RedisControl.at(control) if isinstance(control, str) else control
        try:
            await port.set(field, value)
        finally:
            if isinstance(control, str):
                await port.close()

    asyncio.run(change())


def swap_to(control: Control | str, space: KeySpace) -> None:
    """Point control at a materialised key space."""

    async def change() -> None:
        port = RedisControl.at(control) if isinstance(control, str) else control
        try:
            await swap(port, space)
        finally:
            if isinstance(control, str):
                await port.close()

    asyncio.run(change())


def _coded(column: Any, code: Callable[[Any], int]) -> NDArray[np.int64]:
    """Codes of a text column, one call per distinct value."""
    whole = column.combine_chunks()
    coded = whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()
    values = [code(value) for value in coded.dictionary.to_pylist()]
    table = np.array([*values, code(None) if coded.null_count else 0], np.int64)
    found: NDArray[np.int64] = table[coded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)]
    return found
