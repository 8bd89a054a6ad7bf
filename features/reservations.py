"""Rows of views.RESERVATION in a customer's or device's blob: what they mean, as functions of bytes.

The scripts of the server do the same; the contract suite holds both to it. A row is `held` until its display,
its lapse or the next page of the same scope; until it lapses it also says what its decision was answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final, NamedTuple

CONTACT_BYTES: Final = 40
RESERVATION_BYTES: Final = 56
CONTACT_IDENTITY: Final = 12  # item u8, event u4; a reservation's as well
SHOWN, HELD, REFUSED, ON_DEVICE = 0, 1, 2, 3
NO_CHOICE: Final = 255
WHAT_AT: Final = 29
FLAGS_AT: Final = 31
AT_AT: Final = 12
DISPLAYED: Final = 1
LATE: Final = 8
RESERVED: Final = 16
GRACE_S: Final = 60  # a reservation lapses this long after its page

_TAIL = Struct("<IIIBBBB")  # expires, scope, epoch, place, choice, attempt, state
_AT = Struct("<I")


class Row(NamedTuple):
    """One reservation. `entry`: the CONTACT entry it would become, 40 bytes."""

    entry: bytes
    expires: int
    scope: int
    epoch: int
    place: int
    choice: int
    attempt: int
    state: int

    @property
    def identity(self) -> bytes:
        return self.entry[:CONTACT_IDENTITY]

    @property
    def mark(self) -> bytes:
        return self.entry[8:CONTACT_IDENTITY]

    def pack(self) -> bytes:
        return self.entry + _TAIL.pack(*self[1:])


def entries_of(log: bytes, size: int) -> list[bytes]:
    """The whole entries of a log; a torn end is left off."""
    return [log[at : at + size] for at in range(0, len(log) - len(log) % size, size)]


def rows_of(blob: bytes) -> list[Row]:
    return [
        Row(row[:CONTACT_BYTES], *_TAIL.unpack_from(row, CONTACT_BYTES))
        for row in entries_of(blob, RESERVATION_BYTES)
    ]


def packed(rows: Iterable[Row]) -> bytes:
    return b"".join(row.pack() for row in rows)


def last_expiry(blob: bytes) -> int:
    return max((row.expires for row in rows_of(blob)), default=0)


def entry_at(entry: bytes) -> int:
    """When a CONTACT entry happened, POSIX seconds."""
    at: int = _AT.unpack_from(entry, AT_AT)[0]
    return at


def stamped(entry: bytes, now: int) -> bytes:
    return entry[:AT_AT] + _AT.pack(now) + entry[AT_AT + 4 :]


def judged(entry: bytes, blob: bytes, state: int, now: int) -> bytes:
    """The entry, flagged late when it shows a reserved place that nothing holds any more."""
    if entry[WHAT_AT] != DISPLAYED or not entry[FLAGS_AT] & RESERVED:
        return entry
    for row in rows_of(blob):
        if row.identity == entry[:CONTACT_IDENTITY] and row.state == state and row.expires > now:
            return entry
    return entry[:FLAGS_AT] + bytes((entry[FLAGS_AT] | LATE,)) + entry[FLAGS_AT + 1 :]


def settled(blob: bytes, entries: Sequence[bytes], state: int) -> bytes:
    """The rows, with those that the displays among `entries` confirm no longer held."""
    shown = {entry[:CONTACT_IDENTITY] for entry in entries if entry[WHAT_AT] == DISPLAYED}
    return packed(
        row._replace(state=SHOWN) if row.state == state and row.identity in shown else row
        for row in rows_of(blob)
    )


def linked(own: bytes, other: bytes, contact: bytes, now: int) -> bytes:
    """A user's rows with those that a visitor holds; what the user's log says was displayed is held no more.

    Rows held on the device for other users' pages stay there.
    """
    rows = [row for row in rows_of(own) if row.expires > now]
    known = {row.identity for row in rows}
    shown = {entry[:CONTACT_IDENTITY] for entry in entries_of(contact, CONTACT_BYTES)}
    rows += [
        row for row in rows_of(other) if row.state == HELD and row.expires > now and row.identity not in known
    ]
    return packed(
        row._replace(state=SHOWN) if row.state == HELD and row.identity in shown else row for row in rows
    )
