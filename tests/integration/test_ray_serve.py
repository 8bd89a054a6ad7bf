"""The service under Ray Serve: the same answers as in one process, behind HAProxy, on loopback, gone when
stopped.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from features.ports import free_port
from serving.bundle import save
from serving.local import serve_local
from serving.registry import Registry
from serving.settings import Settings
from tests.shell import CONTEXT, ids, without_ids
from tests.worlds import item, tiny_bundle, tiny_plan

pytestmark = [
    pytest.mark.integration,
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore"),  # importing and running Ray warns of its own affairs
]


@dataclass
class Both:
    """The same settings and store, served twice."""

    ray: str
    local: str
    settings: Settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("ray")
    plan = home / "plan.json"
    plan.write_text(tiny_plan().model_dump_json())
    made = Settings(
        home=home, plan=plan, port=free_port(), deadline_ms=2000, read_timeout_s=0.5, write_timeout_s=2.0
    )
    registry = Registry(made.registry_url)
    items = [item(n, risk_class=3) if n // 6 % 3 == 0 else item(n) for n in range(120)]
    registry.put(save(tiny_bundle(items=items, version="b-ray"), home / "made"))
    registry.promote("b-ray", by="test")
    return made


@pytest.fixture(scope="module")
def both(settings: Settings) -> Iterator[Both]:
    """Ray starts once, and is stopped behind the last test of this file."""
    from serving.app import serve_ray

    before = descendants(os.getpid())
    with serve_ray(settings) as url:
        beside = Settings(**{**as_dict(settings), "port": free_port()})
        with serve_local(beside) as local:
            yield Both(url, local, settings)
    left = wait_until_gone(before)
    assert not left, f"still running: {left}"
    assert not listening(settings.port)


def as_dict(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


def ask(url: str, path: str = "/v1/recommend", **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{url}{path}", json={"context": CONTEXT, **body}, timeout=10)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("path", ["", "/homepage", "/banner", "/product"])
def test_the_same_answers_as_in_one_process(both: Both, path: str) -> None:
    profile = {"risk_level": 4, "age": 40, "star_level": 5, "blocked": False}
    assert httpx.put(f"{both.ray}/v1/users/same", json={"profile": profile}).status_code == 200
    for who in ({"user_id": "same"}, {"user_id": "nobody"}, {"visitor_id": "d1"}):
        pages = [without_ids(ask(url, f"/v1/recommend{path}", **who)) for url in (both.ray, both.local)]
        assert pages[0] == pages[1]
        assert ids(pages[0])


def test_errors_are_the_same(both: Both) -> None:
    for path, body in (
        ("/v1/recommend", {"user_id": ""}),
        ("/v1/recommend", {"user_id": "u", "x": 1}),
        ("/v1/nothing", {}),
        ("/v1/events", {"events": []}),
    ):
        answers = [httpx.post(f"{url}{path}", json=body) for url in (both.ray, both.local)]
        assert answers[0].status_code == answers[1].status_code >= 400
        assert answers[0].content == answers[1].content
        assert answers[0].headers["content-type"] == "application/problem+json"


def test_governance_answers_on_the_same_address(both: Both) -> None:
    for path in ("/v1/plan", "/v1/audit?verify=1", "/v1/plan:diff?part=frame", "/v1/plan:nothing"):
        answers = [httpx.get(f"{url}{path}", timeout=20) for url in (both.ray, both.local)]
        assert (
            answers[0].status_code
            == answers[1].status_code
            == (200 if "?v" in path or path == "/v1/plan" else 404)
        )
        assert answers[0].json() == answers[1].json()
    kill = {"scope": "item", "id": "i119", "reason": "test"}
    assert httpx.post(f"{both.ray}/v1/kill", json=kill, timeout=20).json()["audited"] is True
    assert httpx.get(f"{both.local}/v1/plan").json()["killed"][0]["id"] == "i119"


def test_an_event_sent_to_one_changes_the_page_of_the_other(both: Both) -> None:
    before = ask(both.local, user_id="u-event")
    liked = next(one for slot in before["slots"] if slot["slot"] == "home.shelf" for one in slot["items"])
    event = {
        "event_id": "ray-click-1", "type": "clicked", "occurred_at": datetime.now(UTC).isoformat(),
        "page_token": before["page_token"], "index": liked["index"],
    }  # fmt: skip
    told = httpx.post(f"{both.ray}/v1/events", json={"events": [event]})
    assert (told.status_code, told.json()["accepted"]) == (202, 1)
    pages = [ask(url, user_id="u-event") for url in (both.ray, both.local)]
    assert ids(pages[0]) == ids(pages[1]) != ids(before)


def test_a_retry_is_known_by_the_clients_id_only(both: Both) -> None:
    """Ray makes up a request id where there is none; that one must not be taken for the client's."""
    body = {"user_id": "u-retry", "context": CONTEXT}
    with_id = [
        httpx.post(f"{both.ray}/v1/recommend", json=body, headers={"x-request-id": "mine"}) for _ in range(2)
    ]
    assert with_id[0].content == with_id[1].content and with_id[0].json()["decision_id"] == "mine"
    again = httpx.post(f"{both.local}/v1/recommend", json=body, headers={"x-request-id": "mine"})
    assert again.content == with_id[0].content
    without = ask(both.ray, user_id="u-retry")["decision_id"]
    assert without[14] == "7", "a UUID of version 7 is ours"


