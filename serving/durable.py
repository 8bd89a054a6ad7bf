"""What "acknowledged" means, by level, and the spool between: events reach the log late or early, never not.

    memory         this process has it; the log gets it within EVERY_S. A killed process loses what waited
    stream         the log has it, or the spool's file on this machine (what a killed process wrote is kept)
    stream+fsync   the log has it on its disk (WAITAOF), or the spool's file is synced

While the log does not answer, events go to the spool; then a task drains it, oldest first. A customer with
events in the spool gets later ones put behind them, so each customer's order stays that of the requests this
process answered. Drained entries that the log had already (a call that timed out and was written all the
same) are duplicates by their ids, there and in the lake. A log that is full refuses, as before: a spool would
only hide that nothing is ingested.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from features.file_spool import FileSpool
from features.log import CannotSync, Entry, EventLog, LogFull
from features.spool import MemorySpool, Spool, SpoolFull
from features.spool_records import Spooled
from features.store import Clock, StoreUnavailable
from serving.intake import REPAIR_S, Kept, in_time
from serving.settings import MEMORY_LEVEL, SYNCED_LEVEL, Settings, SettingsError
from serving.spool_metrics import SpoolMetrics

LOG: Final = logging.getLogger("fenliu.durable")
EVERY_S: Final = 0.02
BATCH: Final = 500
DRAIN_S: Final = 5.0  # nobody waits for a drained batch
LONGEST_PAUSE_S: Final = 1.0
ADOPT_S: Final = 10.0
MOST_IN_MEMORY: Final = 100_000  # events, at level `memory`

Replay = Callable[[Sequence[Entry]], Awaitable[None]]


def spool_of(settings: Settings) -> Spool | None:
    """By the level and the settings; None where the level is a stream's and the spool has no room."""
    if settings.durability == MEMORY_LEVEL:
        return MemorySpool(MOST_IN_MEMORY)
    return FileSpool(settings.spool_folder, settings.spool_mb << 20) if settings.spool_mb else None


