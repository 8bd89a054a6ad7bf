"""The pacer in closed circuit: traffic, a market that answers prices, meters, leaders that come and go."""

from __future__ import annotations

import asyncio
from math import inf
from types import SimpleNamespace

import numpy as np
import pytest

from features.ids import key32
from features.ledger import Pool
from features.meters import Count, MemoryMeters
from features.store import StoreUnavailable
from serving.calendar import Calendar
from serving.campaigns import Campaigns, GoalSpec, QuotaSpec
from serving.control import MemoryControl
from serving.pace_inputs import (
    WHOLE_PART,
    Book,
    campaign_share,
    delivered_meter,
    share_of_day,
    slot_share,
    tally_sums,
    view_sums,
)
from serving.pace_lead import Memory
from serving.pace_plan import Pacing, Prior, Territory, day_of, pace_plan, stretch
from serving.pacer import Pacer
from serving.prices import Prices, decode_prices
from serving.tallies import CampaignTally
from tests.plain_counts import PageCounts

HOUR = 3600.0
START = 1_764_547_200.0  # 2025-12-01 00:00 UTC
ORGS = Territory(("home",), ("", "bj", "bj-1", "sh"), {"bj-1": "bj"}, {"home": frozenset([0])})


def campaigns(names, *, goals=(), quotas=(), calendar=None, customers_of=0, penalty=2.0) -> Campaigns:
    """Plain campaigns of one item each, in slot 0."""
    n = len(names)
    calendar = calendar or Calendar("UTC", START, START + 24 * HOUR)
    f4 = np.full(n, np.nan, np.float32)
    none = tuple(() for _ in names)
    return Campaigns(
        specs=(),
        ids=tuple(names),
        keys=np.array([key32(name) for name in names], np.uint32),
        orgs=np.zeros(n, np.uint32),
        tier=np.ones(n, np.uint8),
        band=np.ones(n, np.uint8),
        penalty=np.full(n, penalty),
        lever=np.ones(n, np.float32),
        lever_until=np.full(n, inf),
        click=f4,
        convert=f4,
        dismiss=f4,
        cost=np.zeros(n, np.float32),
        audience=np.full(n, -1, np.int32),
        customers_of=np.full(n, customers_of, np.uint32),
        surfaces=tuple(frozenset() for _ in names),
        per_page=np.ones(n, np.int32),
        roadblock=np.zeros(n, np.bool_),
        exclusive=np.zeros(n, np.bool_),
        calendars=tuple(calendar for _ in names),
        quotas=tuple(quotas),
        quota_of=none,
        goals=tuple(goals),
        caps=(),
        caps_of=none,
        contact_rules=(),
        groups=(),
        group_of=none,
        item_groups={},
        offer_campaign=np.arange(n, dtype=np.int32),
        offer_row=np.arange(n, dtype=np.int32),
        offer_slots=np.ones(n, np.uint64),
        offer_creatives=tuple(None for _ in names),
        pins=(),
        exclusive_rows=np.zeros(0, np.int32),
    )


class NoPools:
    def __init__(self, **pools: Pool) -> None:
        self.found = pools
        self.asked: list[str] = []

    async def pools(self, quotas):
        self.asked = list(quotas)
        return {name: self.found[name.partition("@")[0].replace("/", "_")] for name in quotas}


class Counted:
    def __init__(self) -> None:
        self.results: list[str] = []

    def paced(self, result: str, seconds: float) -> None:
        self.results.append(result)


class World:
    """Time, meters and one market: a page view a second, shown with probability by the price."""

    def __init__(self, plan, *, views_per_s: float = 1.0) -> None:
        self.now = START
        self.plan, self.views_per_s = plan, views_per_s
        self.meters = MemoryMeters(lambda: self.now)
        self.control = MemoryControl(lambda: self.now)
        self.pools, self.counted = NoPools(), Counted()
        self.tally = CampaignTally()
        self.price: Prices | None = None
        self.shown = 0.0
        self.steps = 0

    def pacer(self, name: str) -> Pacer:
        return Pacer(
            self.control,
            self.meters,
            self.pools,
            lambda: self.plan,
            self.counted,
            name,
            clock=lambda: self.now,
        )

    async def pass_time(self, pacer: Pacer, seconds: float, *, step_s: float = 240.0) -> None:
        end = self.now + seconds
        while self.now < end - 1e-6:
            await self.traffic(step_s)
            self.now += step_s
            await pacer.step()
            state = await self.control.poll("")
            if state.blob is not None:
                self.price = decode_prices(state.blob)

    async def traffic(self, step_s: float) -> None:
        """The market answers the price of the last step; displays follow at once."""
        self.steps += 1
        views = self.views_per_s * step_s
        price = 0.0 if self.price is None else self.price.per_display.get("c1", 0.0)
        rate = 0.4 * float(np.clip(0.3 + 0.5 * price, 0.0, 1.0))
        at = self.now + step_s / 2
        units = np.array([[views * rate, 0.01 * views * rate, 0.0]], np.float32)
        one = np.zeros(1, np.int32)
        page = PageCounts(
            eligible=one, potential=np.array([0.4 * views], np.float32), placed=one, units=units
        )
        page.added(self.tally.of(self.plan.campaigns))
        sums = tally_sums(self.tally.drain(), at)
        sums += view_sums({("home", "bj"): int(views)}, at)
        self.shown += views * rate
        meter = delivered_meter("c1", "displayed")
        await self.meters.add(f"r1:{self.steps}", sums)
        await self.meters.count([Count(*meter, views * rate, f"d{self.steps}".encode(), at, at, at)])


