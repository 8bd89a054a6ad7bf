"""What an adaptive experiment says: its arms weighted by the chances that they were drawn with.

Who is in such an experiment is drawn into an arm anew each hour, by chances that follow what the arms earned
in the customer's segment. So arms differ in whom and when they meet, and their means cannot be compared: the
better an arm does, the more it has of the segments and hours that it does well in. But the chances of every
draw are logged. A customer's hour is one turn, in the arm of its first page; weighted by 1 / chance, what
the turns of an arm did is on average what all turns would have done in it. What counts is done on the turn's
own pages, joined by decision, however late. Differences are clustered by customer: forty hours of one are not
forty customers. A pair of arms is compared on the turns in which either could have been drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from serving.bandit import HOUR_S
from serving.bandit_draws import SETTLE_S
from training.experiment.analysis import Answer, Question, breaches, compared_over, corrected
from training.experiment.collect import DAY_S, Files, Progress, date_of, dates_between, last_date
from training.experiment.metrics import EVENT_COUNTS, PAGE_COUNTS, Metric, columns_of
from training.experiment.mismatch import ALPHA, Mismatch
from training.experiment.statistics import Difference, Estimate
from training.experiment.units import Asked, rows_of
from training.usage import UsageError

if TYPE_CHECKING:
    import duckdb

LEAST_TURNS: Final = 100  # of an arm, as many as its weights are worth, before a look says anything
ELSEWHERE: Final = ("complaints", "nps_sum", "nps_answers")  # told of a customer, not of a page
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Turns:
    """Customers' hours, by when they began. `arm`: -1 where it is none of those asked for."""

    arms: tuple[str, ...]
    customer: NDArray[np.int64]  # (n,) numbers from 0
    arm: NDArray[np.int64]  # (n,)
    chance: Floats  # (n, arms) of each arm, 0 where it could not be drawn
    day: NDArray[np.int64]  # (n,) of the first page, counted from the first of all

    @property
    def customers(self) -> int:
        return int(self.customer.max()) + 1


@dataclass(frozen=True, slots=True)
class Pair:
    """Of one arm and the control: sums (customers, 2) of their weighted turns, control first; how many turns
    the weights of each are worth.
    """

    top: Floats
    bottom: Floats
    worth: tuple[float, float]

    @property
    def difference(self) -> Difference | None:
        """None where an arm has nothing to divide by."""
        tops, bottoms = self.top.sum(axis=0), self.bottom.sum(axis=0)
        if not (bottoms > 0).all():
            return None
        common = tops.sum() / bottoms.sum()
        scale = float(2 * bottoms[0] * bottoms[1] / bottoms.sum())
        left = (self.top - common * self.bottom) / scale  # of each customer; differ by what the ratios do
        left -= left.mean(axis=0)
        spread = left.T @ left * (len(left) / max(len(left) - 1, 1))
        own = [Estimate(float(tops[k] / bottoms[k]), float(spread[k, k])) for k in (0, 1)]
        variance = float(spread[0, 0] + spread[1, 1] - 2 * spread[0, 1])
        absolute = Estimate(own[1].value - own[0].value, variance)
        return Difference(own[0], own[1], absolute, scale**2 * variance)


