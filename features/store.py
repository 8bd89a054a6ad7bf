"""The feature store port, its keys, and the memory twin.

A feature key names the key space, the view and the entity: `fs:v43:profile:{u:42}`. The part in braces is
the customer's key tag, the same in every role, so that a sharded store keeps one customer in one place. A
key space is written beside the one in use and never changed in place (keyspace.py); keys die by their TTL.

Errors of any store surface as `StoreUnavailable`, an `OSError`: the caller decides what a missing answer
means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from features.schema import Entity, Read, Schemas, View

Clock = Callable[[], float]  # POSIX seconds, UTC


class StoreUnavailable(OSError):
    """The store did not answer, or answered with an error."""


class StoreConflict(StoreUnavailable):
    """A compare-and-set lost every one of its tries."""


def feature_key(version: str, view_name: str, entity_id: str, entity: Entity = "user") -> bytes:
    """The key of one record; `entity_id` is the bare id, without the `u:` of a subject."""
    return f"fs:{version}:{view_name}:{{{entity[0]}:{entity_id}}}".encode()


class FeatureStore(Protocol):
    """Role `features`: batch records, rebuilt by materialisation."""

    async def fetch(self, keys: Sequence[bytes], timeout_s: float | None = None) -> list[bytes | None]:
        """One round trip; concurrent fetches of one loop tick are coalesced into one MGET.

        Raises StoreUnavailable, also when `timeout_s` is over: one timer a tick, cheaper than one a caller.
        """
        ...

    async def read(
        self, view: View, ids: Sequence[str], *, version: str, now: float, schemas: Schemas | None = None
    ) -> Read:
        """The records of one view for bare ids, in their order, and which of them are present."""
        blobs = await self.fetch([feature_key(version, view.name, one, view.entity) for one in ids])
        return view.unpack(blobs, now=now, schemas=schemas)

    async def close(self) -> None: ...


class MemoryBlobs:
    """Bytes by key with expiry, as one server holds them; the memory twins of several roles may share one."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._held: dict[bytes, tuple[bytes, float]] = {}

    def get(self, key: bytes) -> bytes | None:
        held = self._held.get(key)
        if held is None:
            return None
        if held[1] <= self.clock():
            del self._held[key]
            return None
        return held[0]

    def set(self, key: bytes, blob: bytes, ttl_s: float) -> None:
        self._held[key] = (blob, self.clock() + ttl_s)

    def delete(self, key: bytes) -> bool:
        live = self.get(key) is not None
        self._held.pop(key, None)
        return live

    def expires(self, key: bytes) -> float:
        """When the key dies, by the clock. KeyError when it is not held."""
        return self._held[key][1]

    def keys(self) -> list[bytes]:
        return [key for key in tuple(self._held) if self.get(key) is not None]


class MemoryStore(FeatureStore):
    """Everything in this process: tests, examples, and runs without a server."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        self.blobs = blobs

    async def fetch(self, keys: Sequence[bytes], timeout_s: float | None = None) -> list[bytes | None]:  # noqa: ARG002
        return [self.blobs.get(key) for key in keys]

    async def close(self) -> None:
        return None

    def load(
        self,
        view: View,
        version: str,
        ids: Sequence[str],
        blobs: NDArray[np.void],
        ttl_s: float | None = None,
    ) -> int:
        """The memory twin of a bulk write: one wire record (`view.pack`) per bare id; returns how many."""
        ttl = view.ttl.total_seconds() if ttl_s is None else ttl_s
        for one, blob in zip(ids, blobs, strict=True):
            self.blobs.set(feature_key(version, view.name, one, view.entity), blob.tobytes(), ttl)
        return len(ids)
