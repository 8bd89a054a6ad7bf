"""Lists of customers: uploads, look-alikes, evaluated scores and batch audiences, from file to membership.

Who is in a list lies in the lake, `lists/<number>.parquet`, one file that an upload replaces; what the list
is lies in the registry (serving.lists). From the file come the customers' memberships: at once, by
difference, in the key space in use, and again with every materialisation.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.ids import MAX_ID_BYTES
from features.keyspace import KeySpace
from features.views import MEMBERSHIP
from serving.lists import Kind, ListEntry, ListError, ListShelf
from training.base_columns import Base
from training.id_sets import NOBODY, Ids, both, column_of, either, id_set, ids_of, minus
from training.lake import Lake
from training.memberships import Written, change_memberships, with_number
from training.profiles import USER_ID
from training.tables import parquet

FOLDER: Final = "lists"


class Upload(NamedTuple):
    """What an upload did: the list as it now is, records written, and who is in too many audiences for it."""

    entry: ListEntry
    added: int
    removed: int
    full: int
    strangers: int  # not in the base: they get the membership nevertheless


@dataclass(frozen=True, slots=True)
class Lists:
    """Where lists are kept and written to. `space` None: nothing is materialised yet, only kept."""

    shelf: ListShelf
    lake: Lake
    store: str | None = None
    space: KeySpace | None = None
    base: Base | None = None

    def write(
        self,
        name: str,
        ids: Ids,
        *,
        kind: Kind,
        owner: str,
        at: float,
        note: str = "",
        whole: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Upload:
        """Make `ids` (bare user ids) the list; only who comes or goes is written, unless `whole`.

        What is about to be written is put down first, so that after a killed upload the next one, of
        whatever list, knows who may be in and who surely is. Raises ListError, BulkError, StoreUnavailable.
        """
        ids = id_set(ids)
        entry = self.shelf.begin(name, kind, owner)
        coming, going = self._difference(entry.number, ids, whole)
        self.lake.put(_path(entry.number, intended=True), parquet(_table(ids)))
        told = self._change(entry.number, coming, going, progress)
        self.lake.put(_path(entry.number), parquet(_table(ids)))
        self._forget(_path(entry.number, intended=True))
        strangers = self._to_base(entry.number, ids)
        done = self.shelf.finish(entry, len(ids), at, note)
        return Upload(done, len(coming), len(going), told.full, strangers)

    def remove(self, name: str, progress: Callable[[int], None] | None = None) -> Upload:
        """Take a list away: memberships, file and entry. Raises ListError when there is none."""
        entry = self.entry(name)
        _, going = self._difference(entry.number, NOBODY, False)
        told = self._change(entry.number, NOBODY, going, progress)
        self._to_base(entry.number, NOBODY)
        for intended in (False, True):
            self._forget(_path(entry.number, intended=intended))
        self.shelf.remove(name)
        return Upload(entry, 0, told.changed, 0, 0)

    def entry(self, name: str) -> ListEntry:
        """Raises ListError for a list that is not there."""
        found = self.shelf.entries()
        if name not in found:
            raise ListError(f"there is no list {name!r}; there are: {', '.join(found) or 'none'}")
        return found[name]

    def members(self, number: int) -> Ids:
        """Who is in a list, ascending; nobody when it was never written."""
        return _members(self.lake, _path(number)) if self._there(_path(number)) else NOBODY

    def _difference(self, number: int, ids: Ids, whole: bool) -> tuple[Ids, Ids]:
        """Who has to be put in, and who taken out."""
        before = self.members(number)
        intended = _path(number, intended=True)
        then = _members(self.lake, intended) if self._there(intended) else before
        surely = NOBODY if whole else both(before, then)
        return minus(ids, surely), minus(either(before, then), ids)

    def _change(
        self, number: int, coming: Ids, going: Ids, progress: Callable[[int], None] | None
    ) -> Written:
        if self.store is None or self.space is None or MEMBERSHIP.name not in self.space.views:
            return Written(0, 0)
        return change_memberships(self.store, self.space, number, add=coming, remove=going, progress=progress)

    def _to_base(self, number: int, ids: Ids) -> int:
        if self.base is None:
            return 0
        rows = self.base.rows(ids)
        self.base.put_list(number, rows[rows >= 0])
        return int((rows < 0).sum())

    def _there(self, path: str) -> bool:
        return bool(self.lake.fs.exists(self.lake.path(path)))

    def _forget(self, path: str) -> None:
        if self._there(path):
            self.lake.fs.rm_file(self.lake.path(path))


def with_lists(
    lake: Lake, ids: tuple[str, ...], records: NDArray[np.void], member: NDArray[np.bool_]
) -> tuple[list[str], NDArray[np.void]]:
    """MEMBERSHIP records of everybody who is in some audience, every kept list included, and their ids.

    `records` and `member` are of `ids`, as the customers' table says. That comes first: a list takes what
    room a customer has left. Customers whom only lists know come last.
    """
    numbers = _kept(lake)
    lists = [_members(lake, _path(number)) for number in numbers]
    known = np.array([one.encode() for one in ids], np.bytes_)
    strangers = minus(id_set(np.concatenate([NOBODY, *lists])), id_set(known))
    every = np.concatenate([known, strangers])
    records = np.concatenate([records, MEMBERSHIP.blank(len(strangers))])
    member = np.concatenate([member, np.zeros(len(strangers), np.bool_)])
    for number, members in zip(numbers, lists, strict=True):
        rows = np.flatnonzero(np.isin(every, members))
        records["audiences"][rows], changed, _ = with_number(records["audiences"][rows], number)
        member[rows[changed]] = True
    return [one.decode() for one in every[member].tolist()], records[member]


def read_ids(path: Path) -> Ids:
    """Bare user ids from a file, distinct and ascending: one a line, or the column `user_id` of a CSV or a
    Parquet file. Raises ListError naming the first line that is no id.
    """
    try:
        column = _column(path)
    except (OSError, pa.ArrowException) as error:
        raise ListError(f"{path} cannot be read ({error}); give a text, CSV or Parquet file") from None
    lengths = pc.fill_null(pc.binary_length(pc.utf8_trim_whitespace(column)), 0)
    if len(column) and pc.max(lengths).as_py() > MAX_ID_BYTES:
        line = int(np.argmax(lengths.to_numpy())) + 1
        raise ListError(f"{path}: entry {line} has more than {MAX_ID_BYTES} bytes, so it is no user id")
    return id_set(ids_of(column))


def _column(path: Path) -> Any:
    if path.suffix == ".parquet":
        table = pq.read_table(path)
    else:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            named = USER_ID in [cell.strip().strip('"') for cell in file.readline().split(",")]
        options = pa.csv.ReadOptions(column_names=None if named else [USER_ID])
        convert = pa.csv.ConvertOptions(include_columns=[USER_ID], column_types={USER_ID: pa.string()})
        table = pa.csv.read_csv(path, options, convert_options=convert)
    if USER_ID not in table.column_names:
        raise ListError(f"{path} has no column {USER_ID}; name the column of user ids so")
    return table[USER_ID].cast(pa.string())


def _path(number: int, *, intended: bool = False) -> str:
    return f"{FOLDER}/{number}{'.coming' if intended else ''}.parquet"


def _kept(lake: Lake) -> list[int]:
    """Numbers of the lists that have a file, ascending."""
    if not lake.fs.exists(lake.path(FOLDER)):
        return []
    names = [str(path).rpartition("/")[2] for path in lake.fs.find(lake.path(FOLDER))]
    numbers = [name.removesuffix(".parquet") for name in names if name.endswith(".parquet")]
    return sorted(int(number) for number in numbers if number.isdecimal())


def _table(ids: Ids) -> pa.Table:
    return pa.table({USER_ID: column_of(ids)})


def _members(lake: Lake, path: str) -> Ids:
    table = pq.read_table(io.BytesIO(lake.fs.cat_file(lake.path(path))))
    return ids_of(table[USER_ID])
