"""What a customer would see under a plan, now, and why: a page decided as ever, of which nothing remains.

It reads the customer's records and the running prices; nothing is reserved, remembered, logged or counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import orjson

from serving.admin_asks import PreviewAsk
from serving.errors import Problem
from serving.granting import Granting
from serving.holder import Holder
from serving.lists import ListShelf
from serving.live import Live, build_live
from serving.observe import Metrics
from serving.plan import Plan, PlanError
from serving.recommender import Recommender
from serving.service import Service
from serving.settings import Settings
from serving.wire import OptionsAsk, RecommendAsk

DEADLINE_MS: Final = 2000  # nobody is waiting at a counter: every rung's time
READ_S: Final = 1.0


class ReadOnly(Granting):
    """Sees what is spent under the plan in force; takes and leases nothing, whatever the plan previewed."""

    def __init__(self, service: Service, metrics: Metrics, clock: Callable[[], float]) -> None:
        super().__init__(
            service.stores.ledger,
            service.control,
            service.holder,
            metrics,
            clock=clock,
            monotonic=time.monotonic,
        )
        self._service = service

    def spent(self, live: Live) -> frozenset[str]:  # noqa: ARG002 - of the plan in force, not the one shown
        return self._service.granting.spent(self._service.holder.live)


class Previewing:
    """An `admin.Preview` beside a started service; one at a time, as each builds a view of its own."""

    def __init__(self, service: Service, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._service, self._clock = service, clock
        self._settings = replace(settings, deadline_ms=DEADLINE_MS, read_timeout_s=READ_S)
        self._lists = ListShelf(settings.registry_url)
        self._one = asyncio.Semaphore(1)

    async def __call__(self, ask: PreviewAsk, plan: Plan | None) -> dict[str, Any]:
        """The page, explained. Raises Problem: `not_ready`, `bad_plan`, `unknown_surface` and what the ask
        earns."""
        async with self._one:
            holder = Holder()
            holder.swap(await self._view(plan))
            holder.take_prices(self._service.holder.prices, self._clock())
            holder.polled()
            body = await self._recommender(holder).page(_asked(ask), "page", None, time.monotonic())
        page: dict[str, Any] = orjson.loads(body)
        return page

    async def _view(self, plan: Plan | None) -> Live:
        """The running one; or `plan` over the same bundle and key space, items and kills as they are now."""
        now = self._service.holder.live
        if plan is None or plan.version == now.plan.version:
            return now
        control = self._service.control
        state, overlay = await control.poll(), await control.overlay_since(0)
        try:
            return await asyncio.to_thread(
                lambda: build_live(
                    now.bundle,
                    overlay,
                    plan,
                    state.kills,
                    features_version=now.features_version,
                    materialised=now.materialised,
                    watermark=now.watermark,
                    lists=self._lists.numbers(),
                    strict=False,
                    bundles=self._service.reloader.bundle,
                )
            )
        except PlanError as bad:  # an arm's bundle
            raise Problem("bad_plan", str(bad)) from None

    def _recommender(self, holder: Holder) -> Recommender:
        """The very shell that answers pages, with counters of its own that nobody reads."""
        service, metrics = self._service, Metrics()
        return Recommender(
            holder, service.stores, service.intake, service.publisher, service.signer, metrics,
            self._settings, ReadOnly(service, metrics, self._clock), service.tallying, clock=self._clock,
        )  # fmt: skip


def _asked(ask: PreviewAsk) -> RecommendAsk:
    options = OptionsAsk(explain=True, dry_run=True, deadline_ms=DEADLINE_MS)
    return RecommendAsk(user_id=ask.user_id, surface=ask.surface, context=ask.context, options=options)
