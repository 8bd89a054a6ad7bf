"""A replica's leases: what it may spend, until when, and what it gives back."""

from __future__ import annotations

import asyncio

import pytest

from features.leases import Leases, Terms
from features.ledger import Pool, bucket_ends, bucket_of
from features.memory_ledger import MemoryLedger
from features.store import MemoryBlobs, StoreUnavailable

NOW = 1_800_000_000.0


class Scene:
    """One replica beside a ledger; `skew`: its wall clock is ahead of the store's by so much."""

    def __init__(self, at_most: int = 100, skew: float = 0.0) -> None:
        self.now, self.skew = NOW, skew
        self.ledger = MemoryLedger(MemoryBlobs(lambda: self.now))
        asyncio.run(self.ledger.open_epoch(known=False))
        self.leases = Leases(self.ledger, clock=lambda: self.wall, monotonic=lambda: self.now + 5)
        self.leases.watch({"q": Terms(at_most, 100.0)})

    @property
    def wall(self) -> float:
        return self.now + self.skew

    @property
    def pool(self) -> Pool:
        return asyncio.run(self.ledger.pools(["q"]))["q"]

    def renew(self) -> None:
        asyncio.run(self.leases.renew())

    def take(self) -> bool:
        return self.leases.take("q", self.wall)


def test_nothing_is_taken_before_a_lease_or_of_an_unknown_quota():
    scene = Scene()
    assert not scene.take() and not scene.leases.take("other", NOW)
    scene.renew()
    assert scene.take() and scene.leases.left("q", NOW) == 3


def test_the_limit_is_the_limit():
    scene = Scene(at_most=6)
    taken = 0
    for _ in range(20):
        scene.renew()
        taken += scene.take()
        scene.now += 0.3  # stays in one bucket and past the pause after an empty pool
    assert taken == 6


def test_a_unit_that_is_put_back_is_taken_again():
    scene = Scene(at_most=1)
    scene.renew()
    assert scene.take() and not scene.take()
    scene.leases.put_back("q", NOW)
    scene.leases.put_back("q", NOW)  # one too many changes nothing
    assert scene.take() and not scene.take()


@pytest.mark.parametrize("skew", [0.0, -1.5])
def test_spending_stops_2_s_before_the_end_by_the_monotonic_clock(skew):
    scene = Scene(skew=skew)
    scene.renew()
    bucket = bucket_of(scene.wall)
    scene.now = bucket_ends(bucket) - 2.01
    assert bucket_of(scene.wall) == bucket and scene.take()
    scene.now += 0.02
    assert not scene.leases.take(
        "q", bucket_ends(bucket) - 3.0
    )  # a page decided before, or a slow wall clock


def test_the_next_bucket_is_there_before_it_is_needed_and_the_rest_is_given_back():
    scene = Scene()
    scene.renew()
    assert scene.take()
    scene.now = bucket_ends(bucket_of(NOW)) - 2.5
    scene.renew()
    scene.now += 1.0
    assert scene.take()
    scene.renew()
    assert scene.pool.outstanding == 1 + 4  # the unit of a page, and what the present bucket holds in all


def test_an_older_epoch_is_void_and_not_given_back():
    scene = Scene()
    scene.renew()
    assert scene.take()
    asyncio.run(scene.ledger.renew_epoch())
    assert not scene.take()
    scene.renew()
    assert scene.take() and scene.pool.outstanding == 4 + 4


def test_a_quota_that_is_watched_no_more_goes_back_and_so_does_all_at_the_end():
    scene = Scene()
    scene.renew()
    scene.take()
    scene.leases.watch({})
    assert not scene.take()
    scene.renew()
    assert scene.pool == Pool(0, 0, 1)
    scene.leases.watch({"q": Terms(100, 100.0)})
    scene.renew()
    asyncio.run(scene.leases.close())
    assert scene.pool == Pool(0, 0, 1)


def test_the_loop_survives_a_store_that_is_away():
    scene = Scene()
    asked = []

    async def away(*_: object) -> int:
        asked.append(1)
        raise StoreUnavailable("away")

    async def whole() -> bool:
        scene.ledger.see_epoch = away  # type: ignore[method-assign]
        task = asyncio.create_task(scene.leases.run())
        await asyncio.sleep(0.02)
        task.cancel()
        return task.done()

    asyncio.run(whole())
    assert asked == [1]


def test_more_is_fetched_where_more_is_taken():
    scene = Scene(at_most=100_000)
    refused = []
    for tick in range(400):
        scene.now = NOW + tick / 10
        if tick % 5 == 0:
            scene.renew()
        refused.append(sum(not scene.take() for _ in range(20)))
    assert sum(refused[200:]) == 0
