"""The ranker on the synthetic bank, whose truth is known: quality on held-out days, and what a page costs.

Displayed placements of the last days are foretold by what was learnt before them. Quality is taken against
the truth, which is what clicks and conversions come to without chance; what really came is printed beside it.
A cell of slot and kind is held to 3 % where what taught it can tell 3 % from chance (`DECIDES` clicks); the
others to 3 % and the chance of what taught them. A month and more teaches, so that every day of the month
(paydays) was seen.
"""

from __future__ import annotations

import argparse
from functools import partial
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from features.ranking import FEATURES
from features.transforms import DAY
from serving.decide import page_of
from serving.live import Live
from serving.pipeline import Trace
from serving.ranker import Answer, Ranker
from serving.ranking import MOST, Ranked, chosen_of
from training.bench.harness import Bar, Result
from training.bench.ranker_figures import DECIDES, agreement, attained, cell_of, click_figures, timed
from training.bench.ranker_study import SLOTS, Stretch, Study
from training.bench.ranker_world import lived
from training.delayed import WAYS, chances
from training.progress import counting
from training.ranker_fit import (
    Floats,
    Rows,
    Setting,
    blank,
    boosted,
    expected,
    fit_answer,
    fit_calibrated,
    level_of,
    log_loss,
    logistic,
    place_table,
    placed_together,
    raw_of,
)
from training.world import HOME, World

ABOUT = "the second-stage ranker: quality on held-out days of a bank whose truth is known, and µs a page"
TEST_DAYS: Final = 3
STRETCH: Final = 4  # days that share one set of counts, as between two trainings
COUNTED: Final = 8  # kept days that only counts are made of
_ITEM, _INTEREST = (FEATURES.index(name) for name in ("item_clicks", "interest"))
NAMES: Final = tuple(slot.name for slot in HOME.slots)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--customers", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=1_000)
    parser.add_argument("--visits", type=float, default=1.0, help="a customer's mean visits a day")
    parser.add_argument("--days", type=int, default=48)
    parser.add_argument("--kept", type=int, default=42, help="of them, the last, whose pages are looked at")
    parser.add_argument("--pages", type=int, default=300_000, help="pages to learn from")
    parser.add_argument("--test-pages", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=5)


def run(args: argparse.Namespace) -> Result:
    """Bars of E4; with `--quick` those that a small bank can decide."""
    if args.quick:
        args.customers, args.items, args.days, args.kept = 2_000, 600, 18, 16
        args.pages, args.test_pages = 7_000, 3_000
    console = Console(stderr=True)
    world = World.create(args.seed, args.customers, args.items, visits_per_day=args.visits)
    with counting(console, f"{args.days} days of {args.customers:,} customers") as tick:
        history = lived(world, args.days, args.kept, tick)
    study = Study(history, args.seed)
    test = args.days - TEST_DAYS
    starts = [*range(args.days - args.kept + COUNTED, test, STRETCH), test]
    per_day = args.pages / (test - starts[0])

    def stretch(first: int, last: int, pages: int) -> Stretch:
        with counting(console, f"days {first} to {last}: counts, then pages") as tick:
            return study.stretch(world.start + first * DAY, world.start + last * DAY, pages, tick)

    parts = [stretch(a, b, int(per_day * (b - a))) for a, b in pairwise(starts)]
    held = stretch(test, args.days, args.test_pages)
    rows = placed_together([part.rows for part in parts])
    label = rows.clicked.astype(np.float64)
    start = blank(place_table(parts[-1].rates, SLOTS), buys=False)
    setting = Setting(seed=args.seed)
    with console.status(f"learning from {rows.size:,} displays …"):
        fitted = fit_calibrated(rows, label, start, setting)
        truth = history.truth[held.shown].astype(np.float64)
        p = expected(fitted, held.rows)
        constant = float(label.mean())
        figures = {"displays": float(rows.size), "held_out": float(held.rows.size)}
        figures |= click_figures(
            p, truth, held.rows.clicked.astype(np.float64), held.rows.slot, held.rows.kind, held.rows.item,
            constant, np.bincount(cell_of(rows.slot, rows.kind), label).astype(np.float64),
        )  # fmt: skip
        figures |= _distilled(rows, held, label, truth, start, setting, constant)
        figures |= _treatments(rows, held, label, study, start, setting)
        bought, convert = _conversions(study, parts, held, setting, args.days)
        figures |= bought
    ranker = Ranker(
        held.signals.facts, NAMES, fitted, convert, np.median(rows.matrix, axis=1).astype(np.float32),
        held.signals.scale,
    )  # fmt: skip
    figures |= _speed(study, held, ranker)
    return Result(figures, _bars(args.quick), UNITS, NOTES)


