"""The service on uvicorn with the embedded store: what happens is seen at once, and a swap drops nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from features.embedded import EmbeddedError, EmbeddedValkey
from features.log import START
from features.ports import free_port
from features.redis_log import RedisLog
from features.store import StoreUnavailable
from serving.bundle import save
from serving.control import Kill
from serving.local import serve_local
from serving.redis_control import RedisControl
from serving.registry import Registry
from serving.settings import Settings, SettingsError
from tests.shell import CONTEXT, ids
from tests.worlds import tiny_bundle, tiny_plan

pytestmark = pytest.mark.integration


@dataclass
class Local:
    url: str
    settings: Settings
    registry: Registry
    home: Path

    def page(self, user: str = "u1", **body: Any) -> dict[str, Any]:
        answer = httpx.post(f"{self.url}/v1/recommend", json={"user_id": user, "context": CONTEXT, **body})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    @property
    def store(self) -> str:
        """The embedded store's URL: a second object on the folder finds the running server."""
        return EmbeddedValkey(self.home / "store").start().url

    def publish(self, version: str, seed: int) -> None:
        folder = self.home / f"made-{version}"
        self.registry.put(save(tiny_bundle(seed=seed, version=version), folder))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    home = tmp_path_factory.mktemp("local")
    plan = home / "plan.json"
    plan.write_text(tiny_plan().model_dump_json())
    settings = Settings(home=home, plan=plan, port=free_port(), deadline_ms=1000, read_timeout_s=0.2)
    made = Local("", settings, Registry(settings.registry_url), home)
    made.publish("b1", 0)
    made.registry.promote("b1", by="test")
    with serve_local(settings) as url:
        made.url = url
        yield made


def now() -> str:
    return datetime.now(UTC).isoformat()


def test_it_is_ready_and_says_by_what_it_runs(local: Local) -> None:
    ready = httpx.get(f"{local.url}/readyz").json()
    assert ready["bundle"] == "b1" and ready["plan"] == tiny_plan().version and ready["control"] == "ok"
    metrics = httpx.get(f"{local.url}/metrics").text
    assert 'fenliu_running_info{bundle="b1"' in metrics


def test_an_event_changes_the_next_page(local: Local) -> None:
    before = local.page("u-event")
    liked = next(one for slot in before["slots"] if slot["slot"] == "home.shelf" for one in slot["items"])
    event = {
        "event_id": "click-1", "type": "clicked", "occurred_at": now(), "page_token": before["page_token"],
        "index": liked["index"],
    }  # fmt: skip
    told = httpx.post(f"{local.url}/v1/events", json={"events": [event]})
    assert (told.status_code, told.json()["accepted"]) == (202, 1), told.text
    assert ids(local.page("u-event")) != ids(before)
    again = httpx.post(f"{local.url}/v1/events", json={"events": [event]})
    assert again.json() == {"accepted": 0, "duplicates": 1, "rejected": []}


def test_events_and_pages_reach_the_log(local: Local) -> None:
    page = local.page("u-log", request_id="log-1")
    action = {
        "event_id": "act-1",
        "type": "acted",
        "occurred_at": now(),
        "user_id": "u-log",
        "action": "login",
    }
    assert httpx.post(f"{local.url}/v1/events", json={"events": [action]}).json()["accepted"] == 1
    log = RedisLog(local.store)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        payloads = [body for shard in range(log.shards) for _, body in log.read(shard, START, 10_000)]
        if any(page["decision_id"].encode() in body for body in payloads):
            break
        time.sleep(0.02)
    log.close_reader()
    assert any(b"act-1" in body for body in payloads)
    assert any(b"served" in body and b"log-1" in body for body in payloads)


def test_a_retry_gets_the_same_bytes_from_the_store(local: Local) -> None:
    body = {"user_id": "u-retry", "context": CONTEXT, "request_id": "same"}
    first, second = (httpx.post(f"{local.url}/v1/recommend", json=body) for _ in range(2))
    assert first.content == second.content


