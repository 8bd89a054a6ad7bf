"""Text and Parquet files -> columns, with the line each row came from. Every way in which a file can be
broken ends in a `DataError` that names it; rows with the wrong number of fields go to the quarantine.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from training.cells import pc
from training.source import TOO_MANY_BAD, DataError, Quarantine, shown

_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_FOREIGN: Final = {
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "unpack it, or save the sheet as CSV"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "decompress it, or compress it by gzip"),
    b"BZh": ("compressed by bzip2", "decompress it, or compress it by gzip"),
    b"\xfd7zXZ": ("compressed by xz", "decompress it, or compress it by gzip"),
    b"\xff\xfe": ("UTF-16 text", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "save it as UTF-8"),
}
_DELIMITERS = (",", "\t", ";", "|")


@dataclass(frozen=True, slots=True)
class RawTable:
    """A file's rows. `columns` are Arrow arrays: text for text files, typed for Parquet.

    `lines` (n,) is the line of each row (the header is line 1), or the row number from 1 for Parquet:
    `unit` says which.
    """

    file: str
    columns: dict[str, Any]
    lines: NDArray[np.int64]
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.lines)

    def having(self, *names: str) -> RawTable:
        """The table itself, when it has these columns; for files whose form is fixed."""
        for name in names:
            if name not in self.columns:
                there = ", ".join(list(self.columns)[:20])
                raise self.error(
                    name, None, f"there is no such column; there are {there}", "Fetch the file again"
                )
        return self

    def error(self, column: str | None, index: int | None, problem: str, remedy: str) -> DataError:
        """A DataError about this file; `index` is a row of the table."""
        row = None if index is None else int(self.lines[index])
        return DataError(self.file, column, row, problem, remedy, self.unit)


def digest_of(paths: Sequence[Path], how: object) -> str:
    """16 hex digits of the files' bytes and of `how` they are read (its `repr`)."""
    total = blake2b(repr(how).encode(), digest_size=8)
    for path in paths:
        require_file(path)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def require_file(path: Path) -> Path:
    """The path itself, when a readable file lies there."""
    if path.is_dir():
        raise DataError(str(path), None, None, "this is a folder, not a file", "Name the file inside it")
    if not path.exists():
        near = (
            sorted(p.name for p in path.parent.glob("*") if p.is_file())[:5] if path.parent.is_dir() else []
        )
        hint = f"In that folder there are: {', '.join(near)}" if near else "Check the path"
        raise DataError(str(path), None, None, "there is no such file", hint)
    return path


def read_table(
    path: Path,
    quarantine: Quarantine,
    *,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    names: Sequence[str] | None = None,
) -> RawTable:
    """Read CSV, TSV (each also gzipped) or Parquet. `names`: the columns of a file that has no header line.

    The whole file is held in memory. Raises DataError when the file is missing, empty, broken or not of
    these formats.
    """
    content = _bytes(path)
    if content[:4] == _PARQUET:
        return _parquet(path, content)
    if path.suffix in (".parquet", ".pq"):
        raise DataError(
            str(path), None, None, "this is not Parquet", "Write it again, or name it .csv if it is text"
        )
    return parse_text(
        str(path), decode(path, content, encoding), quarantine, delimiter=delimiter, names=names
    )


def read_text(path: Path, *, encoding: str = "utf-8") -> str:
    """The text of a file, decompressed and decoded; DataError when either is impossible."""
    return decode(path, _bytes(path), encoding)


def _bytes(path: Path) -> bytes:
    try:
        content = require_file(path).read_bytes()
    except OSError as error:
        raise DataError(
            str(path), None, None, f"cannot be read ({error.strerror})", "Check its permissions"
        ) from None
    if content[:2] == _GZIP:
        content = _unzip(path, content)
    elif path.suffix == ".gz":
        raise DataError(str(path), None, None, "this is not gzip", "Compress it, or drop .gz from its name")
    if not content.strip():
        raise DataError(
            str(path), None, None, "the file is empty", "Export it again: a header and at least one row"
        )
    return content


def _unzip(path: Path, content: bytes) -> bytes:
    try:
        return gzip.decompress(content)
    except EOFError:
        problem, remedy = "the gzip data ends too early", "Copy or export the file again: it was cut off"
    except (zlib.error, gzip.BadGzipFile) as error:
        problem, remedy = f"the gzip data is damaged ({error})", "Copy or export the file again"
    raise DataError(str(path), None, None, problem, remedy)


