"""What `fenliu bench serve` serves: the world of `bench decide` as a service finds it, published and stored.

A bundle of 3,000 items with trained-like vectors, the canonical homepage, 200 live campaigns (a third with
caps, two fifths promised), customers with profile, memberships and live history in the store.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from rich.console import Console

from features.events import WHAT, action_code
from features.ids import CHANNEL_CODE, key32
from features.keyspace import ViewBatch
from features.ports import free_port
from features.redis_fill import Logs, filling
from features.views import CONTACT, MEMBERSHIP, PROFILE, RECENT
from serving.backing import backed
from serving.bundle import save
from serving.registry import Registry
from serving.settings import Settings
from training.bench import load
from training.bench.decide_world import SEGMENTS, bundle_of, plan_of
from training.materialize import swap_to, write_features

DAY: Final = 86_400.0
HOMEPAGE: Final = "/v1/recommend/homepage"
VERSION: Final = "bench"
CHUNK: Final = 20_000  # customers whose logs are made at a time


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is served. `history`: live events of each customer, as many again that reached them."""

    customers: int = 100_000
    items: int = 3_000
    campaigns: int = 200
    slots: int = 6
    history: int = 32
    seed: int = 2026


@dataclass(frozen=True, slots=True)
class Served:
    """`settings` name a URL for every role."""

    settings: Settings
    sizes: Sizes

    def bodies(self, count: int, deadline_ms: int | None = None) -> list[bytes]:
        """Page requests of `count` different customers (or of all), without a request id."""
        rng = np.random.default_rng([self.sizes.seed, 9])
        rows = rng.permutation(self.sizes.customers)[: min(count, self.sizes.customers)]
        more = {} if deadline_ms is None else {"options": {"deadline_ms": deadline_ms}}
        return [orjson.dumps(_ask(row) | more) for row in rows.tolist()]

    def requests(self, count: int, path: str = HOMEPAGE, deadline_ms: int | None = None) -> list[bytes]:
        """The same as bytes on the wire."""
        where = f"{self.settings.host}:{self.settings.port}"
        return [load.post(path, body, where, self.headers) for body in self.bodies(count, deadline_ms)]

    def requests_asgi(self, count: int, path: str = HOMEPAGE) -> list[tuple[dict[str, Any], bytes]]:
        """The same as an ASGI server hands them over: scope and body."""
        made = []
        for body in self.bodies(count, 2_000):  # a cold or a busy machine changes no page
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            headers += [(name.encode(), value.encode()) for name, value in self.headers.items()]
            scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
                     "query_string": b"", "headers": headers}  # fmt: skip
            made.append((scope, body))
        return made

    def get(self, path: str) -> bytes:
        """One GET. RuntimeError for any answer but 200."""
        http = HTTPConnection(self.settings.host, self.settings.port, timeout=10.0)
        try:
            http.request("GET", path, None, self.headers)
            answer = http.getresponse()
            said = answer.read()
        finally:
            http.close()
        if answer.status != 200:
            raise RuntimeError(f"GET {path} was answered {answer.status}: {said[:300]!r}")
        return said

    @property
    def headers(self) -> dict[str, str]:
        return {"x-api-key": self.settings.app_key or ""}


def _ask(customer: int) -> dict[str, object]:
    context = {"channel": "app", "app_version": "9.2.0", "city": str(310_000 + customer % 20),
               "auth_level": "bound_card"}  # fmt: skip
    return {"user_id": customer_id(customer), "context": context}


def customer_id(number: int) -> str:
    return f"c{number:07d}"


@contextmanager
def opened(
    console: Console, sizes: Sizes, *, replicas: int = 1, max_in_flight: int = 100
) -> Iterator[Served]:
    """The world in a folder of its own, on the embedded store, gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="fenliu-bench-") as home:
        own = Settings(
            home=Path(home), port=free_port(), app_key=secrets.token_hex(16), replicas=replicas,
            plan=Path(home) / "plan.json", max_in_flight=max_in_flight,
        )  # fmt: skip
        with backed(own) as settings:
            began = time.perf_counter()
            fill(settings, sizes, publish(settings, sizes))
            took = time.perf_counter() - began
            made = f"{sizes.customers:,} customers, {sizes.items:,} items, {sizes.campaigns} campaigns"
            console.print(f"{made}: {took:.1f} s")
            yield Served(settings, sizes)


def publish(settings: Settings, sizes: Sizes) -> NDArray[np.uint64]:
    """The bundle into the registry, live, and the plan into its file; the items' keys."""
    bundle = replace(bundle_of(sizes.items, sizes.seed), version=VERSION)
    registry = Registry(settings.registry_url)
    registry.put(save(bundle, settings.home / "made"))
    registry.promote(VERSION, by="bench")
    plan = plan_of(bundle, sizes.campaigns, sizes.slots, sizes.seed, datetime.now(UTC).year)
    assert settings.plan is not None
    settings.plan.write_bytes(orjson.dumps(plan))
    return bundle.items.keys


