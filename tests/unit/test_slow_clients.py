"""Clients that send slowly, in another protocol or not at all: told so, and nobody else waits."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import pytest

from serving.web import ARRIVED_KEY
from tests.shell import Shell, run, running

BODY = orjson.dumps({"user_id": "u1", "options": {"deadline_ms": 60, "explain": True}})


async def asked(
    shell: Shell, *parts: tuple[float, bytes], end: bool = True, **more: Any
) -> tuple[int, dict[str, Any]]:
    """A POST whose body comes in parts, each after so many seconds; `more` of its scope."""
    sent: list[dict[str, Any]] = []
    waiting = list(parts)

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()
        pause, part = waiting.pop(0)
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": part, "more_body": bool(waiting) or not end}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope = {"type": "http", "method": "POST", "path": "/v1/recommend", "headers": [], "query_string": b""}
    scope |= more
    await shell.app(scope, receive, send)
    return sent[0]["status"], {**orjson.loads(sent[1]["body"]), "headers": dict(sent[0]["headers"])}


def test_a_body_that_does_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.asgi.BODY_S", 0.05)

    async def story() -> None:
        async with running() as shell:
            status, problem = await asked(shell, (0.0, BODY[:9]), end=False)
            assert (status, problem["code"]) == (408, "body_too_slow")
            assert problem["headers"][b"connection"] == b"close"

    run(story)


def test_the_time_a_client_takes_to_send_is_not_the_services() -> None:
    """The deadline of 60 ms counts from when the request is there: the page is not the poorest one."""

    async def story() -> None:
        async with running() as shell:
            await shell.page("u1")
            status, page = await asked(shell, (0.0, BODY[:9]), (0.1, BODY[9:]))
            assert status == 200 and page["effort"] in ("full", "light")

    run(story)


def test_the_time_a_request_stood_in_line_before_the_application_is_the_services() -> None:
    """Ray's layers note when it came; a page that is late already is the poorest one."""

    async def story() -> None:
        async with running() as shell:
            await shell.page("u1")
            status, page = await asked(shell, (0.0, BODY), **{ARRIVED_KEY: time.monotonic() - 0.001})
            assert status == 200 and page["effort"] == "full"
            status, page = await asked(shell, (0.0, BODY), **{ARRIVED_KEY: time.monotonic() - 1.0})
            assert status == 200 and page["effort"] == "fallback"  # nobody waits: it costs nobody anything
            status, page = await asked(shell, (0.0, BODY), **{ARRIVED_KEY: time.monotonic() + 9.0})
            assert status == 200 and page["effort"] == "full"  # a clock that is ahead gives no time

    run(story)


def test_a_websocket_is_closed_before_it_is_accepted() -> None:
    async def story() -> None:
        async with running() as shell:
            sent: list[Any] = []

            async def receive() -> dict[str, Any]:
                return {"type": "websocket.connect"}

            async def send(message: Any) -> None:
                sent.append(message)

            await shell.app({"type": "websocket", "path": "/v1/recommend"}, receive, send)
            assert sent == [{"type": "websocket.close"}]

    run(story)
