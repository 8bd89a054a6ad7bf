"""`fenliu bench ghosts`: a campaign's lift by ghost placements, against what is true and against
intent-to-treat.

Each campaign has a flight of two weeks, an audience of which about 20 % come by and would be shown it at
some moment, and a true effect on what those buy afterwards. Who is held out is told by the hash that serves;
the estimates are those of `fenliu experiment lift`. Intent-to-treat compares everybody in the audience.
Then the same on pages that `decide()` makes: `ghosts_pages`.
"""

from __future__ import annotations

import argparse
from typing import Final

import numpy as np

from serving.ghosts import held_out
from serving.splitting import salt_of
from training.bench.ghosts_pages import lifts_of_pages
from training.bench.harness import Result
from training.bench.tally import Tally
from training.experiment.statistics import Difference, Moments, adjusted, difference
from training.progress import counting, wide_console

ABOUT: Final = "ghost placements: coverage of the true lift, width against intent-to-treat"
REACH: Final = 0.2
SHARE: Final = 0.02
DAYS: Final = 14.0
Z: Final = 1.959964


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--campaigns", type=int, help="simulated (300; quick 300)")
    parser.add_argument("--audience", type=int, help="customers of each (200,000; quick 50,000)")
    parser.add_argument("--customers", type=int, help="of pages by decide() (20,000; quick 5,000; 0 none)")
    parser.add_argument("--rounds", type=int, default=60, help="of what customers do after these pages")
    parser.add_argument("--seed", type=int, default=5)


def run(args: argparse.Namespace) -> Result:
    tally, console = Tally(), wide_console()
    campaigns = args.campaigns or 300
    audience = args.audience or (50_000 if args.quick else 200_000)
    rng = np.random.default_rng(args.seed)
    covered = intent_covered = ghosts = 0
    widths: dict[str, list[float]] = {"width": [], "width_plain": [], "width_cuped": []}
    gains = []
    with counting(console, f"{campaigns} campaigns") as tick:
        for number in range(campaigns):
            plain, lift, intent, helped, truth, held = _campaign(rng, number, audience)
            covered += _holds(lift, truth)
            intent_covered += _holds(intent, truth)
            widths["width"].append(lift.absolute.error / intent.absolute.error)
            widths["width_plain"].append(plain.absolute.error / intent.absolute.error)
            widths["width_cuped"].append(lift.absolute.error / helped.absolute.error)
            gains.append(lift.reduction)
            ghosts += held
            tick(number + 1, campaigns)
    tally.put(
        "campaigns", campaigns, "", f"{audience:,} customers each, {REACH:.0%} reached, {SHARE:.0%} held out"
    )
    tally.put("ghosts", ghosts / campaigns, "", "customers a campaign who would have been shown it")
    tally.put("covers", covered / campaigns, "", "95 % intervals that hold the true lift", (">=", 0.93))
    for name, note in (
        ("width", "as `fenliu experiment lift` tells it, of plain intent-to-treat's"),
        ("width_plain", "both without CUPED"),
        ("width_cuped", "both with CUPED"),
    ):
        bar = ("<=", 1 / 3) if name == "width_plain" else None  # like against like, and nothing borrowed
        tally.put(name, float(np.median(widths[name])), "", note, bar)  # type: ignore[arg-type]
    tally.put("cuped", float(np.mean(gains)), "", "part of the variance that the time before took away")
    tally.put("intent_covers", intent_covered / campaigns, "", "of intent-to-treat, scaled up by the reach")
    if customers := args.customers if args.customers is not None else (5_000 if args.quick else 20_000):
        with counting(console, f"{customers:,} pages with campaigns") as tick:
            lifts_of_pages(tally, 12, customers, args.rounds, args.seed, tick)
    return tally.result()


def _holds(found: Difference, truth: float) -> bool:
    low, high = found.absolute.interval(Z)
    return low <= truth <= high


def _campaign(
    rng: np.random.Generator, number: int, audience: int
) -> tuple[Difference, Difference, Difference, Difference, float, int]:
    """Ghosts without and with CUPED, intent-to-treat (per reached) likewise, the true lift, ghosts."""
    keys = rng.integers(0, 2**64, audience, np.uint64)
    salt = np.full(audience, salt_of("", "ghost", f"c{number}"), np.uint64)
    held = held_out(keys, salt, np.array([SHARE]))
    rate = rng.gamma(0.8, 0.25, audience)  # purchases a day
    before = rng.poisson(rate * DAYS).astype(np.float64)
    reached = rng.random(audience) < REACH
    moment = rng.random(audience) * DAYS
    effect = rng.uniform(0.0, 0.2)
    earlier = rng.poisson(rate * moment)
    shown = reached & ~held
    # What the campaign adds goes on until the flight ends, in proportion to what a customer buys anyway.
    later = rng.poisson(rate * (DAYS - moment) * np.where(shown, 1 + effect, 1.0)).astype(np.float64)
    truth = float(effect * 0.8 * 0.25 * DAYS / 2)  # the mean over whom it reaches
    with_before = [Moments.of([later[one], before[one]]) for one in (reached & held, reached & ~held)]
    plain = difference(*with_before)
    lift = adjusted(*with_before)
    everything = earlier + later
    both = [Moments.of([everything[one] / REACH, before[one]]) for one in (held, ~held)]
    return plain, lift, difference(*both), adjusted(*both), truth, int((reached & held).sum())
