"""One page's reads over the stores of a process: one MGET a server, and each role late on its own."""

from __future__ import annotations

import asyncio
import os
import signal

import numpy as np
import pytest

from features.bulk import bulk_write
from features.customer import LATE_BLOB, NOTHING, Blobs
from features.embedded import EmbeddedValkey
from features.keyspace import KeySpaceError, ViewBatch, materialise_memory, swap
from features.materialise import materialise
from features.redis_plain import opened
from features.redis_store import TIMED
from features.store import feature_key
from features.stores import MEMORY, Stores, StoreUrls
from features.views import MEMBERSHIP, PROFILE
from serving.redis_control import RedisControl

NOW = 1_800_000_000.0
ENTRY, MET = bytes(range(32)), bytes(range(40))


def batches(ids, as_of=NOW, seed=1):
    rng = np.random.default_rng(seed)
    profile, members = PROFILE.blank(len(ids)), MEMBERSHIP.blank(len(ids))
    profile["age"] = rng.integers(18, 90, len(ids))
    members["audiences"][:, 0] = rng.integers(1, 60_000, len(ids))
    return [
        ViewBatch(PROFILE, ids, PROFILE.pack(profile, as_of=as_of), as_of),
        ViewBatch(MEMBERSHIP, ids, MEMBERSHIP.pack(members, as_of=as_of), as_of),
    ]


def everything(urls: StoreUrls, load):
    """A page read of a known user with a device, of a visitor, and before any key space."""
    made = batches(["a", "b"])

    async def run():
        stores = Stores.open(urls, clock=lambda: NOW)
        load(stores, made)
        await stores.live.append("u:a", recent=ENTRY)
        await stores.live.append("v:d", contact=MET)
        await stores.live.patch("u:a", lambda old: b"patched")
        await stores.live.remember("u:a", "d1", b"page")
        found = (
            await stores.fetch_customer("u:a", "v:d", "v1", "d1"),
            await stores.fetch_customer("v:d", None, "v1", None),
            await stores.fetch_customer("u:b", None, None, "d1"),
        )
        await stores.close()
        return found

    known, visitor, early = asyncio.run(run())
    profile, members = made[0].blobs[0].tobytes(), made[1].blobs[0].tobytes()
    assert known == (
        Blobs(profile, members, ENTRY, None, b"patched"),
        Blobs(None, None, None, MET, None),
        b"page",
        (),
        None,
    )
    assert visitor == (Blobs(None, None, None, MET, None), None, None, (), None)
    assert early == (NOTHING, None, None, (), None)


def test_in_memory():
    def load(stores, made):
        assert materialise_memory(stores.features, "v1", made).views["profile"].count == 2

    everything(StoreUrls.one(MEMORY), load)


@pytest.mark.integration
def test_on_one_server(valkey_url):
    everything(StoreUrls.one(valkey_url), lambda stores, made: _load(valkey_url, made))


@pytest.mark.integration
def test_on_two_servers(valkey_url, redis_url):
    urls = StoreUrls(features=valkey_url, live=redis_url, log=redis_url, control=redis_url)
    everything(urls, lambda stores, made: _load(valkey_url, made))


@pytest.mark.integration
def test_with_the_live_role_in_memory(valkey_url):
    urls = StoreUrls(features=valkey_url, live=MEMORY, log=MEMORY, control=MEMORY)
    everything(urls, lambda stores, made: _load(valkey_url, made))


def _load(url, made):
    for batch in made:
        bulk_write(url, batch.view, "v1", batch.ids, batch.blobs)


@pytest.mark.integration
def test_one_server_means_one_connection_and_one_mget_a_tick(valkey_url):
    async def run():
        stores = Stores.open(StoreUrls.one(valkey_url))
        await stores.fetch_customer("u:warm")
        fetcher = stores.features._fetcher
        assert fetcher is stores.live._fetcher
        before = fetcher.commands
        found = await asyncio.gather(*(stores.fetch_customer(f"u:{i}", "v:d", "v1", "x") for i in range(32)))
        clients = await stores.control_link.command("CLIENT", "LIST")
        await stores.close()
        return fetcher.commands - before, found, clients

    commands, found, clients = asyncio.run(run())
    assert commands == 1
    assert all(one.late == () for one in found)
    assert clients.count(b"\n") == 1


@pytest.mark.integration
def test_a_role_that_hangs_is_late_and_the_other_stands(tmp_path, valkey_url):
    with EmbeddedValkey(tmp_path) as other:

        async def run(urls):
            stores = Stores.open(urls, stall_s=0.5)
            await stores.live.append("u:a", recent=ENTRY)
            await stores.fetch_customer("u:a", None, "v1", "d1")
            os.kill(other.pid, signal.SIGSTOP)
            try:
                late = await stores.fetch_customer("u:a", "v:d", "v1", "d1", timeout_s=0.05)
            finally:
                os.kill(other.pid, signal.SIGCONT)
            await stores.close()
            return late

        features_late = asyncio.run(run(StoreUrls(other.url, valkey_url, valkey_url, valkey_url)))
        live_late = asyncio.run(run(StoreUrls(valkey_url, other.url, valkey_url, valkey_url)))
        both_late = asyncio.run(run(StoreUrls.one(other.url)))
    none = Blobs(None, None, None, None, None)
    assert features_late == (
        Blobs(LATE_BLOB, LATE_BLOB, ENTRY, None, None, None, LATE_BLOB),
        none,
        None,
        ("features",),
        None,
    )
    late3 = (LATE_BLOB, LATE_BLOB, LATE_BLOB)
    assert live_late == (
        Blobs(None, None, *late3, LATE_BLOB),
        Blobs(None, None, *late3, LATE_BLOB),
        None,
        ("live",),
        LATE_BLOB,
    )
    assert both_late.blobs == Blobs(LATE_BLOB, LATE_BLOB, *late3, LATE_BLOB, LATE_BLOB)
    assert both_late.late == ("features", "live")


