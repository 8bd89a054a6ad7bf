"""`fenliu bench assignment`: units divided evenly, layers independent, ramps that move nobody, the cost.

Chi-square of every arm's count in three layers and of each pair of layers together; the bars are the
quantile at 0.999 of its distribution, divided by its degrees of freedom. Two processes of their own assign
the same units; the second one starts after the first has ended, as after a restart.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import combinations
from typing import Any, Final

import numpy as np
from rich.console import Console

from features.customer import NOTHING, decode_customer
from features.ids import keys64
from serving.experiment_compiling import compile_experiments
from serving.experiments import CompiledExperiments
from serving.plan import Plan, check_plan
from training.bench.harness import Result
from training.bench.tally import Tally
from training.progress import counting, wide_console

ABOUT: Final = "assignment: uniformity, independence of layers, ramps, agreement of processes, µs a page"
LAYERS: Final = ("ranking", "feed", "campaigns")
RAMP: Final = (0.01, 0.05, 0.1, 0.2, 0.35, 0.5)
NOW: Final = 1_795_305_600.0
DAY: Final = 86_400.0
CHUNK: Final = 500_000
_CHILD: Final = """
import sys
from training.bench.assignment import digest_of
print(digest_of(int(sys.argv[1])))
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--units", type=int, help="that are divided (10,000,000; quick 1,000,000)")
    parser.add_argument("--agree", type=int, help="assigned by two processes (1,000,000; quick 200,000)")


def run(args: argparse.Namespace) -> Result:
    tally, console = Tally(), wide_console()
    units = args.units or (1_000_000 if args.quick else 10_000_000)
    agree = args.agree or (200_000 if args.quick else 1_000_000)
    made = compile_experiments(plan_of(), {"home": 1})
    _even(tally, made, units, console)
    with console.status(f"two processes assign {agree:,} units"):
        here = digest_of(agree)
        told = {
            subprocess.run(
                [sys.executable, "-c", _CHILD, str(agree)], capture_output=True, text=True, check=True
            ).stdout.strip()
            for _ in range(2)
        }
    tally.put("agree_units", agree)
    tally.put("agree_same", told == {here}, "", "two processes, one after the other, and this one", (">=", 1))
    said = "processor time a page, three layers, two holdouts"
    tally.put("assign_us", cost(made) * 1e6, "µs", said, ("<=", 10.0))
    return tally.result()


def plan_of(layers: tuple[str, ...] = LAYERS) -> Plan:
    """A plan with one experiment of three arms in each layer, enrolled by RAMP, a step a day from NOW on."""
    at = [datetime.fromtimestamp(NOW + day * DAY, UTC).isoformat() for day in range(len(RAMP))]
    ramp = [{"at": moment, "enrolled": share} for moment, share in zip(at, RAMP, strict=True)]
    arms = [{"name": name} for name in ("control", "one", "two")]
    raw: dict[str, Any] = {
        "name": "bench",
        "surfaces": {"home": ["home"]},
        "slots": [{"name": "home", "layout": "feed", "size": 1, "kinds": ["content"]}],
        "experiments": {
            "holdout": 0.01,
            "layers": [
                {"name": name, "holdout": 0.02, "experiments": [
                    {"name": f"e-{name}", "range": [0, 0.9], "ramp": ramp, "arms": arms}
                ]}
                for name in layers
            ],
        },
    }  # fmt: skip
    return check_plan(raw)


def digest_of(units: int) -> str:
    """Of the arms that many units have in each layer on the ramp's fourth day."""
    made = compile_experiments(plan_of(), {"home": 1})
    keys = keys64(f"u:{n}" for n in range(units))
    state = blake2b(digest_size=16)
    for layer in LAYERS:
        state.update(made.many(keys, NOW + 3 * DAY, layer).tobytes())
    return state.hexdigest()


def _even(tally: Tally, made: CompiledExperiments, units: int, console: Console) -> None:
    from scipy import stats

    cells = {layer: np.zeros((5,), np.int64) for layer in LAYERS}
    pairs = {pair: np.zeros((5, 5), np.int64) for pair in combinations(LAYERS, 2)}
    left = moved = 0
    shares = np.zeros(len(RAMP))
    with counting(console, f"{units:,} units in three layers") as tick:
        for first in range(0, units, CHUNK):
            keys = keys64(f"u:{n}" for n in range(first, min(first + CHUNK, units)))
            last = {layer: made.many(keys, NOW + 5 * DAY, layer) + 2 for layer in LAYERS}
            for layer in LAYERS:
                cells[layer] += np.bincount(last[layer], minlength=5)
            for one, other in pairs:
                pairs[one, other] += np.bincount(5 * last[one] + last[other], minlength=25).reshape(5, 5)
            before = np.full(len(keys), -1, np.int16)
            for step in range(len(RAMP)):
                now = made.many(keys, NOW + step * DAY, LAYERS[0])
                inside = before >= 0
                left += int((inside & (now < 0)).sum())
                moved += int((inside & (now >= 0) & (now != before)).sum())
                shares[step] += (now >= 0).sum()
                before = now
            tick(min(first + CHUNK, units), units)
    tally.put("units", units)
    bar = float(stats.chi2.ppf(0.999, 4)) / 4
    for layer, found in cells.items():
        # holdouts, not enrolled, three arms
        enrolled = 0.99 * 0.9 * RAMP[-1]
        held = 0.01 + 0.99 * 0.02
        expected = units * np.array([held, 1 - held - enrolled, *[enrolled / 3] * 3])
        ratio = float(((found - expected) ** 2 / expected).sum() / 4)
        tally.put(
            f"uniform_{layer}",
            ratio,
            "",
            "chi-square over 4 degrees of freedom",
            ("<=", bar),
        )
    for (one, other), table in pairs.items():
        arms = table[2:, 2:]  # among who is in both; the global holdout is shared on purpose
        expected = arms.sum(1, keepdims=True) * arms.sum(0, keepdims=True) / arms.sum()
        ratio = float(((arms - expected) ** 2 / expected).sum() / 4)
        tally.put(
            f"independent_{one}_{other}",
            ratio,
            "",
            "of the arms of two layers",
            ("<=", bar),
        )
    tally.put("ramp_from", shares[0] / units, "", f"of all units; asked {RAMP[0] * 0.99 * 0.9:.4f}")
    tally.put("ramp_to", shares[-1] / units, "", f"of all units; asked {RAMP[-1] * 0.99 * 0.9:.4f}")
    tally.put("ramp_left", left, "units", "that went out on the way", ("<=", 0))
    tally.put("ramp_moved", moved, "units", "that changed the arm", ("<=", 0))


def cost(made: CompiledExperiments, pages: int = 20_000) -> float:
    """Processor seconds of a page's assignment, the least of five rounds over so many units."""
    customer = decode_customer(NOTHING, now=NOW)
    subjects = [f"u:{n}" for n in range(pages)]
    best = np.inf
    for _ in range(5):
        start = time.process_time()
        for subject in subjects:
            made.assigned(subject, None, customer, NOW + 5 * DAY)
        best = min(best, (time.process_time() - start) / pages)
    return float(best)
