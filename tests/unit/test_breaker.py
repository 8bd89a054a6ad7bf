"""The circuit breaker around a store: when it opens and closes, and what pages are while it is open."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from features.store import StoreUnavailable
from serving.breaker import GOOD, PROBE_S, Breaker
from tests.shell import Shell, run, running
from tests.worlds import sold, tiny_plan


class Watch:
    def __init__(self) -> None:
        self.now, self.changes = 0.0, list[bool]()
        self.breaker = Breaker(lambda: self.now, self.changes.append)


def test_it_opens_after_late_answers_in_a_row_and_not_for_a_few() -> None:
    watch = Watch()
    for good in [False] * 5 + [True] * 20 + [True, False] * 40:
        watch.breaker.told(good)
        assert not watch.breaker.open and watch.breaker.allows()
    for _ in range(8):
        watch.breaker.told(False)
    assert watch.breaker.open and watch.changes == [True] and not watch.breaker.allows()


def test_an_open_one_probes_now_and_then_and_closes_after_good_ones_in_a_row() -> None:
    watch = Watch()
    for _ in range(10):
        watch.breaker.told(False)
    watch.now += PROBE_S
    assert watch.breaker.allows() and not watch.breaker.allows()  # one probe at a time
    for good in (True, True, False, *[True] * GOOD):
        assert watch.breaker.open
        watch.breaker.told(good)
    assert not watch.breaker.open and watch.changes == [True, False] and watch.breaker.allows()
    watch.breaker.told(False)
    assert not watch.breaker.open  # what was late before is forgotten


class Store:
    """The live store's reads, as a test wants them: good, slow, stopped, killed or flushed."""

    def __init__(self, shell: Shell) -> None:
        self.how, self.asked = "good", 0
        self._store, self._fetch = shell.stores.live, shell.stores.live.fetch
        self._store.fetch = self.fetch  # type: ignore[method-assign]

    async def fetch(self, keys: Sequence[bytes], timeout_s: float | None = None) -> list[bytes | None]:
        self.asked += 1
        if self.how == "killed":
            raise StoreUnavailable("the connection is gone")
        if self.how == "flushed":
            return [None] * len(keys)
        waits = {"slow": 0.1, "stopped": 60.0}.get(self.how, 0.0)
        if waits:
            await asyncio.sleep(min(waits, timeout_s or waits))
            raise StoreUnavailable("the store did not answer in time")
        return await self._fetch(keys, timeout_s)


def sample(shell: Shell, name: str, **labels: str) -> float:
    return shell.service.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize("how", ["slow", "stopped", "killed"])
def test_a_store_that_does_not_answer_is_left_alone_until_it_does(how: str) -> None:
    plan = tiny_plan(campaigns=[sold(1, "i14", values={"click": 100.0}, caps=[{"most": 3, "window": "1d"}])])
    settings = {"read_timeout_s": 0.002}

    async def story() -> None:
        async with running(plan=plan, settings=settings) as shell:
            await shell.know("u1")
            store = Store(shell)
            usual = await shell.page("u1")
            assert usual["degraded"] == [] and any(_campaigns(usual))
            store.how = how
            for _ in range(8):
                page = await shell.page("u1")
                assert "live" in page["degraded"] and _filled(page)
            asked = store.asked
            page = await shell.page("u1")
            assert store.asked == asked  # nobody waits for it any more
            assert {"store", "live"} <= set(page["degraded"]) and _filled(page) and not any(_campaigns(page))
            assert sample(shell, "fenliu_breaker_open", role="live") == 1
            store.how = "good"
            for _ in range(GOOD):
                await asyncio.sleep(PROBE_S * 1.05)
                page = await shell.page("u1")
            page = await shell.page("u1")
            assert page["degraded"] == [] and any(_campaigns(page))
            assert sample(shell, "fenliu_breaker_open", role="live") == 0
            opened = sample(shell, "fenliu_breaker_changes_total", role="live", to="open")
            assert opened == sample(shell, "fenliu_breaker_changes_total", role="live", to="closed") == 1

    run(story)


def test_a_store_that_was_flushed_answers_so_pages_are_a_strangers() -> None:
    async def story() -> None:
        async with running() as shell:
            store = Store(shell)
            await shell.page("u1")
            store.how = "flushed"
            for _ in range(12):
                page = await shell.page("u1")
                assert _filled(page) and "store" not in page["degraded"]
            assert sample(shell, "fenliu_breaker_open", role="live") == 0

    run(story)


def _filled(page: dict[str, Any]) -> bool:
    return [len(slot["items"]) for slot in page["slots"]] == [3, 5, 4, 1, 3, 6]


def _campaigns(page: dict[str, Any]) -> list[str | None]:
    return [item["campaign_id"] for slot in page["slots"] for item in slot["items"]]
