"""Traces of requests by OpenTelemetry: one span a request, with a child for each main stage of a page.

Which requests are recorded is drawn before anything of OpenTelemetry runs, so that the others cost a draw;
a sampled `traceparent` of the caller is followed (W3C Trace Context), up to `MOST_PER_S`, because whoever
sends one has not shown a key yet. Spans leave in batches from a thread of the exporter's own; when the
collector is away they are dropped, and no request notices.

Nothing of a customer is recorded: routes and not paths, no subject, no body, no address; the decision id
names the page for `GET /v1/decisions/{id}`, which asks for a key.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from features.customer import Blobs
from serving.asgi import Message, Receive, Scope, Send, headers_of
from serving.asked import Asked
from serving.domain import Decision, Query
from serving.intake import Taken
from serving.json_log import DECISION
from serving.placed import Columns
from serving.recommender import Recommender
from serving.stage_times import DECIDE, EVENTS, REMEMBER, RESERVE, STORE_READ, WRITE
from serving.trace_terms import TraceTerms

MOST_PER_S: Final = 200
QUEUE: Final = 2048
EXPORT_S: Final = 2.0
_TRACER: ContextVar[Tracer | None] = ContextVar("tracer", default=None)
_W3C: Final = TraceContextTextMapPropagator()

Serve = Callable[[Scope, Receive, Send], Awaitable[None]]


class Traces:
    """Of one process. `processor` replaces the exporter in tests; `draw` gives numbers from 0 to 1."""

    def __init__(
        self,
        terms: TraceTerms,
        *,
        processor: SpanProcessor | None = None,
        draw: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ratio, self._draw, self._monotonic = terms.ratio, draw, monotonic
        self._second, self._followed = 0, 0
        resource = Resource.create({"service.name": "fenliu"})
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor or _exporting(terms.endpoint))
        self._tracer = self._provider.get_tracer("fenliu")

    async def serve(
        self, serve: Serve, named: Callable[[Scope], str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer one request by `serve`, recorded or not. `named` gives the route's name."""
        headers = headers_of(scope)
        parent = headers.get(b"traceparent")
        carrier = {} if parent is None else {"traceparent": parent.decode("latin-1")}
        if parent is not None and (state := headers.get(b"tracestate")) is not None:
            carrier["tracestate"] = state.decode("latin-1")
        context = _W3C.extract(carrier)
        upstream = get_current_span(context).get_span_context()
        wanted = upstream.trace_flags.sampled if upstream.is_valid else self._draw() < self._ratio
        if not wanted or not self._room():
            await serve(scope, receive, send)
            return
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        DECISION.set(None)
        token = _TRACER.set(self._tracer)
        route = named(scope)
        try:
            with self._tracer.start_as_current_span(
                f"{scope['method'][:20]} {route}",
                context=context,
                kind=SpanKind.SERVER,
                attributes={"http.request.method": scope["method"][:20], "http.route": route},
                record_exception=False,
            ) as span:
                await serve(scope, receive, noted)
                _finished(span, status)
        finally:
            _TRACER.reset(token)

    def _room(self) -> bool:
        second = int(self._monotonic())
        if second != self._second:
            self._second, self._followed = second, 0
        self._followed += 1
        return self._followed <= MOST_PER_S

    def close(self) -> None:
        """Send what is left, for `EXPORT_S` at most. Blocking."""
        self._provider.force_flush(int(EXPORT_S * 1000))
        self._provider.shutdown()


def _finished(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if (decision := DECISION.get()) is not None:
        span.set_attribute("fenliu.decision_id", decision)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))


def _exporting(endpoint: str) -> SpanProcessor:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_S)
    return BatchSpanProcessor(exporter, max_queue_size=QUEUE, export_timeout_millis=EXPORT_S * 1000)


@contextmanager
def stage(name: str) -> Iterator[Span | None]:
    """A child span in a request that is recorded; nothing in others."""
    tracer = _TRACER.get()
    if tracer is None:
        yield None
        return
    with tracer.start_as_current_span(name, record_exception=False) as span:
        yield span


class TracedRecommender(Recommender):
    """The recommender with its stages as spans; made in its place where traces are on."""

    async def _events(self, asked: Asked) -> Taken | None:
        if not asked.ask.events:
            return await super()._events(asked)
        with stage(EVENTS):
            return await super()._events(asked)

    async def _read(self, asked: Asked, taken: Taken | None) -> tuple[Blobs, bytes | None, bytes]:
        with stage(STORE_READ):
            return await super()._read(asked, taken)

    async def _decided(self, asked: Asked, query: Query) -> Decision:
        with stage(DECIDE) as span:
            decision = await super()._decided(asked, query)
            if span is not None:
                span.set_attribute("fenliu.effort", decision.effort)
                span.set_attribute("fenliu.degraded", list(decision.degraded))
                span.set_attribute("fenliu.places", len(decision.placements))
            return decision

    async def _granted(self, asked: Asked, decision: Decision, attempt: int) -> Decision:
        with stage(RESERVE):
            return await super()._granted(asked, decision, attempt)

    def _body(self, asked: Asked, decision: Decision, columns: Columns, taken: Taken | None) -> bytes:
        with stage(WRITE):
            return super()._body(asked, decision, columns, taken)

    async def _remember(self, asked: Asked, *given: Any) -> tuple[bytes, int]:
        with stage(REMEMBER):
            return await super()._remember(asked, *given)
