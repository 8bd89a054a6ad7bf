"""The customer's bytes with what is known to have happened: entries of this very request, and of a linked
device.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np

from features.customer import LATE_BLOB, Blobs
from features.events import Event, to_log
from features.ids import key64
from features.live_store import (
    CONTACT_FORM,
    RECENT_FORM,
    LiveStore,
    appended,
    merged,
)
from features.log import Entry
from features.store import StoreUnavailable
from features.token import PLACES
from serving.intake import LiveBytes, in_time
from serving.lately import Lately
from serving.observe import Metrics
from serving.publisher import Publisher

PAIRS_KEPT: Final = 50_000


class Links:
    """Tells the store that a visitor is a user, once for each new state of the visitor's logs."""

    def __init__(
        self,
        live: LiveStore,
        publisher: Publisher,
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._live, self._publisher, self._metrics = live, publisher, metrics
        self._told: Lately[tuple[str, str], int | None] = Lately(PAIRS_KEPT, clock=monotonic)
        self._repairing: set[tuple[str, str]] = set()

    async def joined(
        self, visitor: str, user: str, own: Blobs, device: Blobs, *, now: float, timeout_s: float, dry: bool
    ) -> Blobs:
        """The user's blobs with the device's entries; both are subjects. `dry`: nothing is written."""
        pair, state = (visitor, user), hash((device.recent, device.contact))
        if self._told.get(pair) == state:
            return own  # the store was told, so the entries are in the user's own logs
        if not dry and LATE_BLOB not in (own.recent, device.recent):
            told = await self._tell(visitor, user, timeout_s)
            if pair not in self._told:
                self._publisher.put(partial(_linked_entry, visitor, user, now))
            # Until the store has heard it, the user's own logs lack what happened on the device.
            self._told.put(pair, state if told else None)
        return with_device(own, device, visitor)

    async def _tell(self, visitor: str, user: str, timeout_s: float) -> bool:
        try:
            await in_time(self._live.link(visitor, user), timeout_s)
        except StoreUnavailable:
            self._metrics.store_error("link")
            pair = visitor, user
            if pair not in self._repairing and self._publisher.repair(partial(self._repair, *pair)):
                self._repairing.add(pair)
            return False
        return True

    async def _repair(self, visitor: str, user: str) -> None:
        await self._live.link(visitor, user)
        self._repairing.discard((visitor, user))


def with_entries(blobs: Blobs, entries: LiveBytes | None) -> Blobs:
    """The blobs with entries that may not have reached the store yet. What is late stays unknown."""
    if entries is None or LATE_BLOB in (blobs.recent, blobs.contact):
        return blobs
    return blobs._replace(
        recent=appended(blobs.recent or b"", entries.recent, RECENT_FORM),
        contact=appended(blobs.contact or b"", entries.contact, CONTACT_FORM),
    )


def with_device(own: Blobs, device: Blobs, visitor: str) -> Blobs:
    """What linking writes: each entry once, by time; a user without entries takes the visitor's unit over.

    What is late stays unknown.
    """
    if LATE_BLOB in (own.recent, own.contact, device.recent, device.contact):
        return own
    recent, contact = own.recent, own.contact
    if device.recent:
        recent = merged(recent or b"", device.recent, RECENT_FORM)
    if device.contact:
        contact = merged(contact or b"", device.contact, CONTACT_FORM)
    if (device.recent or device.contact) and not (own.recent or own.contact or own.unit):
        own = own._replace(unit=device.unit or visitor.encode())
    return own._replace(recent=recent, contact=contact)


def _linked_entry(visitor: str, user: str, now: float) -> Entry:
    """The `linked` event that a request with both ids is worth; one identity for a pair."""
    event_id = f"l:{key64(f'{visitor}|{user}'):016x}"
    event = Event(
        event_id, "linked", now, now, None, now, user, user[2:], visitor[2:], None, np.zeros(0, PLACES),
        None, 0, None, None, None, 0, False, None,
    )  # fmt: skip
    return Entry(event_id, user, to_log(event))
