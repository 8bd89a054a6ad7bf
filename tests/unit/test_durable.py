"""What is acknowledged by each level, while the log is away and after; no network, no server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from features.file_spool import FileSpool
from features.log import CannotSync, Entry, LogFull, MemoryLog
from features.spool import MemorySpool, SpoolFull
from features.store import StoreUnavailable
from serving.durable import Durable
from serving.settings import LEVELS, SettingsError
from serving.spool_metrics import SpoolMetrics
from tests.shell import ids, run, running

NOW = 1_760_000_000.0


class Log(MemoryLog):
    """`away`: appending fails; `late`: it is written, and its caller told nothing."""

    def __init__(self) -> None:
        super().__init__(lambda: NOW)
        self.away = self.late = self.full = False
        self.syncs = 0

    async def append(self, entries: Sequence[Entry]) -> list[bool]:
        if self.full:
            raise LogFull("full")
        if self.away:
            raise StoreUnavailable("away")
        fresh = await super().append(entries)
        if self.late:
            raise StoreUnavailable("late")
        return fresh

    async def synced(self) -> None:
        self.syncs += 1

    def ids(self, subject: str) -> list[str]:
        rows = [p.decode() for shard in range(self.shards) for _, p in self.read(shard, "0-0", 1000)]
        return [row.partition("|")[2] for row in rows if row.startswith(subject + "|")]


def entry(name: str, subject: str = "u:a") -> Entry:
    return Entry(name, subject, f"{subject}|{name}".encode())


def made(log: MemoryLog, root: Path, level: str = "stream") -> tuple[Durable, FileSpool]:
    spool = FileSpool(root / "spool", 1 << 16)
    return Durable(
        log, spool, level, SpoolMetrics(CollectorRegistry(), spool, 1, lambda: NOW), clock=lambda: NOW
    ), spool


async def until(true: Any) -> None:
    for _ in range(300):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come true")


async def nothing(_: Sequence[Entry]) -> None: ...


@pytest.mark.parametrize("level", LEVELS[1:])
def test_events_go_to_the_spool_and_behind_what_waits_there(tmp_path: Path, level: str) -> None:
    async def story() -> None:
        log = Log()
        durable, spool = made(log, tmp_path, level)
        assert await durable.append([entry("1")], 0.2) == ([True], 0)
        log.away = True
        assert await durable.append([entry("2"), entry("x", "u:b")], 0.2) == ([True, True], 2)
        assert await durable.append([entry("2"), entry("3")], 0.2) == ([False, True], 2)
        log.away = False
        await durable.append([entry("4")], 0.2)  # the log is back, but 2 and 3 have to be first
        assert log.ids("u:a") == ["1"] and spool.entries == 4
        await durable.start(nothing, lambda: True)
        await until(lambda: not spool.entries)
        assert log.ids("u:a") == ["1", "2", "3", "4"] and log.ids("u:b") == ["x"]
        assert await durable.append([entry("5")], 0.2) == ([True], 0) and log.ids("u:a")[-1] == "5"
        assert bool(log.syncs) == (level == "stream+fsync")
        await durable.stop()

    run(story)


def test_what_was_written_though_nobody_said_so_is_there_once(tmp_path: Path) -> None:
    async def story() -> None:
        log = Log()
        durable, spool = made(log, tmp_path)
        log.late = True
        assert await durable.append([entry("1"), entry("2")], 0.2) == ([True, True], 2)
        log.late = False
        await durable.start(nothing, lambda: True)
        await until(lambda: not spool.entries)
        assert log.ids("u:a") == ["1", "2"]
        await durable.stop()

    run(story)


def test_a_full_log_and_a_full_spool_refuse(tmp_path: Path) -> None:
    async def story() -> None:
        log = Log()
        durable, spool = made(log, tmp_path)
        log.full = True
        with pytest.raises(LogFull):
            await durable.append([entry("1")], 0.2)
        log.full, log.away = False, True
        with pytest.raises(SpoolFull):
            for n in range(1000):
                await durable.append([Entry(f"e{n}", "u:a", bytes(500))], 0.2)
        assert 100 < spool.entries < 200
        none = Durable(log, None, "stream", SpoolMetrics(CollectorRegistry(), None, 0, lambda: NOW))
        with pytest.raises(StoreUnavailable):
            await none.append([entry("1")], 0.2)

    run(story)


def test_the_next_process_drains_and_applies_what_a_killed_one_left(tmp_path: Path) -> None:
    async def story() -> None:
        log, replayed = Log(), list[str]()
        log.away = True
        dead, left = made(log, tmp_path)
        for n in range(7):
            await dead.append([entry(str(n))], 0.2)
        left.close()  # as its end does: nothing is drained, the lock is gone
        log.away, ready = False, []
        await log.append([entry("0")])  # it was written, and the process killed before it knew

        async def replay(entries: Sequence[Entry]) -> None:
            replayed.extend(one.event_id for one in entries)

        living, spool = made(log, tmp_path)
        await living.start(replay, lambda: bool(ready))
        await until(lambda: spool.entries == 7)
        await asyncio.sleep(0.05)
        assert log.ids("u:a") == ["0"] and not replayed  # until what is applied can be
        await living.append([entry("8")], 0.2)
        ready.append(True)
        await until(lambda: not spool.entries)
        assert log.ids("u:a") == [*map(str, range(7)), "8"]
        assert replayed == [*map(str, range(7))]  # the young duplicate again: applying is idempotent
        await living.stop()

    run(story)


def test_level_memory_acknowledges_at_once_and_says_what_it_lost(tmp_path: Path) -> None:
    async def story() -> None:
        log, registry = Log(), CollectorRegistry()
        spool = MemorySpool(10)
        durable = Durable(log, spool, "memory", SpoolMetrics(registry, spool, 1, lambda: NOW))
        log.away = True
        assert await durable.append([entry("1"), entry("2")], 0.2) == ([True, True], 0)
        await durable.start(nothing, lambda: True)
        log.away = False
        await until(lambda: log.ids("u:a") == ["1", "2"])
        log.away = True
        await durable.append([entry("3")], 0.2)
        await durable.stop(0.05)
        assert registry.get_sample_value("fenliu_spool_dropped_total") == 1

    run(story)


def test_a_log_that_cannot_sync_is_refused_at_the_start(tmp_path: Path) -> None:
    async def story() -> None:
        durable, _ = made(MemoryLog(lambda: NOW), tmp_path, "stream+fsync")
        with pytest.raises(SettingsError, match=r"FENLIU_DURABILITY=stream\+fsync: .*in memory"):
            await durable.start(nothing, lambda: True)
        with pytest.raises(CannotSync):
            await durable.append([entry("1")], 0.2)

    run(story)


def test_a_client_is_told_and_the_next_page_knows() -> None:
    async def story() -> None:
        async with running() as shell:
            await shell.know("u1")
            before = await shell.page("u1")
            append = shell.stores.log.append

            async def away(entries: Sequence[Entry]) -> list[bool]:
                raise StoreUnavailable("gone")

            shell.stores.log.append = away  # type: ignore[method-assign]
            liked = ids(before, "home.shelf")[0]
            events = [
                shell.event("acted", f"e{n}", user_id="u1", action="purchased", item_id=liked) for n in "12"
            ]
            told = await shell.post("/v1/events", {"events": events[:1]})
            assert told.status_code == 202
            assert told.json() == {"accepted": 1, "duplicates": 0, "rejected": [], "degraded": ["log"]}
            assert ids(await shell.page("u1")) != ids(before)
            again = await shell.post("/v1/events", {"events": events})
            assert (again.json()["accepted"], again.json()["duplicates"]) == (1, 1)
            said = (await shell.get("/metrics")).text
            assert "fenliu_spool_entries 2.0" in said and "fenliu_spool_spooled_total 2.0" in said
            shell.stores.log.append = append  # type: ignore[method-assign]
            await until(lambda: len(shell.logged("acted")) == 2)
            assert [row["id"] for row in shell.logged("acted")] == ["e1", "e2"]

    run(story)


def test_what_a_dead_replica_held_moves_this_one_s_live_views(tmp_path: Path) -> None:
    """Its events were acknowledged, and neither the log nor the live views had them."""

    async def story() -> None:
        async with running(settings={"spool": tmp_path}) as shell:
            await shell.know("u1")
            page = await shell.page("u1")
            click = shell.event("clicked", "c1", page_token=page["page_token"], index=0)

            async def gone(*_: Any, **__: Any) -> Any:
                raise StoreUnavailable("gone")

            for store in (shell.stores.log, shell.stores.live):
                store.append = gone  # type: ignore[method-assign]
            told = (await shell.post("/v1/events", {"events": [click]})).json()
            assert told["accepted"] == 1 and told["degraded"] == ["log", "live"]
            shell.service._parts.durable._spool.close()  # type: ignore[union-attr]  # its process ends
            shell.service._parts.durable._task.cancel()  # type: ignore[union-attr]
            shell.service._parts.publisher._repairs.clear()  # type: ignore[union-attr]
            async with running(settings={"spool": tmp_path}) as other:
                await until(lambda: other.logged("clicked"))
                for _ in range(100):
                    contact = (await other.stores.live.fetch(other.stores.live.keys("u:u1")))[1]
                    if contact:
                        break
                    await asyncio.sleep(0.01)
                assert contact
            shell.service._parts.durable._task = None  # type: ignore[union-attr]

    run(story)
