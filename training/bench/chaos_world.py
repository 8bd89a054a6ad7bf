"""What the chaos benchmark breaks: a service of its own, and a store for each role beside it.

Bundle, plan and customers are made up; ledger and log sync each write, as in production.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from features.embedded import EmbeddedValkey
from features.keyspace import ViewBatch
from features.materialise import materialise
from features.views import MEMBERSHIP, PROFILE
from serving.bundle import Bundle, save
from serving.local import free_port
from serving.plan import Plan, check_plan
from serving.plans import PlanShelf
from serving.registry import Registry
from serving.settings import Settings
from training.bench.decide_world import blobs_of, world_of
from training.materialize import point_at

ROOT: Final = Path(__file__).parents[2]
ROLES: Final = ("features", "live", "log", "control")
START_S: Final = 120.0
CAPPED: Final = "once-a-day"  # the campaign whose cap no row may overshoot


@dataclass
class Town:
    """Stores by role, and the service's process."""

    home: Path
    port: int
    stores: dict[str, EmbeddedValkey]
    bundle: Bundle
    plan: Plan
    customers: int
    process: subprocess.Popen[bytes] | None = None
    log: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> Settings:
        urls: dict[str, Any] = {f"{role}_url": store.url for role, store in self.stores.items()}
        return Settings(home=self.home, port=self.port, **urls)

    @property
    def registry(self) -> Registry:
        return Registry(self.home / "registry")

    def start(self, *more: str) -> None:
        """The service, by its own command; returns when it is ready."""
        env = {
            **os.environ, **self.settings.as_env(), "PYTHONPATH": str(ROOT), "FENLIU_PORT": str(self.port),
            "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip
        with (self.home / "service.log").open("ab") as out:
            command = (sys.executable, "-m", "fenliu", "serve", *more)
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out)
        self.wait_ready()

    def wait_ready(self) -> float:
        """Seconds until /readyz says so. Raises TimeoutError."""
        began = time.monotonic()
        while time.monotonic() - began < START_S:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False).status_code == 200:
                    return time.monotonic() - began
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise TimeoutError(f"the service was not ready within {START_S:g} s: see {self.home}/service.log")

    def end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def stop(self, role: str) -> None:
        """The store neither answers nor ends, as behind a network that lost it."""
        os.kill(self._pid(role), signal.SIGSTOP)

    def go_on(self, role: str) -> None:
        os.kill(self._pid(role), signal.SIGCONT)

    def kill(self, role: str) -> None:
        os.kill(self._pid(role), signal.SIGKILL)

    def restart(self, role: str) -> None:
        """A new server over the former's folder: from its append-only file."""
        self.stores[role] = EmbeddedValkey(self.stores[role].folder, fsync="always").start()

    def publish(self, version: str, bundle: Bundle) -> None:
        made = replace(bundle, version=version, manifest={**bundle.manifest, "version": version})
        self.registry.put(save(made, self.home / f"made-{version}"))
        self.registry.promote(version)
        point_at(self.settings.control_url or "", "bundle", version)

    def _pid(self, role: str) -> int:
        pid = self.stores[role].pid
        if pid is None:
            raise RuntimeError(f"the store of {role} is not ours")
        return pid


@contextmanager
def town(home: Path, *, customers: int, items: int, seed: int) -> Iterator[Town]:
    """Everything but the service, which `start` starts; all of it ends with the block."""
    bundle, plan = _world(items, seed)
    stores = {role: EmbeddedValkey(home / f"store-{role}", fsync="always") for role in ROLES}
    made = Town(home, free_port(), stores, bundle, plan, customers)
    try:
        for store in stores.values():
            store.start()
        made.publish("chaos-1", bundle)
        point_at(made.settings.control_url or "", "plan", PlanShelf(str(home / "registry")).put(plan))
        materialised(made, seed)
        yield made
    finally:
        made.end()
        for store in made.stores.values():
            if store.pid is not None:
                os.kill(store.pid, signal.SIGCONT)
            store.stop()


def _world(items: int, seed: int) -> tuple[Bundle, Plan]:
    bundle, plan = world_of(items, 20, 6, seed)
    raw: Mapping[str, Any] = plan.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    activity = next(one for one in bundle.compiled.ids if _kind(bundle, one) == "activity")
    capped = {
        "id": CAPPED, "items": [activity], "slots": ["home.banner"], "values": {"click": 50.0},
        "exclusive": True, "caps": [{"most": 1, "window": "1d"}],
    }  # fmt: skip
    return bundle, check_plan({**raw, "campaigns": [*raw["campaigns"], capped]})


def _kind(bundle: Bundle, item: str) -> str:
    from features.ids import KINDS

    row = bundle.items.row(item)
    assert row is not None
    return KINDS[int(bundle.compiled.table["kind"][row])]


def materialised(made: Town, seed: int = 1) -> None:
    """The customers' records, written into the features' store."""
    rng = np.random.default_rng([seed, 31])
    keys = np.ascontiguousarray(made.bundle.compiled.table["key"])
    ids = np.sort(np.array([f"u{number}".encode() for number in range(made.customers)]))
    now = time.time()
    blobs = [blobs_of(keys, 1, rng) for _ in ids]
    profiles = np.array([PROFILE.decode(one.profile or b"").values for one in blobs], PROFILE.dtype)
    members = np.array([MEMBERSHIP.decode(one.membership or b"").values for one in blobs], MEMBERSHIP.dtype)
    batches = [
        ViewBatch(PROFILE, ids, PROFILE.pack(profiles, as_of=now), now),
        ViewBatch(MEMBERSHIP, ids, MEMBERSHIP.pack(members, as_of=now), now),
    ]
    space = materialise(made.settings.features_url or "", "chaos", batches, rng=rng, sample=10)
    point_at(made.settings.control_url or "", "features", space.to_json())
