"""A provider's keys over HTTP: fetched, refused where they are not what they should be, never elsewhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from serving.jwks import FLOOR_S, LIMIT, Jwks
from serving.oidc_terms import OidcTerms
from tests.unit.test_oidc import AUDIENCE, ISSUER, jwks

pytestmark = pytest.mark.integration


class Provider(ThreadingHTTPServer):
    daemon_threads = True
    answer: tuple[int, bytes, dict[str, str]] = (200, b"", {})
    asked = 0


class Handler(BaseHTTPRequestHandler):
    server: Provider

    def do_GET(self) -> None:
        self.server.asked += 1
        status, body, headers = self.server.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_given: Any) -> None: ...


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


def test_keys_are_fetched_and_nothing_else_is_believed(provider: Provider) -> None:
    now = 0.0
    url = f"http://127.0.0.1:{provider.server_port}/jwks"
    keys = Jwks(OidcTerms(issuer=ISSUER, audience=AUDIENCE, keys=url), monotonic=lambda: now)
    provider.answer = (200, jwks("k1"), {})
    assert keys.refresh() and list(keys.keys) == ["k1"] and not keys.refresh() and provider.asked == 1
    elsewhere = {"location": f"{url}/other"}
    huge = json.dumps({"keys": [], "pad": "x" * LIMIT}).encode()
    for answer in ((302, b"", elsewhere), (200, huge, {}), (500, jwks("k2"), {}), (200, b"<html>", {})):
        provider.answer, before = answer, provider.asked
        keys.find("k2")  # a token of a key that is not known: the keys are asked for, once
        now += FLOOR_S
        assert not keys.refresh() and list(keys.keys) == ["k1"] and keys.problem
        assert provider.asked == before + 1
    provider.answer = (200, jwks("k2"), {})
    now += FLOOR_S
    assert keys.refresh() and list(keys.keys) == ["k2"] and not keys.problem
