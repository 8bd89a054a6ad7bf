"""The ledger's side of a page: quotas from this replica's leases, then the caps by one script.

What is refused is replaced by the decision's own stand-ins. When the ledger cannot be asked, or its epoch is
not the one known here, nothing capped is shown, the page is made without it, and that is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from features.leases import Leases
from features.ledger import NO_EPOCH, Ledger, Reserving
from features.store import StoreUnavailable
from serving.breaker import Breaker
from serving.control import Control
from serving.domain import Decision
from serving.holder import Holder
from serving.intake import in_time
from serving.live import Live
from serving.metered import Metered, QuotaPool
from serving.observe import Metrics
from serving.placed import Columns
from serving.reserving import quotas_of, refused_of, reserving_of, settle, unreserved

LOOK_AGAIN_S: Final = 0.02  # how long an answer about empty leases is good for
FOLLOW_S: Final = 2.0
OPEN_S: Final = 1.0


class Granting:
    """One per process, on one event loop."""

    def __init__(
        self,
        ledger: Ledger,
        control: Control,
        holder: Holder,
        metrics: Metrics,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        breaker: Breaker | None = None,
    ) -> None:
        """`breaker`: of the ledger's store; while it is open nothing capped is shown, and nothing asked."""
        self._breaker = breaker or Breaker(monotonic)
        self._ledger, self._control, self._holder, self._metrics = ledger, control, holder, metrics
        self._clock, self._monotonic = clock, monotonic
        self._leases = Leases(ledger, clock=clock, monotonic=monotonic)
        self._tasks: list[asyncio.Task[None]] = []
        self._plan: object = None
        self._metered = Metered({}, {}, ())
        self._pools: Mapping[str, QuotaPool] = {}
        self._spent: tuple[float, frozenset[str]] = (float("-inf"), frozenset())

    async def start(self) -> None:
        """Opens the ledger's first epoch, if the store answers; else as soon as it does."""
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(OPEN_S):
                await self.begin()
        self._tasks = [
            asyncio.create_task(self._leases.run(), name="fenliu-leases"),
            asyncio.create_task(self._follow(), name="fenliu-pools"),
        ]

    async def stop(self) -> None:
        """Everything that was not spent goes back, as far as the store can be reached."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._leases.close()

    async def begin(self) -> None:
        """See the ledger's epoch, or open the first there ever was. Raises StoreUnavailable.

        Control remembers that there was one: a ledger without any has lost its memory then, and stays shut
        until it is rebuilt.
        """
        known = (await self._control.poll()).epoch is not None
        number = await self._ledger.open_epoch(known=known)
        if not known and number != NO_EPOCH:
            await self._control.set("epoch", str(number))

    async def renew(self) -> None:
        """See the epoch and fetch leases now (tests, simulations). Raises StoreUnavailable."""
        if (live := self._holder.current) is not None:
            self.metered(live)
        await self.begin()
        await self._leases.renew()

    @property
    def open(self) -> bool:
        """Whether anything that is capped may be shown."""
        return self._ledger.epoch != NO_EPOCH

    def metered(self, live: Live) -> Metered:
        """What counts for what under the plan in force; a new plan's quotas are leased from here on."""
        if live.plan is not self._plan:
            self._plan = live.plan
            self._metered = Metered.of(live.plan)
            self._pools = {pool.key: pool for pool in self._metered.pools}
            self._watch()
        return self._metered

    def spent(self, live: Live) -> frozenset[str]:
        """Keys of quotas of which nothing can be taken now."""
        self.metered(live)
        if not self._pools:
            return frozenset()
        at, found = self._spent
        if self._monotonic() - at > LOOK_AGAIN_S:
            now = self._clock()
            found = frozenset(
                key for key, pool in self._pools.items() if not self._leases.left(pool.name(now), now)
            )
            self._spent = (self._monotonic(), found)
        return found

    async def granted(self, decision: Decision, live: Live, attempt: int, timeout_s: float) -> Decision:
        """The page as it may be shown; the same object when nothing on it was refused."""
        if not any(Columns.of(decision.placements).capped):
            return decision if self.open or not _counted(live) else self._shut(decision)
        refused, taken = self._take(decision, live)
        asking = reserving_of(decision, live, self._ledger.epoch, attempt=attempt, without=refused)
        decision = unreserved(decision, asking.places)
        if asking.places:
            refused |= await self._reserve(decision, asking.places, asking.reserving, timeout_s)
        for index in refused:
            for pool in taken.get(index, ()):
                self._leases.put_back(pool, decision.query.now)
        if "ledger" in refused.values():
            self._metrics.store_error("ledger")
            decision = replace(decision, degraded=(*decision.degraded, "ledger"))
        return settle(decision, refused)

    def _shut(self, decision: Decision) -> Decision:
        """Decided without anything capped, for the ledger has no epoch."""
        self._metrics.ledger("epoch")
        return replace(decision, degraded=(*decision.degraded, "ledger"))

    def _take(self, decision: Decision, live: Live) -> tuple[dict[int, str], dict[int, tuple[str, ...]]]:
        """Units for each place: what was refused, and the pools that gave."""
        now = decision.query.now
        refused: dict[int, str] = {}
        taken: dict[int, tuple[str, ...]] = {}
        for index, keys in quotas_of(decision, live).items():
            got: list[str] = []
            for key in keys:
                name = self._pools[key].name(now) if key in self._pools else ""
                if not name or not self._leases.take(name, now):
                    refused[index] = "quota"
                    break
                got.append(name)
            if index in refused:
                for name in got:
                    self._leases.put_back(name, now)
            else:
                taken[index] = tuple(got)
        return refused, taken

    async def _reserve(
        self, decision: Decision, places: tuple[int, ...], reserving: Reserving, timeout_s: float
    ) -> dict[int, str]:
        query = decision.query
        late = "live" in query.customer.missing  # the ledger's own store, and a page waits for it once
        if late or self._breaker.open:
            return dict.fromkeys(places, "ledger")
        try:
            answer = await in_time(self._ledger.reserve(query.subject, reserving, query.device), timeout_s)
        except StoreUnavailable:
            self._breaker.told(False)
            return dict.fromkeys(places, "ledger")
        if not answer.current:
            return dict.fromkeys(places, "ledger")
        return refused_of(places, answer.taken)

    def _watch(self) -> None:
        now = self._clock()
        self._leases.watch({pool.name(now): pool.terms for pool in self._pools.values()})

    async def _follow(self) -> None:
        """Quotas per day change their pool at midnight of their zone; a ledger that was emptied and rebuilt
        over the same connection has another epoch.
        """
        while True:
            if (live := self._holder.current) is not None:
                self.metered(live)
                self._watch()
            with contextlib.suppress(
                StoreUnavailable
            ):  # though it is open: another may have rebuilt it since
                await self.begin()
            await asyncio.sleep(FOLLOW_S)


def _counted(live: Live) -> bool:
    """Whether anything of the plan has a cap or a quota."""
    return bool(live.plan.campaigns.caps or live.plan.campaigns.quotas)
