"""The live store port (role `live`): what a customer just did, and its memory twin.

Per subject three keys under one key tag: the recent behaviour and the contact history, each an append-only
log of 32-byte entries, oldest first, and the patch (fields put online). A log keeps its last entries only.
An entry's first bytes are its identity (item and event), so an event that arrives twice counts once.

Appends keep the order of arrival; linking a visitor merges by time. A log whose length is not a whole
number of entries is torn at its end: the next append keeps the whole entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np

from features.store import MemoryBlobs, StoreConflict

ENTRY_BYTES: Final = 32
RECENT_IDENTITY: Final = 16  # item u8, event u8
CONTACT_IDENTITY: Final = 12  # item u8, event u4
RECENT_LAST: Final = 64
CONTACT_LAST: Final = 256
LIVE_TTL_S: Final = 180 * 86_400
DECISION_TTL_S: Final = 600
PATCH_TRIES: Final = 8


class LiveKeys(NamedTuple):
    """The keys of one subject that a request reads."""

    recent: bytes
    contact: bytes
    patch: bytes


def live_keys(subject: str) -> LiveKeys:
    """What a key holds comes first: an id may contain anything, and so could end like another's key."""
    tag = f"{{{subject}}}".encode()
    return LiveKeys(b"lv:recent:" + tag, b"lv:contact:" + tag, b"lv:patch:" + tag)


def decision_key(subject: str, decision_id: str) -> bytes:
    """Where a decision is remembered, to answer a retry with the same page."""
    return f"lv:d{len(subject)}:{{{subject}}}:{decision_id}".encode()  # the length says where the id begins


def decisions_key(subject: str) -> bytes:
    """The index of a subject's remembered decisions, for erasure."""
    return f"lv:ds:{{{subject}}}".encode()


class LiveStore(Protocol):
    """Raises StoreUnavailable. The time allowed for a change is the caller's (`asyncio.timeout`)."""

    def keys(self, subject: str) -> LiveKeys:
        return live_keys(subject)

    async def fetch(self, keys: Sequence[bytes], timeout_s: float | None = None) -> list[bytes | None]:
        """As a feature store's: one MGET a tick of the loop. StoreUnavailable also when the time is over."""
        ...

    async def append(self, subject: str, *, recent: bytes = b"", contact: bytes = b"") -> None:
        """Add whole entries at the end of the subject's logs, each identity once. Atomic.

        Raises ValueError when either is not a whole number of 32-byte entries.
        """
        ...

    async def link(self, visitor: str, user: str) -> None:
        """Add the visitor's logs to the user's, each identity once, ordered by time. Idempotent.

        Both are subjects (`v:…`, `u:…`). The visitor's own logs stay: a device keeps its scope.
        """
        ...

    async def patch(self, subject: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace the patch by `change(patch)`, compare-and-set; StoreConflict after 8 lost tries."""
        ...

    async def remember(
        self, subject: str, decision_id: str, blob: bytes, ttl_s: int = DECISION_TTL_S
    ) -> bytes:
        """Keep a decision for retries, unless one stands already; returns the one that stands."""
        ...

    async def forget(self, subject: str) -> int:
        """Erase every live key of a subject: logs, patch, decisions. Returns how many there were."""
        ...

    async def close(self) -> None: ...


def check_entries(log: bytes) -> None:
    if len(log) % ENTRY_BYTES:
        raise ValueError(f"a live log is made of {ENTRY_BYTES}-byte entries, not {len(log)} bytes")


def appended(old: bytes, new: bytes, identity: int, last: int) -> bytes:
    """`old` and the entries of `new` whose first `identity` bytes it does not hold; the last `last`."""
    entries = _entries(old)
    known = {entry[:identity] for entry in entries}
    for entry in _entries(new):
        if entry[:identity] not in known:
            known.add(entry[:identity])
            entries.append(entry)
    return b"".join(entries[-last:])


def merged(own: bytes, other: bytes, identity: int, last: int, time: str, offset: int) -> bytes:
    """Both logs, each identity once, by the time (a `time`) at `offset`; equal times keep their order."""
    union = appended(own, other, identity, (len(own) + len(other)) // ENTRY_BYTES + 1)
    entries = _entries(union)
    entries.sort(key=lambda entry: float(np.frombuffer(entry, time, 1, offset)[0]))
    return b"".join(entries[-last:])


def _entries(log: bytes) -> list[bytes]:
    whole = len(log) - len(log) % ENTRY_BYTES
    return [log[at : at + ENTRY_BYTES] for at in range(0, whole, ENTRY_BYTES)]


class MemoryLiveStore(LiveStore):
    """Everything in this process; the TTL follows the clock of `blobs`."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        self.blobs = blobs
        self._decisions: dict[str, set[bytes]] = {}

    async def fetch(self, keys: Sequence[bytes], timeout_s: float | None = None) -> list[bytes | None]:  # noqa: ARG002
        return [self.blobs.get(key) for key in keys]

    async def append(self, subject: str, *, recent: bytes = b"", contact: bytes = b"") -> None:
        check_entries(recent)
        check_entries(contact)
        keys = live_keys(subject)
        self._append(keys.recent, recent, RECENT_IDENTITY, RECENT_LAST)
        self._append(keys.contact, contact, CONTACT_IDENTITY, CONTACT_LAST)

    def _append(self, key: bytes, new: bytes, identity: int, last: int) -> None:
        if new:
            self.blobs.set(key, appended(self.blobs.get(key) or b"", new, identity, last), LIVE_TTL_S)

    async def link(self, visitor: str, user: str) -> None:
        theirs, ours = live_keys(visitor), live_keys(user)
        self._link(theirs.recent, ours.recent, RECENT_IDENTITY, RECENT_LAST, "<f8", 16)
        self._link(theirs.contact, ours.contact, CONTACT_IDENTITY, CONTACT_LAST, "<u4", 12)

    def _link(self, source: bytes, target: bytes, identity: int, last: int, time: str, offset: int) -> None:
        other = self.blobs.get(source)
        if other:
            own = self.blobs.get(target) or b""
            self.blobs.set(target, merged(own, other, identity, last, time, offset), LIVE_TTL_S)

    async def patch(self, subject: str, change: Callable[[bytes | None], bytes]) -> None:
        key = live_keys(subject).patch
        for _ in range(PATCH_TRIES):
            old = self.blobs.get(key)
            new = change(old)
            if self.blobs.get(key) == old:  # `change` is the caller's code, and may have written meanwhile
                self.blobs.set(key, new, LIVE_TTL_S)
                return
        raise StoreConflict(
            f"the patch of one customer changed {PATCH_TRIES} times while it was being written"
        )

    async def remember(
        self, subject: str, decision_id: str, blob: bytes, ttl_s: int = DECISION_TTL_S
    ) -> bytes:
        key = decision_key(subject, decision_id)
        stands = self.blobs.get(key)
        if stands is not None:
            return stands
        self.blobs.set(key, blob, ttl_s)
        self._decisions.setdefault(subject, set()).add(key)
        return blob

    async def forget(self, subject: str) -> int:
        keys = [*live_keys(subject), *self._decisions.pop(subject, ())]
        return sum(self.blobs.delete(key) for key in keys)

    async def close(self) -> None:
        return None