def _bars(quick: bool) -> dict[str, Bar]:
    bars: dict[str, Bar] = {"constant_over_truth": (">=", 1.05), "us_page": ("<=", 40.0)}
    if quick:
        return bars | {"attained": (">=", 0.7)}
    for name, low, high in (("cell", 0.97, 1.03), ("decile", 0.9, 1.1), ("campaign", 0.9, 1.1)):
        bars |= {f"{name}_lowest": (">=", low), f"{name}_highest": ("<=", high)}
    off: Bar = ("<=", 0.03)
    bars["cells_beyond_chance"] = ("<=", 0.0)
    return bars | {"attained": (">=", 0.85), "slope_off": ("<=", 0.05), "newest_day_off": off}


def _distilled(
    rows: Rows, held: Stretch, label: Floats, truth: Floats, start: Answer, setting: Setting, constant: float
) -> dict[str, float]:
    """The large forest beside those that serve, on the held-out days."""
    base = raw_of(start, rows)
    level = level_of(base, label)
    columns = np.ascontiguousarray(rows.matrix.T)
    there = raw_of(start, held.rows) + level
    asked = np.ascontiguousarray(held.rows.matrix.T)
    large = boosted(columns, label, base + level, setting, large=True)
    p = logistic(there + large.predict(asked, raw_score=True, num_threads=1))
    taught = logistic(base + level + large.predict(columns, raw_score=True, num_threads=1))
    found = {"large_attained": attained(p, truth, constant)}
    for name, target in (("distilled", taught), ("straight", label)):
        small = boosted(columns, target, base + level, setting, large=False)
        q = logistic(there + small.predict(asked, raw_score=True, num_threads=1))
        found[f"{name}_attained"] = attained(q, truth, constant)
        lost = "lost_by_distillation" if name == "distilled" else "lost_by_size"
        found[lost] = log_loss(q, truth) - log_loss(p, truth)
    return found


def _treatments(
    rows: Rows, held: Stretch, label: Floats, study: Study, start: Answer, setting: Setting
) -> dict[str, float]:
    """Ways of treating the place: how they order what a slot showed, as the truth does at one place."""
    history, shown = study.history, held.shown
    perceived = (history.truth[shown] / np.maximum(history.examined[shown], 1e-6)).astype(np.float64)
    page, slot = history.page[shown], held.rows.slot
    own = held.rows.matrix[_ITEM].astype(np.float64) + held.rows.matrix[_INTEREST]
    place = start.place[rows.slot, rows.position].astype(np.float64)
    base = rows.matrix[_ITEM].astype(np.float64) + rows.matrix[_INTEREST]
    found = {}
    columns, asked = (np.ascontiguousarray(one.matrix.T) for one in (rows, held.rows))
    where = np.column_stack([rows.slot, rows.position]).astype(np.float32)
    first = np.column_stack([slot, np.zeros_like(slot)]).astype(np.float32)
    draw = logistic(place)
    ways = {
        "table": (columns, asked, base + place, None),
        "feature": (np.hstack([columns, where]), np.hstack([asked, first]), base, None),
        "weights": (columns, asked, base, np.minimum(draw.max() / draw, 20.0)),
        "ignored": (columns, asked, base, None),
    }
    for name, (learnt, served, begin, weight) in ways.items():
        level = level_of(begin, label)
        model = boosted(learnt, label, begin + level, setting, large=False, weight=weight)
        score = own + model.predict(served, raw_score=True, num_threads=1)
        found[f"place_as_{name}"] = agreement(score, perceived, slot, page)
    return found


