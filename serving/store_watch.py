"""The stores at `/metrics` as the leader sees them: what waits in the log, for how long, how full they are.

The replica that leads the pacing looks, every ten seconds; the others export nothing, so that a number is
there once. What a store did not answer is not exported either.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from features.log import Backlog
from features.store import Clock, StoreUnavailable
from features.stores import Stores
from serving.turns import Turns

LOG: Final = logging.getLogger("fenliu.stores")
EVERY_S: Final = 10.0


class StoreState(Collector):
    """What was seen last; registered once per process. `memory`: by role, the part of `maxmemory` in use."""

    def __init__(self) -> None:
        self.backlog: Backlog | None = None
        self.memory: Mapping[str, float] = {}
        self.now: Clock = lambda: 0.0

    def forget(self) -> None:
        self.backlog, self.memory = None, {}

    def describe(self) -> Iterable[Metric]:
        return self._families()

    def collect(self) -> Iterator[Metric]:
        entries, oldest, memory = self._families()
        if (backlog := self.backlog) is not None:
            entries.add_metric([], backlog.entries)
            waits = 0.0 if backlog.oldest is None else max(self.now() - backlog.oldest, 0.0)
            oldest.add_metric([], waits)
        for role, part in self.memory.items():
            memory.add_metric([role], part)
        yield entries
        yield oldest
        yield memory

    def _families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily("fenliu_log_entries", "entries in the log that ingest has not taken"),
            GaugeMetricFamily("fenliu_log_oldest_seconds", "time since the oldest of them was appended"),
            GaugeMetricFamily(
                "fenliu_store_memory_ratio", "memory in use over maxmemory, where a store has one",
                labels=["role"],
            ),
        )  # fmt: skip


class Counters(Protocol):
    """`serving.observe.Metrics`, as far as it is needed here."""

    def store_error(self, what: str) -> None: ...


class StoreWatch:
    """Started and stopped with the service. `leads` says whether this replica is to look."""

    def __init__(
        self,
        stores: Stores,
        leads: Callable[[], bool],
        state: StoreState,
        metrics: Counters,
        *,
        clock: Clock,
        every_s: float = EVERY_S,
    ) -> None:
        self._stores, self._leads, self._state, self._metrics = stores, leads, state, metrics
        state.now = clock
        self._turns = Turns(self.step, every_s, "fenliu-stores")

    async def start(self) -> None:
        self._turns.start()

    async def stop(self) -> None:
        await self._turns.stop()
        self._state.forget()

    async def step(self) -> None:
        """Raises nothing."""
        state = self._state
        if not self._leads():
            state.forget()
            return
        try:
            state.backlog = await asyncio.to_thread(self._stores.log.backlog)
        except StoreUnavailable:
            state.backlog = None
            self._metrics.store_error("backlog")
        except Exception:  # looking must go on: the next time it may be there
            state.backlog = None
            LOG.exception("the log's backlog could not be read")
        state.memory = await self._stores.memory()