def fill(settings: Settings, sizes: Sizes, keys: NDArray[np.uint64]) -> None:
    """Customers into the store: profiles and memberships as a key space, live logs beside it."""
    url = settings.features_url or ""
    rng, now = np.random.default_rng([sizes.seed, 5]), time.time()
    ids = tuple(customer_id(number) for number in range(sizes.customers))
    as_of = now - DAY
    batches = [
        ViewBatch(PROFILE, ids, PROFILE.pack(_profiles(sizes.customers, rng), as_of=as_of), as_of),
        ViewBatch(MEMBERSHIP, ids, MEMBERSHIP.pack(_members(sizes.customers, rng), as_of=as_of), as_of),
    ]
    swap_to(settings.control_url or "", write_features(url, "k1", batches, rng=rng))
    with filling(settings.live_url or "", "bench") as write:
        assert write is not None
        for at in range(0, sizes.customers, CHUNK):
            some = ids[at : at + CHUNK]
            recent = _recent(keys, (len(some), sizes.history), now, rng)
            contact = _contact(keys, (len(some), sizes.history), now, rng)
            write(
                [Logs(f"u:{name}", recent[i].tobytes(), contact[i].tobytes()) for i, name in enumerate(some)],
                None,
            )


def _profiles(many: int, rng: np.random.Generator) -> NDArray[np.void]:
    made = PROFILE.blank(many)
    made["consents"], made["profiling"], made["risk_level"] = 7, 1, rng.integers(1, 6, many)
    made["age"], made["segment"] = rng.integers(18, 80, many), rng.integers(1, SEGMENTS + 1, many)
    made["assets"], made["income"] = rng.lognormal(10, 1.5, many), rng.lognormal(9, 0.6, many)
    made["tenure_days"] = rng.uniform(10, 5000, many)
    made["city"] = np.array([key32(str(310_000 + city)) for city in range(20)])[rng.integers(0, 20, many)]
    made["star_level"] = rng.integers(1, 8, many)
    levels = np.array([key32(f"star_level={level}") for level in range(8)], np.uint32)
    made["attributes"][:, 0] = levels[made["star_level"]]
    made["clicks_30d"], made["active_days_30d"] = rng.poisson(4, many), rng.integers(0, 30, many)
    return made


def _members(many: int, rng: np.random.Generator) -> NDArray[np.void]:
    """Twelve of eighty audiences each."""
    made = MEMBERSHIP.blank(many)
    drawn = rng.random((many, 80)).argpartition(12, axis=1)[:, :12] + 1
    made["audiences"][:, :12] = np.sort(drawn, axis=1)
    return made


def _recent(
    keys: NDArray[np.uint64], shape: tuple[int, int], now: float, rng: np.random.Generator
) -> NDArray[np.void]:
    made = np.zeros(shape, RECENT)
    made["item"], made["event"] = rng.choice(keys, shape), np.arange(shape[1]) + 1
    made["at"] = np.sort(now - rng.uniform(60, 10 * DAY, shape), axis=1)
    did = [WHAT["acted"], WHAT["clicked"], WHAT["converted"]]
    made["what"] = rng.choice(did, shape, p=[0.6, 0.3, 0.1])
    made["action"] = np.where(made["what"] == WHAT["acted"], action_code("viewed"), 0)
    made["channel"] = CHANNEL_CODE["app"]
    return made


def _contact(
    keys: NDArray[np.uint64], shape: tuple[int, int], now: float, rng: np.random.Generator
) -> NDArray[np.void]:
    made = np.zeros(shape, CONTACT)
    made["item"], made["event"] = rng.choice(keys, shape), np.arange(shape[1]) + 1
    made["at"] = np.sort(now - rng.uniform(60, 3 * DAY, shape), axis=1).astype(made["at"].dtype)
    made["what"], made["channel"] = WHAT["displayed"], CHANNEL_CODE["app"]
    return made
