"""What a replica counted of its pages, sent once however often it is told."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from features.ids import key32
from features.meters import MemoryMeters
from features.store import StoreUnavailable
from serving.decide import decide
from serving.observe import Metrics
from serving.pace_inputs import expected_meter, pages_meter, views_meter
from serving.tallies import What
from serving.tallying import MOST_WAITING, Tallying, tells_tags
from tests.worlds import NOW, customer, market_live, query, sold

LIVE = market_live(
    sold(1, "i2", values={"click": 100.0}, tier="mandatory"),
    orgs=[{"id": "head"}, {"id": "bj", "parent": "head"}],
)


class Meters(MemoryMeters):
    """Cut off while `away`; or it takes the counts, and the answer is lost."""

    away = lost = False
    batches = 0

    async def add(self, member, sums):
        if self.away:
            raise StoreUnavailable("cut on purpose")
        self.batches += 1
        await super().add(member, sums)
        if self.lost:
            raise StoreUnavailable("the answer was lost")


def made():
    meters = Meters(lambda: NOW)
    return meters, Tallying(meters, Metrics(), clock=lambda: NOW)


def page(org="bj"):
    return decide(query(LIVE, customer(org=key32(org))), LIVE)


async def total(meters, meter):
    name, unit = meter
    found = (await meters.read([name])).get(name, {}).get(unit)
    return found.total if found else 0.0


def test_views_fates_expectations_and_tags_arrive():
    async def story():
        meters, tallying = made()
        for _ in range(3):
            tallying.add(page(), LIVE)
        tallying.add(page("elsewhere"), LIVE)
        await tallying.flush()
        tags = await total(meters, ("t:mandatory|c1|head", "cny"))
        return (
            await total(meters, views_meter("home", "bj")),
            await total(meters, views_meter("home", "")),
            await total(meters, pages_meter("c1", What.PLACED)),
            await total(meters, expected_meter("c1", "displayed")),
            tags - sum(tallying.tags.by_rule().values()),
        )

    bj, unknown, placed, displayed, apart = asyncio.run(story())
    assert (bj, unknown, placed) == (3, 1, 4) and 0 < displayed <= 4 and abs(apart) < 1e-6


def test_what_could_not_be_sent_waits_and_what_was_taken_counts_once():
    async def story():
        meters, tallying = made()
        meters.away = True
        tallying.add(page(), LIVE)
        for _ in range(2):
            with contextlib.suppress(StoreUnavailable):
                await tallying.flush()
        meters.away, meters.lost = False, True
        with contextlib.suppress(StoreUnavailable):
            await tallying.flush()
        meters.lost = False
        tallying.add(page(), LIVE)
        await tallying.flush()
        return await total(meters, views_meter("home", "bj")), meters.batches

    views, batches = asyncio.run(story())
    assert views == 2 and batches == 3


def test_every_second_what_paces_and_with_the_whole_the_rest():
    async def story():
        meters, tallying = made()
        tallying.add(page(), LIVE)
        told = []
        for whole in (False, True):
            await tallying.flush(whole=whole)
            wanted = (
                views_meter("home", "bj"),
                pages_meter("c1", What.PLACED),
                pages_meter("c1", What.ELIGIBLE),
            )
            told.append([await total(meters, one) for one in wanted])
        return told

    assert asyncio.run(story()) == [[1, 1, 0], [1, 1, 1]]


def test_nothing_is_sent_when_nothing_was_counted():
    async def story():
        meters, tallying = made()
        await tallying.flush()
        await tallying.flush()
        return meters.batches

    assert asyncio.run(story()) == 0 and MOST_WAITING == 600


def test_the_service_sends_by_itself_and_the_rest_when_it_stops():
    async def story():
        meters, tallying = made()
        await tallying.start()
        tallying.add(page(), LIVE)
        await tallying.stop()
        await tallying.stop()
        return await total(meters, views_meter("home", "bj"))

    assert asyncio.run(story()) == 1


def test_one_page_in_thirty_two_tells_its_tags_and_the_page_is_the_same_without():
    told = [tells_tags(f"decision {n}") for n in range(32_000)]
    assert 900 < sum(told) < 1_100
    made = query(LIVE, customer())
    plain = decide(replace(made, tagged=False), LIVE)
    places = [(one.slot, one.position, one.key, one.campaign) for one in decide(made, LIVE).placements]
    assert [(one.slot, one.position, one.key, one.campaign) for one in plain.placements] == places
    assert not any(one.tag for one in plain.placements)
