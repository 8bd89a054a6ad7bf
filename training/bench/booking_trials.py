"""Random bookings on generated traffic: each checked on a sample of it, beside what the whole could deliver.

Truth is the dual bound over every page view, pages from above. The plan in force is priced in full once a
sample; a booking's own prices are hardly searched for: what could be delivered at most asks for none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any, Final, NamedTuple

import numpy as np

from training.bench.booking_world import Traffic, campaign_of, moment, stocked_of, tightened, traffic_of
from training.bench.campaigns14 import DAY, STANDARD, Size
from training.bench.traffic14 import market
from training.booking import check
from training.booking_most import Doubt
from training.booking_pages import Joined, Spread, Stocked
from training.booking_plan import Decided, Work, decided
from training.booking_programme import most_at, most_of, of_goals, terms_of, without_value
from training.sample_columns import thinned
from training.sample_strata import chosen

LEAST: Final = 0.002  # of page views: a booking that could not have so much is drawn anew
ASKED: Final = (0.6, 1.6)  # of what could be had
ITS_REACH: Final = 0.995  # of the best place of every page: from here on nobody else limits a booking
EVERYBODY: Final = 0.5  # of bookings are for all customers

Tick = Callable[[int, int], None]


class Trials(NamedTuple):
    """`sampled` pages a sample; `work` of a check of the plan in force, `truth` of the whole traffic."""

    views: int
    customers: int
    sampled: int
    samples: int
    bookings: int
    sold: float
    work: Work
    truth: Work


class Tried(NamedTuple):
    """One booking: units asked for and to be had, and what the check said."""

    asked: float
    truth: float
    most: float
    low: float
    high: float
    fits: bool
    limited: bool  # by others, not by its own reach
    sample: int
    cpu_s: float


def tried(trials: Trials, seed: int, tick: Tick) -> list[Tried]:
    """Every booking, in order; samples at work on all cores. `tick(done, bookings)`."""
    order = np.random.default_rng([seed, 4]).permutation(trials.bookings).tolist()
    found: dict[int, Tried] = {}
    workers = min(os.cpu_count() or 1, trials.samples)
    with ProcessPoolExecutor(workers, get_context("spawn"), _made, (trials, seed)) as pool:
        several = max(trials.bookings // trials.samples // 8, 1)  # of one sample at a time, for the bar
        waiting = [
            pool.submit(_of_sample, number, mine[at : at + several])
            for number in range(trials.samples)
            for mine in [order[number :: trials.samples]]
            for at in range(0, len(mine), several)
        ]
        for done in as_completed(waiting):
            found |= done.result()
            tick(len(found), trials.bookings)
    return [found[one] for one in range(trials.bookings)]


def world(views: int, customers: int, seed: int, sold: float) -> Traffic:
    """Page views of a generated market with goals that leave 1 - `sold` of what random prices deliver."""
    size = Size(views=views, customers=customers, least_goal=views / 1_000, standard=60, quotas=0)
    made = market(size, seed)
    traffic = traffic_of(made, made.views)
    return traffic._replace(raw=tightened(traffic, sold, seed))


class Bed:
    """One sample of the traffic, with what the plan in force comes to on it."""

    def __init__(self, traffic: Traffic, trials: Trials, seed: int, number: int) -> None:
        self._traffic, self._trials, self._number = traffic, trials, number
        whole = traffic.sample
        _, org = np.unique(whole.org, return_inverse=True)
        pages, weight = chosen(org, whole.at, trials.sampled, seed * 1_000 + number)
        self._sample = whole.take(pages)
        self._spread = Spread(whole.at[pages], weight.astype(np.float64) * len(whole) / float(weight.sum()))
        self._span = (whole.since, whole.until)
        before = stocked_of(traffic.market, traffic.raw)
        self._before: Decided = decided(before, self._sample, self._spread, self._span, trials.work)

    def tried(self, rng: np.random.Generator) -> Tried:
        """A booking drawn, its truth found, a multiple of it asked for, and that checked."""
        traffic, begun = self._traffic, time.process_time()
        truth = best = 0.0
        while truth < LEAST * len(traffic.sample):
            raw = booking_of(traffic, rng)
            truth, best = _truth(
                traffic, stocked_of(traffic.market, with_booking(traffic, raw)), self._trials
            )
        asked = float(max(1, round(truth * float(np.exp(rng.uniform(*np.log(ASKED)))))))
        goal = raw["goals"][0] | {"at_least": asked}
        after = stocked_of(traffic.market, with_booking(traffic, raw | {"goals": [goal]}))
        booking = check(
            after, self._sample, self._spread, self._span, before=self._before, full=False,
            work=self._trials.work._replace(some=32, summed=256, steps=1), doubt=Doubt("part", 0.0),
        )  # fmt: skip
        one = next(goal for goal in booking.goals if goal.changed)
        spent = time.process_time() - begun
        return Tried(
            asked, truth, one.most, one.most_low, one.most_high, one.fits, truth < ITS_REACH * best,
            self._number, spent,
        )  # fmt: skip


def booking_of(traffic: Traffic, rng: np.random.Generator) -> dict[str, Any]:
    """One of the market's campaigns without a goal, for part of its slots, in a flight of its own."""
    made = traffic.market
    pool = np.flatnonzero((made.campaigns.tier == STANDARD) & (made.campaigns.at_most == np.inf))
    c = int(rng.choice(pool))
    raw = campaign_of(made, c)
    slots = rng.permutation(raw["slots"])[: int(rng.integers(1, len(raw["slots"]) + 1))].tolist()
    first = int(rng.integers(0, made.size.days - 3))
    last = int(rng.integers(first + 3, made.size.days + 1))
    unit = "clicked" if rng.random() < 0.1 else "displayed"
    if rng.random() < EVERYBODY:  # others limit it more than its own reach does
        raw.pop("audience", None)
    return raw | {
        "id": "booked", "slots": sorted(slots), "tier": "guaranteed",
        "penalty": 40.0 if unit == "clicked" else 2.0,
        "flight": {"from": moment(first * DAY), "until": moment(last * DAY)},
        "goals": [{"unit": unit, "at_least": 1.0}],
    }  # fmt: skip