def one_goal(at_least: float, **more):
    goal = GoalSpec(0, "displayed", at_least, 0.0, -1, "even")
    return pace_plan(campaigns(["c1", "c2"], goals=[goal], **more), ORGS, ["home.banner"])


def test_a_goal_is_delivered_on_time_and_no_more():
    world = World(one_goal(20_000.0))

    async def steps():
        pacer = world.pacer("a")
        halfway = None
        for _ in range(24):
            await world.pass_time(pacer, HOUR)
            if world.now == START + 12 * HOUR:
                halfway = world.shown
        return halfway

    halfway = asyncio.run(steps())
    assert 0.45 < halfway / 20_000 < 0.56
    assert 0.99 < world.shown / 20_000 < 1.02
    assert set(world.counted.results) == {"written"}


def test_a_goal_beyond_reach_is_at_its_ceiling_and_says_why():
    world = World(one_goal(60_000.0))  # 34,560 are there to be had
    asyncio.run(world.pass_time(world.pacer("a"), 8 * HOUR))
    assert world.price.per_display["c1"] == pytest.approx(2.0)
    assert world.price.causes == {"c1/displayed": "audience_too_narrow"}


def test_another_leader_continues_where_the_last_one_died():
    world = World(one_goal(20_000.0))

    async def steps():
        first, second = world.pacer("a"), world.pacer("b")
        await world.pass_time(first, 10 * HOUR)
        assert not await second.step()
        assert not second.leads
        before = world.price
        world.now += 6.0  # the first is silent for longer than its lead
        assert await second.step()
        after = decode_prices((await world.control.poll("")).blob)
        assert not await first.step()
        assert not first.leads
        return before, after

    before, after = asyncio.run(steps())
    assert after.fence > before.fence
    assert after.version > before.version
    assert after.per_display["c1"] == pytest.approx(before.per_display["c1"], abs=0.15)


def test_stopping_lets_another_lead_at_once():
    world = World(one_goal(20_000.0))

    async def steps():
        first, second = world.pacer("a"), world.pacer("b")
        await first.start()
        await first.step()
        await first.stop()
        await first.stop()
        return await second.step()

    assert asyncio.run(steps())


def test_what_is_away_is_counted_and_the_last_prices_hold():
    world = World(one_goal(20_000.0))

    async def steps():
        pacer = world.pacer("a")
        await world.pass_time(pacer, HOUR)
        held = await world.control.poll("")

        async def away(meters, *, days=1):
            raise StoreUnavailable("away")

        world.meters.hours = away
        assert not await pacer.step()

        async def wrong(meters, *, days=1):
            raise KeyError("a bug")

        world.meters.hours = wrong
        assert not await pacer.step()
        return held, await world.control.poll("")

    held, now = asyncio.run(steps())
    assert held == now
    assert world.counted.results[-2:] == ["failed", "failed"]


def test_nothing_to_pace_writes_nothing():
    world = World(one_goal(20_000.0))
    plan, world.plan = world.plan, None

    async def steps():
        pacer = world.pacer("a")
        idle = await pacer.step()
        world.plan = plan
        return idle, await pacer.step()

    assert asyncio.run(steps()) == (False, True)


def test_a_state_that_cannot_be_read_starts_anew():
    for blob in (
        b"",
        b"no json",
        b"[]",
        b'{"levels": {"a": 1}}',
        b'{"units": {"c": [1, 2]}}',
        b'{"at": "x"}',
    ):
        memory = Memory.decode(blob)
        assert memory.levels == {}
    whole = Memory({"g": (0.5, 0.25)})
    assert Memory.decode(whole.encode()).levels == whole.levels


def test_a_spent_quota_shuts_its_campaign_and_prices_follow_the_pool():
    quotas = [
        QuotaSpec("c1/q", 0, "displayed", 1000.0, "flight"),
        QuotaSpec("c2/q", 1, "displayed", 1000.0, "day"),
    ]
    world = World(pace_plan(campaigns(["c1", "c2"], quotas=quotas), ORGS, ["home.banner"]))
    world.pools.found = {"c1_q": Pool(900, 0, 100), "c2_q": Pool(500, 0, 40)}
    asyncio.run(world.pass_time(world.pacer("a"), HOUR))
    assert world.price.open == {"c1": False}
    assert world.price.per_display["c2"] < 0  # half spent in the first hour
    assert world.pools.asked == ["c1/q", "c2/q@20251201"]


