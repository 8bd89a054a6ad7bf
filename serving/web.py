"""The ASGI application: routes, limits, errors. It knows HTTP and nothing of how a page is decided.

One object serves under uvicorn, under Ray Serve and in tests. Every answer that is not a success is
problem+json; bad input never reaches a 500, and no traceback leaves the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from features.log import LogFull
from features.store import StoreUnavailable
from serving import heap
from serving.asgi import (
    Disconnected,
    Receive,
    Scope,
    Send,
    allow,
    body_in_time,
    check_type,
    headers_of,
    query_of,
    reply,
    stream,
)
from serving.errors import PROBLEM_JSON, Header, Problem
from serving.handlers import Answer, Request, Route, Streamed, routes
from serving.keys import Ring
from serving.principals import Identity
from serving.scrape import Scraped
from serving.security import NOBODY, OPEN_PATHS, Access, needs
from serving.service import Service
from serving.settings import Settings

LOG: Final = logging.getLogger("fenliu.web")
REQUEST_ID_KEY: Final = "fenliu.request_id"
"""A server that makes up request ids puts the client's own one (or None) here: only that one makes a
retry.
"""
ARRIVED_KEY: Final = "fenliu.arrived"
"""When a request reached a server whose own layers come before the application, monotonic: waiting there is
the service's time, not the client's.
"""
RING_S: Final = 1.0  # a revoked key is refused within this
RING_WAIT_S: Final = 2.0  # at the start; until somebody has answered, it is taken that there are principals


class App:
    """`App(settings)` opens its own stores at startup; a ready `service` may be handed in instead."""

    def __init__(self, settings: Settings, service: Service | None = None) -> None:
        self.service = service or Service(settings)
        self.ring = Ring(settings.registry_url)
        self._settings, self._access = settings, Access(settings, self.ring)
        self._exact, self._below = routes(self.service)
        self._following: asyncio.Task[None] | None = None
        self.scraped = Scraped(self.service.metrics.exposition)

    async def startup(self) -> None:
        with contextlib.suppress(TimeoutError):  # a registry that hangs holds up no start
            await asyncio.wait_for(asyncio.to_thread(self._look), RING_WAIT_S)
        self._following = asyncio.create_task(self._follow(), name="fenliu-ring")
        await self.scraped.start(self._settings.metrics_ports, self._settings.host)
        await self.service.start()

    async def shutdown(self) -> None:
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
            self._following = None
        await self.scraped.stop()
        await self.service.stop()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(RING_S)
            await asyncio.to_thread(self._look)

    def _look(self) -> None:
        """At who there is, by keys and by tokens."""
        self.ring.refresh()
        self._access.refresh()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if (traces := self.service.traces) is None:
                await self._serve(scope, receive, send)
            else:
                await traces.serve(self._serve, self._named, scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})  # before it was accepted: the server answers 403
        else:
            raise RuntimeError(f"only HTTP is served here, not {scope['type']}")

    def _named(self, scope: Scope) -> str:
        """The route's name: what a path may hold of a customer is not in it."""
        try:
            return self._route(scope)[0].name
        except Problem:
            return "unknown"

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
                heap.settle()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.shutdown()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.monotonic()
        arrived: float = min(begun, scope.get(ARRIVED_KEY, begun))
        name = "unknown"
        headers: tuple[Header, ...] = ()
        try:
            route, identity = self._route(scope)
            name = route.name
            answer: Answer | Streamed = await self._handle(route, identity, scope, receive, begun - arrived)
        except Problem as problem:
            answer, headers = Answer(problem.status, problem.body(), PROBLEM_JSON), problem.headers
        except Disconnected:
            return
        if isinstance(answer, Streamed):
            await stream(send, receive, answer)
        else:
            await reply(send, answer, headers)
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

    async def _handle(
        self, route: Route, identity: str, scope: Scope, receive: Receive, waited_s: float
    ) -> Answer | Streamed:
        headers = headers_of(scope)
        who = self._who(route, scope["path"], headers)
        if (limits := self.service.limits) is not None and who is not NOBODY:
            await limits.admit(who.principal)
        handler = route.methods.get(scope["method"])
        if handler is None:
            allowed = ", ".join(route.methods)
            raise Problem(
                "method_not_allowed",
                f"{scope['method'][:20]!r} is not among {allowed}",
                headers=allow(allowed),
            )
        body = b""
        if scope["method"] in ("POST", "PUT"):
            check_type(headers.get(b"content-type"), headers.get(b"content-encoding"))
            body = await body_in_time(headers.get(b"content-length"), receive, route.limit)
        # A deadline counts from here: how long the client took to send its body is not the service's time,
        # but how long the request stood in line is.
        arrived = time.monotonic() - waited_s
        request = Request(
            identity,
            query_of(scope),
            body,
            _request_id(scope, headers),
            arrived,
            who,
            self._access.governed,
            self._approvals,
        )
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

    def _who(self, route: Route, path: str, headers: Mapping[bytes, bytes]) -> Identity:
        who = self._access.identify(path, headers.get(b"authorization"), headers.get(b"x-api-key"))
        if path not in OPEN_PATHS:
            needs(who, *route.roles)
        return who

    @property
    def _approvals(self) -> str:
        """Whether creatives need a second person: always with principals, whatever the policy says."""
        return "required" if self.ring or self._settings.must_approve else "off"


def _part(raw: bytes) -> str:
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise Problem("bad_path", "the path is not UTF-8") from None


def _request_id(scope: Scope, headers: Mapping[bytes, bytes]) -> str | None:
    raw = scope[REQUEST_ID_KEY] if REQUEST_ID_KEY in scope else headers.get(b"x-request-id")
    return raw.decode("utf-8", "surrogateescape") if raw is not None else None
