"""Imported scores of the bank's own models: from a file to packed records, gated, versioned, taken back.

A file has `user_id`, `item_id`, `score` and, where they expire each on their own, `expires` (RFC 3339 or
POSIX seconds). Of a customer the `KEPT` best count. The accepted rows lie in the lake, in
`scores/<model>/<n>.parquet`, beside `index.json` that says which version is live; from there come the
customers' records, by difference: who is no longer in the file loses the model's entries.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.external import ENTRY, KEPT, external_key, replaced, unpack
from features.ids import key32, keys64
from features.redis_address import Refused
from features.redis_plain import TIMEOUT_S, Pipe, piped, told
from features.views import CONSENTS
from training.columns import Codes, Rows, ids, numbers
from training.lake import Lake
from training.reading import read_table
from training.source import Quarantine
from training.tables import parquet

FOLDER: Final = "scores"
DAYS: Final = 30.0  # that a row without `expires` counts
LEAST_KNOWN: Final = 0.8  # share of the rows whose item the catalogue must know
MOST_SHIFT: Final = 3.0  # deviations that the mean score may move from one version to the next
LEAST_KEPT: Final = 0.5  # of the customers of the version before
VERSIONS: Final = 5  # kept in the lake
_BATCH: Final = 1_000
_NAME: Final = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,31}$")


class ScoresError(ValueError):
    """Scores that cannot be imported; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Imported:
    """Accepted rows: customers' ids, ascending, each with its entries `ENTRY`, best first (CSR)."""

    users: tuple[str, ...]
    indptr: NDArray[np.int64]
    entries: NDArray[np.void]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.users)

    def of(self, place: int) -> NDArray[np.void]:
        return self.entries[self.indptr[place] : self.indptr[place + 1]]


def check_name(model: str) -> None:
    """Raises ScoresError for what is no model's name."""
    if not _NAME.match(model):
        raise ScoresError(f"--model {model!r}: use 1 to 32 small letters, digits, `_`, `.` or `-`")


def read_scores(path: Path, model: str, known: NDArray[np.uint64], *, now: float) -> Imported:
    """`known`: keys of the catalogue's items. Raises ScoresError, DataError."""
    check_name(model)
    quarantine = Quarantine()
    table = read_table(path, quarantine).having("user_id", "item_id", "score")
    rows = Rows(table, quarantine)
    user, item = ids(rows, "user_id", "user"), ids(rows, "item_id", "item")
    score = numbers(rows, "score")
    rows.reject(~np.isfinite(score), "score", "the score is not a finite number", "Leave the row out")
    until = _expiry(table.columns, len(table), now)
    rows.reject(~np.isfinite(until), "expires", "no time", "Write RFC 3339 or POSIX seconds")
    good = rows.finish()
    notes = [quarantine.summary()] if len(quarantine) else []
    late = good & (until <= now)
    keys = keys64(item.values)[item.codes] if len(item.values) else np.zeros(0, np.uint64)
    strange = good & ~np.isin(keys, known)
    for what, said in (
        (late, "have expired"),
        (strange & ~late, "name an item that is not in the catalogue"),
    ):
        if what.any():
            notes.append(f"{int(what.sum()):,} of {len(table):,} rows {said}")
    if good.any() and strange.sum() > (1.0 - LEAST_KNOWN) * good.sum():
        raise ScoresError(
            f"{path}: {strange.sum() / good.sum():.0%} of the rows name items that the catalogue does not "
            "know; import the catalogue first, or check the ids"
        )
    kept = good & ~late & ~strange
    if not kept.any():
        raise ScoresError(f"{path}: no row is left ({'; '.join(notes) or 'it is empty'})")
    return _grouped(user.taken(kept), keys[kept], score[kept], until[kept], model, notes)


def _expiry(columns: Mapping[str, Any], n: int, now: float) -> NDArray[np.float64]:
    if "expires" not in columns:
        return np.full(n, now + DAYS * 86_400.0)
    return np.array([_moment(one) for one in columns["expires"].to_pylist()], np.float64)


