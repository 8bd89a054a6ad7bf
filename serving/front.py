"""Pages and governance on one address: the pages' application, which hands governance what is governance's.

A proxy that matches route prefixes cannot tell `/v1/plan:check` from `/v1/plan`, so both answer here.
FENLIU_ROLE lets them run apart all the same: `pages` answers nothing of governance, `admin` nothing of pages.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from serving.asgi import Disconnected, Receive, Scope, Send, reply
from serving.errors import PROBLEM_JSON, Problem
from serving.handlers import Answer, Route
from serving.service import Service
from serving.settings import Settings
from serving.web import App

if TYPE_CHECKING:
    from serving.admin_web import AdminApp
    from serving.check_process import CheckProcess
    from serving.tracing import EraseProcess, TraceProcess

USERS: Final = "/v1/users/"  # to erase one is governed; to change one is not
GOVERNED: Final = ("/v1/plan", "/v1/kill", "/v1/audit", "/v1/decisions/")
PROBES: Final = frozenset({"/livez", "/readyz", "/metrics", "/openapi.json"})


class Front(App):
    """`eager`: governance is there from the start, to make good what a publisher that died left undone.

    Otherwise it is put together by the first request that is its own: a replica of pages pays nothing before.
    """

    def __init__(self, settings: Settings, service: Service | None = None, *, eager: bool = False) -> None:
        super().__init__(settings, service)
        self._eager = settings.role == "admin" or (eager and settings.role == "all")
        self._admin: AdminApp | None = None
        self._beside: list[CheckProcess | TraceProcess | EraseProcess] = []
        self._making = asyncio.Lock()

    async def startup(self) -> None:
        await super().startup()
        if self._eager:
            await self.admin()

    async def shutdown(self) -> None:
        for process in self._beside:
            process.close()
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.shutdown()
        await super().shutdown()

    async def admin(self) -> AdminApp:
        """Governance over the running service. Raises Problem `not_ready` before the service has started."""
        async with self._making:
            if self._admin is None:
                made = await asyncio.to_thread(self._made)
                await made.startup()
                self._admin = made
            return self._admin

    def _made(self) -> AdminApp:
        from serving.admin_build import admin_app
        from serving.check_process import CheckProcess
        from serving.previewing import Previewing
        from serving.tracing import EraseProcess, TraceProcess

        service, settings = self.service, self._settings
        checking, tracing = CheckProcess(settings), TraceProcess(settings)
        erasing = EraseProcess(settings)
        self._beside = [checking, tracing, erasing]
        return admin_app(
            settings,
            service.control,
            service.holder,
            approvals=settings.must_approve,
            preview=Previewing(service, settings),
            booking=checking,
            tracer=tracing,
            eraser=erasing,
            limits=service.limits,
        )

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._settings.role == "pages" or not _governed(scope):
            await super()._serve(scope, receive, send)
            return
        arrived = time.monotonic()
        try:
            status = await (await self.admin()).serve(scope, receive, send)
        except Disconnected:
            return
        except Problem as problem:
            status = problem.status
            await reply(send, Answer(status, problem.body(), PROBLEM_JSON), problem.headers)
        self.service.metrics.request("governance", status, time.monotonic() - arrived)

    def _named(self, scope: Scope) -> str:
        return "governance" if _governed(scope) else super()._named(scope)

    def _route(self, scope: Scope) -> tuple[Route, str]:
        if self._settings.role == "admin" and scope["path"] not in PROBES:
            raise Problem("not_found", "only governance is answered here (FENLIU_ROLE=admin)")
        return super()._route(scope)


def _governed(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.startswith(GOVERNED) or (scope["method"] == "DELETE" and path.startswith(USERS))
