"""The pacer over the real store: meters, election and prices on one server."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from features.ids import key32
from features.meters import Count
from features.redis_address import parse_address
from features.redis_meters import RedisMeters
from features.redis_resp import RespLink
from serving.control import PACER
from serving.pace_inputs import Book, delivered_meter, expected_meter, tally_sums, view_sums, views_meter
from serving.prices import Prices, decode_prices, version_of
from serving.redis_control import RedisControl
from serving.tallies import CampaignTally
from tests.plain_counts import PageCounts


class Plan:
    ids = ("c1", "活动")


@pytest.mark.integration
def test_what_replicas_count_is_what_the_pacer_reads(valkey_url):
    async def steps():
        link = RespLink(parse_address(valkey_url))
        meters = RedisMeters(link)
        try:
            now = time.time()
            tally = CampaignTally()
            units = np.array([[0.8, 0.1, 0.0]] * 3, np.float32)
            PageCounts(placed=np.array([0, 0, 1], np.int32), units=units).added(tally.of(Plan()))
            sums = tally_sums(tally.drain(), now) + view_sums({("home", "bj"): 7}, now)
            shown = Count("c1", "displayed", 1.0, key32("x").to_bytes(4, "little"), now, now, now)
            for _ in range(2):  # told again
                await meters.add("r1:1", sums)
                await meters.count([shown])
            book = Book(meters)
            names = [delivered_meter("c1", "displayed"), expected_meter("c1", "displayed")]
            names += [expected_meter("活动", "clicked"), views_meter("home", "bj")]
            await book.read(names, now, 30)
            await book.read(names, now, 30)
            return [book.total(name) for name in names]
        finally:
            await link.close()

    assert asyncio.run(steps()) == pytest.approx([1.0, 1.6, 0.1, 7.0])


@pytest.mark.integration
def test_two_pacers_of_two_processes_never_both_write(valkey_url):
    async def steps():
        one, two = RedisControl.at(valkey_url), RedisControl.at(valkey_url)
        try:
            first = await one.lead(PACER, "a", 0.1)
            assert await two.lead(PACER, "b", 5) is None
            await asyncio.sleep(0.2)
            second = await two.lead(PACER, "b", 5)
            late = await one.put_prices(Prices(version_of(first, 1)), b"")
            good = await two.put_prices(Prices(version_of(second, 1)), b"")
            return late, good, decode_prices((await one.poll("")).blob).fence == second
        finally:
            await one.close()
            await two.close()

    assert asyncio.run(steps()) == (False, True, True)
