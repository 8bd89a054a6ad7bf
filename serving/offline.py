"""Pages decided outside any service: by the same code, over what is live, for lists of any length.

What runs is read once, as a replica reads it: bundle, plan, key space, item changes, kills, prices. Customers
are read by the hundred. Nothing is reserved, signed, logged or counted: caps are looked at and not held, so a
list that is to be sent goes through `POST /v1/recommend:batch`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import orjson

from features.customer import decode_customer
from features.ids import key32, user_subject
from features.store import StoreUnavailable
from features.stores import MEMORY, Stores, StoreUrls
from serving.asked import Surface, surface_of
from serving.batching import one_of
from serving.control import MemoryControl
from serving.decide import deciding
from serving.domain import Decision, Query
from serving.holder import Holder
from serving.live import Live
from serving.metered import Metered
from serving.observe import Metrics
from serving.redis_control import RedisControl
from serving.reload import Bundles, FromRegistry, Reloader
from serving.settings import Settings
from serving.stepping import side_by_side
from serving.together import MOST
from serving.wire import BatchAsk, context_of
from serving.writing import page_bytes

AT_ONCE: Final = 128  # customers read at once
READ_S: Final = 5.0
TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Offline:
    """`spent`: quotas of which nothing is left. Belongs to one event loop."""

    live: Live
    stores: Stores
    spent: frozenset[str]

    @classmethod
    async def open(cls, settings: Settings, bundles: Bundles | None = None) -> Offline:
        """Raises StoreUnavailable, or Problem `not_ready` with the reason."""
        urls = {role: url or MEMORY for role, url in settings.store_urls.items()}
        stores, holder, metrics = Stores.open(StoreUrls(**urls)), Holder(), Metrics()
        link = stores.control_link
        control = MemoryControl() if link is None else RedisControl(link)
        await Reloader(control, holder, settings, metrics, bundles or FromRegistry(settings)).poll()
        return cls(holder.live, stores, await _spent(holder.live, stores))

    async def lines(self, ask: BatchAsk, now: float) -> bytes:
        """`{"user_id", "page"}` of each customer, a line each. Raises Problem, StoreUnavailable."""
        surface = surface_of(self.live.plan, one_of(ask, ask.user_ids[0]), "page")
        made: list[bytes] = []
        for at in range(0, len(ask.user_ids), AT_ONCE):
            some = ask.user_ids[at : at + AT_ONCE]
            queries = await asyncio.gather(*(self._query(ask, surface, user, now) for user in some))
            for first in range(0, len(some), MOST):
                asked = queries[first : first + MOST]
                decided = side_by_side([deciding(query, self.live) for query in asked])
                made += map(self._line, some[first : first + MOST], decided)
        return b"".join(made)

    async def _query(self, ask: BatchAsk, surface: Surface, user: str, now: float) -> Query:
        live, subject = self.live, user_subject(user)
        for _ in range(TRIES):
            found = await self.stores.fetch_customer(subject, None, live.features_version, timeout_s=READ_S)
            if not found.late:
                break
        else:
            raise StoreUnavailable(f"the store did not answer {TRIES} times about a customer")
        customer = decode_customer(
            found.blobs,
            now=now,
            profiling=ask.options.profiling,
            schemas=live.bundle.schemas,
            materialised=live.materialised,
            watermark=live.watermark,
        )
        owner = key32(surface.owner) if surface.owner is not None else 0
        anchor = ask.context.anchor_item
        return Query(
            ask.request_id or "offline", subject, surface.name, surface.slots, context_of(ask.context),
            customer, now, live.row(anchor) if anchor is not None else None, customer.profiling,
            reserved=found.reserved or b"", spent=self.spent, owner=owner, tagged=False,
        )  # fmt: skip

    def _line(self, user: str, decision: Decision | Exception) -> bytes:
        if isinstance(decision, Exception):
            raise decision
        page = page_bytes(
            decision,
            self.live.of(decision).texts,
            page_token=None,
            valid_until=decision.valid_until,
            campaigns=self.live.plan.campaigns.ids,
        )
        return b'{"user_id":%b,"page":%b}\n' % (orjson.dumps(user), page)


async def _spent(live: Live, stores: Stores) -> frozenset[str]:
    """Quotas whose units are all confirmed or may still come."""
    now = time.time()
    pools = {pool.name(now): pool for pool in Metered.of(live.plan).pools}
    held = await stores.ledger.pools(list(pools))
    over = (name for name, one in held.items() if one.confirmed + one.outstanding >= pools[name].at_most)
    return frozenset(pools[name].key for name in over)


def decided(settings: Settings, ask: BatchAsk) -> bytes:
    """`Offline.lines`, for a process that is told one part of a list after another: opened once."""
    runner, offline = _opened(settings)
    return runner.run(offline.lines(ask, time.time()))


@lru_cache(1)
def _opened(settings: Settings) -> tuple[asyncio.Runner, Offline]:
    runner = asyncio.Runner()
    return runner, runner.run(Offline.open(settings))


def parts(ask: BatchAsk, users: Sequence[str], size: int) -> Iterator[BatchAsk]:
    """The same ask for parts of a list."""
    for at in range(0, len(users), size):
        yield ask.model_copy(update={"user_ids": list(users[at : at + size])})


def public(settings: Settings) -> Settings:
    """What a worker needs: without the secrets, for nothing is signed and nobody asks."""
    return replace(settings, app_key=None, token_keys=())