def _moment(said: Any) -> float:
    text = str(said or "").strip()
    try:
        return float(text)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return float("nan")
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _grouped(
    user: Codes,
    keys: NDArray[np.uint64],
    score: NDArray[np.float64],
    until: NDArray[np.float64],
    model: str,
    notes: list[str],
) -> Imported:
    names, place = np.unique(np.array(user.values, object)[user.codes].astype(str), return_inverse=True)
    order = np.lexsort((keys, -score, place))
    cell = np.stack((place[order].astype(np.uint64), keys[order]), axis=1)
    _, first = np.unique(cell, axis=0, return_index=True)  # the best of a repeated pair
    if len(first) < len(order):
        notes.append(
            f"{len(order) - len(first):,} rows repeat a customer and an item: the highest score counts"
        )
    order = order[np.sort(first)]
    starts = np.searchsorted(place[order], np.arange(len(names)))
    rank = np.arange(len(order)) - starts[place[order]]
    if (rank >= KEPT).any():
        notes.append(f"{int((rank >= KEPT).sum()):,} rows beyond a customer's {KEPT} best are left out")
    order = order[rank < KEPT]
    entries = np.zeros(len(order), ENTRY)
    entries["item"], entries["model"] = keys[order], key32(model)
    entries["score"] = score[order]
    entries["expires"] = np.minimum(until[order], np.iinfo(np.uint32).max)
    indptr = np.searchsorted(place[order], np.arange(len(names) + 1)).astype(np.int64)
    return Imported(tuple(names.tolist()), indptr, entries, tuple(notes))


@dataclass(frozen=True, slots=True)
class Scores:
    """Where imported scores are kept, and the store that serves them (None: kept only)."""

    lake: Lake
    store: str | None

    def put(
        self,
        model: str,
        found: Imported,
        *,
        at: float,
        consents: Sequence[str] = (),
        force: bool = False,
        progress: Callable[[int], None] | None = None,
        onnx: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make it the model's live version; what the index says of it. Without the `consents` (of CONSENTS) a
        customer's scores lie there and are not used. `onnx`: of a model that made them, its digest and how it
        was asked, JSON-able. Raises ScoresError for what the gate refuses unless `force`, StoreUnavailable,
        ValueError for a customer with too many models.
        """
        index = self.index(model)
        said = {"version": index["next"], "at": at, "consents": list(consents), **_figures(found)}
        if onnx is not None:
            said["onnx"] = onnx["digest"]
        live = next((one for one in index["versions"] if one["version"] == index["live"]), None)
        if live is not None and not force and (why := _worse(said, live)):
            raise ScoresError(f"{model}: {why}; --force imports it all the same")
        self.lake.put(_path(model, said["version"]), parquet(_table(found)))
        self._swap(model, index["live"], found, consents, progress)
        versions = [*index["versions"], {**said, "forced": force}][-VERSIONS:]
        made_by = {} if onnx is None else {"onnx": dict(onnx)}
        self._write(
            model, {"live": said["version"], "next": said["version"] + 1, "versions": versions, **made_by}
        )
        return said

    def rollback(self, model: str, progress: Callable[[int], None] | None = None) -> int:
        """Make the version before the live one live again; its number. Raises ScoresError."""
        index = self.index(model)
        before = [one["version"] for one in index["versions"] if one["version"] < (index["live"] or 0)]
        if not before:
            raise ScoresError(f"{model}: there is no version before the live one")
        asked = next(one.get("consents", ()) for one in index["versions"] if one["version"] == before[-1])
        self._swap(model, index["live"], self.read(model, before[-1]), asked, progress)
        self._write(model, {**index, "live": before[-1]})
        return int(before[-1])

    def remove(self, model: str, progress: Callable[[int], None] | None = None) -> None:
        """Take the model's scores from every customer; what was imported stays in the lake."""
        index = self.index(model)
        if index["live"] is None:
            raise ScoresError(f"there are no live scores of {model!r}; there are: {', '.join(self.models())}")
        self._swap(model, index["live"], None, (), progress)
        self._write(model, {**index, "live": None})

    def models(self) -> list[str]:
        """Every model that ever was imported, in order."""
        root = self.lake.path(FOLDER)
        if not self.lake.fs.exists(root):
            return []
        return sorted({str(path).rsplit("/", 2)[-2] for path in self.lake.fs.find(root)})

    def index(self, model: str) -> dict[str, Any]:
        """{"live": number or None, "next": number, "versions": […]}."""
        path = self.lake.path(f"{FOLDER}/{model}/index.json")
        if not self.lake.fs.exists(path):
            return {"live": None, "next": 1, "versions": []}
        found: dict[str, Any] = json.loads(self.lake.fs.cat_file(path))
        return found

    def read(self, model: str, version: int) -> Imported:
        """One version as it was imported."""
        path = self.lake.path(_path(model, version))
        table = pq.read_table(io.BytesIO(self.lake.fs.cat_file(path)))
        lengths = table["count"].to_numpy()
        indptr = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        users: list[Any] = table["user_id"].to_pylist()
        records: list[Any] = table["entries"].to_pylist()
        return Imported(tuple(users), indptr, np.frombuffer(b"".join(records), ENTRY), ())

    def keep(self, model: str, name: str, blob: bytes) -> None:
        """A file of the model's own beside its versions, for `kept`."""
        check_name(model)
        self.lake.put(f"{FOLDER}/{model}/{name}", blob)

    def kept(self, model: str, name: str) -> bytes:
        """Raises ScoresError where there is none."""
        path = self.lake.path(f"{FOLDER}/{model}/{name}")
        if not self.lake.fs.exists(path):
            raise ScoresError(f"{model}: {name} is not kept in the lake; name the file")
        blob: bytes = self.lake.fs.cat_file(path)
        return blob

    def _write(self, model: str, index: Mapping[str, Any]) -> None:
        self.lake.put(f"{FOLDER}/{model}/index.json", json.dumps(index, indent=1).encode())

    def _swap(
        self,
        model: str,
        live: int | None,
        new: Imported | None,
        consents: Sequence[str],
        progress: Callable[[int], None] | None,
    ) -> None:
        """The customers' records: the new entries, and none for those who were in the live version only."""
        if self.store is None:
            return
        places = {} if new is None else {user: place for place, user in enumerate(new.users)}
        gone = [] if live is None else [one for one in self.read(model, live).users if one not in places]
        none, bits = np.zeros(0, ENTRY), sum(1 << CONSENTS.index(one) for one in set(consents))
        every = [*places, *gone]
        with piped(self.store, TIMEOUT_S) as pipe:
            for start in range(0, len(every), _BATCH):
                some = every[start : start + _BATCH]
                parts = [none if new is None or u not in places else new.of(places[u]) for u in some]
                _rewrite(pipe, model, some, parts, bits)
                if progress is not None:
                    progress(len(some))


def _rewrite(pipe: Pipe, model: str, users: list[str], parts: list[NDArray[np.void]], consents: int) -> None:
    """Read, change and write back the records of some customers: two round trips."""
    keys = [external_key(user) for user in users]
    pipe.send(_command(b"MGET", *keys))
    with told(pipe.lost):
        held = pipe.connection.read_response()
    commands = []
    for key, blob, entries in zip(keys, held, parts, strict=True):
        now = replaced(blob, model, entries, consents)
        if now is None:
            commands.append(_command(b"DEL", key))
            continue
        until = int(unpack(now)["expires"].max())
        commands.append(_command(b"SET", key, now, b"EXAT", b"%d" % max(until, 1)))
    pipe.send(b"".join(commands))
    try:
        pipe.settle(len(commands))
    except Refused as refused:
        raise ScoresError(f"the store refused scores of {model}: {refused.text}") from refused


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(one), one) for one in words)


