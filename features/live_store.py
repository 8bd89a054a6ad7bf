"""The live store port (role `live`): what a customer just did, and its memory twin.

Per subject, under one key tag: the recent behaviour (entries of 32 bytes) and the contact history (of 40),
each a log, oldest first, the patch (fields put online), the ledger's reservations, what users' pages showed
on a device, and the unit that experiments know the subject by, where that is another's. A log keeps its last
entries only; of the contact history those displays go first that no cap counted. An entry's first bytes are
its identity (item and event), so an event that arrives twice counts once. An entry of a display confirms its
reservation in the same step; where the place was reserved and that has lapsed or was superseded, it is
flagged late.

Appends keep the order of arrival; linking a visitor merges by time. A log whose length is not a whole
number of entries is torn at its end: the next append keeps the whole entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np

from features.reservations import (
    CONTACT_BYTES,
    CONTACT_IDENTITY,
    DISPLAYED,
    FLAGS_AT,
    HELD,
    ON_DEVICE,
    RESERVED,
    WHAT_AT,
    entries_of,
    judged,
    last_expiry,
    linked,
    settled,
)
from features.store import MemoryBlobs, StoreConflict

RECENT_BYTES: Final = 32
RECENT_IDENTITY: Final = 16  # item u8, event u8
RECENT_LAST: Final = 128
CONTACT_LAST: Final = 256
LIVE_TTL_S: Final = 180 * 86_400
UNIT_TTL_S: Final = 400 * 86_400
DECISION_TTL_S: Final = 600
PATCH_TRIES: Final = 8


class LiveKeys(NamedTuple):
    """The keys of one subject that a request reads."""

    recent: bytes
    contact: bytes
    patch: bytes
    reserved: bytes
    unit: bytes


def live_keys(subject: str) -> LiveKeys:
    """What a key holds comes first: an id may contain anything, and so could end like another's key."""
    tag = f"{{{subject}}}".encode()
    names = (b"lv:recent:", b"lv:met:", b"lv:patch:", b"lv:res:", b"lv:unit:")
    return LiveKeys(*(name + tag for name in names))


def device_key(subject: str) -> bytes:
    """What users' pages showed on a device: apart from its own logs, which linking adds to a user's."""
    return f"lv:dev:{{{subject}}}".encode()


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

    async def append(
        self, subject: str, *, recent: bytes = b"", contact: bytes = b"", device: bytes = b""
    ) -> None:
        """Add whole entries at the end of the subject's logs, each identity once; displays confirm. Atomic.

        `device`: CONTACT entries of a user's page, for the visitor it was shown to. Raises ValueError when
        one is not a whole number of entries (32 bytes of RECENT, 40 of CONTACT).
        """
        ...

    async def link(self, visitor: str, user: str) -> None:
        """Add the visitor's logs and reservations to the user's, each identity once, by time. Idempotent.

        Both are subjects (`v:…`, `u:…`). The visitor's own stay: a device keeps its scope. A user whose logs
        were empty takes the visitor's unit over, for good: experiments treat the two as one.
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


class LogForm(NamedTuple):
    """A log's entries: their size, the length of their identity, how many are kept, and their time."""

    size: int
    identity: int
    last: int
    time: str  # NumPy dtype
    offset: int


RECENT_FORM: Final = LogForm(RECENT_BYTES, RECENT_IDENTITY, RECENT_LAST, "<f8", 16)
CONTACT_FORM: Final = LogForm(CONTACT_BYTES, CONTACT_IDENTITY, CONTACT_LAST, "<u4", 12)


def check_entries(log: bytes, form: LogForm) -> None:
    if len(log) % form.size:
        raise ValueError(f"this live log is made of {form.size}-byte entries, not {len(log)} bytes")


def appended(old: bytes, new: bytes, form: LogForm) -> bytes:
    """`old` and the entries of `new` whose identity it does not hold; those that a log keeps."""
    return b"".join(_kept(_union(old, new, form), form))


def _kept(entries: list[bytes], form: LogForm) -> list[bytes]:
    """The last; of contacts, displays that nothing counted go first: a few homepages of places that no cap is
    on would else push out the display that a cap of a week is about."""
    excess = len(entries) - form.last
    if excess <= 0:
        return entries
    if form is CONTACT_FORM:
        kept: list[bytes] = []
        for at, entry in enumerate(entries):
            if not excess:
                return kept + entries[at:]
            if entry[WHAT_AT] == DISPLAYED and not entry[FLAGS_AT] & RESERVED:
                excess -= 1
            else:
                kept.append(entry)
        entries = kept
    return entries[-form.last :]


