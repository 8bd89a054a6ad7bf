"""`fenliu bench bandit`: regret of creatives chosen by the bandit on the synthetic bank, whose truth we know.

Customers of the bank come by as they do, and see one banner. Its item has five creatives; each changes the
click's true hazard by a factor of its own and, less, by one per segment. The bandit is told a batch at once,
as the service tells it each minute. Regret counts the chance of a click given up against always showing the
creative that is best over everybody: who uses the context may do better than that, and regret falls below 0.

Regret is expected, not drawn: the true chances of what was shown, whatever was clicked. A run is a matter of
luck still (ε-greedy's by the creative it stays with), so a world is judged by the mean of many runs, and how
many single pairs of runs would have met the bar is printed beside it.

Beside it: ε-greedy with ε = 0.1, which is told at once, Thompson sampling without context, and one that keeps
every segment to itself. All of them meet the same customers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from features.ids import KIND_CODE
from serving.bandit import CELLS, NOTHING_LEARNED, Seen, learned
from training.bench.harness import Result
from training.bench.tally import Tally
from training.progress import counting, wide_console
from training.world.history import World
from training.world.layout import HOME

ABOUT: Final = "bandit: regret against the best fixed creative, beside epsilon-greedy"
CREATIVES: Final = 5
EPSILON: Final = 0.1
OWN: Final = 0.3  # spread of a creative's log hazard
WITHIN: Final = 0.15  # … of its own in a segment
CURVE: Final = 200  # points kept for the plot
PART: Final = 10_000  # pages asked for at once
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Luck = Sequence[np.random.Generator]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--views", type=int, help="of a seed (100,000; quick 50,000)")
    parser.add_argument("--seeds", type=int, help="worlds (5; quick 2)")
    parser.add_argument("--first-seed", type=int, default=1, help="the worlds are those from this one on")
    parser.add_argument("--customers", type=int, help="of the bank (20,000; quick 8,000)")
    parser.add_argument("--batch", type=int, default=500, help="views between two versions")
    parser.add_argument(
        "--runs", type=int, help="of each policy in a world: regret is their mean (20; quick 3)"
    )
    parser.add_argument("--out", type=Path, default=Path(".fenliu/bench"), help="folder of plot and JSON")


def run(args: argparse.Namespace) -> Result:
    tally, console = Tally(), wide_console()
    views, seeds = args.views or (50_000 if args.quick else 100_000), args.seeds or (2 if args.quick else 5)
    customers, runs = (
        args.customers or (8_000 if args.quick else 20_000),
        args.runs or (3 if args.quick else 20),
    )
    curves: dict[str, list[list[float]]] = {name: [] for name in _POLICIES}
    single: dict[str, list[float]] = {name: [] for name in _POLICIES}
    with counting(console, f"{seeds} worlds of {views:,} views") as tick:
        for turn, seed in enumerate(range(args.first_seed, args.first_seed + seeds)):
            cells, click = _world(seed, customers, views)
            best = click.mean(axis=0).argmax()
            for number, (name, policy) in enumerate(_POLICIES.items()):
                regret = np.zeros(views)
                luck = [np.random.default_rng([seed, number, again]) for again in range(runs)]
                for chosen in policy(luck, cells, click, args.batch):
                    one = (click[:, best] - click[np.arange(views), chosen]).cumsum()
                    single[name].append(float(one[-1]))
                    regret += one / runs
                kept = regret[:: max(1, views // CURVE)].tolist()
                curves[name].append([*kept, float(regret[-1])])
                tick(turn * len(_POLICIES) + number + 1, seeds * len(_POLICIES))
    final = {name: [one[-1] for one in some] for name, some in curves.items()}
    for name, some in final.items():
        tally.put(f"regret_{name}", float(np.mean(some)), "clicks", f"mean of {seeds} worlds")
    ratios = [ours / greedy for ours, greedy in zip(final["ours"], final["greedy"], strict=True)]
    tally.put("ratio_worst", max(ratios), "", "ours over ε-greedy's, the worst world", ("<=", 0.5))
    tally.put("ratio_mean", float(np.mean(ratios)), "", f"mean of {seeds} worlds")
    tally.put("worlds_met", sum(one <= 0.5 for one in ratios), "", f"of {seeds}", (">=", seeds))
    pairs = [ours <= 0.5 * greedy for ours, greedy in zip(single["ours"], single["greedy"], strict=True)]
    tally.put(
        "runs_met", float(np.mean(pairs)), "", "part of the single runs, each against one of ε-greedy's"
    )
    _kept(args.out, curves, views)
    return tally.result()


def _world(seed: int, customers: int, views: int) -> tuple[Ints, Floats]:
    """(views,) the segment of who comes by, (views, CREATIVES) the true chance of a click."""
    world = World.create(seed, customers, 300)
    rng = np.random.default_rng([seed, 99])
    at: list[Floats] = []
    who: list[Ints] = []
    day = 0
    while sum(len(one) for one in who) < views:
        visits = world.visits(day)
        who.append(visits.customers.astype(np.int64))
        at.append(visits.at)
        day += 1
    people, now = np.concatenate(who)[:views], np.concatenate(at)[:views]
    item = int(np.flatnonzero(world.catalogue.kind == KIND_CODE["activity"])[0])
    base = np.concatenate(
        [_chance(world, people[at : at + PART], now[at : at + PART], item) for at in range(0, views, PART)]
    )
    segment = world.customers.segment[people] + 1
    effect = rng.normal(0, OWN, CREATIVES) + rng.normal(0, WITHIN, (int(segment.max()) + 1, CREATIVES))
    hazard = -np.log1p(-np.clip(base, 1e-6, 0.9))
    return segment, -np.expm1(-hazard[:, None] * np.exp(effect[segment]))


def _chance(world: World, people: Ints, now: Floats, item: int) -> Floats:
    """(n,) P(clicked | on screen) of the item alone in the first banner."""
    pages = np.full((len(people), HOME.places), -1)
    pages[:, 0] = item
    chance: Floats = world.probabilities(people, pages, now).click[:, 0].astype(np.float64)
    return chance


def _ours(luck: Luck, cells: Ints, click: Floats, batch: int) -> Iterator[Ints]:
    for rng in luck:
        yield _told(rng, cells, click, batch)


def _plain(luck: Luck, cells: Ints, click: Floats, batch: int) -> Iterator[Ints]:
    """Without context."""
    return _ours(luck, np.zeros_like(cells), click, batch)


def _told(rng: np.random.Generator, cells: Ints, click: Floats, batch: int) -> Ints:
    """(views,) what the product's own versions draw: each a table of the last, or a new one."""
    n, k = click.shape
    seen, chosen, version = Seen.none([str(one) for one in range(k)]), np.zeros(n, np.int64), NOTHING_LEARNED
    warm, first = float(click.mean()), int(rng.integers(1 << 32))
    for number, start in enumerate(range(0, n, batch)):
        at = 60.0 * number
        version = learned({first: seen}, lambda _: warm, version, made_at=at, until=at)
        made = version.tables.get(first)
        some = slice(start, min(start + batch, n))
        if made is None:
            limits = np.tile(np.arange(1, k) / k, (len(cells[some]), 1))
        else:
            rows = np.full(CELLS, len(made.cells))
            rows[list(made.cells)] = np.arange(len(made.cells))
            limits = made.chances.cumsum(axis=1)[rows[cells[some]], :-1]
        arm = (rng.random(len(limits))[:, None] >= limits).sum(axis=1)
        reward = (rng.random(len(arm)) < click[some][np.arange(len(arm)), arm]).astype(np.float64)
        np.add.at(seen.shown, (arm, cells[some]), 1.0)
        np.add.at(seen.reward, (arm, cells[some]), reward)
        np.add.at(seen.squares, (arm, cells[some]), reward)
        chosen[some] = arm
    return chosen


