"""From the event log to the lake, exactly once: `fenliu events ingest`.

A round reads a chunk of every shard behind the manifest's offsets, drops what the lake already has, writes
files, and then replaces the manifest: the new files, the new identities and the new offsets begin to count
in that one step. Only then is the log told what it may forget. A process killed anywhere before the step
leaves orphans, which nobody reads and the next run sweeps; killed after it, the next run tells the log again.

The same event may come twice: a client retries after the log's marks are gone, or an append was repeated. Its
128-bit identity is compared with those of the received dates around it: an event older than seven days is
refused at the door, so an honest duplicate lies within nine dates.
"""

from __future__ import annotations

import base64
import io
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.log import START, EventLog, order_of
from training.lake import Lake, Manifest, digest
from training.log_rows import Bad, Decoded, build, decode
from training.tables import DAY_S, label

CHUNK: Final = 100_000
CHUNK_BYTES: Final = 64 << 20  # a served record carries the customer's bytes: several kB
PAGE: Final = 2_000
NEAR_DAYS: Final = 9
KEEP_IDS_DAYS: Final = 40
MANY_ID_FILES: Final = 8

Progress = Callable[[int, int], None]  # entries read, entries expected


@dataclass(frozen=True, slots=True)
class IngestReport:
    """Entries of the log by their fate, files that came to count, and how long it took."""

    accepted: int = 0
    duplicates: int = 0
    quarantined: int = 0
    files: int = 0
    seconds: float = 0.0


class _Chunk(NamedTuple):
    entries: list[tuple[int, str, bytes]]  # shard, offset, payload
    offsets: dict[int, str]
    last: bool


def ingest(
    log: EventLog, lake: Lake, *, now: float, progress: Progress | None = None, chunk: int = CHUNK
) -> IngestReport:
    """Take everything that is in the log, `chunk` entries a round: memory grows with it.

    Raises LakeConflict when another writer is at work, StoreUnavailable when the log does not answer: run it
    again then.
    """
    started = time.perf_counter()
    accepted = duplicates = quarantined = files = 0
    with lake.writing():
        lake.sweep(now=now)
        manifest = lake.manifest()
        _release(log, manifest)
        total, done, known = log.length(), 0, dict[str, NDArray[np.uint64]]()
        while (batch := _read(log, manifest, chunk)).entries:
            decoded = decode(batch.entries)
            tables, rows, bad = _take(decoded, lake, manifest, known)
            name = _name_of(log, batch)
            for table, part in tables.items():
                parts = lake.write_parts(table, part, name)
                manifest.files[table] += parts
                files += len(parts)
            files += _write_ids(lake, manifest, decoded.ids[rows], decoded.received[rows], name)
            files += _quarantine(lake, manifest, batch, bad, now, name)
            manifest.offsets[log.name] = {str(shard): offset for shard, offset in batch.offsets.items()}
            lake.commit(manifest)
            _release(log, manifest)
            accepted += len(rows)
            duplicates += len(batch.entries) - len(rows) - len(bad)
            quarantined += len(bad)
            done += len(batch.entries)
            if progress is not None:
                progress(done, max(total, done))
            if batch.last:  # what arrived meanwhile is for the next run: a busy log has no end
                break
    return IngestReport(accepted, duplicates, quarantined, files, time.perf_counter() - started)


def _read(log: EventLog, manifest: Manifest, chunk: int) -> _Chunk:
    """The next entries of every shard, in turns, the last ones first, up to about `chunk` or CHUNK_BYTES."""
    offsets = _offsets(log, manifest)
    entries: list[tuple[int, str, bytes]] = []
    count, size = min(PAGE, chunk), 0
    waiting = deque(sorted(range(log.shards), key=lambda shard: order_of(offsets[shard])))
    while waiting and len(entries) < chunk and size < CHUNK_BYTES:
        shard = waiting.popleft()
        page = log.read(shard, offsets[shard], count)
        entries += [(shard, offset, payload) for offset, payload in page]
        size += sum(len(payload) for _, payload in page)
        if page:
            offsets[shard] = page[-1][0]
        if len(page) == count:
            waiting.append(shard)
    return _Chunk(entries, offsets, not waiting)


def _offsets(log: EventLog, manifest: Manifest) -> dict[int, str]:
    known = manifest.offsets.get(log.name, {})
    return {shard: known.get(str(shard), START) for shard in range(log.shards)}


def _release(log: EventLog, manifest: Manifest) -> None:
    """Tell the log what is safe. Done again at the start of a run: the last one may have died before this."""
    offsets = {shard: offset for shard, offset in _offsets(log, manifest).items() if offset != START}
    if offsets:
        log.commit(offsets)
    for shard, offset in offsets.items():
        log.trim(shard, offset)


