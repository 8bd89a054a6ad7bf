"""Audience numbers added to and taken from customers' MEMBERSHIP records, in bulk, in place.

Read, changed and written back in pipelined batches of one raw connection: while the store answers one batch,
the next is being read and the former settled. Two writers of one customer's record must not be at work at the
same time; whoever holds the home's lock (training.workspace.alone) is alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.bulk import TIMEOUT_S, BulkError, Progress
from features.keyspace import KeySpace
from features.redis_address import Refused
from features.redis_plain import Pipe, piped, told
from features.schema import HEADER
from features.store import feature_key
from features.views import MEMBERSHIP
from training.id_sets import id_set

BATCH: Final = 2000  # customers a round trip: about 0.3 MB of replies
_SIZE: Final = MEMBERSHIP.size


class Written(NamedTuple):
    """`changed` records were written; `full`: customers who already are in as many audiences as fit."""

    changed: int
    full: int


def change_memberships(
    url: str,
    space: KeySpace,
    number: int,
    *,
    add: NDArray[np.bytes_],
    remove: NDArray[np.bytes_],
    progress: Progress | None = None,
) -> Written:
    """Put the customers `add` (bare ids) into an audience and take `remove` out of it, in one key space.

    A record that is there keeps its life span and watermark; a new one gets those of the key space's view.
    Who is in as many audiences as a record holds stays out of this one. Doing it again changes nothing.
    Raises BulkError for what the store refuses, StoreUnavailable when it goes away.
    """
    total = Written(0, 0)
    with piped(url, TIMEOUT_S) as pipe:
        for ids, adding in ((add, True), (remove, False)):
            done = _stream(pipe, space, number, ids, adding, progress)
            total = Written(total.changed + done.changed, total.full + done.full)
    return total


def with_number(
    held: NDArray[np.uint16], number: int
) -> tuple[NDArray[np.uint16], NDArray[np.bool_], NDArray[np.bool_]]:
    """(n, 64) sorted, 0-padded numbers with one more in each row; which rows changed, and which were full."""
    inside = (held == number).any(axis=1)
    full = ~inside & (held[:, -1] != 0)
    change = ~inside & ~full
    some = held[change]
    place = ((some != 0) & (some < number)).sum(axis=1)[:, None]
    at = np.arange(held.shape[1])
    moved = np.roll(some, 1, axis=1)
    out = held.copy()
    out[change] = np.where(at < place, some, np.where(at == place, np.uint16(number), moved))
    return out, change, full


def without_number(
    held: NDArray[np.uint16], number: int
) -> tuple[NDArray[np.uint16], NDArray[np.bool_], NDArray[np.bool_]]:
    """As `with_number`, one number less; no row is full."""
    same = held == number
    change = same.any(axis=1)
    some = held[change]
    place = same[change].argmax(axis=1)[:, None]
    at = np.arange(held.shape[1])
    moved = np.roll(some, -1, axis=1)
    moved[:, -1] = 0
    out = held.copy()
    out[change] = np.where(at < place, some, moved)
    return out, change, np.zeros(len(held), np.bool_)


def _stream(
    pipe: Pipe,
    space: KeySpace,
    number: int,
    ids: NDArray[np.bytes_],
    adding: bool,
    progress: Progress | None,
) -> Written:
    changed = full = unsettled = 0
    batches = _batches(space.version, ids)
    coming = next(batches, None)
    if coming is not None:
        pipe.send(_mget(coming))
    while coming is not None:
        keys, coming = coming, next(batches, None)
        if coming is not None:
            pipe.send(_mget(coming))
        commands, count, left_out = _rewritten(keys, _read(pipe), space, number, adding)
        if count:
            pipe.send(commands)
        _settle(pipe, unsettled)
        unsettled = count
        changed, full = changed + count, full + left_out
        if progress is not None:
            progress(len(keys))
    _settle(pipe, unsettled)
    return Written(changed, full)


def _batches(version: str, ids: NDArray[np.bytes_]) -> Iterator[NDArray[np.uint8]]:
    """Keys of up to BATCH customers as rows of bytes; all of a batch are of one length."""
    before, after = feature_key(version, MEMBERSHIP.name, "\0", MEMBERSHIP.entity).split(b"\0")
    lengths = np.strings.str_len(ids)
    for length in np.unique(lengths):
        some = id_set(ids[lengths == length])
        for at in range(0, len(some), BATCH):
            texts = some[at : at + BATCH].astype(f"S{length}").view(np.uint8).reshape(-1, int(length))
            keys = np.empty((len(texts), len(before) + int(length) + len(after)), np.uint8)
            keys[:, : len(before)] = np.frombuffer(before, np.uint8)
            keys[:, len(before) : len(before) + int(length)] = texts
            keys[:, len(before) + int(length) :] = np.frombuffer(after, np.uint8)
            yield keys


def _mget(keys: NDArray[np.uint8]) -> bytes:
    bulk = _framed(b"$%d\r\n" % keys.shape[1], keys, b"\r\n")
    return b"*%d\r\n$4\r\nMGET\r\n" % (len(keys) + 1) + bulk.tobytes()


def _framed(*parts: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows of bytes side by side; `bytes` parts are the same in each row."""
    n = next(len(part) for part in parts if isinstance(part, np.ndarray))
    width = sum(part.shape[1] if isinstance(part, np.ndarray) else len(part) for part in parts)
    out, at = np.empty((n, width), np.uint8), 0
    for part in parts:
        block = part if isinstance(part, np.ndarray) else np.frombuffer(part, np.uint8)
        out[:, at : at + block.shape[-1]] = block
        at += block.shape[-1]
    return out


