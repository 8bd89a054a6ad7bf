"""One race: replicas and the store are killed and started again, then everything held has to come back."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from features.embedded import EmbeddedValkey
from features.ledger import Pool, bucket_of
from features.redis_ledger import RedisLedger
from features.store import StoreUnavailable
from training.bench.race_counts import Count, summed
from training.bench.race_phones import Phones, Truth
from training.bench.race_replica import decide
from training.bench.race_world import QUOTA, Size

PARTS: Final = 8  # after each odd one a replica is killed, after the middle one the store
EVERY_S: Final = 0.05
BUSY: Final = 0.1  # of all customers
FSYNC: Final = "always"

Tick = Callable[[int, int], None]
T = TypeVar("T")


class Raced(NamedTuple):
    """`pool` once everything had lapsed, and `left`: what was then still granted of the quota.

    `outstanding`, `reserved`: what was held when the last replica was dead. Seconds: until none of it was.
    """

    truth: Truth
    counts: NDArray[np.int64]  # by Count
    at_once: int
    killed: int
    pool: Pool
    left: int
    outstanding: int
    reserved: int
    caps_back_s: float
    quota_back_s: float
    store_away_s: float


class _Replicas:
    def __init__(self, url: str, folder: Path, size: Size) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._url, self._folder, self._size = url, folder, size
        self._running: list[tuple[str, BaseProcess]] = []
        self._started = self.at_once = 0
        for _ in range(size.clients):
            self._start()

    @property
    def killed(self) -> int:
        return self._started - len(self._running)

    def _start(self) -> None:
        name = f"r{self._started}"
        self._started += 1
        told = (self._url, self._folder, name, self._size)
        process = self._context.Process(target=decide, args=told, daemon=True)
        process.start()
        self._running.append((name, process))

    def look(self) -> int:
        """Decisions under way now; `at_once` is the most there ever were."""
        running = (self._folder / f"{name}.counts" for name, _ in list(self._running))
        now = int(summed(running)[Count.DECIDING])
        self.at_once = max(self.at_once, now)
        return now

    async def busy(self) -> None:
        """Wait for a moment in which decisions are under way, that a kill may meet them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._size.one_every * self._size.volley_s):
                while self.look() < BUSY * self._size.at_once:
                    await asyncio.sleep(0.002)

    def replace_one(self) -> None:
        """kill -9 the oldest, start another."""
        self._kill(self._running.pop(0)[1])
        self._start()

    def kill_all(self) -> None:
        while self._running:
            self._kill(self._running.pop()[1])

    @staticmethod
    def _kill(process: BaseProcess) -> None:
        process.kill()
        process.join(10)


async def raced(size: Size, home: Path, tick: Tick) -> Raced:
    """`tick(done, total)` of the seconds that are decided in. TimeoutError when what is held stays held."""
    server = EmbeddedValkey(home / "store", fsync=FSYNC).start()
    phones = Phones(server.url, size)
    await phones.ledger.open_epoch(known=False)
    watching = asyncio.create_task(phones.watch(home))
    replicas = _Replicas(server.url, home, size)
    away_s = 0.0
    try:
        await _until(lambda: _true(phones.truth.answered > 0), 60)
        begun = time.monotonic()
        for part in range(PARTS):
            ends = begun + size.seconds * (part + 1) / PARTS
            while (now := time.monotonic()) < ends:
                replicas.look()
                tick(round(now - begun), round(size.seconds))
                await asyncio.sleep(EVERY_S)
            if part == PARTS // 2 or part % 2:
                await replicas.busy()
            if part == PARTS // 2:
                server, away_s = await _killed(server, home)
            elif part % 2:
                await asyncio.to_thread(replicas.replace_one)
        killed = replicas.killed
        await asyncio.to_thread(replicas.kill_all)
        return await _ended(phones, size, home, replicas.at_once, killed, away_s)
    finally:
        replicas.kill_all()
        watching.cancel()
        await phones.ledger.close()
        server.stop()


async def _killed(server: EmbeddedValkey, home: Path) -> tuple[EmbeddedValkey, float]:
    began = time.monotonic()
    if server.pid is not None:
        os.kill(server.pid, signal.SIGKILL)
    again = await asyncio.to_thread(_restarted, server, home)
    return again, time.monotonic() - began


def _restarted(server: EmbeddedValkey, home: Path) -> EmbeddedValkey:
    server.stop()
    return EmbeddedValkey(home / "store", fsync=FSYNC).start()


async def _ended(phones: Phones, size: Size, home: Path, at_once: int, killed: int, away_s: float) -> Raced:
    """Nobody decides any more: what is held must come back, and then the limit must be reachable exactly."""
    truth, ledger = phones.truth, phones.ledger
    await asyncio.sleep(0.5)  # the last answers are read
    outstanding, reserved = await _said(phones.outstanding), await _said(phones.held)
    await phones.settle()
    since = max(truth.last_valid + size.grace_s, time.time())
    caps = await _until(lambda: _none(phones.held), size.valid_s + size.grace_s + 5)
    quota = await _until(lambda: _none(phones.outstanding), size.valid_s + size.grace_s + 25)
    return Raced(
        truth, summed(home.glob("*.counts")), at_once, killed, await _said(phones.pool),
        await _left(ledger, size), outstanding, reserved, caps - since, quota - since, away_s,
    )  # fmt: skip


async def _left(ledger: RedisLedger, size: Size) -> int:
    """Units that are still granted."""
    left = 0
    while True:
        await _said(ledger.see_epoch)
        bucket = bucket_of(await _said(ledger.now))
        lease = await ledger.lease(QUOTA, size.limit, 500, bucket, size.valid_s)
        if lease is None:
            return left
        left += lease.units


async def _said(ask: Callable[[], Awaitable[T]], most_s: float = 60.0) -> T:
    """What the store says, however often it does not (a busy disk holds it up). TimeoutError."""
    async with asyncio.timeout(most_s):
        while True:
            try:
                return await ask()
            except StoreUnavailable:
                await asyncio.sleep(0.1)


async def _true(value: bool) -> bool:
    return value


async def _none(held: Callable[[], Awaitable[int]]) -> bool:
    return await held() == 0


async def _until(done: Callable[[], Awaitable[bool]], most_s: float) -> float:
    """Wait until `done()`; the time it was. TimeoutError."""
    async with asyncio.timeout(most_s):
        while not await _said(done, most_s):
            await asyncio.sleep(0.1)
        return time.time()
