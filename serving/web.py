"""The ASGI application: routes, limits, errors. It knows HTTP and nothing of how a page is decided.

One object serves under uvicorn, under Ray Serve and in tests. Every answer that is not a success is
problem+json; bad input never reaches a 500, and no traceback leaves the process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_to_bytes

from features.log import LogFull
from features.store import StoreUnavailable
from serving.errors import PROBLEM_JSON, Header, Problem
from serving.handlers import JSON, Answer, Request, Route, routes
from serving.security import AppKey
from serving.service import Service
from serving.settings import Settings

LOG: Final = logging.getLogger("fenliu.web")
REQUEST_ID_KEY: Final = "fenliu.request_id"
"""A server that makes up request ids puts the client's own one (or None) here: only that one makes a
retry.
"""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


BODY_S: Final = 10.0  # a body that has not come whole by then is not waited for


class Disconnected(Exception):
    """The client went away before its request was read."""


class App:
    """`App(settings)` opens its own stores at startup; a ready `service` may be handed in instead."""

    def __init__(self, settings: Settings, service: Service | None = None) -> None:
        self.service = service or Service(settings)
        self._key = AppKey(settings.app_key)
        self._exact, self._below = routes(self.service)

    async def startup(self) -> None:
        await self.service.start()

    async def shutdown(self) -> None:
        await self.service.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})  # before it was accepted: the server answers 403
        else:
            raise RuntimeError(f"only HTTP is served here, not {scope['type']}")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.startup()
                except Exception as problem:
                    LOG.exception("the service did not start")
                    await send({"type": "lifespan.startup.failed", "message": str(problem)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.shutdown()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = time.monotonic()
        name = "unknown"
        headers: tuple[Header, ...] = ()
        try:
            route, identity = self._route(scope)
            name = route.name
            answer = await self._handle(route, identity, scope, receive)
        except Problem as problem:
            answer, headers = Answer(problem.status, problem.body(), PROBLEM_JSON), problem.headers
        except Disconnected:
            return
        await _reply(send, answer, headers)
        self.service.metrics.request(name, answer.status, time.monotonic() - arrived)

    def _route(self, scope: Scope) -> tuple[Route, str]:
        path: str = scope["path"]
        route = self._exact.get(path)
        if route is not None:
            return route, ""
        raw = scope.get("raw_path") or path.encode()
        parts = [_part(part) for part in bytes(raw).split(b"?")[0].split(b"/")]
        for before, after, below in self._below:
            at = len(before)
            if (
                len(parts) == at + 1 + len(after)
                and (*parts[:at],) == before
                and (*parts[at + 1 :],) == after
            ):
                return below, parts[at]
        raise Problem("not_found", f"there is nothing at {path[:200]!r}; see /openapi.json")

    async def _handle(self, route: Route, identity: str, scope: Scope, receive: Receive) -> Answer:
        headers = _headers(scope)
        self._key.check(scope["path"], headers.get(b"authorization"), headers.get(b"x-api-key"))
        handler = route.methods.get(scope["method"])
        if handler is None:
            allowed = ", ".join(route.methods)
            raise Problem(
                "method_not_allowed",
                f"{scope['method'][:20]!r} is not among {allowed}",
                headers=_allow(allowed),
            )
        body = b""
        if scope["method"] in ("POST", "PUT"):
            _check_type(headers.get(b"content-type"), headers.get(b"content-encoding"))
            body = await _body_in_time(headers.get(b"content-length"), receive, route.limit)
        # A deadline counts from here: how long the client took to send its body is not the service's time.
        arrived = time.monotonic()
        request = Request(identity, _query(scope), body, _request_id(scope, headers), arrived)
        try:
            return await handler(request)
        except LogFull as full:
            raise Problem("log_full", f"the event log takes nothing more for now: {full}") from full
        except StoreUnavailable as away:
            self.service.metrics.store_error(route.name)
            raise Problem("store_unavailable", f"the store did not answer: {away}") from away
        except Problem:
            raise
        except RecursionError:
            raise Problem("bad_json", "the body is nested too deeply") from None
        except Exception:
            LOG.exception("%s %s failed", scope["method"], route.name)
            self.service.metrics.failures.labels(route.name).inc()
            raise Problem("internal", "an unforeseen error; the service's log has it") from None


def _part(raw: bytes) -> str:
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise Problem("bad_path", "the path is not UTF-8") from None


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """By name; of a name that is sent twice, the first."""
    return {name.lower(): value for name, value in reversed(list(scope["headers"]))}


def _allow(methods: str) -> tuple[Header, ...]:
    return ((b"allow", methods.encode()),)


def _check_type(given: bytes | None, encoding: bytes | None) -> None:
    if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
        raise Problem("unsupported_media_type", "send the body as it is, without a content-encoding")
    kind = (given or JSON).split(b";")[0].strip().lower()
    if kind != JSON and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        raise Problem("unsupported_media_type", "send the body as application/json")


def _request_id(scope: Scope, headers: Mapping[bytes, bytes]) -> str | None:
    raw = scope[REQUEST_ID_KEY] if REQUEST_ID_KEY in scope else headers.get(b"x-request-id")
    return raw.decode("utf-8", "surrogateescape") if raw is not None else None


def _query(scope: Scope) -> dict[str, str]:
    raw: bytes = scope.get("query_string", b"")
    if not raw:
        return {}
    try:
        return dict(
            parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20)
        )
    except (ValueError, UnicodeDecodeError):
        raise Problem("bad_query", "the query string cannot be read") from None


async def _body_in_time(length: bytes | None, receive: Receive, limit: int) -> bytes:
    try:
        async with asyncio.timeout(BODY_S):
            return await _body(length, receive, limit)
    except TimeoutError:
        late = f"the body did not come whole within {BODY_S:g} s"
        raise Problem("body_too_slow", late, headers=((b"connection", b"close"),)) from None


async def _body(length: bytes | None, receive: Receive, limit: int) -> bytes:
    """The whole body. Raises Problem when it is longer than `limit` or says a length that is none."""
    if length is not None:
        if not length.isdigit() or len(length) > 18:
            raise Problem("bad_length", "content-length must be a whole number")
        if int(length) > limit:
            raise Problem("body_too_large", f"the body has {int(length)} bytes, {limit} are allowed")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise Problem("body_too_large", f"the body has more than the {limit} bytes allowed")
        if not message.get("more_body", False):
            return b"".join((*parts, part)) if parts else part
        parts.append(part)


async def _reply(send: Send, answer: Answer, extra: tuple[Header, ...]) -> None:
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", b"%d" % len(answer.body)),
        (b"cache-control", b"no-store"),
        *extra,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