def answer_drawn(
    base: duckdb.DuckDBPyConnection,
    files: Files,
    asked: Asked,
    question: Question,
    progress: Progress | None = None,
) -> Answer:
    """Everything at the last day's look. Raises UsageError where no draw was logged, or for metrics that no
    page tells.
    """
    for one in question.metrics:
        if any(name in ELSEWHERE for name in one.columns):
            raise UsageError(
                f"{one.name} is told of a customer, not of a page: an adaptive experiment has none"
            )
    tell = progress or (lambda _done, _of: None)
    turns, first = _met(base, files, asked)
    n = len(turns.arm)
    dates = sorted({*files.events, *files.served})
    last = max(dates[-1], first)
    days = dates_between(first, min(last_date(asked.ends, last), last))
    exposed = len(dates_between(first, min(last_date(asked.until, last), last)))
    counted = columns_of(question.metrics, EVENT_COUNTS)
    paged = columns_of(question.metrics, PAGE_COUNTS)
    totals: dict[str, Floats] = {name: np.zeros(n) for name in (*counted, *paged)}
    looks: dict[tuple[str, int], list[tuple[int, Difference]]] = {}
    newest: dict[tuple[str, int], Difference | None] = {}
    for number, date in enumerate(days):
        for names, known, paths, by in (
            (counted, EVENT_COUNTS, files.events.get(date), "e.decision_id = d.id"),
            (paged, PAGE_COUNTS, files.served.get(date), "e.id = d.id"),
        ):
            if names and paths:
                _add(base, paths, asked, totals, (names, known, by))
        for at in range(1, len(turns.arms)):
            for metric in question.metrics:
                if number >= exposed and not metric.matures:
                    continue
                pair = _pair(turns, at, metric, totals, number)
                found = newest[metric.name, at] = pair.difference
                if found is not None and found.absolute.variance > 0 and min(pair.worth) >= LEAST_TURNS:
                    looks.setdefault((metric.name, at), []).append((number, found))
        tell(number + 1, len(days))
    compared = corrected(
        question,
        [
            compared_over(
                question, metric, turns.arms[at], days, looks.get((metric.name, at), ()),
                newest[metric.name, at] or _NOTHING,
            )
            for at in range(1, len(turns.arms))
            for metric in question.metrics
        ],
    )  # fmt: skip
    units = {name: int((turns.arm == at).sum()) for at, name in enumerate(turns.arms)}
    return Answer(
        question, units, tuple(days), mismatch_of(turns), tuple(compared),
        tuple(breaches(question, compared)), {}, {}, 0,
    )  # fmt: skip


_NONE: Final = Estimate(nan, nan)
_NOTHING: Final = Difference(_NONE, _NONE, _NONE, 0.0)


def mismatch_of(turns: Turns) -> Mismatch:
    """Turns of each arm against the sum of its chances: draws are independent given these, so each count is
    normal around it. p is of the worst arm, times their number.
    """
    counts = {name: int((turns.arm == at).sum()) for at, name in enumerate(turns.arms)}
    expected = dict(zip(turns.arms, turns.chance.sum(axis=0).tolist(), strict=True))
    spread = (turns.chance * (1 - turns.chance)).sum(axis=0)
    z = [
        abs(counts[name] - expected[name]) / np.sqrt(spread[at]) if spread[at] > 0 else 0.0
        for at, name in enumerate(turns.arms)
    ]
    p = float(min(1.0, len(z) * 2 * stats.norm.sf(max(z))))
    causes = (
        "arms have not as many customers' hours as their logged chances say: pages of one arm are lost on the"
        " way, or customers were moved by hand",
    )
    return Mismatch(p, counts, expected, {}, causes if p < ALPHA else ())


