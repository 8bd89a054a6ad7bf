"""The application that does nothing: what is left of a page request when nothing is decided."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serving.settings import Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def empty(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """Every request is answered `{}`, unread."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]  # the server adds its own
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


class Empty:
    """What a replica of the empty deployment runs; the shape is that of serving.app.Pages."""

    def __init__(self, _settings: Settings) -> None:
        """Needs no setting."""

    def __serve_build_asgi_app__(self) -> Any:
        return empty
