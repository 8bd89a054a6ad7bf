"""What every feature store does; each implementation inherits the suite."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import numpy as np
import pytest

from features.bulk import bulk_write
from features.schema import Field, Schemas, View
from features.store import FeatureStore, MemoryBlobs, MemoryStore, StoreUnavailable, feature_key

NOW = 1_800_000_000.0
VIEW = View("taste", "user", timedelta(days=1), (Field("a", "<f4"), Field("b", "<u2", (3,), 7)))
ITEMS = View("stock", "item", timedelta(days=1), (Field("left", "<i4", (), -1),))


class FeatureStoreContract(ABC):
    @pytest.fixture(autouse=True)
    def _url(self, request: pytest.FixtureRequest) -> None:
        """Implementations with a server take its URL here."""

    @asynccontextmanager
    @abstractmethod
    async def opened(self) -> AsyncIterator[FeatureStore]:
        yield MemoryStore(MemoryBlobs(lambda: NOW))

    @abstractmethod
    def load(
        self, store: FeatureStore, view: View, version: str, ids: list[str], blobs: np.ndarray
    ) -> None: ...

    def test_nothing_is_known_of_a_stranger(self):
        async def run():
            async with self.opened() as store:
                assert await store.fetch([b"no", b"none"]) == [None, None]
                read = await store.read(VIEW, ["x"], version="v1", now=NOW)
            assert read.problems == ("absent",)
            assert not read.present[0]
            assert read.records["b"].tolist() == [[7, 7, 7]]

        asyncio.run(run())

    def test_a_fetch_of_nothing_is_empty(self):
        async def run():
            async with self.opened() as store:
                assert await store.fetch([]) == []

        asyncio.run(run())

    def test_records_come_back_bit_for_bit_in_the_order_asked(self):
        rng = np.random.default_rng(7)
        records = VIEW.blank(2000)
        records["a"], records["b"] = rng.normal(size=2000), rng.integers(0, 9, (2000, 3))
        blobs = VIEW.pack(records, as_of=NOW)
        ids = [f"客户{i}" if i % 2 else f"u{i}" for i in range(2000)]
        order = rng.permutation(2000)

        async def run():
            async with self.opened() as store:
                self.load(store, VIEW, "v1", ids, blobs)
                read = await store.read(VIEW, [ids[i] for i in order], version="v1", now=NOW)
                raw = await store.fetch([feature_key("v1", "taste", ids[i]) for i in order])
            assert read.present.all()
            assert read.records.tobytes() == records[order].tobytes()
            assert raw == [blobs[i].tobytes() for i in order]

        asyncio.run(run())

    def test_versions_views_and_entities_do_not_mix(self):
        one, two = VIEW.blank(1), VIEW.blank(1)
        one["a"], two["a"] = 1, 2

        async def run():
            async with self.opened() as store:
                self.load(store, VIEW, "v1", ["x"], VIEW.pack(one, as_of=NOW))
                self.load(store, VIEW, "v2", ["x"], VIEW.pack(two, as_of=NOW))
                self.load(store, ITEMS, "v1", ["x"], ITEMS.pack(ITEMS.blank(1), as_of=NOW))
                first = await store.read(VIEW, ["x"], version="v1", now=NOW)
                second = await store.read(VIEW, ["x"], version="v2", now=NOW)
                item = await store.read(ITEMS, ["x"], version="v1", now=NOW)
                none = await store.read(ITEMS, ["x"], version="v2", now=NOW)
            assert (first.records["a"][0], second.records["a"][0]) == (1, 2)
            assert item.present[0]
            assert none.problems == ("absent",)

        asyncio.run(run())

    def test_an_old_watermark_is_expired_and_a_foreign_declaration_a_schema_problem(self):
        older = View("taste", "user", timedelta(days=1), (Field("a", "<f4"),))
        stranger = View("taste", "user", timedelta(days=1), (Field("z", "<f8"),))

        async def run():
            async with self.opened() as store:
                self.load(store, VIEW, "v1", ["late"], VIEW.pack(VIEW.blank(1), as_of=NOW - 2 * 86_400))
                self.load(store, older, "v1", ["old"], older.pack(older.blank(1), as_of=NOW))
                self.load(store, stranger, "v1", ["odd"], stranger.pack(stranger.blank(1), as_of=NOW))
                ids = ["late", "old", "odd", "none"]
                return await store.read(VIEW, ids, version="v1", now=NOW, schemas=Schemas([older]))

        read = asyncio.run(run())
        assert read.problems == ("expired", "", "schema", "absent")
        assert read.known[1] == VIEW.bit("a")

    def test_concurrent_fetches_each_get_their_own(self):
        blobs = VIEW.pack(VIEW.blank(300), as_of=NOW + np.arange(300))
        ids = [f"c{i}" for i in range(300)]
        keys = [feature_key("v1", "taste", one) for one in ids]

        async def run():
            async with self.opened() as store:
                self.load(store, VIEW, "v1", ids, blobs)
                return await asyncio.gather(*(store.fetch(keys[i : i + 3]) for i in range(298)))

        for i, got in enumerate(asyncio.run(run())):
            assert got == [blobs[j].tobytes() for j in range(i, i + 3)]

    def test_a_caller_whose_time_is_up_does_not_disturb_the_others(self):
        blobs = VIEW.pack(VIEW.blank(1), as_of=NOW)
        key = feature_key("v1", "taste", "x")

        async def run():
            async with self.opened() as store:
                self.load(store, VIEW, "v1", ["x"], blobs)
                tasks = [asyncio.create_task(store.fetch([key])) for _ in range(8)]
                await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
                got = await asyncio.gather(*tasks, return_exceptions=True)
                assert await store.fetch([key]) == [blobs.tobytes()]
            assert all(one == [blobs.tobytes()] for one in got[1::2])

        asyncio.run(run())


class TestMemoryStore(FeatureStoreContract):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[MemoryStore]:
        yield MemoryStore(MemoryBlobs(lambda: NOW))

    def load(self, store, view, version, ids, blobs):
        assert store.load(view, version, ids, blobs) == len(ids)

    def test_the_ttl_follows_the_clock(self):
        now = [NOW]
        store = MemoryStore(MemoryBlobs(lambda: now[0]))
        store.load(VIEW, "v1", ["x"], VIEW.pack(VIEW.blank(1), as_of=NOW), ttl_s=10)
        key = feature_key("v1", "taste", "x")
        now[0] += 9.9
        assert asyncio.run(store.fetch([key]))[0] is not None
        now[0] += 0.2
        assert asyncio.run(store.fetch([key])) == [None]


class ServerStoreContract(FeatureStoreContract):
    url: str

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[FeatureStore]:
        from features.redis_store import RedisStore

        store = RedisStore.at(self.url)
        try:
            yield store
        finally:
            await store.close()

    def load(self, store, view, version, ids, blobs):
        assert bulk_write(self.url, view, version, ids, blobs) == len(ids)

    def test_fetches_of_one_tick_are_one_mget(self):
        from features.redis_address import parse_address
        from features.redis_resp import RespLink
        from features.redis_store import MGET_KEYS, Fetcher

        async def run():
            link = RespLink(parse_address(self.url))
            fetcher = Fetcher(link)
            await fetcher.fetch([b"warm"])
            before = fetcher.commands
            await asyncio.gather(*(fetcher.fetch([b"a", b"b"]) for _ in range(50)))
            together = fetcher.commands - before
            await fetcher.fetch([b"k%d" % i for i in range(3 * MGET_KEYS)])
            await link.close()
            return together, fetcher.commands - before - together

        assert asyncio.run(run()) == (1, 3)

    def test_a_closed_store_is_unavailable(self):
        async def run():
            async with self.opened() as store:
                await store.fetch([b"a"])
            with pytest.raises(StoreUnavailable):
                await store.fetch([b"a"])

        asyncio.run(run())


@pytest.mark.integration
class TestEmbeddedValkeyStore(ServerStoreContract):
    @pytest.fixture(autouse=True)
    def _url(self, valkey_url: str) -> None:
        self.url = valkey_url


@pytest.mark.integration
class TestRedisServerStore(ServerStoreContract):
    @pytest.fixture(autouse=True)
    def _url(self, redis_url: str) -> None:
        self.url = redis_url
