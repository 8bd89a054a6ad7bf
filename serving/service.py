"""Everything one process needs to answer, wired together; started and stopped with the ASGI application."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from features.log import Entry
from features.outcomes import Outcome, live_entries, outcome_to_log, parse_outcome, parse_outcomes
from features.stores import MEMORY, Stores, StoreUrls
from features.token import TokenSigner
from serving.bandit_lead import Learner
from serving.batching import Batching
from serving.breaker import Breakers
from serving.campaign_metrics import CampaignCollector
from serving.changes import Changes
from serving.control import Control, MemoryControl
from serving.decide import deciding
from serving.delivered import Delivered
from serving.durable import Durable, spool_of
from serving.errors import Problem
from serving.governing import governance_of
from serving.granting import Granting
from serving.guard import Guard
from serving.holder import Holder
from serving.intake import Intake, in_time
from serving.limits import Limits
from serving.observe import Metrics
from serving.office import Office
from serving.pace_plan import Pacing
from serving.pacer import Pacer
from serving.plan import Plan
from serving.priors import Priors
from serving.publisher import Publisher
from serving.recommender import Deciding, Recommender
from serving.redis_control import RedisControl
from serving.reload import Bundles, FromRegistry, Reloader
from serving.security import token_keys
from serving.settings import SYNCED_LEVEL, Settings
from serving.similar import similar_bytes
from serving.spool_metrics import SpoolMetrics
from serving.standing import categories_of
from serving.store_watch import StoreWatch
from serving.tallying import Tallying
from serving.wire import SimilarAsk

if TYPE_CHECKING:
    from serving.traces import Traces


@dataclass(frozen=True, slots=True)
class _Parts:
    """What lives on the event loop of a started service."""

    stores: Stores
    control: Control
    publisher: Publisher
    durable: Durable
    intake: Intake
    granting: Granting
    tallying: Tallying
    recommender: Recommender
    batching: Batching
    changes: Changes
    reloader: Reloader
    pacer: Pacer
    guard: Guard
    learner: Learner
    watch: StoreWatch


class Service:
    """`start` opens the stores and loads what is live; before that requests get `not_ready`.

    `stores`, `control` and `bundles` may be handed in (tests, simulations); otherwise they follow the
    settings, where a store role without a URL is kept in memory.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        stores: Stores | None = None,
        control: Control | None = None,
        bundles: Bundles | None = None,
        clock: Callable[[], float] = time.time,
        deciding: Deciding = deciding,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.holder = Holder()
        self.signer = TokenSigner(token_keys(settings))
        self._given = stores, control
        self._bundles = bundles or FromRegistry(settings)
        self._clock, self._deciding = clock, deciding
        self._parts: _Parts | None = None
        self._spool_said: SpoolMetrics | None = None
        self.limits: Limits | None = None
        self.traces: Traces | None = None

    async def start(self) -> None:
        """Raises nothing for a store or a registry that is away: they are tried again until they answer.
        SettingsError for a log that answers and cannot do what FENLIU_DURABILITY asks.
        """
        parts = self._parts = self._wire()
        await parts.durable.start(self._replayed, lambda: self.holder.current is not None)
        await parts.publisher.start()
        await parts.reloader.start()
        await parts.granting.start()
        await parts.tallying.start()
        await parts.pacer.start()
        await parts.guard.start()
        await parts.learner.start()
        await parts.watch.start()

    async def stop(self) -> None:
        """What was accepted is written, then everything is closed. Safe to call twice."""
        parts, self._parts = self._parts, None
        if parts is None:
            return
        await parts.watch.stop()
        await parts.guard.stop()
        await parts.learner.stop()
        await parts.pacer.stop()
        await parts.reloader.stop()
        await parts.durable.stop()
        await parts.publisher.stop()
        await parts.tallying.stop()
        await parts.granting.stop()
        if (traces := self.traces) is not None:
            self.traces = None
            await asyncio.to_thread(traces.close)
        if self._given[0] is None:
            await parts.control.close()
            await parts.stores.close()

    def _wire(self) -> _Parts:
        settings, metrics = self.settings, self.metrics
        urls = {role: url or MEMORY for role, url in settings.store_urls.items()}
        apart = settings.durability == SYNCED_LEVEL
        stores = self._given[0] or Stores.open(StoreUrls(**urls), clock=self._clock, log_apart=apart)
        stores.time_reads(metrics.store_read)
        link = stores.control_link
        control = self._given[1] or (MemoryControl(self._clock) if link is None else RedisControl(link))
        publisher = Publisher(stores.log, metrics, settings.served_queue)
        breakers = Breakers(time.monotonic, metrics.breaker)
        granting = Granting(
            stores.ledger, control, self.holder, metrics,
            clock=self._clock, monotonic=time.monotonic, breaker=breakers.live,
        )  # fmt: skip
        delivered = Delivered(stores.ledger, stores.meters, granting, self.holder, publisher, metrics)
        spool = spool_of(settings)
        if self._spool_said is None:
            self._spool_said = SpoolMetrics(metrics.registry, spool, settings.spool_mb << 20, self._clock)
        said = self._spool_said
        said.spool = spool
        durable = Durable(stores.log, spool, settings.durability, said, clock=self._clock)
        intake = Intake(
            durable,
            stores.live,
            publisher,
            metrics,
            self.signer.verify,
            settings.write_timeout_s,
            delivered,
        )
        if settings.rates:
            self.limits = Limits(
                settings.rates, stores.rates, metrics, clock=self._clock, monotonic=time.monotonic
            )
        tallying = Tallying(stores.meters, metrics, clock=self._clock)
        recommender = self._recommender_class()(
            self.holder, stores, intake, publisher, self.signer, metrics, settings, granting, tallying,
            clock=self._clock, deciding=self._deciding, breakers=breakers,
        )  # fmt: skip
        pacing = Pacing(lambda: self.holder.current, Priors(settings.registry_url))
        pacer = Pacer(
            control, stores.meters, stores.ledger, pacing, metrics, secrets.token_hex(6),
            clock=self._clock, stopped=self._stopped_slots,
        )  # fmt: skip
        office = Office(governance_of(settings, self.holder, clock=self._clock), control)
        guard = Guard(
            control, stores.log, office, self._plan, metrics, secrets.token_hex(6), clock=self._clock
        )
        learner = Learner(
            control, stores.log, settings.registry_url, lambda: self.holder.current, metrics,
            secrets.token_hex(6), clock=self._clock,
        )  # fmt: skip
        watch = StoreWatch(stores, lambda: pacer.leads, metrics.stores_seen, metrics, clock=self._clock)
        metrics.registry.register(CampaignCollector(tallying.campaigns, tallying.tags, self.holder))
        changes = Changes(control, stores, settings.write_timeout_s, self._clock)
        reloader = Reloader(control, self.holder, settings, metrics, self._bundles, clock=self._clock)
        return _Parts(
            stores,
            control,
            publisher,
            durable,
            intake,
            granting,
            tallying,
            recommender,
            Batching(self.holder, recommender),
            changes,
            reloader,
            pacer,
            guard,
            learner,
            watch,
        )

    def _recommender_class(self) -> type[Recommender]:
        if self.settings.traces is None:
            return Recommender
        from serving.traces import TracedRecommender, Traces

        self.traces = self.traces or Traces(self.settings.traces)
        return TracedRecommender

    def _plan(self) -> Plan | None:
        live = self.holder.current
        return None if live is None else live.plan.plan

    def _stopped_slots(self) -> frozenset[str]:
        live = self.holder.current
        return frozenset() if live is None else live.kills.slots

    @property
    def _started(self) -> _Parts:
        if self._parts is None:
            raise Problem("not_ready", self.holder.reason)
        return self._parts

    @property
    def recommender(self) -> Recommender:
        return self._started.recommender

    @property
    def batching(self) -> Batching:
        return self._started.batching

    @property
    def changes(self) -> Changes:
        return self._started.changes

    @property
    def intake(self) -> Intake:
        return self._started.intake

    @property
    def granting(self) -> Granting:
        return self._started.granting

    @property
    def tallying(self) -> Tallying:
        return self._started.tallying

    @property
    def control(self) -> Control:
        return self._started.control

    @property
    def stores(self) -> Stores:
        return self._started.stores

    @property
    def reloader(self) -> Reloader:
        return self._started.reloader

    @property
    def publisher(self) -> Publisher:
        return self._started.publisher

    def running(self) -> dict[str, Any]:
        """What the service runs by. Raises Problem `not_ready`."""
        live = self.holder.live
        return {
            "bundle": live.bundle.version,
            "plan": live.plan.version,
            "features": live.features_version,
            "overlay": live.overlay_seq,
            "control": "stale" if self.holder.stale else "ok",
        }

    async def _replayed(self, entries: Sequence[Entry]) -> None:
        """What another process's spool held."""
        categories = categories_of(self.holder.live)
        await self._started.intake.replay(entries, now=self._clock(), categories=categories)

    async def events(self, raws: Sequence[Any]) -> dict[str, Any]:
        live = self.holder.live
        taken = await self._started.intake.take(
            raws, now=self._clock(), actions=live.plan.actions, categories=categories_of(live)
        )
        return taken.answer()

    async def outcomes(self, raws: Sequence[Any]) -> dict[str, Any]:
        """Each judged by itself, like events."""
        good, rejected = parse_outcomes(list(raws), received_at=self._clock())
        accepted = await self._report(good)
        return {"accepted": accepted, "duplicates": len(good) - accepted, "rejected": rejected}

    async def outcome(self, raw: Any) -> dict[str, Any]:
        """A single one. Raises Rejected when it is refused."""
        accepted = await self._report([parse_outcome(raw, received_at=self._clock())])
        return {"accepted": accepted, "duplicates": 1 - accepted, "rejected": []}

    async def _report(self, outcomes: Sequence[Outcome]) -> int:
        """Into the log, and complaints into the contact history; how many were new."""
        if not outcomes:
            return 0
        parts, live = self._started, self.holder.current
        entries = [Entry(one.entry_id, one.subject, outcome_to_log(one)) for one in outcomes]
        timeout_s = self.settings.write_timeout_s
        fresh, _ = await parts.durable.append(entries, timeout_s)
        for outcome in outcomes:
            recent, contact = live_entries(outcome, categories_of(live) if live is not None else None)
            if contact:
                await in_time(
                    parts.stores.live.append(outcome.subject, recent=recent, contact=contact), timeout_s
                )
        return sum(fresh)

    async def put_user(self, user_id: str, raw: Any, *, trusted: bool) -> dict[str, Any]:
        return await self.changes.put_user(user_id, raw, self.holder.current, trusted=trusted)

    async def put_creative(self, creative_id: str, raw: Any) -> dict[str, Any]:
        await self._started.reloader.poll()  # an item put a moment ago counts
        live = self.holder.live
        return await self.changes.put_creative(creative_id, raw, lambda item: live.row(item) is not None)

    async def similar(self, item_id: str, ask: SimilarAsk) -> bytes:
        return similar_bytes(self.holder.live, item_id, ask, self._clock())
