"""`fenliu bench experiments`: error rates under daily looks, power, CUPED, mismatches; a report over many
events.

The table is of units × days: what customers of the synthetic bank clicked. It is divided into two arms anew,
thousands of times: nothing differs, so whatever is found is false. Everybody looks every day and stops at
the first finding, once by the intervals of `training.experiment.sequential`, once by t-tests.
"""

from __future__ import annotations

import argparse
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from training.bench.harness import Result
from training.bench.report_load import report_figures
from training.bench.tally import Tally
from training.experiment.mismatch import ALPHA as MISMATCH_ALPHA
from training.experiment.sequential import Looks, critical
from training.progress import counting, wide_console
from training.world.history import World
from training.world.rows import CLICKED

ABOUT: Final = (
    "experiments: A/A error rate under peeking, power, CUPED, mismatch; a report over 100 million events"
)
DAYS: Final = 14
DAY: Final = 86_400.0
SINGLE: Final = float(stats.norm.isf(0.025))
Floats = NDArray[np.float64]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--customers", type=int, help="of the synthetic bank (20,000; quick 5,000)")
    parser.add_argument("--runs", type=int, help="re-randomisations (2,000; quick 600)")
    parser.add_argument("--events", type=int, help="of the report (100,000,000; quick 2,000,000; 0 none)")
    parser.add_argument("--units", type=int, help="of the report (2,000,000; quick 100,000)")
    parser.add_argument("--seed", type=int, default=11)


def run(args: argparse.Namespace) -> Result:
    tally, console = Tally(), wide_console()
    customers = args.customers or (5_000 if args.quick else 20_000)
    runs = args.runs or (600 if args.quick else 2_000)
    rng = np.random.default_rng(args.seed)
    with counting(console, f"days of {customers:,} customers") as tick:
        before, daily, first = _table(customers, args.seed, tick)
    _peeking(tally, rng, daily, first, runs)
    _power(tally, rng, daily, first, runs)
    _cuped(tally, rng, before, daily, runs)
    _mismatch(tally, rng)
    events = (2_000_000 if args.quick else 100_000_000) if args.events is None else args.events
    if events:
        report_figures(
            tally, console, events, args.units or (100_000 if args.quick else 2_000_000), args.seed
        )
    return tally.result()


def _table(customers: int, seed: int, tick: object) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """(n,) clicks in the two weeks before, (n, DAYS) by day, (n,) the first day seen; of who was seen."""
    world = World.create(seed, customers, 600)
    counts, pages = np.zeros((customers, 2 * DAYS)), np.zeros((customers, 2 * DAYS))
    for number, day in enumerate(world.history(2 * DAYS)):
        rows = day.rows[day.rows["what"] == CLICKED]
        counts[:, number] = np.bincount(rows["customer"], minlength=customers)
        pages[:, number] = np.bincount(day.visits.customers, minlength=customers)
        tick(number + 1, 2 * DAYS)  # type: ignore[operator]
    met = pages[:, DAYS:] > 0
    seen = met.any(axis=1)
    first = met.argmax(axis=1)
    daily = counts[:, DAYS:] * (np.arange(DAYS) >= first[:, None])
    return counts[seen, :DAYS].sum(axis=1), daily[seen], first[seen]


def _statistics(
    treated: NDArray[np.float32], cumulated: Floats, met: Floats
) -> tuple[Floats, Floats, Floats]:
    """(runs, DAYS) z of the difference of means, its value, and V of the contrast. `treated` (runs, n)."""
    held, total = treated.astype(np.float64), cumulated.sum(axis=0)
    squares = cumulated**2
    n1, s1, q1 = held @ met, held @ cumulated, held @ squares
    n0, s0, q0 = met.sum(axis=0) - n1, total - s1, squares.sum(axis=0) - q1
    with np.errstate(invalid="ignore", divide="ignore"):
        error = (q1 / n1 - (s1 / n1) ** 2) / n1 + (q0 / n0 - (s0 / n0) ** 2) / n0
        gap = s1 / n1 - s0 / n0
        z = np.nan_to_num(gap / np.sqrt(error))
    information = n1 * n0 / (n1 + n0)
    return z, gap, np.nan_to_num(information**2 * error)


def _bounds(cumulated: Floats, met: Floats, days: int = DAYS) -> Floats:
    """At the variances of the whole table: which arm a unit is in says nothing about them."""
    n = met.sum(axis=0)
    spread = (cumulated**2).sum(axis=0) / n - (cumulated.sum(axis=0) / n) ** 2
    variance = np.maximum.accumulate(n * spread)
    return critical(Looks(tuple((np.arange(days) + 1) / days), tuple(variance.tolist())))


def _treated(rng: np.random.Generator, runs: int, n: int) -> NDArray[np.float32]:
    return (rng.random((runs, n), np.float32) < 0.5).astype(np.float32)


def _met(first: NDArray[np.int64]) -> Floats:
    return (np.arange(DAYS) >= first[:, None]).astype(np.float64)


