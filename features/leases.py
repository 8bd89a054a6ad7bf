"""A replica's leases: units of quotas taken synchronously on the request's path, renewed beside it.

A lease is for decisions of one 10 s bucket. It is spent until 2 s before the bucket's end, by the monotonic
clock counted from before it was asked for, and only while the epoch it was granted in holds on this very
connection. By then the next bucket's has been fetched. What is left is given back at once; what a dead
replica held returns by itself, `validity + 60 s` after the bucket's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Final, NamedTuple

from features.ledger import BUCKET_S, STOP_S, Lease, Ledger, bucket_of
from features.store import StoreUnavailable

LOG: Final = logging.getLogger("fenliu.leases")
EVERY_S: Final = 0.5
AHEAD_S: Final = 3.0  # the next bucket's lease is fetched this long before it is needed
LEAST: Final = 4
MARGIN: Final = 1.5  # of what the last buckets took
PAUSE_S: Final = 2.0  # after an empty pool


class Terms(NamedTuple):
    """A quota as the plan states it. `name` of the pool may change with the day: `quota_on`."""

    at_most: int
    valid_s: float


@dataclass(slots=True)
class _Held:
    """Units of one quota in one bucket. Grants of one bucket are added up; the earliest stop counts."""

    lease: Lease
    left: int
    stop: float  # monotonic
    taken: int = 0


@dataclass(slots=True)
class _Line:
    terms: Terms
    held: dict[int, _Held] = field(default_factory=dict)
    asked: int = 0  # takes wanted in the bucket that is spent now
    bucket: int = 0
    rate: float = 0.0  # takes wanted a bucket, smoothed
    empty_until: float = 0.0  # monotonic


class Leases:
    """Of one event loop. `take` and `put_back` never wait; `run` renews until it is cancelled."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._ledger, self._clock, self._monotonic = ledger, clock, monotonic
        self._lines: dict[str, _Line] = {}
        self._leaving: list[_Held] = []  # of quotas that are watched no more
        self._renewing = asyncio.Lock()

    def watch(self, quotas: Mapping[str, Terms]) -> None:
        """The quotas that the plan in effect has, by pool name; leases of others are given back."""
        for name in [one for one in self._lines if one not in quotas]:
            self._leaving += self._lines.pop(name).held.values()
        for name, terms in quotas.items():
            line = self._lines.setdefault(name, _Line(terms))
            line.terms = terms

    def take(self, quota: str, decided_at: float) -> bool:
        """One unit for a page decided at that time. False: there is none, so the quota is not spent."""
        line = self._lines.get(quota)
        if line is None:
            return False
        bucket = bucket_of(decided_at)
        if bucket > line.bucket:
            line.rate = max(line.asked, 0.5 * (line.rate + line.asked))
            line.bucket, line.asked = bucket, 0
        line.asked += 1
        held = line.held.get(bucket)
        if held is None or held.left <= 0 or not self._good(held):
            return False
        held.left -= 1
        held.taken += 1
        return True

    def left(self, quota: str, decided_at: float) -> int:
        """Units that `take` would give."""
        line = self._lines.get(quota)
        held = line.held.get(bucket_of(decided_at)) if line is not None else None
        return held.left if held is not None and self._good(held) else 0

    def put_back(self, quota: str, decided_at: float) -> None:
        """A unit that was taken and will not be shown: for the next page, or the pool."""
        line = self._lines.get(quota)
        held = line.held.get(bucket_of(decided_at)) if line is not None else None
        if held is not None and held.taken:
            held.left += 1
            held.taken -= 1

    async def renew(self) -> None:
        """Fetch what is needed, give back what is over. Raises StoreUnavailable; what is held stays held."""
        async with self._renewing:
            await self._return()
            for name, line in list(self._lines.items()):
                await self._fetch(name, line)

    async def run(self) -> None:
        """`renew` each half second; what fails is logged once and tried again."""
        failing = False
        while True:
            try:
                await self._ledger.see_epoch()
                await self.renew()
                failing = False
            except StoreUnavailable as away:
                if not failing:
                    LOG.warning("leases cannot be renewed: %s", away)
                failing = True
            await asyncio.sleep(EVERY_S)

    async def close(self) -> None:
        """Give everything back, as far as the store can be reached."""
        self.watch({})
        with contextlib.suppress(StoreUnavailable):
            async with self._renewing:
                await self._return()

    def _good(self, held: _Held) -> bool:
        return self._monotonic() < held.stop and held.lease.epoch == self._ledger.epoch

    async def _return(self) -> None:
        now = bucket_of(self._clock())
        for line in self._lines.values():
            over = [b for b, held in line.held.items() if b < now or not self._good(held)]
            self._leaving += [line.held.pop(bucket) for bucket in over]
        while self._leaving:
            held = self._leaving[-1]
            units, held.left = held.left, 0  # nobody takes them while they are on their way back
            try:
                await self._ledger.give_back(held.lease, units)
            finally:
                self._leaving.pop()  # not known whether it arrived: never give back twice

    async def _fetch(self, name: str, line: _Line) -> None:
        now = self._clock()
        bucket = bucket_of(now)
        wanted = [bucket]
        if (bucket + 1) * BUCKET_S - STOP_S - now <= AHEAD_S:
            wanted.append(bucket + 1)
        for one in wanted:
            held = line.held.get(one)
            target = max(LEAST, ceil(MARGIN * max(line.rate, line.asked)))
            if (held is not None and held.left >= target / 2) or self._monotonic() < line.empty_until:
                continue
            await self._ask(name, line, one, target - (held.left if held is not None else 0))

    async def _ask(self, name: str, line: _Line, bucket: int, want: int) -> None:
        began = self._monotonic()
        terms = line.terms
        lease = await self._ledger.lease(name, terms.at_most, want, bucket, terms.valid_s)
        if lease is None:
            line.empty_until = began + PAUSE_S
            return
        stop = began + lease.left_s - STOP_S
        held = line.held.get(bucket)
        if held is None or held.lease.epoch != lease.epoch:
            line.held[bucket] = _Held(lease, lease.units, stop)
        else:
            held.left += lease.units
            held.stop = min(held.stop, stop)
