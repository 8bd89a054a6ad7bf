"""What every ledger does beside caps: epochs, quotas by leases, meters; on every store there is."""

from __future__ import annotations

import asyncio
from zoneinfo import ZoneInfo

import pytest

from features.ledger import (
    CapSpec,
    Pool,
    Reserving,
    Shown,
    bucket_ends,
    bucket_of,
    check_of,
    lapses_at,
    member,
    quota_on,
)
from features.live_store import live_keys
from features.meters import Count, Sum
from tests.ledgers import HOME, NOW, LedgerSuite, OnMemory, OnRedis, OnServer, OnValkey, cap, wish

SHANGHAI = ZoneInfo("Asia/Shanghai")


class LedgerContract(LedgerSuite):
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

    def test_what_a_process_counted_is_added_once_however_often_it_is_told(self):
        async def steps(it):
            now = await it.ledger.now()
            many = [Sum(f"e:{n}", "displayed", 0.5, now) for n in range(900)]
            sums = [*many, Sum("e:1", "displayed", 0.25, now), Sum("e:1", "clicked", 2.0, now - 3600)]
            for who in ("r1:1", "r1:1", "r1:2"):
                await it.meters.add(who, sums)
            names = [f"e:{n}" for n in range(900)]
            young = await it.meters.lately([*names, "e:none"])
            return int(now // 3600), young, await it.meters.read(["e:0", "e:1", "e:899"], days=2)

        hour, young, found = self.run(steps)
        assert set(young) == {f"e:{n}" for n in range(900)} and young["e:899"] == {"displayed": {hour: 1.0}}
        assert young["e:1"] == {"displayed": {hour: 1.5}, "clicked": {hour - 1: 4.0}}
        totals = {name: {unit: one.total for unit, one in units.items()} for name, units in found.items()}
        assert totals["e:0"] == totals["e:899"] == {"displayed": 1.0}
        assert totals["e:1"] == {"displayed": 1.5, "clicked": 4.0}
        assert found["e:1"]["displayed"].hours == {hour: 1.5} and found["e:1"]["displayed"].in_flight == 0
        assert found["e:1"]["clicked"].hours == {hour - 1: 4.0}


class ServerLedgerContract(OnServer, LedgerContract):
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
            await it.meters.add("r1:1", [Sum("c1", "displayed", 1.0, now)])
            with opened(self.url) as store:
                return {key: store.ttl(key) for key in store.keys("*")}

        left = self.run(steps)
        assert len(left) == 9 and left.pop(b"lg:epoch") == -1
        assert min(left.values()) > 0
        assert 600 < left[live_keys("u:1").reserved] <= 662


class TestMemoryLedger(OnMemory, LedgerContract): ...


@pytest.mark.integration
class TestEmbeddedValkeyLedger(OnValkey, ServerLedgerContract): ...


@pytest.mark.integration
class TestRedisServerLedger(OnRedis, ServerLedgerContract): ...


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
