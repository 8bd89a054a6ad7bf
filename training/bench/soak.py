"""`fenliu bench soak`: memory of a replica beside an empty one, and its growth at half of its load.

On Ray Serve, with as many items and campaigns as it is to hold. From a quarter of the time on (minute 5 of
20) it may grow by less than 2 %.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import Progress

from training.bench.harness import Result
from training.bench.tally import Tally
from training.progress import wide_console

if TYPE_CHECKING:
    from training.bench.volley import Volley

ABOUT = (
    "memory: a replica with 100,000 items and 2,000 campaigns beside an empty one, and its growth under load"
)
SETTLED: Final = 0.25  # of the time: what is cached was cached by then
EVERY_S: Final = 5.0


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=argparse.SUPPRESS, help="20; with --quick 0.75")
    parser.add_argument("--items", type=int, default=argparse.SUPPRESS, help="100,000; with --quick 20,000")
    parser.add_argument("--campaigns", type=int, default=2_000, help="live campaigns")
    parser.add_argument("--customers", type=int, default=20_000, help="customers in the store")
    parser.add_argument("--plot", type=Path, default=None, metavar="FILE", help="a PNG of the memory")


def run(args: argparse.Namespace) -> Result:
    from serving.app import add_application, serve_ray
    from training.bench.empty import Empty
    from training.bench.processes import rss_mb
    from training.bench.serve_world import HOMEPAGE, Sizes, opened
    from training.bench.volley import Target, Volley

    minutes = getattr(args, "minutes", 0.75 if args.quick else 20.0)
    items = getattr(args, "items", 20_000 if args.quick else 100_000)
    console, tally = wide_console(), Tally()
    sizes = Sizes(customers=args.customers, items=items, campaigns=args.campaigns)
    with opened(console, sizes) as served:
        target = Target(served.settings.host, served.settings.port, served.requests(20_000, HOMEPAGE, 1_000))
        with Volley({"ours": target}) as volley, serve_ray(served.settings):
            add_application(Empty, "empty", "/empty", served.settings)
            empty, fresh = rss_mb("ServeReplica:empty:"), rss_mb("ServeReplica:pages:")
            knee = volley.closed("ours", connections=16, seconds=5.0, warm_up=5.0).rate
            console.print(
                f"a replica: {fresh:.0f} MB after loading, an empty one {empty:.0f} MB; {knee:.0f}/s"
            )
            at, memory, failed = _soaked(volley, knee / 2, minutes * 60, console)
    settled = memory[next(i for i, t in enumerate(at) if t >= SETTLED * at[-1])]
    note = f"{items:,} items, {args.campaigns:,} campaigns, {memory[-1]:.0f} MB against {empty:.0f} MB"
    tally.put("beyond_empty_mb", memory[-1] - empty, "MB", note, ("<=", 400.0))
    tally.put("loaded_mb", fresh - empty, "MB", "the same before the first page")
    growth = (memory[-1] / settled - 1) * 100
    tally.put("growth_percent", growth, "%", f"in the last three quarters of {minutes:g} min", ("<=", 2.0))
    tally.put("rate_per_s", knee / 2, "pages/s", "half of what it can take")
    tally.put("failed", failed, "requests", "", ("<=", 0.0))
    if args.plot is not None:
        _plot(args.plot, at, memory, empty)
    return tally.result()


def _soaked(
    volley: Volley, rate: float, seconds: float, console: Console
) -> tuple[list[float], list[float], int]:
    """Times (s), resident memory (MB) at each, failed requests."""
    from training.bench.processes import rss_mb

    at: list[float] = []
    memory: list[float] = []
    failed = 0
    began = time.perf_counter()
    with Progress(console=console) as progress:
        bar = progress.add_task("soaking", total=seconds)
        while (now := time.perf_counter() - began) < seconds:
            outcome = volley.open("ours", rate=rate, seconds=min(EVERY_S, max(1.0, seconds - now))).result()
            failed += outcome.failed
            at.append(time.perf_counter() - began)
            memory.append(rss_mb("ServeReplica:pages:"))
            progress.update(bar, completed=at[-1], description=f"soaking, {memory[-1]:.0f} MB")
    return at, memory, failed


def _plot(path: Path, at: list[float], memory: list[float], empty: float) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(8, 4))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([one / 60 for one in at], memory, label="a replica")
    axes.axhline(empty, color="grey", linestyle=":", label="an empty one")
    axes.set(xlabel="minutes", ylabel="resident MB", title="memory at half of the load", ylim=(0, None))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