def _conversions(
    study: Study, parts: list[Stretch], held: Stretch, setting: Setting, days: int
) -> tuple[dict[str, float], Answer]:
    """What was known at the end of the last day, foretold for the displays of that day."""
    history = study.history
    rows = placed_together([part.rows for part in parts] + [held.rows])
    shown = np.concatenate([part.shown for part in parts] + [held.shown])
    now = history.world.start + days * DAY
    newest = rows.at >= now - DAY
    truth = history.converts[shown[newest]].astype(np.float64)
    came = np.isfinite(rows.converted[newest])
    start = blank(place_table(parts[-1].rates, SLOTS), buys=True)
    found = {"newest_day_conversions": float(truth.sum()), "newest_day_came": float(came.sum())}
    taught = np.zeros(rows.size)
    for way in WAYS:
        p = chances(rows, now, start, setting, way)
        taught = p if way == "buckets" else taught
        found[f"converted_by_{way}"] = float(p[newest].sum() / truth.sum())
        found[f"converted_by_{way}_loss"] = log_loss(p[newest], truth)
    answer = fit_answer(rows, taught, start, setting)
    served = expected(answer, rows.take(newest))
    found["converted_as_served"] = float(served.sum() / truth.sum())
    found["converted_as_served_loss"] = log_loss(served, truth)
    found["newest_day_off"] = abs(found["converted_as_served"] - 1)
    return found, answer


def _speed(study: Study, held: Stretch, ranker: Ranker) -> dict[str, float]:
    """µs of processor a page: the stage alone, over at most MOST candidates of pages in batches of 16."""
    live, history = held.live, study.history
    bundle = live.bundle
    stage = Ranked(ranker, bundle.popular, bundle.compiled.table["kind"])
    made, kernel = [], []
    for number in np.linspace(len(history.at) * 3 // 4, len(history.at) - 1, 64).astype(int).tolist():
        page = page_of(study.query(live, number, slots=True), live)
        ranked, _, _ = live.pipelines["full"].run(page, Trace())
        kept = chosen_of(ranked.rows, ranked.score, live_kinds(live), page.demand, len(ranker))[:MOST]
        some = ranked.take(kept)
        known = stage.signals.matrix(page, some)
        made.append(partial(stage.score, page, some))
        kernel.append(partial(stage.odds, page, some, known))
    sizes = float(np.mean([len(one.args[1]) for one in made]))
    return {"candidates": sizes, "us_page": timed(made), "us_forest": timed(kernel)}


def live_kinds(live: Live) -> NDArray[np.uint8]:
    return np.ascontiguousarray(live.table["kind"])


UNITS: Final = {"us_page": "µs CPU", "us_forest": "µs CPU"}
NOTES: Final = {
    "attained": "(constant − model) / (constant − truth) of log loss",
    "sum_over_clicks": "Σp over the clicks that chance made of the truth",
    "cell_lowest": f"Σp over the truth by slot and kind that {DECIDES:,} clicks taught, 200 expected",
    "cells_undecided": "taught by fewer clicks: chance alone moves them by more than 3 % (95 %)",
    "cells_beyond_chance": "of all, those that miss 3 % by more than the chance of what taught them (95 %)",
    "campaign_lowest": "made-up campaigns of 200 clicks and more",
    "lost_by_distillation": "mean log loss, the distilled forest's less the large one's",
    "straight_attained": "a small forest that learnt from the clicks: this way, above floors, serves",
    "place_as_table": "pairs of a slot in the truth's order at one place; this way serves",
    "place_as_feature": "the place a feature, fixed at serving",
    "place_as_weights": "each display weighted by the inverse of its place's draw",
    "converted_by_buckets": "Σp over true conversions of the newest day's displays",
    "converted_by_waiting": "learnt from displays of 14 days and older only",
    "converted_by_negative": "what has not come yet taken for a no",
    "us_page": "features and forest, one page after the other, in batches of 16",
}
