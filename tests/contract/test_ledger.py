"""What every ledger does; each implementation inherits the suites."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from features.events import WHAT
from features.ids import decision_mark
from features.ledger import (
    CapCheck,
    CapSpec,
    Ledger,
    Pool,
    Reserving,
    Shown,
    Wish,
    bucket_ends,
    bucket_of,
    check_of,
    lapses_at,
    member,
    quota_on,
)
from features.live_store import CONTACT_LAST, LiveStore, MemoryLiveStore, live_keys
from features.memory_ledger import MemoryLedger
from features.meters import Count, MemoryMeters, Meters
from features.reservations import HELD, LATE, RESERVED, SHOWN, packed, rows_of
from features.store import MemoryBlobs
from features.views import CONTACT

NOW = 1_800_000_000.0
HOME, LIFE = 7, 8
SHANGHAI = ZoneInfo("Asia/Shanghai")


def cap(
    most=1, *, event="displayed", window=86_400, since=0.0, field="campaign", keys=(), gap=0, of="customer"
):
    return CapCheck(WHAT[event], most, window, since, field, keys, gap, of)


def wish(item, campaign=9, caps=(0,), *, slot=3, category=4, creative=5, channel=1):
    return Wish(item, campaign, category, slot, creative, 0, channel, caps)


class Opened(NamedTuple):
    ledger: Ledger
    live: LiveStore
    meters: Meters
    epoch: int

    async def reserve(self, decision, *places, checks=(), scope=HOME, subject="u:1", device=None, attempt=0):
        asked = tuple(place if isinstance(place, tuple) and not isinstance(place, Wish) else (place,)
                      for place in places)  # fmt: skip
        wanted = Reserving(decision, scope, 600.0, asked, tuple(checks), self.epoch, attempt)
        return (await self.ledger.reserve(subject, wanted, device)).taken

    async def show(self, decision, item, *, subject="u:1", campaign=9, at=None, flags=RESERVED, on=None):
        entry = contact(
            item, decision_mark(subject, decision), campaign, at or await self.ledger.now(), flags
        )
        await (self.live.append(subject, contact=entry) if on is None else self.live.append(on, device=entry))

    async def log(self, subject="u:1"):
        return np.frombuffer((await self.live.fetch([live_keys(subject).contact]))[0] or b"", CONTACT)

    async def rows(self, subject="u:1"):
        return rows_of((await self.live.fetch([live_keys(subject).reserved]))[0] or b"")


def contact(item, event, campaign, at, flags=0, what=1, slot=3) -> bytes:
    log = np.zeros(1, CONTACT)
    log["item"], log["event"], log["campaign"], log["at"], log["flags"] = (
        item,
        event,
        campaign,
        int(at),
        flags,
    )
    log["what"], log["slot"], log["channel"], log["category"], log["creative"] = what, slot, 1, 4, 5
    return log.tobytes()


class LedgerContract(ABC):
    @pytest.fixture(autouse=True)
    def _url(self, request: pytest.FixtureRequest) -> None:
        """Implementations with a server take its URL here."""

    @asynccontextmanager
    @abstractmethod
    async def opened(self) -> AsyncIterator[tuple[Ledger, LiveStore, Meters]]:
        """Fresh stores."""
        yield NotImplemented

    @abstractmethod
    def write(self, live, key: bytes, value: bytes) -> None:
        """Write past the store."""

    def run(self, steps):
        async def whole():
            async with self.opened() as (ledger, live, meters):
                return await steps(Opened(ledger, live, meters, await ledger.open_epoch(known=False)))

        return asyncio.run(whole())

    async def age(self, it, subject, seconds):
        """Let reservations be that much older."""
        rows = [row._replace(expires=row.expires - seconds) for row in await it.rows(subject)]
        self.write(it.live, live_keys(subject).reserved, packed(rows))

    # --- caps

    def test_a_cap_holds_within_a_page_and_across_surfaces(self):
        async def steps(it):
            first = await it.reserve("d1", wish(1), wish(2), wish(3), checks=[cap(2)])
            other = await it.reserve("d2", wish(4), checks=[cap(2)], scope=LIFE)
            apart = await it.reserve("d3", wish(4, campaign=10), checks=[cap(2)], scope=LIFE)
            return first, other, apart

        assert self.run(steps) == ((0, 0, -1), (-1,), (0,))

    def test_the_first_alternative_that_fits_is_taken(self):
        async def steps(it):
            place = (wish(1, caps=(0, 1)), wish(2, campaign=8, caps=(1,)), wish(3, campaign=7, caps=()))
            return [await it.reserve(f"d{i}", place, checks=[cap(1), cap(2, field="slot")], scope=i) for i in range(4)]  # noqa: E501  # fmt: skip

        assert self.run(steps) == [(0,), (1,), (2,), (2,)]

    def test_the_same_decision_again_gets_the_same_answer_even_when_shown(self):
        async def steps(it):
            first = await it.reserve("d1", wish(1), wish(2), checks=[cap(1)])
            await it.show("d1", 1)
            again = await it.reserve("d1", wish(1), wish(2), checks=[cap(1)])
            return first, again, len(await it.rows())

        assert self.run(steps) == ((0, -1), (0, -1), 2)

    def test_a_display_confirms_once_whichever_event_tells_of_it(self):
        async def steps(it):
            await it.reserve("d1", wish(1), checks=[cap(2)])
            await it.show("d1", 1)
            await it.show("d1", 1)
            log = await it.log()
            left = await it.reserve("d2", wish(2), wish(3), checks=[cap(2)])
            return log["flags"].tolist(), left

        assert self.run(steps) == ([RESERVED], (0, -1))

    def test_the_next_page_of_the_same_scope_takes_over_what_was_not_shown(self):
        async def steps(it):
            await it.reserve("d1", wish(1), wish(2), checks=[cap(2)])
            await it.show("d1", 1)
            second = await it.reserve("d2", wish(3), wish(4), checks=[cap(2)])
            await it.show("d1", 2)  # superseded: counted, and late
            return (
                second,
                (await it.log())["flags"].tolist(),
                await it.reserve("d3", wish(5), checks=[cap(2)]),
            )

        assert self.run(steps) == ((0, -1), [RESERVED, RESERVED | LATE], (-1,))

    def test_what_lapsed_comes_back_and_its_display_is_late(self):
        async def steps(it):
            await it.reserve("d1", wish(1), checks=[cap(1)], scope=LIFE)
            before = await it.reserve("d2", wish(2), checks=[cap(1)])
            await self.age(it, "u:1", 661)
            after = await it.reserve("d3", wish(2), checks=[cap(1)])
            await it.show("d1", 1)
            return before, after, (await it.log())["flags"].tolist()

        assert self.run(steps) == ((-1,), (0,), [RESERVED | LATE])

    def test_a_display_of_a_lapsed_row_is_late_even_where_the_row_still_lies(self):
        async def steps(it):
            await it.reserve("d1", wish(1), checks=[cap(1)])
            await self.age(it, "u:1", 661)
            await it.show("d1", 1)
            return (await it.log())["flags"].tolist()

        assert self.run(steps) == [RESERVED | LATE]

    def test_it_is_held_for_a_minute_more_than_the_page(self):
        async def steps(it):
            await it.reserve("d1", wish(1), checks=[cap(1)], scope=LIFE)
            await self.age(it, "u:1", 655)
            return await it.reserve("d2", wish(2), checks=[cap(1)])

        assert self.run(steps) == (-1,)

    def test_windows_gaps_and_events(self):
        async def steps(it):
            now = await it.ledger.now()
            old, young, click = now - 1000, now - 100, now - 5
            await it.live.append(
                "u:1",
                contact=contact(1, 1, 9, old) + contact(1, 2, 9, young) + contact(1, 3, 9, click, what=2),
            )
            tried = [
                cap(1, window=50), cap(1, window=200), cap(2, window=200), cap(2, window=2000),
                cap(1, window=0, since=now - 50), cap(1, window=0, since=now - 200), cap(2, window=0),
                cap(9, gap=50), cap(9, gap=150), cap(1, event="clicked"), cap(2, event="clicked"),
                cap(9, window=0, since=now + 60),
            ]  # fmt: skip
            return [(await it.reserve(f"d{i}", wish(5), checks=[one]))[0] for i, one in enumerate(tried)]

        assert self.run(steps) == [0, -1, 0, -1, 0, -1, -1, 0, -1, -1, 0, -1]

    def test_a_gap_lets_one_through_at_a_time(self):
        async def steps(it):
            return await it.reserve("d1", wish(1), wish(2), checks=[cap(9, gap=60)])

        assert self.run(steps) == (0, -1)

    @pytest.mark.parametrize("field", ["item", "campaign", "category", "slot", "channel", "creative"])
    def test_every_scope_counts_what_is_its_own(self, field):
        async def steps(it):
            now = await it.ledger.now()
            await it.live.append(
                "u:1", contact=contact(1, 1, 9, now - 10) + contact(2, 2, 8, now - 10, slot=6)
            )
            same = await it.reserve("d1", wish(1), checks=[cap(1, field=field)])
            other = wish(70, 71, slot=72, category=73, creative=74, channel=75)
            return same, await it.reserve("d2", other, checks=[cap(1, field=field)])

        assert self.run(steps) == ((-1,), (0,))

    def test_a_set_of_campaigns_counts_together(self):
        async def steps(it):
            both = cap(2, keys=(8, 9))
            now = await it.ledger.now()
            await it.live.append("u:1", contact=contact(1, 1, 8, now - 10))
            return await it.reserve("d1", wish(1, 9), wish(2, 8), wish(3, 10, caps=()), checks=[both])

        assert self.run(steps) == (0, -1, 0)

    def test_a_log_that_does_not_reach_back_is_told(self):
        async def steps(it):
            now = await it.ledger.now()
            log = b"".join(contact(100 + i, i, 3, now - 10) for i in range(CONTACT_LAST))
            await it.live.append("u:1", contact=log)
            asked = Reserving("d1", HOME, 600, ((wish(1),),), (cap(1),), it.epoch)
            near = asked._replace(decision_id="d2", checks=(cap(1, window=5),))
            return (await it.ledger.reserve("u:1", asked)).short, (await it.ledger.reserve("u:1", near)).short

        assert self.run(steps) == (1, 0)

    def test_released_places_come_back_and_stay_refused(self):
        async def steps(it):
            await it.reserve("d1", wish(1), checks=[cap(1)])
            await it.ledger.release("u:1", "d1", [1])
            again = await it.reserve("d1", wish(1), checks=[cap(1)])
            return again, await it.reserve("d2", wish(2), checks=[cap(1)], scope=LIFE)

        assert self.run(steps) == ((-1,), (0,))

    def test_a_page_decided_afresh_takes_over_from_its_first_attempt(self):
        async def steps(it):
            await it.reserve("d1", wish(1), checks=[cap(1)])
            second = await it.reserve("d1", wish(2), checks=[cap(1)], attempt=1)
            await it.show("d1", 2)
            return second, (await it.log())["flags"].tolist()

        assert self.run(steps) == ((0,), [RESERVED])

    # --- devices and links

    def test_a_device_cap_holds_across_the_users_of_a_device(self):
        async def steps(it):
            checks = [cap(1, of="device"), cap(1)]
            first = await it.reserve("d1", wish(1, caps=(0, 1)), checks=checks, device="v:1")
            held = await it.reserve("d2", wish(2, caps=(0, 1)), checks=checks, subject="u:2", device="v:1")
            free = await it.reserve("d3", wish(2, caps=(1,)), checks=checks, subject="u:2", scope=LIFE)
            await it.show("d1", 1)
            await it.show("d1", 1, on="v:1")
            spent = await it.reserve("d4", wish(2, caps=(0,)), checks=checks, subject="u:3", device="v:1")
            own = await it.reserve("d5", wish(2, caps=(0,)), checks=checks, subject="v:1")
            none = await it.reserve("d6", wish(2, caps=(0,)), checks=checks, subject="u:4")
            return first, held, free, spent, own, none

        assert self.run(steps) == ((0,), (-1,), (0,), (-1,), (-1,), (-1,))

    def test_what_the_device_refuses_is_released_for_the_customer(self):
        async def steps(it):
            await it.reserve("d0", wish(1), checks=[cap(1, of="device")], subject="v:1", scope=LIFE)
            checks = [cap(1, of="device"), cap(1)]
            refused = await it.reserve("d1", wish(1, caps=(0, 1)), checks=checks, device="v:1")
            again = await it.reserve("d1", wish(1, caps=(0, 1)), checks=checks, device="v:1")
            return refused, again, await it.reserve("d2", wish(1, caps=(1,)), checks=checks, scope=LIFE)

        assert self.run(steps) == ((-1,), (-1,), (0,))

    def test_linking_adds_up_what_was_shown_and_what_is_held(self):
        async def steps(it):
            await it.reserve("d1", wish(1), wish(2), checks=[cap(3)], subject="v:1", scope=LIFE)
            await it.reserve("d2", wish(3), checks=[cap(3)])
            await it.live.link("v:1", "u:1")
            full = await it.reserve("d3", wish(4), checks=[cap(3)], scope=LIFE + 1)
            await it.show("d1", 1, subject="v:1")
            await it.live.link("v:1", "u:1")
            states = sorted(row.state for row in await it.rows() if row.entry[:1] in b"\1\2\3")
            return full, states, len(await it.log()), [row.state for row in await it.rows("v:1")]

        assert self.run(steps) == ((-1,), [SHOWN, HELD, HELD], 1, [SHOWN, HELD])

    # --- epochs

    def test_without_the_epoch_nothing_capped_is_taken(self):
        async def steps(it):
            wrong = Reserving("d1", HOME, 600, ((wish(1),),), (cap(1),), it.epoch + 1)
            refused = await it.ledger.reserve("u:1", wrong)
            return refused, await it.ledger.lease("q", 5, 5, bucket_of(await it.ledger.now()), 600)

        refused, lease = self.run(steps)
        assert (refused.taken, refused.current) == ((-1,), False)
        assert lease is not None

    def test_a_store_that_should_know_an_epoch_and_does_not_opens_none(self):
        async def whole():
            async with self.opened() as (ledger, _, _):
                return (
                    await ledger.open_epoch(known=True),
                    ledger.epoch,
                    await ledger.renew_epoch(),
                    ledger.epoch,
                )

        missing, still, rebuilt, number = asyncio.run(whole())
        assert (missing, still) == (0, 0)
        assert rebuilt == number > 0

    def test_reservations_of_an_older_epoch_count_until_they_lapse(self):
        async def steps(it):
            await it.reserve("d1", wish(1), checks=[cap(1)])
            new = it._replace(epoch=await it.ledger.renew_epoch())
            held = await new.reserve("d2", wish(2), checks=[cap(1)])
            old = await it.reserve("d3", wish(3), checks=[cap(9)])
            await self.age(it, "u:1", 661)
            return held, old, await new.reserve("d4", wish(2), checks=[cap(1)])

        assert self.run(steps) == ((-1,), (-1,), (0,))

    # --- quotas

    def test_leases_never_exceed_the_limit_and_what_is_given_back_returns(self):
        async def steps(it):
            bucket = bucket_of(await it.ledger.now()) + 1
            leases = [await it.ledger.lease("q", 10, 6, bucket, 600) for _ in range(12)]
            granted = [lease.units for lease in leases if lease is not None]
            full = (await it.ledger.pools(["q"]))["q"]
            await it.ledger.give_back(leases[0], 2)
            return granted, full, (await it.ledger.pools(["q", "none"]))

        granted, full, after = self.run(steps)
        assert sum(granted) == 10 and full == Pool(0, 0, 10)
        assert after == {"q": Pool(0, 0, 8), "none": Pool(0, 0, 0)}

    def test_only_the_present_bucket_and_the_next_are_leased(self):
        async def steps(it):
            bucket = bucket_of(await it.ledger.now())
            return [await it.ledger.lease("q", 10, 1, bucket + i, 600) is not None for i in (-2, 2, 3)]

        assert self.run(steps) == [False, False, False]

    def test_each_display_is_confirmed_once_and_moves_out_of_the_lease(self):
        async def steps(it):
            bucket = bucket_of(await it.ledger.now()) + 1
            await it.ledger.lease("q", 8, 2, bucket, 600)
            who = [member("u:1", f"d{i}", 5) for i in range(3)]
            await it.ledger.confirm([Shown("q", bucket, (who[0], who[0]))])
            await it.ledger.confirm([Shown("q", bucket, (who[0],)), Shown("p", bucket, (who[0],))])
            once = await it.ledger.pools(["q", "p"])
            await it.ledger.confirm([Shown("q", bucket, (who[1], who[2]))])
            return once, (await it.ledger.pools(["q"]))["q"]

        once, full = self.run(steps)
        assert once == {"q": Pool(1, 0, 1), "p": Pool(0, 1, 0)}
        assert full == Pool(2, 1, 0)  # a display that nobody leased is late

    def test_a_late_display_takes_its_unit_along(self):
        async def steps(it):
            bucket = bucket_of(await it.ledger.now()) + 1
            await it.ledger.lease("q", 8, 2, bucket, 600)
            await it.ledger.confirm([Shown("q", bucket, (b"1" * 16,), late=True)])
            pool, more = (await it.ledger.pools(["q"]))["q"], 0
            while (lease := await it.ledger.lease("q", 8, 9, bucket, 600)) is not None:
                more += lease.units
            return pool, more

        assert self.run(steps) == (Pool(0, 1, 1), 6)

    def test_a_lease_of_an_older_epoch_is_void(self):
        async def steps(it):
            lease = await it.ledger.lease("q", 8, 2, bucket_of(await it.ledger.now()) + 1, 600)
            await it.ledger.renew_epoch()
            await it.ledger.give_back(lease, 2)
            return (await it.ledger.pools(["q"]))["q"], lease.epoch == it.ledger.epoch

        assert self.run(steps) == (Pool(0, 0, 2), False)

    # --- meters

    def test_a_meter_counts_each_placement_once_by_hour(self):
        async def steps(it):
            now = await it.ledger.now()
            one = Count("c1", "displayed", 1.0, b"a" * 16, now, now, now)
            paid = one._replace(unit="cny", amount=12.5)
            it.meters.expect("c1", "displayed", now, 2.5)
            await it.meters.flush()
            await asyncio.gather(
                it.meters.count([one, one, paid]), it.meters.count([one._replace(member=b"b" * 16)])
            )
            await it.meters.count([one, paid])
            return now, await it.meters.read(["c1", "c2"])

        now, found = self.run(steps)
        assert set(found) == {"c1"} and set(found["c1"]) == {"displayed", "cny"}
        assert (found["c1"]["displayed"].total, found["c1"]["cny"].total) == (2, 12.5)
        assert found["c1"]["displayed"].hours == {int(now // 3600): 2.0}
        assert found["c1"]["displayed"].in_flight == pytest.approx(0.5)


class TestMemoryLedger(LedgerContract):
    @asynccontextmanager
    async def opened(self):
        blobs = MemoryBlobs(lambda: NOW)
        yield MemoryLedger(blobs), MemoryLiveStore(blobs), MemoryMeters(lambda: NOW)

    def write(self, live, key, value):
        live.blobs.set(key, value, 1000)


class ServerLedgerContract(LedgerContract):
    url: str

    @asynccontextmanager
    async def opened(self):
        from features.redis_address import parse_address
        from features.redis_ledger import RedisLedger
        from features.redis_live import RedisLiveStore
        from features.redis_meters import RedisMeters
        from features.redis_resp import RespLink
        from features.redis_store import Fetcher

        link = RespLink(parse_address(self.url))
        try:
            yield RedisLedger(link), RedisLiveStore(Fetcher(link)), RedisMeters(link)
        finally:
            await link.close()

    def write(self, live, key, value):
        from features.redis_plain import opened

        with opened(self.url) as store:
            store.set(key, value, ex=1000)

    def test_another_connection_must_see_the_epoch_first(self):
        async def steps(it):
            number = it.ledger.epoch
            it.ledger._link._protocol.abort()
            await asyncio.sleep(0.05)
            lost = it.ledger.epoch
            await it.ledger._link.connected()
            return number > 0, lost, it.ledger.epoch, await it.ledger.see_epoch() == number

        assert self.run(steps) == (True, 0, 0, True)

    def test_another_run_of_the_server_opens_a_new_epoch(self):
        from features.redis_plain import opened

        async def steps(it):
            with opened(self.url) as store:
                store.hset("lg:epoch", "run", "another")
            return it.epoch, await it.ledger.open_epoch(known=True)

        first, second = self.run(steps)
        assert second > first

    def test_everything_dies_by_itself(self):
        from features.redis_plain import opened

        async def steps(it):
            await it.reserve("d1", wish(1), checks=[cap(1)])
            bucket = bucket_of(await it.ledger.now()) + 1
            await it.ledger.lease("q@20260101", 8, 2, bucket, 600)
            await it.ledger.confirm([Shown("q@20260101", bucket, (b"1" * 16,))])
            now = await it.ledger.now()
            await it.meters.count([Count("c1", "displayed", 1.0, b"a" * 16, now, now, now)])
            with opened(self.url) as store:
                return {key: store.ttl(key) for key in store.keys("*")}

        left = self.run(steps)
        assert len(left) == 8 and left.pop(b"lg:epoch") == -1
        assert min(left.values()) > 0
        assert 600 < left[live_keys("u:1").reserved] <= 662


@pytest.mark.integration
class TestEmbeddedValkeyLedger(ServerLedgerContract):
    @pytest.fixture(autouse=True)
    def _url(self, valkey_url: str) -> None:
        self.url = valkey_url


@pytest.mark.integration
class TestRedisServerLedger(ServerLedgerContract):
    @pytest.fixture(autouse=True)
    def _url(self, redis_url: str) -> None:
        self.url = redis_url


# --- rules without a store


def test_there_is_always_one_bucket_to_spend_from_until_2_s_before_its_end():
    assert [bucket_of(float(t)) for t in (0, 7, 8, 17, 18)] == [0, 0, 1, 1, 2]
    for tenth in range(400):
        assert bucket_ends(bucket_of(tenth / 10)) - tenth / 10 > 2 - 1e-9
    assert lapses_at(1, 599.5) == 20 + 600 + 60


@pytest.mark.parametrize(
    ("calendar", "start"),
    [
        ("day", "2026-03-18T00:00:00+08:00"),
        ("week", "2026-03-16T00:00:00+08:00"),
        ("month", "2026-03-01T00:00:00+08:00"),
    ],
)
def test_calendar_windows_begin_where_the_customer_is(calendar, start):
    from datetime import datetime

    now = datetime.fromisoformat("2026-03-17T17:30:00+00:00").timestamp()  # the 18th in Shanghai
    spec = CapSpec("c", "displayed", 3, calendar=calendar)
    assert check_of(spec, now, SHANGHAI).since == datetime.fromisoformat(start).timestamp()
    assert quota_on("c/q", "day", now, SHANGHAI) == "c/q@20260318"
    assert quota_on("c/q", "flight", now, SHANGHAI) == "c/q"


def test_session_and_ever():
    assert check_of(CapSpec("c", "clicked", 3, calendar="ever"), NOW, SHANGHAI).since == 0
    assert check_of(CapSpec("c", "clicked", 3, calendar="session"), NOW, SHANGHAI, NOW - 90).since == NOW - 90
