"""`fenliu bench booking`: bookings on a sample, against what the whole traffic could have delivered (E4).

Generated traffic whose places are nearly sold out. Each booking asks a random campaign (audience or
everybody, flight, slots) for a random multiple of what it could have at most. The check sees a sample of a
part of the page views; its verdicts and intervals are scored as they are: what they are calibrated with
(`training.booking_most`) was found on seed 2, and seed 1 is reported.
"""

from __future__ import annotations

import argparse
import time
from typing import Final, NamedTuple

import numpy as np

from training.bench.booking_trials import Trials, Tried, booking_of, tried, with_booking, world
from training.bench.booking_world import stocked_of
from training.bench.harness import Bar, Result
from training.bench.tally import Tally
from training.booking import check
from training.booking_plan import Work
from training.progress import counting, wide_console

ABOUT: Final = "bookings on a sampled traffic: feasible or not, intervals, and how long a check takes"
ROUNDS: Final = 2  # of the check that is timed: what else runs here only adds
NEAR: Final = 0.05  # of the deliverable: reported, not scored


class Size(NamedTuple):
    trials: Trials
    timed: int  # pages of the check that is timed


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bookings", type=int, help="bookings that are scored (500; quick 16)")
    parser.add_argument(
        "--sold", type=float, default=0.99, help="of what random prices deliver, the part sold"
    )
    parser.add_argument("--timed", type=int, help="pages of the check that is timed (200,000; quick 10,000)")
    parser.add_argument("--seed", type=int, default=1)


def run(args: argparse.Namespace) -> Result:
    size, console, tally = _sized(args), wide_console(), Tally()
    begun = time.perf_counter()
    with counting(console, f"bookings on samples of {size.trials.sampled:,} pages") as tick:
        found = tried(size.trials, args.seed, tick)
    _verdicts(tally, found, quick=args.quick)
    _intervals(tally, found, quick=args.quick)
    tally.put("booking_cpu_s", float(np.mean([one.cpu_s for one in found])), "s", "truth and check")
    tally.put("bookings_s", time.perf_counter() - begun, "s", "all of them, on all cores")
    with console.status(f"one check on {size.timed:,} pages"):
        _timed(tally, size, args.seed, quick=args.quick)
    return tally.result()


def _sized(args: argparse.Namespace) -> Size:
    work = Work(few=1_500, some=256, checked=800, summed=2_048, steps=20, most_steps=20)
    truth = Work(few=2_000, most_steps=24)
    size = Trials(8_000, 1_600, 3_000, 16, args.bookings or 500, args.sold, work, truth)
    if args.quick:
        size = size._replace(
            views=5_000, customers=1_000, sampled=2_000, samples=2, bookings=args.bookings or 16
        )
    return Size(size, args.timed or (10_000 if args.quick else 200_000))


def _verdicts(tally: Tally, found: list[Tried], *, quick: bool) -> None:
    asked, truth = (np.array([getattr(one, name) for one in found]) for name in ("asked", "truth"))
    flagged = np.array([not one.fits for one in found])
    near = np.abs(asked / truth - 1.0) <= NEAR
    bad, said = (asked > truth) & ~near, flagged & ~near
    right = float((bad & said).sum())
    least = 0.9 if quick else 0.95
    tally.put("bookings", len(found))
    tally.put(
        "limited_by_others", float(np.mean([one.limited for one in found])), note="share; the rest: own reach"
    )
    tally.put("near", near.sum(), note=f"within {NEAR:.0%} of the deliverable: not scored")
    tally.put("near_right", (flagged == (asked > truth))[near].mean() if near.any() else np.nan)
    tally.put("infeasible", bad.sum(), note="of those that are scored")
    tally.put("precision", right / max(said.sum(), 1), note="flagged infeasible, and is", bar=(">=", least))
    tally.put("recall", right / max(bad.sum(), 1), note="is infeasible, and flagged", bar=(">=", least))


def _intervals(tally: Tally, found: list[Tried], *, quick: bool) -> None:
    low, truth, most, high = (
        np.array([getattr(one, name) for one in found]) for name in ("low", "truth", "most", "high")
    )
    limited = np.array([one.limited for one in found])
    inside = (low <= truth) & (truth <= high)
    bars: list[Bar | None] = [None, None] if quick else [(">=", 0.87), ("<=", 0.93)]
    tally.put("covered_low", inside.mean(), note="by the 90 % interval of the check, as it is", bar=bars[0])
    tally.put("covered_high", inside.mean(), note="the same, from above", bar=bars[1])
    for name, of in (("by_others", limited), ("by_reach", ~limited)):
        tally.put(f"covered_{name}", inside[of].mean() if of.any() else np.nan, note="limited so: covered")
    wrong = np.abs(most / truth - 1.0)
    tally.put("error_median", np.median(wrong), note="of what could be delivered at most, relative")
    tally.put("error_p95", np.quantile(wrong, 0.95))
    tally.put("bias", np.median(most / truth) - 1.0, note="median")
    tally.put("half_width", np.median((high - low) / 2 / most), note="of the interval, relative; median")


def _timed(tally: Tally, size: Size, seed: int, *, quick: bool) -> None:
    """Seconds of one whole check on a large sample, plan in force and all."""
    traffic = world(size.timed, max(size.timed // 10, 1_000), seed + 1, size.trials.sold)
    booking = booking_of(traffic, np.random.default_rng([seed, 6]))
    goal = booking["goals"][0] | {"at_least": float(round(0.02 * len(traffic.sample)))}
    before = stocked_of(traffic.market, traffic.raw)
    after = stocked_of(traffic.market, with_booking(traffic, booking | {"goals": [goal]}))
    span = (traffic.sample.since, traffic.sample.until)
    walls, used = [], []
    rounds = 1 if quick else ROUNDS
    for _ in range(rounds):
        wall, processor = time.perf_counter(), time.process_time()
        check(after, traffic.sample, traffic.spread, span, before=before)
        walls.append(time.perf_counter() - wall)
        used.append(time.process_time() - processor)
    tally.put(
        "check_s", min(walls), "s",
        f"one whole plan:check on {len(traffic.sample):,} sampled pages; least of {rounds}",
        ("<=", 30.0),
    )  # fmt: skip
    tally.put("check_cpu_s", min(used), "s", "the same, processor time of all threads")
