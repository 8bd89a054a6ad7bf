"""`fenliu bench guard`: how soon the guard finds an arm that does harm, and how often it is wrong.

Units of a bank come by and meet pages of two arms; the guard's own tests look at them. Every usual guard is
watched at once. The bar is that an arm with twice the errors is off within 2,000 exposed units or within a
minute: the first leg looks every few units; the second every five seconds, as the service does, at stated
rates of pages and shares of the arm, and adds the way from the log to the plan that replicas run by. Beside
the first leg stands what no test could do better: the most powerful unbiased test of level α that looks once,
at the end.

In A/A runs the arms are the same. Customers differ from each other (some meet errors on nearly every page),
and in half of the runs they come back again and again through outages: whatever is switched off there is a
false alarm.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgpack
import numpy as np

from features.log import Entry, MemoryLog
from serving.control import MemoryControl
from serving.governance import Governance
from serving.guard import EVERY_S, Guard
from serving.guard_failures import FirstFailures, Fresh
from serving.guard_statistics import ALPHA, AT, COLUMNS, OF_MOST, Floats, Sums, Watched, guards_of
from serving.observe import Metrics
from serving.office import Office
from serving.principals import local_identity
from serving.proposals import FRAME
from serving.settings import Settings
from training.bench.harness import Result
from training.bench.tally import Tally
from training.progress import counting, wide_console

ABOUT: Final = "guard: an arm that does harm goes off; how soon, and how often wrongly"
EVERY: Final = 50  # units between two looks
EXPOSED: Final = 2_000
MINUTE_S: Final = 60.0
RATES: Final = (0.005, 0.01, 0.02, 0.05, 0.1)
PAGES_A_VISIT: Final = 1.5
USUAL_TRAFFIC: Final = (
    500.0,
    0.5,
)  # pages a second of the whole service, about one busy replica; the arm's share
TRAFFIC: Final = (USUAL_TRAFFIC, (200.0, 0.5), (50.0, 0.5), (200.0, 0.1), (50.0, 0.1))
LATE: Final = 40_000  # good units before an arm turns bad
Rng = np.random.Generator


class Step(NamedTuple):
    """What some units did in one arm: all of it, and how many of them failed for the first time."""

    sums: Sums
    fresh: Fresh


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, help="of each kind (2,000; quick 200)")
    parser.add_argument("--units", type=int, default=20_000, help="of an A/A run")
    parser.add_argument("--seed", type=int, default=7)


def run(args: argparse.Namespace) -> Result:
    tally, console = Tally(), wide_console()
    runs = args.runs or (200 if args.quick else 2_000)
    rng = np.random.default_rng(args.seed)
    with counting(console, "runs of A/A") as tick:
        false = again = 0
        for number in range(runs):
            rate = RATES[number % len(RATES)]
            false += _found(rng, (rate, rate), args.units, spread=0.5) is not None
            again += _returning(rng, rate) is not None
            tick(number + 1, runs)
    note = f"{runs:,} runs of {args.units:,} units, a look every {EVERY}; customers differ in their errors"
    tally.put("false_alarms", false / runs, "", note, ("<=", ALPHA))
    note = f"{runs:,} runs of 3,000 customers who come back, three outages, 360 looks; first failures alone"
    tally.put("false_alarms_returning", again / runs, "", note, ("<=", ALPHA))
    seconds, entries = _whole_way(rng)
    tally.put("whole_way", seconds, "s", f"{entries:,} log entries to the plan pointer", ("<=", 30.0))
    for rate in RATES:
        _within_units(tally, rng, rate, runs // 10)
    for pages, share in TRAFFIC:
        for rate in RATES:
            _within_time(tally, rng, rate, pages, share, runs // 10, seconds)
    rate, late = 0.02, []
    for _ in range(runs // 20):
        found = _found(rng, (rate, 2 * rate), LATE + 6 * EXPOSED, from_unit=LATE)
        late.append(np.inf if found is None else found - LATE)
    said = (
        f"after the change, median, where the arm was good for {LATE:,} units; {rate:.0%} and {2 * rate:.0%}"
    )
    tally.put("units_late", float(np.median(late)), "units", said)
    return tally.result()


def _within_units(tally: Tally, rng: Rng, rate: float, runs: int) -> None:
    found = np.array([_found(rng, (rate, 2 * rate), 6 * EXPOSED) or np.inf for _ in range(runs)])
    said = f"pages that fail: {rate:.1%} in the control, {2 * rate:.1%} in the arm"
    name = _named(rate)
    tally.put(f"within_2000_at_{name}", float((found <= EXPOSED).mean()), "", said)
    said = "power of the most powerful unbiased test that looks once, at 2,000 units, with all of α"
    tally.put(f"bound_at_{name}", _most(rate), "", said)
    tally.put(f"units_at_{name}", float(np.median(found)), "units", "exposed in both arms, median")


def _within_time(
    tally: Tally, rng: Rng, rate: float, pages: float, share: float, runs: int, way_s: float
) -> None:
    """Seconds from the first page of the experiment; a replica runs by the plan that it polled."""
    after = way_s + Settings().poll_s
    taken = []
    for _ in range(runs):
        phase = rng.uniform(0, EVERY_S)  # the first look after so long
        steps = [phase, *[EVERY_S] * 36]
        many = [rng.poisson(pages / PAGES_A_VISIT * one) for one in steps]
        at = _looked(rng, (rate, 2 * rate), many, share)
        taken.append((np.inf, np.inf) if at is None else (phase + EVERY_S * at[0] + after, at[1]))
    seconds, units = np.array(taken).T
    name = f"{pages:.0f}_{share * 100:.0f}_at_{_named(rate)}"
    said = f"{pages:.0f} pages/s, {share:.0%} in the arm, {rate:.1%} and {2 * rate:.1%} fail"
    usual: Any = (">=", 0.9) if (pages, share) == USUAL_TRAFFIC else None
    good = (seconds <= MINUTE_S) | (units <= EXPOSED)
    bar = f"within {MINUTE_S:.0f} s or {EXPOSED:,} units; {said}"
    tally.put(f"off_{name}", float(good.mean()), "", bar, usual)
    tally.put(f"in_time_{name}", float((seconds <= MINUTE_S).mean()), "", f"within {MINUTE_S:.0f} s alone")
    said = "median, from the first page until a replica has the plan"
    tally.put(f"seconds_{name}", float(np.median(seconds)), "s", said)


def _named(rate: float) -> str:
    return f"{rate * 100:g}".replace(".", "_")


def _most(rate: float) -> float:
    """Errors of both arms are Poisson; given their sum, the arm's are binomial. Randomised at the edge."""
    from scipy import stats

    pages = EXPOSED / 2 * PAGES_A_VISIT
    sums = np.arange(0, int(stats.poisson.ppf(1 - 1e-9, 3 * rate * pages)) + 1)
    edge = stats.binom.ppf(1 - ALPHA, sums, 0.5)
    beyond, at = stats.binom.sf(edge, sums, 0.5), stats.binom.pmf(edge, sums, 0.5)
    power = stats.binom.sf(edge, sums, 2 / 3)
    power += (ALPHA - beyond) / at * stats.binom.pmf(edge, sums, 2 / 3)
    return float((stats.poisson.pmf(sums, 3 * rate * pages) * power).sum())