def _figures(found: Imported) -> dict[str, Any]:
    score = found.entries["score"].astype(np.float64)
    return {
        "customers": len(found), "rows": len(score), "items": len(np.unique(found.entries["item"])),
        "mean": float(score.mean()), "deviation": float(score.std()),
        "expires": float(found.entries["expires"].max()),
    }  # fmt: skip


def _worse(mine: Mapping[str, Any], live: Mapping[str, Any]) -> str:
    """Why it looks wrong beside the live version; empty where it does not."""
    if mine["customers"] < LEAST_KEPT * live["customers"]:
        return f"{mine['customers']:,} customers, {live['customers']:,} in the live version"
    spread = max(live["deviation"], 1e-9)
    shift = abs(mine["mean"] - live["mean"]) / spread
    if shift > MOST_SHIFT:
        return f"the mean score moved by {shift:.1f} deviations from the live version's"
    if live["deviation"] > 0 and mine["deviation"] == 0:
        return "all scores are equal"
    return ""


def _path(model: str, version: int) -> str:
    return f"{FOLDER}/{model}/{version}.parquet"


def _table(found: Imported) -> pa.Table:
    counts = np.diff(found.indptr)
    blobs = [found.of(place).tobytes() for place in range(len(found))]
    return pa.table(
        {"user_id": list(found.users), "count": pa.array(counts), "entries": pa.array(blobs, pa.binary())}
    )
