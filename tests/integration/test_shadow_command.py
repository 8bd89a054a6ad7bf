"""`fenliu bundle shadow` beside a running service: it reads the same store, and changes nothing there."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

import fenliu
from features.embedded import EmbeddedValkey
from features.ports import free_port
from features.redis_plain import opened
from serving.bundle import save
from serving.local import serve_local
from serving.registry import Registry
from serving.settings import Settings
from tests.rankers import ranked_bundle
from tests.shell import CONTEXT
from tests.worlds import tiny_bundle, tiny_plan
from training.shadow import RIPE_S

pytestmark = pytest.mark.integration
PAGES = 30


def test_a_candidate_is_held_against_what_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(tiny_plan().model_dump_json())
    settings = Settings(home=tmp_path, plan=plan, port=free_port(), deadline_ms=1000, read_timeout_s=0.2)
    registry = Registry(settings.registry_url)
    for version, seed in (("b1", 0), ("b2", 0), ("b3", 4)):
        made = ranked_bundle(tiny_bundle(seed=seed, version=version))
        registry.put(save(made, tmp_path / f"made-{version}"))
    registry.promote("b1", by="test")
    monkeypatch.setenv("FENLIU_HOME", str(tmp_path))

    def shadow(*argv: str) -> tuple[int, str]:
        code = fenliu.main(["bundle", "shadow", *argv])
        return code, capsys.readouterr().out

    with serve_local(settings) as url:
        for n in range(PAGES):
            answer = httpx.post(f"{url}/v1/recommend", json={"user_id": f"u{n}", "context": CONTEXT})
            token = answer.json()["page_token"]
            at = datetime.now(UTC).isoformat()
            events = [
                {"event_id": f"d{n}", "type": "displayed", "seen": [0, 1, 2], "page_token": token},
                {"event_id": f"c{n}", "type": "clicked", "index": n % 3, "page_token": token},
            ]
            told = {"events": [one | {"occurred_at": at} for one in events]}
            assert httpx.post(f"{url}/v1/events", json=told).json()["accepted"] == 2
        time.sleep(1.0)  # served records go to the log in turns
        store = EmbeddedValkey(tmp_path / "store").start().url
        with opened(store) as client:
            before = {key: client.dump(key) for key in client.keys("log:*") if client.type(key) == b"stream"}
        once = ("--once", "--json", "--ripe", "0", "--limit-pages", str(PAGES))
        code, said = shadow("b2", *once)
        same = json.loads(said)
        assert (code, same["refusals"]) == (0, []), said
        assert same["pages"]["compared"] == PAGES and same["pages"]["live_as_logged"] == 1.0
        assert same["places"]["differ"] == 0.0 and same["pages"]["left_out"] == {}
        assert (same["displays"]["places"], same["displays"]["clicks"]) == (3 * PAGES, PAGES)
        code, said = shadow("b3", *once, "--out", str(tmp_path / "report"))
        other = json.loads(said)
        assert other["places"]["differ"] > 0.3 and (tmp_path / "report" / "shadow.md").exists()
        code, said = shadow("b2", "--once", "--ripe", str(RIPE_S))
        assert code == 1 and "too_few_pages" in said and "µs a page" in said
        code, said = shadow("b2", "--minutes", "0.02", "--json")
        assert code == 1 and json.loads(said)["pages"]["seen"] == 0
        with opened(store) as client:
            assert before == {
                key: client.dump(key) for key in client.keys("log:*") if client.type(key) == b"stream"
            }
    assert registry.live() == "b1"
