"""`GET /v1/decisions/{id}`: who may, what is asked of the process beside, and what its failures become."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from serving.admin import Admin, AdminRequest, admin_routes
from serving.errors import Problem
from serving.front import Front
from serving.principals import Identity, Scope
from serving.settings import Settings
from serving.tracing import EraseProcess, Eraser, TraceProcess, Tracer
from tests.shell import run, running

ENGINEER = Identity("eve", frozenset({Scope("engineer")}))
OPERATOR = Identity("alice", frozenset({Scope("operator", "bj")}))


class Told(Tracer):
    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, tuple[str, ...]]] = []

    def __call__(
        self, decision_id: str, subject: str | None, items: Sequence[str], *, key: str = ""
    ) -> dict[str, Any]:
        assert key == "fl_eve"
        self.asked.append((decision_id, subject, tuple(items)))
        return {"decision_id": decision_id}


def ask(who: Identity, tracer: Tracer | None, **query: str) -> dict[str, Any]:
    office: Any = None
    handler = admin_routes(Admin(office, tracer=tracer))["/v1/decisions/{id}"]["GET"]
    answer = asyncio.run(handler(AdminRequest(who, query, key="fl_eve")))
    assert answer.status == 200
    said: dict[str, Any] = json.loads(answer.body)
    return said


def test_an_engineer_sees_a_decision_and_asks_why_not() -> None:
    tracer = Told()
    assert ask(ENGINEER, tracer, id="d1", item="p1,p2", subject="u:7") == {"decision_id": "d1"}
    assert ask(ENGINEER, tracer, id="d2") == {"decision_id": "d2"}
    assert tracer.asked == [("d1", "u:7", ("p1", "p2")), ("d2", None, ())]


@pytest.mark.parametrize(
    ("who", "query", "code"),
    [
        (OPERATOR, {"id": "d1"}, "forbidden"),
        (ENGINEER, {"id": ""}, "bad_id"),
        (ENGINEER, {"id": "d" * 65}, "bad_id"),
        (ENGINEER, {"id": "d1", "item": ",".join("abcdefghijklmnopqrstu")}, "bad_query"),
    ],
)
def test_others_and_nonsense_are_refused(who: Identity, query: dict[str, str], code: str) -> None:
    with pytest.raises(Problem) as refused:
        ask(who, Told(), **query)
    assert refused.value.code == code


def test_without_a_process_it_says_where_to_ask() -> None:
    with pytest.raises(Problem, match="where the service runs"):
        ask(ENGINEER, None, id="d1")


@pytest.mark.parametrize(
    ("says", "code"),
    [
        ('print(\'{"error": "not_found", "detail": "x"}\'); raise SystemExit(2)', "not_found"),
        ('print(\'{"error": "lost", "detail": "x"}\'); raise SystemExit(2)', "not_ready"),
        ("print('what?')", "not_ready"),
        ("raise SystemExit(3)", "not_ready"),
    ],
)
def test_what_the_process_says_becomes_a_problem(tmp_path: Path, says: str, code: str) -> None:
    with pytest.raises(Problem) as refused:
        TraceProcess(Settings(home=tmp_path), command=("-c", says))("d1", None, ())
    assert refused.value.code == code


def test_the_process_is_asked_by_arguments_that_cannot_be_options(tmp_path: Path) -> None:
    says = "import json, sys; print(json.dumps({'argv': sys.argv[1:]}))"
    said = TraceProcess(Settings(home=tmp_path), command=("-c", says))("--lake=/etc", "u:1", ("-x",))
    assert said["argv"] == ["--item=-x", "--subject=u:1", "--", "--lake=/etc"]


class Gone(Eraser):
    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bool, str]] = []

    def __call__(self, user_id: str, reason: str, *, devices: bool, key: str = "") -> dict[str, Any]:
        self.asked.append((user_id, reason, devices, key))
        return {"left": []}


def test_only_an_admin_erases_a_customer() -> None:
    office: Any = None
    gone = Gone()
    handler = admin_routes(Admin(office, eraser=gone))["/v1/users/{id}"]["DELETE"]
    root = Identity("root", frozenset({Scope("admin")}))
    answer = asyncio.run(handler(AdminRequest(root, {"id": "u4", "devices": "true"}, key="fl_root")))
    assert json.loads(answer.body) == {"left": []}
    assert gone.asked == [("u4", "asked for by root", True, "fl_root")]
    with pytest.raises(Problem, match="admin"):
        asyncio.run(handler(AdminRequest(ENGINEER, {"id": "u4"})))
    without = admin_routes(Admin(office))["/v1/users/{id}"]["DELETE"]
    with pytest.raises(Problem, match="where the service runs"):
        asyncio.run(without(AdminRequest(root, {"id": "u4"})))


def test_erasure_is_the_command_line_in_its_own_process(tmp_path: Path) -> None:
    says = "import json, sys; print(json.dumps({'argv': sys.argv[1:]}))"
    said = EraseProcess(Settings(home=tmp_path), command=("-c", says))("-u", "why", devices=True)
    assert said["argv"] == ["--reason=why", "--devices", "--", "-u"]


def test_the_process_asks_by_the_callers_key_and_by_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FENLIU_KEY", "of-whoever-started-the-service")
    says = "import json, os, sys; print(json.dumps({'key': os.environ['FENLIU_KEY'], 'argv': sys.argv}))"
    made = EraseProcess(Settings(home=tmp_path), command=("-c", says))
    said = made("u1", "why", devices=False, key="fl_root")
    assert said["key"] == "fl_root" and "fl_root" not in said["argv"]  # arguments are for everybody to see
    assert made("u1", "why", devices=False)["key"] == ""
    assert TraceProcess(Settings(home=tmp_path), command=("-c", says))("d1", None, (), key="k")["key"] == "k"


def test_the_header_reaches_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with running(app=Front) as shell:
            asked: list[str] = []

            def said(*_: Any, key: str, **__: Any) -> str:
                asked.append(key)
                return "{}"

            monkeypatch.setattr("serving.own_process.OwnProcess.said", said)
            await shell.get("/v1/decisions/d1", authorization="Bearer fl_mine")
            await shell.send("DELETE", "/v1/users/u1", b"", x_api_key="fl_other")
            assert asked == ["fl_mine", "fl_other"]

    run(story)


def test_erasing_reaches_governance_and_changing_does_not() -> None:
    async def story() -> None:
        async with running(app=Front) as shell:
            refused = await shell.send("DELETE", f"/v1/users/{'u' * 65}", {})
            assert refused.json()["code"] == "bad_id"
            assert (await shell.put("/v1/users/u1", {"profile": {"age": 30}})).status_code == 200

    run(story)
