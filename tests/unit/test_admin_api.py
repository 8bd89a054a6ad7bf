"""The admin application through its ASGI surface: scopes, ETags, problems, and the whole way of a change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest

from serving.admin import Admin, admin_routes
from serving.admin_openapi import ADMIN_MODELS, ADMIN_SCHEMAS, admin_paths
from serving.admin_web import AdminApp
from serving.control import Kill, MemoryControl
from serving.errors import CODES
from serving.keys import GovernedRing
from serving.office import Office
from serving.principals import local_identity
from serving.security import Access
from serving.settings import Settings
from tests.governed import Bank, fragment, frame, governed

PEOPLE = {
    "alice": ["operator:head"],
    "bob": ["operator:bj"],
    "bea": ["approver:bj"],
    "sam": ["operator:sh"],
    "eve": ["engineer"],
    "gw": ["app"],
}


@dataclass
class Desk:
    bank: Bank
    control: MemoryControl
    client: httpx.AsyncClient
    app: AdminApp

    async def __call__(
        self, who: str | None, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, Any], httpx.Headers]:
        """POST with a body, GET without; status, answer and headers."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if who is not None:
            given["authorization"] = f"Bearer {self.bank.texts.get(who, who)}"
        if body is None:
            answer = await self.client.get(path, headers=given)
        else:
            raw = body if isinstance(body, bytes) else orjson.dumps(body)
            given["content-type"] = "application/json"
            answer = await self.client.post(path, content=raw, headers=given)
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"] in CODES
        return answer.status_code, answer.json(), answer.headers

    async def ok(self, who: str | None, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        status, answer, _ = await self(who, path, body, **headers)
        assert status in (200, 201), answer
        return answer

    async def no(
        self, code: str, who: str | None, path: str, body: Any = None, **headers: str
    ) -> dict[str, Any]:
        status, answer, _ = await self(who, path, body, **headers)
        assert answer.get("code") == code and status == CODES[code].status, answer
        return answer

    async def published(self, who: str, part: str, content: Any, **headers: str) -> dict[str, Any]:
        one = await self.ok(
            who, "/v1/plan:propose", {"part": part, "content": content, "reason": "r"}, **headers
        )
        await self.ok("ann", "/v1/plan:approve", {"proposal": one["id"], "content": one["content"]})
        return await self.ok(who, "/v1/plan:publish", {"proposal": one["id"]})


def told(
    tmp_path: Any,
    story: Callable[[Desk], Awaitable[None]],
    *,
    principals: bool = True,
    settings: Mapping[str, Any] | None = None,
    below: str = "",
    **admin: Any,
) -> None:
    bank = governed(tmp_path, principals=principals)
    if principals:
        for name, scopes in PEOPLE.items():
            bank.texts[name], counts = bank.keys.issue(bank.root, name, scopes)
            if not counts:
                bank.keys.confirm(bank.ann, bank.texts[name].split("_")[1])

    async def run() -> None:
        control = MemoryControl()
        ring = GovernedRing(str(tmp_path / "registry"), bank.keys, bank.clock)
        access = Access(Settings(**(settings or {})), ring)
        app = AdminApp(Admin(Office(bank.governance, control), **admin), access, ring, below)
        await app.startup()
        try:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://fenliu") as client:
                await story(Desk(bank, control, client, app))
        finally:
            await app.shutdown()

    asyncio.run(run())


def test_the_whole_way_of_a_change(tmp_path):
    async def story(desk: Desk) -> None:
        checked = await desk.ok("alice", "/v1/plan:check", {"part": "frame", "content": frame()})
        assert checked["base"] == 0 and len(checked["plan"]) == 12
        one = await desk.ok(
            "alice", "/v1/plan:propose", {"part": "frame", "content": frame(), "reason": "first"}
        )
        assert one["state"] == "proposed" and one["waits_for"].endswith("other than alice")
        seen = await desk.ok("ann", f"/v1/plan:diff?proposal={one['id']}")
        assert seen["content"] == one["content"] and seen["changes"]
        await desk.no("not_approved", "alice", "/v1/plan:publish", {"proposal": one["id"]})
        ask = {"proposal": one["id"], "content": one["content"]}
        await desk.no("forbidden", "bea", "/v1/plan:approve", ask)
        approved = await desk.ok("ann", "/v1/plan:approve", ask)
        assert approved["approved_by"] == "ann"
        status, made, headers = await desk("alice", "/v1/plan:publish", {"proposal": one["id"]})
        assert status == 200 and made["revision"] == 1 and headers["etag"] == '"1"'
        assert made["plan"] == checked["plan"] == (await desk.control.poll()).plan

        status, held, headers = await desk("eve", "/v1/plan?part=frame")
        assert held["text"]["name"] == "head" and headers["etag"] == '"1"'
        changed = {"part": "frame", "content": frame(name="new"), "reason": "name"}
        await desk.no("precondition_needed", "alice", "/v1/plan:propose", changed)
        await desk.no("stale_revision", "alice", "/v1/plan:propose", changed, if_match='"0"')
        await desk.no("stale_revision", "alice", "/v1/plan:propose", changed, if_match="*")
        await desk.no("invalid_field", "alice", "/v1/plan:propose", {**changed, "base": 0}, if_match='"1"')
        two = await desk.ok("alice", "/v1/plan:propose", changed, if_match='"1"')
        await desk.ok("ann", "/v1/plan:approve", {"proposal": two["id"], "content": two["content"][:12]})
        await desk.no("stale_revision", "alice", "/v1/plan:publish", {"proposal": two["id"]}, if_match='"9"')
        await desk.ok("alice", "/v1/plan:publish", {"proposal": two["id"]}, if_match='"1"')
        diff = await desk.ok("eve", "/v1/plan:diff?part=frame&from=1&to=2")
        assert diff["changes"] == [{"path": "name", "kind": "changed", "before": "head", "after": "new"}]
        await desk.no("forbidden", "alice", "/v1/plan:rollback", {"reason": "oops"})
        back = await desk.ok("ann", "/v1/plan:rollback", {"reason": "oops"})
        assert back["plan"] == checked["plan"] == (await desk.control.poll()).plan

    told(tmp_path, story)


def test_an_operator_sees_and_changes_only_their_own(tmp_path):
    async def story(desk: Desk) -> None:
        await desk.published("alice", "frame", frame())
        await desk.published("bob", "org:bj", fragment("c1"))
        one = await desk.ok(
            "bob", "/v1/plan:propose", {"part": "org:bj", "content": fragment("c3"), "reason": "r", "base": 1}
        )
        for path in (
            "/v1/plan?part=org:bj",
            "/v1/plan:diff?part=org:bj",
            f"/v1/plan:diff?proposal={one['id']}",
        ):
            await desk.no("forbidden", "sam", path)
            await desk.ok("bea", path)
        mine, yours = await desk.ok("bob", "/v1/plan"), await desk.ok("sam", "/v1/plan")
        assert [part["part"] for part in mine["parts"]] == ["frame", "org:bj"]
        assert [part["part"] for part in yours["parts"]] == ["frame"]
        assert len(mine["proposals"]) == 1 and yours["proposals"] == []
        body = {"part": "org:bj", "content": fragment("c9")}
        await desk.no("forbidden", "sam", "/v1/plan:check", body)
        await desk.no("forbidden", "sam", "/v1/plan:propose", {**body, "reason": "r", "base": 1})
        await desk.no("forbidden", "sam", "/v1/plan:preview", {"user_id": "u1", "proposal": one["id"]})
        await desk.ok("bob", "/v1/plan:reject", {"proposal": one["id"], "reason": "not now"})

    async def page(_ask: Any, _plan: Any) -> dict[str, Any]:
        return {}

    told(tmp_path, story, preview=page)


@pytest.mark.parametrize("who", ["gw", None])
def test_the_app_governs_nothing(tmp_path, who):
    async def story(desk: Desk) -> None:
        bodies: dict[str, Any] = {
            "/v1/plan:check": {"part": "frame", "content": frame()},
            "/v1/plan:propose": {"part": "frame", "content": frame(), "reason": "r"},
            "/v1/plan:approve": {"proposal": "p1-00000000", "content": "00000000"},
            "/v1/plan:reject": {"proposal": "p1-00000000", "reason": "r"},
            "/v1/plan:publish": {"proposal": "p1-00000000"},
            "/v1/plan:rollback": {"reason": "r"},
            "/v1/plan:withdraw": {"creative": "v1", "reason": "r"},
            "/v1/plan:preview": {"user_id": "u1"},
            "/v1/kill": {"scope": "everything", "reason": "r"},
        }
        for path, body in bodies.items():
            status, answer, _ = await desk(who, path, body)
            assert status in (403, 404, 409), (path, answer)
        for path in ("/v1/plan", "/v1/plan:diff?part=frame", "/v1/audit", "/v1/audit?verify=1"):
            await desk.no("forbidden", who, path)
        assert (await desk.control.poll()).kills == ()

    async def page(_ask: Any, _plan: Any) -> dict[str, Any]:
        raise AssertionError("nobody may")

    told(tmp_path, story, preview=page)


def test_keys_are_asked_for(tmp_path):
    async def story(desk: Desk) -> None:
        answer = await desk.client.get("/v1/plan")
        assert answer.status_code == 401 and "www-authenticate" in answer.headers
        await desk.no("unauthorized", "nonsense", "/v1/plan")
        await desk.no("unauthorized", desk.bank.texts["ann"][:-1], "/v1/plan")
        status, _, _ = await desk(None, "/v1/plan", x_api_key=desk.bank.texts["ann"])
        assert status == 200
        desk.bank.keys.revoke(desk.bank.root, desk.bank.texts["eve"].split("_")[1])
        for _ in range(30):  # the ring is read once a second
            status, _, _ = await desk("eve", "/v1/plan")
            if status == 401:
                return
            await asyncio.sleep(0.1)
        raise AssertionError("a revoked key still works after three seconds")

    told(tmp_path, story, settings={"app_key": "k" * 16})


def test_a_laptop_without_keys(tmp_path):
    async def story(desk: Desk) -> None:
        one = await desk.ok(
            None, "/v1/plan:propose", {"part": "frame", "content": frame(), "reason": "first"}
        )
        await desk.no(
            "same_person", None, "/v1/plan:approve", {"proposal": one["id"], "content": one["content"]}
        )
        await desk.no("not_approved", None, "/v1/plan:publish", {"proposal": one["id"]})
        await desk.ok(None, "/v1/plan:publish", {"proposal": one["id"], "alone": True})
        records = (await desk.ok(None, "/v1/audit"))["records"]
        assert records[-1]["detail"]["alone"] is True

    told(tmp_path, story, principals=False)


def test_kills_and_the_log(tmp_path):
    async def story(desk: Desk) -> None:
        off = await desk.ok("root", "/v1/kill", {"scope": "slot", "id": "home.popup", "reason": "complaint"})
        assert off == {"scope": "slot", "id": "home.popup", "off": True, "audited": True}
        assert (await desk.control.poll()).kills == (Kill("slot", "home.popup"),)
        assert (await desk.ok("bob", "/v1/plan"))["killed"][0]["by"] == "root"
        await desk.no("forbidden", "bob", "/v1/kill", {"scope": "item", "id": "i1", "reason": "r"})
        await desk.no("missing_field", "root", "/v1/kill", {"scope": "item", "id": "i1"})
        await desk.no("invalid_field", "root", "/v1/kill", {"scope": "item", "reason": "r"})
        await desk.no("invalid_field", "root", "/v1/kill", {"scope": "bank", "id": "x", "reason": "r"})
        undo = {"scope": "slot", "id": "home.popup", "reason": "over", "undo": True}
        assert (await desk.ok("ann", "/v1/kill", undo))["off"] is False
        log = await desk.ok("eve", "/v1/audit?action=killed")
        assert [record["object"] for record in log["records"]] == ["slot:home.popup"]
        every = await desk.ok("eve", "/v1/audit?since=0&most=3")
        assert [record["seq"] for record in every["records"]] == [1, 2, 3]
        found = await desk.ok("eve", f"/v1/audit?verify=1&head={log['head']}")
        assert found["ok"] is True and found["head"] == log["head"]
        await desk.no("bad_query", "eve", "/v1/audit?verify=1&head=x")
        await desk.no("bad_query", "eve", "/v1/audit?since=x")
        await desk.no("bad_query", "eve", "/v1/audit?most=1001")
        await desk.no("bad_query", "eve", "/v1/audit?verify=yes")
        await desk.no("bad_query", "eve", "/v1/audit?verfiy=true")
        await desk.no("bad_query", "eve", "/v1/plan?revision=-1")
        first = sorted((desk.bank.path / "audit").rglob("*.json"))[0]
        first.write_bytes(first.read_bytes().replace(b"root", b"ROOT", 1))
        assert (await desk.ok("eve", "/v1/audit?verify=1"))["broken"] == 1

    told(tmp_path, story)


def test_preview_under_a_proposal(tmp_path):
    seen: list[Any] = []

    async def page(ask: Any, plan: Any) -> dict[str, Any]:
        seen.append((ask.user_id, None if plan is None else plan.name))
        return {"slots": []}

    async def story(desk: Desk) -> None:
        one = await desk.ok(
            "alice", "/v1/plan:propose", {"part": "frame", "content": frame(name="new"), "reason": "r"}
        )
        assert await desk.ok("alice", "/v1/plan:preview", {"user_id": "u1", "proposal": one["id"]}) == {
            "slots": []
        }
        await desk.ok("eve", "/v1/plan:preview", {"user_id": "u2"})
        assert seen == [("u1", "new"), ("u2", None)]
        await desk.no("not_found", "eve", "/v1/plan:preview", {"user_id": "u", "plan": "0" * 12})
        both = {"user_id": "u", "plan": "0" * 12, "proposal": one["id"]}
        await desk.no("invalid_field", "eve", "/v1/plan:preview", both)

    told(tmp_path, story, preview=page)


def test_bad_requests_never_reach_a_500(tmp_path):
    async def story(desk: Desk) -> None:
        await desk.no("bad_json", "alice", "/v1/plan:propose", b"{")
        await desk.no("missing_field", "alice", "/v1/plan:propose", {})
        await desk.no(
            "unknown_field", "alice", "/v1/plan:check", {"part": "frame", "content": {}, "colour": "red"}
        )
        for part in ("frame", "policy", "org:head", "creative:v1", "x"):
            for content in (None, 1, "x", [], {}, {"item_id": 1}, {"campaigns": 1}, {"orgs": [1]}, [[]] * 9):
                for path in ("/v1/plan:check", "/v1/plan:propose"):
                    body = {"part": part, "content": content}
                    body |= {"reason": "r"} if path.endswith("propose") else {}
                    status, answer, _ = await desk("alice", path, body)
                    assert 400 <= status < 500, (part, content, answer)
        await desk.no("not_found", "alice", "/v1/plan:none")
        await desk.no("not_found", "alice", "/v1/plan?part=org:head")
        await desk.no("unknown_proposal", "alice", "/v1/plan:diff?proposal=p9-00000000")
        await desk.no("method_not_allowed", "alice", "/v1/plan", {})
        await desk.no("not_ready", "eve", "/v1/plan:preview", {"user_id": "u"})

    told(tmp_path, story)


def test_below_a_prefix(tmp_path):
    async def story(desk: Desk) -> None:
        assert desk.app.takes("/admin/v1/kill") and not desk.app.takes("/v1/recommend")
        await desk.ok("eve", "/admin/v1/plan")

    told(tmp_path, story, below="/admin")


def test_what_is_documented_is_served(tmp_path):
    bank = governed(tmp_path, principals=False)
    paths = admin_paths()
    served = admin_routes(Admin(Office(bank.governance, MemoryControl())))
    assert {path: [m.lower() for m in methods] for path, methods in served.items()} == {
        path: list(methods) for path, methods in paths.items()
    }
    named = {model.__name__ for model in ADMIN_MODELS} | set(ADMIN_SCHEMAS) | {"Problem"}
    text = orjson.dumps(paths).decode()
    import re

    assert set(re.findall(r"#/components/schemas/(\w+)", text)) == named
    assert local_identity().has("admin")
