"""The admin application over ASGI: the plan, its approvals, the kill switch and the audit log.

It stands beside the pages (one process on a laptop, a deployment of its own on Ray), so that a publish that
compiles for a second delays no page. `below` is the prefix it is mounted under, taken off before routing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import unquote

from features.store import StoreUnavailable
from serving.admin import (
    DECISION,
    PLAN_LIMIT,
    USER,
    Admin,
    AdminAnswer,
    AdminHandler,
    AdminRequest,
    admin_routes,
)
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
)
from serving.errors import PROBLEM_JSON, Header, Problem
from serving.handlers import JSON, Answer
from serving.keys import Ring
from serving.limits import Limits
from serving.security import NOBODY, Access, token_of

LOG: Final = logging.getLogger("fenliu.admin")
RING_S: Final = 1.0  # a revoked key is refused within this
RECONCILE_EVERY: Final = 5  # rounds


class AdminApp:
    """One ASGI application; `startup` and `shutdown` are called by its host or by the lifespan."""

    def __init__(
        self, admin: Admin, access: Access, ring: Ring, below: str = "", limits: Limits | None = None
    ) -> None:
        self._admin, self._access, self._ring, self._below = admin, access, ring, below
        self._limits = limits
        self._routes = admin_routes(admin)
        self._task: asyncio.Task[None] | None = None

    def takes(self, path: str) -> bool:
        """Whether a path is one of ours: for a host that serves the pages beside."""
        return path.removeprefix(self._below) in self._routes

    async def startup(self) -> None:
        await asyncio.to_thread(self._look)
        self._task = asyncio.create_task(self._follow(), name="fenliu-admin")

    async def shutdown(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _follow(self) -> None:
        """Who there is, every second; and what a publisher that died left undone."""
        rounds = 0
        while True:
            try:
                if rounds % RECONCILE_EVERY == 0 and await self._admin.office.reconcile():
                    LOG.warning("control did not say what was published last; it does now")
                await asyncio.to_thread(self._look)
            except (Problem, StoreUnavailable) as away:
                LOG.warning("governance waits: %s", away)
            rounds += 1
            await asyncio.sleep(RING_S)

    def _look(self) -> None:
        self._ring.refresh()
        self._access.refresh()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            with contextlib.suppress(Disconnected):
                await self.serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            raise RuntimeError(f"only HTTP is served here, not {scope['type']}")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message: MutableMapping[str, Any] = await receive()
            if message["type"] == "lifespan.startup":
                await self.startup()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.shutdown()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer one request; the status. Raises Disconnected when nobody waits for it any more."""
        content_type = JSON
        try:
            answer = await self._handle(scope, receive)
        except Problem as problem:
            answer = AdminAnswer(problem.status, problem.body(), problem.headers)
            content_type = PROBLEM_JSON
        await reply(send, Answer(answer.status, answer.body, content_type), answer.headers)
        return answer.status

    def _below_of(self, path: str) -> tuple[Mapping[str, AdminHandler] | None, dict[str, str]]:
        """The handlers of a path that ends with an id, and the id."""
        for route in (DECISION, USER):
            before = route.removesuffix("{id}")
            if path.startswith(before):
                return self._routes[route], {"id": unquote(path[len(before) :])}
        return None, {}

    async def _handle(self, scope: Scope, receive: Receive) -> AdminAnswer:
        path = scope["path"].removeprefix(self._below)
        headers = headers_of(scope)
        given = headers.get(b"authorization"), headers.get(b"x-api-key")
        who = self._access.identify(path, *given)
        if self._limits is not None and who is not NOBODY:
            await self._limits.admit(who.principal)
        methods: Mapping[str, AdminHandler] | None = self._routes.get(path)
        named: dict[str, str] = {}
        if methods is None:
            methods, named = self._below_of(path)
        if methods is None:
            raise Problem("not_found", f"there is nothing at {path[:200]!r}; see /openapi.json")
        handler = methods.get(scope["method"])
        if handler is None:
            allowed: tuple[Header, ...] = allow(", ".join(methods))
            raise Problem("method_not_allowed", f"{scope['method'][:20]!r} is not possible", headers=allowed)
        body = b""
        if scope["method"] == "POST":
            check_type(headers.get(b"content-type"), headers.get(b"content-encoding"))
            body = await body_in_time(headers.get(b"content-length"), receive, PLAN_LIMIT)
        if_match = headers.get(b"if-match")
        said = None if if_match is None else if_match.decode("latin-1")
        key = token_of(*given) or b""
        query = {**query_of(scope), **named}
        try:
            return await handler(AdminRequest(who, query, body, said, key.decode("latin-1")))
        except StoreUnavailable as away:
            raise Problem("store_unavailable", f"control did not answer: {away}") from away
        except OSError as away:
            raise Problem("registry_unavailable", f"the registry did not answer: {away}") from away
        except RecursionError:
            raise Problem("bad_json", "the body is nested too deeply") from None
        except Problem:
            raise
        except Exception:
            LOG.exception("%s %s failed", scope["method"], path)
            raise Problem("internal", "an unforeseen error; the service's log has it") from None