def test_a_share_is_measured_by_the_day_in_its_slot():
    goal = GoalSpec(0, "displayed", 0.0, 0.2, 0, "even")
    plan = pace_plan(campaigns(["c1"], goals=[goal], customers_of=key32("bj")), ORGS, ["home.banner"])
    world = World(plan)
    zone = plan.goal_terms[0].calendar.tz
    assert plan.goal_terms[0].mask.tolist() == [False, True, True, False]

    async def steps(share: float):
        from zoneinfo import ZoneInfo

        whole = slot_share("home.banner", ["bj", "bj-1"], ZoneInfo(zone))
        own = campaign_share("home.banner", "c1", ZoneInfo(zone))
        at = world.now
        for name, n in ((share_of_day(whole, at), 1000.0), (share_of_day(own, at), 1000.0 * share)):
            await world.meters.count([Count(*name, n, f"{name}{at}".encode(), at, at, at)])
        world.price = None
        await world.pass_time(world.pacer("a"), 120.0)
        return world.price.per_display["c1"]

    async def both():
        world.now += 6 * HOUR
        behind = await steps(0.05)
        world.now += 60.0
        return behind, await steps(0.9)

    behind, ahead = asyncio.run(both())
    assert behind > 0 > ahead


def test_hours_are_open_by_their_part():
    calendar = Calendar("UTC", START + 1800, START + 48 * HOUR, hours=((9, 12), (14, 21)))
    found = stretch(calendar, False, START)
    assert found.start * HOUR == START
    day = [1.0 if 9 <= h < 12 or 14 <= h < 21 else 0.0 for h in range(24)]
    assert found.open.tolist() == day * 2
    half = stretch(Calendar("UTC", START + 1800, START + 2.25 * HOUR), False, START)
    assert half.open.tolist() == pytest.approx([0.5, 1.0, 0.25])
    today = stretch(Calendar("Asia/Shanghai"), True, START)
    assert (today.start * HOUR, len(today.open)) == (START - 8 * HOUR, 24)
    assert day_of("Asia/Shanghai", START) == (START - 8 * HOUR, START + 16 * HOUR)
    assert len(stretch(Calendar("UTC"), False, START).open) == (35 + 92) * 24


def test_a_slow_read_goes_on_where_a_deadline_cut_it_off():
    asked: list[tuple[int, int]] = []
    young: list[int] = []

    class Slow(MemoryMeters):
        async def hours(self, meters, *, days=1):
            asked.append((len(meters), days))
            if len(asked) == 2:
                raise TimeoutError
            return await super().hours(meters, days=days)

        async def lately(self, meters):
            young.append(len(meters))
            return {}

    async def steps():
        book = Book(Slow(lambda: START + 7200.0))
        names = [(f"c{i}", "displayed") for i in range(2 * WHOLE_PART + 5)]
        with pytest.raises(TimeoutError):
            await book.read(names, START + 7200.0, 30)
        for later in (1.0, 2.0, 40.0, 41.0, 300.0, 200.0):
            await book.read(names, START + 7200.0 + later, 30)

    asyncio.run(steps())
    whole = [(WHOLE_PART, 3), (WHOLE_PART, 3), (5, 3)]
    assert asked == [
        (WHOLE_PART, 30), (WHOLE_PART, 30),  # cut off
        (WHOLE_PART, 30), (5, 30),  # what was not read yet
        (3, 3), (3, 3),  # some of those that are half a minute old, each time
        *whole,  # a minute is over for all
        *whole,  # the clock went back
    ]  # fmt: skip
    assert young == [WHOLE_PART, *[2 * WHOLE_PART + 5] * 5]


def test_what_is_paced_is_made_once_a_plan():
    some = campaigns(["c1"], goals=[GoalSpec(0, "displayed", 10.0, 0.0, -1, "asap")])
    orgs = SimpleNamespace(lineages={"head": ("head",), "bj": ("bj", "head")})
    slot = SimpleNamespace(name="home.banner", index=0)
    view = SimpleNamespace(
        plan=SimpleNamespace(
            campaigns=some, orgs=orgs, slots={"home.banner": slot}, surfaces={"home": (slot,)},
            templates={"outlet/{id}": ()}, version="p1",
        )
    )  # fmt: skip
    views = [None, view]
    pacing = Pacing(lambda: views[-1], lambda version: {"c1/displayed": Prior(0.75, 2.0)})
    made = pacing()
    assert pacing() is made
    assert made.goals.start.tolist() == [0.75]
    assert made.territory.surfaces == ("home", "outlet/{id}")
    assert made.territory.within("bj", key32("head"))
    assert not made.territory.within("head", key32("bj"))
    assert made.goal_terms[0].mask.tolist() == [True] * 3 + [False] * 3  # no slot of the template takes it
    views[-1] = SimpleNamespace(plan=SimpleNamespace(campaigns=campaigns(["c1"])))
    assert pacing() is None
    views[-1] = None
    assert pacing() is None
