"""Prices come into force at a poll, without anything being built; what is garbage is counted and left."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from serving.control import PACER, MemoryControl
from serving.holder import OLD_PRICES_S, Holder
from serving.observe import Metrics
from serving.prices import NO_PRICES, PriceColumns, Prices, version_of
from serving.reload import Reloader
from serving.settings import Settings


@dataclass(frozen=True)
class View:
    """A `Live` as far as the holder looks into it."""

    plan: Any
    price: PriceColumns | None = None

    def priced(self, prices):
        return replace(self, price=prices.columns(self.plan.campaigns))

    def taught(self, learned):
        return self


class NoBundles:
    def live(self):
        return None

    def load(self, version):
        raise AssertionError("nothing is to be built")


def plan(*ids, goals=(1,)):
    return SimpleNamespace(campaigns=SimpleNamespace(ids=ids, goals=goals, quotas=()))


class Rig:
    def __init__(self):
        self.now, self.wall = 100.0, 1.7e9
        self.control = MemoryControl(lambda: self.wall)
        self.holder = Holder(lambda: self.now)
        self.metrics = Metrics()
        self.reloader = Reloader(
            self.control, self.holder, Settings(), self.metrics, NoBundles(), clock=lambda: self.wall
        )

    async def put(self, sequence, price, *, made_at=None):
        fence = await self.control.lead(PACER, "a", 60)
        prices = Prices(version_of(fence, sequence), made_at or self.wall, per_display={"c1": price})
        assert await self.control.put_prices(prices)
        await self.reloader.poll()

    def sets(self, result):
        return self.metrics.registry.get_sample_value("fenliu_price_sets_total", {"result": result}) or 0.0


@pytest.fixture
def rig():
    return Rig()


def test_new_prices_go_under_the_running_view(rig):
    view = View(plan("c1", "c2"))
    rig.holder.swap(view)
    assert rig.holder.live.price.display.tolist() == [0.0, 0.0]
    asyncio.run(rig.put(1, 0.5))
    live = rig.holder.live
    assert live.price.display.tolist() == [0.5, 0.0]
    assert live.plan is view.plan
    assert view.price is None


def test_a_new_plan_has_the_prices_in_force(rig):
    asyncio.run(rig.put(1, 0.5))
    rig.holder.swap(View(plan("new", "c1")))
    assert rig.holder.live.price.display.tolist() == [0.0, 0.5]
    rig.holder.swap(View(plan()))
    assert len(rig.holder.live.price) == 0


def test_a_blob_is_taken_once(rig):
    async def steps():
        await rig.put(1, 0.5)
        await rig.reloader.poll()
        await rig.reloader.poll()
        await rig.put(2, 0.6)

    asyncio.run(steps())
    assert rig.sets("taken") == 2
    assert rig.holder.prices.per_display == {"c1": 0.6}


@pytest.mark.parametrize(
    "blob",
    [b"no json", b'{"version": 9e99}', Prices(version_of(1, 1), 1.0, per_display={"c1": 9.0}).encode()],
)
def test_garbage_and_an_old_leaders_prices_are_refused_once_and_the_last_good_hold(rig, blob):
    async def steps():
        await rig.put(1, 0.5)
        rig.control._prices = ("other", blob, b"")
        await rig.reloader.poll()
        await rig.reloader.poll()

    asyncio.run(steps())
    assert rig.holder.prices.per_display == {"c1": 0.5}
    assert (rig.sets("taken"), rig.sets("refused")) == (1, 1)
    asyncio.run(rig.put(2, 0.7))
    assert rig.holder.prices.per_display == {"c1": 0.7}


def test_old_prices_are_said_where_something_is_promised(rig):
    rig.holder.swap(View(plan("c1")))
    asyncio.run(rig.put(1, 0.5))
    assert not rig.holder.prices_stale
    rig.now += OLD_PRICES_S + 0.1
    assert rig.holder.prices_stale
    assert rig.holder.live.price.display.tolist() == [0.5]  # they hold
    rig.holder.swap(View(plan("c1", goals=())))
    assert not rig.holder.prices_stale
    rig.holder.swap(View(plan("c1")))
    asyncio.run(rig.put(2, 0.5))
    assert not rig.holder.prices_stale


def test_prices_that_lay_there_since_their_pacer_died_are_old_at_once(rig):
    rig.holder.swap(View(plan("c1")))
    asyncio.run(rig.put(1, 0.5, made_at=rig.wall - 60))
    assert rig.holder.prices_stale
    asyncio.run(rig.put(2, 0.5, made_at=rig.wall - 60))  # a pacer with another clock, but alive
    assert not rig.holder.prices_stale


def test_no_prices_at_all_are_old_after_a_while(rig):
    rig.holder.swap(View(plan("c1")))
    assert rig.holder.prices is NO_PRICES
    assert not rig.holder.prices_stale
    rig.now += OLD_PRICES_S + 0.1
    assert rig.holder.prices_stale
