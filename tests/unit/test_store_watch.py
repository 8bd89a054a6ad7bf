"""The stores at /metrics: only the leader looks, what it sees moves, what does not answer is not exported."""

from __future__ import annotations

from typing import Any

import pytest

from features.log import Entry, MemoryLog
from features.redis_store import TIMED, Fetcher
from features.store import StoreUnavailable
from features.stores import Stores, StoreUrls
from serving.observe import Metrics
from serving.store_watch import StoreWatch
from tests.shell import Clock, run, running


class Watched:
    """A watch over memory stores, and what it makes /metrics say."""

    def __init__(self) -> None:
        self.clock, self.metrics, self.leads = Clock(), Metrics(), True
        self.stores = Stores.open(StoreUrls.one("memory://one"), clock=self.clock)
        self.watch = StoreWatch(
            self.stores, lambda: self.leads, self.metrics.stores_seen, self.metrics, clock=self.clock
        )

    def said(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"fenliu_{name}", labels)

    @property
    def log(self) -> tuple[float | None, float | None]:
        return self.said("log_entries"), self.said("log_oldest_seconds")


def test_the_backlog_grows_ages_and_goes_with_ingest() -> None:
    async def story() -> None:
        made = Watched()
        await made.watch.step()
        assert made.log == (0, 0)
        await made.stores.log.append([Entry("e1", "u:ann", b"1"), Entry("e2", "u:bob", b"2")])
        made.clock.now += 100
        await made.watch.step()
        assert made.log == (2, 100)
        made.clock.now += 20  # it goes on ageing while nobody looks
        assert made.log == (2, 120)
        log = made.stores.log
        offsets = {shard: rows[-1][0] for shard in range(log.shards) if (rows := log.read(shard, "0-0", 9))}
        log.commit(offsets)
        for shard, offset in offsets.items():
            log.trim(shard, offset)
        await made.watch.step()
        assert made.log == (0, 0)

    run(story)


def test_who_does_not_lead_exports_nothing_and_who_stops_leading_neither() -> None:
    async def story() -> None:
        made = Watched()
        made.leads = False
        await made.watch.step()
        assert made.log == (None, None)
        made.leads = True
        await made.watch.step()
        assert made.log == (0, 0)
        made.leads = False
        await made.watch.step()
        assert made.log == (None, None)

    run(story)


@pytest.mark.parametrize("problem", [StoreUnavailable("away"), ValueError("not an offset")])
def test_a_log_that_does_not_answer_is_counted_and_not_exported(problem: Exception) -> None:
    class Away(MemoryLog):
        def backlog(self) -> Any:
            raise problem

    async def story() -> None:
        made = Watched()
        await made.watch.step()
        made.stores.log = Away(made.clock)
        await made.watch.step()
        assert made.log == (None, None)
        counted = made.said("store_errors_total", what="backlog")
        assert counted == (1 if isinstance(problem, StoreUnavailable) else None)

    run(story)


def test_memory_is_told_by_role() -> None:
    async def story() -> None:
        made = Watched()
        seen = {"log": 0.91, "live": 0.2}

        async def memory() -> dict[str, float]:
            return dict(seen)

        made.stores.memory = memory  # type: ignore[method-assign]
        await made.watch.step()
        assert made.said("store_memory_ratio", role="log") == 0.91
        seen.pop("log")
        await made.watch.step()
        assert made.said("store_memory_ratio", role="log") is None
        assert made.said("store_memory_ratio", role="live") == 0.2

    run(story)


@pytest.mark.parametrize(
    ("said", "part"),
    [
        (b"# Memory\r\nused_memory:50\r\nmaxmemory:200\r\n", {"live": 0.25, "log": 0.25}),
        (b"used_memory:50\r\nmaxmemory:0\r\n", {}),
        (b"", {}),
        (b"maxmemory:200\r\n", {}),
        (b"used_memory:50\r\nmaxmemory:much\r\n", {}),
        (b"\xff\xfe:1", {}),
        (StoreUnavailable("away"), {}),
    ],
)
def test_a_store_that_does_not_say_its_memory_is_left_out(said: Any, part: dict[str, float]) -> None:
    class Server:
        async def command(self, *words: bytes) -> Any:
            assert words == (b"INFO", b"memory")
            if isinstance(said, Exception):
                raise said
            return said

    async def story() -> None:
        made = Watched()
        made.stores._links = {"redis://one": Server()}  # type: ignore[dict-item]
        made.stores._roles = {"live": "redis://one", "log": "redis://one"}
        assert await made.stores.memory() == part

    run(story)


def test_the_service_that_leads_the_pacing_looks() -> None:
    async def story() -> None:
        async with running() as shell:
            parts = shell.service._started
            await parts.pacer.step()
            await shell.post(
                "/v1/events", {"events": [shell.event("acted", "e1", user_id="u1", action="viewed")]}
            )
            await parts.watch.step()
            value = shell.service.metrics.registry.get_sample_value
            assert parts.pacer.leads and value("fenliu_log_entries", {}) == 1
            await parts.watch.stop()
            assert value("fenliu_log_entries", {}) is None

    run(story)


class Link:
    """A server's link that is up; a test answers what was sent."""

    up = True

    def __init__(self) -> None:
        self.sinks: list[Any] = []

    def send(self, parts: tuple[bytes, ...], sink: Any) -> None:
        assert parts[0] == b"MGET"
        self.sinks.append(sink)


def test_one_read_in_so_many_is_timed_and_only_one_that_was_answered() -> None:
    link, told = Link(), list[float]()
    fetcher = Fetcher(link)  # type: ignore[arg-type]
    fetcher.timed = told.append
    for _ in range(3 * TIMED):
        fetcher._mget([b"k"], [])
    assert told == []
    for sink in link.sinks[: 2 * TIMED]:
        sink([None])
    for sink in link.sinks[2 * TIMED :]:
        sink(StoreUnavailable("the connection is lost"))
    assert len(told) == 2 and all(seconds >= 0 for seconds in told)
    metrics = Metrics()
    metrics.store_read("live", 0.004)
    said = metrics.registry.get_sample_value
    assert said("fenliu_store_read_seconds_bucket", {"role": "live", "le": "0.005"}) == 1
    assert said("fenliu_store_read_seconds_bucket", {"role": "live", "le": "0.003"}) == 0
