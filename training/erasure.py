"""Erasing customers: from every store, the lake and all files of the home; and looking for what is left.

    erase(places, ids) -> report        what was deleted, where
    remains(places, ids) -> findings    empty: nothing names them any more

The log is ingested first, so that what waits there is met in the lake as well. Training's workspaces go as a
whole: they are copies, made again by the next training, which then learns from a lake that never had the
customer. Models hold nothing of a single customer; the next bundle is made without them.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.ids import user_subject, visitor_subject
from features.redis_address import Refused, as_user
from features.redis_erase import Whose, erase_entries, erase_keys, note_gone, remaining, rewrite
from features.spool_look import erased as erased_from_spool
from features.store import StoreUnavailable
from serving.settings import Settings
from training.lake import Lake, digest
from training.sample_columns import SampleError, load, save
from training.scores import FOLDER as SCORES
from training.tables import parquet, pc

NAMED_BY: Final = {
    "events": ("subject", "user_id", "visitor_id", "device"),
    "served": ("subject",),
    "outcomes": ("user_id",),
}
ANEW: Final = "append-only file written anew"
KEEPER: Final = "keeper"  # of the stores' users the one that may do this, and nothing else (k8s/stores)
COPIES: Final = ("work",)  # of the home: made again when they are needed
TEXTS: Final = frozenset({".json", ".jsonl", ".csv", ".txt", ".md", ".yaml", ".log", ".draft"})
WHOLE: Final = 64 << 20  # a file is searched in pieces of so many bytes


class Erased(NamedTuple):
    """`place`: store:ROLE, lake:TABLE, lists, base …; how `many` of `what` are gone."""

    place: str
    what: str
    many: int


@dataclass(frozen=True, slots=True)
class Places:
    """Where customers are: `settings` name a URL for every role."""

    settings: Settings
    lake: Lake

    @property
    def stores(self) -> dict[str, str]:
        """Roles by URL, each server once; control holds no customer."""
        found: dict[str, str] = {}
        for role, url in self.settings.store_urls.items():
            if url is not None and role != "control":
                found[url] = f"{found[url]}+{role}" if url in found else role
        return found


class Who(NamedTuple):
    users: tuple[str, ...]
    visitors: tuple[str, ...] = ()

    @property
    def subjects(self) -> tuple[str, ...]:
        return (*map(user_subject, self.users), *map(visitor_subject, self.visitors))


def erase(places: Places, who: Who, say: Callable[[str], None] = lambda _: None) -> list[Erased]:
    """Delete, place by place; doing it again is harmless. Call it alone in the home, the log ingested.

    Raises StoreUnavailable, LakeConflict: nothing is half done that doing it again would not finish.
    """
    whose = Whose(who.subjects)
    done: list[Erased] = []

    def told(one: Erased) -> None:
        done.append(one)
        say(f"{one.place}: {one.many:,} {one.what}")

    for table in NAMED_BY:
        told(Erased(f"lake:{table}", "rows", _from_table(places.lake, table, who, whose)))
    told(Erased("lake:quarantine", "lines", _from_quarantine(places.lake, whose)))
    told(Erased("lake:customers", "rows", _from_customers(places.lake, who)))
    told(Erased("lake:lists", "memberships", _from_folder(places.lake, "lists", who)))
    told(Erased("lake:scores", "records", _from_folder(places.lake, SCORES, who)))
    home = places.settings.home
    told(Erased("home:quarantine", "lines", _from_texts(home / "quarantine", whose)))
    told(Erased("home:base", "customers", _from_bases(home / "base", who)))
    told(Erased("home:sample", "pages", _from_sample(home / "sample", who)))
    told(Erased("spool", "records", _from_spool(places.settings, who, whose)))
    told(Erased("home:work", "copies removed", _without_copies(home)))
    for url, roles in places.stores.items():
        told(Erased(f"store:{roles}", "keys", _keys(url, whose)))
        told(Erased(f"store:{roles}", "log entries", erase_entries(url, whose) if "log" in roles else 0))
        told(Erased(f"store:{roles}", ANEW, int(_rewritten(url, places.settings.keeper_password))))
    return done


def remains(places: Places, who: Who) -> list[str]:
    """Every place that still names them; pseudonyms in the replay sample count. Reads everything."""
    whose = Whose(who.subjects)
    found = [f"store:{roles}" for url, roles in places.stores.items() if remaining(url, whose)]
    manifest = places.lake.manifest()
    for table, columns in NAMED_BY.items():
        for file in manifest.files[table]:
            rows = _read(places.lake, file["path"])
            if not bool(_kept(rows, table, columns, who, whose).all()):
                found.append(f"lake:{file['path']}")
    users = places.lake.read_users()
    if users is not None and _named(users["user_id"], who.users).any():
        found.append("lake:catalogue/users.parquet")
    for folder in ("lists", SCORES):
        by_user = _by_user(places.lake, folder)
        found += [f"lake:{path}" for path, ids in by_user if _named(ids, who.users).any()]
    roots = {places.settings.home, places.settings.spool_folder}
    found += [str(path) for root in roots for path in _files(root) if _holds(path, whose)]
    if _pages_of(places.settings.home / "sample", who):
        found.append(str(places.settings.home / "sample"))
    return sorted(set(found))


# --- the lake


def _from_table(lake: Lake, table: str, who: Who, whose: Whose) -> int:
    """Files that name them are written again without, and the former ones deleted."""
    gone, old = 0, []
    with lake.writing():
        manifest = lake.manifest()
        files: list[dict[str, Any]] = []
        for file in manifest.files[table]:
            rows = _read(lake, file["path"])
            kept = _kept(rows, table, NAMED_BY[table], who, whose)
            if kept.all():
                files.append(file)
                continue
            gone += int((~kept).sum())
            old.append(file["path"])
            left = rows.filter(pa.array(kept))
            if left.num_rows:
                files.append(_written(lake, table, file, left))
        if gone:
            manifest.files[table] = files
            lake.commit(manifest)
    for path in old:
        lake.fs.rm_file(lake.path(path))
    return gone


def _written(lake: Lake, table: str, file: dict[str, Any], left: pa.Table) -> dict[str, Any]:
    folder = file["path"].rpartition("/")[0]
    path = f"{folder}/part-{digest(file['path'] + str(left.num_rows))}.parquet"
    lake.put(path, parquet(left))
    times = left["occurred_at" if table == "outcomes" else "at"].to_numpy()
    return {
        **file,
        "path": path,
        "rows": left.num_rows,
        "low": float(times.min()),
        "high": float(times.max()),
    }


def _kept(rows: pa.Table, table: str, columns: Sequence[str], who: Who, whose: Whose) -> Any:
    """(n,) bool: rows that name none of them."""
    named = np.zeros(rows.num_rows, np.bool_)
    for column in columns:
        ids = {"user_id": who.users, "visitor_id": who.visitors}.get(column, who.subjects)
        if column in rows.column_names:  # files are older than some columns
            named |= _named(rows[column], ids)
    if table == "served":  # the record names a device beside the customer
        for at in np.flatnonzero(~named).tolist():
            named[at] = whose.payload(rows["record"][at].as_py())
    return ~named


def _named(column: Any, ids: Sequence[str]) -> Any:
    return np.asarray(pc.fill_null(pc.is_in(column, pa.array(list(ids), pa.string())), False))


def _read(lake: Lake, path: str) -> pa.Table:
    return pq.read_table(io.BytesIO(lake.fs.cat_file(lake.path(path))))


def _from_quarantine(lake: Lake, whose: Whose) -> int:
    gone = 0
    with lake.writing():
        manifest = lake.manifest()
        left: list[dict[str, Any]] = []
        for file in manifest.quarantine:
            lines = lake.fs.cat_file(lake.path(file["path"])).splitlines()
            good = [line for line in lines if not _line_names(line, whose)]
            gone += len(lines) - len(good)
            if len(good) < len(lines):
                lake.put(file["path"], b"\n".join([*good, b""]))
            left.append({**file, "rows": len(good)})
        if gone:
            manifest.quarantine = left
            lake.commit(manifest)
    return gone


def _line_names(line: bytes, whose: Whose) -> bool:
    said = json.loads(line)
    payload = base64.b64decode(said.get("payload", ""))
    return whose.payload(payload) or whose.text(payload)


def _from_customers(lake: Lake, who: Who) -> int:
    users = lake.read_users()
    if users is None:
        return 0
    named = _named(users["user_id"], who.users)
    if named.any():  # nobody else's facts are newer by it: what customers changed since still wins
        lake.write_users(users.filter(pa.array(~named)), at=lake.users_written_at())
    return int(named.sum())


def _from_folder(lake: Lake, folder: str, who: Who) -> int:
    """Lists (uploaded, look-alikes, whose seeds are lists, evaluated audiences); scores of the bank's models,
    earlier versions too, for a roll-back would bring them back."""
    gone = 0
    for path, ids in _by_user(lake, folder):
        named = _named(ids, who.users)
        if named.any():
            lake.put(path, parquet(_read(lake, path).filter(pa.array(~named))))
            gone += int(named.sum())
    return gone


def _by_user(lake: Lake, folder: str) -> Iterator[tuple[str, Any]]:
    """Parquet files with a column `user_id`, and that column."""
    if not lake.fs.exists(lake.path(folder)):
        return
    for found in sorted(lake.fs.find(lake.path(folder))):
        path = str(found)[len(lake.root) + 1 :]
        if path.endswith(".parquet"):
            yield path, _read(lake, path)["user_id"].cast(pa.string())


# --- the home


def _from_texts(folder: Path, whose: Whose) -> int:
    gone = 0
    for path in sorted(folder.rglob("*")) if folder.exists() else ():
        if path.is_file() and path.suffix in TEXTS:
            lines = path.read_bytes().splitlines(keepends=True)
            good = [line for line in lines if not whose.text(line)]
            if len(good) < len(lines):
                gone += len(lines) - len(good)
                draft = path.with_name(path.name + ".tmp")
                draft.write_bytes(b"".join(good))
                draft.replace(path)
    return gone


def _from_bases(folder: Path, who: Who) -> int:
    """Every column of a base loses the customers' rows; who is in an audience is numbered anew."""
    gone = 0
    for manifest in sorted(folder.glob("*/manifest.json")) if folder.exists() else ():
        base = manifest.parent
        ids = np.load(base / "ids.npy")
        rows = np.flatnonzero(np.isin(ids, np.array([one.encode() for one in who.users])))
        if not len(rows):
            continue
        for path in sorted(base.glob("*.npy")):
            column = np.load(path)
            if path.name.startswith("member."):
                left = column[~np.isin(column, rows)]
                column = (left - np.searchsorted(rows, left)).astype(column.dtype)
            else:
                column = np.delete(column, rows, axis=0)
            draft = base / f".{path.name}"
            np.save(draft, column)
            draft.replace(path)
        said = json.loads(manifest.read_text(encoding="utf-8"))
        manifest.write_text(
            json.dumps({**said, "n": said["n"] - len(rows)}, ensure_ascii=False), encoding="utf-8"
        )
        gone += len(rows)
    return gone