def test_a_customer_changed_by_put_is_believed(local: Local) -> None:
    put = httpx.put(
        f"{local.url}/v1/users/u-put", json={"profile": {"risk_level": 4, "age": 50, "tz": "Asia/Shanghai"}}
    )
    assert put.json() == {"user_id": "u-put", "changed": ["age", "risk_level", "tz"]}
    assert local.page("u-put")["slots"]


def test_a_withdrawn_item_is_gone_within_two_seconds(local: Local) -> None:
    victim = ids(local.page("u-gone"))[0]
    start = time.monotonic()
    assert httpx.delete(f"{local.url}/v1/items/{victim}").status_code == 200
    while victim in ids(local.page("u-gone")):
        assert time.monotonic() - start < 2.0
        time.sleep(0.02)
    assert local.page("u-gone")["degraded"] == ["profile", "membership"]


def test_a_kill_is_obeyed_within_two_seconds(local: Local) -> None:
    victim = ids(local.page("u-kill"))[1]

    async def kill() -> None:
        control = RedisControl.at(local.store)
        await control.kill(Kill("item", victim))
        await control.close()

    start = time.monotonic()
    asyncio.run(kill())
    while victim in ids(local.page("u-kill")):
        assert time.monotonic() - start < 2.0
        time.sleep(0.02)


def test_a_swap_under_load_fails_no_request(local: Local) -> None:
    local.publish("b2", 7)

    async def story() -> tuple[list[int], list[str], float]:
        statuses: list[int] = []
        bundles: list[str] = []
        done = asyncio.Event()
        async with httpx.AsyncClient() as client:

            async def ask(worker: int) -> None:
                while not done.is_set():
                    body = {"user_id": f"u{worker}-{len(statuses)}", "context": CONTEXT}
                    answer = await client.post(f"{local.url}/v1/recommend", json=body)
                    statuses.append(answer.status_code)
                    bundles.append(answer.json().get("bundle", "?"))

            asking = [asyncio.create_task(ask(worker)) for worker in range(4)]
            await asyncio.sleep(0.3)
            control = RedisControl.at(local.store)
            start = time.monotonic()
            await control.set("bundle", "b2")
            while bundles[-1] != "b2" and time.monotonic() - start < 10:
                await asyncio.sleep(0.01)
            took = time.monotonic() - start
            await asyncio.sleep(0.3)
            done.set()
            await asyncio.gather(*asking)
            await control.close()
        return statuses, bundles, took

    statuses, bundles, took = asyncio.run(story())
    assert set(statuses) == {200} and len(statuses) > 50
    assert bundles[0] == "b1" and bundles[-1] == "b2" and took < 5
    swapped = bundles.index("b2")
    assert set(bundles[swapped + 8 :]) == {
        "b2"
    }  # only those in flight at the swap may still be of the old one


def test_a_port_in_use_is_named(local: Local) -> None:
    with pytest.raises(SettingsError, match="FENLIU_PORT"), serve_local(local.settings):
        raise AssertionError("two services on one port")


def test_a_folder_that_cannot_hold_a_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file stands where the folder should be")
    with pytest.raises((EmbeddedError, OSError)), serve_local(Settings(home=tmp_path, port=free_port())):
        raise AssertionError("started without a store")


def test_it_stops_clean(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, port=free_port())
    with serve_local(settings) as url:
        assert httpx.get(f"{url}/livez").status_code == 200
        ready = httpx.get(f"{url}/readyz")
        assert ready.status_code == 503 and "no bundle is live" in ready.json()["detail"]
        store = EmbeddedValkey(tmp_path / "store").start().url
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/livez")

    async def poll() -> None:
        control = RedisControl.at(store)
        try:
            await control.poll()
        finally:
            await control.close()

    with pytest.raises(StoreUnavailable):
        asyncio.run(poll())
