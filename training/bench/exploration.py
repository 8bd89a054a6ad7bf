"""`fenliu bench exploration`: logged chances against how often `decide()` draws, and what the lotteries cost.

A few customers ask for the canonical homepage, every slot exploring, activities with three creatives each,
under many decision ids; half of the draws also try new items, which most of this world's are. Nothing but the
draws differs between the pages of one customer, so each place's frequencies must be its logged chances, and
neighbouring places must be drawn independently. A creative's lottery is its item's at its place.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from time import process_time
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from scipy import stats

from serving.decide import decide
from serving.domain import Lottery, Query
from serving.experiment_compiling import compile_experiments
from serving.exploring import explored
from serving.live import Live, build_live
from training.bench.assignment import cost, plan_of
from training.bench.decide_world import live_of, queries
from training.bench.harness import Result
from training.bench.newcomers import newcomers
from training.bench.tally import Tally
from training.progress import counting, wide_console

ABOUT: Final = "exploration: propensities against Monte-Carlo frequencies of decide(), cost of the lotteries"
CUSTOMERS: Final = 4
CREATIVES: Final = 3  # of an activity
LEAST: Final = 5.0  # draws expected of each
EXPLORE: Final = 0.3
BUDGET: Final = 0.05
FEED: Final = "home.feed"  # the slot that `fenliu demo` lets explore, as often as there
FEED_EXPLORE: Final = 0.02


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draws", type=int, help="lotteries held (1,000,000; quick 60,000)")
    parser.add_argument("--items", type=int, default=600)
    parser.add_argument("--seed", type=int, default=9)


def run(args: argparse.Namespace) -> Result:
    tally, console = Tally(), wide_console()
    draws = args.draws or (60_000 if args.quick else 1_000_000)
    plain = live_of(args.items, 0, 6, args.seed, CREATIVES)
    with counting(console, f"{draws:,} draws") as tick:
        for new, name, before in ((0.0, "", 0), (EXPLORE, "new_", draws // 2)):
            live = _exploring(plain, explore_new=new)
            asked = queries(live, CUSTOMERS, 16, args.seed)
            _frequencies(tally, live, asked, draws // 2, name, partial(_further, tick, before, draws))
    with console.status("new items, told at night, by the minute and drawn"):
        newcomers(tally, 2_000 + args.seed, 10 if args.quick else 60)
    _cost(tally, plain, args.seed)
    return tally.result()


def _further(tick: Callable[[int, int], None], before: int, every: int, done: int) -> None:
    tick(before + done, every)


def _exploring(live: Live, only: str | None = None, explore: float = EXPLORE, **terms: float) -> Live:
    plan = live.plan.plan
    slots = tuple(
        slot.model_copy(
            update={"explore": explore, "explore_budget": BUDGET if slot.size > 5 else 1.0, **terms}
        )
        if only in (None, slot.name)
        else slot
        for slot in plan.slots
    )
    return build_live(live.bundle, (), plan.model_copy(update={"slots": slots}))


def _frequencies(
    tally: Tally, live: Live, asked: Sequence[Query], draws: int, name: str, tick: Callable[[int], None]
) -> None:
    cells: dict[Hashable, np.ndarray] = {}
    chances: dict[Hashable, tuple[float, ...]] = {}
    slot_of: dict[Hashable, str] = {}
    pairs: dict[Hashable, np.ndarray] = defaultdict(lambda: np.zeros((2, 2)))
    held = pages = drawn = 0
    sums, differing = 0.0, 0

    def count(key: Hashable, one: Lottery, slot: str) -> None:
        nonlocal differing, sums
        if key not in cells:
            cells[key], chances[key], slot_of[key] = np.zeros(len(one.keys)), one.probabilities, slot
        differing += chances[key] != one.probabilities
        cells[key][one.drawn] += 1
        sums = max(sums, abs(sum(one.probabilities) - 1))

    while held < draws:
        customer = pages % len(asked)
        page = decide(replace(asked[customer], decision_id=f"{name}{pages}"), live)
        before = None
        for one in page.lotteries:
            slot = page.query.slots[page.placements[one.place].slot].spec.name
            count((customer, one.place), one, slot.rpartition(".")[2])
            if before is not None:
                pairs[customer, one.place][int(before > 0), int(one.drawn > 0)] += 1
            before = one.drawn
        for one in page.draws:
            count((customer, one.place, one.keys), one, "creatives")
        held, drawn = held + len(page.lotteries), drawn + len(page.draws)
        pages += 1
        tick(min(held, draws))
    said = f"lotteries on {pages:,} pages of {len(asked)} customers, and {drawn:,} of creatives"
    tally.put(f"{name}draws", held, "", said)
    tally.put(f"{name}chances_differ", differing, "", "whose chances changed with the decision id", ("<=", 0))
    tally.put(f"{name}chances_sum_off", sums, "", "of a lottery, from 1", ("<=", 1e-9))
    by_slot: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for key, found in cells.items():
        expected = found.sum() * np.array(chances[key])
        if expected.min() >= LEAST:  # of rarer ones a chi-square says nothing
            by_slot[slot_of[key]].append((float(((found - expected) ** 2 / expected).sum()), len(found) - 1))
    for slot, some in by_slot.items():
        _chi(tally, f"{name}chi_{slot}", some, f"{len(some)} places, over its degrees of freedom")
    _chi(
        tally,
        f"{name}chi_pairs",
        [(_independence(table), 1) for table in pairs.values()],
        "neighbouring places",
    )


def _chi(tally: Tally, name: str, cells: Sequence[tuple[float, int]], note: str) -> None:
    total, freedom = sum(value for value, _ in cells), sum(free for _, free in cells)
    tally.put(name, total / freedom, "", note, ("<=", float(stats.chi2.ppf(0.999, freedom)) / freedom))


def _independence(table: np.ndarray) -> float:
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / max(table.sum(), 1)
    return float(((table - expected) ** 2 / np.maximum(expected, 1e-9)).sum())


def _cost(tally: Tally, plain: Live, seed: int, pages: int = 128) -> None:
    """Every page without and with by turns, so that a busy machine is busy for both; of each the least of
    some rounds, since a page differs from the next by more than lotteries cost."""
    live = _exploring(plain)
    views = (plain, queries(plain, pages, 16, seed)), (live, queries(live, pages, 16, seed))
    least = np.full((2, pages), inf)
    for _ in range(16):
        for at in range(pages):
            for which, (view, asked) in enumerate(views):
                start = process_time()
                decide(asked[at], view)
                least[which, at] = min(least[which, at], process_time() - start)
    drawn = [one.drawn > 0 for query in views[1][1] for one in decide(query, live).lotteries]
    without, more = float(least[0].mean()), float((least[1] - least[0]).mean())
    tally.put("page_us", without * 1e6, "µs", f"processor time of a page without, {pages} pages")
    said = f"more with {len(drawn) / pages:.0f} lotteries a page, {sum(drawn) / pages:.1f} of which turn it"
    tally.put("explore_us", more * 1e6, "µs", said)
    tally.put("explore_part", more / without, "", "of a page without", ("<=", 0.1))
    every = _exploring(plain, None, FEED_EXPLORE)
    feed = _exploring(plain, FEED, FEED_EXPLORE)
    new = _exploring(plain, FEED, FEED_EXPLORE, explore_new=EXPLORE)
    for name, view, said in (
        ("lotteries", live, "all six slots exploring on 30 % of their places"),
        ("six", every, "all six on 2 %"),
        ("new", new, "the feed on 2 %, and new items on up to 30 %"),
        ("feed", feed, "the feed on 2 %, as in `fenliu demo`"),
    ):
        asked = queries(view, pages, 16, seed)
        held = sum(len(decide(query, view).draws) for query in asked) / pages
        own = _alone(view, asked)
        said = f"{said}, and {held:.1f} of creatives a page" if held else said
        tally.put(f"{name}_us", own * 1e6, "µs", f"the stage alone, page by page: {said}")
    assigned = cost(compile_experiments(plan_of(), {"home": 1}))
    tally.put("assign_us", assigned * 1e6, "µs", "assignment of a page in three layers, two holdouts")
    together = (own + assigned) * 1e6
    tally.put("together_us", together, "µs", "assignment, and all lotteries of the feed", ("<=", 10.0))


def _alone(live: Live, asked: Sequence[Query]) -> float:
    """Processor seconds of a page's lotteries, with what `decide()` gives them."""
    given: list[Any] = []

    def noted(*arguments: Any) -> Any:
        given.append(arguments)
        return explored(*arguments)

    with patch("serving.decide.explored", noted):
        for query in asked:
            decide(query, live)
    best = inf
    for _ in range(20):
        start = process_time()
        for arguments in given:
            held, _ = explored(*arguments)
            if held is not None:
                held.propensity  # noqa: B018 - a page asks for it
        best = min(best, (process_time() - start) / len(given))
    return best
