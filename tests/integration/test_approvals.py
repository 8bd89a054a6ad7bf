"""The whole way of a change over HTTP with keys, as replicas run it. Nobody publishes alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

import fenliu
from features.ports import free_port
from serving.books import Books
from serving.bundle import save
from serving.keys import Keys
from serving.local import serve_local
from serving.principals import local_identity
from serving.registry import Registry
from serving.settings import Settings, SettingsError
from tests.governed import frame
from tests.shell import CONTEXT, ids
from tests.worlds import tiny_bundle

pytestmark = pytest.mark.integration
PEOPLE = {
    "root": ["admin"],
    "ann": ["approver"],
    "alice": ["operator:head"],
    "max": ["operator:head", "approver"],  # may do both, but never for the same change
    "gw": ["app"],
}


@dataclass
class Bank:
    url: str
    settings: Settings
    keys: dict[str, str]

    def __call__(self, who: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        given = {"authorization": f"Bearer {self.keys[who]}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        if body is None:
            return httpx.get(self.url + path, headers=given, timeout=20)
        return httpx.post(self.url + path, json=body, headers=given, timeout=20)

    def ok(self, *ask: Any, **headers: str) -> dict[str, Any]:
        answer = self(*ask, **headers)
        assert answer.status_code in (200, 201), answer.text
        found: dict[str, Any] = answer.json()
        return found

    def no(self, code: str, *ask: Any, **headers: str) -> None:
        answer = self(*ask, **headers)
        assert answer.json().get("code") == code, answer.text

    def runs(self, plan: str, within_s: float = 5.0) -> None:
        until = time.monotonic() + within_s
        while (page := self.ok("gw", "/v1/recommend", {"user_id": "u1", "context": CONTEXT}))["plan"] != plan:
            assert time.monotonic() < until, f"{page['plan']} runs, not {plan}"
            time.sleep(0.05)
        assert ids(page)

    def approved(self, content: Any, by: str, ok: str, **headers: str) -> str:
        ask = {"part": "frame", "content": content, "reason": "r"}
        one = self.ok(by, "/v1/plan:propose", ask, **headers)
        self.ok(ok, "/v1/plan:approve", {"proposal": one["id"], "content": one["content"]})
        return str(one["id"])


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    home = tmp_path_factory.mktemp("approvals")
    settings = Settings(home=home, port=free_port(), deadline_ms=1000, read_timeout_s=0.2)
    registry = Registry(settings.registry_url)
    registry.put(save(tiny_bundle(version="b1"), home / "made"))
    registry.promote("b1", by="test")
    keys = Keys(settings.registry_url, Books(settings.registry_url, time.time))
    texts: dict[str, str] = {}
    for name, scopes in PEOPLE.items():
        by = keys.identify(texts["root"].encode()) if texts else local_identity()
        assert by is not None
        texts[name], counts = keys.issue(by, name, scopes)
        if not counts:
            ann = keys.identify(texts["ann"].encode())
            assert ann is not None
            keys.confirm(ann, texts[name].split("_")[1])
    with serve_local(settings) as url:
        yield Bank(url, settings, texts)


def test_two_people_change_the_plan_and_one_takes_it_back(bank: Bank) -> None:
    ask = {"part": "frame", "content": frame(), "reason": "first"}
    bank.no("forbidden", "gw", "/v1/plan:propose", ask)
    one = bank.ok("max", "/v1/plan:propose", ask, if_match='"0"')
    said = {"proposal": one["id"], "content": one["content"]}
    bank.no("same_person", "max", "/v1/plan:approve", said)
    bank.no("forbidden", "alice", "/v1/plan:approve", said)
    for alone in (False, True):
        bank.no("not_approved", "max", "/v1/plan:publish", {"proposal": one["id"], "alone": alone})
    preview = bank.ok("max", "/v1/plan:preview", {"user_id": "u1", "proposal": one["id"], "context": CONTEXT})
    assert ids(preview) and preview["page_token"] is None
    bank.ok("ann", "/v1/plan:approve", said)
    first = bank.ok("max", "/v1/plan:publish", {"proposal": one["id"]})["plan"]
    bank.runs(first)

    changed = frame(name="second")
    ask = {"part": "frame", "content": changed, "reason": "name"}
    bank.no("precondition_needed", "alice", "/v1/plan:propose", ask)
    bank.no("stale_revision", "alice", "/v1/plan:propose", ask, if_match='"0"')
    two = bank.approved(changed, "alice", "max", if_match='"1"')
    second = bank.ok("alice", "/v1/plan:publish", {"proposal": two})["plan"]
    bank.runs(second)
    bank.no("forbidden", "alice", "/v1/plan:rollback", {"reason": "oops"})
    assert bank.ok("ann", "/v1/plan:rollback", {"reason": "oops"})["plan"] == first
    bank.runs(first)


def test_nobody_publishes_alone_from_a_terminal(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(frame(name="alone")))
    monkeypatch.setenv("FENLIU_HOME", str(bank.settings.home))
    monkeypatch.setenv("FENLIU_APPROVALS", "0")  # counts only where there are no principals
    monkeypatch.delenv("FENLIU_DEBUG", raising=False)
    for who in ("", "root", "max"):
        monkeypatch.setenv("FENLIU_KEY", bank.keys.get(who, ""))
        for more in ([], ["--alone"]):
            assert fenliu.main(["plan", "publish", str(file), *more]) == 2
    said = capsys.readouterr().err
    assert said.count("somebody else has to approve it") == 6
    monkeypatch.delenv("FENLIU_KEY")
    assert fenliu.main(["plan", "propose", str(file), "--reason", "r"]) == 2
    assert "set FENLIU_KEY" in capsys.readouterr().err
    monkeypatch.setenv("FENLIU_KEY", bank.keys["max"])
    assert fenliu.main(["plan", "propose", str(file), "--reason", "r"]) == 0
    name = capsys.readouterr().out.partition(":")[0]
    for argv in (["approve", name], ["publish", name], ["publish", name, "--alone"]):
        assert fenliu.main(["plan", *argv]) == 2
    assert "somebody else has to look at it" in capsys.readouterr().err
    monkeypatch.setenv("FENLIU_KEY", bank.keys["ann"])
    assert fenliu.main(["plan", "approve", name]) == 0
    monkeypatch.setenv("FENLIU_KEY", bank.keys["max"])
    assert fenliu.main(["plan", "publish", name]) == 0
    assert fenliu.main(["audit", "verify"]) == 0
    assert "every one in its place" in capsys.readouterr().out
    assert bank.ok("root", "/v1/plan?part=frame")["text"]["name"] == "alone"
    monkeypatch.setenv("FENLIU_KEY", bank.keys["gw"])
    assert fenliu.main(["bundle", "promote", "b1", "--force"]) == 2
    assert "needs engineer or admin" in capsys.readouterr().err


def test_an_admin_erases_over_http_and_the_record_says_who(bank: Bank) -> None:
    """The process beside acts for the caller: where there are principals it would be nobody otherwise."""
    for who, status in (("max", 403), ("root", 200)):
        given = {"authorization": f"Bearer {bank.keys[who]}"}
        answer = httpx.delete(f"{bank.url}/v1/users/u9", headers=given, timeout=60)
        assert answer.status_code == status, answer.text
    assert answer.json()["customers"] == 1 and answer.json()["left"] == []
    (record,) = bank.ok("root", "/v1/audit?action=customer_erased")["records"]
    assert record["principal"] == "root" and "u9" not in json.dumps(record)


def test_a_plan_file_is_refused_where_there_are_principals(bank: Bank, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text("{}")
    settings = Settings(home=bank.settings.home, port=free_port(), plan=plan)
    with pytest.raises(SettingsError, match="FENLIU_PLAN"), serve_local(settings):
        raise AssertionError("started with a plan that nobody approved")


def test_a_changed_byte_is_caught(bank: Bank) -> None:
    """Last: what it breaks stays broken."""
    assert bank.ok("root", "/v1/audit?verify=1")["ok"] is True
    folder = bank.settings.home / "registry" / "governance" / "audit"
    record = sorted(folder.rglob("*.json"))[3]
    record.write_bytes(record.read_bytes().replace(b"alice", b"elise", 1).replace(b"gw", b"wg", 1))
    found = bank.ok("root", "/v1/audit?verify=1")
    assert found["ok"] is False and found["broken"] == 4
