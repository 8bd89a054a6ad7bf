"""Pages of the product's `decide()` that explore, on the synthetic bank: estimates against what is true.

Pages of a pool of customers are decided by a plan that explores, and again by other plans from their records,
as `fenliu ope` does. A log is customers of the pool with a few pages each: lotteries are drawn by the chances
that were logged (the decision's id is all that they depend on; `bench exploration` holds them against
`decide()`'s frequencies), clicks by the bank's true probabilities of the whole page as it then stands, rivals
included. The truth of a plan is its own lotteries' pages, drawn many times, their clicks in expectation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.customer import decode_customer
from serving.decide import decide
from serving.domain import Decision, Query, SlotRequest
from serving.live import Live, build_live
from serving.plan import check_plan
from serving.plan_default import CANONICAL
from serving.served import record
from serving.wire import RecommendAsk, context_of
from training.bench.decide_world import DAY, NOW, blobs_of, bundle_of
from training.bench.harness import Bar
from training.bench.tally import Tally
from training.ope.diagnostics import diagnose
from training.ope.policies import Fixed, Replayed, Round, as_logged, as_slates, rounds_of
from training.ope.report import Verdict, judge
from training.replay import Record
from training.world.history import World
from training.world.layout import HOME
from training.world.respondent import Respondent

POOL: Final = 600  # customers
ITEMS: Final = 600
DRAWN: Final = 400  # customers of one log
AGAIN: Final = 0.5  # chance of another page of the same customer, after each
EXPLORED: Final = ("home.banner", "home.popup", "home.benefits")
LOGGED: Final = 0.25  # what the log explores
NEAR: Final = (0.0, 0.1, 0.45)  # … and the plans that are asked about
DECIDES: Final = 300  # runs: of fewer, a coverage of 0.95 falls below the bar by chance
TRUTH: Final = 64  # pages of each customer that the truth is the mean of
BARRED: Final = ("dr", "snips", "independent, a page", "cascade, a page")
Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
_FIRST: Final[dict[str, int]] = {slot.name: HOME.columns(at).start for at, slot in enumerate(HOME.slots)}


@dataclass(frozen=True)
class Page:
    """A decided page as the bank sees it: `rows` (places,) of its catalogue; by lottery its `column`, what it
    is over (lotteries, most), and the chance of each or of one before it."""

    rows: Rows
    column: Rows
    over: Rows
    up_to: Floats

    def drawn(self, rng: np.random.Generator, times: int) -> Rows:
        """(times, places)"""
        pages = np.tile(self.rows, (times, 1))
        at = (rng.random((times, len(self.column), 1)) >= self.up_to).sum(axis=2)
        pages[:, self.column] = self.over[np.arange(len(self.column)), at]
        return pages


class Pool:
    """Customers, the page of each under the plan that is logged, and what other plans make of its record."""

    def __init__(self, seed: int, customers: int = POOL) -> None:
        self.world = World.create(seed, customers, ITEMS, start=NOW // DAY * DAY)
        self.respondent: Respondent = self.world.respondent()
        self.items = self.world.items()
        self.seed, self.customers = seed, customers
        self.live = self.view(LOGGED)
        rng = np.random.default_rng([seed, 6])
        self.pages: list[Page] = []
        self.records: list[Record] = []
        for number in range(customers):
            page, said = self._served(number, rng)
            self.pages.append(page)
            self.records.append(said)

    def view(self, explore: float, seed: int | None = None, **terms: Any) -> Live:
        """The canonical homepage where some slots explore so much; another `seed` ranks by another model."""
        slots = [
            {"name": name, "layout": layout, "size": size, "kinds": list(kinds)}
            | ({"explore": explore, **terms} if name in EXPLORED else {})
            for name, layout, size, kinds in CANONICAL
        ]
        home = [name for name, _, _, _ in CANONICAL]
        plan = check_plan({"name": "pages", "surfaces": {"home": home}, "slots": slots})
        bundle = bundle_of(ITEMS, self.seed if seed is None else seed, items=self.items)
        return build_live(bundle, (), plan)

    def _served(self, number: int, rng: np.random.Generator) -> tuple[Page, Record]:
        blobs, ask = blobs_of(self.live.keys, 12, rng), RecommendAsk(user_id=f"c{number}")
        known = decode_customer(blobs, now=NOW, schemas=self.live.bundle.schemas, consented=True)
        slots = tuple(SlotRequest(slot, slot.size) for slot in self.live.plan.surfaces["home"])
        query = Query(f"d{number}", f"u:c{number}", "home", slots, context_of(ask.context), known, NOW)
        decision = decide(query, self.live)
        return self.page_of(decision), record(decision, blobs, ask, self.live)

    def page_of(self, decision: Decision) -> Page:
        rows, columns = np.full(HOME.places, -1), []
        for place in decision.placements:
            columns.append(_FIRST[decision.query.slots[place.slot].spec.name] + place.position)
            rows[columns[-1]] = self.world.catalogue.rows_of(np.array([place.key], np.uint64))[0]
        held = list(decision.lotteries)
        over = np.full((len(held), max((len(one.keys) for one in held), default=1)), -1)
        up_to = np.full(over.shape, 2.0)  # more than any draw
        for at, one in enumerate(held):
            many = len(one.keys)
            over[at, :many] = self.world.catalogue.rows_of(np.array(one.keys, np.uint64))
            up_to[at, : many - 1] = np.cumsum(one.probabilities)[:-1]
        return Page(rows, np.array([columns[one.place] for one in held], np.int64), over, up_to)

    def clicks(self, who: Rows, pages: Rows) -> Floats:
        """(n, places) chances of a click."""
        found = self.respondent.probabilities(who, pages, NOW)
        return (found.displayed * found.click).astype(np.float64)

    def target(self, live: Live, rng: np.random.Generator) -> Target:
        made: list[Page] = []
        found = rounds_of(
            self.records, lambda _: live, {},
            watch=lambda _, decision, __: made.append(self.page_of(decision)),
        )  # fmt: skip
        if found.left_out:
            raise RuntimeError(f"a page of the pool could not be decided again: {dict(found.why)}")
        rounds: list[list[Round]] = [[] for _ in made]
        fixed: list[list[Fixed]] = [[] for _ in made]
        for one in found.rounds:
            rounds[one.page].append(one)
        for each in found.fixed:
            fixed[each.page].append(each)
        worth = np.zeros(len(made))
        for who, page in enumerate(made):
            clicked = self.clicks(np.full(TRUTH, who), page.drawn(rng, TRUTH)).mean(axis=0)
            worth[who] = clicked[[_column(one) for one in rounds[who]]].sum()
        return Target(rounds, fixed, worth)


def _column(one: Round) -> int:
    return int(_FIRST[one.slot]) + one.position


@dataclass(frozen=True)
class Target:
    """Another plan on the pool: by customer its rounds, and `worth`, its true clicks on their places."""

    rounds: list[list[Round]]
    fixed: list[list[Fixed]]
    worth: Floats

    def truth(self, form: str) -> float:
        """Of a page; of a place."""
        whole = float(self.worth.sum())
        return whole / (len(self.rounds) if "page" in form else sum(map(len, self.rounds)))


def coverage(tally: Tally, seed: int, runs: int, customers: int, tick: Callable[[int, int], None]) -> None:
    """Intervals of plans near the log that hold the truth, and warnings of those that are not."""
    pool, rng = Pool(seed, customers), np.random.default_rng([seed, 7])
    own = log_of(pool, pool.target(pool.live, rng), rng)
    off = float(np.abs(as_logged(own, rng).weight - 1).max())
    near = [pool.target(pool.view(explore), rng) for explore in NEAR]
    apart = [pool.target(pool.view(LOGGED, seed + other), rng) for other in (1, 2)]
    verdicts, warned, alarmed, refused, pages = [], 0, 0, 0, 0
    for number in range(runs):
        log = log_of(pool, near[number % len(near)], rng)
        found = judge(as_logged(log, rng), rng, slates=as_slates(log, rng))
        verdicts.append(found)
        pages += log.pages
        alarmed += bool(found.diagnosis.warnings)
        refused += found.refused("cascade, a page")
        warned += bool(diagnose(as_logged(log_of(pool, apart[number % len(apart)], rng), rng)).warnings)
        tick(number + 1, runs)
    note = f"logs of {pages / runs:,.0f} pages of decide() by {DRAWN} customers, explored by {LOGGED}"
    tally.put("pages_runs", runs, "", f"{note}; plans that explore {NEAR}")
    tally.put("pages_own_off", off, "", "largest |weight − 1| of the plan on its own log", ("<=", 1e-9))
    tally.put("pages_truth", near[0].truth("a page"), "", "clicks a page where lotteries were, explored by 0")
    for name in (one.estimator for one in verdicts[0].estimates):
        _covered(tally, name, verdicts, [one.truth(name) for one in near])
    tally.put("pages_warned_apart", warned / runs, "", "logs seen under another model's pages", (">=", 0.95))
    tally.put("pages_warned_overlap", alarmed / runs, "", "logs with overlap that are warned of")
    tally.put("pages_cascade_refused", refused / runs, "", "of those with overlap")


def _covered(tally: Tally, form: str, verdicts: Sequence[Verdict], truths: Sequence[float]) -> None:
    """By turns of as many truths."""
    found = [(one.of(form), truths[at % len(truths)]) for at, one in enumerate(verdicts)]
    inside = np.mean([one.low <= truth <= one.high for one, truth in found])
    width = np.mean([(one.high - one.low) / truth for one, truth in found])
    bias = np.mean([one.value / truth - 1 for one, truth in found])
    name = f"pages_{form.partition(',')[0]}"
    bar: Bar | None = (">=", 0.93) if form in BARRED and len(verdicts) >= DECIDES else None
    tally.put(
        f"{name}_covers", float(inside), "", "95 % intervals that hold the truth, all logs counted", bar
    )
    tally.put(f"{name}_width", float(width), "", "of the interval, over the truth")
    tally.put(f"{name}_bias", float(bias), "", "mean of the estimate over the truth, less 1")


def log_of(pool: Pool, target: Target, rng: np.random.Generator) -> Replayed:
    """A log of DRAWN customers, seen under a plan."""
    customers = rng.integers(0, pool.customers, DRAWN)
    unit = np.repeat(np.arange(DRAWN), rng.geometric(1 - AGAIN, DRAWN))
    who = customers[unit]
    shown = np.concatenate([pool.pages[one].drawn(rng, 1) for one in who.tolist()])
    clicked = rng.random(shown.shape) < pool.clicks(who, shown)
    keys = pool.world.catalogue.keys
    rounds = [
        Round(
            page, one.slot, one.position, int(keys[shown[page, at]]), one.logged, one.target,
            float(clicked[page, at]),
        )
        for page, number in enumerate(who.tolist())
        for one in target.rounds[number]
        for at in (_column(one),)
    ]  # fmt: skip
    fixed = [one._replace(page=at) for at, number in enumerate(who.tolist()) for one in target.fixed[number]]
    return Replayed(tuple(rounds), tuple(fixed), tuple(f"u{one}" for one in unit), len(who), 0, {}, 1.0)
