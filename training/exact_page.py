"""The best page there is, by mixed integer programming: what `serving.page.solve` is measured by.

A binary x[v, s, k, j, a] says that variant v (an item, organically or by one of its offers) stands in slot s
at position k as the j-th item of its category there, while `a` items of the category stand in other slots. So
the worth rates · value · diminish^j · cross^a is a constant of each variable, and the program is exact, not a
relaxation. Limits of category and kind are hard here, as in the pages that it is compared on; mandatory
offers, pins, house offers, roadblocks and stable slots are not modelled: such pages are refused.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from serving.page import MARKET, NO_LIMIT, ORGANIC, Problem


class Exact(NamedTuple):
    """`worth` of the best page found, no page is worth more than `bound`; proven when the two are one."""

    worth: float
    bound: float
    proven: bool
    places: tuple[tuple[int, int, int, int], ...]  # slot, position, candidate, offer


class Variant(NamedTuple):
    item: int
    offer: int
    value: float
    slots: int  # bits by index in the page
    counters: tuple[int, ...]


class Choice(NamedTuple):
    variant: int
    slot: int
    position: int
    rank: int
    away: int


@dataclass(slots=True)
class _Rows:
    """Constraints of the form lower ≤ Σ coefficient · variable ≤ upper."""

    row: list[int] = field(default_factory=list)
    column: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)

    def add(self, terms: list[tuple[int, float]], lower: float, upper: float) -> None:
        for column, value in terms:
            self.row.append(len(self.lower))
            self.column.append(column)
            self.value.append(value)
        self.lower.append(lower)
        self.upper.append(upper)

    def constraint(self, width: int) -> LinearConstraint:
        shape = (len(self.lower), width)
        matrix = csr_array((self.value, (self.row, self.column)), shape=shape)
        return LinearConstraint(matrix, self.lower, self.upper)


def exact_page(problem: Problem, *, time_limit_s: float = 30.0, gap: float = 1e-5) -> Exact:
    """Solve to optimality, or as far as the time allows. Raises ValueError for what is not modelled."""
    _check(problem)
    variants = _variants(problem)
    choices, levels = _choices(problem, variants)
    width = len(choices) + len(levels) + len(problem.slots.count)
    cost = np.zeros(width)
    cost[: len(choices)] = [-_worth(problem, variants, one) for one in choices]
    cost[len(choices) + len(levels) :] = problem.slots.interruption
    rows = _constraints(problem, variants, choices, levels)
    found = milp(
        cost,
        constraints=rows.constraint(width),
        integrality=np.ones(width, np.int64),
        bounds=Bounds(0, 1),
        options={"time_limit": time_limit_s, "mip_rel_gap": gap},
    )
    if found.x is None:
        return Exact(-np.inf, np.inf, False, ())
    taken = [choices[at] for at in np.flatnonzero(found.x[: len(choices)] > 0.5)]
    places = tuple(
        sorted((c.slot, c.position, variants[c.variant].item, variants[c.variant].offer) for c in taken)
    )
    bound = -float(found.mip_dual_bound) if found.mip_dual_bound is not None else np.inf
    return Exact(-float(found.fun), bound, found.status == 0, places)


def _check(problem: Problem) -> None:
    offers = problem.offers
    plain = (offers.band == MARKET).all() and (offers.pin < 0).all() and not offers.roadblock.any()
    if not plain or len(problem.held) or (problem.options.value < 0).any() or (offers.value < 0).any():
        raise ValueError("exact_page: only market offers of value ≥ 0, no pins, roadblocks or held places")


def _variants(problem: Problem) -> list[Variant]:
    slots, options, offers = problem.slots, problem.options, problem.offers
    found = []
    for i in range(len(options.value)):
        bits = sum(
            1 << s
            for s in range(len(slots.bit))
            if options.members[i] & slots.bit[s] and options.origin[i] & slots.origins[s]
        )
        own = tuple(int(r) for r in options.room[i] if r >= 0)
        if bits:
            found.append(Variant(i, ORGANIC, float(options.value[i]), bits, own))
        for o in np.flatnonzero(offers.candidate == i).tolist():
            at = sum(1 << s for s in range(len(slots.bit)) if offers.slots[o] & slots.bit[s])
            counters = tuple(dict.fromkeys((*(int(r) for r in offers.room[o] if r >= 0), *own)))
            if at and all(problem.room[r] > 0 for r in counters):
                found.append(Variant(i, o, float(offers.value[o]), at, counters))
    return _worthwhile(found)


def _worthwhile(variants: list[Variant]) -> list[Variant]:
    """Without those that another variant of the same item beats wherever they suit, without counters."""
    best: dict[int, list[Variant]] = defaultdict(list)
    for one in variants:
        best[one.item].append(one)

    def beaten(one: Variant) -> bool:
        return any(
            other is not one
            and other.value >= one.value
            and not one.slots & ~other.slots
            and not set(other.counters) - set(one.counters)
            and (other.value > one.value or other.offer < one.offer)
            for other in best[one.item]
        )

    return [one for one in variants if not beaten(one)]


def _choices(
    problem: Problem, variants: list[Variant]
) -> tuple[list[Choice], dict[tuple[int, int, int], int]]:
    """Every placement under every rank and number elsewhere; and the (slot, category, away) levels."""
    slots, options = problem.slots, problem.options
    items: dict[tuple[int, int], set[int]] = defaultdict(set)
    for one in variants:
        for s in range(len(slots.count)):
            if one.slots >> s & 1:
                items[s, int(options.category[one.item])].add(one.item)
    most = {
        (s, c): min(int(slots.count[s]), len(found), int(slots.per_category[s]) if c else len(found))
        for (s, c), found in items.items()
    }
    choices: list[Choice] = []
    levels: dict[tuple[int, int, int], int] = {}
    for v, one in enumerate(variants):
        c = int(options.category[one.item])
        for s in range(len(slots.count)):
            if not one.slots >> s & 1 or not slots.count[s]:
                continue
            ranks = most[s, c] if c and slots.diminish[s] < 1 else 1
            others = sum(most[t, c] for t in range(len(slots.count)) if t != s and (t, c) in most)
            crossed = range(others + 1) if c and slots.cross[s] < 1 else range(1)
            for a in crossed:
                levels.setdefault((s, c, a), -1)
                for j in range(ranks):
                    choices += [Choice(v, s, k, j, a) for k in range(j, int(slots.count[s]))]
    return choices, {level: len(choices) + at for at, level in enumerate(levels)}


def _worth(problem: Problem, variants: list[Variant], one: Choice) -> float:
    slots, s = problem.slots, one.slot
    factor = float(slots.diminish[s]) ** one.rank * float(slots.cross[s]) ** one.away
    return float(slots.rates[s, one.position]) * variants[one.variant].value * factor


def _constraints(
    problem: Problem, variants: list[Variant], choices: list[Choice], levels: dict[tuple[int, int, int], int]
) -> _Rows:
    slots, options = problem.slots, problem.options
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for at, one in enumerate(choices):
        v, s = variants[one.variant], one.slot
        c, kind = int(options.category[v.item]), int(options.kind[v.item])
        groups["item", v.item].append(at)
        groups["place", s, one.position].append(at)
        groups["kind", s, kind].append(at)
        for counter in v.counters:
            groups["room", counter].append(at)
        if c:
            groups["category", s, c].append(at)
            if slots.diminish[s] < 1:
                groups["rank", s, c, one.rank].append(at)
        if c and slots.cross[s] < 1:
            groups["level", s, c, one.away, one.rank if slots.diminish[s] < 1 else -1].append(at)
    rows = _Rows()
    for key, members in groups.items():
        _limit(problem, rows, key, members, levels, len(choices) + len(levels))
    _away(problem, rows, groups, levels)
    return rows


def _limit(
    problem: Problem,
    rows: _Rows,
    key: tuple[object, ...],
    members: list[int],
    levels: dict[tuple[int, int, int], int],
    used: int,
) -> None:
    slots = problem.slots
    terms = [(at, 1.0) for at in members]
    name, at = key[0], [one for one in key[1:] if isinstance(one, int)]
    if name in ("item", "rank"):
        rows.add(terms, 0, 1)
    elif name == "place":
        open_ = slots.interruption[at[0]] > 0
        rows.add([*terms, (used + at[0], -1.0)] if open_ else terms, -1 if open_ else 1, 0 if open_ else 1)
    elif name == "room":
        rows.add(terms, 0, float(problem.room[at[0]]))
    elif name == "category":
        rows.add(terms, 0, float(slots.per_category[at[0]]))
    elif name == "kind":
        most = float(slots.kind_most[at[0], at[1]])
        most = min(float(slots.per_kind[at[0]]), most if most != NO_LIMIT else np.inf)
        rows.add(terms, float(slots.kind_least[at[0], at[1]]), most)
    elif name == "level":
        s, c, away, rank = at
        most = 1.0 if rank >= 0 else float(slots.per_category[s])
        rows.add([*terms, (levels[s, c, away], -most)], -np.inf, 0)


def _away(
    problem: Problem,
    rows: _Rows,
    groups: dict[tuple[object, ...], list[int]],
    levels: dict[tuple[int, int, int], int],
) -> None:
    """One level for each slot and category, and no fewer than there are in the other slots."""
    of: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for (s, c, away), at in levels.items():
        if c and problem.slots.cross[s] < 1:
            of[s, c].append((away, at))
    for (s, c), found in of.items():
        rows.add([(at, 1.0) for _, at in found], 1, 1)
        others = [
            (at, 1.0)
            for t in range(len(problem.slots.count))
            if t != s
            for at in groups.get(("category", t, c), ())
        ]
        rows.add([*others, *((at, -float(away)) for away, at in found)], -np.inf, 0)


def value_of(problem: Problem, places: NDArray[np.int32]) -> float:
    """The objective of places (p, 4) of slot, position, candidate, offer, by its definition."""
    slots, options, offers = problem.slots, problem.options, problem.offers
    worth = 0.0
    categories = options.category[places[:, 2]]
    for (s, k, i, o), c in zip(places.tolist(), categories.tolist(), strict=True):
        value = float(offers.value[o] if o != ORGANIC else options.value[i])
        if c and value > 0:
            same = places[categories == c]
            value *= float(slots.diminish[s]) ** int(((same[:, 0] == s) & (same[:, 1] < k)).sum())
            value *= float(slots.cross[s]) ** int((same[:, 0] != s).sum())
        worth += float(slots.rates[s, k]) * value
    for s in sorted(set(places[:, 0].tolist())):
        worth -= float(slots.interruption[s])
    for s, i, k in problem.held.tolist():
        there = places[(places[:, 0] == s) & (places[:, 1] == k)]
        if slots.switching[s] > 0 and (len(there) == 0 or there[0, 2] != i):
            worth -= float(slots.switching[s])
    return worth
