"""What every live store does; each implementation inherits the suite."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from features.events import WHAT
from features.live_store import (
    CONTACT_LAST,
    RECENT_LAST,
    LiveStore,
    MemoryLiveStore,
    decision_key,
    decisions_key,
    live_keys,
)
from features.reservations import RESERVED
from features.store import MemoryBlobs, StoreConflict
from features.views import CONTACT, CONTACT_KEEP, RECENT, RECENT_KEEP

NOW = 1_800_000_000.0


def recents(events, at=None) -> bytes:
    log = np.zeros(len(events), RECENT)
    log["item"], log["event"], log["what"] = 5, events, 2
    log["at"] = NOW + np.asarray(events if at is None else at)
    return log.tobytes()


def contacts(events, at=None, item=5) -> bytes:
    log = np.zeros(len(events), CONTACT)
    log["item"], log["event"], log["what"] = item, events, 1
    log["at"] = 1_000 + np.asarray(events if at is None else at)
    return log.tobytes()


def events_of(blob: bytes | None, dtype=RECENT) -> list[int]:
    return [] if blob is None else np.frombuffer(blob, dtype)["event"].tolist()


def test_the_store_and_the_views_agree_on_sizes():
    assert (RECENT_LAST, CONTACT_LAST) == (RECENT_KEEP, CONTACT_KEEP)
    assert (RECENT.itemsize, CONTACT.itemsize) == (32, 40)
    assert (RECENT.fields["at"][1], CONTACT.fields["at"][1]) == (16, 12)
    assert RECENT.names[:2] == CONTACT.names[:2] == ("item", "event")


class LiveStoreContract(ABC):
    @pytest.fixture(autouse=True)
    def _url(self, request: pytest.FixtureRequest) -> None:
        """Implementations with a server take its URL here."""

    @asynccontextmanager
    @abstractmethod
    async def opened(self) -> AsyncIterator[LiveStore]:
        yield MemoryLiveStore(MemoryBlobs(lambda: NOW))

    def run(self, steps):
        async def whole():
            async with self.opened() as store:
                return await steps(store)

        return asyncio.run(whole())

    def test_an_unknown_subject_has_nothing(self):
        assert self.run(lambda store: store.fetch(store.keys("u:1"))) == [None] * 5

    def test_entries_are_added_at_the_end(self):
        async def steps(store):
            await store.append("u:1", recent=recents([1]), contact=contacts([1, 2]))
            await store.append("u:1", recent=recents([2, 3]))
            await store.append("u:1")
            return await store.fetch(store.keys("u:1"))

        recent, contact, patch, *_ = self.run(steps)
        assert recent == recents([1, 2, 3])
        assert contact == contacts([1, 2])
        assert patch is None

    def test_an_identity_counts_once_within_and_across_appends(self):
        async def steps(store):
            await store.append("u:1", recent=recents([1, 2, 1]), contact=contacts([7]))
            await store.append("u:1", recent=recents([2, 3], at=[99, 99]), contact=contacts([7, 8]))
            await store.append("u:1", contact=contacts([7], item=6))
            return await store.fetch(store.keys("u:1"))

        recent, contact, *_ = self.run(steps)
        assert recent == recents([1, 2, 3], at=[1, 2, 99])
        assert contact == contacts([7, 8]) + contacts([7], item=6)

    def test_an_identity_in_the_middle_of_other_entries_is_not_taken_for_one(self):
        shifted = b"\x01" * 8 + recents([4])[:16] + b"\x02" * 8  # the identity of event 4, off the grid

        async def steps(store):
            await store.append("u:1", recent=shifted)
            await store.append("u:1", recent=recents([4]))
            return (await store.fetch(store.keys("u:1")))[0]

        assert self.run(steps) == shifted + recents([4])

    def test_only_the_last_entries_are_kept(self):
        async def steps(store):
            for first in range(0, 300, 50):
                events = range(first, first + 50)
                await store.append("u:1", recent=recents(events), contact=contacts(events))
            return await store.fetch(store.keys("u:1"))

        recent, contact, *_ = self.run(steps)
        assert events_of(recent) == list(range(300 - RECENT_LAST, 300))
        assert events_of(contact, CONTACT) == list(range(300 - CONTACT_LAST, 300))

    def test_displays_that_no_cap_counted_go_first(self):
        """A once-a-week display outlasts any number of homepages; answers stay too; then the oldest goes."""

        def shown(first, many, flags=0, what="displayed"):
            log = np.frombuffer(contacts(range(first, first + many)), CONTACT).copy()
            log["what"], log["flags"] = WHAT[what], flags
            return log.tobytes()

        async def steps(store):
            await store.append("u:1", contact=shown(0, 1, RESERVED) + shown(1, 1, what="dismissed"))
            for first in range(10, 410, 40):
                await store.append("u:1", contact=shown(first, 40))
            await store.append("v:d", contact=shown(500, 30, RESERVED) + shown(600, 30))
            await store.link("v:d", "u:1")
            many = (await store.fetch(store.keys("u:1")))[1]
            await store.append("u:1", contact=shown(1_000, CONTACT_LAST - 10, RESERVED))
            return many, (await store.fetch(store.keys("u:1")))[1]

        many, full = self.run(steps)
        kept = [0, 1, *range(410 - (CONTACT_LAST - 62), 410), *range(500, 530), *range(600, 630)]
        assert events_of(many, CONTACT) == kept
        assert events_of(full, CONTACT) == [*range(520, 530), *range(1_000, 1_000 + CONTACT_LAST - 10)]

    def test_a_torn_entry_is_refused(self):
        async def steps(store):
            with pytest.raises(ValueError, match="32-byte"):
                await store.append("u:1", recent=b"x" * 31)
            return await store.fetch(store.keys("u:1"))

        assert self.run(steps) == [None] * 5

    def test_subjects_do_not_mix(self):
        async def steps(store):
            await store.append("u:1", recent=recents([1]))
            await store.append("v:1", recent=recents([2]))
            return await store.fetch([*store.keys("u:1")[:1], *store.keys("v:1")[:1], *store.keys("u:")[:1]])

        assert self.run(steps) == [recents([1]), recents([2]), None]

    def test_ids_that_look_like_parts_of_keys_do_not_meet(self):
        awkward = ["u:x", "u:x}:y", "u:x}", "u:{x", "u:x}:d:y", "u:x:{", "u:x}:y}:z"]
        ids = ["z", "y}:z", "y}:recent", "recent", "}:z", ":z"]
        keys = [key for subject in awkward for key in live_keys(subject)]
        keys += [decision_key(subject, one) for subject in awkward for one in ids]
        keys += [decisions_key(subject) for subject in awkward]
        assert len(set(keys)) == len(keys)

    def test_linking_merges_by_time_once_and_leaves_the_visitor(self):
        async def steps(store):
            await store.append("v:d", recent=recents([2, 5, 1]), contact=contacts([9, 3]))
            await store.append("u:1", recent=recents([4, 1]), contact=contacts([3, 4]))
            await store.link("v:d", "u:1")
            once = await store.fetch(store.keys("u:1"))
            await store.link("v:d", "u:1")
            twice = await store.fetch(store.keys("u:1"))
            return once, twice, await store.fetch(store.keys("v:d"))

        once, twice, visitor = self.run(steps)
        assert once == twice == [recents([1, 2, 4, 5]), contacts([3, 4, 9]), None, None, None]
        assert visitor == [recents([2, 5, 1]), contacts([9, 3]), None, None, None]

    def test_linking_keeps_the_latest_and_equal_times_in_order(self):
        mine, theirs = list(range(0, 200, 2)), list(range(1, 200, 2))

        async def steps(store):
            await store.append("u:1", recent=recents(mine))
            await store.append("v:d", recent=recents(theirs))
            await store.link("v:d", "u:1")
            await store.append("u:2", recent=recents([1, 2], at=[5, 5]))
            await store.append("v:e", recent=recents([3, 4], at=[5, 5]))
            await store.link("v:e", "u:2")
            return await store.fetch([store.keys("u:1").recent, store.keys("u:2").recent])

        merged, same = self.run(steps)
        assert events_of(merged) == list(range(200 - RECENT_LAST, 200))
        assert events_of(same) == [1, 2, 3, 4]

    def test_linking_an_unknown_visitor_changes_nothing(self):
        async def steps(store):
            await store.append("u:1", recent=recents([2, 1]))
            await store.link("v:none", "u:1")
            await store.link("v:none", "u:none")
            return await store.fetch([*store.keys("u:1"), *store.keys("u:none")])

        assert self.run(steps) == [recents([2, 1]), *[None] * 9]

    def test_who_is_new_takes_the_visitors_unit_over_for_good(self):
        async def steps(store):
            for visitor in ("v:d", "v:e"):
                await store.append(visitor, recent=recents([1]))
            await store.append("u:old", recent=recents([2]))
            for visitor, user in (("v:d", "u:new"), ("v:e", "u:new"), ("v:d", "u:old"), ("v:none", "u:none")):
                await store.link(visitor, user)
            return await store.fetch([store.keys(user).unit for user in ("u:new", "u:old", "u:none", "v:d")])

        assert self.run(steps) == [b"v:d", None, None, None]

    def test_any_sequence_does_what_the_definition_says(self):
        """Random appends and links against plain Python lists."""
        rng = np.random.default_rng(3)
        model: dict[str, list[tuple[int, int]]] = {}
        calls: list[tuple[str, list[tuple[int, int]] | str]] = []
        for _ in range(120):
            subject = str(rng.choice(["u:1", "v:1", "u:2", "v:2"]))
            held = model.setdefault(subject, [])
            if subject[0] == "u" and rng.random() < 0.2:
                visitor = str(rng.choice(["v:1", "v:2"]))
                calls.append((subject, visitor))
                if model.get(visitor):
                    held += [one for one in model[visitor] if one[0] not in {event for event, _ in held}]
                    held.sort(key=lambda one: one[1])
            else:
                new = [
                    (int(event), int(rng.integers(50))) for event in rng.integers(0, 90, rng.integers(1, 6))
                ]
                calls.append((subject, new))
                for one in new:
                    if one[0] not in {event for event, _ in held}:
                        held.append(one)
            del held[:-RECENT_LAST]

        async def steps(store):
            for subject, what in calls:
                if isinstance(what, str):
                    await store.link(what, subject)
                else:
                    await store.append(subject, recent=recents([e for e, _ in what], at=[t for _, t in what]))
            return await store.fetch([store.keys(subject).recent for subject in model])

        for subject, blob in zip(model, self.run(steps), strict=True):
            events, at = zip(*model[subject], strict=True)
            assert blob == recents(events, at=at), subject

    def test_a_patch_is_made_from_the_one_before(self):
        async def steps(store):
            await store.patch("u:1", lambda old: b"first" if old is None else b"wrong")
            await store.patch("u:1", lambda old: (old or b"") + b"+second")
            return (await store.fetch(store.keys("u:1")))[2]

        assert self.run(steps) == b"first+second"

    def test_an_empty_patch_is_not_no_patch(self):
        async def steps(store):
            seen = []
            await store.patch("u:1", lambda old: b"")
            await store.patch("u:1", lambda old: (seen.append(old), b"x")[1])
            return seen

        assert self.run(steps) == [b""]

    def test_patches_at_the_same_time_lose_nothing(self):
        async def steps(store):
            add = [store.patch("u:1", lambda old, i=i: (old or b"") + bytes([i])) for i in range(4)]
            await asyncio.gather(*add)
            return (await store.fetch(store.keys("u:1")))[2]

        assert sorted(self.run(steps)) == [0, 1, 2, 3]

    def test_a_patch_that_never_wins_is_a_conflict(self):
        async def steps(store):
            tries = []

            def change(old: bytes | None) -> bytes:
                tries.append(old)
                self.disturb(store, live_keys("u:1").patch, b"%d" % len(tries))
                return b"mine"

            with pytest.raises(StoreConflict):
                await store.patch("u:1", change)
            return len(tries)

        assert self.run(steps) == 8

    @abstractmethod
    def disturb(self, store, key: bytes, value: bytes) -> None:
        """Write past the store."""

    @abstractmethod
    def seconds_left(self, store, key: bytes) -> float:
        """The TTL of a key."""

    def test_logs_and_patches_live_for_half_a_year(self):
        async def steps(store):
            await store.append("v:1", recent=recents([1]))
            await store.append("u:1", contact=contacts([1]))
            await store.link("v:1", "u:1")
            await store.patch("u:1", lambda old: b"x")
            return [self.seconds_left(store, key) for key in store.keys("u:1")[:3]]

        for left in self.run(steps):
            assert 179 * 86_400 < left <= 180 * 86_400

    def test_a_remembered_decision_stands_for_its_time(self):
        async def steps(store):
            assert await store.remember("u:1", "d1", b"page") == b"page"
            assert await store.remember("u:1", "d1", b"other") == b"page"
            assert await store.remember("u:2", "d1", b"theirs", ttl_s=60) == b"theirs"
            keys = [decision_key("u:1", "d1"), decision_key("u:2", "d1"), decision_key("u:1", "d2")]
            return await store.fetch(keys), [self.seconds_left(store, key) for key in keys[:2]]

        held, left = self.run(steps)
        assert held == [b"page", b"theirs", None]
        assert 590 < left[0] <= 600
        assert 50 < left[1] <= 60

    def test_forgetting_leaves_nothing_of_the_subject(self):
        async def steps(store):
            await store.append("u:1", recent=recents([1]), contact=contacts([1]))
            await store.patch("u:1", lambda old: b"x")
            await store.remember("u:1", "d1", b"page")
            await store.remember("u:1", "d2", b"page")
            await store.append("u:2", recent=recents([1]))
            gone = await store.forget("u:1")
            keys = [*store.keys("u:1"), decision_key("u:1", "d1"), decision_key("u:1", "d2")]
            left = await store.fetch([*keys, store.keys("u:2").recent])
            return gone, left, await store.forget("u:1"), self.all_keys(store)

        gone, left, again, keys = self.run(steps)
        assert (gone, again) == (5, 0)
        assert left == [None] * 7 + [recents([1])]
        assert not [key for key in keys if b"u:1" in key]

    @abstractmethod
    def all_keys(self, store) -> list[bytes]:
        """Every key that is held."""


class TestMemoryLiveStore(LiveStoreContract):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[MemoryLiveStore]:
        yield MemoryLiveStore(MemoryBlobs(lambda: NOW))

    def disturb(self, store, key, value):
        store.blobs.set(key, value, 60)

    def seconds_left(self, store, key):
        return store.blobs.expires(key) - NOW

    def all_keys(self, store):
        return store.blobs.keys()

    def test_the_ttl_follows_the_clock(self):
        now = [NOW]
        store = MemoryLiveStore(MemoryBlobs(lambda: now[0]))
        asyncio.run(store.remember("u:1", "d1", b"page"))
        now[0] += 601
        assert asyncio.run(store.fetch([decision_key("u:1", "d1")])) == [None]
        assert asyncio.run(store.remember("u:1", "d1", b"new")) == b"new"


class ServerLiveContract(LiveStoreContract):
    url: str

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[LiveStore]:
        from features.redis_live import RedisLiveStore

        store = RedisLiveStore.at(self.url)
        try:
            yield store
        finally:
            await store.close()

    def call(self, *parts: bytes):
        from features.redis_plain import opened

        with opened(self.url) as store:
            return store.execute_command(*parts)

    def disturb(self, store, key, value):
        self.call(b"SET", key, value)

    def seconds_left(self, store, key):
        return self.call(b"TTL", key)

    def all_keys(self, store):
        return self.call(b"KEYS", b"*")

    def test_scripts_survive_a_store_that_forgot_them(self):
        async def steps(store):
            await store.append("u:1", recent=recents([1]))
            self.call(b"SCRIPT", b"FLUSH")
            await store.append("u:1", recent=recents([2]))
            return (await store.fetch(store.keys("u:1")))[0]

        assert self.run(steps) == recents([1, 2])

    def test_a_torn_log_keeps_its_whole_entries(self):
        async def steps(store):
            self.call(b"SET", store.keys("u:1").recent, recents([1, 2])[:-3])
            await store.append("u:1", recent=recents([3]))
            return (await store.fetch(store.keys("u:1")))[0]

        assert self.run(steps) == recents([1, 3])

    def test_the_index_of_decisions_drops_the_dead_and_dies_itself(self):
        from features.live_store import decisions_key

        async def steps(store):
            await store.remember("u:1", "long", b"x", ttl_s=600)
            await store.remember("u:1", "short", b"x", ttl_s=1)
            left = self.call(b"TTL", decisions_key("u:1"))
            self.call(b"ZADD", decisions_key("u:1"), b"XX", b"1", decision_key("u:1", "short"))
            await store.remember("u:1", "next", b"x")
            return left, self.call(b"ZRANGE", decisions_key("u:1"), b"0", b"-1")

        left, members = self.run(steps)
        assert 590 < left <= 601
        assert sorted(members) == [decision_key("u:1", "long"), decision_key("u:1", "next")]


@pytest.mark.integration
class TestEmbeddedValkeyLive(ServerLiveContract):
    @pytest.fixture(autouse=True)
    def _url(self, valkey_url: str) -> None:
        self.url = valkey_url


@pytest.mark.integration
class TestRedisServerLive(ServerLiveContract):
    @pytest.fixture(autouse=True)
    def _url(self, redis_url: str) -> None:
        self.url = redis_url
