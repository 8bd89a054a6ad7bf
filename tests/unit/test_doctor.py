"""What the doctor finds on an empty home, on a broken one, and where a store is away; what logs look like."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest

import fenliu
from serving.bundle import save
from serving.json_log import DECISION, redacted, set_up
from serving.registry import Registry
from serving.settings import Settings
from tests.arm_bundles import experiments, other_bundle
from tests.worlds import NOW, tiny_bundle, tiny_plan
from training.doctor import Finding, examined


def about(found: list[Finding], name: str) -> Finding:
    return next(one for one in found if one.about == name)


def test_an_empty_home_is_told_to_train(tmp_path: Path) -> None:
    found = examined({}, Settings(home=tmp_path), lambda: NOW)
    assert about(found, "bundle") == Finding("bundle", "bad", "none is live", about(found, "bundle").remedy)
    assert "fenliu train" in about(found, "bundle").remedy
    assert all(one.remedy for one in found if one.state != "ok") and not any(
        one.about == "doctor" for one in found
    )


def test_what_is_broken_is_found(tmp_path: Path) -> None:
    bundle = tiny_bundle(version="b1", trained_until=NOW - 30 * 86_400)
    registry = Registry(tmp_path / "registry")
    registry.put(save(bundle, tmp_path / "made"))
    registry.promote("b1")
    plan = tmp_path / "plan.json"
    plan.write_text('{"name": "x", "surfaces": {"home": ["nowhere"]}}')
    away = "unix:///nowhere/valkey.sock"
    settings = Settings(home=tmp_path, plan=plan, live_url=away, host="0.0.0.0")
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "manifest.json").write_text("{")
    found = examined({}, settings, lambda: NOW)
    states = {one.about: one.state for one in found}
    assert states["bundle"] == "warn" and "30.0 days" in about(found, "bundle").said
    assert states["plan"] == states["lake"] == states["store live"] == states["settings"] == "bad"
    assert "FENLIU_APP_KEY" in about(found, "settings").said and states["token keys"] == "bad"
    (tmp_path / "bundles" / "b1" / "stats.npy").write_bytes(b"rotten")
    assert about(examined({}, settings, lambda: NOW), "bundle").state == "bad"


def test_a_plan_is_judged_with_its_arms_and_their_bundles(tmp_path: Path) -> None:
    """As a replica takes it up: by the live bundle alone a plan may fit that no replica can start with."""
    registry = Registry(tmp_path / "registry")
    registry.put(save(tiny_bundle(version="b1"), tmp_path / "made"))
    registry.promote("b1")
    plan = tmp_path / "plan.json"
    plan.write_text(tiny_plan(experiments=experiments("b2")).model_dump_json())
    settings = Settings(home=tmp_path, plan=plan)
    found = about(examined({}, settings, lambda: NOW), "plan")
    assert found.state == "bad" and "b2 cannot be loaded" in found.said
    registry.put(save(other_bundle("b2"), tmp_path / "other"))
    assert about(examined({}, settings, lambda: NOW), "plan").state == "ok"


def test_a_store_that_may_be_anybody_is_warned_of_and_a_missing_certificate_is_named(tmp_path: Path) -> None:
    nobody = "rediss://127.0.0.1:1/0"
    settings = Settings(
        home=tmp_path,
        live_url=f"{nobody}?ssl_cert_reqs=none",
        log_url=f"{nobody}?ssl_ca_certs=/nowhere/ca.crt",
    )
    found = examined({}, settings, lambda: NOW)
    live = about(found, "store live")
    assert live.state == "warn" and "not checked" in live.said and "ssl_ca_certs" in live.remedy
    (log,) = [one for one in found if one.about == "store log"]
    assert log.state == "bad" and "/nowhere/ca.crt" in log.said and "fenliu-tls" in log.remedy


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fenliu.main(["--home", str(tmp_path), "doctor", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is False and {"about", "state", "said", "remedy"} == set(said["findings"][0])


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("redis://app:hunter2@store:6379 is away", "hunter2"),
        (f"key fl_0123456789ab_{'x' * 43} refused", "x" * 43),
        ("Authorization: Bearer s3cr3t-token", "s3cr3t-token"),
        ("FENLIU_TOKEN_KEYS=k1:" + "ab" * 32, "ab" * 32),
    ],
)
def test_secrets_are_cut_out(text: str, gone: str) -> None:
    assert gone not in redacted(text) and "***" in redacted(text)


def test_a_line_is_json_with_the_decision_it_is_about() -> None:
    log, out = logging.getLogger("fenliu.test"), io.StringIO()
    before = logging.getLogger("fenliu").handlers[:]
    try:
        set_up({"FENLIU_LOG": "json"}, out)
        token = DECISION.set("d1")
        try:
            raise RuntimeError("redis://a:secret@b")
        except RuntimeError:
            log.exception("the rung %s failed", "full")
        DECISION.reset(token)
        log.warning("done")
        set_up({}, out)
        log.warning("plain redis://a:secret@b")
    finally:
        logging.getLogger("fenliu").handlers[:] = before
        logging.getLogger("fenliu").propagate = True
    first, second, third = out.getvalue().splitlines()
    told = json.loads(first)
    assert (
        told["decision_id"] == "d1" and told["message"] == "the rung full failed" and told["level"] == "error"
    )
    assert "RuntimeError" in told["exception"] and "decision_id" not in json.loads(second)
    assert "secret" not in out.getvalue() and third.endswith("WARNING fenliu.test: plain redis://a:***@b")
