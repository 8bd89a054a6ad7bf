"""`fenliu bench experiments`: error rates under daily looks, power, CUPED, mismatches; a report over many
events.

The table is of units × days: what customers of the synthetic bank clicked. It is divided into two arms anew,
thousands of times: nothing differs, so whatever is found is false. Everybody looks every day and stops at
the first finding, once by what a report says (`experiments_product`), once by t-tests.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from training.bench.experiments_product import ARMS, AT_ONCE, COLUMNS, EVERY, MEAN, Table, answers, found_at
from training.bench.harness import Bar, Result
from training.bench.report_load import report_figures
from training.bench.tally import Tally
from training.experiment.mismatch import ALPHA as MISMATCH_ALPHA
from training.experiment.mismatch import mismatch
from training.progress import counting, wide_console
from training.world.history import World
from training.world.rows import CLICKED, CONVERTED

ABOUT: Final = (
    "experiments: A/A error rate under peeking, power, CUPED, mismatch; a report over 100 million events"
)
DAYS: Final = 14
DAY: Final = 86_400.0
SINGLE: Final = float(stats.norm.isf(0.025))
Floats = NDArray[np.float64]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--customers", type=int, help="of the synthetic bank (20,000; quick 5,000)")
    parser.add_argument("--runs", type=int, help="re-randomisations (2,000; quick 300)")
    parser.add_argument("--events", type=int, help="of the report (100,000,000; quick 2,000,000; 0 none)")
    parser.add_argument("--units", type=int, help="of the report (2,000,000; quick 100,000)")
    parser.add_argument(
        "--share", type=float, default=0.5, help="of the units of an A/A, in the treatment (0.5)"
    )
    parser.add_argument("--only-aa", action="store_true", help="neither power, CUPED nor mismatches")
    parser.add_argument("--seed", type=int, default=11)


def run(args: argparse.Namespace) -> Result:
    tally, console = Tally(), wide_console()
    customers = args.customers or (5_000 if args.quick else 20_000)
    runs = args.runs or (300 if args.quick else 2_000)
    rng = np.random.default_rng(args.seed)
    with counting(console, f"days of {customers:,} customers") as tick:
        table = _table(customers, args.seed, tick)
    _peeking(tally, rng, table, runs, args.share)
    if not args.only_aa:
        _power(tally, rng, table, runs)
        _cuped(tally, rng, table, runs)
        _mismatch(tally, rng)
    events = (2_000_000 if args.quick else 100_000_000) if args.events is None else args.events
    if events:
        report_figures(
            tally, console, events, args.units or (100_000 if args.quick else 2_000_000), args.seed
        )
    return tally.result()


def _table(customers: int, seed: int, tick: object) -> Table:
    """What customers did in two weeks and in the two before, of those who were seen in the later."""
    world = World.create(seed, customers, 600)
    counts = {name: np.zeros((customers, 2 * DAYS)) for name in COLUMNS}
    for number, day in enumerate(world.history(2 * DAYS)):
        for name, what in (("clicks", CLICKED), ("conversions", CONVERTED)):
            rows = day.rows[day.rows["what"] == what]
            counts[name][:, number] = np.bincount(rows["customer"], minlength=customers)
        told = np.nan_to_num(rows["amount"])  # of the conversions
        counts["value"][:, number] = np.bincount(rows["customer"], told, minlength=customers)
        counts["pages"][:, number] = np.bincount(day.visits.customers, minlength=customers)
        tick(number + 1, 2 * DAYS)  # type: ignore[operator]
    met = counts["pages"][:, DAYS:] > 0
    seen = met.any(axis=1)
    first = met.argmax(axis=1)
    since = np.arange(DAYS) >= first[:, None]
    return Table(
        {name: (one[:, DAYS:] * since)[seen] for name, one in counts.items()},
        {name: one[seen, :DAYS].sum(axis=1) for name, one in counts.items()},
        first[seen],
    )


def _treated(
    rng: np.random.Generator, runs: int, n: int, share: float = 0.5
) -> Iterator[NDArray[np.float32]]:
    """(some, n) which units are in the arm, `runs` of them in all."""
    for done in range(0, runs, AT_ONCE):
        yield (rng.random((min(AT_ONCE, runs - done), n), np.float32) < share).astype(np.float32)


def _naive(treated: NDArray[np.float32], cumulated: Floats, met: Floats) -> Floats:
    """(runs, DAYS) z of the difference of means, as a t-test has it. `treated` (runs, n)."""
    held, total = treated.astype(np.float64), cumulated.sum(axis=0)
    squares = cumulated**2
    n1, s1, q1 = held @ met, held @ cumulated, held @ squares
    n0, s0, q0 = met.sum(axis=0) - n1, total - s1, squares.sum(axis=0) - q1
    with np.errstate(invalid="ignore", divide="ignore"):
        error = (q1 / n1 - (s1 / n1) ** 2) / n1 + (q0 / n0 - (s0 / n0) ** 2) / n0
        z: Floats = np.nan_to_num((s1 / n1 - s0 / n0) / np.sqrt(error))
    return z


def _peeking(tally: Tally, rng: np.random.Generator, table: Table, runs: int, share: float) -> None:
    """By the product's answers, looked at daily: with the planned end where it is, and where half is over."""
    n = len(table.first)
    tally.put("aa_units", n, "", f"met in {DAYS} days, one look a day, {runs:,} re-randomisations")
    tally.put("aa_share", share, "", "of them treated")
    for planned, some, name in ((DAYS, runs, ""), (DAYS // 2, runs, "_longer")):
        false = dict.fromkeys(EVERY, 0)
        with counting(wide_console(), f"A/A, planned for {planned} days") as tick:
            held = _treated(rng, some, n, share)
            for number, one in enumerate(answers(table, held, planned=planned, metrics=EVERY)):
                for metric in EVERY:
                    false[metric] += found_at(one, metric) is not None
                tick(number + 1, some)
        note = f"with CUPED ever found, planned for {planned} days, looked at for {DAYS}, {some:,} runs"
        for metric, found in false.items():
            tally.put(f"aa_{metric.name}{name}", found / some, "", note, ("<=", 0.05))
    met = (np.arange(DAYS) >= table.first[:, None]).astype(np.float64)
    cumulated, naive, at_end = table.did["clicks"].cumsum(axis=1), 0, 0
    for treated in _treated(rng, runs, n):
        z = np.abs(_naive(treated, cumulated, met)) > SINGLE
        naive += int(z.any(axis=1).sum())
        at_end += int(z[:, -1].sum())
    tally.put("aa_naive", naive / runs, "", "the same by a t-test a day")
    tally.put("aa_single", at_end / runs, "", "a t-test on the last day alone")


def _power(tally: Tally, rng: np.random.Generator, table: Table, runs: int) -> None:
    """An effect that a single look finds with 80 % power in two thirds of the units, sought in all."""
    n, clicks = len(table.first), table.did["clicks"].sum(axis=1)
    smaller = round(n / 1.5)
    share = _detectable(float(clicks.std() / clicks.mean()), smaller)
    plain: dict[str, Any] = {"lift": share, "before": False, "metrics": (MEAN,)}
    looks = [found_at(one, MEAN) for one in answers(table, _treated(rng, runs, n), planned=DAYS, **plain)]
    days_to = [at + 1 for at in looks if at is not None]
    single = 0
    for treated in _treated(rng, runs, smaller):
        fewer = table.some(rng.permutation(n)[:smaller])
        for one in answers(fewer, iter((treated,)), planned=DAYS, last=True, **plain):
            single += one.of(ARMS[1], MEAN.name).fixed_p < 0.05
    tally.put("power_effect", share, "", "relative, on clicks a unit, without CUPED")
    tally.put("power_single", single / runs, "", f"of one look in {smaller:,} units; 0.8 by design")
    tally.put("power_sequential", len(days_to) / runs, "", f"looking every day, in {n:,} units", (">=", 0.8))
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


def _cuped(tally: Tally, rng: np.random.Generator, table: Table, runs: int) -> None:
    """The spread of the difference over re-randomisations, with and without, against 1 − correlation²."""
    before, y = table.before["clicks"], table.did["clicks"].sum(axis=1)
    correlation = float(np.corrcoef(before, y)[0, 1])
    theta = float(np.cov(before, y)[0, 1] / before.var(ddof=1))
    gaps = []
    for treated in _treated(rng, runs, len(y)):
        held = treated.astype(np.float64)
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
    """`units` are met in all, of two equal arms of which one loses 1 % of its own; as a report tests it."""
    lost = rng.binomial(units, 0.99 / 1.99, runs)
    fair = rng.binomial(units, 0.5, runs)
    weights = dict.fromkeys(ARMS, 1.0)
    for name, arm in (("found", lost), ("false", fair)):
        sizes, times = np.unique(arm, return_counts=True)  # equal sizes are told alike
        told = sum(
            count * mismatch({ARMS[0]: units - one, ARMS[1]: one}, weights).found
            for one, count in zip(sizes.tolist(), times.tolist(), strict=True)
        )
        note = "one arm loses 1 %" if name == "found" else f"none does; α = {MISMATCH_ALPHA}"
        bar: Bar = (">=", 0.9) if name == "found" else ("<=", 0.0011)
        tally.put(f"mismatch_{name}", told / runs, "", f"{units:,} units, {note}", bar)
