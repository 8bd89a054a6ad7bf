"""The pacer: about every second the one that leads turns what was delivered into prices.

Every replica runs one; control elects the leader. The loop is thin: read meters, look, update, write. What it
cannot read or write it counts and tries again; meanwhile the last prices hold, and replicas say so after ten
seconds. The controller's state lies beside the prices, so that the next leader continues.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from features.meters import Meters
from features.store import StoreUnavailable
from serving.control import PACER, Control, ControlError
from serving.pace_inputs import Pools
from serving.pace_lead import Lead
from serving.pace_plan import PacePlan
from serving.prices import Prices, PricesError
from serving.turns import Turns, resign

LOG: Final = logging.getLogger("fenliu.pacer")
EVERY_S: Final = 1.0
LEAD_S: Final = 5.0  # a leader that is silent for so long is followed by another
STEP_TIMEOUT_S: Final = 4.0  # less than LEAD_S: who is late does not think that it leads


class Counters(Protocol):
    """`serving.observe.Metrics`, as far as the pacer needs it."""

    def paced(self, result: str, seconds: float) -> None: ...


class Pacer:
    """`plan` gives what is to be paced now, the same object while it is the same; None: nothing is.

    `stopped`: names of slots that a kill switch has off.
    """

    def __init__(
        self,
        control: Control,
        meters: Meters,
        pools: Pools,
        plan: Callable[[], PacePlan | None],
        metrics: Counters,
        candidate: str,
        *,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.time,
        stopped: Callable[[], frozenset[str]] = frozenset,
        zone_s: float = 8 * 3600.0,
        holidays: frozenset[int] = frozenset(),
    ) -> None:
        self._control, self._meters, self._pools, self._plan = control, meters, pools, plan
        self._metrics, self._candidate, self._clock = metrics, candidate, clock
        self._stopped, self._zone_s, self._holidays = stopped, zone_s, holidays
        self._lead: Lead | None = None
        self._work: asyncio.Future[Prices] | None = None
        self._turns = Turns(self.step, every_s, "fenliu-pacer", first=(0.0, 1.0), spread=(0.9, 1.1))

    @property
    def leads(self) -> bool:
        return self._lead is not None

    async def start(self) -> None:
        self._turns.start()

    async def stop(self) -> None:
        """Resigns, so that another leads at once."""
        await self._turns.stop()
        if self._lead is not None:
            self._lead = None
            await resign(self._control, PACER, self._candidate)

    async def step(self) -> bool:
        """Lead if nobody else does, and write prices; True when prices were written. Raises nothing."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                result = await self._step()
        except (StoreUnavailable, TimeoutError, ControlError, PricesError) as away:
            LOG.warning("prices were not updated: %s", away or "out of time")
            result = "failed"
        except Exception:  # pacing must go on: the next second may find what can be read
            LOG.exception("a pacing step failed")
            result = "failed"
        self._metrics.paced(result, time.monotonic() - started)
        return result == "written"

    async def _step(self) -> str:
        fence = await self._control.lead(PACER, self._candidate, LEAD_S)
        if fence is None:
            self._lead = None
            return "following"
        lead = self._lead
        if lead is None or lead.fence != fence:
            state = await self._control.pacer_state()
            lead = self._lead = Lead(
                fence, state, self._meters, self._pools, zone_s=self._zone_s, holidays=self._holidays
            )
            LOG.info("this replica leads the pacing, fence %d", fence)
        plan = await asyncio.to_thread(self._plan)  # a new plan: its priors are read from the registry
        if plan is None:
            return "idle"
        now = self._clock()
        await lead.read(plan, now)
        if self._work is not None and not self._work.done():
            raise TimeoutError("the last step is still being computed")
        self._work = asyncio.ensure_future(asyncio.to_thread(lead.prices, plan, self._stopped(), now))
        prices = await asyncio.shield(self._work)  # a thread cannot be stopped: two may not overlap
        if await self._control.put_prices(prices, lead.memory.encode()):
            return "written"
        self._lead = None
        return "deposed"
