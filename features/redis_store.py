"""The feature store on Valkey or Redis: one MGET per tick of the event loop, whoever asks.

Fetches that are started within one tick are put into one MGET, of at most 512 keys so that no caller waits
for another's bulk read. Stores of several roles at one URL share a `Fetcher`, and so the MGET.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from features.patience import Limit
from features.redis_address import parse_address
from features.redis_resp import RespLink, Sink, settle
from features.store import FeatureStore, StoreUnavailable

MGET_KEYS: Final = 512
TIMED: Final = 16  # one MGET in so many is timed
_LATE: Final = "the store did not answer in time"

Found = list[bytes | None]


class _Waiter(NamedTuple):
    future: asyncio.Future[Found]
    keys: Sequence[bytes]
    timeout_s: float | None


class Fetcher:
    """Reads of one server, coalesced."""

    def __init__(self, link: RespLink) -> None:
        self.link = link
        self._waiting: list[_Waiter] = []
        self.commands = 0  # how many MGETs were sent; tests and the bench read it
        self.timed: Callable[[float], None] | None = None  # told the seconds of one MGET in `TIMED`

    async def fetch(self, keys: Sequence[bytes], timeout_s: float | None = None) -> Found:
        """Values in the order of the keys. Raises StoreUnavailable, also when the time is over."""
        if not keys:
            return []
        if len(keys) > MGET_KEYS:
            parts = (keys[at : at + MGET_KEYS] for at in range(0, len(keys), MGET_KEYS))
            return [value for part in parts for value in await self.fetch(part, timeout_s)]
        if not self.link.up:
            await self._connect(timeout_s)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Found] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._send)
        self._waiting.append(_Waiter(future, keys, timeout_s))
        return await future

    async def _connect(self, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self.link.connected()
        except TimeoutError as error:
            raise StoreUnavailable(_LATE) from error

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        batch: list[_Waiter] = []
        wanted: list[bytes] = []
        for waiter in waiting:
            if len(wanted) + len(waiter.keys) > MGET_KEYS:
                self._mget(wanted, batch)
                batch, wanted = [], []
            batch.append(waiter)
            wanted.extend(waiter.keys)
        self._mget(wanted, batch)
        self.link.flush()

    def _mget(self, keys: list[bytes], batch: list[_Waiter]) -> None:
        self.commands += 1
        limits = {waiter.timeout_s for waiter in batch if waiter.timeout_s is not None}
        timers = [Limit(limit, partial(_expire, batch, limit)) for limit in limits]
        sink: Sink = partial(_share, batch, timers)
        if self.timed is not None and self.commands % TIMED == 0:
            sink = partial(_timed, self.timed, time.perf_counter(), sink)
        self.link.send((b"MGET", *keys), sink)


def _timed(told: Callable[[float], None], sent: float, sink: Sink, reply: Any) -> None:
    """Also of an answer that nobody waited for any more; not of a store that gave none."""
    if not isinstance(reply, StoreUnavailable):
        told(time.perf_counter() - sent)
    sink(reply)


def _expire(batch: list[_Waiter], limit: float) -> None:
    for waiter in batch:
        if waiter.timeout_s == limit:
            settle(waiter.future, StoreUnavailable(_LATE))


def _share(batch: list[_Waiter], timers: list[Limit], reply: Any) -> None:
    """Give each waiter its part of the reply, or what came in its place."""
    for timer in timers:
        timer.cancel()
    if isinstance(reply, list):
        at = 0
        for future, keys, _ in batch:
            settle(future, reply[at : at + len(keys)])
            at += len(keys)
        return
    failed = (
        reply if isinstance(reply, StoreUnavailable) else StoreUnavailable("MGET was answered by no list")
    )
    for future, _, _ in batch:
        settle(future, failed)


class RedisStore(FeatureStore):
    """Several stores may share a fetcher; `close` closes it for all of them."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    @classmethod
    def at(cls, url: str) -> RedisStore:
        return cls(Fetcher(RespLink(parse_address(url))))

    async def fetch(self, keys: Sequence[bytes], timeout_s: float | None = None) -> list[bytes | None]:
        return await self._fetcher.fetch(keys, timeout_s)

    async def close(self) -> None:
        await self._fetcher.link.close()