class Durable:
    """Of one process and event loop."""

    def __init__(
        self,
        log: EventLog,
        spool: Spool | None,
        level: str,
        metrics: SpoolMetrics,
        *,
        clock: Clock = time.time,
    ) -> None:
        self._log, self._spool, self._level = log, spool, level
        self._metrics, self._clock = metrics, clock
        self._away = False  # the log did not answer, and the drain has not reached it since
        self._wake, self._closing = asyncio.Event(), False
        self._task: asyncio.Task[None] | None = None
        self._replay: Replay | None = None
        self._ready: Callable[[], bool] = lambda: True

    async def append(self, entries: Sequence[Entry], timeout_s: float) -> Kept:
        """Acknowledge by the level. Raises LogFull, SpoolFull, CannotSync, StoreUnavailable: send them again;
        some may have been written.
        """
        if self._spool is None:
            return Kept(await self._logged(entries, timeout_s), 0)
        if self._level == MEMORY_LEVEL:
            return Kept(await self._spooled(self._spool, entries), 0)
        away = self._away and self._spool.entries > 0
        rows = [row for row, one in enumerate(entries) if not (away or self._spool.holds(one.subject))]
        fresh: dict[int, bool] = {}
        if rows:
            direct = [entries[row] for row in rows]
            with contextlib.suppress(_Away):
                fresh = dict(zip(rows, await self._tried(direct, timeout_s), strict=True))
        behind = [row for row in range(len(entries)) if row not in fresh]
        if behind:
            kept = await self._spooled(self._spool, [entries[row] for row in behind])
            fresh |= dict(zip(behind, kept, strict=True))
        return Kept([fresh[row] for row in range(len(entries))], len(behind))

    async def start(self, replay: Replay, ready: Callable[[], bool]) -> None:
        """`replay` applies what another process acknowledged and did not live to apply; `ready`: whether it
        can be called. Raises SettingsError when the log says that it cannot sync
        as the level asks.
        """
        self._replay, self._ready = replay, ready
        if self._level == SYNCED_LEVEL:
            try:
                await in_time(self._log.synced(), DRAIN_S)
            except CannotSync as no:
                raise SettingsError(f"FENLIU_DURABILITY={SYNCED_LEVEL}: {no}") from None
            except StoreUnavailable:
                LOG.warning("whether the log can sync is not known yet: it is away")
        if self._spool is not None:
            await self._adopt(self._spool)  # before the first event: it may be of a customer who waits there
            self._task = asyncio.create_task(self._run(self._spool), name="fenliu-spool")

    async def stop(self, patience_s: float = 2.0) -> None:
        """Drain what may be drained in that time. The rest of a file waits for whoever adopts it."""
        if self._spool is None or self._task is None:
            return
        self._closing = True
        self._wake.set()
        await asyncio.wait({self._task}, timeout=patience_s)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        if self._spool.entries and self._level == MEMORY_LEVEL:
            LOG.error("%d acknowledged events are lost: the log is away", self._spool.entries)
            self._metrics.lost(self._spool.entries)
        self._spool.close()

    async def _tried(self, entries: Sequence[Entry], timeout_s: float) -> list[bool]:
        try:
            return await self._logged(entries, timeout_s)
        except (LogFull, CannotSync):
            raise
        except StoreUnavailable as problem:
            if not self._away:
                LOG.warning("events go to the spool: %s", problem)
            self._away = True
            raise _Away from problem

    async def _logged(self, entries: Sequence[Entry], timeout_s: float) -> list[bool]:
        return await in_time(self._written(entries), timeout_s)

    async def _written(self, entries: Sequence[Entry]) -> list[bool]:
        fresh = await self._log.append(entries)
        if self._level == SYNCED_LEVEL:
            await self._log.synced()
        return fresh

    async def _spooled(self, spool: Spool, entries: Sequence[Entry]) -> list[bool]:
        try:
            fresh = spool.put(entries, self._clock())
            if self._level == SYNCED_LEVEL:
                await asyncio.to_thread(spool.syncing())
        except SpoolFull:
            self._metrics.refused(len(entries))
            raise
        self._wake.set()
        self._metrics.spooled(sum(fresh))
        return fresh

    # --- the drain

    async def _run(self, spool: Spool) -> None:
        pause, adopted = EVERY_S, time.monotonic()
        while True:
            try:
                if time.monotonic() - adopted >= ADOPT_S:
                    adopted = time.monotonic()
                    await self._adopt(spool)
                done = not spool.entries or await self._drained(spool)
            except Exception:  # whatever it was, this task must go on: nobody else drains
                LOG.exception("draining the spool failed")
                self._metrics.failed()
                done = False
            if self._closing and not spool.entries:
                return
            pause = EVERY_S if done else min(pause * 2, LONGEST_PAUSE_S)
            if done and not spool.entries:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), ADOPT_S)
                if self._level == MEMORY_LEVEL and not self._closing:
                    await asyncio.sleep(EVERY_S)  # so that a batch is more than one event
            elif not done:
                await asyncio.sleep(pause)

    async def _adopt(self, spool: Spool) -> None:
        if count := spool.adopt(await asyncio.to_thread(spool.orphans)):
            LOG.warning("%d events of a process that ended are drained", count)

    async def _drained(self, spool: Spool) -> bool:
        """One batch; False when the log does not take it."""
        batch = spool.head(BATCH)
        try:
            waiting = await self._not_erased(batch)
        except StoreUnavailable:
            return False
        entries = [entry for _, entry in waiting]
        adopted = spool.adopted
        if adopted and not self._ready():
            return False
        if entries:
            try:
                fresh = await in_time(self._written(entries), DRAIN_S)
            except StoreUnavailable as problem:
                LOG.debug("the spool waits: %s", problem)
                return False
            if self._away:
                LOG.warning("the log answers again; %d events wait in the spool", spool.entries)
            self._away = False
            if adopted and self._replay is not None:
                young = self._clock() - REPAIR_S
                await self._replay(
                    [e for (at, e), new in zip(waiting, fresh, strict=True) if new or at > young]
                )
            self._metrics.drained(sum(fresh), len(fresh) - sum(fresh))
        spool.drop(len(batch))
        return True

    async def _not_erased(self, batch: Sequence[Spooled]) -> list[tuple[float, Entry]]:
        """Those that wait, but for customers who were erased since."""
        waiting = [(at, entry) for at, entry in batch if entry is not None]
        if not waiting or self._level == MEMORY_LEVEL:
            return waiting
        subjects = {entry.subject for _, entry in waiting}
        gone = await in_time(self._log.forgotten(subjects), DRAIN_S)
        return [(at, entry) for at, entry in waiting if at > gone.get(entry.subject, 0.0)]


class _Away(Exception):
    """The log did not answer."""
