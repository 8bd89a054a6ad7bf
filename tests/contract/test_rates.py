"""Token buckets and day quotas: the same on every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from features.rates import DAY_S, Back, MemoryRates, Rates, RateTerms
from features.redis_address import parse_address
from features.redis_rates import RedisRates
from features.redis_resp import RespLink
from tests.shell import Clock, run


class RatesContract:
    def opened(self) -> AbstractAsyncContextManager[Rates]:
        raise NotImplementedError

    def test_a_burst_then_nothing_then_the_rate(self) -> None:
        async def story() -> None:
            async with self.opened() as rates:
                first = await rates.lease("a", RateTerms(2.0, 5), 10)
                assert first.units == 5
                then = await rates.lease("a", RateTerms(2.0, 5), 10)
                assert then.units == 0 and 0 < then.wait_s <= 0.5 and not then.by_quota
                assert (await rates.lease("b", RateTerms(2.0, 5), 3)).units == 3  # another name

        run(story)

    def test_a_quota_of_a_day_is_never_passed_and_what_comes_back_counts_again(self) -> None:
        async def story() -> None:
            terms = RateTerms(per_day=7)
            async with self.opened() as rates:
                first = await rates.lease("a", terms, 5)
                assert first.units == 5
                assert (await rates.lease("a", terms, 5)).units == 2
                spent = await rates.lease("a", terms, 5)
                assert spent.units == 0 and spent.by_quota and 0 < spent.wait_s <= DAY_S
                assert (await rates.lease("a", terms, 5, Back(3, first.day))).units == 3
                assert (await rates.lease("a", terms, 5, Back(3, first.day - 1))).units == 0  # yesterday's

        run(story)


class TestMemory(RatesContract):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Rates]:
        yield MemoryRates(Clock())


class ServerRatesContract(RatesContract):
    url: str

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Rates]:
        link = RespLink(parse_address(self.url), connect_s=2.0)
        try:
            yield RedisRates(link)
        finally:
            await link.close()


@pytest.mark.integration
class TestValkey(ServerRatesContract):
    @pytest.fixture(autouse=True)
    def _url(self, valkey_url: str) -> None:
        self.url = valkey_url


@pytest.mark.integration
class TestRedis(ServerRatesContract):
    @pytest.fixture(autouse=True)
    def _url(self, redis_url: str) -> None:
        self.url = redis_url
