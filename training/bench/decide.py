"""`fenliu bench decide`: what one decision costs, in process and alone: µs of processor a page.

`decide()` is the product's own, with nothing around it: no network, no store, no bytes. The sizes grow one at
a time from the homepage (6 slots, 40 places, 3,000 items, 200 campaigns, 32 live events a customer), so that
what grows with what can be read off; every figure is the best of several turns over the same pages, measured
in turns with the others, so that company on the machine disturbs all alike.
"""

from __future__ import annotations

import argparse
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

from training.bench.harness import Bar, Result
from training.progress import wide_console

if TYPE_CHECKING:
    from serving.domain import Effort, Query
    from serving.live import Live

ABOUT = "the decision alone: µs a page by stage, against catalogue, campaigns, slots and live history"
ROUNDS: Final = 9


class Size(NamedTuple):
    """One setting: what is decided on."""

    items: int = 3_000
    campaigns: int = 200
    slots: int = 6
    history: int = 32
    effort: Effort = "full"

    @property
    def label(self) -> str:
        return "_".join(
            f"{name}{value}" for name, value in zip(self._fields, self, strict=True) if value != _OF[name]
        )


_OF: Final = Size()._asdict()
HOME: Final = Size()
QUICK: Final = (HOME, Size(campaigns=0), Size(campaigns=20), Size(campaigns=2_000), Size(effort="light"))
FULL: Final = (
    *QUICK,
    *(Size(items=items) for items in (1_000, 10_000, 100_000)),
    Size(slots=20),
    *(Size(history=history) for history in (0, 8, 64)),
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pages", type=int, default=128, help="pages decided a turn")
    parser.add_argument("--seed", type=int, default=2026)


def run(args: argparse.Namespace) -> Result:
    from training.bench.decide_world import live_of, queries

    console = wide_console()
    sizes = QUICK if args.quick else FULL
    worlds: list[tuple[Size, Live, list[Query]]] = []
    kept: dict[tuple[int, int, int], Live] = {}
    for size in track(sizes, "making worlds", console=console):
        key = (size.items, size.campaigns, size.slots)
        kept.setdefault(key, live_of(*key, seed=args.seed))
        worlds.append((size, kept[key], queries(kept[key], args.pages, size.history, args.seed)))
    best, steps, beside = _measured(worlds, console)
    _show(console, sizes, best, steps, beside)
    figures = {f"us_{size.label or 'home'}": best[size] for size in sizes}
    figures |= {f"us_home_{stage}": cost for stage, cost in steps[HOME].items()}
    figures["us_home_together"] = beside[HOME]
    figures["us_light_together"] = beside[Size(effort="light")]
    figures["campaigns_2000_over_20"] = best[Size(campaigns=2_000)] / best[Size(campaigns=20)]
    market = {n: _from_campaigns(steps[Size(campaigns=n)]) for n in (20, 2_000)}
    figures["campaign_stages_2000_over_20"] = market[2_000] / market[20]
    bars: dict[str, Bar] = {
        "us_home": ("<=", 400),
        "us_home_together": ("<=", 150),
        "campaigns_2000_over_20": ("<=", 1.3),
    }
    if Size(items=100_000) in best:
        figures["items_100000_over_3000"] = best[Size(items=100_000)] / best[HOME]
        bars["items_100000_over_3000"] = ("<=", 2.5)
    return Result(
        figures,
        bars,
        {name: "µs" for name in figures if name.startswith("us_")},
        {
            "us_home": "6 slots, 40 places, 3,000 items, 200 campaigns, 32 live events, one at a time",
            "us_home_together": "as a replica takes those that wait at once: side by side, eight at a time",
            "campaigns_2000_over_20": "the whole decision",
            "campaign_stages_2000_over_20": "who runs, market and allocation alone",
        },
    )


def _from_campaigns(steps: dict[str, float]) -> float:
    return sum(cost for stage, cost in steps.items() if stage in ("Offering", "market", "allocate"))


def _measured(
    worlds: list[tuple[Size, Live, list[Query]]], console: Console
) -> tuple[dict[Size, float], dict[Size, dict[str, float]], dict[Size, float]]:
    """(µs of processor a page; wall µs a page by stage; as the first, side by side), each the best of ROUNDS
    turns.
    """
    from serving.decide import decide, deciding
    from serving.pipeline import Trace
    from serving.stepping import side_by_side
    from serving.together import MOST

    best = {size: float("inf") for size, *_ in worlds}
    beside = {size: float("inf") for size, *_ in worlds}
    steps: dict[Size, dict[str, float]] = {size: {} for size, *_ in worlds}
    for _ in track(range(ROUNDS), "deciding", console=console):
        for size, live, asked in worlds:
            began = process_time()
            for query in asked:
                decide(query, live, size.effort)
            best[size] = min(best[size], (process_time() - began) / len(asked) * 1e6)
            began = process_time()
            for at in range(0, len(asked), MOST):  # as a replica takes those that wait
                side_by_side([deciding(query, live, size.effort) for query in asked[at : at + MOST]])
            beside[size] = min(beside[size], (process_time() - began) / len(asked) * 1e6)
            turn: dict[str, float] = {}
            for query in asked:
                trace = Trace(perf_counter)
                decide(query, live, size.effort, trace=trace)
                for stage, _, seconds in trace.steps:
                    turn[stage] = turn.get(stage, 0.0) + seconds / len(asked) * 1e6
            for stage, cost in turn.items():
                steps[size][stage] = min(steps[size].get(stage, float("inf")), cost)
    return best, steps, beside


def _show(
    console: Console, sizes: tuple[Size, ...], best: dict[Size, float],
    steps: dict[Size, dict[str, float]], beside: dict[Size, float],
) -> None:  # fmt: skip
    stages = list(dict.fromkeys(stage for size in sizes for stage in steps[size]))
    table = Table(title="µs a page: processor, and by stage (wall)")
    table.add_column("")
    for size in sizes:
        table.add_column(size.label.replace("_", " ") or "home", justify="right")
    table.add_row("all", *(f"{best[size]:.0f}" for size in sizes), style="bold")
    table.add_row("side by side", *(f"{beside[size]:.0f}" for size in sizes))
    table.add_row("× home", *(f"{best[size] / best[HOME]:.2f}" for size in sizes), end_section=True)
    for stage in stages:
        table.add_row(stage, *(f"{steps[size].get(stage, 0):.0f}" for size in sizes))
    console.print(table)
