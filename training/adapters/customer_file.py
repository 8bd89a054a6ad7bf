"""A file of customers -> the lake's users table: one row a customer, a cell that cannot be read blank and
reported.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.views import PROFILE
from training.adapters.roles import USER_ROLES, assign, require
from training.cells import text_of
from training.columns import Rows, ids, repeated
from training.profiles import USER_ID, CellProblem, profile_records, unused_columns
from training.reading import RawTable
from training.source import TOO_MANY_BAD, Quarantine


def read_users(
    table: RawTable, quarantine: Quarantine, mapping: Mapping[str, str], notes: list[str]
) -> pa.Table:
    """The users table. Rows without an id, or with one that occurred before, are set aside; bad cells alone
    are blanked.
    """
    key = require(table, assign(table, USER_ROLES, mapping), "user_id")
    rows = Rows(table, quarantine)
    coded = ids(rows, key, "user")
    rows.reject(
        repeated(rows, {"id": coded.codes}), key, "the user id occurs twice", "Keep one row a customer"
    )
    keep = pa.array(rows.finish())
    columns = {name: column for name, column in table.columns.items() if name != key}
    users = pa.table(
        {USER_ID: coded.text(), **{_field(name): column for name, column in columns.items()}}
    ).filter(keep)
    lines = table.lines[rows.good]
    problems: list[CellProblem] = []
    profile_records(users, [], problems=problems)
    for problem in problems:
        users = _blanked(table, users, problem, quarantine, lines)
    if not set(users.column_names) & {*PROFILE.names, "audiences"}:
        known = "age, gender, risk_level, city, assets, segment, consents"
        notes.append(f"{table.file}: no column is a field of the profile ({known} …): attributes only")
    if unused := unused_columns(users):
        notes.append(f"columns of {table.file} that profiles do not use: {', '.join(unused)}")
    return users


def _field(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def _blanked(
    table: RawTable, users: pa.Table, problem: CellProblem, quarantine: Quarantine, lines: NDArray[np.int64]
) -> pa.Table:
    texts = text_of(users[problem.column])
    values = texts.take(pa.array(problem.rows)).to_pylist()
    if len(problem.rows) > TOO_MANY_BAD * users.num_rows:
        what = f"{problem.reason} ('{values[0]}'); {len(values):,} of {users.num_rows:,} cells cannot be read"
        remedy = f"{problem.remedy}, or rename the column so that it becomes an attribute"
        at = int(np.searchsorted(table.lines, lines[problem.rows[0]]))
        raise table.error(problem.column, at, what, remedy)
    quarantine.add(table.file, problem.column, f"{problem.reason}: left unknown", lines[problem.rows], values)
    cells = texts.to_pylist()
    for row in problem.rows.tolist():
        cells[row] = None
    place = users.column_names.index(problem.column)
    return users.set_column(place, problem.column, pa.array(cells, pa.string()))