def _take(
    decoded: Decoded, lake: Lake, manifest: Manifest, known: dict[str, NDArray[np.uint64]]
) -> tuple[dict[str, pa.Table], NDArray[np.int64], list[Bad]]:
    """The tables of what the lake does not have yet, the rows in them, and all that cannot be taken."""
    bad = list(decoded.bad)
    new = ~_known(decoded, lake, manifest, known)
    while True:
        rows = np.flatnonzero(new)
        tables, taken, spoilt = build(decoded, rows[first_of_each(decoded.ids[rows])])
        if not spoilt:
            return tables, taken, bad
        bad += [Bad(decoded.entries[row], reason) for row, reason in spoilt.items()]
        new[list(spoilt)] = False  # and again: a spoilt row must not hide a sound one of the same id


def _known(
    decoded: Decoded, lake: Lake, manifest: Manifest, known: dict[str, NDArray[np.uint64]]
) -> NDArray[np.bool_]:
    """Which rows the lake has. `known` keeps the identity files that were read."""
    found = np.zeros(len(decoded.ids), bool)
    if not len(found):
        return found
    low, high = float(decoded.received.min()), float(decoded.received.max())
    dates = {
        label(day * DAY_S) for day in range(int(low // DAY_S) - NEAR_DAYS, int(high // DAY_S) + NEAR_DAYS + 1)
    }
    for path in [path for date, paths in manifest.ids.items() if date in dates for path in paths]:
        if path not in known:
            known[path] = _load_ids(lake, path)
        found |= contains(known[path], decoded.ids)
    return found


def _write_ids(
    lake: Lake, manifest: Manifest, ids: NDArray[np.uint64], received: NDArray[np.float64], name: str
) -> int:
    """The identities by received date, sorted; a date of many small files gets one."""
    days = (received // DAY_S).astype(np.int64)
    written = 0
    for day in np.unique(days).tolist():
        date = label(day * DAY_S)
        paths = manifest.ids.setdefault(date, [])
        part = ids[days == day]
        if len(paths) >= MANY_ID_FILES:
            part = np.concatenate([part, *(_load_ids(lake, path) for path in paths)])
            paths.clear()
        path = f"ids/{date}/{name}.npy"
        sink = io.BytesIO()
        np.save(sink, part[np.lexsort((part[:, 1], part[:, 0]))], allow_pickle=False)
        lake.put(path, sink.getvalue())
        paths.append(path)
        written += 1
    if len(days):
        oldest = label((int(days.min()) - KEEP_IDS_DAYS) * DAY_S)
        manifest.ids = {date: paths for date, paths in manifest.ids.items() if date >= oldest}
    return written


def _load_ids(lake: Lake, path: str) -> NDArray[np.uint64]:
    loaded: NDArray[np.uint64] = np.load(io.BytesIO(lake.fs.cat_file(lake.path(path))), allow_pickle=False)
    return loaded


def _quarantine(lake: Lake, manifest: Manifest, batch: _Chunk, bad: list[Bad], now: float, name: str) -> int:
    """What could not be taken: one JSON line each, with shard, offset, reason and the payload in base64."""
    if not bad:
        return 0
    lines = []
    for place, reason in bad:
        shard, offset, payload = batch.entries[place]
        whole = base64.b64encode(payload).decode()
        lines.append(json.dumps({"shard": shard, "offset": offset, "reason": reason, "payload": whole}))
    path = f"quarantine/{label(now)}/{name}.jsonl"
    lake.put(path, "\n".join([*lines, ""]).encode())
    manifest.quarantine.append({"path": path, "rows": len(bad)})
    return 1


def _name_of(log: EventLog, batch: _Chunk) -> str:
    """The same entries make the same names: a run after a crash replaces what the crashed one left."""
    return digest(json.dumps([log.name, batch.offsets, len(batch.entries)]))


def first_of_each(ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of the (n, 2) identities are there for the first time."""
    order = np.lexsort((ids[:, 1], ids[:, 0]))  # stable: the first of equals stays first
    ranked = ids[order]
    fresh = np.ones(len(ids), bool)
    fresh[order[1:]] = (ranked[1:] != ranked[:-1]).any(axis=1)
    return fresh


def contains(known: NDArray[np.uint64], ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of `ids` are among `known`, sorted by both halves; equal first halves are stepped through."""
    if not len(known):
        return np.zeros(len(ids), bool)
    at = np.searchsorted(known[:, 0], ids[:, 0])
    found = np.zeros(len(ids), bool)
    open_ = np.flatnonzero(at < len(known))
    while len(open_):
        row = known[at[open_]]
        same = row[:, 0] == ids[open_, 0]
        found[open_] |= same & (row[:, 1] == ids[open_, 1])
        at[open_] += 1
        open_ = open_[same & ~found[open_] & (at[open_] < len(known))]
    return found
