"""The command line: help is there and light, errors say what to do, nothing ends in a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fenliu

ROOT = Path(__file__).parents[2]
VERBS = (
    *(
        "demo",
        "train",
        "serve",
        "plan",
        "kill",
        "keys",
        "audit",
        "list",
        "ledger",
        "bundle",
        "events",
        "report",
    ),
    "bench",
)


def run(capsys, *argv) -> tuple[int, str, str]:
    code = fenliu.main([*argv])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help(verb, capsys):
    with pytest.raises(SystemExit) as end:
        fenliu.main([verb, "--help"])
    assert end.value.code == 0 and "usage: fenliu" in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    code = (
        "import sys, fenliu\ntry:\n fenliu.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = ('ray', 'numpy', 'pandas', 'implicit', 'faiss', 'redis')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    # In a test `fenliu` declares every benchmark's arguments, which a terminal asks for by name.
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]" and "fenliu demo" in done.stdout


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["kill", "item"], "name what to kill"),
        (["kill", "everything", "p9"], "name what to kill"),
        (["train", "--source", "ml-1m", "--events", "x.csv"], "either --source or --events"),
        (["train", "--items", "x.csv"], "go with --events"),
        (["train", "--events", "missing.csv"], "missing.csv"),
        (["train", "--source", "no-such-set"], "no-such-set"),
        (["train", "--config", "missing.yaml"], "missing.yaml"),
        (["plan", "check", "missing.yaml"], "missing.yaml"),
        (["plan", "publish", str(ROOT / "k8s" / "plan.yaml")], "--alone"),
        (["plan", "propose", "missing.yaml", "--reason", "r"], "missing.yaml"),
        (["plan", "approve", "p1-00000000"], "p1-00000000"),
        (["plan", "audience", "winback"], "no audience"),
        (["plan", "audience", "winback", "--count"], "no plan is published"),
        (["plan", "preview", "u1", "--url", "http://127.0.0.1:9"], "no service answers"),
        (["keys", "revoke", "0123456789ab"], "0123456789ab"),
        (["keys", "rotate"], "name whose key"),
        (["audit", "verify", "--head", "x"], "SEQ:HASH"),
        (["list", "show", "vip"], "there is no list"),
        (["list", "remove", "vip"], "there is no list"),
        (["list", "upload", "vip", "missing.csv"], "missing.csv"),
        (["ledger", "status"], "no plan is published"),
        (["bundle", "show"], "no bundle is live"),
        (["experiment", "report", "nothing"], "no plan is live"),
        (["decide", "--customers", "missing.txt"], "is no file"),
        (["bundle", "show", "../x"], "bundle"),
        (["bundle", "promote", "nope"], "no bundle"),
        (["bundle", "rollback"], "roll back"),
        (["plan", "show"], "neither a plan nor a bundle"),
        (["report"], "no report yet"),
    ],
)
def test_what_cannot_be_done_says_what_to_do_instead(argv, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FENLIU_DATA", str(tmp_path / "nowhere"))
    monkeypatch.delenv("FENLIU_DEBUG", raising=False)
    code, out, err = run(capsys, "--home", str(tmp_path / "home"), *argv)
    assert code == 2 and said in err and "Traceback" not in out + err and err.count("\n") <= 3


def test_a_bad_setting_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FENLIU_PORT", "ninety")
    code, _, err = run(capsys, "--home", str(tmp_path), "bundle", "list")
    assert code == 2 and "FENLIU_PORT" in err


def test_an_empty_registry_is_an_empty_list(tmp_path, capsys):
    code, out, _ = run(capsys, "--home", str(tmp_path / "home"), "bundle", "list")
    assert code == 0 and "bundles in" in out


def test_the_schema_of_a_plan_is_json(capsys):
    import json

    code, out, _ = run(capsys, "plan", "schema")
    assert code == 0 and json.loads(out)["title"] == "Plan"


def test_the_plan_that_ships_is_valid(tmp_path, capsys):
    code, out, _ = run(
        capsys, "--home", str(tmp_path / "home"), "plan", "check", str(ROOT / "k8s" / "plan.yaml")
    )
    assert code == 0 and "valid" in out


def test_our_own_bugs_are_not_hidden(monkeypatch):
    def broken(_args, _settings):
        raise RuntimeError("a bug")

    monkeypatch.setattr("training.lake_commands.report", broken)
    with pytest.raises(RuntimeError):
        fenliu.main(["report"])