def _peeking(
    tally: Tally, rng: np.random.Generator, daily: Floats, first: NDArray[np.int64], runs: int
) -> None:
    cumulated, met = daily.cumsum(axis=1), _met(first)
    bounds = _bounds(cumulated, met)
    false = naive = at_end = 0
    for done in range(0, runs, 100):
        z, _, _ = _statistics(_treated(rng, min(100, runs - done), len(first)), cumulated, met)
        false += int((np.abs(z) > bounds).any(axis=1).sum())
        naive += int((np.abs(z) > SINGLE).any(axis=1).sum())
        at_end += int((np.abs(z[:, -1]) > SINGLE).sum())
    tally.put("aa_units", len(first), "", f"met in {DAYS} days, one look a day, {runs:,} re-randomisations")
    tally.put("aa_false", false / runs, "", "ever found something, of all runs", ("<=", 0.05))
    tally.put("aa_naive", naive / runs, "", "the same by a t-test a day")
    tally.put("aa_single", at_end / runs, "", "a t-test on the last day alone")


def _power(
    tally: Tally, rng: np.random.Generator, daily: Floats, first: NDArray[np.int64], runs: int
) -> None:
    """An effect that a single look finds with 80 % power in two thirds of the units, sought in all."""
    cumulated, met = daily.cumsum(axis=1), _met(first)
    bounds = _bounds(cumulated, met)
    n = len(first)
    deviation = float(cumulated[:, -1].std())
    smaller = round(n / 1.5)
    share = _detectable(deviation / float(cumulated[:, -1].mean()), smaller)
    found = single = 0
    fewer = np.arange(n) < smaller
    days_to = []
    for done in range(0, runs, 100):
        size = min(100, runs - done)
        treated = _treated(rng, size, n)
        z = _shifted(treated, cumulated, met, share)
        hit = np.abs(z) > bounds
        found += int(hit.any(axis=1).sum())
        days_to += (hit.argmax(axis=1) + 1)[hit.any(axis=1)].tolist()
        order = rng.permutation(n)
        at = order[fewer]
        single += int((np.abs(_shifted(treated[:, at], cumulated[at], met[at], share)[:, -1]) > SINGLE).sum())
    tally.put("power_effect", share, "", "relative, on clicks a unit")
    tally.put("power_single", single / runs, "", f"of one look in {smaller:,} units; 0.8 by design")
    tally.put("power_sequential", found / runs, "", f"looking every day, in {n:,} units", (">=", 0.8))
    tally.put(
        "power_days", float(np.mean(days_to)) if days_to else float("nan"), "days", "until it was found"
    )


def _detectable(variation: float, n: int) -> float:
    """The relative effect that a single look at n units finds with 80 % power; it widens the treatment's
    spread as well. `variation`: deviation over mean."""
    share, reach = 0.0, SINGLE + float(stats.norm.isf(0.2))
    for _ in range(50):
        share = reach * variation * float(np.sqrt(2 * (1 + (1 + share) ** 2) / n))
    return share


def _shifted(treated: NDArray[np.float32], cumulated: Floats, met: Floats, share: float) -> Floats:
    """z when every treated unit's clicks are 1 + share times what they were."""
    held, squares = treated.astype(np.float64), cumulated**2
    n1, s1, q1 = held @ met, held @ cumulated * (1 + share), held @ squares * (1 + share) ** 2
    n0 = met.sum(axis=0) - n1
    s0, q0 = cumulated.sum(axis=0) - s1 / (1 + share), squares.sum(axis=0) - q1 / (1 + share) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        error = (q1 / n1 - (s1 / n1) ** 2) / n1 + (q0 / n0 - (s0 / n0) ** 2) / n0
        z: Floats = np.nan_to_num((s1 / n1 - s0 / n0) / np.sqrt(error))
    return z


def _cuped(tally: Tally, rng: np.random.Generator, before: Floats, daily: Floats, runs: int) -> None:
    """The spread of the difference over re-randomisations, with and without, against 1 − correlation²."""
    y = daily.sum(axis=1)
    correlation = float(np.corrcoef(before, y)[0, 1])
    theta = float(np.cov(before, y)[0, 1] / before.var(ddof=1))
    gaps = []
    for done in range(0, runs, 100):
        held = _treated(rng, min(100, runs - done), len(y)).astype(np.float64)
        n1 = held.sum(axis=1)
        gaps.append(
            [
                held @ column / n1 - (column.sum() - held @ column) / (len(y) - n1)
                for column in (y, y - theta * before)
            ]
        )
    plain, less = (np.concatenate([part[at] for part in gaps]) for at in (0, 1))
    saved = 1 - float(less.var() / plain.var())
    tally.put("cuped_correlation", correlation, "", "of clicks with those of the two weeks before")
    tally.put("cuped_predicted", correlation**2, "", "part of the variance that goes")
    tally.put("cuped_reduction", saved, "", "that went, over the re-randomisations")
    tally.put("cuped_off", abs(saved - correlation**2), "", "", ("<=", 0.05))


def _mismatch(tally: Tally, rng: np.random.Generator, units: int = 830_000, runs: int = 1_000_000) -> None:
    """`units` are met in all, of two equal arms of which one loses 1 % of its own."""
    lost = rng.binomial(units, 0.99 / 1.99, runs)
    fair = rng.binomial(units, 0.5, runs)
    limit = stats.chi2.isf(MISMATCH_ALPHA, 1)
    for name, arm in (("found", lost), ("false", fair)):
        value = float(((2 * arm - units) ** 2 / units > limit).mean())
        note = "one arm loses 1 %" if name == "found" else f"none does; α = {MISMATCH_ALPHA}"
        bar: tuple[str, float] = (">=", 0.9) if name == "found" else ("<=", 0.0011)
        tally.put(f"mismatch_{name}", value, "", f"{units:,} units, {note}", bar)  # type: ignore[arg-type]
