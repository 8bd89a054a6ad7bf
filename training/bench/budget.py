"""`fenliu bench budget`: where a replica's processor time goes, page by page: the budget table, measured.

The product's own ASGI application in this process, over the embedded store, asked by so many requests at
once; no HTTP server and no proxy around it. Every stage is charged with its own time (`stopwatch`); the rest
is the event loop's and the coroutines' between them. The watch costs time itself, so the whole page is also
measured without it, and the shell alone: with decisions that were made before.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import process_time, thread_time
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from training.bench.harness import Bar, Result
from training.progress import wide_console

if TYPE_CHECKING:
    from serving.domain import Decision, Query
    from serving.front import Front
    from serving.live import Live
    from serving.stepping import Steps
    from training.bench.serve_world import Served
    from training.bench.stopwatch import Target

ABOUT = "where a replica's processor time goes: µs a page by stage, in process, beside the budget"
BUDGET: Final[Mapping[str, float]] = {
    "parse + auth": 8, "store read": 12, "decide": 147, "reserve": 15, "token": 15, "bytes": 20,
    "served record": 10,
}  # fmt: skip
"""ARCHITECTURE's page budget, µs; `decide` is everything from audiences to exploring."""
BURST: Final = 64  # pages timed at once: short enough that the least disturbed of many is hardly disturbed
SHELL: Final = 100.0  # µs a page around the decision


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--customers", type=int, default=20_000, help="customers in the store")
    parser.add_argument("--campaigns", type=int, default=200, help="live campaigns")
    parser.add_argument("--together", type=int, default=16, help="requests at once")
    parser.add_argument("--pages", type=int, default=800, help="pages a turn")
    parser.add_argument("--turns", type=int, default=15)


@dataclass(frozen=True, slots=True)
class Measured:
    """µs of a page, processor time: the whole and the shell alone, both without the watch; each stage under
    it; calls of each stage a page.
    """

    whole: float
    shell: float
    store: float  # of the store's own process
    stages: Mapping[str, float]
    calls: Mapping[str, float]


def run(args: argparse.Namespace) -> Result:
    from training.bench.serve_world import Sizes, opened

    console = wide_console()
    turns, pages = (6, args.pages // 2) if args.quick else (args.turns, args.pages)
    with opened(console, Sizes(customers=args.customers, campaigns=args.campaigns)) as served:
        found = asyncio.run(measured(served, args.together, pages, turns, console))
    show(console, found)
    figures = {"us_page": found.whole, "us_shell": found.shell, "us_store": found.store}
    figures |= {
        f"us_{name.replace(' + ', '_').replace(' ', '_')}": took for name, took in found.stages.items()
    }
    bars: dict[str, Bar] = {"us_shell": ("<=", SHELL)}
    note = f"{args.together} requests at once, without the watch"
    return Result(figures, bars, dict.fromkeys(figures, "µs"), {"us_page": note})


async def measured(served: Served, together: int, pages: int, turns: int, console: Console) -> Measured:
    """The least disturbed of several turns; timed and untimed ones by turns over the same pages."""
    from serving import heap
    from serving.front import Front
    from serving.service import Service
    from training.bench.stopwatch import Stopwatch

    canned = Canned()
    app = Front(served.settings, Service(served.settings, deciding=canned))
    await app.startup()
    try:
        asks = served.requests_asgi(pages)
        await asked(app, asks[:400], together)
        heap.settle()
        whole = shell = least = float("inf")
        best: dict[str, float] = {}
        calls: dict[str, float] = {}
        watch = Stopwatch(stages())
        pages, began = 0, _store_s(served)
        bursts = [asks[at : at + BURST] for at in range(0, len(asks) - BURST + 1, BURST)]
        for _ in track(range(turns), "deciding", console=console):
            for burst in bursts:
                canned.again = False
                whole = min(whole, await _burst(app, burst, together, process_time))
                canned.again = True
                shell = min(shell, await _burst(app, burst, together, process_time))
                canned.again = False
                watch.reset()
                with watch:
                    took = await _burst(app, burst, together, thread_time)
                pages += 3 * len(burst)
                if took < least:  # the burst that was disturbed least, whole
                    least = took
                    best = {stage: seconds / len(burst) * 1e6 for stage, seconds in watch.seconds.items()}
                    best["between"] = took - sum(best.values())
                    calls = {stage: count / len(burst) for stage, count in watch.calls.items()}
        return Measured(whole, shell, (_store_s(served) - began) / pages * 1e6, best, calls)
    finally:
        await app.shutdown()


def _store_s(served: Served) -> float:
    """Seconds of processor that the store's process has taken."""
    from features.redis_plain import opened

    with opened(served.settings.live_url or "") as store:
        spent = store.info("cpu")
    return float(spent["used_cpu_user"] + spent["used_cpu_sys"])


async def _burst(app: Front, asks: Sequence[Any], together: int, clock: Callable[[], float]) -> float:
    """µs a page, the served records and tallies of these pages among it."""
    began = clock()
    await asked(app, asks, together)
    await app.service.publisher.flush()
    return (clock() - began) / len(asks) * 1e6


class Canned:
    """deciding(), and its decisions given `again`: the next request of the same customer is the same page."""

    def __init__(self) -> None:
        self.again = False
        self._made: dict[str, Decision] = {}

    def __call__(self, query: Query, live: Live, *rest: Any) -> Steps[Decision]:
        from serving.decide import deciding

        if self.again and (made := self._made.get(query.subject)) is not None:
            return replace(made, query=query)
        made = self._made[query.subject] = yield from deciding(query, live, *rest)
        return made


def stages() -> dict[str, list[Target]]:
    """What is charged to which stage."""
    from features import leases, redis_resp, redis_store
    from serving import observe, pacer, publisher, recommender, reload, tallying, together, web, wire

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
        "decide": [(together.Together, "_turn")],
        "reserve": [(recommender.Recommender, "_granted")],
        "token": [(recommender.Recommender, "_token")],
        "bytes": [(recommender.Recommender, "_body")],
        "note": [(recommender.Recommender, "_note"), (observe.Metrics, "request")],
        "served record": [(publisher.Publisher, "flush")],
        "tallying": [(tallying.Tallying, "add"), (tallying.Tallying, "_drained")],
        "pacing": [(pacer.Pacer, "step"), (leases.Leases, "renew"), (reload.Reloader, "poll")],
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
    said = b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal said
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
        else:
            said = message["body"]

    await app(scope, receive, send)
    if statuses != [200]:
        raise RuntimeError(f"a page request was answered {statuses}: {said[:300]!r}")


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
    table.add_row("the shell alone", f"{found.shell:.1f}", f"{SHELL:.0f}", "", style="bold")
    table.add_row("the store's process", f"{found.store:.1f}", "", "")
    table.add_row("the whole page", f"{found.whole:.1f}", f"{sum(BUDGET.values()):.0f}", "", style="bold")
    console.print(table)
