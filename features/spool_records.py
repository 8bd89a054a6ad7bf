"""The bytes of a spool's segment: framed, checksummed records that are found again behind damage.

    segment   NAME-SALT.seg: HEADER, then records, oldest first
    record    MARK, u32 length, u32 checksum (CRC-32 of salt, length and body), body
    body      MessagePack [when spooled, event id, subject, payload]; a zero byte first: erased

The salt is random and stands in the file's name, so no bytes that a client sends can pass for a record. What
is not a whole record is skipped up to the next one that is; what reaches the end is a torn tail, as a process
that was killed while it wrote leaves it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

import msgpack

from features.log import Entry

HEADER: Final = b"FLSPOOL1"
MARK: Final = b"\xf5FLs"
LONGEST: Final = 1 << 20  # of a body; an event's is below 2 kB
_FRAME: Final = Struct("<4sII")
_NAME: Final = re.compile(r"(\d{10})-([0-9a-f]{16})\.seg")


class Spooled(NamedTuple):
    """`at`: POSIX seconds when it was spooled. `entry` None: erased since."""

    at: float
    entry: Entry | None


class Found(NamedTuple):
    """A record at `start`, behind which the next may begin at `end`."""

    start: int
    end: int
    record: Spooled


class Gap(NamedTuple):
    """Bytes that are no record; `torn`: nothing whole comes behind them."""

    start: int
    end: int
    torn: bool


def segment_name(number: int, salt: bytes) -> str:
    return f"{number:010}-{salt.hex()}.seg"


def name_parts(path: Path) -> tuple[int, bytes] | None:
    """Number and salt of a segment; None for another file."""
    found = _NAME.fullmatch(path.name)
    return None if found is None else (int(found[1]), bytes.fromhex(found[2]))


def packed(salt: bytes, at: float, entry: Entry) -> bytes:
    """A record's bytes. ValueError for one that is longer than any event."""
    return _framed(salt, msgpack.packb([at, *entry]))


def _framed(salt: bytes, body: bytes) -> bytes:
    if len(body) > LONGEST:
        raise ValueError(f"a record of {len(body):,} bytes is longer than {LONGEST:,}")
    return _FRAME.pack(MARK, len(body), _checksum(salt, body)) + body


def _checksum(salt: bytes, body: bytes) -> int:
    return crc32(body, crc32(len(body).to_bytes(4, "little"), crc32(salt)))


def scanned(data: bytes, salt: bytes, start: int = len(HEADER)) -> Iterator[Found | Gap]:
    """Everything from `start` on, in order, without overlaps or holes."""
    at = start
    while at < len(data):
        found = _record(data, salt, at)
        if found is not None:
            yield found
            at = found.end
            continue
        behind = data.find(MARK, at + 1)
        while behind >= 0 and _record(data, salt, behind) is None:
            behind = data.find(MARK, behind + 1)
        end = len(data) if behind < 0 else behind
        yield Gap(at, end, torn=behind < 0)
        at = end


def _record(data: bytes, salt: bytes, at: int) -> Found | None:
    if at + _FRAME.size > len(data):
        return None
    mark, length, checksum = _FRAME.unpack_from(data, at)
    end = at + _FRAME.size + length
    if mark != MARK or not 0 < length <= LONGEST or end > len(data):
        return None
    body = data[at + _FRAME.size : end]
    if _checksum(salt, body) != checksum:
        return None
    if body[0] == 0:
        return Found(at, end, Spooled(0.0, None))
    try:
        spooled_at, event_id, subject, payload = msgpack.unpackb(body)
    except (ValueError, TypeError):  # whole, but by another version
        return None
    return Found(at, end, Spooled(spooled_at, Entry(event_id, subject, payload)))


def blanked(data: bytes, salt: bytes, theirs: Callable[[Entry], bool], raw: Callable[[bytes], bool]) -> bytes:
    """The same bytes with zeros for the records that are `theirs` and for damage that is `raw`'s; as long as
    before, so whoever reads the file at this moment finds every other record where it was.
    """
    new = bytearray(data)
    for one in scanned(data, salt):
        if isinstance(one, Gap):
            if raw(data[one.start : one.end]):
                new[one.start : one.end] = bytes(one.end - one.start)
        elif one.record.entry is not None and theirs(one.record.entry):
            new[one.start : one.end] = _framed(salt, bytes(one.end - one.start - _FRAME.size))
    return bytes(new)
