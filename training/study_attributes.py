"""Tables of users' and items' attributes -> profile tokens, segments, and groups to slice by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.transforms import attribute_token
from training.model import Customers
from training.source import DataError
from training.study_files import Attributes

LEVELS: Final = 5  # buckets that a column of many numbers is cut into
MOST_VALUES: Final = 200  # distinct values of a column that still says something


def customers_from(
    users: tuple[str, ...], known: Attributes | None, segment: str | None
) -> tuple[Customers, tuple[str, ...]]:
    """Profile tokens and segments from a table of attributes; the segments' names by code, "" first."""
    n = len(users)
    if known is None:
        return Customers.unknown(n), ()
    if segment is not None and segment not in known.columns:
        there = ", ".join(known.columns)
        raise DataError(
            "the users' attributes",
            segment,
            None,
            f"there is no such column; there are {there}",
            "Correct --segment",
        )
    row = {one: place for place, one in enumerate(known.ids)}
    at = np.array([row.get(user, -1) for user in users], np.int64)
    found = np.zeros((n, len(known.columns)), np.uint32)
    codes, names = np.zeros(n, np.uint16), ("",)
    for column, (name, values) in enumerate(known.columns.items()):
        levels = bucketed(values)
        distinct, place = np.unique(levels, return_inverse=True)
        if len(distinct) > MOST_VALUES and name != segment:
            continue  # an id or a free text: says nothing about anybody else
        token = np.array(
            [attribute_token(name, value) if value else 0 for value in distinct.tolist()], np.uint32
        )
        found[at >= 0, column] = token[place][at[at >= 0]]
        if name == segment:
            order = [value for value in distinct.tolist() if value][: np.iinfo(np.uint16).max]
            names = ("", *order)
            code = np.array(
                [names.index(value) if value in names else 0 for value in distinct.tolist()], np.uint16
            )
            codes[at >= 0] = code[place][at[at >= 0]]
    counts = np.count_nonzero(found, axis=1)
    indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return Customers(indptr, found[found != 0], codes, np.zeros(n, np.uint32)), names


def bucketed(values: NDArray[np.object_]) -> NDArray[np.str_]:
    """Text as it is; numbers of many values in `LEVELS` buckets of about equal size, named by their edges."""
    text = values.astype(str)
    filled = text != ""
    try:
        number = text[filled].astype(np.float64)
    except ValueError:
        return text
    if len(np.unique(number)) <= 4 * LEVELS:
        return text
    edges = np.unique(np.quantile(number, np.linspace(0, 1, LEVELS + 1)[1:-1]))
    names = np.array(
        [
            f"{'up to' if i < len(edges) else 'above'} {edges[min(i, len(edges) - 1)]:g}"
            for i in range(len(edges) + 1)
        ]
    )
    found = np.full(len(text), "", dtype=f"<U{max(len(n) for n in names)}")
    found[filled] = names[np.searchsorted(edges, number)]
    return found


def shelves_from(
    items: tuple[str, ...], known: Attributes | None, column: str | None
) -> tuple[tuple[str, ...], NDArray[np.int32]] | None:
    """Items' groups by one column, for slices: names ("" unknown first) and a code per item."""
    if known is None or column is None:
        return None
    if column not in known.columns:
        there = ", ".join(known.columns)
        raise DataError(
            "the items' attributes",
            column,
            None,
            f"there is no such column; there are {there}",
            "Correct --item-group",
        )
    levels = bucketed(known.columns[column])
    names = ("", *[value for value in np.unique(levels).tolist() if value])
    code: Mapping[str, int] = {name: place for place, name in enumerate(names)}
    row = {one: code[level] for one, level in zip(known.ids, levels.tolist(), strict=True)}
    return names, np.array([row.get(item, 0) for item in items], np.int32)