def test_a_withdrawn_item_is_gone_within_two_seconds(both: Both) -> None:
    victim = ids(ask(both.ray, user_id="u-gone"))[0]
    start = time.monotonic()
    assert httpx.delete(f"{both.ray}/v1/items/{victim}").status_code == 200
    while any(victim in ids(ask(url, user_id="u-gone")) for url in (both.ray, both.local)):
        assert time.monotonic() - start < 2.0
        time.sleep(0.02)


def test_haproxy_is_in_front(both: Both) -> None:
    """The flags took effect: the port is HAProxy's, and the answer a replica's own."""
    owners = {name for name, port in listeners_of(descendants(os.getpid())) if port == both.settings.port}
    assert owners == {"haproxy"}
    assert httpx.get(f"{both.ray}/livez").headers["server"] == "uvicorn"


def test_nothing_listens_beyond_loopback_that_does_not_ask_for_a_token(both: Both) -> None:
    """Ray's inter-deployment gRPC binds every interface and cannot be told otherwise: it asks for the
    token.
    """
    mine = {pid for pid in descendants(os.getpid()) if name_of(pid) == "haproxy"}
    assert mine
    addresses = [address for pid in mine for address in addresses_of(pid)]
    assert addresses and all(socket.inet_ntoa(address).startswith("127.") for address in addresses)
    assert os.environ["RAY_AUTH_MODE"] == "token" and len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_ray_may_be_started_twice_in_one_process(both: Both, tmp_path: Path) -> None:
    """Ray reads its token once in a process; each start has its own ports, and leaves the environment as it
    was.
    """
    from serving.app import _environment, _flags, _token

    assert _token() == os.environ["RAY_AUTH_TOKEN"]
    assert "RAY_AUTH_TOKEN" not in _environment(Settings(home=tmp_path), tmp_path), "what is set stays"
    before = dict(os.environ)
    with _flags({"FENLIU_TEST_FLAG": "1", "RAY_AUTH_MODE": "other"}):
        assert os.environ["FENLIU_TEST_FLAG"] == "1" and os.environ["RAY_AUTH_MODE"] == "other"
    assert dict(os.environ) == before


def test_a_proxy_that_was_slow_to_start_does_not_end_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On a busy machine the controller kills such a proxy and makes another; the applications run on it."""
    from ray import serve
    from ray.exceptions import ActorDiedError

    from serving import app

    ran: list[str] = []

    def slow(**options: object) -> None:
        raise ActorDiedError

    monkeypatch.setattr(serve, "start", slow)
    monkeypatch.setattr(
        serve, "run", lambda _application, name, route_prefix: ran.append(name + route_prefix)
    )
    app._serve(Settings(home=tmp_path), app.Pages)
    assert ran == [f"{app.NAME}/"] and "slow to start" in caplog.text


def test_probes(both: Both) -> None:
    assert httpx.get(f"{both.ray}/readyz").json()["bundle"] == "b-ray"
    assert "fenliu_decisions_total" in httpx.get(f"{both.ray}/metrics").text


# --- processes and sockets, as /proc shows them


def descendants(root: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found, fresh = set[int](), {root}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh}
        found |= fresh
    return found


def name_of(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "comm").read_text().strip()
    except OSError:
        return ""


def wait_until_gone(before: set[int], timeout_s: float = 15.0) -> dict[int, str]:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        left = {pid: name_of(pid) for pid in descendants(os.getpid()) - before}
        if not left:
            return {}
        time.sleep(0.1)
    return left


def inodes_of(pid: int) -> set[str]:
    found = set[str]()
    try:
        for entry in (Path("/proc") / str(pid) / "fd").iterdir():
            target = str(entry.readlink())
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        pass
    return found


def tcp_listeners() -> list[tuple[bytes, int, str]]:
    """(IPv4 address, port, inode) of every listening socket; an IPv6 one counts as every interface."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                address, port = fields[1].split(":")
                four = struct.pack("<I", int(address, 16)) if len(address) == 8 else b"\0\0\0\0"
                found.append((four, int(port, 16), fields[9]))
    return found


def listeners_of(pids: set[int]) -> list[tuple[str, int]]:
    by_inode = {inode: name_of(pid) for pid in pids for inode in inodes_of(pid)}
    return [(by_inode[inode], port) for _, port, inode in tcp_listeners() if inode in by_inode]


def addresses_of(pid: int) -> list[bytes]:
    mine = inodes_of(pid)
    return [address for address, _, inode in tcp_listeners() if inode in mine]


def listening(port: int) -> bool:
    return any(found == port for _, found, _ in tcp_listeners())
