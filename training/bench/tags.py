"""`fenliu bench tags`: do price tags add up to what their rules cost (evidence E5)?

One day of page views with a rule of every kind is decided; the tags of each rule are summed, and the day is
decided again without it. What the second day is worth more in base value is what the tags claim.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from rich.table import Table

from training.bench.harness import Bar, Result
from training.progress import wide_console

if TYPE_CHECKING:
    from serving.page import Pages
    from training.bench.tags_day import Day, Rule

ABOUT = "price tags of rules, summed over a day, beside the value lost by re-deciding the day without each"

FULL: Final = {"views": 20_000, "customers": 10_000, "campaigns": 80}
QUICK: Final = {"views": 3_000, "customers": 3_000, "campaigns": 80}
MATERIAL: Final = 2e-4  # of the day's value: a loss below it is not scored by itself
DEAREST: Final = 10
KINDS: Final = (*("pin", "guarantee", "lever", "share", "cap", "exclusion", "mandatory", "roadblock"),)


class Priced(NamedTuple):
    """CNY of a day: what its tags say, and what re-deciding says."""

    rule: Rule
    told: float
    lost: float


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--views", type=int, help="page views of the day")


def run(args: argparse.Namespace) -> Result:
    from training.bench.tags_day import day_of, rules_of

    size = dict(QUICK if args.quick else FULL)
    if args.views:
        size["views"] = args.views
    began = time.perf_counter()
    day = day_of(**size, seed=args.seed)
    prepared = time.perf_counter() - began
    value, priced = measured(day, rules_of(day))
    taken = time.perf_counter() - began - prepared
    figures, notes = summed(priced, value)
    figures |= {"value_cny": value, "page_views": float(len(day.views)), "rules": float(len(priced))}
    figures |= {"prepare_s": prepared, "decide_s": taken}
    _show(priced, value)
    return Result(figures, bars(figures), {name: _unit(name) for name in figures}, notes)


def measured(day: Day, rules: list[Rule]) -> tuple[float, list[Priced]]:
    """(base value of the day, every rule that its tags or the days without it price)."""
    from serving.page import solve_many
    from training.bench.tags_day import base_worth, batches, met_by, some_of, without

    told: dict[Rule, float] = defaultdict(float)
    lost = dict.fromkeys(rules, 0.0)
    value = 0.0
    for batch in batches(day):
        pages = solve_many(batch, tags=True)
        here = base_worth(day.slots, pages)
        value += float(here.sum())
        _tell(day, pages, told)
        for rule in rules:
            some = met_by(day, batch, rule)
            if len(some):
                again = solve_many(without(day, some_of(batch, some), rule))
                lost[rule] += float((base_worth(day.slots, again) - here[some]).sum())
    return value, [Priced(rule, told.get(rule, 0.0), lost.get(rule, 0.0)) for rule in {**lost, **told}]


def _tell(day: Day, pages: Pages, told: dict[Rule, float]) -> None:
    """Add up a chunk's tags by rule and by what it is of."""
    from serving.page import RULE
    from training.bench.tags_day import Rule

    many = len(day.market.campaigns)
    tagged = np.flatnonzero((pages.rule != 0) & (pages.rule != RULE["house"]))
    keys, at = np.unique(np.stack([pages.rule[tagged], pages.by[tagged]]), axis=1, return_inverse=True)
    sums = np.bincount(at.ravel(), pages.tag[tagged].astype(np.float64), keys.shape[1])
    for (code, by), cny in zip(keys.T.tolist(), sums.tolist(), strict=True):
        told[Rule(code, by - many if code == RULE["exclusion"] else by)] += cny


def summed(priced: list[Priced], value: float) -> tuple[dict[str, float], dict[str, str]]:
    """Relative errors by kind of rule, of the ten dearest, and of everything; what each kind cost."""
    figures: dict[str, float] = {}
    notes: dict[str, str] = {}
    least = MATERIAL * value
    for kind in KINDS:
        mine = [one for one in priced if one.rule.name == kind]
        told, lost = sum(one.told for one in mine), sum(one.lost for one in mine)
        if abs(lost) >= least:
            figures[f"{kind}_off"] = _off(told, lost)
        notes[f"{kind}_off"] = f"{len(mine)} rules, tags {told:.2f} CNY, re-decided {lost:.2f}"
    dearest = sorted(priced, key=lambda one: -abs(one.lost))[:DEAREST]
    scored = [_off(one.told, one.lost) for one in dearest if abs(one.lost) >= least]
    figures["dearest_worst_off"] = max(scored, default=float("nan"))
    notes["dearest_worst_off"] = f"the worst of the {len(scored)} dearest rules of one campaign or group"
    told, lost = sum(one.told for one in priced), sum(one.lost for one in priced)
    figures["total_off"] = _off(told, lost)
    notes["total_off"] = (
        f"tags {told:.2f} CNY, re-decided {lost:.2f}, {100 * lost / value:.2f} % of the value"
    )
    return figures, notes


def bars(figures: dict[str, float]) -> dict[str, Bar]:
    return {name: ("<=", 0.05) for name in figures if name.endswith("_off")}


def _off(told: float, lost: float) -> float:
    return abs(told - lost) / abs(lost) if lost else float("nan")


def _unit(name: str) -> str:
    if name.endswith("_off"):
        return "of the loss"
    return {"value_cny": "CNY", "prepare_s": "s", "decide_s": "s"}.get(name, "")


def _show(priced: list[Priced], value: float) -> None:
    table = Table(title="the dearest rules of the day")
    for column in ("rule", "of", "tags, CNY", "re-decided, CNY", "of the value", "off"):
        table.add_column(column, justify="right" if column not in ("rule", "of") else "left")
    for one in sorted(priced, key=lambda one: -max(abs(one.lost), abs(one.told)))[:30]:
        table.add_row(
            one.rule.name, str(one.rule.of), f"{one.told:.3f}", f"{one.lost:.3f}",
            f"{one.lost / value:.4%}", f"{_off(one.told, one.lost):.1%}",
        )  # fmt: skip
    wide_console().print(table)
