"""The lake: what happened, as Parquet, and the catalogue; one manifest says which files count.

    manifest.json                     tables -> files, offsets of every log, batches already imported, ids
    events|served|outcomes|inputs/date=YYYY-MM-DD/part-<digest>.parquet      by received_at's UTC date
    ids/date=YYYY-MM-DD/<digest>.npy  128-bit identities of what ingest took, for de-duplication
    quarantine/<digest>.jsonl         what could not be read, with the reason
    catalogue/items.jsonl.zst, catalogue/users.parquet

A file exists only once the manifest names it: files are written first, then the manifest replaces its
predecessor in one atomic step. Whatever a killed writer left behind is ignored, and swept by the next one.
One writer at a time: a lock file on a local disk; elsewhere a manifest that moved meanwhile refuses the
commit.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from training.tables import COLUMNS, LakeConflict, LakeError, between, by_date, conform, parquet, pc
from training.tables import EVENT_COLUMNS as EVENT_COLUMNS
from training.tables import INPUT_COLUMNS as INPUT_COLUMNS
from training.tables import OUTCOME_COLUMNS as OUTCOME_COLUMNS
from training.tables import SERVED_COLUMNS as SERVED_COLUMNS

_MANIFEST = "manifest.json"


@dataclass
class Manifest:
    """What counts. `files`: table -> list of {path, date, rows, low, high (of its time)}."""

    version: int = 0
    files: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {table: [] for table in COLUMNS})
    ids: dict[str, list[str]] = field(default_factory=dict)
    offsets: dict[str, dict[str, str]] = field(default_factory=dict)
    batches: dict[str, int] = field(default_factory=dict)
    quarantine: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, blob: bytes) -> Manifest:
        raw = json.loads(blob)
        if raw.pop("format", None) != 1:
            raise LakeError("the lake's manifest.json is of another format: use the version that wrote it")
        found = cls(**raw)
        found.files = {table: found.files.get(table, []) for table in COLUMNS}  # of an older version
        return found

    def to_bytes(self) -> bytes:
        return json.dumps({"format": 1, **self.__dict__}, indent=1).encode()

    def paths(self) -> set[str]:
        """Every data file that counts, relative to the root."""
        return (
            {file["path"] for files in self.files.values() for file in files}
            | {path for paths in self.ids.values() for path in paths}
            | {file["path"] for file in self.quarantine}
        )


class Lake:
    def __init__(self, root: str | Path) -> None:
        """`root`: a folder, or an fsspec URL (s3://bucket/lake, memory://lake …); made by the first write."""
        self.url = str(root)
        self.fs, self.root = fsspec.core.url_to_fs(self.url)
        self.local = "file" in np.atleast_1d(self.fs.protocol)

    # reading

    def manifest(self) -> Manifest:
        """The manifest as it stands; an empty one when the lake is new."""
        try:
            return Manifest.read(self.fs.cat_file(self.path(_MANIFEST)))
        except FileNotFoundError:
            return Manifest()
        except (ValueError, TypeError, AttributeError) as error:
            raise self._damaged(_MANIFEST, error, "restore it, it says which files count") from None

    def events(
        self,
        since: float | None = None,
        until: float | None = None,
        columns: Sequence[str] | None = None,
        *,
        sources: Sequence[str] | None = None,
    ) -> pa.Table:
        """Events with since <= at < until (POSIX seconds), of EVENT_COLUMNS, in the order of writing."""
        return self._read("events", "at", since, until, columns, sources)

    def served(
        self, since: float | None = None, until: float | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Served records with since <= at < until, of SERVED_COLUMNS."""
        return self._read("served", "at", since, until, columns)

    def served_of(self, decision_id: str, since: float | None, until: float | None) -> pa.Table:
        """The served records of one decision; without bounds every file is looked through."""
        parts = [SERVED_COLUMNS.empty_table()]
        for file in self.manifest().files["served"]:
            if (since is None or file["high"] >= since) and (until is None or file["low"] < until):
                wanted = [("id", "==", decision_id)]
                found = self._part(file["path"], SERVED_COLUMNS.names, wanted)
                parts += [_widened(found, SERVED_COLUMNS)]
        return pa.concat_tables(parts)

    def inputs(self, kind: str, since: float, until: float, version: str | None = None) -> pa.Table:
        """What records name by version, of INPUT_COLUMNS, logged with since <= at < until; all, or one."""
        wanted = [("kind", "==", kind), *([("version", "==", version)] if version is not None else [])]
        parts = [INPUT_COLUMNS.empty_table()]
        for file in self.manifest().files["inputs"]:
            if file["high"] >= since and file["low"] < until:
                parts += [self._part(file["path"], INPUT_COLUMNS.names, wanted)]
        return between(pa.concat_tables(parts), "at", since, until)

    def outcomes(self, since: float | None = None, until: float | None = None) -> pa.Table:
        """Outcomes with since <= occurred_at < until, of OUTCOME_COLUMNS, each once, as last corrected.

        An outcome whose amount was corrected to 0 was taken back: it is not among them.
        """
        every = self._read("outcomes", "occurred_at", None, None)
        order = pc.sort_indices(every, [("recorded_at", "ascending"), ("received_at", "ascending")])
        rows = every.take(order)
        last = {one: row for row, one in enumerate(rows["outcome_id"].to_pylist())}
        table = rows.take(np.fromiter(last.values(), np.int64))
        standing = pc.fill_null(pc.not_equal(table["amount"], 0.0), True)
        return between(table.filter(standing), "occurred_at", since, until)

    def read_items(self) -> list[dict[str, Any]]:
        """The catalogue, as JSON objects. LakeError when none was written."""
        try:
            packed = self.fs.cat_file(self.path("catalogue/items.jsonl.zst"))
        except FileNotFoundError:
            raise LakeError(f"{self.url} holds no catalogue: import one before training") from None
        try:
            text = zstandard.ZstdDecompressor().decompress(packed)  # whole, or an error
            return [json.loads(line) for line in text.splitlines()]
        except (zstandard.ZstdError, ValueError) as error:
            raise self._damaged("catalogue/items.jsonl.zst", error, "import the items again") from None

    def read_users(self) -> pa.Table | None:
        """The customers' facts by `user_id`, or None when the lake has none."""
        try:
            return pq.read_table(io.BytesIO(self.fs.cat_file(self.path("catalogue/users.parquet"))))
        except FileNotFoundError:
            return None
        except pa.ArrowException as error:
            raise self._damaged("catalogue/users.parquet", error, "import the customers again") from None

    def users_written_at(self) -> float | None:
        """POSIX seconds at which the customers' facts were written; None when the lake has none."""
        return self._written_at("catalogue/users.parquet")

    def changed_at(self) -> float:
        """POSIX seconds of the last commit; 0 while the lake is new."""
        return self._written_at(_MANIFEST) or 0.0

    def _written_at(self, path: str) -> float | None:
        try:
            when: datetime = self.fs.modified(self.path(path))
        except FileNotFoundError:
            return None
        return when.replace(tzinfo=when.tzinfo or UTC).timestamp()

    # writing

    def append_events(self, table: pa.Table, batch_id: str) -> int:
        """Add events from a file or a simulation; the rows added, 0 when `batch_id` was added before.

        Columns that the table lacks are null (`occurred_at` is `at`, `late` false, `channel` 0); others than
        EVENT_COLUMNS, or nulls in event_id, type, received_at, at or subject, raise LakeError and change
        nothing.
        """
        rows = conform(table)
        with self.writing():
            manifest = self.manifest()
            if batch_id in manifest.batches:
                return 0
            manifest.files["events"] += self.write_parts("events", rows, batch_id)
            manifest.batches[batch_id] = rows.num_rows
            self.commit(manifest)
        return rows.num_rows

    def write_items(self, items: Iterable[dict[str, Any]]) -> None:
        lines = b"".join(json.dumps(item, ensure_ascii=False).encode() + b"\n" for item in items)
        self.put("catalogue/items.jsonl.zst", zstandard.ZstdCompressor(level=6).compress(lines))

    def write_users(self, users: pa.Table, *, at: float | None = None) -> None:
        """`at`: when its facts were written, where that is not now; kept on a local disk only."""
        if "user_id" not in users.column_names:
            raise LakeError("the users table needs a column user_id")
        self.put("catalogue/users.parquet", parquet(users))
        if at is not None and self.local:
            os.utime(self.path("catalogue/users.parquet"), (at, at))

    # the parts of a commit; ingest uses them too

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one writer. LakeConflict when another is at work on this machine."""
        if not self.local:
            yield
            return
        import fcntl

        Path(self.root).mkdir(parents=True, exist_ok=True)
        with Path(self.path("manifest.lock")).open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LakeConflict(
                    f"another process writes to {self.url}: wait for it, then run again"
                ) from None
            yield

    def write_parts(self, name: str, rows: pa.Table, batch: str) -> list[dict[str, Any]]:
        """Write a table's rows as files by date; their manifest entries. Nothing counts before the commit."""
        entries = []
        time = "occurred_at" if name == "outcomes" else "at"
        for date, part in by_date(rows):
            path = f"{name}/{date}/part-{digest(batch)}.parquet"
            self.put(path, parquet(part))
            times = part[time].to_numpy()
            bounds = {"low": float(times.min()), "high": float(times.max())}
            entries.append({"path": path, "date": date, "rows": part.num_rows, **bounds})
        return entries

    def commit(self, manifest: Manifest) -> None:
        """Make `manifest` the one that counts, in one step. LakeConflict when another got in between."""
        if self.manifest().version != manifest.version:
            raise LakeConflict(f"{self.url} was changed by another writer meanwhile: run again")
        manifest.version += 1
        self.put(_MANIFEST, manifest.to_bytes())

    def put(self, path: str, blob: bytes) -> None:
        """Write a file whole or not at all: renamed into place and fsynced locally, one PUT elsewhere."""
        target = self.path(path)
        if not self.local:
            self.fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            self.fs.pipe_file(target, blob)
            return
        place = Path(target)
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(place.name + ".tmp")
        with fresh.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(place)
        _fsync_folder(place.parent)

    def path(self, relative: str) -> str:
        return f"{self.root}/{relative}"

    def sweep(self, *, now: float) -> int:
        """Delete data files that no manifest names; how many. Call while `writing()`.

        Elsewhere than on a local disk there is no lock: a file younger than a day may belong to a writer at
        work and is left.
        """
        known = self.manifest().paths()
        swept = 0
        for folder in (*COLUMNS, "ids", "quarantine"):
            for found in self._files(folder):
                if found[len(self.root) + 1 :] in known:
                    continue
                if self.local or now - self.fs.modified(found).timestamp() > 86_400:
                    self.fs.rm_file(found)
                    swept += 1
        return swept

    def _files(self, folder: str) -> list[str]:
        try:
            return sorted(self.fs.find(self.path(folder)))
        except FileNotFoundError:
            return []

    def _read(
        self,
        name: str,
        time: str,
        since: float | None,
        until: float | None,
        columns: Sequence[str] | None = None,
        sources: Sequence[str] | None = None,
    ) -> pa.Table:
        schema = COLUMNS[name]
        wanted = list(schema.names if columns is None else columns)
        if strange := set(wanted) - set(schema.names):
            raise LakeError(f"{name} have no column {', '.join(sorted(strange))}")
        needed = dict.fromkeys([*wanted, time, *(["source"] if sources is not None else [])])
        asked = pa.schema([schema.field(column) for column in needed])
        parts = [asked.empty_table()]
        for file in self.manifest().files[name]:
            if (since is None or file["high"] >= since) and (until is None or file["low"] < until):
                whole = (since is None or file["low"] >= since) and (until is None or file["high"] < until)
                part = _widened(self._part(file["path"], list(needed)), asked)
                if sources is not None:
                    part = part.filter(pc.is_in(part["source"], pa.array(sources, pa.string())))
                parts.append(part if whole else between(part, time, since, until))
        return pa.concat_tables(parts).unify_dictionaries().select(wanted)

    def _part(self, path: str, columns: list[str], filters: Any = None) -> pa.Table:
        try:
            with self.fs.open(self.path(path), "rb") as file:
                return pq.read_table(file, columns=columns, partitioning=None, filters=filters)
        except FileNotFoundError:
            raise LakeError(f"{self.url} lost {path}, which its manifest names: restore it") from None
        except pa.ArrowException as error:
            raise self._damaged(path, error, "restore it from a copy") from None

    def _damaged(self, path: str, error: Exception, remedy: str) -> LakeError:
        return LakeError(f"{self.path(path)} is damaged ({str(error)[:120]}): {remedy}")


def _widened(part: pa.Table, asked: pa.Schema) -> pa.Table:
    """With the columns that came after the file was written, null."""
    for name in asked.names:
        if name not in part.column_names:
            part = part.append_column(name, pa.nulls(part.num_rows, asked.field(name).type))
    return part.select(asked.names).cast(asked)


def digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=10).hexdigest()


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
