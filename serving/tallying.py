"""What this replica counted of its pages, sent to the meters: what pacing needs every second, the rest of the
funnel and price tags every ten.

A drained batch has one member id and is sent until the meters took it, so that it counts once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Final
from zlib import crc32

from features.meters import Meters, Sum
from features.store import StoreUnavailable
from serving.counting import Counting, tagged_of
from serving.domain import Decision
from serving.live import Live
from serving.observe import Metrics
from serving.pace_inputs import tag_sums, tally_sums, view_sums
from serving.tag_sums import Tagged, TagSums
from serving.tallies import FAST, CampaignTally

LOG: Final = logging.getLogger("fenliu.tallying")
EVERY_S: Final = 1.0
TAG_EVERY: Final = 32  # tags of a page with 60 offers cost 1 ms: sums need no more than a sample
WHOLE_EVERY: Final = 10  # turns: the pacer looks for causes as often
MOST_WAITING: Final = 600  # batches kept while the store is away: ten minutes


def tells_tags(decision_id: str) -> bool:
    """Whether a page is among those whose price tags are worked out and summed, one in `TAG_EVERY`."""
    return crc32(decision_id.encode()) % TAG_EVERY == 0


def _weighted(one: Tagged) -> Tagged:
    return one._replace(cny=one.cny * TAG_EVERY, displays=one.displays * TAG_EVERY)


class Tallying:
    """Started and stopped with the service."""

    def __init__(self, meters: Meters, metrics: Metrics, *, clock: Callable[[], float]) -> None:
        self._meters, self._metrics, self._clock = meters, metrics, clock
        self.campaigns, self.tags, self._counting = CampaignTally(), TagSums(), Counting()
        self._replica, self._views, self._batch = secrets.token_hex(6), dict[tuple[str, str], int](), 0
        self._waiting: deque[tuple[str, list[Sum]]] = deque(maxlen=MOST_WAITING)
        self._sending = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def add(self, decision: Decision, live: Live) -> None:
        """One page, after it was answered."""
        query = decision.query
        org = live.orgs.get(int(query.customer.get("org")), "")
        stream = (live.plan.called(query.surface)[-1], org)
        self._views[stream] = self._views.get(stream, 0) + 1
        self._counting.add(self.campaigns.of(live.plan.campaigns), decision, live)
        if tells_tags(query.decision_id):
            self.tags.add([_weighted(one) for one in tagged_of(decision, live)])

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="fenliu-tallying")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(1.0):
                await self.flush()

    async def flush(self, *, whole: bool = True) -> None:
        """Send what was counted until now; `whole`: also what is not for pacing. Raises StoreUnavailable;
        nothing is lost then.
        """
        async with self._sending:
            if sums := self._drained(whole):
                self._batch += 1
                self._waiting.append((f"{self._replica}:{self._batch}", sums))
            while self._waiting:
                await self._meters.add(*self._waiting[0])
                self._waiting.popleft()

    def _drained(self, whole: bool) -> list[Sum]:
        now = self._clock()
        views, self._views = self._views, {}
        found = view_sums(views, now)
        if not whole:
            return found + tally_sums(self.campaigns.drain(FAST), now)
        return found + tally_sums(self.campaigns.drain(), now) + tag_sums(self.tags.drain(), now)

    async def _run(self) -> None:
        for turn in count(1):
            await asyncio.sleep(EVERY_S)
            try:
                await self.flush(whole=turn % WHOLE_EVERY == 0)
            except StoreUnavailable:
                self._metrics.store_error("tallies")
            except Exception:  # counting must go on
                LOG.exception("tallies could not be sent")
                self._metrics.failures.labels("tallying").inc()
