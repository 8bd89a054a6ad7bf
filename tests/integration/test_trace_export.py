"""Spans as a collector gets them: OTLP over HTTP, in batches, sent at the latest when the service stops."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from serving.front import Front
from serving.trace_terms import TraceTerms
from tests.shell import run, running

pytestmark = pytest.mark.integration


class Collector(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, str | None, bytes]] = []


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.got.append((self.path, self.headers["content-type"], body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_given: Any) -> None: ...


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


def test_a_collector_gets_the_spans_of_pages_in_few_requests(collector: Collector) -> None:
    terms = TraceTerms(f"http://127.0.0.1:{collector.server_port}/v1/traces", 1.0)

    async def story() -> None:
        async with running(app=Front, settings={"traces": terms}) as shell:
            for number in range(5):
                await shell.page(user=f"secret-{number}", request_id=f"r{number}")

    run(story)
    assert 1 <= len(collector.got) <= 2
    spans = []
    for path, kind, body in collector.got:
        assert (path, kind) == ("/v1/traces", "application/x-protobuf") and b"secret" not in body
        for of in ExportTraceServiceRequest.FromString(body).resource_spans:
            assert {"service.name": "fenliu"}.items() <= {
                one.key: one.value.string_value for one in of.resource.attributes
            }.items()
            spans += [span for scope in of.scope_spans for span in scope.spans]
    names = [span.name for span in spans]
    assert names.count("POST /v1/recommend") == names.count("decide") == names.count("store read") == 5
