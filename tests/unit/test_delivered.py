"""Events into quotas and meters: once, and again when the store was away."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np

from features.events import PLACES, Event
from features.ids import key32, key64
from features.log import MemoryLog
from features.memory_ledger import MemoryLedger
from features.meters import MemoryMeters
from features.store import MemoryBlobs, StoreUnavailable
from serving.control import MemoryControl
from serving.delivered import Delivered
from serving.granting import Granting
from serving.holder import Holder
from serving.observe import Metrics
from serving.publisher import Publisher
from tests.worlds import NOW, market_live, sold, tiny_live


class Flaky:
    """A store of which every call fails while it is away."""

    def __init__(self, store: Any) -> None:
        self.store, self.away = store, False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.store, name)

        async def tried(*args: Any, **rest: Any) -> Any:
            if self.away:
                raise StoreUnavailable("cut on purpose")
            return await found(*args, **rest)

        return tried if asyncio.iscoroutinefunction(found) else found


def scene(live):
    def clock():
        return NOW

    blobs = MemoryBlobs(clock)
    ledger, meters, metrics, holder = (
        Flaky(MemoryLedger(blobs)),
        Flaky(MemoryMeters(clock)),
        Metrics(),
        Holder(),
    )
    if live is not None:
        holder.swap(live)
    publisher = Publisher(MemoryLog(clock), metrics, 100)
    granting = Granting(ledger, MemoryControl(clock), holder, metrics, clock=clock, monotonic=clock)
    delivered = Delivered(ledger, meters, granting, holder, publisher, metrics)
    return SimpleNamespace(
        ledger=ledger, meters=meters, metrics=metrics, publisher=publisher, delivered=delivered
    )


def event(kind="displayed", campaign="c1", decision="d1", late=False, **fields):
    places = np.zeros(1, PLACES)
    places["item"], places["slot"], places["campaign"] = key64("i2"), key32("home.banner"), key32(campaign)
    told = {
        "event_id": "e1", "type": kind, "occurred_at": NOW + 1, "received_at": NOW + 2, "decided_at": NOW,
        "at": NOW + 1, "subject": "u:u1", "user_id": "u1", "visitor_id": None, "decision_id": decision,
        "places": places, "action": None, "item_key": 0, "item_id": None, "amount": None, "currency": None,
        "channel": 1, "late": late, "session_id": None,
    }  # fmt: skip
    return Event(**(told | fields))


LIVE = market_live(sold(1, "i2", quotas=[{"id": "q", "at_most": 3}]), sold(2, "i8"))


async def state(made):
    pool = (await made.ledger.store.pools(["c1/q"]))["c1/q"]
    found = (await made.meters.store.read(["c1"])).get("c1", {})
    return pool.confirmed + pool.late, {unit: one.total for unit, one in found.items()}


def test_a_display_counts_once_in_the_quota_and_the_meter():
    async def story():
        made = scene(LIVE)
        for _ in range(2):
            await made.delivered.count([event()], 1.0)
        await made.delivered.count([event("clicked"), event("dismissed")], 1.0)
        await made.delivered.count([event(decision="d2", late=True)], 1.0)
        return await state(made)

    assert asyncio.run(story()) == (2, {"displayed": 2.0, "clicked": 1.0})


def test_what_is_no_page_or_no_campaign_of_the_plan_counts_nothing():
    async def story(live, *events):
        made = scene(live)
        made.ledger.away = made.meters.away = True  # nothing may be asked
        await made.delivered.count(events, 1.0)
        return made.metrics.registry.get_sample_value("fenliu_store_errors_total", {"what": "delivered"})

    assert asyncio.run(story(None, event())) is None
    assert asyncio.run(story(tiny_live(), event())) is None
    assert asyncio.run(story(LIVE, event(decision=None), event(campaign="gone"))) is None


def test_what_fails_is_counted_and_done_again():
    async def story():
        made = scene(LIVE)
        made.ledger.away = True
        await made.delivered.count([event()], 1.0)
        during = await state(made)
        failed = made.metrics.registry.get_sample_value("fenliu_store_errors_total", {"what": "delivered"})
        made.ledger.away = False
        await made.publisher.start()
        for _ in range(100):
            if (await state(made))[0]:
                break
            await asyncio.sleep(0.02)
        await made.publisher.stop()
        return during, failed, await state(made)

    during, failed, after = asyncio.run(story())
    assert during == (0, {"displayed": 1.0}) and failed == 1 and after == (1, {"displayed": 1.0})