def decode(path: Path, content: bytes, encoding: str) -> str:
    for magic, (what, remedy) in _FOREIGN.items():
        if content.startswith(magic):
            raise DataError(str(path), None, None, f"this is {what}", remedy[0].upper() + remedy[1:])
    if b"\0" in content[: 1 << 16]:
        raise DataError(str(path), None, None, "this is binary data, not text", "Export it as CSV or Parquet")
    try:
        return content.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"byte 0x{content[error.start]:02x} is not valid {encoding}"
        remedy = "Save the file as UTF-8, or name its encoding, for example gb18030 or latin-1"
        raise DataError(str(path), None, line, problem, remedy) from None
    except LookupError:
        raise DataError(
            str(path), None, None, f"there is no encoding '{encoding}'", "Try gb18030 or latin-1"
        ) from None


def parse_text(
    file: str,
    text: str,
    quarantine: Quarantine,
    *,
    delimiter: str | None = None,
    names: Sequence[str] | None = None,
) -> RawTable:
    """Delimited text -> text columns; rows with another number of fields than the header are quarantined."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.rstrip("\n")
    header = text.partition("\n")[0]
    mark = delimiter or max(_DELIMITERS, key=header.count)
    columns = list(names) if names else [name.strip().strip('"').strip() for name in header.split(mark)]
    _check_header(file, columns, mark, has_header=names is None)
    if names is None and "\n" not in text:
        raise DataError(file, None, None, "there is a header but no row", "Export the rows as well")
    broken: list[pacsv.InvalidRow] = []

    def set_aside(row: pacsv.InvalidRow) -> Literal["skip"]:
        broken.append(row)
        return "skip"

    try:
        table = pacsv.read_csv(
            io.BytesIO(text.encode()),
            read_options=pacsv.ReadOptions(
                use_threads=False, column_names=columns, skip_rows=0 if names else 1
            ),
            parse_options=pacsv.ParseOptions(
                delimiter=mark,
                newlines_in_values='"' in text,
                ignore_empty_lines=False,
                invalid_row_handler=set_aside,
            ),
            convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string())),
        )
    except pa.ArrowInvalid as error:
        remedy = "Check for an unclosed quotation mark"
        raise DataError(file, None, None, f"cannot be read as rows ({shown(error)})", remedy) from None
    total = table.num_rows + len(broken)
    lines, dropped = _lines(table, broken, first=1 if names else 2)
    if broken:
        reason = f"the row has not {len(columns)} fields"
        quarantine.add(file, "", reason, dropped, [row.text for row in broken])
    if len(broken) > TOO_MANY_BAD * total:
        problem = f"{len(broken):,} of {total:,} rows have not the header's {len(columns)} fields"
        raise DataError(file, None, int(dropped[0]), problem, "Check the delimiter and the quotation marks")
    return RawTable(file, dict(zip(columns, table.columns, strict=True)), lines)


def _check_header(file: str, columns: Sequence[str], mark: str, *, has_header: bool) -> None:
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise DataError(file, twice, 1, "the header names this column twice", "Rename one of them")
    if has_header and all(_numeric(name) for name in columns):
        problem = f"the first line is data ({shown(mark.join(columns))}), not a header"
        raise DataError(file, None, 1, problem, "Put the column names into the first line")


def _numeric(text: str) -> bool:
    return bool(text) and text.replace(".", "", 1).replace("-", "", 1).isdigit()


def _lines(table: pa.Table, broken: Sequence[Any], first: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lines of the rows kept and of those dropped; a quoted value with line breaks moves what follows."""
    numbers = np.array([row.number for row in broken], np.int64)  # counted from 1, the header included
    records = np.setdiff1d(
        np.arange(1, table.num_rows + len(broken) + 1), numbers - (first - 1), assume_unique=True
    )
    breaks = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        if pc.any(pc.match_substring(column, "\n")).as_py():
            breaks += pc.count_substring(column, "\n").to_numpy()
    before = np.cumsum(breaks) - breaks
    shift = np.concatenate([before, before[-1:] + breaks[-1:]]) if len(breaks) else np.zeros(1, np.int64)
    dropped = numbers + shift[np.minimum(np.searchsorted(records, numbers), len(shift) - 1)]
    return records + (first - 1) + before, dropped


def _parquet(path: Path, content: bytes) -> RawTable:
    try:
        names = pq.read_schema(io.BytesIO(content)).names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(str(path), twice, None, "the file has this column twice", "Rename one of them")
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        problem = f"this Parquet file is damaged ({shown(error)})"
        raise DataError(str(path), None, None, problem, "Write or copy it again") from None
    if not table.num_rows:
        raise DataError(str(path), None, None, "the file has no row", "Export the rows as well")
    columns = {name: _plain(column) for name, column in zip(table.column_names, table.columns, strict=True)}
    return RawTable(str(path), columns, np.arange(1, table.num_rows + 1), "row")


def _plain(column: Any) -> Any:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