def _met(base: duckdb.DuckDBPyConnection, files: Files, asked: Asked) -> tuple[Turns, str]:
    """The turns, and the first one's date. Leaves the table `turned` (subject, id, t): whose a page is."""
    if not files.pages:
        raise UsageError("the lake holds no pages: run `fenliu events ingest`")
    names = [f"{asked.experiment}/{arm}" for arm in asked.arms]
    chances = ", ".join(
        f"coalesce(chances[list_position(drawn, $names[{at + 1}])], 0) AS p{at}" for at in range(len(names))
    )
    every = [f"p{at}" for at in range(len(names))]
    base.execute(
        f"""CREATE OR REPLACE TEMP TABLE paged AS
        SELECT subject, id, coalesce(unit, subject) AS unit, min("at") AS "at",
               CAST(floor((min("at") - {SETTLE_S}) / {HOUR_S}) AS BIGINT) AS hour, {_any(every)},
               any_value(coalesce(list_position($names, list_intersect(arms, $names)[1]), 0) - 1) AS arm
        FROM (SELECT *, {chances} FROM {rows_of(base, files.pages)}
              WHERE drawn IS NOT NULL AND list_has_any(drawn, $names) AND "at" <= $until)
        GROUP BY subject, id, unit""",  # noqa: S608
        {"files": files.pages, "names": names, "until": asked.until},
    )
    base.execute(
        f"""CREATE OR REPLACE TEMP TABLE turns AS
        SELECT unit, hour, first, arm, {", ".join(every)},
               dense_rank() OVER (ORDER BY unit) - 1 AS u, row_number() OVER (ORDER BY first, unit) - 1 AS t
        FROM (SELECT unit, hour, min("at") AS first, arg_min(arm, "at") AS arm, {_first(every)}
              FROM paged GROUP BY unit, hour)"""  # noqa: S608
    )
    base.execute(
        """CREATE OR REPLACE TEMP TABLE turned AS
        SELECT subject, id, t FROM paged JOIN turns USING (unit, hour)"""
    )
    found = base.execute(f"SELECT u, arm, first, {', '.join(every)} FROM turns ORDER BY t").fetchnumpy()  # noqa: S608
    first = np.asarray(found["first"], np.float64)
    if not len(first):
        raise UsageError(
            f"no page in the lake says by what chances {asked.experiment!r} drew its arms: does it run, and"
            " has `fenliu events ingest` run since it began?"
        )
    day = (first // DAY_S - first.min() // DAY_S).astype(np.int64)
    chance = np.stack([np.asarray(found[name], np.float64) for name in every], axis=1)
    customer, arm = np.asarray(found["u"], np.int64), np.asarray(found["arm"], np.int64)
    return Turns(asked.arms, customer, arm, chance, day), date_of(float(first.min()))


def _any(columns: Sequence[str]) -> str:
    return ", ".join(f"any_value({name}) AS {name}" for name in columns)


def _first(columns: Sequence[str]) -> str:
    return ", ".join(f'arg_min({name}, "at") AS {name}' for name in columns)


def _add(
    base: duckdb.DuckDBPyConnection,
    paths: Sequence[str],
    asked: Asked,
    totals: dict[str, Floats],
    wanted: tuple[Sequence[str], Mapping[str, str], str],
) -> None:
    """One day's rows of the turns' own pages, to what these have so far."""
    names, known, by = wanted
    sums = ", ".join(f"{known[name]} AS {name}" for name in names)
    query = f"""SELECT t, {sums} FROM (SELECT e.*, d.t FROM {rows_of(base, paths)} e
        JOIN turned d ON {by} AND e.subject = d.subject) WHERE "at" <= $ends GROUP BY t"""  # noqa: S608
    found: dict[str, Any] = base.execute(query, {"files": list(paths), "ends": asked.ends}).fetchnumpy()
    for name in names:
        totals[name][found["t"]] += np.asarray(found[name], np.float64)


def _pair(turns: Turns, at: int, metric: Metric, totals: Mapping[str, Floats], day: int) -> Pair:
    """Arm `at` and the control, of turns that had begun by a day and could have been either's."""
    either = (turns.day <= day) & (turns.chance[:, 0] > 0) & (turns.chance[:, at] > 0)
    size = turns.customers
    top, bottom, worth = np.zeros((size, 2)), np.zeros((size, 2)), []
    for column, arm in enumerate((0, at)):
        mine = np.flatnonzero(either & (turns.arm == arm))
        weight, who = 1.0 / turns.chance[mine, arm], turns.customer[mine]
        below = 1.0 if metric.bottom is None else totals[metric.bottom][mine]
        top[:, column] = np.bincount(who, weight * totals[metric.top][mine], size)
        bottom[:, column] = np.bincount(who, weight * below, size)
        squares = float((weight**2).sum())
        worth.append(float(weight.sum()) ** 2 / squares if squares else 0.0)
    met = np.bincount(turns.customer[either], minlength=size) > 0
    return Pair(top[met], bottom[met], (worth[0], worth[1]))
