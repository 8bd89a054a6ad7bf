"""`fenliu bench uplift`: who ranks customers and coupons by what the coupon really gains (evidence E5).

Every method learns from weeks in which chance decided, with what a bank would know. `auuc` asks the world:
the area between a ranking's gains and a random order's on the first day after, as a share of the oracle's,
which knows every customer's hidden taste. `knowable` is that share of a forest that was taught the truth by
all that customers show: no method that learns from purchases can be expected to pass it. `qini` is what a
bank could measure: the same area on the last random week, by inverse propensity from purchases alone,
purchases per 1,000 pages. Nothing is chosen by the truth: settings come from held-out uses.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from training.bench.harness import Bar, Result

if TYPE_CHECKING:
    from training.uplift import Seen, Study

ABOUT = (
    "uplift by served model, T-, X- and R-learner on LightGBM: share of the oracle's area, Qini, intervals"
)
FIRST_SEED: Final = 21
RESAMPLES: Final = 100
METHODS: Final = ("served", "t", "x", "r", "clicks")
EARLY: Final = 0.75  # of the random pages, in time; Qini is measured on the others


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=5, help="worlds")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="of the first world")
    parser.add_argument("--customers", type=int, default=30_000)
    parser.add_argument("--coupons", type=int, default=6)
    parser.add_argument("--methods", default=",".join(METHODS), help="forests take minutes a world")
    parser.add_argument("--visits", type=float, default=0.3, help="a customer's mean visits a day")


def run(args: argparse.Namespace) -> Result:
    from threadpoolctl import threadpool_limits

    from training.bench.coupons import LEARNED, CouponBank
    from training.bench.uplift_ceiling import knowable
    from training.bench.uplift_rivals import area, logged

    if args.quick:
        args.seeds, args.customers, args.visits = 1, 8_000, 0.2
    console = Console(stderr=True)
    methods = [name for name in METHODS if name in args.methods.split(",")]
    shares: dict[str, list[float]] = {name: [] for name in methods}
    spread: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    qinis: dict[str, list[float]] = {name: [] for name in methods}
    ceiling: list[float] = []
    pages = clicks = uses = 0
    with threadpool_limits(1):
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            with console.status(f"world {seed}: {LEARNED} days"):
                bank = CouponBank.create(seed, args.customers, args.coupons, args.visits)
                study = bank.learn()
            pages, clicks, uses = (
                pages + len(study.item), clicks + int(study.clicked.sum()), uses + int(study.used.sum()),
            )  # fmt: skip
            asked = bank.begin(LEARNED)
            seen = bank.seen(LEARNED, asked.customers)
            every = np.tile(np.arange(len(study.keys)), (len(asked.at), 1))
            truth = bank.truth(asked, every, bank.respondent).gain
            ceiling.append(area(knowable(bank, asked), truth) / area(truth, truth))
            cut = int(len(study.item) * EARLY)
            early, late = study.take(np.arange(cut)), study.take(np.arange(cut, len(study.item)))
            for name in methods:
                with console.status(f"world {seed}: {name}"):
                    score = _learner(name)(study)(seen)
                    shares[name].append(area(score, truth) / area(truth, truth))
                    spread[name].append(_interval(score, truth, seed))
                    if not args.quick and name in ("served", "clicks"):
                        there = _learner(name)(early)(late.seen)
                        qinis[name].append(area(there, logged(late)) * 1000)
    counts = {"worlds": args.seeds, "pages": pages, "clicks": clicks, "uses": uses}
    figures = {name: float(count) for name, count in counts.items()}
    figures["auuc_knowable"] = float(np.mean(ceiling))
    for name in methods:
        low, high = (float(np.mean([one[k] for one in spread[name]])) for k in (0, 1))
        figures[f"auuc_{name}"] = float(np.mean(shares[name]))
        figures[f"auuc_{name}_worst"] = min(shares[name])
        figures |= {f"auuc_{name}_low": low, f"auuc_{name}_high": high}
        if qinis[name]:
            figures[f"qini_{name}"] = float(np.mean(qinis[name]))
    figures["of_the_knowable"] = figures.get("auuc_served", math.nan) / figures["auuc_knowable"]
    bars: dict[str, Bar] = {"auuc_served": (">=", 0.6 if args.quick else 0.8)}
    return Result(figures, bars, {}, NOTES)


def _learner(name: str) -> Callable[[Study], Callable[[Seen], NDArray[np.float64]]]:
    from training.bench.uplift_rivals import served
    from training.uplift_trees import clicks_alone, r_learner, t_learner, x_learner

    return {"served": served, "t": t_learner, "x": x_learner, "r": r_learner, "clicks": clicks_alone}[name]


def _interval(score: NDArray[np.float64], truth: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """95 % over customers' pages, of the share of the oracle's area."""
    from training.bench.uplift_rivals import area

    rng = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES):
        some = rng.integers(0, len(truth), len(truth))
        found.append(area(score[some], truth[some]) / area(truth[some], truth[some]))
    low, high = np.quantile(found, (0.025, 0.975)).tolist()
    return low, high


NOTES: Final = {
    "auuc_served": "serving.uplift: P(click) · (1 − a) · d",
    "auuc_t": "two forests a coupon",
    "auuc_x": "X-learner on forests",
    "auuc_r": "R-learner on forests, the effect through the click",
    "auuc_clicks": "no uplift model at all: by P(click)",
    "auuc_knowable": "a forest taught the truth itself by all that customers show",
    "of_the_knowable": "the served model's share of that",
}
