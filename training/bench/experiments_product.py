"""One table of units × days divided into arms anew, every division read as `fenliu experiment report` does:
its moments by day go through `answer()`, with CUPED, a ratio beside the mean, and days after the planned end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.experiment.analysis import Answer, Question, answer
from training.experiment.collect import Collected, Day, Novelty
from training.experiment.metrics import Metric
from training.experiment.statistics import Moments

ARMS: Final = ("control", "treatment")
MEAN: Final = Metric("clicks", "clicks")
RATIO: Final = Metric("clicks_per_page", "clicks", "pages")
VALUE: Final = Metric("value", "value")  # few have any, and some much
RARE: Final = Metric("cvr", "conversions", "clicks")
EVERY: Final = (MEAN, RATIO, VALUE, RARE)
COLUMNS: Final = ("clicks", "pages", "conversions", "value")
AT_ONCE: Final = 100
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Table:
    """By name of COLUMNS (n, days) what units did on a day since their first; (n,) in the time before; (n,)
    the first day.
    """

    did: dict[str, Floats]
    before: dict[str, Floats]
    first: NDArray[np.int64]

    @property
    def days(self) -> int:
        return int(self.did["clicks"].shape[1])

    def some(self, units: NDArray[np.int64]) -> Table:
        return Table(
            {name: one[units] for name, one in self.did.items()},
            {name: one[units] for name, one in self.before.items()},
            self.first[units],
        )


def answers(
    table: Table,
    treated: Iterator[NDArray[np.float32]],
    *,
    planned: int,
    lift: float = 0.0,
    before: bool = True,
    metrics: tuple[Metric, ...] = (MEAN, RATIO),
    last: bool = False,
) -> Iterator[Answer]:
    """Of each division (runs, n) its answer at the last day. `lift`: what treated units click more, relative;
    `before`: whether the time before adjusts; `last`: of a single look, at the last day.
    """
    names = [name for name in COLUMNS if any(name in one.columns for one in metrics)]
    columns = [table.did[name].cumsum(axis=1) for name in names]
    if before:
        columns += [np.repeat(table.before[name][:, None], table.days, 1) for name in names]
    at = {name: [1 + k, *([1 + len(names) + k] if before else [])] for k, name in enumerate(names)}
    picks = {one.name: [at[n][k] for k in range(1 + before) for n in one.columns] for one in metrics}
    met = (np.arange(table.days) >= table.first[:, None]).astype(np.float64)
    columns = [met, *(one * met for one in columns)]
    pairs = list(combinations_with_replacement(range(len(columns)), 2))
    products = np.stack([columns[a] * columns[b] for a, b in pairs], axis=2)  # (n, days, pairs)
    whole = products.sum(axis=0)
    flat = products.reshape(len(table.first), -1)
    for some in treated:
        held = (some.astype(np.float64) @ flat).reshape(len(some), *whole.shape)
        for one in held:
            arms = tuple(_squares(each[-1:] if last else each, pairs) for each in (whole - one, one))
            yield _answer(arms, planned, lift, metrics, picks)


def _squares(sums: Floats, pairs: list[tuple[int, int]]) -> Floats:
    """(days, k, k) sums of products, the first column being 1."""
    k = max(b for _, b in pairs) + 1
    made = np.zeros((len(sums), k, k))
    for at, (a, b) in enumerate(pairs):
        made[:, a, b] = made[:, b, a] = sums[:, at]
    return made


def _answer(
    arms: tuple[Floats, ...],
    planned: int,
    lift: float,
    metrics: tuple[Metric, ...],
    picks: dict[str, list[int]],
) -> Answer:
    days = []
    for day in range(len(arms[0])):
        moments = {
            one.name: tuple(
                _moments(arm[day], picks[one.name], lift if at else 0.0) for at, arm in enumerate(arms)
            )
            for one in metrics
        }
        days.append(Day(f"day {day + 1}", tuple(int(arm[day, 0, 0]) for arm in arms), moments))
    sizes = [0, *(int(arm[-1, 0, 0]) for arm in arms)]
    starts = tuple(np.cumsum(sizes).tolist())
    nothing = Novelty(*(np.zeros((len(arms), len(days))) for _ in range(3)))
    seen = Collected(
        ARMS, tuple(days), nothing, starts, np.zeros(starts[-1], np.int16), {}, {}, 0, {}, len(days)
    )
    return answer(Question("bench", dict.fromkeys(ARMS, 1.0), metrics[0], metrics, {}, planned), seen)


def _moments(sums: Floats, pick: list[int], lift: float) -> Moments:
    """Of these columns, of which `lift` changes the first."""
    n = sums[0, 0]
    mean = sums[0, pick] / n
    spread = (sums[np.ix_(pick, pick)] - n * np.outer(mean, mean)) / (n - 1)
    grown = np.array([1.0 + lift, *np.ones(len(pick) - 1)])
    return Moments(int(n), mean * grown, spread * np.outer(grown, grown))


def found_at(one: Answer, metric: Metric) -> int | None:
    """The first look at which the interval left out zero, None where none did."""
    looks = one.of(ARMS[1], metric.name).by_day
    return next((at for at, (_, _, low, high) in enumerate(looks) if low > 0 or high < 0), None)
