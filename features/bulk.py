"""Bulk load of packed records: RESP built column-wise, sent in large pieces over one redis-py connection.

Within a group of ids of one length (and TTLs of one number of digits) every command has the same layout, so
a group is one NumPy byte matrix: a template row, and three columns written into it. While the server works
on one piece the next is being built, and the replies of the one before are read: two pieces in flight at
most. TTLs are spread by ±10 %, so that a key space does not expire in one second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.keyspace import Ids
from features.redis_address import Refused
from features.redis_plain import Pipe, opened, piped
from features.redis_resp import packed
from features.schema import View
from features.store import StoreUnavailable, feature_key

Progress = Callable[[int], None]  # called with the number of records just written

PIECE_BYTES: Final = 1 << 18
TTL_SPREAD: Final = 0.1
TIMEOUT_S: Final = 60.0
_MARK: Final = b"\0"


class BulkError(StoreUnavailable):
    """A write that the store refused, or a store that does not hold what was written."""


def bulk_write(
    url: str,
    view: View,
    version: str,
    ids: Ids,
    blobs: NDArray[np.void],
    ttl_s: float | None = None,
    progress: Progress | None = None,
) -> int:
    """Write one wire record (`view.pack`) per bare id; returns how many. `ttl_s` None: the view's own.

    Raises BulkError naming the store's first refusal, StoreUnavailable when it goes away, ValueError for
    records of another dtype or number.
    """
    keys = _keys(view, version, ids)
    values = _bytes_of(view, blobs, len(keys))
    seconds = _spread(view.ttl.total_seconds() if ttl_s is None else ttl_s, len(keys))
    written = pending = 0
    with piped(url, TIMEOUT_S) as pipe:
        for piece, count in _pieces(keys, values, seconds):
            pipe.send(piece)
            written += _settle(pipe, pending, progress)
            pending = count
        written += _settle(pipe, pending, progress)
    return written


def verify(
    url: str,
    view: View,
    version: str,
    ids: Ids,
    blobs: NDArray[np.void],
    sample: int,
    rng: np.random.Generator,
) -> int:
    """Count every key and re-read `sample` records bit for bit; how many were re-read. Raises BulkError."""
    keys = _keys(view, version, ids)
    values = _bytes_of(view, blobs, len(keys))
    with opened(url, TIMEOUT_S) as store:
        held = _held(store, keys)
        if held != len(keys):
            raise BulkError(f"{view.name} of {version}: {len(keys)} records written, {held} found")
        rows = np.sort(rng.choice(len(keys), min(sample, len(keys)), replace=False))
        for at in range(0, len(rows), 500):
            some = rows[at : at + 500]
            _compare(view, keys[some], values[some], store.mget(keys[some].tolist()))
    return len(rows)


def count_held(url: str, view: View, version: str, ids: Ids) -> int:
    """How many of these records the store has. Raises StoreUnavailable."""
    with opened(url, TIMEOUT_S) as store:
        return _held(store, _keys(view, version, ids))


def _held(store: Any, keys: NDArray[np.bytes_]) -> int:
    return sum(int(store.exists(*keys[at : at + 1000].tolist())) for at in range(0, len(keys), 1000))


def _keys(view: View, version: str, ids: Ids) -> NDArray[np.bytes_]:
    bare = ids if isinstance(ids, np.ndarray) else np.array([one.encode() for one in ids], np.bytes_)
    before, after = feature_key(version, view.name, "\0", view.entity).split(_MARK)
    return np.strings.add(np.strings.add(before, bare), after)


def _bytes_of(view: View, blobs: NDArray[np.void], count: int) -> NDArray[np.uint8]:
    if blobs.dtype != view.wire_dtype or blobs.shape != (count,):
        raise ValueError(
            f"{view.name}: one packed record per id is needed, not {blobs.shape} of another layout"
        )
    size = view.wire_dtype.itemsize
    return np.ascontiguousarray(blobs).view(np.uint8).reshape(count, size)


def _spread(ttl_s: float, count: int) -> NDArray[np.int64]:
    """TTLs within ±10 %, by position alone: the golden ratio's multiples fill the interval evenly."""
    if not ttl_s >= 1:
        raise ValueError(f"a record must live for a second or more, not {ttl_s}")
    share = (np.arange(count) * 0.6180339887498949) % 1.0
    seconds = np.rint(ttl_s * (1 - TTL_SPREAD + 2 * TTL_SPREAD * share))
    whole: NDArray[np.int64] = np.maximum(seconds, 1.0).astype(np.int64)
    return whole


def _pieces(
    keys: NDArray[np.bytes_], values: NDArray[np.uint8], seconds: NDArray[np.int64]
) -> Iterator[tuple[bytes, int]]:
    """Commands of about PIECE_BYTES, and how many each piece holds."""
    lengths = np.strings.str_len(keys)
    digits = np.strings.str_len(seconds.astype(np.bytes_))
    kinds = lengths.astype(np.int64) * 100 + digits
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        length, width = divmod(int(kind), 100)
        template, spots = _template(length, values.shape[1], width)
        step = max(1, PIECE_BYTES // len(template))
        for at in range(0, len(rows), step):
            some = rows[at : at + step]
            piece = np.empty((len(some), len(template)), np.uint8)
            piece[:] = template
            key, value, ttl = spots
            piece[:, key] = _characters(keys[some], length)
            piece[:, value] = values[some]
            piece[:, ttl] = _characters(seconds[some], width)
            yield piece.tobytes(), len(some)


def _characters(texts: NDArray[np.bytes_] | NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """Texts of `width` bytes each as rows of bytes."""
    return texts.astype(f"S{width}").view(np.uint8).reshape(-1, width)


def _template(key: int, value: int, ttl: int) -> tuple[NDArray[np.uint8], tuple[slice, slice, slice]]:
    """One `SET key value EX seconds` with blanks, and where the three blanks are."""
    command = packed((b"SET", bytes(key), bytes(value), b"EX", bytes(ttl)))
    first = command.index(b"\0")
    second = first + key + len(b"\r\n$%d\r\n" % value)
    third = len(command) - 2 - ttl
    spots = (slice(first, first + key), slice(second, second + value), slice(third, third + ttl))
    return np.frombuffer(command, np.uint8), spots


def _settle(pipe: Pipe, count: int, progress: Progress | None) -> int:
    """Read the replies of `count` writes."""
    try:
        pipe.settle(count)
    except Refused as refused:
        raise BulkError(f"the store refused a record: {refused.text}") from refused
    if progress is not None and count:
        progress(count)
    return count


def _compare(view: View, keys: NDArray[np.bytes_], values: NDArray[np.uint8], held: Sequence[object]) -> None:
    for key, value, blob in zip(keys, values, held, strict=True):
        if blob != value.tobytes():
            raise BulkError(
                f"{view.name}: {key.decode(errors='replace')} re-read differs from what was written"
            )