def _apart(luck: Luck, cells: Ints, click: Floats, batch: int) -> Iterator[Ints]:
    """Beta posteriors, every segment to itself."""
    n, k = click.shape
    for rng in luck:
        won, lost = np.ones((CELLS, k)), np.full((CELLS, k), 1 / max(float(click.mean()), 1e-3) - 1)
        chosen = np.zeros(n, np.int64)
        for start in range(0, n, batch):
            some = slice(start, min(start + batch, n))
            here = cells[some]
            arm = rng.beta(won[here], lost[here]).argmax(axis=1)
            reward = rng.random(len(arm)) < click[some][np.arange(len(arm)), arm]
            np.add.at(won, (here, arm), reward)
            np.add.at(lost, (here, arm), ~reward)
            chosen[some] = arm
        yield chosen


def _greedy(luck: Luck, _cells: Ints, click: Floats, _batch: int) -> Iterator[Ints]:
    """ε-greedy over everybody, told after every view; all runs go along together."""
    n, k = click.shape
    runs = np.arange(len(luck))
    shown, won, rates = np.zeros((len(runs), k)), np.zeros((len(runs), k)), np.ones((len(runs), k))
    explore = np.stack([rng.random(n) < EPSILON for rng in luck], axis=1)
    arms = np.stack([rng.integers(0, k, n) for rng in luck], axis=1)
    chance = np.stack([rng.random(n) for rng in luck], axis=1)
    for at in range(n):
        arm = arms[at] = np.where(explore[at], arms[at], rates.argmax(axis=1))
        shown[runs, arm] += 1
        won[runs, arm] += chance[at] < click[at, arm]
        rates[runs, arm] = won[runs, arm] / shown[runs, arm]
    return iter(arms.T)


_POLICIES: Final[dict[str, Callable[[Luck, Ints, Floats, int], Iterator[Ints]]]] = {
    "ours": _ours, "greedy": _greedy, "no_context": _plain, "apart": _apart
}  # fmt: skip


def _kept(folder: Path, curves: dict[str, list[list[float]]], views: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figure: Any = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    named = {
        "ours": "bandit",
        "greedy": "ε-greedy 0.1",
        "no_context": "without context",
        "apart": "by segment",
    }
    for name, some in curves.items():
        lines = np.array(some)
        at = np.linspace(0, views, lines.shape[1])
        axes.plot(at, lines.mean(axis=0), label=named[name])
        axes.fill_between(at, lines.min(axis=0), lines.max(axis=0), alpha=0.15)
    axes.axhline(0, color="grey", linewidth=0.5)
    axes.set(xlabel="views", ylabel="clicks given up", title="regret against the best fixed creative")
    axes.legend()
    FigureCanvasAgg(figure)
    figure.savefig(folder / "bandit.png", dpi=120)
    (folder / "bandit.json").write_bytes(orjson.dumps({"views": views, "regret": curves}))
