"""A whole service in this process over memory stores, by a clock that is moved: no network, no store."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from features.customer import Blobs
from features.external import external_key
from features.keyspace import KeySpace, ViewSpace
from features.log import EventLog
from features.store import MemoryStore, feature_key
from features.stores import Stores, StoreUrls
from features.views import MEMBERSHIP, PROFILE
from serving import wire
from serving.bundle import Bundle
from serving.control import Control, MemoryControl
from serving.plan import Plan
from serving.service import Service
from serving.settings import Settings

HOUR: Final = 3600.0


@dataclass
class Clock:
    """POSIX seconds that stand still until they are moved."""

    now: float

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class OneBundle:
    """The registry of a service that runs by one bundle."""

    bundle: Bundle

    def live(self) -> str | None:
        return self.bundle.version

    def load(self, version: str) -> Bundle:
        if version != self.bundle.version:
            raise OSError(f"no bundle {version}")
        return self.bundle


@dataclass(frozen=True)
class InProcess:
    service: Service
    control: Control
    stores: Stores
    clock: Clock

    @property
    def log(self) -> EventLog:
        return self.stores.log

    def know(self, user: str, blobs: Blobs) -> None:
        """The batch records of a customer, and imported scores."""
        store = self.stores.features
        assert isinstance(store, MemoryStore)
        for view, blob in ((PROFILE, blobs.profile), (MEMBERSHIP, blobs.membership)):
            if blob is not None:
                store.blobs.set(feature_key("bench", view.name, user), blob, 1e9)
        if blobs.external is not None:
            store.blobs.set(external_key(user), blobs.external, 1e9)

    async def page(self, ask: dict[str, Any]) -> bytes:
        """The body of a page; what a client could send, parsed as ever."""
        parsed = wire.parse(wire.RecommendAsk, ask)
        return await self.service.recommender.page(parsed, "page", None, time.monotonic())


@asynccontextmanager
async def in_process(home: Path, bundle: Bundle, plan: Plan, now: float) -> AsyncIterator[InProcess]:
    """Started and stopped; deadlines are long, so that company on the machine changes no page."""
    clock = Clock(now)
    stores = Stores.open(StoreUrls.one("memory://bench"), clock=clock)
    control = MemoryControl()
    views = {view.name: ViewSpace(now - HOUR, 1, view.fingerprint) for view in (PROFILE, MEMBERSHIP)}
    await control.set("features", KeySpace("bench", views).to_json())
    home.mkdir(parents=True, exist_ok=True)
    file = home / "plan.json"
    file.write_bytes(orjson.dumps(plan.model_dump(mode="json", by_alias=True)))
    settings = Settings(home=home, plan=file, deadline_ms=2000, read_timeout_s=1.0, write_timeout_s=5.0)
    service = Service(settings, stores=stores, control=control, bundles=OneBundle(bundle), clock=clock)
    await service.start()
    try:
        yield InProcess(service, control, stores, clock)
    finally:
        await service.stop()
