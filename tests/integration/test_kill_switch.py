"""The kill switch end to end through a running Ray Serve of two replicas: off everywhere within two seconds.

The time is from the moment the switch was asked for (over HTTP), or the command returned, to the moment that
the last page with it on was asked for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from features.ports import free_port
from serving.bundle import save
from serving.registry import Registry
from serving.settings import Settings
from tests.shell import CONTEXT, ids
from tests.worlds import item, tiny_bundle, tiny_plan

pytestmark = [
    pytest.mark.integration,
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore"),  # importing and running Ray warns of its own affairs
]
ROOT = Path(__file__).parents[2]
WATCHED_S = 3.0
BAR_S = 2.0
ENOUGH = 8  # pages after the bar
MANDATORY = {"tier": "mandatory", "flight": {"from": "2026-01-01"}}


@dataclass
class Service:
    url: str
    settings: Settings

    def post(self, path: str, body: Any) -> Any:
        answer = httpx.post(self.url + path, json=body, timeout=30)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def page(self, client: httpx.Client, user: str) -> dict[str, Any]:
        answer = client.post(f"{self.url}/v1/recommend", json={"user_id": user, "context": CONTEXT})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def wait(self, good: Callable[[dict[str, Any]], bool], pages: int = 20, within_s: float = 30.0) -> None:
        """Until so many pages in a row, over all replicas, are good."""
        until, row = time.monotonic() + within_s, 0
        while row < pages:
            with httpx.Client(timeout=10) as client:  # a new connection may meet another replica
                row = row + 1 if good(self.page(client, f"u{row}")) else 0
            assert time.monotonic() < until, "the pages never became as they should be"


@dataclass
class Watch:
    """Asks for pages on four connections and remembers when each was asked for, and whether it was on it."""

    service: Service
    on: Callable[[dict[str, Any]], bool]
    seen: list[tuple[float, bool]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def __enter__(self) -> Watch:
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,), daemon=True) for n in range(4)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(10)

    def _ask(self, worker: int) -> None:
        number = 0
        try:
            while not self._over.is_set():
                with httpx.Client(timeout=10) as client:
                    asked = time.monotonic()
                    page = self.service.page(client, f"w{worker}-{number}")
                    self.seen.append((asked, self.on(page)))
                number += 1
        except Exception as bad:
            self.errors.append(bad)

    def enough(self, since: float) -> None:
        """Waits until some pages were asked for after the bar: a busy machine may stand still for seconds."""
        until = time.monotonic() + 30
        while sum(at > since + BAR_S for at, _ in self.seen) < ENOUGH and time.monotonic() < until:
            time.sleep(0.05)

    def last_on(self, since: float) -> float:
        """Seconds from `since` to the last page that was asked for and still had it."""
        assert not self.errors, self.errors
        after = [at for at, on in self.seen if at > since + BAR_S]
        assert len(after) >= ENOUGH, "too few pages were asked for to say"
        return max((at - since for at, on in self.seen if on and at > since), default=0.0)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    from serving.app import serve_ray

    home = tmp_path_factory.mktemp("kill")
    settings = Settings(home=home, port=free_port(), replicas=2, deadline_ms=2000, read_timeout_s=0.5)
    items = [item(number) for number in range(120)]
    items[8] = item(8, creatives=[{"id": "v8", "title": "t", "layouts": ["banner"]}])
    registry = Registry(settings.registry_url)
    registry.put(save(tiny_bundle(items=items, version="b-kill"), home / "made"))
    registry.promote("b-kill", by="test")
    with serve_ray(settings) as url:
        made = Service(url, settings)
        plan = json.loads(tiny_plan().model_dump_json(by_alias=True))
        plan["campaigns"] = [
            {"id": f"c{n}", "items": [f"i{n}"], "slots": ["home.banner"], **MANDATORY} for n in (2, 8, 14)
        ]
        one = made.post("/v1/plan:propose", {"part": "frame", "content": plan, "reason": "first"})
        version = made.post("/v1/plan:publish", {"proposal": one["id"], "alone": True})["plan"]
        made.wait(lambda page: page["plan"] == version)
        yield made


def placements(page: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for slot in page["slots"] for one in slot["items"]]


ON: dict[tuple[str, str], Callable[[dict[str, Any]], bool]] = {
    ("item", "i2"): lambda page: "i2" in ids(page),
    ("creative", "v8"): lambda page: any(one["creative"]["id"] == "v8" for one in placements(page)),
    ("campaign", "c14"): lambda page: any(one["campaign_id"] == "c14" for one in placements(page)),
    ("slot", "home.popup"): lambda page: bool(ids(page, "home.popup")),
    ("everything", ""): lambda page: bool(ids(page)),
}


@pytest.mark.parametrize("way", ["POST /v1/kill", "fenliu kill"])
@pytest.mark.parametrize("what", ON, ids=[":".join(key).rstrip(":") for key in ON])
def test_a_kill_is_off_everywhere_within_two_seconds(
    service: Service, what: tuple[str, str], way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scope, name = what
    on = ON[what]
    body = {"scope": scope, "id": name, "reason": "test"}
    service.wait(on)
    with Watch(service, on) as watch:
        time.sleep(0.3)
        thrown = time.monotonic()
        if way == "fenliu kill":
            thrown = command(service.settings, "kill", scope, *([name] if name else []), "--reason", "test")
        else:
            assert service.post("/v1/kill", body)["audited"] is True
        time.sleep(WATCHED_S)
        watch.enough(thrown)
    took = watch.last_on(thrown)
    service.post("/v1/kill", {**body, "undo": True})
    service.wait(on)
    with capsys.disabled():
        print(
            f"\n{way} {scope} {name}".rstrip() + f": off after {took:.2f} s, {len(watch.seen)} pages", end=""
        )
    assert took <= BAR_S


def command(settings: Settings, *argv: str) -> float:
    """Run the command line; the time at which it had ended."""
    env = {**os.environ, **settings.as_env()}
    argv = (sys.executable, "-m", "fenliu", *argv)
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return time.monotonic()
