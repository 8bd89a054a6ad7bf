"""The verbs of governance from a terminal, by the arguments they are given."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

import pytest
import yaml

from serving.control import Kill, MemoryControl
from serving.errors import Problem
from serving.office import Office
from serving.plan import PlanError
from serving.settings import Settings
from tests.governed import creative, fragment, frame
from training import key_commands, plan_commands
from training.desk import Desk
from training.governance_arguments import add_audit, add_keys, add_kill, add_plan
from training.usage import UsageError
from training.workspace import TrainingBusy, alone

ROOT = Path(__file__).parents[2]
COMMANDS = {**vars(plan_commands), **vars(key_commands)}


class MemoryDesk(Desk):
    """Its control is kept in memory, across desks of one home."""

    controls: dict[Path, MemoryControl] = {}  # noqa: RUF012 - one a test's folder

    def act(self, act):
        control = self.controls.setdefault(self.settings.home, MemoryControl())
        return asyncio.run(act(Office(self.governance, control)))


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    verbs = made.add_subparsers(dest="verb", required=True)
    add_plan(verbs.add_parser("plan"))
    add_kill(verbs.add_parser("kill"))
    add_keys(verbs.add_parser("keys"))
    add_audit(verbs.add_parser("audit"))
    return made


@pytest.fixture
def fenliu(tmp_path, parser):
    """Run one command line as somebody; its exit status and what it said."""
    keys: dict[str, str] = {}

    def run(*argv: str, by: str = "", env: dict[str, str] | None = None) -> tuple[int, str]:
        args = parser.parse_args([*argv])
        said: list[str] = []
        given = {**({"FENLIU_KEY": keys[by]} if by else {}), **(env or {})}
        desk = MemoryDesk(Settings.from_env({**given, "FENLIU_HOME": str(tmp_path)}), given)
        verb = args.verb if args.verb == "kill" else f"{args.verb}_{getattr(args, f'{args.verb}_verb')}"
        code = COMMANDS[verb](args, desk, said.append)
        text = "\n".join(said)
        if "shown this once" in text:
            keys[args.name or by] = text.split("once: ")[1].split()[0]
        return code, text

    run.keys = keys
    run.control = lambda: asyncio.run(MemoryDesk.controls[tmp_path].poll())
    return run


@pytest.fixture
def texts(tmp_path):
    def write(name: str, content) -> str:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        return str(path)

    return write


def staffed(fenliu) -> None:
    fenliu("keys", "add", "root", "--scope", "admin")
    fenliu("keys", "add", "ann", "--scope", "approver", by="root")
    for name, scope in (("alice", "operator:head"), ("bob", "operator:bj")):
        said = fenliu("keys", "add", name, "--scope", scope, by="root")[1]
        fenliu("keys", "confirm", said.rsplit(" ", 1)[1], by="ann")


def test_the_plan_that_ships_is_valid(fenliu):
    code, said = fenliu("plan", "check", str(ROOT / "k8s" / "plan.yaml"))
    assert code == 0 and "valid; no bundle is live yet" in said


def test_alone_on_a_laptop(fenliu, texts):
    file = texts("plan.yaml", frame())
    with pytest.raises(UsageError, match="--alone"):
        fenliu("plan", "publish", file)
    code, said = fenliu("plan", "publish", file, "--alone")
    assert code == 0 and f"plan {fenliu.control().plan} is live" in said
    assert "says the same already" in fenliu("plan", "publish", file, "--alone")[1]
    code, said = fenliu("plan", "publish", texts("b.yaml", frame(name="b")), env={"FENLIU_APPROVALS": "0"})
    assert code == 0
    assert "approvals alone" in fenliu("plan", "status")[1]
    lines = fenliu("audit", "show", "--json", "--action", "published")[1].splitlines()
    assert [json.loads(line)["detail"]["approvals"] for line in lines] == ["alone", "off"]


def test_with_principals_it_takes_two(fenliu, texts):
    staffed(fenliu)
    file = texts("plan.yaml", frame())
    with pytest.raises(UsageError, match="set FENLIU_KEY"):
        fenliu("plan", "propose", file, "--reason", "first")
    for argv in (["plan", "publish", file], ["plan", "publish", file, "--alone"]):
        with pytest.raises(UsageError, match="somebody else has to approve"):
            fenliu(*argv, by="alice", env={"FENLIU_APPROVALS": "0"})
    said = fenliu("plan", "propose", file, "--reason", "first", by="alice")[1]
    name = said.partition(":")[0]
    assert "other than alice" in said and name in fenliu("plan", "status", by="ann")[1]
    with pytest.raises(Problem, match="not_approved"):
        fenliu("plan", "publish", name, "--alone", by="alice", env={"FENLIU_APPROVALS": "0"})
    with pytest.raises(Problem, match="forbidden"):
        fenliu("plan", "approve", name, by="alice")
    code, said = fenliu("plan", "diff", name, by="ann")
    assert code == 1 and "the whole" in said
    fenliu("plan", "approve", name, "--review", by="ann")
    fenliu("plan", "approve", name, by="ann")
    assert "is live" in fenliu("plan", "publish", name, by="alice")[1]
    argv = ["plan", "propose", texts("bj.yaml", fragment("c1")), "--part", "org:bj", "--reason", "c1"]
    name = fenliu(*argv, by="bob")[1].partition(":")[0]
    assert "rejected" in fenliu("plan", "reject", name, "--reason", "later", by="bob")[1]
    with pytest.raises(UsageError, match="is no valid key"):
        fenliu("plan", "status", env={"FENLIU_KEY": "fl_x"})


def test_back_and_off(fenliu, texts):
    fenliu("plan", "publish", texts("a.yaml", frame()), "--alone")
    first = fenliu.control().plan
    fenliu("plan", "publish", texts("b.yaml", frame(name="b")), "--alone")
    assert fenliu("plan", "rollback")[1] == f"plan {first} is live again" and fenliu.control().plan == first
    with pytest.raises(Problem, match="nothing to go back"):
        fenliu("plan", "rollback")
    assert "revision 4" in fenliu("plan", "rollback", "--part", "frame", "--to", "2")[1]
    assert '"name": "b"' in fenliu("plan", "status", "--part", "frame")[1]
    fenliu("plan", "publish", texts("v1.yaml", creative()), "--part", "creative:v1", "--alone")
    assert "withdrawn" in fenliu("plan", "withdraw", "v1")[1]
    assert fenliu("kill", "item", "p9", "--reason", "complaint")[0] == 0
    assert fenliu.control().kills == (Kill("item", "p9"),)
    fenliu("kill", "item", "p9", "--undo")
    assert fenliu.control().kills == ()
    for argv in (["kill", "item"], ["kill", "everything", "p9"]):
        with pytest.raises(UsageError, match="name what to kill"):
            fenliu(*argv)


def test_keys_and_the_log(fenliu, tmp_path):
    assert "no principals" in fenliu("keys", "list")[1]
    staffed(fenliu)
    said = fenliu("keys", "rotate", by="ann")[1]
    assert "revoke the former" in said
    listed = fenliu("keys", "list", by="root")[1]
    assert "bob: operator:bj" in listed and fenliu.keys["root"] not in listed
    with pytest.raises(Problem, match="bad_principal"):
        fenliu("keys", "revoke", "0" * 12, by="root")
    fenliu("keys", "revoke", fenliu.keys["bob"].split("_")[1], "--reason", "left", by="root")
    with pytest.raises(UsageError, match="no valid key"):
        fenliu("plan", "status", by="bob")
    code, said = fenliu("audit", "verify")
    assert code == 0 and "every one in its place" in said
    head = said.rsplit(" ", 1)[1]
    assert fenliu("audit", "verify", "--head", head)[0] == 0
    records = sorted((tmp_path / "registry" / "governance" / "audit").rglob("*.json"))
    records[-1].unlink()
    code, said = fenliu("audit", "verify", "--head", head)
    assert code == 1 and "the tail was cut" in said


def test_files_are_named_when_they_cannot_be_read(fenliu, texts):
    with pytest.raises(PlanError, match=r"missing\.yaml"):
        fenliu("plan", "check", "missing.yaml")
    with pytest.raises(Problem, match="nmae"):
        fenliu("plan", "check", texts("p.yaml", {**frame(), "nmae": 1}))
    with pytest.raises(UsageError, match="no service answers"):
        fenliu("plan", "preview", "u1", "--url", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match="service's address"):
        fenliu("plan", "preview", "u1", "--url", "file:///etc/passwd")


def test_the_sample_is_taken_alone_in_the_home(tmp_path: Path) -> None:
    """An erasure while pages are decided again would leave the customer in what is saved afterwards."""
    desk = Desk(Settings(home=tmp_path), {})
    with alone(tmp_path), pytest.raises(TrainingBusy):
        plan_commands.plan_sample(argparse.Namespace(pages=1, item=[]), desk, print)
