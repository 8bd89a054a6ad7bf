"""A load generator for benchmarks and the demo: HTTP/1.1, kept-alive connections, closed or open loop.

Closed loop (each connection asks again when it is answered) is for saturation only. Open loop sends at
constant arrivals and times each answer from the moment it was meant to be sent, so that a stall is not
hidden ("coordinated omission", Tene). Loopback addresses only. Bounded in time.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import numpy as np

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(slots=True)
class Outcome:
    """What a run saw: `latencies` in seconds, answers by status (0: connection broke), seconds it took."""

    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        return sum(n for status, n in self.statuses.items() if status != 200)

    @property
    def rate(self) -> float:
        """Answers with status 200 per second."""
        return self.statuses[200] / self.seconds if self.seconds else 0.0

    def quantile(self, q: float) -> float:
        """Seconds; NaN when nothing was answered."""
        return float(np.quantile(self.latencies, q)) if self.latencies else float("nan")


def post(path: str, body: bytes, host: str, headers: dict[str, str] | None = None) -> bytes:
    """One POST as bytes on the wire."""
    extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{extra}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One kept-alive connection; answers come back in order. `done(status, asked_at)` is called for each."""

    def __init__(self, done: Callable[[int, float], None]) -> None:
        self._done = done
        self._buffer = b""
        self._asked: deque[float] = deque()
        self._transport: asyncio.Transport | None = None
        self.broken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class

    def ask(self, request: bytes, intended: float) -> None:
        self._asked.append(intended)
        if self.broken or self._transport is None:
            self._asked.pop()
            self._done(0, intended)
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            size = _content_length(self._buffer[:end])
            if len(self._buffer) < end + 4 + size:
                return
            status = int(self._buffer[9:12])
            self._buffer = self._buffer[end + 4 + size :]
            if self._asked:
                self._done(status, self._asked.popleft())

    def connection_lost(self, _exc: Exception | None) -> None:
        self.broken = True
        while self._asked:
            self._done(0, self._asked.popleft())

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def _connect(host: str, port: int, done: Callable[[int, float], None]) -> Connection:
    if host not in LOOPBACK:
        raise ValueError(f"the load generator only asks this machine ({', '.join(LOOPBACK)}), not {host}")
    _, protocol = await asyncio.get_running_loop().create_connection(lambda: Connection(done), host, port)
    return protocol


async def closed_loop(
    host: str, port: int, requests: list[bytes], *, connections: int, seconds: float, warm_up: float = 1.0
) -> Outcome:
    """Saturation: `connections` clients, each asking again as soon as it is answered."""
    outcome, turn = Outcome(), iter(range(1 << 62))
    clock = time.perf_counter
    begin = clock() + warm_up
    end = begin + seconds
    clients: list[Connection] = []
    finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    running = connections

    def again(i: int) -> None:
        clients[i].ask(requests[next(turn) % len(requests)], clock())

    def done(i: int, status: int, asked: float) -> None:
        nonlocal running
        now = clock()
        if now >= begin:
            outcome.latencies.append(now - asked)
            outcome.statuses[status] += 1
        if now < end and status:
            again(i)
        else:
            running -= 1
            if not running and not finished.done():
                finished.set_result(None)

    clients.extend([await _connect(host, port, partial(done, i)) for i in range(connections)])
    for i in range(connections):
        again(i)
    await asyncio.wait_for(finished, warm_up + seconds + 30)
    outcome.seconds = clock() - begin
    for client in clients:
        client.close()
    return outcome


async def open_loop(
    host: str, port: int, requests: list[bytes], *, rate: float, seconds: float, connections: int = 32
) -> Outcome:
    """Latency: constant arrivals at `rate` a second, timed from the intended moment of sending.

    A request takes a connection that waits for nothing; where there is none it stands in line behind another.
    A broken connection is opened again for the next request; what was on it counts as failed (status 0).
    """
    outcome = Outcome()
    clock = time.perf_counter
    idle: deque[int] = deque(range(connections))

    def done(slot: int, status: int, intended: float) -> None:
        outcome.latencies.append(clock() - intended)
        outcome.statuses[status] += 1
        idle.append(slot)

    clients = [await _connect(host, port, partial(done, slot)) for slot in range(connections)]
    begin = clock() + 0.05
    total = max(1, int(rate * seconds))
    for n in range(total):
        intended = begin + n / rate
        if (wait := intended - clock()) > 0:
            await asyncio.sleep(wait)
        elif n % 16 == 0:  # late: answers must be read all the same
            await asyncio.sleep(0)
        slot = idle.popleft() if idle else n % connections
        if clients[slot].broken:
            try:
                clients[slot] = await _connect(host, port, partial(done, slot))
            except OSError:
                done(slot, 0, intended)
                continue
        clients[slot].ask(requests[n % len(requests)], intended)
    patience = clock() + 10
    while sum(outcome.statuses.values()) < total and clock() < patience:
        await asyncio.sleep(0.01)
    outcome.statuses[0] += total - sum(outcome.statuses.values())
    outcome.seconds = clock() - begin
    for client in clients:
        client.close()
    return outcome


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0
