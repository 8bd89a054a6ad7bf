"""The ledger's side of a page: leases, reservations, epochs, and what is shown when it is away."""

from __future__ import annotations

import asyncio

from features.memory_ledger import MemoryLedger
from features.reservations import HELD, RESERVED, rows_of
from features.store import MemoryBlobs, StoreUnavailable
from serving.control import MemoryControl
from serving.decide import decide
from serving.granting import Granting
from serving.holder import Holder
from serving.observe import Metrics
from tests.worlds import NOW, customer, market_live, placed, query, sold

DEAR = {"click": 100.0}
DAILY = {"most": 1, "window": "1d"}
MINUTE = 60.0


def capped(number, item, **fields):
    return sold(number, item, values=DEAR, exclusive=True, caps=[DAILY], **fields)


def metered(number, item, at_most=3, per="flight", **fields):
    quota = {"id": "q", "at_most": at_most, "per": per}
    return sold(number, item, values=DEAR, exclusive=True, quotas=[quota], **fields)


class Flaky(MemoryLedger):
    """A ledger whose connection may be cut."""

    away = False

    async def reserve(self, subject, reserving, device=None):
        if self.away:
            raise StoreUnavailable("cut on purpose")
        return await super().reserve(subject, reserving, device)


class Replica:
    """One replica's granting beside a ledger that several may share."""

    def __init__(self, live, other=None):
        self.now = NOW if other is None else None
        self.first = other or self
        self.ledger = other.ledger if other else Flaky(MemoryBlobs(lambda: self.time))
        self.control = other.control if other else MemoryControl(lambda: self.time)
        self.metrics, self.holder = Metrics(), Holder()
        self.holder.swap(live)
        self.granting = Granting(
            self.ledger, self.control, self.holder, self.metrics,
            clock=lambda: self.time, monotonic=lambda: self.time,
        )  # fmt: skip

    @property
    def time(self):
        return self.first.now

    @property
    def live(self):
        return self.holder.live

    def renew(self):
        asyncio.run(self.granting.renew())

    def decide(self, who=None, decision_id="d1", **asked):
        given = {
            "now": self.time,
            "spent": self.granting.spent(self.live),
            "capped": self.granting.open,
            "decision_id": decision_id,
        }
        return decide(query(self.live, who or customer(now=self.time), **(given | asked)), self.live)

    def grant(self, decision, attempt=0):
        return asyncio.run(self.granting.granted(decision, self.live, attempt, 1.0))

    def page(self, decision_id="d1", **asked):
        return self.grant(self.decide(decision_id=decision_id, **asked))

    def held(self, subject="u:u1"):
        from features.live_store import live_keys

        rows = rows_of(self.ledger.blobs.get(live_keys(subject).reserved) or b"")
        return [row for row in rows if row.state == HELD and row.expires > self.time]


def test_before_the_ledger_was_seen_nothing_capped_is_shown():
    replica = Replica(market_live(capped(1, "i2"), sold(2, "i8", values=DEAR)))
    assert not replica.granting.open
    assert [item for _, _, item in placed(replica.page(), replica.live)] == ["i8"]
    assert replica.page("d0").degraded == ("ledger",)
    replica.renew()
    assert not replica.page("d1").degraded
    assert replica.granting.open and len(placed(replica.page(), replica.live)) == 2


def test_a_page_without_anything_capped_asks_nothing():
    replica = Replica(market_live(sold(1, "i2", values=DEAR)))
    decision = replica.decide()
    assert replica.grant(decision) is decision


def test_a_granted_place_is_held_once_however_often_it_is_asked_for():
    replica = Replica(market_live(capped(1, "i2")))
    replica.renew()
    decision = replica.decide()
    first = replica.grant(decision)
    assert replica.grant(decision).placements == first.placements and len(replica.held()) == 1
    (one,) = [place for place in first.placements if place.capped]
    assert one.flags & RESERVED and not first.refused


def test_what_the_ledger_refuses_is_replaced_by_the_stand_in():
    replica = Replica(market_live(capped(1, "i2")))
    replica.renew()
    assert placed(replica.page("d1", surface="home"), replica.live)
    late = replica.decide(decision_id="d2")  # decided without knowing of the first
    other = replica.grant(
        type(late)(
            **{f: getattr(late, f) for f in late.__dataclass_fields__} | {"query": elsewhere(late.query)}
        )
    )
    assert not placed(other, replica.live) and other.sizes == late.sizes
    assert [one.why for one in other.refused] == ["cap"] and other.degraded == late.degraded


def elsewhere(asked):
    from dataclasses import replace

    return replace(asked, surface="cards")


def test_a_page_of_the_same_surface_takes_over_what_the_one_before_held():
    replica = Replica(market_live(capped(1, "i2")))
    replica.renew()
    for number in range(3):
        assert placed(replica.page(f"d{number}"), replica.live)
    assert len(replica.held()) == 1


def test_when_the_ledger_is_away_the_page_is_made_without_and_says_so():
    replica = Replica(market_live(capped(1, "i2"), metered(2, "i8")))
    replica.renew()
    decision = replica.decide()
    replica.ledger.away = True
    page = replica.grant(decision)
    assert [item for _, _, item in placed(page, replica.live)] == ["i8"]  # the lease is in hand
    assert "ledger" in page.degraded and page.sizes == decision.sizes
    failed = replica.metrics.registry.get_sample_value("fenliu_store_errors_total", {"what": "ledger"})
    assert failed == 1


