"""`fenliu bench ope`: off-policy estimates against what is true.

On the synthetic bank every policy's value is known: one banner place, ten candidates a customer, logs of a
softmax over popularity. Targets with overlap are the same with another temperature, towards what is truly
best; those without put nearly everything where the log hardly ever was. Then the same of pages that the
product decides, slates and all (`ope_pages`). On the Open Bandit data the other
log is the truth.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.adapters import data_folder
from training.bench.harness import Result
from training.bench.ope_pages import POOL, coverage
from training.bench.tally import Tally
from training.ope.diagnostics import diagnose
from training.ope.estimators import ESTIMATORS, Floats, Logged
from training.ope.intervals import bootstrap, by_counts, resampled
from training.ope.open_bandit import FOLDER, PUBLISHED, load, seen_as
from training.ope.rewards import cross_fitted
from training.progress import counting, wide_console
from training.world.history import World

ABOUT: Final = "off-policy evaluation: coverage on the synthetic bank and of decided pages, Open Bandit"
CANDIDATES: Final = 10
ROUNDS: Final = 4_000  # of one log
CUSTOMERS: Final = 6_000
COUNTS: Final = 1_000  # bootstrap samples, drawn once for all logs of one size


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, help="logs drawn (1,000; quick 200)")
    parser.add_argument("--page-runs", type=int, help="logs of decided pages drawn (1,000; quick 60)")
    parser.add_argument("--seed", type=int, default=3)


def run(args: argparse.Namespace) -> Result:
    tally, console = Tally(), wide_console()
    runs = args.runs or (200 if args.quick else 1_000)
    rng = np.random.default_rng(args.seed)
    with console.status("what is true of the synthetic bank"):
        bank = Bank.of(args.seed, rng)
    with counting(console, f"{runs:,} logs") as tick:
        _coverage(tally, bank, rng, runs, tick)
    pages = args.page_runs or (60 if args.quick else 1_000)
    with counting(console, f"{pages:,} logs of decided pages") as tick:
        coverage(tally, args.seed, pages, 150 if args.quick else POOL, tick)
    _open_bandit(tally, rng)
    return tally.result()


class Bank:
    """Customers, their candidates for one place, and what a display of each is worth in clicks."""

    def __init__(self, items: NDArray[np.int64], worth: Floats, popular: Floats, score: Floats) -> None:
        """`items`, `worth`, `popular`, `score`: (customers, CANDIDATES); `score`: what a model says."""
        self.items, self.worth, self.popular, self.score = items, worth, popular, score
        self.logging = _softmax(popular, 1.0)

    @classmethod
    def of(cls, seed: int, rng: np.random.Generator) -> Bank:
        world = World.create(seed, CUSTOMERS, 600)
        kinds = world.catalogue.kind.astype(np.int64)
        allowed = np.flatnonzero(kinds == kinds[np.bincount(kinds).argmax()])[:40]
        items = np.argsort(rng.random((CUSTOMERS, len(allowed))), axis=1)[:, :CANDIDATES]
        customers = np.arange(CUSTOMERS)
        worth = np.empty((CUSTOMERS, CANDIDATES))
        respondent = world.respondent()
        for at in range(CANDIDATES):
            pages = np.full((CUSTOMERS, 40), -1, np.int64)
            pages[:, 0] = allowed[items[:, at]]
            chances = respondent.probabilities(customers, pages, world.start)
            worth[:, at] = (chances.displayed * chances.click)[:, 0]
        popular = np.array([worth[items == row].mean() for row in range(len(allowed))])
        scale = worth.std()
        shown = (popular[items] - popular.mean()) / popular.std()
        score = (worth + rng.normal(0, scale, worth.shape)) / scale
        return cls(items, worth, shown, score)

    def value(self, policy: Floats) -> float:
        """The truth: over all customers."""
        return float((policy * self.worth).sum(axis=1).mean())

    def log(self, policy: Floats, rng: np.random.Generator, n: int = ROUNDS) -> Logged:
        """n pages logged, seen under another policy."""
        who = rng.integers(0, len(self.items), n)
        logging = self.logging[who]
        drawn = np.minimum((logging.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1), CANDIDATES - 1)
        reward = (rng.random(n) < self.worth[who, drawn]).astype(np.float64)
        wide = np.zeros((n, int(self.items.max()) + 1))
        np.put_along_axis(wide, self.items[who], policy[who], axis=1)
        q, v = cross_fitted(reward, self.items[who, drawn], np.zeros(n, np.int64), wide, rng)
        supported = (policy[who] * (logging > 0)).sum(axis=1)
        return Logged(reward, logging[np.arange(n), drawn], policy[who, drawn], q, v, supported)


def _softmax(score: Floats, temperature: float) -> Floats:
    raised = np.exp((score - score.max(axis=1, keepdims=True)) / temperature)
    chances: Floats = raised / raised.sum(axis=1, keepdims=True)
    return chances


def _coverage(tally: Tally, bank: Bank, rng: np.random.Generator, runs: int, tick: object) -> None:
    overlapping = [_softmax(bank.popular + weight * bank.score, 1.0) for weight in (0.3, 0.6, 1.0)]
    # Nearly always the one that popularity likes least, which the log shows in a few pages of a thousand.
    worst = bank.popular.argmin(axis=1)
    apart = [
        0.95 * np.eye(CANDIDATES)[worst] + 0.05 * bank.logging,
        _softmax(-4.0 * bank.popular, 1.0),
        np.eye(CANDIDATES)[worst],
    ]
    counts = resampled(rng, ROUNDS, COUNTS)
    names = tuple(ESTIMATORS)
    covered = dict.fromkeys(names, 0)
    widths: dict[str, list[float]] = {name: [] for name in names}
    errors: dict[str, list[float]] = {name: [] for name in names}
    warned = alarmed = 0
    truths = [bank.value(policy) for policy in overlapping]
    for number in range(runs):
        at = number % len(overlapping)
        seen = bank.log(overlapping[at], rng)
        alarmed += bool(diagnose(seen).warnings)
        for name, of in ESTIMATORS.items():
            parts = of(seen)
            low, high = by_counts(parts, counts)
            covered[name] += low <= truths[at] <= high
            widths[name].append((high - low) / truths[at])
            errors[name].append(abs(parts.value - truths[at]) / truths[at])
        warned += bool(diagnose(bank.log(apart[number % len(apart)], rng)).warnings)
        tick(number + 1, runs)  # type: ignore[operator]
    tally.put(
        "runs", runs, "", f"logs of {ROUNDS:,} pages, {CANDIDATES} candidates, three policies with overlap"
    )
    tally.put("true_logging", bank.value(bank.logging), "", "clicks a page")
    tally.put("true_best_target", max(truths), "", "of the policies evaluated")
    for name in names:
        note = "95 % bootstrap intervals that hold the truth"
        bar = (">=", 0.93) if name in ("snips", "dr") else None
        tally.put(f"{name}_covers", covered[name] / runs, "", note, bar)  # type: ignore[arg-type]
        tally.put(f"{name}_width", float(np.mean(widths[name])), "", "of the interval, over the truth")
        tally.put(f"{name}_error", float(np.mean(errors[name])), "", "relative")
    tally.put("warned_apart", warned / runs, "", "logs without overlap that are warned of", (">=", 0.95))
    tally.put("warned_overlap", alarmed / runs, "", "logs with overlap that are")


def _open_bandit(tally: Tally, rng: np.random.Generator) -> None:
    where = data_folder(os.environ, Path(__file__).parents[2])
    if not (where / FOLDER).is_dir():
        tally.put("open_bandit", float("nan"), "", f"{where / FOLDER} is not there: left out")
        return
    log, other = load(where, "random"), load(where, "bts")
    seen = seen_as(log, other.frequencies, rng)
    found = diagnose(seen)
    low, high = bootstrap(ESTIMATORS["ips"](seen), rng, rounds=4_000)
    value = ESTIMATORS["ips"](seen).value
    tally.put("open_bandit_truth", float(other.click.mean()), "", "Bernoulli-TS in its own log")
    tally.put("open_bandit_ips", value, "", "of it from the random log; 0.0057 published", (">=", 0.00565))
    tally.put("open_bandit_low", low, "", "0.0031 published")
    tally.put("open_bandit_high", high, "", "0.0086 published")
    off = max(abs(low - 0.0031), abs(high - 0.0086), abs(value - 0.0057))
    tally.put("open_bandit_off", off, "", "from the three published numbers", ("<=", 0.00015))
    tally.put("open_bandit_mean_weight", found.mean_weight, "", "between 0.9 and 1.1", (">=", 0.9))
    tally.put("open_bandit_over", found.mean_weight - 1, "", "of it, above 1", ("<=", 0.1))
    tally.put("open_bandit_effective", found.effective, "", f"rounds of {len(log):,}; 2,869 published")
    tally.put("open_bandit_refused", found.refused, "", "", ("<=", 0))
    back = diagnose(seen_as(other, log.frequencies, rng))
    tally.put("reverse_effective", back.effective, "", "random from the Bernoulli-TS log")
    tally.put("reverse_refused", back.refused, "", "", (">=", 1))
    errors: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    for _ in range(30):
        drawn = log.take(rng.integers(0, len(log), len(log)))
        again = seen_as(drawn, other.frequencies, rng)
        for name, of in ESTIMATORS.items():
            errors[name].append(abs(of(again).value - other.click.mean()) / other.click.mean())
    for name in ESTIMATORS:
        note = f"relative, 30 bootstraps; published on the full data {PUBLISHED[name]}"
        tally.put(f"open_bandit_error_{name}", float(np.mean(errors[name])), "", note)
