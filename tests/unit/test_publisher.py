"""The queue of served records: bounded, patient with a log that is away, empty when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from features.log import Entry, LogFull, MemoryLog
from features.store import StoreUnavailable
from serving.observe import Metrics
from serving.publisher import Publisher


def entry(number: int) -> Entry:
    return Entry(f"e{number}", f"u:{number % 7}", b"x%d" % number)


class Fickle(MemoryLog):
    """A log that refuses as often as it is told to."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.refusals: list[Exception] = []

    async def append(self, entries: Sequence[Entry]) -> list[bool]:
        if self.refusals:
            raise self.refusals.pop()
        return await super().append(entries)


def counted(metrics: Metrics, name: str) -> float:
    return metrics.registry.get_sample_value(name) or 0.0


def test_everything_queued_is_written_once_before_the_end() -> None:
    async def story() -> None:
        log, metrics = Fickle(), Metrics()
        publisher = Publisher(log, metrics, 1000, every_s=0.01)
        await publisher.start()
        for number in range(450):
            assert publisher.put(lambda n=number: entry(n))  # type: ignore[misc]
        await publisher.stop()
        assert log.length() == 450 and len(publisher) == 0
        assert counted(metrics, "fenliu_served_written_total") == 450

    asyncio.run(story())


@pytest.mark.parametrize("refusal", [StoreUnavailable("away"), LogFull("full")])
def test_a_log_that_is_away_loses_nothing(refusal: Exception) -> None:
    async def story() -> None:
        log, metrics = Fickle(), Metrics()
        log.refusals = [refusal, refusal]
        publisher = Publisher(log, metrics, 1000, every_s=0.01)
        await publisher.start()
        for number in range(5):
            publisher.put(lambda n=number: entry(n))  # type: ignore[misc]
        for _ in range(200):
            await asyncio.sleep(0.01)
            if log.length() == 5:
                break
        assert log.length() == 5 and not log.refusals
        await publisher.stop()

    asyncio.run(story())


def test_a_full_queue_drops_the_newest_and_counts_it() -> None:
    metrics = Metrics()
    publisher = Publisher(Fickle(), metrics, 3)
    assert [publisher.put(lambda: entry(1)) for _ in range(5)] == [True, True, True, False, False]
    assert counted(metrics, "fenliu_served_dropped_total") == 2


def test_what_cannot_be_written_before_the_end_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        log, metrics = Fickle(), Metrics()
        log.refusals = [StoreUnavailable("away")] * 100
        publisher = Publisher(log, metrics, 10, every_s=0.01)
        await publisher.start()
        publisher.put(lambda: entry(1))
        await publisher.stop(patience_s=0.1)
        assert counted(metrics, "fenliu_served_dropped_total") == 1

    asyncio.run(story())
    assert "1 served records could not be written" in caplog.text


def test_a_record_that_cannot_be_packed_does_not_stop_those_behind_it() -> None:
    async def story() -> None:
        log, metrics = Fickle(), Metrics()
        publisher = Publisher(log, metrics, 10)

        def broken() -> Entry:
            raise ValueError("no such field")

        publisher.put(broken)
        publisher.put(lambda: entry(2))
        await publisher.flush()
        assert log.length() == 1
        labels = {"where": "publisher"}
        assert metrics.registry.get_sample_value("fenliu_failures_total", labels) == 1

    asyncio.run(story())


def test_repairs_are_tried_until_they_succeed() -> None:
    async def story() -> None:
        publisher, tries = Publisher(Fickle(), Metrics(), 10, every_s=0.005), [0]

        async def work() -> None:
            tries[0] += 1
            if tries[0] < 3:
                raise StoreUnavailable("away")

        await publisher.start()
        publisher.repair(work)
        for _ in range(200):
            await asyncio.sleep(0.01)
            if tries[0] == 3:
                break
        await asyncio.sleep(0.05)
        await publisher.stop()
        assert tries == [3]

    asyncio.run(story())


def test_an_unforeseen_failure_of_the_log_does_not_end_the_writing(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        log, metrics = Fickle(), Metrics()
        log.refusals = [RuntimeError("never seen before")]
        publisher = Publisher(log, metrics, 1000, every_s=0.005)
        await publisher.start()
        for number in range(5):
            publisher.put(lambda n=number: entry(n))  # type: ignore[misc]
        for _ in range(200):
            await asyncio.sleep(0.005)
            if log.length() == 5:
                break
        assert log.length() == 5
        await publisher.stop()

    asyncio.run(story())
    assert "never seen before" in caplog.text


def test_repairs_go_on_while_the_log_is_full_and_past_one_that_cannot_be_done() -> None:
    async def story() -> None:
        log, metrics, done = Fickle(), Metrics(), list[int]()
        log.refusals = [LogFull("full")] * 1000
        publisher = Publisher(log, metrics, 1000, every_s=0.005)
        publisher.put(lambda: entry(1))

        async def impossible() -> None:
            raise ValueError("not an entry")

        async def possible() -> None:
            done.append(1)

        assert publisher.repair(impossible) and publisher.repair(possible)
        await publisher.start()
        for _ in range(200):
            await asyncio.sleep(0.005)
            if done:
                break
        assert done == [1]
        log.refusals = []
        await publisher.stop()
        assert log.length() == 1

    asyncio.run(story())
