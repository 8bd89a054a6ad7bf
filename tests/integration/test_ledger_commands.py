"""`fenliu ledger`: what was delivered is told, and told again after it was counted anew from log and lake."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

import fenliu
from features.ports import free_port
from serving.bundle import save
from serving.local import serve_local
from serving.registry import Registry
from serving.settings import Settings
from tests.shell import CONTEXT
from tests.worlds import tiny_bundle, tiny_plan

pytestmark = pytest.mark.integration


def tagged(url: str, user: str) -> tuple[str, int] | None:
    """Token and index of the campaign's placement on a page; None where it is not shown yet."""
    page = httpx.post(f"{url}/v1/recommend", json={"user_id": user, "context": CONTEXT}).json()
    for slot in page["slots"]:
        for one in slot["items"]:
            if one["campaign_id"] == "c1":
                return page["page_token"], one["index"]
    return None


def test_what_was_delivered_is_told_and_counted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(home=tmp_path, port=free_port(), deadline_ms=1000, read_timeout_s=0.2)
    registry = Registry(settings.registry_url)
    registry.put(save(tiny_bundle(version="b1"), tmp_path / "made"))
    registry.promote("b1", by="test")
    plan = json.loads(tiny_plan().model_dump_json(by_alias=True))
    quota = {"id": "q", "unit": "displayed", "at_most": 50}
    one = {"id": "c1", "items": ["i2"], "slots": ["home.banner"], "tier": "mandatory", "quotas": [quota]}
    plan["campaigns"] = [{**one, "flight": {"from": "2026-01-01"}}]
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan))
    monkeypatch.setenv("FENLIU_HOME", str(tmp_path))

    def status() -> dict[str, Any]:
        assert fenliu.main(["ledger", "status", "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    with serve_local(settings) as url:
        assert fenliu.main(["plan", "publish", str(file), "--alone"]) == 0
        until = time.monotonic() + 20
        while (shown := tagged(url, "u1")) is None:
            assert time.monotonic() < until, "the campaign is never shown"
            time.sleep(0.2)
        for number, user in enumerate(("u1", "u2", "u3")):
            token, index = shown if not number else tagged(url, user) or ("", 0)
            event = {
                "event_id": f"d{number}", "type": "displayed", "page_token": token, "seen": [index],
                "occurred_at": datetime.now(UTC).isoformat(),
            }  # fmt: skip
            told = httpx.post(f"{url}/v1/events", json={"events": [event]}).json()
            assert told["accepted"] == 1, told
        while (before := status())["quotas"][0]["confirmed"] < 3:
            assert time.monotonic() < until, before
            time.sleep(0.2)
        assert before["quotas"][0] | {"outstanding": 0} == {
            "quota": "c1/q", "at_most": 50, "confirmed": 3, "late": 0, "outstanding": 0,
        }  # fmt: skip
        assert before["delivered"]["c1"]["displayed"] == 3 and before["epoch"] > 0
        assert fenliu.main(["ledger", "rebuild"]) == 2
        assert "--yes" in capsys.readouterr().err
        time.sleep(1.0)  # `served` records are written off the request's path
        assert fenliu.main(["ledger", "rebuild", "--yes"]) == 0
        after = status()
        assert after["epoch"] > before["epoch"]
        assert after["quotas"][0]["confirmed"] == 3 and after["delivered"]["c1"]["displayed"] == 3
        assert fenliu.main(["ledger", "status"]) == 0
        said = capsys.readouterr().out
        assert "c1/q" in said and "displayed" in said
        while tagged(url, "u9") is None:  # replicas see the new epoch, and go on
            assert time.monotonic() < until + 20, "nothing capped is shown after the rebuild"
            time.sleep(0.2)


def test_lists_and_audiences_from_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FENLIU_HOME", str(tmp_path))
    customers, plan = tmp_path / "vip.csv", tmp_path / "plan.json"
    customers.write_text("user_id\nu1\nu2\nu3\n")
    rules = {"vip": {"member": "vip2026"}}
    plan.write_text(json.dumps(json.loads(tiny_plan().model_dump_json(by_alias=True)) | {"audiences": rules}))

    def said(*argv: str, code: int = 0) -> str:
        assert fenliu.main([*argv]) == code
        told = capsys.readouterr()
        return told.out + told.err

    assert "3 customers" in said("list", "upload", "vip2026", str(customers), "--reason", "winter")
    assert "vip2026" in said("list", "show") and "upload" in said("list", "show", "vip2026")
    said("plan", "publish", str(plan), "--alone")
    assert json.loads(said("plan", "audience", "vip")) == {"member": "vip2026"}
    assert "materialise" in said("plan", "audience", "vip", "--count", code=2)
    assert "is removed" in said("list", "remove", "vip2026")
    assert "there is no list" in said("list", "remove", "vip2026", code=2)
    actions = [json.loads(line)["action"] for line in said("audit", "show", "--json").splitlines()]
    assert actions.count("list_written") == actions.count("list_removed") == 1
