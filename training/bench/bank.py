"""The small bank that benchmarks ask: a synthetic world, a short history, an ALS bundle, its own folder and
store.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import orjson
from numpy.typing import NDArray
from rich.console import Console

from features.ports import free_port
from serving.backing import backed
from serving.settings import Settings
from training.bench import load
from training.commands import lake_of, train
from training.config import AlsGrid, PopularGrid, TrainConfig
from training.demo_client import ask, body
from training.world import World

DAY: Final = 86_400.0
SEED: Final = 7
HOMEPAGE: Final = "/v1/recommend/homepage"
ONE_SETTING: Final = TrainConfig(
    models=("als",),
    als=AlsGrid(iterations=8, settings=((10.0, 1.0),), strengths=(1.0,), half_lives=(30.0,)),
    popular=PopularGrid(half_lives=(0.1,), smoothings=(1.0,)),
)
"""Vectors of the size that serves, without the search for the best settings. Popularity is made forgetful:
on so short a history it might win, and another path would be timed.
"""


class BankError(RuntimeError):
    """The bank is not what the benchmark is about; the text says what to change."""


@dataclass(frozen=True, slots=True)
class Bank:
    """`settings` name a URL for every role; `version` is the live bundle, an ALS one."""

    world: World
    settings: Settings
    version: str

    def bodies(self, count: int) -> list[bytes]:
        """Page requests of `count` different customers (or of all), without a request id."""
        people = len(self.world.customers)
        rows = np.random.default_rng(SEED).permutation(people)[: min(count, people)]
        return [body(ask(self.world, row)) for row in rows.tolist()]

    def requests(self, count: int, prefix: str = "") -> list[bytes]:
        """The same as bytes on the wire, the paths below `prefix`."""
        where = f"{self.settings.host}:{self.settings.port}"
        return [load.post(prefix + HOMEPAGE, one, where, self.headers) for one in self.bodies(count)]

    @property
    def headers(self) -> dict[str, str]:
        return {"x-api-key": self.settings.app_key or ""}

    def open_customers(self) -> NDArray[np.int64]:
        """Rows of customers whose behaviour may shape their pages, in a mixed order."""
        people = self.world.customers
        rows = np.flatnonzero(people.profiling & ~people.blocked)
        return np.random.default_rng(SEED).permutation(rows)


@contextmanager
def opened(
    console: Console, *, customers: int, items: int = 3_000, days: int, replicas: int = 1
) -> Iterator[Bank]:
    """A bank in a folder of its own, on the embedded store, gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="fenliu-bench-") as home:
        own = Settings(home=Path(home), port=free_port(), app_key=secrets.token_hex(16), replicas=replicas)
        with backed(own) as settings:
            yield _made(console, settings, customers, items, days)


def _made(console: Console, settings: Settings, customers: int, items: int, days: int) -> Bank:
    began = time.perf_counter()
    world = World.create(SEED, customers, items, (time.time() // DAY - days) * DAY)
    written = world.write(lake_of(settings), days)
    told = train(settings, None, ONE_SETTING, by="bench", force=True)
    if told.chosen != "als" or told.version is None:
        raise BankError(f"{told.chosen} beat the vectors on this history: give the world more days")
    console.print(
        f"a bank of {customers:,} customers, {items:,} items and {written.events:,} events, trained:"
        f" {time.perf_counter() - began:.1f} s"
    )
    return Bank(world, settings, told.version)


class Till:
    """One kept-alive connection that asks and waits. Any answer but a success is a RuntimeError."""

    def __init__(self, bank: Bank) -> None:
        self._http = HTTPConnection(bank.settings.host, bank.settings.port, timeout=10.0)
        self._headers = {"content-type": "application/json", **bank.headers}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def post(self, path: str, content: bytes) -> bytes:
        return self._ask("POST", path, content)

    def get(self, path: str) -> bytes:
        return self._ask("GET", path, None)

    def page(self, content: bytes) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.post(HOMEPAGE, content))
        return found

    def _ask(self, method: str, path: str, content: bytes | None) -> bytes:
        self._http.request(method, path, content, self._headers)
        answer = self._http.getresponse()
        said = answer.read()
        if answer.status not in (200, 202):
            raise RuntimeError(f"{method} {path} was answered {answer.status}: {said[:300]!r}")
        return said


def placed(page: dict[str, Any]) -> list[tuple[str, str]]:
    """What a page shows where."""
    return [(slot["slot"], one["item_id"]) for slot in page["slots"] for one in slot["items"]]


def decided(page: dict[str, Any]) -> list[tuple[str, str, float]]:
    """The decision: what is shown where, and with what score (to four decimals, as the page says it)."""
    return [(slot["slot"], one["item_id"], one["score"]) for slot in page["slots"] for one in slot["items"]]
