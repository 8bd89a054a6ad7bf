"""The ledger under fire: many decisions at once on one quota and one customer's caps, with kills.

Eight replicas decide for 1,000 customers at a time, repeat and refresh, and ask for far more than the quota
and the caps have. Phones show most of what was answered, some twice, whatever became of the replica. Replicas
are killed and started again, and the store (append-only file, `always`) as well. It measures what is counted,
not how fast: company on the machine makes it slower, not better.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from training.bench.harness import Bar, Result
from training.bench.race_cost import NOTE, reserve_us
from training.bench.race_counts import Count
from training.bench.race_phones import Truth
from training.bench.race_run import Raced, raced
from training.bench.race_world import Size, sized
from training.bench.tally import Tally
from training.progress import counting, wide_console

ABOUT: Final = "exact caps and quotas: a race of eight processes, with kills of replicas and of the store"
NONE: Final[Bar] = ("<=", 0.0)
BOUND: Final[Bar] = (">=", 0.9)
AHEAD_S: Final = 15.0  # a lease fetched ahead ends so long after the decision that it was fetched for


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=int, default=8, help="replicas")
    parser.add_argument("--at-once", type=int, default=1000, help="customers at a time, over all replicas")
    parser.add_argument("--seed", type=int, default=7)


def run(args: argparse.Namespace) -> Result:
    size = sized(quick=args.quick, clients=args.processes, at_once=args.at_once, seed=args.seed)
    with tempfile.TemporaryDirectory(prefix="fenliu-race-") as home:
        cost = reserve_us(Path(home))
        with counting(wide_console(), "seconds decided in") as tick:
            found = asyncio.run(raced(size, Path(home), tick))
    tally = Tally()
    _asked(tally, found, size)
    _quota(tally, found, size)
    _cap(tally, found, size)
    tally.put("reserve_us", cost, "µs", NOTE)
    return tally.result()


def _asked(tally: Tally, found: Raced, size: Size) -> None:
    counts, truth = found.counts, found.truth
    tally.put(
        "attempts", counts[Count.ATTEMPTS], note="decisions that wanted a place of the campaign",
        bar=(">=", 3.0 * size.limit),
    )  # fmt: skip
    tally.put(
        "at_once", found.at_once, note=f"decisions under way at a time, of {size.at_once:,} customers",
        bar=(">=", size.at_once / 2),
    )  # fmt: skip
    tally.put("retried", counts[Count.RETRIED])
    tally.put("refreshed", counts[Count.REFRESHED])
    tally.put("unsure", counts[Count.UNSURE], note="the store did not say, or lost its epoch: not shown")
    tally.put("replicas_killed", found.killed, note="in the middle; all of them at the end", bar=(">=", 1.0))
    tally.put("store_away_s", found.store_away_s, "s", "kill -9 of the store until it answered again")
    tally.put("answered", truth.pages, note="pages with the campaign on them, of all customers")
    tally.put("told_twice", truth.told_twice)


def _quota(tally: Tally, found: Raced, size: Size) -> None:
    truth, pool = found.truth, found.pool
    over = max(truth.in_time, truth.most_of_pool, pool.confirmed) - size.limit
    tally.put(
        "quota_overshoot", max(over, 0),
        note=f"displays in time, or confirmed + outstanding, over the limit of {size.limit:,}", bar=NONE,
    )  # fmt: skip
    reached = min(truth.in_time, pool.confirmed) / size.limit
    tally.put("quota_reached", reached, note="displays in time over the limit", bar=BOUND)
    tally.put(
        "quota_refused", found.counts[Count.NO_UNIT], note="decisions that found no unit to take",
        bar=(">=", float(size.limit)),
    )  # fmt: skip
    spent = truth.looks_spent / max(truth.looks, 1)
    tally.put("quota_spent", spent, note="share of the time in which all of it was shown or still to be")
    tally.put(
        "quota_answered", truth.answered,
        note="pages under the quota; more than its limit where what lapsed was granted again",
    )  # fmt: skip
    tally.put("quota_shown", truth.shown)
    tally.put("not_counted", truth.shown - pool.confirmed - pool.late, note="told, less the pool's", bar=NONE)
    tally.put("late", pool.late)
    tally.put(
        "late_unexplained", pool.late - (truth.shown - truth.in_time) - truth.overdue,
        note="flagged late, and neither shown late nor told after the lease's rest returned", bar=NONE,
    )  # fmt: skip
    tally.put("outstanding_at_end", found.outstanding, note="held when the last replica was dead")
    tally.put(
        "not_returned", abs(size.limit - pool.confirmed - pool.late - found.left),
        note="of the limit, after everything lapsed: neither counted nor grantable, or both", bar=NONE,
    )  # fmt: skip
    tally.put(
        "quota_back_s", found.quota_back_s, "s",
        f"all leases gone, after the last page's validity and {size.grace_s} s of grace; one fetched ahead "
        f"ends within {AHEAD_S:g} s of a decision", ("<=", AHEAD_S + 1.5),
    )  # fmt: skip


def _cap(tally: Tally, found: Raced, size: Size) -> None:
    truth = found.truth
    most = most_in_window(truth, size.window_s)
    tally.put(
        "cap_overshoot", max(most - size.most, truth.most_of_cap - size.most, 0),
        note=f"the one customer's displays in time in any {size.window_s} s, over {size.most}", bar=NONE,
    )  # fmt: skip
    tally.put("cap_reached", most / size.most, note="the most in any window, over the cap", bar=BOUND)
    tally.put(
        "cap_refused", found.counts[Count.CAPPED], note="decisions that the cap refused",
        bar=(">=", 10.0 * size.most),
    )  # fmt: skip
    tally.put("cap_shown", len(truth.entries), note="the one customer's displays")
    tally.put("cap_most_held", truth.most_of_cap, note="the one customer's reservations at a time")
    taken = sum(late for _, late in truth.entries.values())
    tally.put("taken_over", taken, note="displays of pages that a refresh had taken over: late")
    tally.put("reserved_at_end", found.reserved, note="held when the last replica was dead")
    tally.put("cap_back_s", found.caps_back_s, "s", "all reservations gone, after the same", ("<=", 1.5))


def most_in_window(truth: Truth, window_s: int) -> int:
    """The most displays in time that any window of the cap's length holds."""
    at = np.sort(np.array([when for when, late in truth.entries.values() if not late], np.int64))
    if not len(at):
        return 0
    first = np.searchsorted(at, at - window_s, side="right")
    return int((np.arange(len(at)) - first + 1).max())
