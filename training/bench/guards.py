"""`fenliu bench guards`: what each guard before a page costs: keys, tokens, rates, traces. In CPU time.

fenliu bench guards --quick
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any, Final

from serving.principals import Identity
from training.bench.harness import Result
from training.bench.tally import Tally

ABOUT = "microseconds a request for checking a key or a token, holding to a rate, tracing"
ROUNDS: Final = 5
NOW: Final = 1_790_000_000.0
PATH: Final = "/v1/recommend/homepage"
APP_KEY: Final = "bench-app-key-0123456789"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, help="of each (20,000; with --quick 2,000)")


def run(args: argparse.Namespace) -> Result:
    calls = args.calls or (2_000 if args.quick else 20_000)
    tally = Tally()
    _keys(calls, tally)
    _tokens(calls, tally)
    asyncio.run(_rates(calls, tally))
    asyncio.run(_traces(calls, tally))
    return tally.result()


def _least_us(calls: int, once: Callable[[], object]) -> float:
    """Processor time of a call, the least of some rounds: company on the machine only adds."""
    return min(_spent(calls, once) for _ in range(ROUNDS)) / calls * 1e6


def _spent(calls: int, once: Callable[[], object]) -> float:
    began = time.process_time()
    for _ in range(calls):
        once()
    return time.process_time() - began


async def _least_awaited_us(calls: int, once: Callable[[], Awaitable[object]]) -> float:
    least = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(calls):
            await once()
        least = min(least, time.process_time() - began)
    return least / calls * 1e6


def _keys(calls: int, tally: Tally) -> None:
    from serving.principals import Principals, local_identity
    from serving.security import Access
    from serving.settings import Settings

    access = Access(Settings(app_key=APP_KEY), Nobody())
    us = _least_us(calls, lambda: access.identify(PATH, None, APP_KEY.encode()))
    tally.put("app_key_us", us, "µs", "", ("<=", 5.0))
    people, text = Principals().issue("ann", ["admin"], local_identity(), "2026-09-21T00:00:00Z")
    key = text.encode()
    us = _least_us(calls, lambda: people.identify(key, NOW))
    tally.put("principal_key_us", us, "µs", "BLAKE2b, constant time", ("<=", 20.0))


class Nobody:
    """A ring without principals."""

    def identify(self, token: bytes) -> Identity | None:  # noqa: ARG002 - it is nobody's
        return None

    def __bool__(self) -> bool:
        return False


def _tokens(calls: int, tally: Tally) -> None:
    from training.bench.fuzz_identity import provider

    tokens, known = provider(NOW)
    us = _least_us(calls, lambda: tokens.identify(known))
    tally.put("token_known_us", us, "µs", "a token met before: a digest and a look-up", ("<=", 5.0))
    us = _least_us(max(200, calls // 20), lambda: tokens._checked(known))
    tally.put("token_new_us", us, "µs", "Ed25519, once a token")


async def _rates(calls: int, tally: Tally) -> None:
    from features.rates import MemoryRates, RateTerms
    from serving.limits import Limits
    from serving.observe import Metrics

    terms = {"app": RateTerms(1_000_000.0, 1_000_000)}
    held = Limits(terms, MemoryRates(lambda: NOW), Metrics(), clock=lambda: NOW, monotonic=lambda: 1.0)
    us = await _least_awaited_us(min(calls, 10_000), lambda: held.admit("app"))
    tally.put("rate_us", us, "µs", "from a lease, without the store", ("<=", 5.0))


async def _traces(calls: int, tally: Tally) -> None:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    from serving.trace_terms import TraceTerms
    from serving.traces import Traces

    class Nowhere(SpanExporter):
        def export(self, spans: Sequence[Any]) -> SpanExportResult:  # noqa: ARG002 - dropped
            return SpanExportResult.SUCCESS

    headers = [(b"content-type", b"application/json"), (b"content-length", b"100"), (b"host", b"fenliu")]
    scope = {"type": "http", "method": "POST", "path": PATH, "headers": headers}
    bare = await _least_awaited_us(calls, lambda: _answer(scope, _nothing, _nothing))
    seconds = count()  # a new one each time it is asked: no bound on how many are followed

    def served(ratio: float) -> Callable[[], Awaitable[None]]:
        processor = BatchSpanProcessor(Nowhere())
        terms = TraceTerms("http://127.0.0.1:9/v1/traces", ratio)
        made = Traces(terms, processor=processor, monotonic=lambda: float(next(seconds)))
        return lambda: made.serve(_answer, lambda _scope: PATH, scope, _nothing, _nothing)

    us = await _least_awaited_us(calls, served(0.0))
    tally.put("trace_unsampled_us", us - bare, "µs", "without FENLIU_TRACES: one `is None`", ("<=", 10.0))
    us = await _least_awaited_us(calls, served(1.0))
    tally.put("trace_sampled_us", us - bare, "µs", "one span handed to the batch; one page in a hundred")


async def _answer(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})


async def _nothing(_message: Any = None) -> Any:
    """Of a connection that says and takes nothing."""