@pytest.mark.integration
def test_a_store_that_is_not_there_makes_everything_late(tmp_path):
    async def run():
        stores = Stores.open(StoreUrls.one(f"unix://{tmp_path}/none"))
        found = await stores.fetch_customer("u:a", None, "v1", None)
        await stores.close()
        return found

    assert asyncio.run(run()).late == ("features", "live")


@pytest.mark.integration
def test_a_key_space_is_made_beside_the_old_verified_and_swapped_to(valkey_url):
    ids = [f"c{i}" for i in range(3000)]
    told: list[int] = []
    first = materialise(valkey_url, "v42", batches(ids), rng=np.random.default_rng(1))
    second = materialise(
        valkey_url, "v43", batches(ids, NOW + 60, seed=2), rng=np.random.default_rng(1), progress=told.append
    )
    assert sum(told) == 6000
    assert second.materialised == {"profile", "membership"}
    assert (second.views["profile"].count, second.views["profile"].as_of) == (3000, NOW + 60)
    assert second.views["profile"].fingerprint == PROFILE.fingerprint

    async def run():
        stores = Stores.open(StoreUrls.one(valkey_url))
        control = RedisControl(stores.control_link)
        seen = []
        for space in (first, second, first):  # and back
            await swap(control, space)
            pointed = (await control.poll()).keyspace
            seen.append((await stores.features.read(PROFILE, ids, version=pointed.version, now=NOW)).as_of)
        await stores.close()
        return seen

    one, two, back = asyncio.run(run())
    assert (one == NOW).all()
    assert (two == NOW + 60).all()
    assert (back == NOW).all()


@pytest.mark.integration
def test_what_the_store_does_not_hold_as_written_is_no_key_space(valkey_url, monkeypatch):
    from features.redis_plain import opened

    made = batches(["a", "b", "c"])
    written = bulk_write

    def lossy(url, view, version, ids, blobs, ttl_s=None, progress=None):
        count = written(url, view, version, ids, blobs, ttl_s, progress)
        if view is MEMBERSHIP:
            with opened(url) as store:
                store.setrange(feature_key(version, view.name, "b"), 30, b"\xff")
        return count

    monkeypatch.setattr("features.materialise.bulk_write", lossy)
    with pytest.raises(KeySpaceError, match=r"membership of v1 is not as written.*u:b.*differs"):
        materialise(valkey_url, "v1", made, rng=np.random.default_rng(1))


def test_batches_that_do_not_fit_together_are_refused():
    stores = Stores.open(StoreUrls.one(MEMORY))
    store = stores.features
    with pytest.raises(KeySpaceError, match="twice"):
        materialise_memory(store, "v1", batches(["a", "a"]))
    with pytest.raises(KeySpaceError, match="two watermarks"):
        materialise_memory(store, "v1", [*batches(["a"]), *batches(["b"], NOW + 1)])
    with pytest.raises(KeySpaceError, match="version"):
        materialise_memory(store, "v 1", batches(["a"]))
    space = materialise_memory(store, "v1", [*batches(["a"]), *batches(["b"])])
    assert space.views["profile"].count == 2
    assert stores.control_link is None


@pytest.mark.integration
def test_reads_are_timed_by_role_and_fullness_is_told(valkey_url):
    """One server for every role but the log: its memory counts for each, while it has a limit."""
    told: list[tuple[str, float]] = []

    async def run():
        stores = Stores.open(StoreUrls(valkey_url, valkey_url, MEMORY, valkey_url), clock=lambda: NOW)
        stores.time_reads(lambda role, seconds: told.append((role, seconds)))
        for _ in range(3 * TIMED):
            await stores.fetch_customer("u:a", None, "v1")
        unlimited = await stores.memory()
        with opened(valkey_url) as store:
            before = store.config_get("maxmemory")["maxmemory"]
            store.config_set("maxmemory", 1 << 30)
            try:
                limited = await stores.memory()
            finally:
                store.config_set("maxmemory", before)
        await stores.close()
        return unlimited, limited

    unlimited, limited = asyncio.run(run())
    assert [role for role, _ in told] == ["features live"] * 3
    assert all(0 < seconds < 5 for _, seconds in told)
    assert unlimited == {} and limited.keys() == {"features", "live", "control"}
    assert all(0 < part < 1 for part in limited.values())


@pytest.mark.integration
def test_of_a_store_that_is_away_nothing_is_told():
    async def run():
        stores = Stores.open(StoreUrls.one("redis://127.0.0.1:1"), connect_s=0.05)
        assert await stores.memory() == {}
        await stores.close()

    asyncio.run(run())
