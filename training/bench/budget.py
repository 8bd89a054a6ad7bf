"""`fenliu bench budget`: where a replica's processor time goes, page by page: the budget table, measured.

The product's own ASGI application in this process, over the embedded store, asked by so many requests at once;
no HTTP server and no proxy around it. Every stage is charged with its own time (`stopwatch`), the rest is the
event loop's and the coroutines' between them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from training.bench.harness import Bar, Result

if TYPE_CHECKING:
    from serving.front import Front
    from training.bench.serve_world import Served
    from training.bench.stopwatch import Target

ABOUT = "where a replica's processor time goes: µs a page by stage, in process, beside the budget"
BUDGET: Final[Mapping[str, float]] = {
    "parse + auth": 8, "store read": 12, "decide": 147, "reserve": 15, "token": 15, "bytes": 20,
    "served record": 10,
}  # fmt: skip
"""ARCHITECTURE's page budget, µs; `decide` is everything from audiences to exploring."""
SHELL: Final = 100.0  # µs a page around the decision


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--customers", type=int, default=20_000, help="customers in the store")
    parser.add_argument("--together", type=int, default=16, help="requests at once")
    parser.add_argument("--pages", type=int, default=1_600, help="pages a turn")
    parser.add_argument("--turns", type=int, default=5)


@dataclass(frozen=True, slots=True)
class Measured:
    """µs of a page: the whole (processor, stages untimed), each stage, calls of each stage a page."""

    whole: float
    stages: Mapping[str, float]
    calls: Mapping[str, float]


def run(args: argparse.Namespace) -> Result:
    from training.bench.serve_world import Sizes, opened

    console = Console()
    turns, pages = (3, args.pages // 2) if args.quick else (args.turns, args.pages)
    with opened(console, Sizes(customers=args.customers)) as served:
        found = asyncio.run(measured(served, args.together, pages, turns, console))
    show(console, found)
    figures = {"us_page": found.whole, "us_shell": found.whole - found.stages["decide"]}
    figures |= {
        f"us_{name.replace(' + ', '_').replace(' ', '_')}": took for name, took in found.stages.items()
    }
    bars: dict[str, Bar] = {"us_shell": ("<=", SHELL)}
    note = f"{args.together} requests at once, stages untimed"
    return Result(figures, bars, dict.fromkeys(figures, "µs"), {"us_page": note})


async def measured(served: Served, together: int, pages: int, turns: int, console: Console) -> Measured:
    """The best of several turns; timed and untimed ones by turns over the same pages."""
    from serving.front import Front
    from training.bench.stopwatch import Stopwatch

    app = Front(served.settings)
    await app.startup()
    try:
        asks = served.requests_asgi(pages)
        await asked(app, asks[:400], together)
        whole = float("inf")
        best: dict[str, float] = {}
        with Stopwatch(stages()) as watch:
            await asked(app, asks[:100], together)
        calls: dict[str, float] = {}
        for _ in track(range(turns), "deciding", console=console):
            gc.collect()
            began = process_time()
            await asked(app, asks, together)
            whole = min(whole, (process_time() - began) / len(asks) * 1e6)
            watch.reset()
            with watch:
                began = perf_counter()
                await asked(app, asks, together)
                took = perf_counter() - began
            turn = {stage: seconds / len(asks) * 1e6 for stage, seconds in watch.seconds.items()}
            turn["between"] = took / len(asks) * 1e6 - sum(turn.values())
            calls = {stage: count / len(asks) for stage, count in watch.calls.items()}
            for stage, cost in turn.items():
                best[stage] = min(best.get(stage, float("inf")), cost)
        return Measured(whole, best, calls)
    finally:
        await app.shutdown()


def stages() -> dict[str, list[Target]]:
    """What is charged to which stage."""
    from features import redis_resp, redis_store
    from serving import observe, publisher, recommender, tallying, web, wire

    return {
        "parse + auth": [
            (web.App, "_route"), (web.App, "_who"), (wire, "parse_json"), (wire, "parse"),
            (recommender, "identity_of"), (recommender, "surface_of"), (web, "headers_of"),
        ],
        "store read": [
            (recommender.Recommender, "_read"), (redis_store.Fetcher, "_send"),
            (redis_resp._Protocol, "data_received"), (redis_resp.RespLink, "flush"),
        ],
        "query": [(recommender.Recommender, "_query")],
        "decide": [(recommender.Recommender, "_down_the_ladder")],
        "reserve": [(recommender.Recommender, "_granted")],
        "token": [(recommender.Recommender, "_token")],
        "bytes": [(recommender.Recommender, "_body")],
        "note": [(recommender.Recommender, "_note"), (observe.Metrics, "request")],
        "served record": [(publisher.Publisher, "flush")],
        "tallying": [(tallying.Tallying, "add")],
    }  # fmt: skip


async def asked(app: Front, requests: Sequence[Any], together: int) -> None:
    """All of them, so many at a time. RuntimeError for any answer but a page."""
    turn = iter(requests)

    async def client() -> None:
        for scope, body in turn:
            await _one(app, dict(scope), body)

    async with asyncio.TaskGroup() as group:
        for _ in range(together):
            group.create_task(client())


async def _one(app: Front, scope: dict[str, Any], body: bytes) -> None:
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    if statuses != [200]:
        raise RuntimeError(f"a page request was answered {statuses}")


def show(console: Console, found: Measured) -> None:
    table = Table(title="µs of processor a page")
    for column in ("stage", "measured", "budget", "calls"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, took in found.stages.items():
        budget, calls = BUDGET.get(stage), found.calls.get(stage)
        table.add_row(
            stage,
            f"{took:.1f}",
            f"{budget:.0f}" if budget else "",
            f"{calls:.2f}" if calls is not None else "",
        )
    table.add_row("page, untimed", f"{found.whole:.1f}", f"{sum(BUDGET.values()):.0f}", "", style="bold")
    console.print(table)
