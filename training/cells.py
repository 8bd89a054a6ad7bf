"""Single columns of any Arrow type as text, and what counts as an empty cell."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute

arrow: Any = pa  # as untyped: the stubs know fewer argument types than the library takes
pc: Any = pyarrow.compute

MISSING: Final = frozenset({"", "nan", "NaN", "NAN", "null", "NULL", "None", "NA", "N/A", "<NA>", "NaT"})


def numeric(kind: Any) -> bool:
    """Whether an Arrow type holds numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def text_of(column: Any, *, empty: str = "") -> Any:
    """Any Arrow column as one text array; nulls stay null.

    Whole floats (an integer column with gaps) lose their `.0`; a list becomes its parts with `|` between
    them, an empty list `empty`.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if kind == pa.string():
        return column
    if pa.types.is_dictionary(kind):
        return text_of(column.cast(kind.value_type))
    if pa.types.is_floating(kind):
        return pc.cast(_whole(column), pa.string())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        texts = [None if v is None else v.decode("utf-8", "replace") for v in column.to_pylist()]
        return pa.array(texts, pa.string())
    if pa.types.is_nested(kind):
        texts = [None if v is None else "|".join(map(str, v)) or empty for v in column.to_pylist()]
        return pa.array(texts, pa.string())
    return pc.cast(column, pa.string())


def _whole(column: Any) -> Any:
    """Floats as integers when every finite one is whole and exact; non-finite become null then."""
    values = column.to_numpy(zero_copy_only=False)
    finite = np.isfinite(values)
    whole = values[finite]
    if bool((whole == np.floor(whole)).all()) and bool((np.abs(whole) < 2**53).all()):
        return pa.array(np.where(finite, values, 0).astype(np.int64), mask=~finite)
    return column
