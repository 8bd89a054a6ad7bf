"""The service shell over memory stores and a small synthetic bundle, asked through its ASGI application.

async with running() as shell:
    answer = await shell.post("/v1/recommend", {"user_id": "u1"})
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import httpx
import orjson

from features.keyspace import KeySpace, ViewSpace
from features.log import MemoryLog
from features.stores import Stores, StoreUrls
from features.views import MEMBERSHIP, PROFILE
from serving.bundle import Bundle
from serving.control import MemoryControl
from serving.service import Service
from serving.settings import Settings
from serving.web import App
from tests.worlds import NOW, profile_blob, tiny_bundle, tiny_plan

T = TypeVar("T")
SPACE = KeySpace(
    "t1", {view.name: ViewSpace(NOW - 3600, 1, view.fingerprint) for view in (PROFILE, MEMBERSHIP)}
)


@dataclass
class Clock:
    """POSIX seconds that stand still until they are moved."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now

    def rfc3339(self, ahead: float = 0.0) -> str:
        return datetime.fromtimestamp(self.now + ahead, UTC).isoformat()


@dataclass
class MemoryBundles:
    """Bundles as the registry would give them."""

    held: dict[str, Bundle]
    pointer: str | None

    def live(self) -> str | None:
        return self.pointer

    def load(self, version: str) -> Bundle:
        if version not in self.held:
            raise OSError(f"no bundle {version}")
        return self.held[version]


@dataclass
class Shell:
    app: App
    client: httpx.AsyncClient
    clock: Clock
    bundles: MemoryBundles
    control: MemoryControl
    stores: Stores
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def service(self) -> Service:
        return self.app.service

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return await self.send("POST", path, body, **headers)

    async def put(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return await self.send("PUT", path, body, **headers)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    async def send(self, method: str, path: str, body: Any, **headers: str) -> httpx.Response:
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        names = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        return await self.client.request(method, path, content=raw, headers=names)

    async def page(self, user: str | None = "u1", path: str = "/v1/recommend", **body: Any) -> dict[str, Any]:
        given = {"user_id": user, "context": CONTEXT, **body} if user else {"context": CONTEXT, **body}
        answer = await self.post(path, given)
        assert answer.status_code == 200, answer.text
        parsed: dict[str, Any] = answer.json()
        return parsed

    def event(self, kind: str, event_id: str, **fields: Any) -> dict[str, Any]:
        return {"event_id": event_id, "type": kind, "occurred_at": self.clock.rfc3339(), **fields}

    def logged(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Everything in the log, or of one kind."""
        import msgpack

        log = self.stores.log
        assert isinstance(log, MemoryLog)
        rows = [msgpack.unpackb(p) for shard in range(log.shards) for _, p in log.read(shard, "0-0", 10_000)]
        return [row for row in rows if kind in (None, row["t"])]

    async def know(self, user: str, **profile: Any) -> None:
        """A profile in the key space in use."""
        from features.store import MemoryStore, feature_key

        store = self.stores.features
        assert isinstance(store, MemoryStore)
        blob = profile_blob(self.clock.now - 60, **{"age": 40, "risk_level": 3, **profile})
        store.blobs.set(feature_key(SPACE.version, PROFILE.name, user), blob, 1e6)


default_bundle = cache(tiny_bundle)
CONTEXT: Mapping[str, Any] = {"channel": "app", "app_version": "9.2.0", "auth_level": "bound_card"}


@asynccontextmanager
async def running(
    bundle: Bundle | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    start: bool = True,
    plan: Any = None,
    app: type[App] = App,
    **service: Any,
) -> AsyncIterator[Shell]:
    """A started service; `settings` and `service` change its settings and its parts, `app` what answers."""
    clock = Clock()
    made = bundle or default_bundle()
    bundles = MemoryBundles({made.version: made}, made.version)
    control = MemoryControl()
    await control.set("features", SPACE.to_json())
    # A thread that the service handed work to may still be writing there while the folder goes.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        stores = Stores.open(StoreUrls.one("memory://one"), clock=clock)
        plan_file = Path(folder) / "plan.json"
        plan_file.write_text((plan or tiny_plan()).model_dump_json())
        given = {"home": Path(folder), "plan": plan_file, "deadline_ms": 2000, **(settings or {})}
        options = Settings(**given)
        parts = {"stores": stores, "control": control, "bundles": bundles, "clock": clock, **service}
        made_app = app(options, Service(options, **parts))
        if start:
            await made_app.startup()
        transport = httpx.ASGITransport(app=made_app)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://fenliu") as client:
                yield Shell(made_app, client, clock, bundles, control, parts["stores"])
        finally:
            await made_app.shutdown()


def run(story: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """A test's story on an event loop of its own."""
    return asyncio.run(story())


def ids(page: Mapping[str, Any], slot: str | None = None) -> list[str]:
    """Item ids on a page, of one slot or of all, in order."""
    return [item["item_id"] for one in page["slots"] if slot in (None, one["slot"]) for item in one["items"]]


def without_ids(page: Mapping[str, Any]) -> dict[str, Any]:
    """What two pages made of the same inputs share."""
    return {
        name: value
        for name, value in page.items()
        if name not in ("decision_id", "page_token", "valid_until")
    }