def merged(own: bytes, other: bytes, form: LogForm) -> bytes:
    """Both logs, each identity once, by time; equal times keep their order."""
    entries = _union(own, other, form)
    entries.sort(key=lambda entry: float(np.frombuffer(entry, form.time, 1, form.offset)[0]))
    return b"".join(_kept(entries, form))


def _union(old: bytes, new: bytes, form: LogForm) -> list[bytes]:
    entries = entries_of(old, form.size)
    known = {entry[: form.identity] for entry in entries}
    for entry in entries_of(new, form.size):
        if entry[: form.identity] not in known:
            known.add(entry[: form.identity])
            entries.append(entry)
    return entries


class MemoryLiveStore(LiveStore):
    """Everything in this process; the TTL follows the clock of `blobs`."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        self.blobs = blobs
        self._decisions: dict[str, set[bytes]] = {}

    async def fetch(self, keys: Sequence[bytes], timeout_s: float | None = None) -> list[bytes | None]:  # noqa: ARG002
        return [self.blobs.get(key) for key in keys]

    async def append(
        self, subject: str, *, recent: bytes = b"", contact: bytes = b"", device: bytes = b""
    ) -> None:
        check_entries(recent, RECENT_FORM)
        check_entries(contact, CONTACT_FORM)
        check_entries(device, CONTACT_FORM)
        keys = live_keys(subject)
        if recent:
            self._keep(keys.recent, appended(self.blobs.get(keys.recent) or b"", recent, RECENT_FORM))
        self._confirm(keys.reserved, keys.contact, contact, HELD)
        self._confirm(keys.reserved, device_key(subject), device, ON_DEVICE)

    def _confirm(self, reserved: bytes, key: bytes, new: bytes, state: int) -> None:
        """Entries into a log of contacts; displays take their reservations with them."""
        if not new:
            return
        log, rows = self.blobs.get(key) or b"", self.blobs.get(reserved) or b""
        known = {entry[:CONTACT_IDENTITY] for entry in entries_of(log, CONTACT_BYTES)}
        fresh = [e for e in entries_of(new, CONTACT_BYTES) if e[:CONTACT_IDENTITY] not in known]
        now = int(self.blobs.clock())
        told = [judged(entry, rows, state, now) for entry in fresh]
        self._keep(key, appended(log, b"".join(told), CONTACT_FORM))
        if rows and (left := settled(rows, fresh, state)) != rows:
            self.blobs.set(reserved, left, self.blobs.expires(reserved) - self.blobs.clock())

    def _keep(self, key: bytes, log: bytes) -> None:
        self.blobs.set(key, log, LIVE_TTL_S)

    async def link(self, visitor: str, user: str) -> None:
        theirs, ours = live_keys(visitor), live_keys(user)
        known, seen = ((keys.recent, keys.contact) for keys in (ours, theirs))
        if any(map(self.blobs.get, seen)) and not any(map(self.blobs.get, (*known, ours.unit))):
            self.blobs.set(ours.unit, self.blobs.get(theirs.unit) or visitor.encode(), UNIT_TTL_S)
        self._link(theirs.recent, ours.recent, RECENT_FORM)
        self._link(theirs.contact, ours.contact, CONTACT_FORM)
        rows = linked(
            self.blobs.get(ours.reserved) or b"",
            self.blobs.get(theirs.reserved) or b"",
            self.blobs.get(ours.contact) or b"",
            int(self.blobs.clock()),
        )
        if rows:
            self.blobs.set(ours.reserved, rows, last_expiry(rows) - self.blobs.clock() + 1)

    def _link(self, source: bytes, target: bytes, form: LogForm) -> None:
        other = self.blobs.get(source)
        if other:
            self._keep(target, merged(self.blobs.get(target) or b"", other, form))

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
        keys = [*live_keys(subject), device_key(subject), *self._decisions.pop(subject, ())]
        return sum(self.blobs.delete(key) for key in keys)

    async def close(self) -> None:
        return None
