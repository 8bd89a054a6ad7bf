"""`fenliu bench pacing`: a fortnight of campaigns under prices, beside a bound and other ways."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Final

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from training.bench.harness import Bar, Result
from training.progress import wide_console

if TYPE_CHECKING:
    from serving.curves import Floats
    from training.bench.flight14 import Flown
    from training.bench.offline14 import Offline
    from training.bench.traffic14 import Market

ABOUT = "guarantees, shares and quotas paced by prices: value against the hindsight bound, delivery, evenness"

FULL: Final = {
    "views": 200_000, "days": 14, "customers": 20_000, "guaranteed": 120, "clicked": 12, "shares": 10,
    "quotas": 40, "standard": 30, "least_goal": 2_000, "least_clicks": 2_000,
}  # fmt: skip
QUICK: Final = {
    "views": 8_000, "days": 3, "customers": 2_000, "guaranteed": 12, "clicked": 1, "shares": 2,
    "quotas": 4, "standard": 4, "least_goal": 500, "least_clicks": 200,
}  # fmt: skip
SEEDS: Final = 5
BARS: Final[dict[str, Bar]] = {
    "value_to_bound": (">=", 0.99),
    "on_target": (">=", 0.98),
    "worst_guarantee": (">=", 0.98),
    "clicked_off": ("<=", 1.0),
    "even_deviation": ("<=", 0.05),
    "quota_overshoot": ("<=", 0.0),
    "cap_overshoot": ("<=", 0.0),
    "ledger_differences": ("<=", 0.0),
    "late_displays": ("<=", 0.001),
    "highs_gap": ("<=", 1e-4),
    "carousel_least": (">=", 0.99),
    "carousel_most": ("<=", 1.01),
}
QUICK_BARS: Final[dict[str, Bar]] = {
    **BARS,
    "value_to_bound": (">=", 0.95),
    "on_target": (">=", 0.9),
    "worst_guarantee": (">=", 0.97),
    "even_deviation": ("<=", 0.08),
    "highs_gap": ("<=", 1e-3),
}
WORST_OF: Final = {"value_to_bound": min, "on_target": min, "worst_guarantee": min}  # the others: the largest
PRINTED: Final = {
    "value_to_bound": "value/bound",
    "value_to_uncalibrated": "uncalibrated",
    "on_target": "on target",
    "worst_guarantee": "worst",
    "most_guarantee": "most",
    "clicked_off": "clicked off",
    "even_deviation": "even off",
    "quota_overshoot": "quota over",
    "cap_overshoot": "cap over",
    "late_displays": "late",
    "truth_to_prediction": "truth/predicted",
    "sold": "sold",
    "cpu_seconds": "CPU s",
}
OF_RIVALS: Final = {
    "value_to_bound": "value",
    "on_target": "on_target",
    "worst_guarantee": "worst",
    "even_deviation": "even_off",
}
NOTES: Final = {
    "value_to_bound": "expected value less penalties, over the bound on the same predictions; worst seed",
    "on_target": "feasible displayed guarantees that ended within −0.5 % and +1 %; worst seed",
    "worst_guarantee": "of the feasible displayed guarantees, delivered over goal",
    "clicked_off": "largest miss of a clicked goal over max(3 %, 3 √N)",
    "even_deviation": "largest of any even goal at any hour, from its target curve, of the goal",
    "value_to_uncalibrated": "the same, the bound owing predicted clicks instead of clicks that come",
    "truth_to_prediction": "value by the true P(click) over value on the predictions",
    "share_least": "worst branch and day: share delivered over promised",
    "clicked_even_deviation": "of the goals in clicks, as clicks came: they are steered by what is expected",
    "sold": "displays of guarantees and shares, of all displays of the slots that campaigns may take",
    "ledger_differences": "pools of the product's ledger that differ from the bench's own count, daily",
    "late_displays": "of campaigns; one slot in 4,000 is displayed after its validity by the scenario",
    "quota_overshoot": "confirmed + outstanding over a quota, units at any instant, displays in time",
    "cap_overshoot": "the same of a customer's caps",
    "infeasible": "goals whose price in hindsight is at its ceiling",
    "page_gap": "what the product's page code leaves of the bound at the same prices",
    "highs_gap": "Lagrangian bound over HiGHS on a slice, both on the product's pages, less 1",
    "carousel_least": "display rates 1 to 0.15, goals of 10 to 60 % of pages: delivered over goal",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=argparse.SUPPRESS, help=f"({SEEDS}; with --quick 1)")
    parser.add_argument("--first-seed", type=int, default=1, help="the seeds count from here")
    for name, many in FULL.items():
        about = f"({many:,}; with --quick {QUICK[name]:,})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=argparse.SUPPRESS, help=about)
    parser.add_argument(
        "--rivals", default=None, help="beside ours: named (by the issue), all, none, or names with commas"
    )
    parser.add_argument(
        "--rival-seeds", type=int, default=1, help="on how many of the seeds they fly, the last"
    )
    parser.add_argument("--tune", action="store_true", help="only fly the rivals' grids, briefly")
    parser.add_argument("--slice", type=int, default=argparse.SUPPRESS, help="views of the HiGHS check")
    parser.add_argument(
        "--positions",
        type=int,
        default=argparse.SUPPRESS,
        help="pages of the carousel (200,000; quick 20,000)",
    )
    parser.add_argument("--plot", default=None, metavar="FILE", help="a PNG of delivery and prices over time")


def run(args: argparse.Namespace) -> Result:
    from training.bench import carousel

    console = wide_console()
    if args.tune:
        from training.bench.tune14 import tuned

        return Result(tuned(console, rivals_of(args.rivals or "all")))
    sizes = {name: getattr(args, name, default) for name, default in (QUICK if args.quick else FULL).items()}
    seeds = range(args.first_seed, args.first_seed + getattr(args, "seeds", 1 if args.quick else SEEDS))
    rivals = rivals_of(args.rivals or ("greedy" if args.quick else "named"))
    per_seed: list[dict[str, float]] = []
    for number, seed in enumerate(seeds):
        began = time.process_time()
        left = len(seeds) - number
        slice_of = getattr(args, "slice", 600 if args.quick else 20_000) if left == 1 else 0
        others = rivals if left <= args.rival_seeds else ()
        figures = _seed(sizes, seed, slice_of, others, args.plot if number == 0 else None, console)
        figures["cpu_seconds"] = time.process_time() - began
        per_seed.append(figures)
    console.print(_by_seed(seeds, per_seed))
    figures = _worst(per_seed)
    figures |= carousel.figures(getattr(args, "positions", 20_000 if args.quick else 200_000))
    bars = QUICK_BARS if args.quick else BARS
    return Result(figures, bars, {"cpu_seconds": "s a seed"}, NOTES)


def rivals_of(said: str) -> tuple[str, ...]:
    """Names of the policies beside ours. Raises ValueError for a name that there is not."""
    from training.bench.policies import NAMED, RIVALS

    names = {"all": RIVALS, "named": NAMED, "none": ()}.get(said)
    names = tuple(filter(None, said.split(","))) if names is None else names
    if unknown := [name for name in names if name not in RIVALS]:
        raise ValueError(f"no rival is called {unknown[0]!r}: name some of {', '.join(RIVALS)}, or all, none")
    return names


def _by_seed(seeds: range, per_seed: list[dict[str, float]]) -> Table:
    table = Table(title="ours, seed by seed")
    table.add_column("seed", justify="right")
    for column in PRINTED.values():
        table.add_column(column, justify="right")
    for seed, found in zip(seeds, per_seed, strict=True):
        table.add_row(str(seed), *(f"{found[name]:.4g}" for name in PRINTED))
    return table


def _worst(per_seed: list[dict[str, float]]) -> dict[str, float]:
    """Over the seeds: the worst of what has a bar, the mean of the rest."""
    figures: dict[str, float] = {}
    for name in dict.fromkeys(name for one in per_seed for name in one):
        values = [one[name] for one in per_seed if name in one]
        if name in WORST_OF:
            figures[name] = WORST_OF[name](values)
        elif name in BARS:
            figures[name] = max(values)
        else:
            figures[name] = float(np.mean(values))
    figures["value_to_bound_mean"] = float(np.mean([one["value_to_bound"] for one in per_seed]))
    figures["on_target_mean"] = float(np.mean([one["on_target"] for one in per_seed]))
    return figures


def _seed(
    sizes: dict[str, int],
    seed: int,
    slice_of: int,
    others: tuple[str, ...],
    plot: str | None,
    console: Console,
) -> dict[str, float]:
    from training.bench import highs_check, offline14
    from training.bench.campaigns14 import Size
    from training.bench.flight14 import Flight
    from training.bench.measured14 import measured
    from training.bench.policies import policy
    from training.bench.traffic14 import market

    figures: dict[str, float] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"seed {seed}: traffic and offline plan", total=None)
        made = offline14.with_quotas(market(Size(**sizes), seed), seed)
        few = made.size.views < 50_000
        offline = offline14.plan_offline(made, seed, 20 if few else 30)
        progress.update(bar, description=f"seed {seed}: hindsight bound")
        behind = offline14.hindsight(made, offline, 8 if few else 12)
        programme = offline14.programme_of(made, made.views, 1.0)
        for name in ("ours", *others):
            began = time.process_time()
            progress.update(bar, description=f"seed {seed}: {name}", completed=0, total=made.size.days)
            flight = Flight(made, programme, seed)
            flown = flight.fly(policy(name, made, offline), lambda day: progress.update(bar, completed=day))
            found = measured(made, offline, behind, flown)
            found["cpu_seconds"] = time.process_time() - began
            said = "  ".join(f"{column} {found[one]:.4g}" for one, column in PRINTED.items())
            console.print(f"seed {seed}, {name}: {said}")
            if name == "ours":
                figures = found
                if plot:
                    _plot(plot, made, offline, flown)
            else:
                figures |= {f"{name}_{said}": found[one] for one, said in OF_RIVALS.items()}
        figures["page_gap"] = behind.page_gap
        if slice_of:
            progress.update(bar, description=f"seed {seed}: HiGHS on a slice", total=None)
            figures["highs_gap"] = highs_check.gap(made, offline, slice_of)
    return figures


def _plot(path: str, made: Market, offline: Offline, flown: Flown) -> None:
    """Delivery minus curve, and prices, by hour."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    goal = offline.programme.goal_campaign
    wanted = made.campaigns.wanted[goal]
    guaranteed = np.flatnonzero(made.campaigns.branch[goal] < 0)
    some = guaranteed[:: max(1, len(guaranteed) // 12)][:12]
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(18, 5))
    days = np.arange(len(flown.history)) / 24.0
    left.plot(days, flown.history[:, some] / wanted[some])
    left.plot(days, flown.due[:, some] / wanted[some], "k:", linewidth=0.6)
    left.set(title="delivered of the goal, and its curve (dotted)", xlabel="day")
    off: Floats = (flown.history - flown.due)[:, guaranteed] / wanted[guaranteed]
    middle.plot(days, 100 * off, linewidth=0.5)
    middle.set(title="off the curve, % of the goal", xlabel="day")
    unit = offline.programme.goal_unit[some] == 0
    right.plot(days, np.maximum(flown.prices[:, some[unit]], -0.02))
    right.set(title="price, CNY per display", xlabel="day")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
