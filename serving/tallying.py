"""What this replica counted of its pages, sent to the meters about once a second.

A drained batch has one member id and is sent until the meters took it, so that it counts once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Callable
from typing import Final
from zlib import crc32

from features.meters import Count, Meters
from features.store import StoreUnavailable
from serving.counting import counts_of_pages, tagged_of
from serving.domain import Decision
from serving.live import Live
from serving.observe import Metrics
from serving.pace_inputs import tag_counts, tally_counts, view_counts
from serving.tag_sums import Tagged, TagSums
from serving.tallies import CampaignTally

LOG: Final = logging.getLogger("fenliu.tallying")
EVERY_S: Final = 1.0
TAG_EVERY: Final = 32  # tags of a page with 60 offers cost 1 ms: sums need no more than a sample
TOGETHER: Final = 64  # pages counted at once
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
        replica = secrets.token_hex(6)
        self.campaigns, self.tags = CampaignTally(replica), TagSums(replica)
        self._replica, self._views, self._batch = replica, dict[tuple[str, str], int](), 0
        self._waiting: deque[list[Count]] = deque(maxlen=MOST_WAITING)
        self._task: asyncio.Task[None] | None = None
        self._pages: list[Decision] = []  # not counted yet, all of one plan
        self._live: Live | None = None

    def add(self, decision: Decision, live: Live) -> None:
        """One page, after it was answered."""
        query = decision.query
        org = live.orgs.get(int(query.customer.get("org")), "")
        stream = (live.plan.called(query.surface)[-1], org)
        self._views[stream] = self._views.get(stream, 0) + 1
        if self._live is None or live.plan is not self._live.plan:
            self.fold()
            self._live = live
        self._pages.append(decision)
        if len(self._pages) >= TOGETHER:
            self.fold()
        if tells_tags(query.decision_id):
            self.tags.add([_weighted(one) for one in tagged_of(decision, live)])

    def fold(self) -> None:
        """What pages did to campaigns, of many pages at once: alone each would cost ten times as much."""
        pages, self._pages = self._pages, []
        if pages and self._live is not None:
            self.campaigns.add(self._live.plan.campaigns, counts_of_pages(pages, self._live))

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

    async def flush(self) -> None:
        """Send everything counted until now. Raises StoreUnavailable; nothing is lost then."""
        counts = self._drained()
        if counts:
            self._waiting.append(counts)
        while self._waiting:
            await self._meters.count(self._waiting[0])
            self._waiting.popleft()

    def _drained(self) -> list[Count]:
        self.fold()
        now = self._clock()
        views, self._views = self._views, {}
        self._batch += 1
        return [
            *tally_counts(self.campaigns.drain(), now),
            *tag_counts(self.tags.drain(), now),
            *view_counts(views, f"{self._replica}:v{self._batch}", now),
        ]

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.flush()
            except StoreUnavailable:
                self._metrics.store_error("tallies")
            except Exception:  # counting must go on
                LOG.exception("tallies could not be sent")
                self._metrics.failures.labels("tallying").inc()
