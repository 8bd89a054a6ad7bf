"""What the chaos benchmark breaks: a service of its own, and a store for each role beside it.

Bundle, plan and customers are made up; ledger and log sync each write, as in production.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from features.embedded import EmbeddedValkey
from features.keyspace import ViewBatch
from features.materialise import materialise
from features.ports import free_port
from features.redis_plain import opened
from features.views import MEMBERSHIP, PROFILE
from serving.bundle import Bundle, save
from serving.plan import Plan, check_plan
from serving.plans import PlanShelf
from serving.registry import Registry
from serving.settings import Settings
from training.bench.chaos_client import CAPPED
from training.bench.decide_world import blobs_of, world_of
from training.materialize import point_at

ROOT: Final = Path(__file__).parents[2]
ROLES: Final = ("features", "live", "log", "control")
START_S: Final = 120.0
RAY_START_S: Final = 400.0  # beside other work Ray takes minutes
SLOW_MS: Final = 100  # what is asked of a slow store waits for at most so long
FRESH: Final = 150  # customers whom only the row of the emptied ledger meets: before, in and after it
PATIENT: Final = 800  # and of clients that retry


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
    marked: float | None = None  # when a step began to mend in earnest, monotonic
    secret: str = field(default_factory=lambda: secrets.token_hex(16))
    brakes: dict[str, threading.Event] = field(default_factory=dict)  # of stores that are slow

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> Settings:
        urls: dict[str, Any] = {f"{role}_url": store.url for role, store in self.stores.items()}
        return Settings(home=self.home, port=self.port, **urls)

    @property
    def env(self) -> dict[str, str]:
        """Of the commands that work on these stores."""
        return {
            **os.environ, **self.settings.as_env(), "PYTHONPATH": str(ROOT), "FENLIU_PORT": str(self.port),
            "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "fenliu", *words]

    def users(self, role: str) -> dict[str, list[str]]:
        """Rules by user of k8s/stores, with `secret` for the service's password."""
        text = (ROOT / "k8s/stores" / role / "users.acl").read_text()
        text = text.replace("@PASSWORD_SHA256@", sha256(self.secret.encode()).hexdigest())
        return {words[1]: words[2:] for words in map(str.split, text.splitlines())}

    @property
    def registry(self) -> Registry:
        return Registry(self.home / "registry")

    def start(self, kind: str = "local") -> float:
        """The service, in one process or on Ray (chaos_child.py); seconds until it was ready."""
        with (self.home / "service.log").open("ab") as out:
            command = (sys.executable, "-m", "training.bench.chaos_child", kind)
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out
            )
        return self.wait_ready(RAY_START_S if kind == "ray" else START_S)

    def tell(self, line: str) -> None:
        """A line to the child; returns when it is done."""
        process = self.process
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{line}\n".encode())
        process.stdin.flush()
        while (answer := process.stdout.readline()) != b"done\n":
            if not answer:
                raise RuntimeError(f"the service ended at {line!r}: see {self.home}/service.log")

    def wait_ready(self, within_s: float) -> float:
        """Seconds until /readyz says so. Raises TimeoutError."""
        began = time.monotonic()
        while time.monotonic() - began < within_s:
            if self.process is not None and self.process.poll() is not None:
                break
            try:
                if httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False).status_code == 200:
                    return time.monotonic() - began
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        tail = (self.home / "service.log").read_text(errors="replace")[-2000:]
        raise TimeoutError(f"the service was not ready within {within_s:g} s:\n{tail}")

    def end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill_service()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()
            self.process = None

    def kill_service(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def processes(self, name: str) -> list[int]:
        """Those below the service whose command line holds `name`."""
        below = {self.process.pid if self.process else -1}
        table = {pid: (parent, said) for pid, parent, said in _table()}
        while new := {pid for pid, (parent, _) in table.items() if parent in below and pid not in below}:
            below |= new
        return [pid for pid in sorted(below & table.keys()) if name in table[pid][1]]

    def stop(self, role: str) -> None:
        """The store neither answers nor ends, as behind a network that lost it."""
        os.kill(self._pid(role), signal.SIGSTOP)

    def go_on(self, role: str) -> None:
        os.kill(self._pid(role), signal.SIGCONT)

    def slow(self, role: str) -> None:
        """The store answers, but what is asked of it waits for up to SLOW_MS."""
        off = self.brakes[role] = threading.Event()
        threading.Thread(target=_braked, args=(self.stores[role].url, off), daemon=True).start()

    def at_speed(self, role: str) -> None:
        self.brakes.pop(role).set()

    def counted(self, metric: str) -> float:
        """A counter of the service's exposition, by name and labels; 0 where it has never counted."""
        text = httpx.get(f"{self.url}/metrics", timeout=10, trust_env=False).raise_for_status().text
        values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"{metric} ")]
        return float(values[0]) if values else 0.0

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


def _table() -> Iterator[tuple[int, int, str]]:
    """Every process of this machine: id, parent's, command line."""
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with suppress(OSError, ValueError):
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                said = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield int(path.name), parent, said


def _braked(url: str, off: threading.Event) -> None:
    with opened(url) as store:
        while not off.is_set():
            store.execute_command("CLIENT", "PAUSE", SLOW_MS, "ALL")  # type: ignore[no-untyped-call]
            time.sleep(1.2 * SLOW_MS / 1000)


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
        for off in made.brakes.values():
            off.set()
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
    ids = np.sort(np.array([f"u{number}".encode() for number in range(made.customers + FRESH + PATIENT)]))
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