def test_another_epoch_shows_nothing_capped():
    replica = Replica(market_live(capped(1, "i2")))
    replica.renew()
    decision = replica.decide()

    class Stale(type(replica.ledger)):
        epoch = property(lambda self: 1)

    replica.ledger.__class__ = Stale  # this connection has not seen the new epoch yet
    page = replica.grant(decision)
    assert not placed(page, replica.live) and "ledger" in page.degraded


def test_a_ledger_that_lost_its_memory_stays_shut_until_it_is_rebuilt():
    replica = Replica(market_live(capped(1, "i2")))
    replica.renew()
    replica.ledger._number = 0
    replica.renew()
    assert not replica.granting.open and not placed(replica.page("d2"), replica.live)
    asyncio.run(replica.ledger.renew_epoch())
    assert placed(replica.page("d3"), replica.live)


def test_a_ledger_that_was_rebuilt_over_the_same_connection_is_seen_again(monkeypatch):
    """Emptied and rebuilt by somebody else: what this replica holds for the epoch is another one's."""
    monkeypatch.setattr("serving.granting.FOLLOW_S", 0.01)
    replica, seen = Replica(market_live(capped(1, "i2"))), []

    async def open_epoch(*, known):
        seen.append(known)
        return 7

    replica.ledger.open_epoch = open_epoch

    async def story():
        await replica.granting.start()
        while len(seen) < 4:
            await asyncio.sleep(0.01)
        await replica.granting.stop()

    asyncio.run(story())
    assert seen[0] is False and all(seen[1:])


def test_two_replicas_never_take_more_of_a_quota_than_there_is():
    live = market_live(metered(1, "i2", at_most=5))
    one = Replica(live)
    both = [one, Replica(live, one)]
    shown = 0
    for turn in range(30):
        one.now += 0.4
        replica = both[turn % 2]
        replica.renew()
        shown += len(placed(replica.page(f"d{turn}", subject=f"u:{turn}"), live))
    assert shown == 5
    assert one.granting.spent(live) == {"c1/q"}


def test_a_spent_quota_is_not_decided_upon_and_a_race_for_the_last_unit_is_lost_quietly():
    replica = Replica(market_live(metered(1, "i2", at_most=1)))
    replica.renew()
    early, late = replica.decide(decision_id="d1"), replica.decide(decision_id="d2")
    assert placed(replica.grant(early), replica.live)
    lost = replica.grant(late)
    assert not placed(lost, replica.live) and [one.why for one in lost.refused] == ["quota"]
    assert "ledger" not in lost.degraded and lost.sizes == late.sizes
    replica.now += 0.1  # the answer about empty leases is looked up again
    assert replica.granting.spent(replica.live) == {"c1/q"}
    assert not placed(replica.decide(decision_id="d3"), replica.live)


def test_a_unit_is_put_back_when_the_cap_refuses():
    both = sold(1, "i2", values=DEAR, exclusive=True, caps=[DAILY], quotas=[{"id": "q", "at_most": 1}])
    replica = Replica(market_live(both))
    replica.renew()
    decision = replica.decide()
    replica.ledger.away = True
    assert not placed(replica.grant(decision), replica.live)
    replica.ledger.away = False
    replica.now += 0.1
    assert replica.granting.spent(replica.live) == frozenset()
    assert placed(replica.page("d2"), replica.live)


def test_a_page_that_holds_a_quota_alone_is_not_flagged_as_held():
    replica = Replica(market_live(metered(1, "i2")))
    replica.renew()
    (one,) = [place for place in replica.page().placements if place.campaign >= 0]
    assert one.capped and not one.flags & RESERVED and not replica.held()


def test_a_new_plan_is_leased_from_its_first_page_on():
    replica = Replica(market_live(metered(1, "i2")))
    replica.renew()
    replica.holder.swap(market_live(metered(2, "i8", at_most=2)))
    assert replica.granting.spent(replica.live) == {"c2/q"} or not placed(replica.page(), replica.live)
    replica.renew()
    replica.now += 0.1
    assert placed(replica.page("d2"), replica.live)
    assert set(replica.granting.metered(replica.live).booked) == set(
        replica.live.plan.campaigns.keys.tolist()
    )


def test_start_and_stop_give_everything_back():
    replica = Replica(market_live(metered(1, "i2", at_most=8)))

    async def story():
        await replica.granting.start()
        await replica.granting.renew()
        before = (await replica.ledger.pools(["c1/q"]))["c1/q"].outstanding
        await replica.granting.stop()
        return before, (await replica.ledger.pools(["c1/q"]))["c1/q"].outstanding

    before, after = asyncio.run(story())
    assert before > 0 and after == 0


def test_a_device_cap_counts_what_its_users_were_shown():
    cap = {"most": 1, "window": "ever", "subject": "device"}
    replica = Replica(market_live(sold(1, "i2", values=DEAR, exclusive=True, caps=[cap])))
    replica.renew()
    assert placed(replica.page("d1", subject="u:a", device="v:tablet"), replica.live)
    other = replica.page("d2", subject="u:b", device="v:tablet")
    assert not placed(other, replica.live) and [one.why for one in other.refused] == ["cap"]
    assert placed(replica.page("d3", subject="u:c", device="v:phone"), replica.live)
    assert not placed(replica.page("d4", subject="u:d"), replica.live)  # which device is not known
