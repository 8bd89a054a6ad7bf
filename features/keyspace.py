"""The versioned key space: materialise `v43` beside `v42`, verify it, swap the pointer; old keys die by TTL.

The pointer `features` in control is JSON: {"version": "v43", "views": {name: {"as_of", "count",
"fingerprint"}}}. A replica reads it with its poll, never per request. Nothing of the space in use is
changed or deleted, so pointing back at the former version is a roll-back for as long as its keys live.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from features.schema import View
from features.store import MemoryStore

Ids = Sequence[str] | NDArray[np.bytes_]


class KeySpaceError(ValueError):
    """A key space that is not what it claims to be: not swapped to."""


@dataclass(frozen=True, slots=True)
class ViewSpace:
    """One view of a key space: the watermark of its records, how many, and the declaration they follow."""

    as_of: float
    count: int
    fingerprint: int


@dataclass(frozen=True, slots=True)
class KeySpace:
    """What the pointer says."""

    version: str
    views: Mapping[str, ViewSpace] = field(default_factory=dict)

    @property
    def materialised(self) -> frozenset[str]:
        """The names of the views that were written: a sparse one without a record is known to be empty."""
        return frozenset(self.views)

    def to_json(self) -> str:
        views = {name: asdict(space) for name, space in sorted(self.views.items())}
        return json.dumps({"version": self.version, "views": views})


def parse_keyspace(text: str) -> KeySpace:
    """Raises KeySpaceError when the text is not a pointer."""
    try:
        raw = json.loads(text)
        views = {
            str(name): ViewSpace(float(one["as_of"]), int(one["count"]), int(one["fingerprint"]))
            for name, one in raw["views"].items()
        }
        return KeySpace(check_version(raw["version"]), views)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KeySpaceError(f"the pointer `features` is not a key space: {error}") from error


def check_version(version: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,32}", version):
        raise KeySpaceError(
            f"a key space's version is 1 to 32 letters, digits, '.', '_' or '-', not {version!r}"
        )
    return version


class ViewBatch(NamedTuple):
    """Records to materialise: bare ids, one wire record (`View.pack`) each, and their watermark."""

    view: View
    ids: Ids
    blobs: NDArray[np.void]
    as_of: float


class Pointers(Protocol):
    """The part of the control port that a swap needs."""

    async def set(self, field: str, value: str | None) -> None: ...


def materialise_memory(
    store: MemoryStore, version: str, batches: Iterable[ViewBatch], *, ttl_s: float | None = None
) -> KeySpace:
    """The memory twin of `features.materialise.materialise`."""

    def write(batch: ViewBatch) -> None:
        store.load(batch.view, version, _texts(batch.ids), batch.blobs, ttl_s)

    return assembled(version, batches, write)


async def swap(pointers: Pointers, space: KeySpace) -> None:
    """Point control at a materialised space; replicas follow with their next poll."""
    if not space.views:
        raise KeySpaceError(f"key space {space.version} holds no view")
    await pointers.set("features", space.to_json())


def assembled(version: str, batches: Iterable[ViewBatch], write: Callable[[ViewBatch], None]) -> KeySpace:
    """The space that `write` makes of the batches. A view may come in several batches of one watermark.

    Raises KeySpaceError for ids that come twice, and whatever `write` does.
    """
    check_version(version)
    views: dict[str, ViewSpace] = {}
    for batch in batches:
        name = batch.view.name
        if len(np.unique(np.asarray(batch.ids))) != len(batch.ids):
            raise KeySpaceError(f"{name} of {version}: an id comes twice")
        before = views.get(name, ViewSpace(batch.as_of, 0, batch.view.fingerprint))
        if (before.as_of, before.fingerprint) != (batch.as_of, batch.view.fingerprint):
            raise KeySpaceError(f"{name} of {version}: batches of two watermarks or two declarations")
        write(batch)
        views[name] = replace(before, count=before.count + len(batch.ids))
    return KeySpace(version, views)


def _texts(ids: Ids) -> list[str]:
    return [one.decode() for one in ids.tolist()] if isinstance(ids, np.ndarray) else list(ids)
