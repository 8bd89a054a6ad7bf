"""What nobody foresaw: a problem that says nothing of the inside, a count, a line in the log; and the next
request is answered.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from serving.admin_web import LOG as ADMIN_LOG
from serving.web import LOG
from tests.shell import Shell, run, running
from tests.unit.test_admin_api import Desk, told

INSIDE = "u42 has 13 apples"


def known(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json" and INSIDE not in answer.text
    problem: dict[str, Any] = answer.json()
    return problem


@pytest.mark.parametrize(
    ("broken", "code", "status"),
    [(ZeroDivisionError(INSIDE), "internal", 500), (RecursionError(INSIDE), "bad_json", 400)],
)
def test_pages_go_on(
    broken: Exception, code: str, status: int, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    async def story() -> None:
        async with running() as shell:
            with monkeypatch.context() as patch:
                patch.setattr(type(shell.service), "similar", lambda *_: _raise(broken))
                answer = await shell.get("/v1/items/i1/similar")
            assert answer.status_code == status and known(answer)["code"] == code
            assert failures(shell) == (1 if status == 500 else None)
            assert [one.name for one in caplog.records if one.exc_info] == [LOG.name] * (status == 500)
            assert (await shell.get("/v1/items/i1/similar")).status_code == 200

    run(story)


def failures(shell: Shell) -> float | None:
    route = {"where": "/v1/items/{id}/similar"}
    return shell.service.metrics.registry.get_sample_value("fenliu_failures_total", route)


@pytest.mark.parametrize(
    ("broken", "code"), [(ZeroDivisionError(INSIDE), "internal"), (OSError("away"), "registry_unavailable")]
)
def test_governance_goes_on(broken: Exception, code: str, tmp_path: Any, caplog: Any) -> None:
    async def preview(*_: Any) -> Any:
        raise broken

    async def story(desk: Desk) -> None:
        ask = {"user_id": "u1", "context": {"channel": "app"}}
        problem = await desk.no(code, "eve", "/v1/plan:preview", ask)
        assert INSIDE not in str(problem)
        logged = [one.name for one in caplog.records if one.exc_info]
        assert logged == [ADMIN_LOG.name] * (code == "internal")
        assert await desk.ok("eve", "/v1/plan")

    told(tmp_path, story, preview=preview)


@pytest.mark.parametrize("length", [b"x", b"-1", b"1e3", b"9" * 19])
def test_a_length_that_is_none_is_refused(length: bytes) -> None:
    async def story() -> None:
        async with running() as shell:
            sent: list[Any] = []

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": b"{}", "more_body": False}

            async def send(message: Any) -> None:
                sent.append(message)

            await shell.app(
                {
                    "type": "http", "method": "POST", "path": "/v1/recommend", "query_string": b"",
                    "headers": [(b"content-type", b"application/json"), (b"content-length", length)],
                },
                receive, send,
            )  # fmt: skip
            assert sent[0]["status"] == 400 and b"bad_length" in sent[1]["body"]

    run(story)


def _raise(problem: Exception) -> Any:
    raise problem