def _rewritten(
    keys: NDArray[np.uint8], blobs: list[Any], space: KeySpace, number: int, adding: bool
) -> tuple[bytes, int, int]:
    """SETs of the records that change, how many, and how many customers are in too many audiences."""
    fresh = np.array([blob is None or not _ours(blob) for blob in blobs], np.bool_)
    if not adding:  # nothing to take out of
        keys, blobs = keys[~fresh], [blob for blob, new in zip(blobs, fresh.tolist(), strict=True) if not new]
        fresh = np.zeros(len(keys), np.bool_)
    if not len(keys):
        return b"", 0, 0
    blank = _blank(space)
    held = b"".join(blank if new else blob for blob, new in zip(blobs, fresh.tolist(), strict=True))
    wire = np.frombuffer(bytearray(held), MEMBERSHIP.wire_dtype)
    changed = with_number if adding else without_number
    numbers, change, full = changed(wire["values"]["audiences"], number)
    wire["values"]["audiences"] = numbers
    rows = wire.view(np.uint8).reshape(-1, _SIZE)
    seconds = str(max(1, int(MEMBERSHIP.ttl.total_seconds()))).encode()
    commands = b"".join(
        (
            _sets(keys[change & ~fresh], rows[change & ~fresh], (b"KEEPTTL",)),
            _sets(keys[change & fresh], rows[change & fresh], (b"EX", seconds)),
        )
    )
    return commands, int(change.sum()), int(full.sum())


def _sets(keys: NDArray[np.uint8], rows: NDArray[np.uint8], options: tuple[bytes, ...]) -> bytes:
    if not len(keys):
        return b""
    tail = b"".join(b"$%d\r\n%s\r\n" % (len(one), one) for one in options)
    head = b"*%d\r\n$3\r\nSET\r\n$%d\r\n" % (3 + len(options), keys.shape[1])
    return _framed(head, keys, b"\r\n$%d\r\n" % _SIZE, rows, b"\r\n" + tail).tobytes()


def _ours(blob: bytes) -> bool:
    """A record of today's declaration; another is written anew, as materialising would."""
    return len(blob) == _SIZE and HEADER.unpack_from(blob)[0] == MEMBERSHIP.fingerprint


def _blank(space: KeySpace) -> bytes:
    view = space.views[MEMBERSHIP.name]
    return MEMBERSHIP.encode(MEMBERSHIP.blank(1)[0], as_of=view.as_of)


def _read(pipe: Pipe) -> list[Any]:
    with told(pipe.lost):
        reply: list[Any] = pipe.connection.read_response()
    return reply


def _settle(pipe: Pipe, count: int) -> None:
    try:
        pipe.settle(count)
    except Refused as refused:
        raise BulkError(f"the store refused a membership: {refused.text}") from refused
