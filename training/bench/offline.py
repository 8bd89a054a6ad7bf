"""`fenliu bench offline`: lists of customers, in one call and offline: customers a second, and scaling."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from typing import TYPE_CHECKING, Any, Final

from training.bench.harness import Result
from training.bench.tally import Tally
from training.progress import wide_console

if TYPE_CHECKING:
    from training.bench.serve_world import Served

ABOUT = "pages of lists of customers: POST /v1/recommend:batch, and offline over Ray with more processes"
PART: Final = 500
BATCH: Final = "/v1/recommend:batch"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--customers", type=int, default=argparse.SUPPRESS, help="20,000; with --quick 4,000")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="at most")


def run(args: argparse.Namespace) -> Result:
    from training.bench.serve_world import Sizes, customer_id, opened

    console, tally = wide_console(), Tally()
    many = getattr(args, "customers", 4_000 if args.quick else 20_000)
    with opened(console, Sizes(customers=many)) as served:
        users = [customer_id(number) for number in range(many)]
        rate = asyncio.run(_called(served, users))
        tally.put(
            "batch_call_per_s", rate, "customers/s", "POST /v1/recommend:batch, one process, in process"
        )
        rates: dict[int, float] = {}
        counts = sorted({1, *(2**power for power in range(1, 8)), args.processes})
        for processes in [one for one in counts if one <= args.processes]:
            rates[processes] = _offline(served, users, processes)
            console.print(f"{processes} processes: {rates[processes]:,.0f} customers/s")
            tally.put(f"offline_{processes}_per_s", rates[processes], "customers/s")
        most = max(rates)
        if most > 1:
            note = f"of {most} processes over one, each with Ray; 1 would be perfect"
            tally.put("scaling", rates[most] / rates[1] / most, "", note)
    return tally.result()


async def _called(served: Served, users: list[str]) -> float:
    """Calls of 1,000 customers each to the ASGI application in this process."""
    import orjson

    from serving.front import Front

    app = Front(served.settings)
    await app.startup()
    try:
        began = time.perf_counter()
        lines = 0
        for at in range(0, len(users), 1_000):
            body = orjson.dumps({"user_ids": users[at : at + 1_000], "context": {"channel": "push"}})
            lines += await _lines(app, body, served.headers)
        took = time.perf_counter() - began
    finally:
        await app.shutdown()
    if lines != len(users):
        raise RuntimeError(f"{len(users)} pages were asked for and {lines} came")
    return len(users) / took


async def _lines(app: Any, body: bytes, keys: dict[str, str]) -> int:
    waiting = [{"type": "http.request", "body": body, "more_body": False}]
    lines = 0

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        await asyncio.Event().wait()  # the client stays
        raise RuntimeError("not reached")

    async def send(message: dict[str, Any]) -> None:
        nonlocal lines
        lines += message.get("body", b"").count(b"\n")

    headers = [(b"content-type", b"application/json"), *((k.encode(), v.encode()) for k, v in keys.items())]
    scope = {"type": "http", "method": "POST", "path": BATCH, "query_string": b"", "headers": headers}
    await app(scope, receive, send)
    return lines


def _offline(served: Served, users: list[str], processes: int) -> float:
    """Over Ray also for one process, so that what is compared is the number of them."""
    from serving.app import spread
    from serving.offline import decided, parts, public
    from serving.wire import BatchAsk, parse

    ask = parse(BatchAsk, {"user_ids": users[:1], "context": {"channel": "push"}, "request_id": "bench"})
    settings = public(served.settings)
    with spread(processes) as mapped:
        warm = ((settings, part) for part in parts(ask, users[: 20 * processes], 20))
        list(mapped(decided, warm))  # workers start and open what is live: once, however long the list
        began = time.perf_counter()
        lines = sum(
            made.count(b"\n")
            for made in mapped(decided, ((settings, part) for part in parts(ask, users, PART)))
        )
        took = time.perf_counter() - began
    if lines != len(users):
        raise RuntimeError(f"{len(users)} pages were asked for and {lines} came")
    return lines / took
