"""`fenliu bench lifecycle`: lifecycle models on the synthetic bank, judged on its last horizon.

Beside each stands a ridge logistic on the same columns, and the truth where the world has one: `ceiling` is
the AUC of the customers' own hidden rates (visits for churn and return, purchases for families), which no
model that reads the past alone can be expected to reach.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from rich.console import Console

from training.bench.harness import Bar, Result
from training.lake import Lake
from training.lifecycle import NEXT_FUNCTION, Made, Moments, train
from training.lifecycle_fit import auc
from training.lifecycle_past import Past, past_of
from training.lifecycle_targets import targets_of
from training.progress import counting
from training.world import World
from training.world.catalogue import FAMILIES

ABOUT = "prospects, churn, swing, return, purchase, next function, benefits: AUC, lift, calibration"
FIXED: Final = ("prospect", "new_churn", "swing", "dormant_return", "benefit_response", NEXT_FUNCTION)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--customers", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=75)
    parser.add_argument("--span", type=float, default=14.0, help="days that are foretold")
    parser.add_argument("--visits", type=float, default=0.25, help="a customer's mean visits a day")
    parser.add_argument("--seed", type=int, default=9)


def run(args: argparse.Namespace) -> Result:
    if args.quick:
        args.customers, args.days, args.span = 6_000, 42, 7.0
    console = Console(stderr=True)
    world = World.create(args.seed, args.customers, 600, visits_per_day=args.visits)
    with TemporaryDirectory(prefix="fenliu-lifecycle-") as folder:
        lake = Lake(Path(folder) / "lake")
        with counting(console, f"{args.days} days of {args.customers:,} customers") as tick:
            world.write(lake, args.days, lambda day, _: tick(day, args.days))
        past = past_of(lake)
    with console.status("learning …"):
        made, when = train(past, span_days=args.span, seed=args.seed)
    figures: dict[str, float] = {"customers": float(len(past)), "events": float(len(past.at))}
    for one in made:
        figures |= _figures(one)
    figures |= _ceilings(world, past, when)
    reports = [one.report for one in made if one.report is not None]
    figures["models"] = float(len(reports))
    gaps = np.array([one.gap[0] for one in reports])
    figures["mean_gap"] = float(gaps.mean())
    figures["lowest_gap_high"] = float(min(one.gap[2] for one in reports))
    figures["sums_untrue"] = float(
        sum(not _near(one.forest.total.low, one.forest.total.high) for one in reports)
    )
    return Result(figures, _bars(args.quick), {}, NOTES)


def _worst(deciles: Iterable[float | None]) -> float:
    known = [ratio for ratio in deciles if ratio]
    return max(known, key=lambda ratio: abs(np.log(ratio)), default=1.0)


def _figures(one: Made) -> dict[str, float]:
    if one.report is None:
        return {}
    found, name = one.report, one.name
    return {
        f"{name}_rate": found.positives / found.rows,
        f"{name}_auc": found.forest.auc,
        f"{name}_auc_logistic": found.baseline.auc,
        f"{name}_gap_low": found.gap[1],
        f"{name}_gap_high": found.gap[2],
        f"{name}_lift": found.forest.lift,
        f"{name}_sums": found.forest.total.ratio,
        f"{name}_decile_worst": max(
            (r for r in found.deciles if r), key=lambda r: abs(np.log(r)), default=1.0
        ),
    }


def _ceilings(world: World, past: Past, when: Moments) -> dict[str, float]:
    """AUC of hidden rates on the same customers and labels."""
    row = {name: place for place, name in enumerate(world.customers.ids)}
    at = np.array([row[name] for name in past.ids])
    days = (when.judge - world.start) / 86_400.0
    visits = world.customers.activity * np.exp(world.customers.trend * days)
    found: dict[str, float] = {}
    for target in targets_of(past):
        family = target.name.removeprefix("buys_")
        if target.name in ("new_churn", "dormant_return"):
            truth = visits[at] * (-1 if target.name == "new_churn" else 1)
        elif family in FAMILIES:
            truth = world.rates[at, FAMILIES.index(family)]
        else:
            continue
        concerned, label = target.asked(past.known_at(when.judge, when.back), past, when.judge, when.span)
        mine = concerned & ~past.refused
        found[f"{target.name}_ceiling"] = auc(truth[mine], label[mine].astype(np.float64))
    return found


def _near(low: float, high: float, tolerated: tuple[float, float] = (0.9, 1.1)) -> bool:
    return low <= tolerated[1] and high >= tolerated[0]


def _bars(quick: bool) -> dict[str, Bar]:
    bars: dict[str, Bar] = {"models": (">=", 8.0 if quick else 11.0), "lowest_gap_high": (">=", 0.0)}
    if quick:
        return bars | {"new_churn_auc": (">=", 0.6), "dormant_return_auc": (">=", 0.55)}
    return bars | {
        "sums_untrue": ("<=", 0.0), "mean_gap": (">=", 0.0), "new_churn_auc": (">=", 0.7),
        "dormant_return_auc": (">=", 0.7), "next_function_lift": (">=", 2.0),
    }  # fmt: skip


NOTES: Final = {
    "mean_gap": "the forest's AUC less the logistic's, mean over models",
    "lowest_gap_high": "upper end of the worst model's paired 95 % interval: no model is shown to be worse",
    "sums_untrue": "models whose interval of Σp/Σy does not reach into 0.9 to 1.1",
}
