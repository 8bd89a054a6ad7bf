"""Sets of ids as ascending byte strings without repeats: made, read from and put into columns, taken apart.

NumPy's own set routines hash and sort whatever they are given: half a microsecond an id for what mostly is in
order already.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ids = NDArray[np.bytes_]
NOBODY: Final[Ids] = np.zeros(0, "S1")


def id_set(ids: Ids) -> Ids:
    """The ids, ascending, each once."""
    ids = ids if _ascends(ids) else np.sort(ids)
    if _ascends(ids):
        return ids
    once: Ids = ids[np.concatenate([[True], ids[1:] != ids[:-1]])]
    return once


def minus(ids: Ids, others: Ids) -> Ids:
    """Of one set, who is not in another."""
    return ids[~among(ids, others)] if len(others) else ids


def both(ids: Ids, others: Ids) -> Ids:
    """Who is in both sets."""
    return ids[among(ids, others)]


def either(ids: Ids, others: Ids) -> Ids:
    """Who is in one set or the other."""
    more = minus(others, ids)
    return id_set(np.concatenate([ids, more])) if len(more) else ids


def among(ids: Ids, others: Ids) -> NDArray[np.bool_]:
    """Which of the ids are in a set."""
    if not len(others) or not len(ids):
        return np.zeros(len(ids), np.bool_)
    at = np.minimum(np.searchsorted(others, ids), len(others) - 1)
    found: NDArray[np.bool_] = others[at] == ids
    return found


def ids_of(column: Any) -> Ids:
    """Texts of a column, in its order, trimmed; nulls and blanks are left out."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    texts = pc.utf8_trim_whitespace(whole.drop_null().cast(pa.large_string()))
    count = len(texts)
    if not count:
        return NOBODY
    _, offsets, data = (memoryview(one if one is not None else b"") for one in texts.buffers())
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + count + 1]
    lengths, raw = np.diff(ends), np.frombuffer(data, np.uint8)
    out = np.zeros((count, max(int(lengths.max()), 1)), np.uint8)
    for length in np.unique(lengths[lengths > 0]).tolist():
        rows = np.flatnonzero(lengths == length)
        out[rows, :length] = raw[ends[rows][:, None] + np.arange(length)]
    found: Ids = out.view(f"S{out.shape[1]}").ravel()
    return found[lengths > 0]


def column_of(ids: Ids) -> Any:
    """A column of texts. Raises pyarrow.ArrowInvalid for what is no UTF-8."""
    return pa.array(ids.tolist(), pa.binary()).cast(pa.string())


def _ascends(ids: Ids) -> bool:
    return bool((ids[1:] > ids[:-1]).all())
