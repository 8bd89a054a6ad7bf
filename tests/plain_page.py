"""Two plain twins of the page: the loops interpreted instead of compiled, the objective by its definition.

`plain_solve` runs the very source of the loops as ordinary Python, so any difference of compiled code (types,
order of sums, overflow) shows as a different bit. `worth_of` and `broken` share nothing with the loops: they
restate what a page is worth and what it may not break.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import features.compiled
from serving import page as compiled
from serving.page import MANDATORY, NO_LIMIT, ORGANIC, Problem, Solution

MODULES = (
    "page_state",
    "page_packing",
    "page_fill",
    "page_moves",
    "page_steps",
    "page_counters",
    "page_search",
    "page_whole",
    "page_tags",
    "page_solving",
    "page",
)


@cache
def _interpreted() -> ModuleType:
    """`serving.page` and its loops, imported a second time with the compiler's decorators doing nothing."""
    names = [f"serving.{name}" for name in MODULES]
    held = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    kept = {name: getattr(features.compiled, name) for name in ("jit", "loops", "unlocked")}
    for name in kept:
        setattr(features.compiled, name, _as_it_is)
    try:
        for name in names:
            spec = importlib.util.spec_from_file_location(
                name, Path(compiled.__file__).parent / f"{name[8:]}.py"
            )
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        return sys.modules["serving.page"]
    finally:
        for name, decorator in kept.items():
            setattr(features.compiled, name, decorator)
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(held)


def _as_it_is(kernel: Any) -> Any:
    return kernel


def plain_solve(problem: Problem, *, tags: bool = True) -> Solution:
    solution: Solution = _interpreted().solve(problem, tags=tags)
    return solution


def places_of(solution: Solution) -> list[tuple[int, int, int, int]]:
    """(slot, position, candidate, offer) of each place."""
    return list(zip(*(column.tolist() for column in solution[:4]), strict=True))


def worth_of(problem: Problem, places: list[tuple[int, int, int, int]], *, base: bool = False) -> float:
    """The objective by its definition; `base`: without lever, prices and the cost of switching."""
    slots, options, offers = problem.slots, problem.options, problem.offers
    worth = 0.0
    for s, k, i, o in places:
        if o == ORGANIC:
            value = float(options.value[i])
        else:
            value = float(offers.base[o] if base else offers.value[o])
        c = int(options.category[i])
        same = [(t, q) for t, q, j, _ in places if c and int(options.category[j]) == c]
        if value > 0 and c:
            value *= float(slots.diminish[s]) ** sum(t == s and q < k for t, q in same)
            value *= float(slots.cross[s]) ** sum(t != s for t, _ in same)
        worth += float(slots.rates[s, k]) * value
    worth -= sum(float(slots.interruption[s]) for s in {s for s, *_ in places})
    if base:
        return worth
    there = {(s, k): i for s, k, i, _ in places}
    held = {(s, k): i for s, i, k in problem.held.tolist() if slots.switching[s] > 0 and k < slots.count[s]}
    return worth - sum(float(slots.switching[s]) for (s, k), i in held.items() if there.get((s, k)) != i)


def broken(problem: Problem, places: list[tuple[int, int, int, int]]) -> list[str]:
    """What a page may not break, and this one does."""
    slots, options, offers = problem.slots, problem.options, problem.offers
    wrong = []
    items = [i for _, _, i, _ in places]
    if len(set(items)) < len(items):
        wrong.append("an item stands twice")
    used = np.zeros(len(problem.room), np.int64)
    for s in range(len(slots.count)):
        mine = sorted(k for t, k, *_ in places if t == s)
        if mine != list(range(len(mine))) or len(mine) > slots.count[s]:
            wrong.append(f"positions of slot {s}: {mine}")
        kinds = np.bincount([int(options.kind[i]) for t, _, i, _ in places if t == s], minlength=6)
        most = slots.kind_most[s].astype(int)
        if (kinds > np.where(most == NO_LIMIT, 1 << 20, most)).any():
            wrong.append(f"kinds of slot {s}: {kinds}")
    for s, _, i, o in places:
        suits = offers.slots[o] if o != ORGANIC else options.members[i]
        if not suits & slots.bit[s]:
            wrong.append(f"item {i} by offer {o} may not stand in slot {s}")
        if o != ORGANIC and offers.candidate[o] != i:
            wrong.append(f"offer {o} is not of item {i}")
        counters = {int(r) for r in options.room[i]} | (
            {int(r) for r in offers.room[o]} if o != ORGANIC else set()
        )
        for counter in counters - {-1}:
            used[counter] += 1
    if (used > problem.room).any():
        wrong.append(f"counters {np.flatnonzero(used > problem.room).tolist()}")
    return wrong + _unpinned(problem, places)


def _unpinned(problem: Problem, places: list[tuple[int, int, int, int]]) -> list[str]:
    """Market pins that stand alone on their place, are possible, and are not where they are pinned."""
    offers, slots, wrong = problem.offers, problem.slots, []
    if offers.roadblock.any() or (offers.band == MANDATORY).any():  # these may stand in a pin's way
        return []
    pinned = np.flatnonzero(offers.pin_slot >= 0).tolist()
    at = {(s, k): o for s, k, _, o in places}
    filled = {s: sum(t == s for t, *_ in places) for s in range(len(slots.count))}
    for o in pinned:
        s, k = int(offers.pin_slot[o]), int(offers.pin[o])
        alone = sum(offers.pin_slot[other] == s and offers.pin[other] == k for other in pinned) == 1
        counted = (offers.room[o] >= 0).any() or (problem.options.room[offers.candidate[o]] >= 0).any()
        same = sum(offers.candidate[other] == offers.candidate[o] for other in pinned) > 1
        limited = (slots.kind_most[s] != NO_LIMIT).any()
        plain = alone and not counted and not same and not limited
        if plain and k < filled[s] and offers.slots[o] & slots.bit[s] and at.get((s, k)) != o:
            wrong.append(f"offer {o} is not at its pin ({s}, {k})")
    return wrong
