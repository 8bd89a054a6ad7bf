"""What every control does; each implementation inherits the suite."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from features.keyspace import KeySpace, KeySpaceError, ViewSpace, swap
from serving.control import Control, ControlError, ControlState, Kill, MemoryControl, OverlayEntry
from serving.prices import NO_PRICES, Prices, PricesError, decode_prices, version_of


def prices(fence: int, sequence: int = 1, price: float = 0.25) -> Prices:
    return Prices(version=version_of(fence, sequence), made_at=1.5e9, per_display={"活动": price})


class ControlContract(ABC):
    @pytest.fixture(autouse=True)
    def _url(self, request: pytest.FixtureRequest) -> None:
        """Implementations with a server take its URL here."""

    @asynccontextmanager
    @abstractmethod
    async def opened(self) -> AsyncIterator[Control]:
        yield MemoryControl()

    def run(self, steps):
        async def whole():
            async with self.opened() as control:
                return await steps(control)

        return asyncio.run(whole())

    def test_nothing_has_been_set(self):
        assert self.run(lambda control: control.poll()) == ControlState()

    def test_pointers_are_set_and_removed(self):
        async def steps(control):
            for field in ("bundle", "plan", "features", "epoch"):
                await control.set(field, f"{field}-二")
            await control.set("bundle", "b2")
            await control.set("plan", None)
            await control.set("plan", None)
            return await control.poll()

        assert self.run(steps) == ControlState(bundle="b2", features="features-二", epoch="epoch-二")

    @pytest.mark.parametrize("field", ["kills", "overlay_seq", "prices", "bundel", ""])
    def test_other_fields_are_refused(self, field):
        async def steps(control):
            with pytest.raises(ControlError, match="bundle, plan"):
                await control.set(field, "x")
            return await control.poll()

        assert self.run(steps) == ControlState()

    def test_switches_are_thrown_and_taken_back(self):
        async def steps(control):
            await control.kill(Kill("item", "p:9"))
            await control.kill(Kill("everything"))
            await control.kill(Kill("slot", "home.banner"))
            await control.kill(Kill("slot", "home.banner"))
            await control.revive(Kill("everything"))
            await control.revive(Kill("campaign", "never"))
            some = (await control.poll()).kills
            await control.revive(Kill("item", "p:9"))
            await control.revive(Kill("slot", "home.banner"))
            return some, (await control.poll()).kills

        some, none = self.run(steps)
        assert set(some) == {Kill("item", "p:9"), Kill("slot", "home.banner")}
        assert len(some) == 2
        assert none == ()

    def test_many_operators_lose_no_switch(self):
        async def steps(control):
            await asyncio.gather(*(control.kill(Kill("item", f"p{i}")) for i in range(40)))
            return (await control.poll()).kills

        assert set(self.run(steps)) == {Kill("item", f"p{i}") for i in range(40)}

    @pytest.mark.parametrize("kill", [Kill("item"), Kill("everything", "x"), Kill("person", "x")])
    def test_a_switch_that_makes_no_sense_is_refused(self, kill):
        async def steps(control):
            with pytest.raises(ControlError):
                await control.kill(kill)
            return (await control.poll()).kills

        assert self.run(steps) == ()

    def test_the_overlay_numbers_its_entries_and_gives_the_latest(self):
        async def steps(control):
            assert await control.overlay_put([]) == 0
            first = await control.overlay_put(
                [("item", "a", {"title": "存款"}), ("creative", "a", {"text": "x"})]
            )
            second = await control.overlay_put([("item", "b:c", {"n": [1, 2.5, None]}), ("item", "a", None)])
            return (
                (first, second),
                (await control.poll()).overlay_seq,
                await control.overlay_since(0),
                await control.overlay_since(3),
                await control.overlay_since(4),
            )

        numbers, polled, whole, last, none = self.run(steps)
        assert numbers == (2, 4)
        assert polled == 4
        assert whole == [
            OverlayEntry(2, "creative", "a", {"text": "x"}),
            OverlayEntry(3, "item", "b:c", {"n": [1, 2.5, None]}),
            OverlayEntry(4, "item", "a", None),
        ]
        assert last == whole[2:]
        assert none == []

    def test_a_large_overlay_comes_whole(self):
        async def steps(control):
            await control.overlay_put([("item", f"i{i}", {"n": i}) for i in range(2500)])
            return await control.overlay_since(100)

        entries = self.run(steps)
        assert [entry.seq for entry in entries] == list(range(101, 2501))
        assert all(entry.payload == {"n": entry.seq - 1} for entry in entries)

    @pytest.mark.parametrize("entry", [("person", "x", None), ("item", "", None)])
    def test_an_overlay_entry_that_is_none_is_refused_with_all_of_its_call(self, entry):
        async def steps(control):
            with pytest.raises(ControlError):
                await control.overlay_put([("item", "a", None), entry])
            return (await control.poll()).overlay_seq

        assert self.run(steps) == 0

    def test_a_trim_drops_the_old_and_the_numbers_go_on(self):
        async def steps(control):
            await control.overlay_put([("item", f"i{i}", {}) for i in range(1200)])
            gone = await control.overlay_trim(1100)
            left = await control.overlay_since(0)
            await control.overlay_trim(9999)
            return (
                gone,
                len(left),
                await control.overlay_since(0),
                await control.overlay_put([("item", "z", {})]),
            )

        assert self.run(steps) == (1100, 100, [], 1201)

    def test_a_swap_points_at_the_key_space(self):
        space = KeySpace("v43", {"profile": ViewSpace(1.5e9, 10, 77)})

        async def steps(control):
            before = (await control.poll()).keyspace
            await swap(control, space)
            with pytest.raises(KeySpaceError, match="no view"):
                await swap(control, KeySpace("v44"))
            return before, (await control.poll()).keyspace

        before, after = self.run(steps)
        assert before is None
        assert after == space
        assert after.materialised == {"profile"}

    def test_one_candidate_leads_until_it_resigns(self):
        async def steps(control):
            first = await control.lead("pacer", "a", 60)
            assert await control.lead("pacer", "b", 60) is None
            assert await control.lead("other", "b", 60) is not None
            again = await control.lead("pacer", "a", 60)
            await control.resign("pacer", "b")  # not the leader: nothing happens
            assert await control.lead("pacer", "b", 60) is None
            await control.resign("pacer", "a")
            second = await control.lead("pacer", "b", 60)
            assert await control.lead("pacer", "a", 60) is None
            return first, again, second

        first, again, second = self.run(steps)
        assert first == again < second

    def test_a_lead_that_is_not_renewed_ends(self):
        async def steps(control):
            first = await control.lead("pacer", "a", 0.05)
            await asyncio.sleep(0.12)
            second = await control.lead("pacer", "a", 60)  # led by nobody in between: a new number
            assert await control.lead("pacer", "b", 60) is None
            return first, second

        first, second = self.run(steps)
        assert first < second

    def test_of_many_candidates_one_leads(self):
        async def steps(control):
            return await asyncio.gather(*(control.lead("pacer", f"c{i}", 60) for i in range(20)))

        assert sum(fence is not None for fence in self.run(steps)) == 1

    @pytest.mark.parametrize(
        ("name", "who", "ttl"), [("", "a", 1), ("p", "", 1), ("p", "a b", 1), ("p", "a", 0)]
    )
    def test_a_candidate_that_makes_no_sense_is_refused(self, name, who, ttl):
        async def steps(control):
            with pytest.raises(ControlError):
                await control.lead(name, who, ttl)

        self.run(steps)

    def test_the_leaders_prices_arrive_with_the_poll_once(self):
        async def steps(control):
            fence = await control.lead("pacer", "a", 60)
            assert await control.pacer_state() == b""
            assert await control.put_prices(prices(fence), b"\x00state")
            told = await control.poll()
            fresh = await control.poll("")
            held = await control.poll(fresh.prices)
            assert await control.put_prices(prices(fence, 2, -0.5), b"next")
            return fence, told, fresh, held, await control.poll(fresh.prices), await control.pacer_state()

        fence, told, fresh, held, second, state = self.run(steps)
        assert told.prices == fresh.prices == held.prices == str(version_of(fence, 1))
        assert told.blob is None
        assert held.blob is None
        assert decode_prices(fresh.blob) == prices(fence)
        assert decode_prices(second.blob) == prices(fence, 2, -0.5)
        assert state == b"next"

    def test_a_poll_for_prices_where_there_are_none(self):
        assert self.run(lambda control: control.poll("")) == ControlState()

    def test_what_a_deposed_leader_writes_is_refused(self):
        async def steps(control):
            old = await control.lead("pacer", "a", 0.05)
            assert await control.put_prices(prices(old), b"old")
            await asyncio.sleep(0.12)
            assert not await control.put_prices(prices(old, 2), b"late")  # nobody leads
            new = await control.lead("pacer", "b", 60)
            assert not await control.put_prices(prices(old, 3), b"later")
            assert not await control.put_prices(prices(new + 1), b"from the future")
            assert await control.pacer_state() == b"old"
            assert await control.put_prices(prices(new), b"new")
            return new, await control.poll(""), await control.pacer_state()

        new, state, kept = self.run(steps)
        assert decode_prices(state.blob).fence == new
        assert kept == b"new"

    def test_nobody_writes_prices_without_leading(self):
        async def steps(control):
            done = [await control.put_prices(NO_PRICES), await control.put_prices(prices(7))]
            return done, await control.poll("")

        assert self.run(steps) == ([False, False], ControlState())

    def test_garbage_is_not_written(self):
        async def steps(control):
            fence = await control.lead("pacer", "a", 60)
            with pytest.raises(PricesError):
                await control.put_prices(prices(fence, 1, float("nan")))
            return await control.poll("")

        assert self.run(steps) == ControlState()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": "v1"}', '{"version": "v 1", "views": {}}', "null"]
)
def test_a_pointer_that_is_no_key_space_is_refused(text):
    with pytest.raises(KeySpaceError):
        _ = ControlState(features=text).keyspace


class TestMemoryControl(ControlContract):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[MemoryControl]:
        yield MemoryControl()

    def test_fences_follow_the_clock_so_that_they_grow_over_a_loss(self):
        async def steps():
            before = await MemoryControl(lambda: 1000.0).lead("pacer", "a", 1)
            return before, await MemoryControl(lambda: 1001.0).lead("pacer", "a", 1)

        assert asyncio.run(steps()) == (1000, 1001)


class ServerControlContract(ControlContract):
    url: str

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Control]:
        from serving.redis_control import RedisControl

        control = RedisControl.at(self.url)
        try:
            yield control
        finally:
            await control.close()

    def test_an_emptied_store_does_not_go_back_in_fences(self):
        from features.redis_plain import opened

        async def steps(control):
            first = await control.lead("pacer", "a", 60)
            with opened(self.url) as store:
                store.flushall()
            await asyncio.sleep(1.1)
            return first, await control.lead("pacer", "a", 60)

        first, second = self.run(steps)
        assert first < second

    @pytest.mark.parametrize(
        ("field", "value"),
        [(b"kills", b"no json"), (b"kills", b"[1]"), (b"kills", b'["person:x"]'), (b"overlay_seq", b"many")],
    )
    def test_damage_is_named_not_guessed(self, field, value):
        from features.redis_plain import opened

        with opened(self.url) as store:
            store.hset("control", field, value)
        with pytest.raises(ControlError):
            self.run(lambda control: control.poll())


@pytest.mark.integration
class TestEmbeddedValkeyControl(ServerControlContract):
    @pytest.fixture(autouse=True)
    def _url(self, valkey_url: str) -> None:
        self.url = valkey_url


@pytest.mark.integration
class TestRedisServerControl(ServerControlContract):
    @pytest.fixture(autouse=True)
    def _url(self, redis_url: str) -> None:
        self.url = redis_url
