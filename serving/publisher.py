"""`served` records leave the request's path here: a bounded queue, and one task that writes batches to the
log.

A full queue drops the newest record and counts it: a page is worth more than its record. Client events
never come this way, they are awaited. What did not reach the live store after the log had it is repaired
from here as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from features.log import Entry, EventLog
from features.store import StoreUnavailable
from serving.observe import Metrics

LOG: Final = logging.getLogger("fenliu.publisher")
EVERY_S: Final = 0.02
BATCH: Final = 200
LONGEST_PAUSE_S: Final = 1.0
MAX_REPAIRS: Final = 10_000


class Publisher:
    """Started and stopped with the service; `stop` writes what is queued, for at most `patience_s`."""

    def __init__(self, log: EventLog, metrics: Metrics, limit: int, every_s: float = EVERY_S) -> None:
        self._log, self._metrics, self._limit, self._every_s = log, metrics, limit, every_s
        self._queue: deque[Callable[[], Entry]] = deque()
        self._written: deque[Entry] = deque()  # taken from the queue, not yet accepted by the log
        self._repairs: deque[Callable[[], Awaitable[None]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def __len__(self) -> int:
        return len(self._queue) + len(self._written)

    def put(self, entry: Callable[[], Entry]) -> bool:
        """Queue a record; it is packed when it is written. False when the queue is full."""
        if len(self) >= self._limit:
            self._metrics.served_dropped.inc()
            return False
        self._queue.append(entry)
        return True

    def repair(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Queue an idempotent store call to be tried again until it succeeds. False when too many wait."""
        if len(self._repairs) >= MAX_REPAIRS:
            self._metrics.store_error("repair_dropped")
            return False
        self._repairs.append(work)
        return True

    async def start(self) -> None:
        self._closing.clear()
        self._task = asyncio.create_task(self._run(), name="fenliu-publisher")

    async def stop(self, patience_s: float = 2.0) -> None:
        self._closing.set()
        if self._task is None:
            return
        try:
            async with asyncio.timeout(patience_s):
                await asyncio.shield(self._task)
        except TimeoutError:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if len(self):
            LOG.error("%d served records could not be written before the end", len(self))
            self._metrics.served_dropped.inc(len(self))
        self._task = None

    async def flush(self) -> None:
        """Write everything queued now. Raises what the log raises; nothing is lost then."""
        while self._queue or self._written:
            while self._queue and len(self._written) < BATCH:
                self._take(self._queue.popleft())
            if self._written:
                await self._log.append(tuple(self._written))
            self._metrics.served_written.inc(len(self._written))
            self._written.clear()

    def _take(self, entry: Callable[[], Entry]) -> None:
        try:
            self._written.append(entry())
        except (
            ValueError,
            TypeError,
            KeyError,
        ):  # a record that cannot be packed must not stop those behind it
            LOG.exception("a served record could not be packed")
            self._metrics.failures.labels("publisher").inc()

    async def _run(self) -> None:
        pause = self._every_s
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._closing.wait()
            pause = await self._turn(pause)
            self._metrics.served_queue.set(len(self))
            if self._closing.is_set() and not len(self):
                return
            if self._closing.is_set():
                await asyncio.sleep(self._every_s)

    async def _turn(self, pause: float) -> float:
        """One round; the time to wait before the next, longer while the store does not answer."""
        done = [await self._tried(work, pause) for work in (self.flush, self._repair)]
        return self._every_s if all(done) else min(pause * 2, LONGEST_PAUSE_S)

    async def _tried(self, work: Callable[[], Awaitable[None]], pause: float) -> bool:
        try:
            await work()
        except StoreUnavailable as problem:
            if pause == self._every_s:
                LOG.warning("served records or repairs wait: %s", problem)
            self._metrics.store_error("served")
        except Exception:  # whatever it was, this task must go on: nobody else writes the records
            LOG.exception("the publisher failed")
            self._metrics.failures.labels("publisher").inc()
        else:
            return True
        return False

    async def _repair(self) -> None:
        """Everything that waits for repair, in order. What fails otherwise than by the store is given up."""
        while self._repairs:
            work = self._repairs[0]
            try:
                await work()
            except StoreUnavailable:
                raise
            except Exception:
                LOG.exception("a repair failed and is given up")
                self._metrics.failures.labels("publisher").inc()
            self._repairs.popleft()
