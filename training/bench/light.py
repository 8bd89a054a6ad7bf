"""Our pages on the rung `light`, whatever the load: what the benchmark measures beside the full ones."""

from __future__ import annotations

from typing import Final

from serving.asgi import Receive, Scope, Send
from serving.decide import deciding
from serving.domain import EFFORTS, Decision, Effort, Query, Rows
from serving.front import Front
from serving.live import Live
from serving.service import Service
from serving.settings import Settings
from serving.stepping import Steps

PREFIX: Final = "/light"


def at_most_light(query: Query, live: Live, effort: Effort, cached: Rows | None) -> Steps[Decision]:
    rung: Effort = EFFORTS[max(EFFORTS.index(effort), 1)]
    return deciding(query, live, rung, cached)


class LightFront(Front):
    """Answers below PREFIX."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = str(scope["path"]).removeprefix(PREFIX)
        await super().__call__(scope, receive, send)


class LightPages:
    """What a replica of it runs; the shape is that of serving.app.Pages."""

    def __init__(self, settings: Settings) -> None:
        self._front = LightFront(settings, Service(settings, deciding=at_most_light))

    def __serve_build_asgi_app__(self) -> LightFront:
        return self._front
