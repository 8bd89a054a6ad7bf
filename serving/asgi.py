"""HTTP over ASGI as both applications read and write it: headers, bodies in time, answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qsl

from serving.errors import Header, Problem
from serving.handlers import JSON, Answer, Streamed

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
BODY_S: Final = 10.0  # a body that has not come whole by then is not waited for


class Disconnected(Exception):
    """The client went away before its request was read."""


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """By name; of a name that is sent twice, the first."""
    return {name.lower(): value for name, value in reversed(list(scope["headers"]))}


def allow(methods: str) -> tuple[Header, ...]:
    return ((b"allow", methods.encode()),)


def check_type(given: bytes | None, encoding: bytes | None) -> None:
    if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
        raise Problem("unsupported_media_type", "send the body as it is, without a content-encoding")
    kind = (given or JSON).split(b";")[0].strip().lower()
    if kind != JSON and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        raise Problem("unsupported_media_type", "send the body as application/json")


def query_of(scope: Scope) -> dict[str, str]:
    raw: bytes = scope.get("query_string", b"")
    if not raw:
        return {}
    try:
        return dict(
            parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20)
        )
    except (ValueError, UnicodeDecodeError):
        raise Problem("bad_query", "the query string cannot be read") from None


async def body_in_time(length: bytes | None, receive: Receive, limit: int) -> bytes:
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


async def stream(send: Send, receive: Receive, answer: Streamed) -> None:
    """An answer of unknown length, part by part; ends early when the client has gone."""
    headers = [(b"content-type", answer.content_type), (b"cache-control", b"no-store")]
    gone = asyncio.ensure_future(receive())  # after the body only a disconnect comes
    try:
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        async for part in answer.parts:
            if gone.done():
                return
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        gone.cancel()
        await answer.parts.aclose()


async def reply(send: Send, answer: Answer, extra: tuple[Header, ...]) -> None:
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", b"%d" % len(answer.body)),
        (b"cache-control", b"no-store"),
        *extra,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
