"""A replica of the race: decisions without end, for as many customers at a time as it was told.

All customers of all replicas come at the same moment, volley after volley; now and then all of them are the
same customer, on many devices. What is answered is written down first: an answer that left is out of the
replica's hands, whatever becomes of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from pathlib import Path
from typing import Final

from features.leases import Leases, Terms
from features.ledger import Reserving, scope_of
from features.redis_address import parse_address
from features.redis_ledger import RedisLedger
from features.redis_resp import RespLink
from features.store import StoreUnavailable
from training.bench.race_counts import Count, Counts
from training.bench.race_world import DEVICES, ONE, OTHERS, QUOTA, TALK_S, Size, check_of, wish_of

AMONG_OTHERS: Final = 0.02  # of decisions are for the one customer when not all of them are
UNMETERED: Final = 0.8  # of the one customer's: an item without a quota, so that caps bind when that is spent
REFRESHES: Final = 0.1
RETRIES: Final = 0.2
SPREAD_S: Final = 0.02  # of a volley


def decide(url: str, folder: Path, name: str, size: Size) -> None:
    """Until killed. The target of a process; writes `NAME.journal` and `NAME.counts`."""
    asyncio.run(_Replica(url, folder, name, size).run())


class _Replica:
    def __init__(self, url: str, folder: Path, name: str, size: Size) -> None:
        self._ledger = RedisLedger(RespLink(parse_address(url)), grace_s=size.grace_s)
        self._leases = Leases(self._ledger, clock=time.time, monotonic=time.monotonic)
        self._leases.watch({QUOTA: Terms(size.limit, size.valid_s)})
        self._name, self._size, self._check = name, size, check_of(size)
        self._rng = random.Random(f"{size.seed}/{name}")
        self._out = os.open(folder / f"{name}.journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._counts = Counts(folder / f"{name}.counts")

    async def run(self) -> None:
        customers = max(self._size.at_once // self._size.clients, 1)
        await asyncio.gather(*(self._customer(i) for i in range(customers)), self._leases.run())

    async def _customer(self, number: int) -> None:
        serial, every = 0, self._size.volley_s
        while True:
            volley = int(time.time() / every) + 1
            await asyncio.sleep(volley * every - time.time() + self._rng.uniform(0.0, SPREAD_S))
            serial += 1
            self._counts.add(Count.ATTEMPTS)
            self._counts.add(Count.DECIDING)
            one = volley % self._size.one_every == 0 or self._rng.random() < AMONG_OTHERS
            await self._page(f"{self._name}.{number}.{serial}", ONE if one else None)
            self._counts.add(Count.DECIDING, -1)

    async def _page(self, decision: str, subject: str | None) -> None:
        """A unit of the quota first, then the customer's caps; what the caps refuse is put back."""
        at, rng = time.time(), self._rng
        subject = subject or f"u:{rng.randrange(OTHERS)}"
        metered = subject != ONE or rng.random() >= UNMETERED
        if metered and not self._leases.take(QUOTA, at):
            self._counts.add(Count.NO_UNIT)
            return
        refresh = rng.random() < REFRESHES  # a page of a device seen before takes over what that one held
        self._counts.add(Count.REFRESHED, refresh)
        scope = scope_of("home", f"device{rng.randrange(DEVICES)}" if refresh else decision)
        item = rng.randrange(1, 1 << 60)
        place = (wish_of(item),)
        asked = Reserving(decision, scope, self._size.valid_s, (place,), (self._check,), self._ledger.epoch)
        taken = await self._reserved(subject, asked)
        if taken != 0:
            if metered:
                self._leases.put_back(QUOTA, at)
            return
        page = {"id": decision, "subject": subject, "item": item, "at": at, "metered": metered}
        os.write(self._out, json.dumps(page).encode() + b"\n")

    async def _reserved(self, subject: str, asked: Reserving) -> int:
        """The choice; -1 also when the store does not say. A retry asks for the very same again."""
        again = self._rng.random() < RETRIES
        self._counts.add(Count.RETRIED, again)
        taken, current = -1, False
        for _ in range(1 + again):
            try:
                async with asyncio.timeout(TALK_S):
                    reserved = await self._ledger.reserve(subject, asked)
            except (StoreUnavailable, TimeoutError):
                self._counts.add(Count.UNSURE)
                return -1
            taken, current = reserved.taken[0], reserved.current
        if taken != 0:
            self._counts.add(Count.CAPPED if current else Count.UNSURE)
        return taken
