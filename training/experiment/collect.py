"""An experiment's units and what they did, from day-partitioned Parquet by DuckDB, a day at a time.

Who was met in which arm first comes from the pages (`units`); then each day's events are joined and summed
by unit, added to what the unit has so far, and turned into moments by arm: memory holds a few numbers a
unit, whatever the number of events. Units are numbered by arm, then by first page, so that those met by any
day are a front part of each arm's numbers.

Days are the partitions' (by received_at, UTC): what was known that day. Only what happened after a unit's
first page in the experiment counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.experiment.metrics import EVENT_COUNTS, MATURES, PAGE_COUNTS, Metric, columns_of
from training.experiment.statistics import Moments
from training.experiment.told import COLUMNS, gather
from training.experiment.units import Asked, meet, rows_of
from training.usage import UsageError

if TYPE_CHECKING:
    import duckdb

DAY_S: Final = 86_400.0
Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Files:
    """Parquet by date (2026-11-01): pages and events; outcomes are whole files, by their own dates."""

    served: Mapping[str, Sequence[str]]
    events: Mapping[str, Sequence[str]]
    outcomes: Sequence[str] = ()
    users: str | None = None

    @property
    def pages(self) -> list[str]:
        return [path for paths in self.served.values() for path in paths]


@dataclass(frozen=True, slots=True)
class Day:
    """After one day: by metric and arm what all units met so far have in all; and their numbers."""

    date: str
    units: tuple[int, ...]  # by arm
    moments: Mapping[str, tuple[Moments, ...]]


@dataclass(frozen=True, slots=True)
class Novelty:
    """By arm and days since a unit's first page: units watched, sums and sums of squares of one column."""

    n: Floats
    total: Floats
    squares: Floats


@dataclass(frozen=True, slots=True)
class Collected:
    arms: tuple[str, ...]
    days: tuple[Day, ...]
    novelty: Novelty
    starts: tuple[int, ...]  # where each arm's units begin, and the number of all
    first_day: NDArray[np.int16]  # (n,) index of a unit's first day
    totals: Mapping[str, Floats]  # column -> (n,)
    before: Mapping[str, Floats]  # the same in the days before the start
    crossed: int
    degraded: Mapping[str, float]  # by arm: part of the pages on a lower rung
    exposed: int  # of the days, those with pages that count: what is done on pages changes no more after
    segments: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # dimension -> (n,) values

    def moments(self, metric: Metric, inside: NDArray[np.bool_] | None = None) -> tuple[Moments, ...]:
        """By arm, of the units `inside`, with what was known before."""
        columns = [self.totals[name] for name in metric.columns]
        columns += [self.before[name] for name in metric.columns if self.before[name].any()]
        made = []
        for low, high in pairwise(self.starts):
            pick = slice(low, high)
            chosen = [c[pick] if inside is None else c[pick][inside[pick]] for c in columns]
            made.append(Moments.of(chosen))
        return tuple(made)


def connect(memory_gb: float = 2.0, threads: int = 2) -> duckdb.DuckDBPyConnection:
    """An in-memory database that spills to disk before it takes more."""
    import duckdb  # only here: every command that imported it would pay for it, and hear it at its end

    base = duckdb.connect()
    base.execute(f"SET memory_limit = '{memory_gb:g}GB'")
    base.execute(f"SET threads = {threads}")
    base.execute("SET preserve_insertion_order = false")
    base.execute("SET enable_progress_bar = false")
    return base


