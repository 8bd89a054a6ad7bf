"""Rates and day quotas of whoever calls, held to without asking the store for each request.

A replica leases units of a name ahead, about a tenth of a second's worth, and fetches the next lease in the
background when half is spent. So over any window W all replicas together admit at most

    burst + rate * W + replicas * lease        (lease = max(1, rate / 10), never above the burst)

and of a day's quota never more than the quota: leased units count as used until they are given back.

It fails open, and counts that it does: while the store is away each replica holds every name to the whole
limit by itself (at most replicas times the limit), because a homepage is worth more than a limit, which
protects the service and its price, not a customer. What protects customers (caps, permission) fails closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Final

from features.rates import NOTHING_BACK, Back, MemoryRates, Rates, RateTerms
from features.store import StoreUnavailable
from serving.errors import Problem
from serving.observe import Metrics
from serving.rate_terms import OTHERS

LEASE_S: Final = 0.1
LEASE_A_DAY: Final = 1000  # a lease of a quota without a rate is this part of it, at most LEASE_MOST
LEASE_MOST: Final = 100
VALID_S: Final = 1.0  # unspent units go back after this
WAIT_S: Final = 0.05  # for the store, once a lease and not once a request
LONGEST_SHUT_S: Final = 1.0  # a refusal is asked again after this, in case limits or days have changed
MOST_NAMES: Final = 10_000


@dataclass(slots=True)
class _Line:
    """What this replica holds of one name. Times are monotonic."""

    name: str
    terms: RateTerms
    lease: int
    left: int = 0
    day: int = 0
    until: float = 0.0
    shut: float = 0.0
    retry_at: float = 0.0
    by_quota: bool = False
    renewing: asyncio.Task[None] | None = None


class Limits:
    """Of one event loop. `terms`: by principal, `*` for everybody else."""

    def __init__(
        self,
        terms: Mapping[str, RateTerms],
        rates: Rates,
        metrics: Metrics,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._terms, self._rates, self._metrics = terms, rates, metrics
        self._alone = MemoryRates(clock)
        self._monotonic = monotonic
        self._lines: dict[str, _Line | None] = {}

    async def admit(self, name: str) -> None:
        """One request. Raises Problem `rate_limited` or `quota_exceeded`, with Retry-After."""
        line = self._lines[name] if name in self._lines else self._opened(name)
        if line is None:
            return
        while True:
            now = self._monotonic()
            if line.left > 0 and now < line.until:
                line.left -= 1
                if line.left <= line.lease // 2 and line.renewing is None and now >= line.shut:
                    self._renewing(line)
                return
            if now < line.shut:
                raise self._refused(line, now)
            await asyncio.shield(line.renewing or self._renewing(line))

    def _opened(self, name: str) -> _Line | None:
        if len(self._lines) >= MOST_NAMES:  # the oldest goes, with the few units it may hold
            self._lines.pop(next(iter(self._lines)))
        terms = self._terms.get(name) or self._terms.get(OTHERS)
        line = None if terms is None else _Line(name, terms, lease_of(terms))
        self._lines[name] = line
        return line

    def _renewing(self, line: _Line) -> asyncio.Task[None]:
        line.renewing = asyncio.create_task(self._renew(line), name="fenliu-limit")
        return line.renewing

    async def _renew(self, line: _Line) -> None:
        try:
            began = self._monotonic()
            over = line.left and began >= line.until
            back = Back(line.left, line.day) if over else NOTHING_BACK
            if over:
                line.left = 0
            want = line.lease - line.left
            try:
                async with asyncio.timeout(WAIT_S):
                    granted = await self._rates.lease(line.name, line.terms, want, back)
            except (StoreUnavailable, TimeoutError):
                self._metrics.limited("alone")
                granted = await self._alone.lease(line.name, line.terms, want)
            line.left, line.day, line.until = line.left + granted.units, granted.day, began + VALID_S
            line.by_quota, line.retry_at = granted.by_quota, began + granted.wait_s
            line.shut = 0.0 if granted.units else began + min(granted.wait_s, LONGEST_SHUT_S)
        finally:
            line.renewing = None

    def _refused(self, line: _Line, now: float) -> Problem:
        wait_s = max(1, ceil(line.retry_at - now))
        terms, headers = line.terms, ((b"retry-after", b"%d" % wait_s),)
        if line.by_quota:
            self._metrics.limited("quota")
            said = f"{line.name} has used its {terms.per_day:,} requests of this UTC day"
            return Problem("quota_exceeded", said, headers=headers)
        self._metrics.limited("rate")
        said = f"{line.name} may ask {terms.per_s:g} times a second, {terms.burst:,} at once"
        return Problem("rate_limited", said, headers=headers)


def lease_of(terms: RateTerms) -> int:
    """Units that a replica may hold of a name: what it may overshoot by."""
    if terms.per_s:
        return max(1, min(terms.burst, round(terms.per_s * LEASE_S)))
    return max(1, min(LEASE_MOST, terms.per_day // LEASE_A_DAY))
