"""How much every cap still allows this customer: from the contact history and what other pages have reserved.

A look ahead, so that the ledger seldom has to refuse: the ledger's script decides, by the store's clock.
Calendar windows are the customer's (`tz` of the profile, else UTC); a session ends with 30 minutes of rest.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from features.events import WHAT
from features.ledger import CapCheck, CapSpec, check_of, scope_of
from features.reservations import HELD
from features.views import CONTACT, RESERVATION
from serving.domain import Query
from serving.reached import SCOPES, reached, read_only

SESSION_S: Final = 1800.0
PLENTY: Final = 1 << 20
_SCOPE: Final = {name: at for at, name in enumerate(SCOPES)}
_UTC: Final = ZoneInfo("UTC")
_EMPTY: Final = np.empty(0, CONTACT)


class Headroom:
    """One customer at one moment: what reached them, and what other pages may still show them."""

    def __init__(self, query: Query) -> None:
        self._query, self._now = query, query.now
        contact = query.customer.contact
        self._reached = _EMPTY if contact is None else contact  # oldest first
        held = held_elsewhere(query) if query.reserved else _EMPTY
        self._contact = read_only(np.concatenate([self._reached, held]) if len(held) else self._reached)
        self._checks: dict[CapSpec, CapCheck] = {}

    @property
    def _zone(self) -> ZoneInfo:
        return zone_of(bytes(self._query.customer.get("tz")).decode("ascii", "replace"))

    @property
    def campaigns(self) -> frozenset[int]:
        """key32s of those that reached the customer or are held."""
        return frozenset(self._contact["campaign"].tolist()) - {0}

    def __bool__(self) -> bool:
        return len(self._contact) > 0

    def check(self, cap: CapSpec) -> CapCheck:
        """The cap at this moment."""
        found = self._checks.get(cap)
        if found is None:
            session = session_start(self._reached, self._now) if cap.calendar == "session" else None
            zone = self._zone if cap.calendar else _UTC
            found = self._checks[cap] = check_of(cap, self._now, zone, session)
        return found

    def full(self, cap: CapSpec) -> frozenset[int]:
        """The keys in its scope of which the cap allows no more."""
        check = self.check(cap)
        if check.keys:
            return frozenset() if self.left(cap, 0) else cap.keys
        of = np.unique(self._contact[cap.scope][self._contact["what"] == WHAT[cap.event]])
        return frozenset(own for own in of.tolist() if own and not self.left(cap, own))

    def left(self, cap: CapSpec, own: int) -> int:
        """How many more the cap allows of its keys, or of `own` (a key in its scope) where it names none.

        0 also while the gap to the last one is too short.
        """
        keys = _together(cap.keys) if cap.keys else np.array((own,), np.uint64)
        since = self._now - cap.window_s if cap.window_s else 0.0
        if cap.calendar:
            since = max(since, self.check(cap).since)
        many, last = reached(self._contact, WHAT[cap.event], _SCOPE[cap.scope], keys, since)
        if cap.min_gap_s and last >= 0 and self._now - last < cap.min_gap_s:
            return 0  # also where the window began after the last one
        if cap.event != "displayed":  # what was answered often enough is not shown any more
            return PLENTY if many < cap.most else 0
        return max(0, cap.most - many)


@lru_cache(maxsize=4096)
def _together(keys: frozenset[int]) -> NDArray[np.uint64]:
    """The keys that a cap counts together."""
    return np.array(sorted(keys), np.uint64)


def held_elsewhere(query: Query) -> NDArray[np.void]:
    """What other pages of the customer hold and may still show, as CONTACT entries.

    What an earlier page of this surface and device holds is not among them: this page takes it over.
    """
    whole = len(query.reserved) - len(query.reserved) % RESERVATION.itemsize
    if not whole:
        return _EMPTY
    rows = np.frombuffer(query.reserved[:whole], RESERVATION)
    elsewhere = rows["scope"] != scope_of(query.surface, query.device)
    held = rows[(rows["state"] == HELD) & (rows["expires"] > query.now) & elsewhere]
    entries = held.view(np.uint8).reshape(len(held), RESERVATION.itemsize)[:, : CONTACT.itemsize]
    return np.ascontiguousarray(entries).view(CONTACT).ravel()


def session_start(contact: NDArray[np.void], now: float) -> float:
    """The first contact after the last rest of half an hour; now where that rest lasts still."""
    begins = now
    for at in contact["at"][::-1].tolist():
        if begins - at >= SESSION_S:
            break
        begins = float(at)
    return begins


@lru_cache(maxsize=256)
def zone_of(name: str) -> ZoneInfo:
    """UTC where the name is none of a zone."""
    try:
        return ZoneInfo(name) if name else _UTC
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return _UTC
