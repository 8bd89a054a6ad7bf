"""Ledgers for contract tests: on every store there is, opened with the live store and meters beside them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import numpy as np
import pytest

from features.events import WHAT
from features.ids import decision_mark
from features.ledger import CapCheck, Ledger, Reserving, Wish
from features.live_store import LiveStore, MemoryLiveStore, live_keys
from features.memory_ledger import MemoryLedger
from features.meters import MemoryMeters, Meters
from features.reservations import RESERVED, packed, rows_of
from features.store import MemoryBlobs
from features.views import CONTACT

NOW = 1_800_000_000.0
HOME, LIFE = 7, 8


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


class LedgerSuite(ABC):
    """What a suite of tests runs on; each store's class gives it one."""

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


class OnMemory(LedgerSuite):
    @asynccontextmanager
    async def opened(self):
        blobs = MemoryBlobs(lambda: NOW)
        yield MemoryLedger(blobs), MemoryLiveStore(blobs), MemoryMeters(lambda: NOW)

    def write(self, live, key, value):
        live.blobs.set(key, value, 1000)


class OnServer(LedgerSuite):
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


class OnValkey(OnServer):
    @pytest.fixture(autouse=True)
    def _url(self, valkey_url: str) -> None:
        self.url = valkey_url


class OnRedis(OnServer):
    @pytest.fixture(autouse=True)
    def _url(self, redis_url: str) -> None:
        self.url = redis_url
