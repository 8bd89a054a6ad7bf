"""Displays, clicks and conversions into the ledger's quotas and the meters, before they are acknowledged.

Both count a placement once whatever is told again, so a young duplicate repairs what a crash left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from features.events import Event
from features.ledger import Ledger
from features.meters import Meters, tally
from features.store import StoreUnavailable
from serving.granting import Granting
from serving.holder import Holder
from serving.intake import in_time
from serving.observe import Metrics
from serving.publisher import Publisher

Work = Callable[[], Awaitable[None]]


class Delivered:
    """Counts by the plan in force. What fails now is tried again later: the log has the events."""

    def __init__(
        self,
        ledger: Ledger,
        meters: Meters,
        granting: Granting,
        holder: Holder,
        publisher: Publisher,
        metrics: Metrics,
    ) -> None:
        self._ledger, self._meters, self._granting = ledger, meters, granting
        self._holder, self._publisher, self._metrics = holder, publisher, metrics

    async def count(self, events: Sequence[Event], timeout_s: float) -> None:
        live = self._holder.current
        if live is None or not any(event.decision_id is not None for event in events):
            return
        metered = self._granting.metered(live)
        if not metered.booked:
            return
        found = tally(events, metered.booked, metered.shares)
        await asyncio.gather(
            self._told(lambda: self._ledger.confirm(found.shown), bool(found.shown), timeout_s),
            self._told(lambda: self._meters.count(found.counts), bool(found.counts), timeout_s),
        )

    async def _told(self, work: Work, needed: bool, timeout_s: float) -> None:
        if not needed:
            return
        try:
            await in_time(work(), timeout_s)
        except StoreUnavailable:
            self._metrics.store_error("delivered")
            self._publisher.repair(work)