def _found(
    rng: Rng, errors: tuple[float, float], most: int, spread: float = 0.0, from_unit: int = 0
) -> int | None:
    """Exposed units when an arm goes; None: it never does. `errors`: of the control and of the arm, which is
    like the control before `from_unit`."""
    found = _looked(
        rng, errors, [2 * EVERY, *[EVERY] * ((most - 2 * EVERY) // EVERY)], 0.5, spread, from_unit
    )
    return None if found is None else found[1]


def _looked(
    rng: Rng,
    errors: tuple[float, float],
    steps: list[int],
    share: float,
    spread: float = 0.0,
    from_unit: int = 0,
) -> tuple[int, int] | None:
    """The look at which an arm goes, from 0, and the units exposed by then. `steps`: new units before it."""
    watched, arms, seen = Watched(guards_of(()), ALPHA), None, 0
    for number, units in enumerate(steps):
        split = rng.binomial(units, share)
        rates = errors if seen >= from_unit else (errors[0], errors[0])
        seen += units
        new = [_units(rng, n, rate, spread) for n, rate in zip((units - split, split), rates, strict=True)]
        sums = [one.sums for one in new]
        arms = sums if arms is None else [_plus(one, more) for one, more in zip(arms, sums, strict=True)]
        looks = watched.look(arms[1], arms[0], {"errors": (new[1].fresh, new[0].fresh)})
        if any(look.breached for look in looks):
            return number, seen
    return None


def _plus(one: Sums, other: Sums) -> Sums:
    return Sums(*(a + b for a, b in zip(one, other, strict=True)))


def _returning(rng: Rng, rate: float, customers: int = 3_000, looks: int = 360) -> int | None:
    """The look at which first failures would switch an arm off that is like the control: half an hour of
    customers who come back, each with a rate of their own, and three outages of ten looks."""
    test, needed = FirstFailures(0.0), -np.log(ALPHA * OF_MOST)
    arm, failed = rng.random(customers) < 0.5, np.zeros(customers, np.bool_)
    own = rate * rng.gamma(0.5, 2.0, customers)
    outage = {at + more for at in rng.integers(0, looks, 3).tolist() for more in range(10)}
    for look in range(looks):
        here = np.unique(rng.integers(0, customers, 150))
        here = here[~failed[here]]
        bad = here[rng.random(len(here)) < own[here] * (10 if look in outage else 1)]
        of, ill = arm[here], arm[bad]
        test.take(Fresh(int(of.sum()), int(ill.sum())), Fresh(int((~of).sum()), int((~ill).sum())))
        failed[bad] = True
        if test.evidence > needed:
            return look
    return None


def _units(rng: Rng, n: int, errors: float, spread: float) -> Step:
    """What n units did. `spread`: how much of a customer's chance of an error is the customer's own."""
    table: Floats = np.zeros((n, len(COLUMNS)))
    pages = 1 + rng.poisson(PAGES_A_VISIT - 1, n)
    chance = np.full(n, errors)
    if spread:
        sure = errors / spread
        chance = rng.beta(sure, sure * (1 - errors) / errors, n)
    bought = rng.random(n) < 0.03
    for name, value in (
        ("one", np.ones(n)),
        ("pages", pages),
        ("errors", rng.binomial(pages, chance)),
        ("asked", 40 * pages),
        ("filled", 40 * pages - rng.binomial(pages, 0.05)),
        ("ms", pages * rng.lognormal(2.0, 0.8, n)),
        ("displays", 12 * pages),
        ("dismissals", rng.binomial(12 * pages, 0.004)),
        ("value", np.where(bought, rng.lognormal(6.0, 1.2, n), 0.0)),
    ):
        table[:, AT[name]] = value
    sums = Sums.of(table)
    return Step(sums, Fresh(n, int(sums.met[AT["errors"]])))


def _whole_way(rng: Rng) -> tuple[float, int]:
    """Seconds of one step that reads, tests, writes the revision and points control; entries read."""
    entries = [
        Entry(f"p{at}", f"u:{at}", _page(at, rng.random() < (0.1 if at % 2 else 0.05)))
        for at in range(20_000)
    ]
    now = time.time()
    with tempfile.TemporaryDirectory() as folder:
        control, log = MemoryControl(), MemoryLog(time.time)
        governance = Governance(str(Path(folder) / "registry"), approvals=False)
        me = local_identity()
        one = governance.propose(me, FRAME, _frame(), base=0, reason="the bench's plan")
        governance.publish(me, one.id)
        plan = governance.shelf.fetch(governance.refresh().release.plan)  # type: ignore[union-attr]
        asyncio.run(log.append(entries))
        guard = Guard(
            control, log, Office(governance, control), lambda: plan, Metrics(), "bench",
            clock=lambda: now,
        )  # fmt: skip
        began = time.perf_counter()
        gone = asyncio.run(guard.step())
        took = time.perf_counter() - began
        if [one.arm for one in gone] != ["worse"]:
            raise RuntimeError(f"the harmful arm was not switched off: {gone}")
    return took, len(entries)


def _page(at: int, bad: bool) -> bytes:
    packed: bytes = msgpack.packb(
        {
            "t": "served", "subject": f"u:{at}", "unit": f"u:{at}", "at": time.time(), "effort": "full",
            "arms": {"ranking": f"e/{'worse' if at % 2 else 'control'}"}, "sizes": [5, 10, 8], "ms": 4.0,
            "place_slot": bytes(23), "degraded": ["full"] if bad else [], "forced": [],
        }
    )  # fmt: skip
    return packed


def _frame() -> dict[str, Any]:
    slot = {"name": "home.banner", "layout": "banner", "size": 5, "kinds": ["activity"]}
    arms = [{"name": "control"}, {"name": "worse", "changes": {"ranker": "popularity"}}]
    one = {"name": "e", "ramp": [{"at": "2026-01-01T00:00:00Z", "enrolled": 1}], "arms": arms}
    layers = [{"name": "ranking", "experiments": [one]}]
    return {
        "name": "bench", "surfaces": {"home": ["home.banner"]}, "slots": [slot],
        "experiments": {"layers": layers},
    }  # fmt: skip
