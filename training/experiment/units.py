"""Who is in an experiment: units by arm, when each was met first, and the ids of their doings.

A unit is a customer, as experiments know them, or a device: the visitor that a page was shown to. Units that
were seen in two arms are left out. Where a campaign's lift is asked for, only pages count whose customer
could have been held out from it: without profiling, or with a unit that was not known, nobody is a ghost, so
those whom it was shown to have nobody to be compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final

from training.usage import UsageError

if TYPE_CHECKING:
    import duckdb

LATER: Final[Mapping[str, str]] = {
    "drawn": "VARCHAR[]",
    "chances": "FLOAT[]",
    "lifts": "BOOLEAN",
    "device": "VARCHAR",
    "channel": "VARCHAR",
    "ms": "FLOAT",
    "asked": "USMALLINT",
    "filled": "USMALLINT",
    "failed": "BOOLEAN",
}
"""Columns that files written earlier lack, which is unknown."""
_ARM: Final = "list_position($names, list_intersect(arms, $names)[1]) - 1"
_GHOST: Final = """CASE WHEN NOT coalesce(lifts, false) THEN NULL
                          WHEN list_contains(ghosts, $key) THEN 0
                          WHEN list_contains(campaigns, $key) THEN 1 END"""
_DEVICE: Final = "coalesce(device, CASE WHEN unit LIKE 'v:%' THEN unit END, subject)"


@dataclass(frozen=True, slots=True)
class Asked:
    """Whose pages are looked for. `arms`: the control first.

    With `campaign` (key32) the units are those that it was shown to, or would have been: `arms` are of the
    ghosts and of the others, and `experiment` is its name. `by_device`: units are devices. `until`: POSIX
    seconds; what happened later is as if it had not, but for what comes of it within `matures` seconds:
    conversions, outcomes and complaints of whom it had met. With `since` there is one arm, whose pages are
    everybody's from then on; two if `sided`, by the table `sides` (unit, side).
    """

    experiment: str
    arms: tuple[str, ...]
    campaign: int | None = None
    by_device: bool = False
    until: float = inf
    matures: float = 0.0
    since: float | None = None
    sided: bool = False

    @property
    def ends(self) -> float:
        """When the last of what counts happened."""
        return self.until + self.matures

    @property
    def of_page(self) -> str:
        """SQL: what a page's doings are counted under."""
        return _DEVICE if self.by_device else "subject"

    @property
    def of_event(self) -> str:
        return "coalesce(device, 'v:' || visitor_id, subject)" if self.by_device else "subject"


@dataclass(frozen=True, slots=True)
class Met:
    crossed: int  # units that were seen in two arms
    degraded: Mapping[str, float]  # by arm: part of the pages on a lower rung


def rows_of(base: duckdb.DuckDBPyConnection, files: Sequence[str]) -> str:
    """The SQL of a table's rows, with null in columns that came later; reads the parameter `files`."""
    source = "read_parquet($files, union_by_name = true)"
    known = {row[0] for row in base.execute(f"DESCRIBE SELECT * FROM {source}", {"files": files}).fetchall()}  # noqa: S608
    more = [f"CAST(NULL AS {kind}) AS {name}" for name, kind in LATER.items() if name not in known]
    return f"(SELECT {', '.join(['*', *more])} FROM {source})"  # noqa: S608


def meet(base: duckdb.DuckDBPyConnection, files: Sequence[str], asked: Asked) -> Met:
    """Tables `expo` (unit, arm, first, channel, i) and `who` (subject, first, i), of units of one arm only.

    `channel` is of the first page. A subject is one unit's alone: its own, or the one that was met first.
    """
    if not files:
        raise UsageError("the lake holds no pages: run `fenliu events ingest`")
    which: str = _ARM
    values: dict[str, Any] = {"names": [f"{asked.experiment}/{arm}" for arm in asked.arms]}
    if asked.campaign is not None:
        which, values = _GHOST, {"key": asked.campaign}
    if asked.since is not None:
        side = "side" if asked.sided else "0"
        which, values = f'CASE WHEN "at" >= $since THEN {side} END', {"since": asked.since}
    joined = " JOIN sides USING (unit)" if asked.sided else ""
    owner = _DEVICE if asked.by_device else "unit"
    base.execute(
        f"""CREATE OR REPLACE TEMP TABLE seen AS
        SELECT unit, subject, arm, min("at") AS first, arg_min(channel, "at") AS channel, count(*) AS pages,
               count(*) FILTER (effort <> 'full') AS lower
        FROM (SELECT {owner} AS unit, subject, "at", effort, coalesce(channel, 'not known') AS channel,
                     {which} AS arm
              FROM {rows_of(base, files)}{joined} WHERE arms IS NOT NULL AND "at" <= $until)
        WHERE arm IS NOT NULL GROUP BY unit, subject, arm""",  # noqa: S608
        {**values, "files": files, "until": asked.until},
    )
    base.execute(
        """CREATE OR REPLACE TEMP TABLE expo AS
        SELECT unit, arm, first, channel, row_number() OVER (ORDER BY arm, first, unit) - 1 AS i
        FROM (SELECT unit, min(arm) AS arm, min(first) AS first, arg_min(channel, first) AS channel FROM seen
              GROUP BY unit HAVING min(arm) = max(arm))"""
    )
    base.execute(
        """CREATE OR REPLACE TEMP TABLE who AS SELECT unit AS subject, first, i FROM expo UNION ALL
        SELECT subject, one.first, one.i FROM (
            SELECT seen.subject, min(struct_pack(first := expo.first, i := expo.i)) AS one
            FROM seen JOIN expo USING (unit) ANTI JOIN expo AS other ON seen.subject = other.unit
            GROUP BY seen.subject)"""
    )
    crossed = base.execute("SELECT (SELECT count(DISTINCT unit) FROM seen) - (SELECT count(*) FROM expo)")
    row = crossed.fetchone()
    share = base.execute("SELECT arm, sum(lower) / sum(pages) FROM seen GROUP BY arm").fetchall()
    return Met(int(row[0]) if row else 0, {asked.arms[int(arm)]: float(part) for arm, part in share})


def last_met(
    base: duckdb.DuckDBPyConnection, files: Sequence[str], experiment: str, arm: str
) -> float | None:
    """POSIX seconds of an arm's last page, None without any: of one that is off, when it went off."""
    if not files:
        return None
    query = f"""SELECT max("at") FROM {rows_of(base, files)} WHERE list_contains(arms, $name)"""  # noqa: S608
    row = base.execute(query, {"files": files, "name": f"{experiment}/{arm}"}).fetchone()
    return None if row is None or row[0] is None else float(row[0])
