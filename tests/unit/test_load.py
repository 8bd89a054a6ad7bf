"""The load generator against a small server of our own: what it counts, and from when it times."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from training.bench.load import Outcome, closed_loop, open_loop, post
from training.bench.volley import Target, Volley, VolleyError

HOST = "127.0.0.1"
Answer = Callable[[int, bytes], Awaitable[bytes | None]]


def reply(status: int = 200, body: bytes = b"{}") -> bytes:
    return b"HTTP/1.1 %d Whatever\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


@asynccontextmanager
async def serving(answer: Answer) -> Any:
    """A server on a free loopback port. `answer(number, body)`: bytes to send, None to hang up."""
    asked = 0

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                said = await answer(asked, await reader.readexactly(length))
                asked += 1
                if said is None:
                    break
                writer.write(said)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(one, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0)


REQUESTS = [post("/v1/x", b'{"n":%d}' % n, HOST, {"x-api-key": "k"}) for n in range(7)]


def test_a_request_is_whole() -> None:
    head, _, body = post("/v1/x", b"{}", "h:1", {"x-api-key": "secret"}).partition(b"\r\n\r\n")
    assert head.splitlines()[0] == b"POST /v1/x HTTP/1.1"
    assert {b"Host: h:1", b"x-api-key: secret", b"Content-Length: 2"} <= set(head.splitlines())
    assert body == b"{}"


def test_closed_loop_counts_answers_and_statuses() -> None:
    bodies = set()

    async def answer(number: int, body: bytes) -> bytes:
        bodies.add(body)
        return reply(503, b"no") if number % 4 == 3 else reply(200, b"x" * 5000)

    async def run() -> Outcome:
        async with serving(answer) as port:
            return await closed_loop(HOST, port, REQUESTS, connections=3, seconds=0.2, warm_up=0.05)

    outcome = asyncio.run(run())
    total = sum(outcome.statuses.values())
    assert outcome.statuses.keys() == {200, 503} and total == len(outcome.latencies) > 20
    assert outcome.failed == outcome.statuses[503] == pytest.approx(total / 4, abs=4)
    assert outcome.rate == pytest.approx(outcome.statuses[200] / outcome.seconds)
    assert bodies == {b'{"n":%d}' % n for n in range(7)}, "requests are sent in turns"


def test_open_loop_sends_what_it_was_told_to() -> None:
    async def answer(number: int, body: bytes) -> bytes:
        return reply()

    async def run() -> Outcome:
        async with serving(answer) as port:
            return await open_loop(HOST, port, REQUESTS, rate=200.0, seconds=0.25, connections=4)

    outcome = asyncio.run(run())
    assert outcome.statuses == {200: 50, 0: 0} and outcome.failed == 0
    assert outcome.seconds >= 49 / 200


def test_open_loop_times_from_the_intended_moment() -> None:
    """One stall of 0.2 s on the only connection: all that should have been sent meanwhile waited for it."""

    async def answer(number: int, body: bytes) -> bytes:
        if number == 10:
            await asyncio.sleep(0.2)
        return reply()

    async def run() -> Outcome:
        async with serving(answer) as port:
            return await open_loop(HOST, port, REQUESTS, rate=100.0, seconds=0.5, connections=1)

    outcome = asyncio.run(run())
    assert outcome.statuses[200] == 50
    waited = sorted(outcome.latencies, reverse=True)
    assert waited[0] >= 0.19
    assert waited[10] >= 0.08, "a closed loop would have seen a single slow answer"
    assert sum(one >= 0.015 for one in waited) >= 17
    assert outcome.quantile(1.0) == waited[0]


def test_a_broken_connection_is_counted_and_opened_again() -> None:
    async def answer(number: int, body: bytes) -> bytes | None:
        return None if number == 5 else reply()

    async def run() -> Outcome:
        async with serving(answer) as port:
            return await open_loop(HOST, port, REQUESTS, rate=100.0, seconds=0.3, connections=1)

    outcome = asyncio.run(run())
    assert outcome.statuses[0] == outcome.failed >= 1
    assert sum(outcome.statuses.values()) == 30
    assert outcome.statuses[200] > 5, "what came after the break was answered on a new connection"


def test_a_closed_loop_ends_when_its_connections_break() -> None:
    async def answer(number: int, body: bytes) -> bytes | None:
        return None

    async def run() -> Outcome:
        async with serving(answer) as port:
            return await closed_loop(HOST, port, REQUESTS, connections=2, seconds=0.1, warm_up=0.0)

    outcome = asyncio.run(run())
    assert outcome.statuses == {0: 2} and outcome.failed == 2 and outcome.rate == 0.0


def test_nothing_answered_is_not_fast() -> None:
    assert Outcome().quantile(0.5) != Outcome().quantile(0.5), "not a number"
    assert Outcome().rate == 0.0 and Outcome().failed == 0


@pytest.mark.parametrize("host", ["10.0.0.1", "example.org", "0.0.0.0"])
def test_only_this_machine_is_asked(host: str) -> None:
    with pytest.raises(ValueError, match="only asks this machine"):
        asyncio.run(closed_loop(host, 1, REQUESTS, connections=1, seconds=0.1))
    with pytest.raises(ValueError, match="only asks this machine"):
        asyncio.run(open_loop(host, 1, REQUESTS, rate=1.0, seconds=0.1))


def test_the_generators_process_reports_what_went_wrong_and_goes_on() -> None:
    async def answer(number: int, body: bytes) -> bytes:
        return reply()

    async def run() -> Outcome:
        async with serving(answer) as port:
            targets = {"away": Target("10.0.0.1", 1, REQUESTS), "here": Target(HOST, port, REQUESTS)}
            with Volley(targets) as volley:
                with pytest.raises(VolleyError, match="away: ValueError: the load generator only asks"):
                    volley.closed("away", connections=1, seconds=0.1)
                shots = volley.open("here", rate=100.0, seconds=0.2, connections=2)
                return await asyncio.to_thread(shots.result)

    assert asyncio.run(run()).statuses == {200: 20, 0: 0}
