"""Today's chances of lifecycle models, written to where audiences and pages read scores.

Columns `lifecycle_<model>` of the customers' table in the lake, and of the base of columns that audiences are
counted on; erasure, export and roll-back of customers reach them as they reach any column. The next function
of each customer goes the way of all imported scores (`training.scores`): versioned, gated, into the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.ids import keys64
from features.transforms import DAY
from training.base_columns import Base, BaseError, newest
from training.lake import Lake
from training.lifecycle import NEXT_FUNCTION, LifecycleError, Moments, kept, next_functions, scores
from training.lifecycle_fit import Scorer
from training.lifecycle_past import Past, past_of
from training.lifecycle_targets import PREFIX
from training.profiles import USER_ID
from training.scores import Scores, read_scores

COUNTS_FOR: Final = 2.0  # horizons that a score of the next function is good for


def write(lake: Lake, home: Path, store: str | None, *, now: float, force: bool = False) -> list[str]:
    """What was done, line by line. Raises LifecycleError, ScoresError, StoreUnavailable."""
    models, said = kept(home)
    past = past_of(lake)
    when = Moments(tuple(said["teach"]), said["judge"], said["span_days"] * DAY, said["back_days"] * DAY)
    columns = {f"{PREFIX}{name}": column for name, column in scores(past, models, when).items()}
    if not columns and NEXT_FUNCTION not in models:
        raise LifecycleError("no model was learnt that could be asked: see fenliu lifecycle report")
    lake.write_users(with_columns(lake.read_users(), past.ids, columns))
    done = [f"{name}: {int(np.isfinite(one).sum()):,} customers" for name, one in columns.items()]
    try:
        base = newest(home / "base")
    except BaseError:
        done.append("no base of columns yet: audiences see the scores after the next materialisation")
    else:
        put(base, past.ids, columns)
    if NEXT_FUNCTION in models:
        done.append(_next_function(lake, past, models, when, store, now=now, force=force))
    return done


def with_columns(
    users: pa.Table | None, ids: tuple[str, ...], columns: Mapping[str, NDArray[np.float32]]
) -> pa.Table:
    """The customers' table with these columns (n,) by `ids`, and without older scores of ours; customers that
    it lacks are added.
    """
    if users is None:
        users = pa.table({USER_ID: pa.array(list(ids), pa.string())})
    users = users.select([name for name in users.column_names if not name.startswith(PREFIX)])
    there = [str(one) for one in users[USER_ID].to_pylist()]
    missing = sorted(set(ids) - set(there))
    if missing:
        empty = {field.name: pa.nulls(len(missing), field.type) for field in users.schema}
        empty[USER_ID] = pa.array(missing, users.schema.field(USER_ID).type)
        users = pa.concat_tables([users, pa.table(empty, schema=users.schema)])
    row = {name: place for place, name in enumerate(ids)}
    at = np.array([row.get(name, -1) for name in [*there, *missing]], np.int64)
    for name, column in columns.items():
        values = np.append(column, np.float32(np.nan))[at]
        users = users.append_column(name, pa.array(values, pa.float32(), mask=~np.isfinite(values)))
    return users


def put(base: Base, ids: tuple[str, ...], columns: Mapping[str, NDArray[np.float32]]) -> None:
    """The base's score files, each replaced whole."""
    at = base.rows(ids)
    inside = at >= 0
    for name, column in columns.items():
        values = np.full(base.n, np.nan, np.float32)
        values[at[inside]] = column[inside]
        draft = base.folder / f".score.{name}.npy"
        np.save(draft, values)
        draft.replace(base.folder / f"score.{name}.npy")


def _next_function(
    lake: Lake, past: Past, models: Mapping[str, Scorer], when: Moments, store: str | None, *, now: float,
    force: bool,
) -> str:  # fmt: skip
    who, what, chance = next_functions(past, models[NEXT_FUNCTION], when)
    if not len(who):
        return f"{NEXT_FUNCTION}: nobody was seen lately"
    table = pa.table(
        {
            "user_id": pa.array(np.array(past.ids, object)[who], pa.string()),
            "item_id": pa.array(np.array(past.items.ids, object)[what], pa.string()),
            "score": pa.array(chance, pa.float32()),
            "expires": pa.array(np.full(len(who), now + COUNTS_FOR * when.span)),
        }
    )
    with TemporaryDirectory(prefix="fenliu-lifecycle-") as folder:
        path = Path(folder) / f"{NEXT_FUNCTION}.parquet"
        pq.write_table(table, path)
        found = read_scores(path, NEXT_FUNCTION, keys64(past.items.ids), now=now)
    said = Scores(lake, store).put(NEXT_FUNCTION, found, at=now, force=force)
    rows, customers = f"{said['rows']:,}", f"{said['customers']:,}"
    return f"{NEXT_FUNCTION}: version {said['version']}, {rows} scores of {customers} customers"
