"""The customer base as columns: a memory-mapped copy of what was materialised, one `.npy` per field.

    base/<key space version>/manifest.json    customers, watermark, attribute values
    base/<version>/<field>.npy, known.npy     PROFILE's columns and known bits, as a decision sees them
    base/<version>/ids.npy                    bare user ids, ascending, as bytes
    base/<version>/score.<name>.npy           numeric columns that PROFILE does not declare; NaN unknown
    base/<version>/member.<number>.npy        rows of the customers in an audience, ascending

A folder appears whole, under its version. It holds customers' ids as the lake does, and goes with the lake.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.ids import key32
from features.keyspace import ViewBatch
from features.views import MEMBERSHIP, PROFILE
from serving.audience_columns import Columns
from training.cells import MISSING, numeric, pc, text_of
from training.profiles import USER_ID, Profiles, as_served, attribute_columns, rows_of

KEPT: Final = 2  # the one in use and the one before: what a roll-back points at


class BaseError(ValueError):
    """The columnar copy of the base cannot be used; says what to do."""


@dataclass(frozen=True, slots=True)
class BaseCopy:
    """Where a materialisation leaves its columns. `folder`: home/base; `users`: the customers' table."""

    folder: Path
    users: pa.Table | None

    def write(self, version: str, batches: Sequence[ViewBatch]) -> Path:
        """The base of a key space; older ones than the last KEPT are removed."""
        draft, final = self.folder / f".{version}.draft", self.folder / version
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        (profiles,) = (batch for batch in batches if batch.view.name == PROFILE.name)
        ids = _bytes(profiles.ids)
        _write_profiles(draft, ids, profiles)
        for batch in batches:
            if batch.view.name == MEMBERSHIP.name:
                _write_memberships(draft, ids, batch)
        attributes = _write_facts(draft, ids, self.users)
        said = {"format": 1, "n": len(ids), "as_of": profiles.as_of, "attributes": attributes}
        (draft / "manifest.json").write_text(json.dumps(said, ensure_ascii=False), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        _prune(self.folder, version)
        return final


class Base:
    """A written base, memory-mapped: nothing is read before it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Raises BaseError when there is none, or it is of another format."""
        try:
            said = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            remedy = "materialise the features again (fenliu train)"
            raise BaseError(f"{folder} holds no base of customers ({error}); {remedy}") from None
        if said.get("format") != 1:
            raise BaseError(f"{folder} is of another format; materialise again (fenliu train)")
        self.folder, self.version = folder, folder.name
        self.n, self.as_of = int(said["n"]), float(said["as_of"])
        self.attributes: Mapping[str, list[str]] = said["attributes"]
        self.fields: Mapping[str, NDArray[Any]] = {name: self._load(name) for name in PROFILE.names}

    @cached_property
    def ids(self) -> NDArray[np.bytes_]:
        ids: NDArray[np.bytes_] = self._load("ids")
        return ids

    @cached_property
    def known(self) -> NDArray[np.uint64]:
        known: NDArray[np.uint64] = self._load("known")
        return known

    @cached_property
    def memberships(self) -> dict[int, NDArray[np.int32]]:
        """Rows by the audience's number."""
        found = sorted(self.folder.glob("member.*.npy"))
        return {int(path.name.split(".")[1]): np.load(path, mmap_mode="r") for path in found}

    @cached_property
    def scores(self) -> dict[str, NDArray[np.float32]]:
        """Imported scores by name, NaN where a customer has none."""
        found = sorted(self.folder.glob("score.*.npy"))
        return {path.name[len("score.") : -len(".npy")]: np.load(path, mmap_mode="r") for path in found}

    @property
    def columns(self) -> Columns:
        """What `CompiledAudiences.evaluate_columns` takes; live behaviour is not among it."""
        return Columns(self.n, self.fields, self.known, self.memberships)

    def rows(self, ids: Sequence[str] | NDArray[np.bytes_]) -> NDArray[np.int64]:
        """The row of each id, -1 for who is not in the base."""
        if not self.n or not len(ids):
            return np.full(len(ids), -1, np.int64)
        wanted = _bytes(ids)
        held = np.asarray(self.ids)
        at = np.minimum(np.searchsorted(held, wanted), self.n - 1)
        return np.where(held[at] == wanted, at, -1)

    def put_list(self, number: int, rows: NDArray[np.int64]) -> None:
        """Replace who is in a list; an empty one is forgotten. Files are replaced whole."""
        path = self.folder / f"member.{number}.npy"
        if len(rows):
            draft = self.folder / f".member.{number}.npy"
            np.save(draft, np.unique(rows).astype(np.int32))
            draft.replace(path)
        else:
            path.unlink(missing_ok=True)
        self.__dict__.pop("memberships", None)

    def _load(self, name: str) -> Any:
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")


def newest(folder: Path, version: str | None = None) -> Base:
    """The base of a key space, by default of the one written last. Raises BaseError."""
    if version is not None:
        return Base(folder / version)
    found = _written(folder)
    if not found:
        raise BaseError(f"{folder} holds no base of customers; materialise the features first (fenliu train)")
    return Base(found[-1])


def _written(folder: Path) -> list[Path]:
    return sorted(
        (path.parent for path in folder.glob("[!.]*/manifest.json")),
        key=lambda path: (path / "manifest.json").stat().st_mtime_ns,
    )


def _prune(folder: Path, version: str) -> None:
    for path in [path for path in _written(folder) if path.name != version][: -(KEPT - 1)]:
        shutil.rmtree(path)


def _bytes(ids: Sequence[str] | NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    return ids if isinstance(ids, np.ndarray) else np.array([one.encode() for one in ids], np.bytes_)


def _write_profiles(folder: Path, ids: NDArray[np.bytes_], batch: ViewBatch) -> None:
    """The records column by column, each as a decision sees it: what was refused is unknown."""
    if len(ids) > 1 and not (ids[:-1] < ids[1:]).all():
        raise BaseError("the customers' ids are not in ascending order; this is a bug of the caller")
    served = as_served(Profiles(batch.blobs["values"], batch.blobs["known"]))
    np.save(folder / "ids.npy", ids)
    np.save(folder / "known.npy", served.known)
    for name in PROFILE.names:
        column = np.ascontiguousarray(served.records[name])
        np.save(folder / f"{name}.npy", _zones(column) if name == "tz" else column)


def _zones(names: NDArray[np.bytes_]) -> NDArray[np.uint32]:
    """key32 of each zone's name, 0 for none."""
    distinct, codes = np.unique(names, return_inverse=True)
    keys = [key32(name.decode(errors="replace")) if name else 0 for name in distinct.tolist()]
    return np.array(keys, np.uint32)[codes]


def _write_memberships(folder: Path, ids: NDArray[np.bytes_], batch: ViewBatch) -> None:
    wanted = _bytes(batch.ids)
    at = np.minimum(np.searchsorted(ids, wanted), max(len(ids) - 1, 0))
    here = ids[at] == wanted if len(ids) else np.zeros(len(wanted), np.bool_)  # not whom only lists know
    at, held = at[here], batch.blobs["values"]["audiences"][here]
    row, place = np.nonzero(held)
    numbers = held[row, place]
    order = np.lexsort((at[row], numbers))
    rows, numbers = at[row][order].astype(np.int32), numbers[order]
    distinct, starts = np.unique(numbers, return_index=True)
    for number, some in zip(distinct.tolist(), np.split(rows, starts[1:]), strict=True) if len(rows) else ():
        np.save(folder / f"member.{number}.npy", some)


def _write_facts(folder: Path, ids: NDArray[np.bytes_], users: pa.Table | None) -> dict[str, list[str]]:
    """Scores, one file each; returns the values of every attribute column."""
    if users is None or not users.num_rows:
        return {}
    attributes = attribute_columns(users)
    spoken_for = {USER_ID, "audiences", *PROFILE.names, *attributes}
    at = rows_of(users, [one.decode() for one in ids.tolist()])
    for name in users.column_names:
        if name not in spoken_for and numeric(users[name].type) and name.replace("_", "").isalnum():
            values = np.asarray(pc.cast(users[name], pa.float32()).to_numpy(), np.float32)
            np.save(folder / f"score.{name}.npy", np.where(at >= 0, values[at], np.float32(np.nan)))
    return {
        name: sorted({one.strip() for one in pc.unique(text_of(users[name])).to_pylist() if one} - MISSING)
        for name in attributes
    }
