"""The event log's contract, which every implementation inherits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from features.log import (
    MARK_TTL_S,
    START,
    CannotSync,
    Entry,
    EventLog,
    LogFull,
    MemoryLog,
    gone_key,
    order_of,
    shard_of,
)
from features.redis_erase import note_gone
from features.redis_log import RedisLog
from features.redis_plain import opened
from features.store import StoreUnavailable

Make = Callable[..., EventLog]


def entry(number: int, subject: str = "u:ann", payload: bytes | None = None) -> Entry:
    return Entry(f"e{number}", subject, b"p%d" % number if payload is None else payload)


def everything(log: EventLog, count: int = 1000) -> dict[int, list[bytes]]:
    return {shard: [payload for _, payload in log.read(shard, START, count)] for shard in range(log.shards)}


def run(make: Make, work, **options) -> None:
    """`work` on a fresh log, in one event loop, closed behind it."""

    async def whole() -> None:
        log = make(**options)
        try:
            await work(log)
        finally:
            await log.close()

    asyncio.run(whole())


class EventLogContract:
    """Fixtures: `make(**options)` opens the log of one empty store, `pass_marks` lets the marks run out."""

    def test_what_is_appended_is_read_in_order(self, make: Make):
        async def work(log):
            entries = [entry(i, f"u:{i % 7}", bytes([i, 0, 255, 13, 10])) for i in range(50)]
            assert await log.append(entries) == [True] * 50
            found = everything(log)
            for subject in {one.subject for one in entries}:
                mine = [one.payload for one in entries if one.subject == subject]
                shard = found[shard_of(subject, log.shards)]
                assert [payload for payload in shard if payload in mine] == mine
            assert sum(map(len, found.values())) == log.length() == 50
            assert sum(log.length(shard) for shard in range(log.shards)) == 50

        run(make, work)

    def test_an_empty_log(self, make: Make):
        async def work(log):
            assert await log.append([]) == []
            assert log.length() == 0 and log.read(0, START, 10) == []
            assert log.committed() == dict.fromkeys(range(log.shards), START)
            assert log.trim(0, "5-0") == 0

        run(make, work)

    def test_reading_goes_on_behind_an_offset(self, make: Make):
        async def work(log):
            await log.append([entry(i) for i in range(25)])
            shard = shard_of("u:ann", log.shards)
            after, pages = START, []
            while page := log.read(shard, after, 10):
                pages.append([payload for _, payload in page])
                offsets = [order_of(offset) for offset, _ in page]
                assert offsets == sorted(set(offsets)) and offsets[0] > order_of(after)
                after = page[-1][0]
            assert [len(page) for page in pages] == [10, 10, 5]
            assert [payload for page in pages for payload in page] == [b"p%d" % i for i in range(25)]
            await log.append([entry(99)])
            assert [payload for _, payload in log.read(shard, after, 10)] == [b"p99"]

        run(make, work)

    def test_an_id_counts_once(self, make: Make):
        async def work(log):
            assert await log.append([entry(1), entry(2), entry(1)]) == [True, True, False]
            assert await log.append([entry(2), entry(3)]) == [False, True]
            assert log.length() == 3

        run(make, work)

    def test_a_race_is_won_once(self, make: Make):
        async def work(log):
            entries = [entry(i, f"u:{i}") for i in range(20)]
            answers = await asyncio.gather(*(log.append(entries) for _ in range(10)))
            assert [sum(column) for column in zip(*answers, strict=True)] == [1] * 20
            assert log.length() == 20

        run(make, work)

    def test_a_mark_runs_out(self, make: Make, pass_marks):
        async def work(log):
            assert await log.append([entry(1)]) == [True]
            assert await log.append([entry(1)]) == [False]
            pass_marks()
            assert await log.append([entry(1)]) == [True]

        run(make, work, short_marks=True)

    def test_a_full_log_refuses_and_drops_nothing(self, make: Make):
        async def work(log):
            assert await log.append([entry(1), entry(2)]) == [True, True]
            with pytest.raises(LogFull):
                await log.append([entry(3), entry(4)])
            assert await log.append([entry(1), entry(2)]) == [False, False]
            assert await log.append([entry(3)]) == [True]
            with pytest.raises(LogFull):
                await log.append([entry(5)])
            shard = shard_of("u:ann", log.shards)
            assert [payload for _, payload in log.read(shard, START, 9)] == [b"p1", b"p2", b"p3"]
            second = log.read(shard, START, 2)[-1][0]
            log.commit({shard: second})
            assert log.trim(shard, second) == 2
            assert await log.append([entry(5)]) == [True]

        run(make, work, max_entries=3)

    def test_trimming_stops_at_what_is_committed(self, make: Make):
        async def work(log):
            await log.append([entry(i) for i in range(5)])
            shard = shard_of("u:ann", log.shards)
            offsets = [offset for offset, _ in log.read(shard, START, 9)]
            assert log.trim(shard, offsets[-1]) == 0
            log.commit({shard: offsets[1]})
            assert log.trim(shard, offsets[-1]) == 2
            assert log.trim(shard, offsets[0]) == 0
            assert [offset for offset, _ in log.read(shard, START, 9)] == offsets[2:]
            assert log.committed()[shard] == offsets[1]
            log.commit({})
            assert log.committed()[shard] == offsets[1]

        run(make, work)

    def test_offsets_go_on_after_everything_was_trimmed(self, make: Make):
        async def work(log):
            await log.append([entry(1)])
            shard = shard_of("u:ann", log.shards)
            ((offset, _),) = log.read(shard, START, 9)
            log.commit({shard: offset})
            log.trim(shard, offset)
            await log.append([entry(2)])
            assert [payload for _, payload in log.read(shard, offset, 9)] == [b"p2"]

        run(make, work)

    def test_what_waits_for_ingest_is_told_with_the_age_of_the_oldest(self, make: Make):
        async def work(log):
            assert log.backlog() == (0, None)
            await log.append([entry(1, "u:ann"), entry(2, "u:bob"), entry(3, "u:ann")])
            entries, oldest = log.backlog()
            assert entries == 3 and oldest is not None
            shard = shard_of("u:ann", log.shards)
            assert shard != shard_of("u:bob", log.shards)
            for one in (shard, shard_of("u:bob", log.shards)):
                rows = log.read(one, START, 9)
                log.commit({one: rows[-1][0]})
                log.trim(one, rows[-1][0])
                entries, oldest = log.backlog()
                assert (entries, oldest is None) == ((1, False) if one == shard else (0, True))

        run(make, work)

    def test_an_offset_that_is_none_is_refused(self, make: Make):
        async def work(log):
            with pytest.raises(ValueError):
                log.read(0, "yesterday", 1)

        run(make, work)


class TestMemoryLog(EventLogContract):
    @pytest.fixture
    def clock(self):
        return [1_760_000_000.0]

    @pytest.fixture
    def make(self, clock) -> Make:
        return lambda short_marks=False, **options: MemoryLog(lambda: clock[0], **options)

    @pytest.fixture
    def pass_marks(self, clock):
        def passing() -> None:
            clock[0] += MARK_TTL_S

        return passing

    def test_the_oldest_that_waits_is_told_by_the_clock(self, make: Make, clock):
        async def work(log):
            first = clock[0]
            await log.append([entry(1)])
            clock[0] += 90
            await log.append([entry(2)])
            assert log.backlog() == (2, first)
            shard = shard_of("u:ann", log.shards)
            log.commit({shard: log.read(shard, START, 1)[0][0]})
            assert log.backlog() == (2, first + 90)  # committed, not trimmed yet

        run(make, work)

    def test_who_was_erased_is_known(self, make: Make, clock):
        async def work(log):
            log.forget(["u:gone"])
            assert await log.forgotten({"u:gone", "u:kept"}) == {"u:gone": clock[0]}

        run(make, work)

    def test_memory_is_on_no_disk(self, make: Make):
        async def work(log):
            with pytest.raises(CannotSync):
                await log.synced()

        run(make, work)

    def test_another_log_has_another_name(self, make: Make):
        one, two = make(), make()
        assert one.name != two.name and one.name == one.name


class RedisLogContract(EventLogContract):
    @pytest.fixture
    def make(self, url) -> Make:
        def opened(short_marks: bool = False, **options) -> RedisLog:
            return RedisLog(url, **({"mark_ttl_s": 1} if short_marks else {}), **options)

        return opened

    @pytest.fixture
    def pass_marks(self, url):
        """The server's own clock cannot be moved: the marks are taken away as their TTL would."""

        def passing() -> None:
            with opened(url) as store:
                marks = store.keys("*:m:*")
                assert marks and all(0 < store.pttl(mark) <= 1000 for mark in marks)
                store.delete(*marks)

        return passing

    def test_syncing_waits_for_the_disk_or_says_what_it_needs(self, make: Make, url):
        async def work(log):
            await log.append([entry(1)])
            with opened(url) as store:
                version = tuple(map(int, store.info("server")["redis_version"].split(".")))
            if version < (7, 2):
                with pytest.raises(CannotSync, match=r"7\.2"):
                    await log.synced()
                return
            await log.synced()
            await log.append([entry(2)])
            link = log._link
            link._protocol.abort()  # another connection would say yes of writes that are not its own
            with pytest.raises(StoreUnavailable):
                await log.synced()

        run(make, work)

    def test_the_oldest_that_waits_is_told_by_the_servers_clock(self, make: Make, url):
        async def work(log):
            with opened(url) as store:
                store.xadd("log:{3}:stream", {"p": b"new"}, id="1800000000500-0")
                store.xadd("log:{5}:stream", {"p": b"old"}, id="1700000000250-0")
                store.xadd("log:{5}:stream", {"p": b"next"}, id="1750000000000-7")
            assert log.backlog() == (3, 1_700_000_000.25)
            log.commit({5: "1700000000250-0"})
            assert log.backlog() == (3, 1_750_000_000.0)

        run(make, work)

    def test_who_was_erased_is_known_and_not_by_name(self, make: Make, url):
        async def work(log):
            note_gone(url, ["u:gone"], 12.5)
            assert await log.forgotten({"u:gone", "u:kept"}) == {"u:gone": 12.5}
            assert await log.forgotten(set()) == {}
            with opened(url) as store:
                assert store.exists(gone_key("u:gone")) and b"gone" not in gone_key("u:gone")[9:]

        run(make, work)

    def test_the_name_stays_until_the_store_is_wiped(self, make: Make, url):
        async def work(log):
            with RedisLog(url) as other:
                assert log.name == other.name
            with opened(url) as store:
                store.flushall()
            with RedisLog(url) as other:
                assert other.name != log.name

        run(make, work)

    def test_a_mark_lives_for_two_days(self, make: Make, url):
        async def work(log):
            await log.append([entry(1)])
            with opened(url) as store:
                (mark,) = store.keys("*:m:e1")
                assert MARK_TTL_S - 60 < store.ttl(mark) <= MARK_TTL_S

        run(make, work)

    def test_a_server_that_forgot_the_script_is_told_again(self, make: Make, url):
        async def work(log):
            assert await log.append([entry(1)]) == [True]
            with opened(url) as store:
                store.script_flush()
            assert await log.append([entry(1), entry(2)]) == [False, True]

        run(make, work)

    def test_a_server_without_memory_is_a_full_log(self, make: Make, url):
        async def work(log):
            with opened(url) as store:
                store.config_set("maxmemory", 1)
                try:
                    with pytest.raises(LogFull, match="memory"):
                        await log.append([entry(1)])
                finally:
                    store.config_set("maxmemory", 0)
            assert await log.append([entry(1)]) == [True]

        run(make, work)

    def test_a_store_that_is_away(self, tmp_path):
        async def work(log):
            with pytest.raises(StoreUnavailable):
                await log.append([entry(1)])
            with pytest.raises(StoreUnavailable):
                log.read(0, START, 1)

        run(lambda: RedisLog(f"unix://{tmp_path}/none.sock"), work)


@pytest.mark.integration
class TestEmbeddedLog(RedisLogContract):
    @pytest.fixture
    def url(self, valkey_url) -> str:
        return valkey_url


@pytest.mark.integration
class TestRedisServerLog(RedisLogContract):
    @pytest.fixture
    def url(self, redis_url) -> str:
        return redis_url
