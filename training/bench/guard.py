"""`fenliu bench guard`: how soon the guard finds an arm that does harm, and how often it is wrong.

Units of a bank come by and meet pages of two arms; the guard's own counters and tests look at them every few
units, as the service does every five seconds. Every usual guard is watched at once. In A/A runs the arms are
the same, and customers differ from each other (some meet errors on every page), so pages of one are not
independent: whatever is switched off there is a false alarm. The last figure is the whole way on this
machine: from entries in the log to the plan that control names.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np

from features.log import Entry, MemoryLog
from serving.control import MemoryControl
from serving.governance import Governance
from serving.guard import Guard
from serving.guard_statistics import ALPHA, AT, COLUMNS, Floats, Sums, Watched, guards_of
from serving.observe import Metrics
from serving.office import Office
from serving.principals import local_identity
from serving.proposals import FRAME
from training.bench.harness import Result
from training.bench.tally import Tally
from training.progress import counting, wide_console

ABOUT: Final = "guard: an arm that does harm goes off; how soon, and how often wrongly"
EVERY: Final = 50  # units between two looks
EXPOSED: Final = 2_000
RATES: Final = (0.01, 0.02, 0.05, 0.1)
Rng = np.random.Generator


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, help="of each kind (2,000; quick 200)")
    parser.add_argument("--units", type=int, default=20_000, help="of an A/A run")
    parser.add_argument("--seed", type=int, default=7)


def run(args: argparse.Namespace) -> Result:
    tally, console = Tally(), wide_console()
    runs = args.runs or (200 if args.quick else 2_000)
    rng = np.random.default_rng(args.seed)
    with counting(console, "runs of A/A") as tick:
        false = 0
        for number in range(runs):
            rate = RATES[number % len(RATES)]
            false += _found(rng, (rate, rate), args.units, spread=0.5) is not None
            tick(number + 1, runs)
    note = f"{runs:,} runs of {args.units:,} units, a look every {EVERY}; customers differ in their errors"
    tally.put("false_alarms", false / runs, "", note, ("<=", ALPHA))
    for rate in RATES:
        hits = [_found(rng, (rate, 2 * rate), 6 * EXPOSED) for _ in range(runs // 10)]
        found = np.array([one or np.inf for one in hits])
        name = f"{rate * 100:g}".replace(".", "_")
        bar: Any = (">=", 0.9) if rate >= 0.05 else None
        said = f"pages that fail: {rate:.0%} in the control, {2 * rate:.0%} in the arm"
        tally.put(f"within_2000_at_{name}", float((found <= EXPOSED).mean()), "", said, bar)
        tally.put(f"units_at_{name}", float(np.median(found)), "units", "exposed in both arms, median")
    seconds, entries = _whole_way(rng)
    tally.put("whole_way", seconds, "s", f"{entries:,} log entries to the plan pointer", ("<=", 30.0))
    return tally.result()


def _found(rng: Rng, errors: tuple[float, float], most: int, spread: float = 0.0) -> int | None:
    """Exposed units when an arm goes; None: it never does. `errors`: of the control and of the arm."""
    watched = Watched(guards_of(()), ALPHA)
    arms = [_units(rng, EVERY, rate, spread) for rate in errors]
    seen = 2 * EVERY
    while seen <= most:
        if any(look.breached for look in watched.look(arms[1], arms[0])):
            return seen
        split = rng.binomial(EVERY, 0.5)
        for at, (n, rate) in enumerate(zip((split, EVERY - split), errors, strict=True)):
            new = _units(rng, n, rate, spread)
            arms[at] = Sums(*(one + other for one, other in zip(arms[at], new, strict=True)))
        seen += EVERY
    return None


def _units(rng: Rng, n: int, errors: float, spread: float) -> Sums:
    """What n units did. `spread`: how much of a customer's chance of an error is the customer's own."""
    table: Floats = np.zeros((n, len(COLUMNS)))
    pages = 1 + rng.poisson(0.5, n)
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
    return Sums.of(table)


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
