"""`fenliu bench page`: the allocation against the exact optimum and simpler ones, its speed, and its calm.

The exact optimum is a mixed integer program (`training.exact_page`), so the pages that it is asked about have
half of the homepage's places; speed and stability are measured on the whole homepage.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np

from serving.page import ORGANIC, Problem, Solution, solve
from training.bench.harness import Result
from training.bench.sampled_pages import homepage, sampled_page
from training.exact_page import exact_page, value_of

ABOUT: Final = "page allocation: value against the exact optimum, microseconds, stability"
SWITCHING: Final = 0.05  # CNY per changed place of the grid
VISITS: Final = 3  # of a returning customer a day
DRIFT: Final = 0.1  # how much values move from visit to visit (standard deviation of their logarithm)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pages", type=int, help="pages solved exactly (1000; quick 30)")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds for one exact page")
    parser.add_argument("--kept", type=Path, help="file in which exact optima are kept, and found again")
    parser.add_argument("--seed", type=int, default=2026)


def run(args: argparse.Namespace) -> Result:
    pages = args.pages or (30 if args.quick else 1_000)
    figures = {
        **_against_exact(pages, args.limit, args.seed, args.kept),
        **_speed(args.seed, 40 if args.quick else 200),
        **_calm(args.seed, 40 if args.quick else 300),
        # rows of the audiences (evaluation, counts) come here
    }
    return Result(
        figures,
        bars={
            "value_of_exact": (">=", 0.995),
            "changes_stable": ("<=", 1.0),
            "stable_loss": ("<=", 0.01),
        },
        units={name: "µs" for name in figures if name.startswith("us_") and "over" not in name},
        notes={
            "value_of_exact": f"{pages} pages of 21 places, 100 candidates, 20 offers",
            "proven": "share of pages whose optimum was proven; the others count by the best found",
            "us_20": "solve(), tags off, 6 slots, 40 places, 300 candidates, 60 offers of 20 campaigns",
            "us_tags": "the same with tags",
            "us_2000_over_20": "the loops alone, 60 offers in both: what makes 60 of 2,000 is not in it",
            "changes_stable": "grid positions per returning customer and day, switching on",
            "changes_unstable": "the same, switching off",
        },
    )


def _against_exact(pages: int, limit: float, seed: int, kept: Path | None) -> dict[str, float]:
    slots, known = homepage(0.5), _known(kept)
    ours, best, proven, rivals = [], [], 0, {"slot_by_slot": 0.0, "global_greedy": 0.0}
    for number in range(pages):
        problem = sampled_page(np.random.default_rng([seed, number]), slots, 100, 20, 8)
        name = _digest(problem)
        if name not in known:
            exact = exact_page(problem, time_limit_s=limit)
            known[name] = exact.worth, exact.proven
            if kept is not None:
                with kept.open("a") as file:
                    said = {"digest": name, "worth": exact.worth, "proven": exact.proven}
                    file.write(json.dumps(said) + "\n")
        worth, sure = known[name]
        proven += sure
        ours.append(solve(problem, tags=False).worth)
        best.append(max(worth, ours[-1]))
        rivals["slot_by_slot"] += value_of(problem, _taken(problem, _slot_by_slot(problem)))
        rivals["global_greedy"] += value_of(problem, _taken(problem, _by_value(problem)))
    part = np.array(ours) / np.array(best)
    return {
        "value_of_exact": sum(ours) / sum(best),
        "worst_page": float(part.min()),
        "pages_at_the_optimum": float((part >= 1 - 1e-5).mean()),
        "proven": proven / pages,
        **{f"{name}_of_exact": worth / sum(best) for name, worth in rivals.items()},
    }


def _known(kept: Path | None) -> dict[str, tuple[float, bool]]:
    """Optima found before, by the digest of the page: an hour of work need not be begun anew."""
    if kept is None or not kept.exists():
        return {}
    said = [json.loads(line) for line in kept.read_text().splitlines()]
    return {one["digest"]: (one["worth"], one["proven"]) for one in said}


def _digest(problem: Problem) -> str:
    found = blake2b(digest_size=16)
    for part in problem:
        for column in part if isinstance(part, tuple) else (part,):
            found.update(f"{column.dtype.str}{column.shape}".encode())
            found.update(np.ascontiguousarray(column).tobytes())
    return found.hexdigest()


Wanted = tuple[int, int, int, float]  # slot, candidate, offer, value


def _variants(problem: Problem, s: int) -> list[Wanted]:
    options, offers, bit = problem.options, problem.offers, problem.slots.bit[s]
    organic = [
        (s, i, ORGANIC, float(options.value[i])) for i in np.flatnonzero(options.members & bit).tolist()
    ]
    tagged = [
        (s, int(offers.candidate[o]), o, float(offers.value[o]))
        for o in np.flatnonzero(offers.slots & bit).tolist()
    ]
    return [*tagged, *organic]


def _slot_by_slot(problem: Problem) -> Iterator[Wanted]:
    """Slots in page order, each takes its best."""
    for s in range(len(problem.slots.count)):
        yield from sorted(_variants(problem, s), key=lambda one: -one[3])


def _by_value(problem: Problem) -> Iterator[Wanted]:
    """The best item first, to the first slot that takes it."""
    every = [one for s in range(len(problem.slots.count)) for one in _variants(problem, s)]
    yield from sorted(every, key=lambda one: -one[3])


def _taken(problem: Problem, wanted: Iterator[Wanted]) -> np.ndarray:
    """Places as they are wanted, within every limit; a pop-up only where it is worth its interruption."""
    slots, options, offers = problem.slots, problem.options, problem.offers
    left, seen = problem.room.copy(), set[int]()
    chosen: list[list[tuple[int, int, float]]] = [[] for _ in slots.count]
    for s, i, o, value in wanted:
        mine, rooms = chosen[s], offers.room[o][offers.room[o] >= 0] if o != ORGANIC else []
        c, kind = options.category[i], options.kind[i]
        full = len(mine) >= slots.count[s] or i in seen or any(left[r] <= 0 for r in rooms)
        full = full or value * slots.rates[s, 0] <= slots.interruption[s]
        full = full or sum(options.kind[j] == kind for j, _, _ in mine) >= slots.per_kind[s]
        if full or (c and sum(options.category[j] == c for j, _, _ in mine) >= slots.per_category[s]):
            continue
        mine.append((i, o, value))
        seen.add(i)
        for r in rooms:
            left[r] -= 1
    places = [(s, k, i, o) for s, mine in enumerate(chosen) for k, (i, o, _) in enumerate(mine)]
    return np.array(places, np.int32).reshape(-1, 4)


def _speed(seed: int, many: int) -> dict[str, float]:
    slots = homepage()

    def problems(campaigns: int) -> list[Problem]:
        rngs = [np.random.default_rng([seed, 1, number]) for number in range(many)]
        return [sampled_page(rng, slots, 300, 60, campaigns) for rng in rngs]

    few, most = problems(20), problems(2_000)
    twenty = _us(few, lambda one: solve(one, tags=False))
    return {
        "us_20": twenty,
        "us_200": _us(problems(200), lambda one: solve(one, tags=False)),
        "us_2000": (thousands := _us(most, lambda one: solve(one, tags=False))),
        "us_2000_over_20": thousands / twenty,
        "us_tags": _us(few, solve),
    }


def _us(problems: list[Problem], make: Callable[[Problem], Solution]) -> float:
    """The median of eleven turns, per page."""
    make(problems[0])
    turns = []
    for _ in range(11):
        start = perf_counter()
        for problem in problems:
            make(problem)
        turns.append((perf_counter() - start) / len(problems) * 1e6)
    return float(np.median(turns))


def _calm(seed: int, customers: int) -> dict[str, float]:
    """Customers who come back within the day, whose values have moved a little since."""
    changed = {True: 0, False: 0}
    worth = {True: 0.0, False: 0.0}
    for customer in range(customers):
        rng = np.random.default_rng([seed, 2, customer])
        first = sampled_page(rng, homepage(), 300, 0, 1)
        drift = [np.exp(rng.normal(0, DRIFT, 300)) for _ in range(VISITS)]
        for stable in (True, False):
            slots = homepage(switching=SWITCHING if stable else 0.0)
            before: np.ndarray | None = None
            for moved in drift:
                value = (first.options.value * moved).astype(np.float32)
                problem = first._replace(slots=slots, options=first.options._replace(value=value))
                if before is not None:
                    problem = problem._replace(held=before)
                solution = solve(problem, tags=False)
                places = np.column_stack(solution[:4])
                grid = np.column_stack([solution.slot, solution.candidate, solution.position])
                grid = np.ascontiguousarray(grid[solution.slot == 1])
                if before is not None:
                    changed[stable] += int((grid[:, 1] != before[:, 1]).sum())
                before = grid
                worth[stable] += value_of(problem._replace(slots=homepage()), places)
    return {
        "changes_stable": changed[True] / customers,
        "changes_unstable": changed[False] / customers,
        "stable_loss": 1 - worth[True] / worth[False],
    }