def with_booking(traffic: Traffic, booking: dict[str, Any]) -> dict[str, Any]:
    return traffic.raw | {"campaigns": [*traffic.raw["campaigns"], booking]}


def _truth(traffic: Traffic, stocked: Stocked, trials: Trials) -> tuple[float, float]:
    """(the most that the last campaign's goal could have of all page views; had it every best place)."""
    work = trials.truth
    joined = Joined(stocked, traffic.sample, traffic.spread)
    terms = terms_of(joined, traffic.sample.since, traffic.sample.until)
    programme, goal = terms.programme, len(terms.goals) - 1
    units = of_goals(programme, joined.campaigns)
    every = without_value(list(joined.parts(units=units)))
    pages = thinned(len(traffic.sample), work.few)
    few = without_value(list(joined.parts(pages, units=units)))
    grown = len(traffic.sample) / len(pages)
    few = [part._replace(weight=part.weight * grown) for part in few]
    first = most_of(programme, goal, few, few, work.most_steps)
    free = most_at(programme, goal, np.zeros(len(programme.least)), every)
    if free.units <= first.units:  # its own reach is the tighter bound: any λ gives one
        return free.units, free.best
    bound = most_at(programme, goal, first.prices, every, checked=few)
    return min(bound.units, free.units), free.best


# --- in a process of the pool: the traffic is made once, a bed once a sample

_WORLD: list[tuple[Traffic, Trials, int]] = []
_BEDS: dict[int, Bed] = {}


def _made(trials: Trials, seed: int) -> None:
    _WORLD[:] = [(world(trials.views, trials.customers, seed, trials.sold), trials, seed)]


def _of_sample(number: int, mine: list[int]) -> dict[int, Tried]:
    traffic, trials, seed = _WORLD[0]
    if number not in _BEDS:
        _BEDS.clear()
        _BEDS[number] = Bed(traffic, trials, seed, number)
    bed = _BEDS[number]
    return {one: bed.tried(np.random.default_rng([seed, 5, one])) for one in mine}