def collect(
    base: duckdb.DuckDBPyConnection,
    files: Files,
    asked: Asked,
    metrics: Sequence[Metric],
    *,
    criterion: str,
    pre_days: int = 14,
    segments: Sequence[str] = (),
    progress: Progress | None = None,
) -> Collected:
    """Everything that a report needs of one experiment, or of a campaign's lift.

    Raises UsageError when nobody was met yet, or `segments` names no column of the customers.
    """
    tell = progress or (lambda _done, _of: None)
    arms = asked.arms
    found = meet(base, files.pages, asked)
    units = base.execute("SELECT arm, first FROM expo ORDER BY i").fetchnumpy()
    arm_of, first = np.asarray(units["arm"], np.int64), np.asarray(units["first"], np.float64)
    n = len(first)
    if not n:
        raise UsageError(
            f"no page of {asked.experiment!r} that counts is in the lake: does it run, and has"
            " `fenliu events ingest` run?"
        )
    dates = sorted({*files.events, *files.served})
    start = date_of(float(first.min()))
    last = max(dates[-1], start)
    inside = dates_between(start, min(last_date(asked.ends, last), last))
    exposed = len(dates_between(start, min(last_date(asked.until, last), last)))
    earlier = [date for date in dates if date < start][-pre_days:] if pre_days else []
    first_day = (first // DAY_S - first.min() // DAY_S).astype(np.int16)
    starts = tuple(np.searchsorted(arm_of, np.arange(len(arms) + 1)).tolist())
    columns = (*columns_of(metrics, EVENT_COUNTS), *columns_of(metrics, PAGE_COUNTS))
    before = {name: np.zeros(n) for name in columns}
    totals = {name: np.zeros(n) for name in columns}
    outcomes = files.outcomes if set(columns) & set(COLUMNS) else ()
    if outcomes:
        gather(base, outcomes, [path for date in dates for path in files.events.get(date, ())], asked)
    source = _Source(base, files, asked, metrics, bool(outcomes))
    for done, date in enumerate(earlier):
        _add(before, _day(source, date, "< first"))
        tell(done + 1, len(earlier) + len(inside))
    told = next(one for one in metrics if one.name == criterion)
    novelty = Novelty(*(np.zeros((len(arms), len(inside))) for _ in range(3)))
    made = Collected(
        tuple(arms),
        (),
        novelty,
        starts,
        first_day,
        totals,
        before,
        found.crossed,
        found.degraded,
        exposed,
        _segments(base, files, segments),
    )
    days = []
    for done, date in enumerate(inside):
        fresh = _day(source, date, ">= first")
        _add(totals, fresh)
        days.append(_counted(made, date, done, metrics))
        if done < exposed:
            _watched(novelty, fresh.get(told.top), starts, first_day, done, n)
        tell(len(earlier) + done + 1, len(earlier) + len(inside))
    made.segments["first day"] = np.array(inside)[first_day]  # type: ignore[index]
    known = np.zeros(n) + sum(before.values())
    made.segments["known before"] = np.where(known > 0, "active before", "new")  # type: ignore[index]
    return replace(made, days=tuple(days))


class _Source(NamedTuple):
    base: duckdb.DuckDBPyConnection
    files: Files
    asked: Asked
    metrics: Sequence[Metric]
    outcomes: bool  # whether the table `told` is there


def _day(source: _Source, date: str, when: str) -> dict[str, Any]:
    """Columns of one day by unit, with the units as `i`; several parts may name a unit. `when` bounds its
    time by the unit's `first`.
    """
    found: dict[str, Any] = {}
    files, asked = source.files, source.asked
    counted = columns_of(source.metrics, EVENT_COUNTS)
    paged = columns_of(source.metrics, PAGE_COUNTS)
    for names, known, paths, owner in (
        (counted, EVENT_COUNTS, files.events.get(date), asked.of_event),
        (paged, PAGE_COUNTS, files.served.get(date), asked.of_page),
    ):
        if names and paths:
            rows = f"""(SELECT e.*, first, i FROM (SELECT *, {owner} AS owner
                FROM {rows_of(source.base, paths)}) e JOIN who w ON e.owner = w.subject)"""  # noqa: S608
            _merge(found, _sums(source, rows, {"files": list(paths)}, known, names, when))
    told = tuple(name for name in counted if name in COLUMNS)
    if source.outcomes and told:
        since = datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp()
        values = {"since": since, "end": since + DAY_S}
        rows = """(SELECT * FROM told WHERE "at" >= $since AND "at" < $end)"""
        _merge(found, _sums(source, rows, values, EVENT_COUNTS, told, when))
    return found


def _sums(
    source: _Source,
    rows: str,
    values: dict[str, Any],
    known: Mapping[str, str],
    columns: Sequence[str],
    when: str,
) -> dict[str, Any]:
    wanted = ", ".join(f"{known[name]} AS {name}" for name in columns)
    asked = source.asked
    inside, more = '"at" <= $until', {"until": asked.until}
    if asked.matures and known is EVENT_COUNTS:
        inside, more = f"({inside} OR ({MATURES}))" + ' AND "at" <= $ends', more | {"ends": asked.ends}
    query = f"""SELECT i, {wanted} FROM {rows} WHERE "at" {when} AND {inside} GROUP BY i"""  # noqa: S608
    return dict(source.base.execute(query, {**values, **more}).fetchnumpy())


def _merge(found: dict[str, Any], part: dict[str, Any]) -> None:
    """Parts are kept apart, as (units, values) by column."""
    for name, column in part.items():
        if name != "i":
            found.setdefault(name, []).append((part["i"], np.asarray(column, np.float64)))


def _add(totals: dict[str, Floats], fresh: Mapping[str, Any]) -> None:
    for name, parts in fresh.items():
        for units, values in parts:  # each names a unit once
            totals[name][units] += values


def _counted(made: Collected, date: str, day: int, metrics: Sequence[Metric]) -> Day:
    """Moments by arm of who was met by this day."""
    met = []
    for low, high in pairwise(made.starts):
        met.append(int(np.searchsorted(made.first_day[low:high], day, side="right")))
    moments = {}
    for one in metrics:
        columns = [made.totals[name] for name in one.columns]
        columns += [made.before[name] for name in one.columns if made.before[name].any()]
        moments[one.name] = tuple(
            Moments.of([column[low : low + count] for column in columns])
            for low, count in zip(made.starts, met, strict=False)
        )
    return Day(date, tuple(met), moments)


def _watched(
    novelty: Novelty, parts: Any, starts: Sequence[int], first_day: NDArray[np.int16], day: int, n: int
) -> None:
    """One day's values by arm and by how many days ago a unit was first met."""
    value = np.zeros(n)
    for units, values in parts or ():
        value[units] += values
    for arm, (low, high) in enumerate(pairwise(starts)):
        count = int(np.searchsorted(first_day[low:high], day, side="right"))
        age = day - first_day[low : low + count]
        mine, size = value[low : low + count], novelty.n.shape[1]
        novelty.n[arm] += np.bincount(age, minlength=size)
        novelty.total[arm] += np.bincount(age, mine, size)
        novelty.squares[arm] += np.bincount(age, mine**2, size)


def _segments(base: duckdb.DuckDBPyConnection, files: Files, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    kinds = base.execute(
        "SELECT CASE WHEN unit[1] = 'u' THEN 'customer' ELSE 'visitor' END AS k FROM expo ORDER BY i"
    )
    found["subject"] = np.asarray(kinds.fetchnumpy()["k"]).astype(str)
    channel = np.asarray(base.execute("SELECT channel FROM expo ORDER BY i").fetchnumpy()["channel"])
    if len(set(channel)) > 1:
        found["channel"] = channel.astype(str)
    if names and files.users is None:
        raise UsageError("the lake holds no customers' facts: leave --segments out")
    for name in names:
        known = base.execute("DESCRIBE SELECT * FROM read_parquet($file)", {"file": files.users}).fetchall()
        if name not in {row[0] for row in known}:
            have = ", ".join(str(row[0]) for row in known)
            raise UsageError(f"customers have no column {name!r}: they have {have}")
        query = f"""SELECT coalesce(CAST(u."{name}" AS VARCHAR), 'not known') AS v FROM expo
            LEFT JOIN read_parquet($file) u ON expo.unit = 'u:' || u.user_id ORDER BY i"""  # noqa: S608
        found[name] = np.asarray(base.execute(query, {"file": files.users}).fetchnumpy()["v"]).astype(str)
    return found


def date_of(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def last_date(at: float, last: str) -> str:
    """The date of the moment before; `last` where there is no end."""
    return date_of(np.nextafter(at, 0.0)) if isfinite(at) else last


def dates_between(start: str, end: str) -> list[str]:
    """Every date of the calendar, also those on which nothing was logged."""
    first, last = (datetime.fromisoformat(one).toordinal() for one in (start, end))
    return [datetime.fromordinal(day).strftime("%Y-%m-%d") for day in range(first, last + 1)]