def _pages_of(folder: Path, who: Who) -> list[int]:
    """Pages of the replay sample that are theirs: subjects stand in it as hashes without a key."""
    try:
        subject = np.asarray(load(folder).subject)
    except SampleError:
        return []
    wanted = [int.from_bytes(blake2b(one.encode(), digest_size=8).digest(), "little") for one in who.subjects]
    pages: list[int] = np.flatnonzero(np.isin(subject, np.array(wanted, np.uint64))).tolist()
    return pages


def _from_sample(folder: Path, who: Who) -> int:
    theirs = _pages_of(folder, who)
    if theirs:
        sample = load(folder)
        save(sample.take(np.setdiff1d(np.arange(len(sample)), theirs)), folder)
    return len(theirs)


def _from_spool(settings: Settings, who: Who, whose: Whose) -> int:
    """Of this machine in place. Replicas elsewhere are told by the log's store to leave theirs out."""
    if settings.log_url is not None:
        note_gone(settings.log_url, who.subjects, time.time())
    return erased_from_spool(
        settings.spool_folder,
        lambda entry: entry.subject in who.subjects or whose.payload(entry.payload),
        whose.raw,
    )


def _without_copies(home: Path) -> int:
    """Training's workspaces, and blocks of a sample that was being taken."""
    found = [path for name in COPIES for path in (home / name).glob("*")]
    found += [path for path in home.glob(".*.blocks") if path.is_dir()]
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return len(found)


def _files(home: Path) -> Iterator[Path]:
    """What may hold an id as plain bytes: texts, arrays of ids, the embedded store's files."""
    for path in sorted(home.rglob("*")):
        if path.is_file() and path.suffix != ".parquet" and "bundles" not in path.parts:
            yield path


def _holds(path: Path, whose: Whose) -> bool:
    """Ids are searched with their edges; a piece overlaps the one before it by more than an id's length."""
    look = whose.text if path.suffix in TEXTS else whose.raw
    seen = b""
    try:
        with path.open("rb") as file:
            while piece := file.read(WHOLE):
                seen = seen[-256:] + piece
                if look(seen) or (path.name == "ids.npy" and whose.text(seen)):
                    return True
    except OSError:
        return False
    return False


def _rewritten(url: str, password: str | None) -> bool:
    """By the keeper where there is one: a store that knows no such user is asked by its own."""
    if password is not None:
        with suppress(StoreUnavailable):
            return rewrite(as_user(url, KEEPER, password))
    return rewrite(url)


def _keys(url: str, whose: Whose) -> int:
    try:
        return erase_keys(url, whose)
    except Refused as no:
        raise Refused(
            f"{no}; erasure looks through the whole store: give its user +scan (k8s/stores)"
        ) from None
