"""One multiplexed connection for the request path: hiredis on an asyncio Protocol.

All commands of one tick of the loop leave in one write and are answered in order, so that a fetch costs a
future and not a connection from a pool. When the server goes away every pending command fails with
StoreUnavailable; the next one reconnects, and while that fails commands fail at once, with a short and
growing pause between tries. A server that is there but silent is given up after `stall_s`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha1
from typing import Any, Final, cast

import hiredis

from features.redis_address import Address, Refused
from features.store import StoreUnavailable

MAX_PENDING: Final = 20_000
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0

Part = bytes | str | int
Sink = Callable[[Any], None]  # takes a reply, or the StoreUnavailable that came in its place

_INCOMPLETE: Final = object()


def settle(future: asyncio.Future[Any], reply: Any) -> None:
    """A sink that answers a future, unless its caller's time was up."""
    if future.done():
        return
    if isinstance(reply, StoreUnavailable):
        future.set_exception(reply)
    else:
        future.set_result(reply)


class _Protocol(asyncio.Protocol):
    """Replies to sinks, first in first out."""

    def __init__(self, lost: Callable[[_Protocol], None]) -> None:
        self.pending: deque[Sink] = deque()
        self.answered = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(replyError=Refused, notEnoughData=_INCOMPLETE)
        self._lost = lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's do not derive from it

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                self.answered += 1
                self.pending.popleft()(reply)
        except (hiredis.ProtocolError, IndexError):  # not a store, or one that speaks out of turn
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(self)
        if not self.ended.done():
            self.ended.set_result(None)
        while self.pending:
            self.pending.popleft()(
                StoreUnavailable(f"the store closed the connection: {exc or 'end of stream'}")
            )

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class RespLink:
    """Commands to one server, of one event loop. `connect_s` and `stall_s` are seconds."""

    def __init__(self, address: Address, *, connect_s: float = 0.25, stall_s: float = 1.0) -> None:
        self.address = address
        self._connect_s = connect_s
        self._stall_s = stall_s
        self._protocol: _Protocol | None = None
        self._opening: asyncio.Task[None] | None = None
        self._out: list[bytes] = []
        self._watched = False
        self._pause_s = 0.0
        self._away_until = 0.0
        self._closed = False
        self.openings = 0  # connections made so far: another number, maybe another server

    @property
    def up(self) -> bool:
        return self._protocol is not None

    async def command(self, *parts: Part) -> Any:
        """One command and its reply. Raises Refused for an error reply, StoreUnavailable for none."""
        if self._protocol is None:
            await self.connected()
        future = asyncio.get_running_loop().create_future()
        self.send(parts, partial(settle, future))
        return await future

    async def commands(self, many: Sequence[tuple[Part, ...]]) -> list[Any]:
        """The replies of many commands, in order: one future and not one each. Raises as `command` does."""
        if not many:
            return []
        if self._protocol is None:
            await self.connected()
        future = asyncio.get_running_loop().create_future()
        replies: list[Any] = []

        def collect(reply: Any) -> None:
            replies.append(reply)
            if isinstance(reply, StoreUnavailable):  # Refused among them: the first says it for all
                settle(future, reply)
            elif len(replies) == len(many):
                settle(future, replies)

        for parts in many:
            self.send(parts, collect)
        answered: list[Any] = await future
        return answered

    def send(self, parts: tuple[Part, ...], sink: Sink) -> None:
        """Queue a command; it leaves at the end of this tick. The sink is called once, with the outcome."""
        protocol = self._protocol
        if protocol is None or len(protocol.pending) >= MAX_PENDING:
            sink(StoreUnavailable(f"the store at {self.address.name} is away or overrun"))
            return
        protocol.pending.append(sink)
        if not self._out:
            asyncio.get_running_loop().call_soon(self.flush)
        self._out.append(packed(parts))

    def flush(self) -> None:
        """Write what is queued."""
        out, self._out = self._out, []
        if out and self._protocol is not None:
            self._protocol.write(b"".join(out))
            if not self._watched:
                self._watch()

    async def connected(self) -> None:
        """Wait for a connection. Raises StoreUnavailable, at once in the pause after a failure."""
        if self._protocol is not None:
            return
        loop = asyncio.get_running_loop()
        if self._closed or loop.time() < self._away_until:
            raise StoreUnavailable(f"the store at {self.address.name} is away")
        if self._opening is None:
            self._opening = loop.create_task(self._open())
            self._opening.add_done_callback(_seen)
        await asyncio.shield(self._opening)

    async def close(self) -> None:
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        protocol = self._protocol
        if protocol is not None and protocol.transport is not None:
            self.flush()
            protocol.transport.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(protocol.ended, self._stall_s)

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        protocol = _Protocol(self._forget)
        try:
            async with asyncio.timeout(self._connect_s):
                await self._dial(protocol)
                await _greet(protocol, self.address.greeting)
        except OSError as error:  # a timeout is one
            protocol.abort()
            self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            self._away_until = loop.time() + self._pause_s
            reason = str(error) or f"no answer in {self._connect_s:g} s"
            raise StoreUnavailable(f"no store at {self.address.name}: {reason}") from error
        else:
            self._protocol, self._pause_s = protocol, 0.0
            self.openings += 1
        finally:
            self._opening = None

    async def _dial(self, protocol: _Protocol) -> None:
        loop, address = asyncio.get_running_loop(), self.address
        if address.path is not None:
            await loop.create_unix_connection(lambda: protocol, address.path)
        else:
            await loop.create_connection(
                lambda: protocol, address.host, address.port, ssl=address.tls_context()
            )

    def _forget(self, protocol: _Protocol) -> None:
        if self._protocol is protocol:
            self._protocol = None

    def _watch(self) -> None:
        protocol = self._protocol
        self._watched = protocol is not None and bool(protocol.pending)
        if protocol is not None and self._watched:
            asyncio.get_running_loop().call_later(self._stall_s, self._check, protocol, protocol.answered)

    def _check(self, protocol: _Protocol, answered: int) -> None:
        """Nothing was answered since the last look, and something is waited for: the server hangs."""
        if protocol.pending and protocol.answered == answered:
            protocol.abort()
        self._watch()


class Script:
    """A Lua script run by its digest; a store that does not know it (restarted, say) is sent the text."""

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        self._digest = sha1(self._text, usedforsecurity=False).hexdigest().encode()

    async def run(self, link: RespLink, keys: tuple[bytes, ...], *arguments: Part) -> Any:
        try:
            return await link.command(b"EVALSHA", self._digest, len(keys), *keys, *arguments)
        except Refused as refused:
            if refused.code != "NOSCRIPT":
                raise
        return await link.command(b"EVAL", self._text, len(keys), *keys, *arguments)


def packed(parts: tuple[Part, ...]) -> bytes:
    """One command in RESP."""
    command: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]  # stub: a tuple of one
    return command


async def _greet(protocol: _Protocol, greeting: tuple[tuple[bytes, ...], ...]) -> None:
    for command in greeting:
        future = asyncio.get_running_loop().create_future()
        protocol.pending.append(partial(settle, future))
        protocol.write(packed(command))
        await future


def _seen(task: asyncio.Task[None]) -> None:
    """Take the outcome, for the case that every waiter's time was up before it."""
    if not task.cancelled():
        task.exception()
