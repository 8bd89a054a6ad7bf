"""Pages and governance on one address: who may do what, what a role answers, what a preview leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from features.customer import LATE_BLOB
from features.live_store import MemoryLiveStore, live_keys
from features.patch import decode_patch
from features.store import MemoryStore, feature_key
from features.views import PROFILE
from serving.books import Books
from serving.check_process import CheckProcess
from serving.errors import Problem
from serving.front import Front
from serving.keys import PLAN_FILE, Keys, check_plan_file
from serving.live import Live
from serving.plan import PlanError
from serving.principals import local_identity
from serving.settings import Settings, SettingsError
from serving.userfields import OWN
from tests.shell import CONTEXT, SPACE, Shell, ids, run, running
from tests.worlds import NOW, tiny_plan

PEOPLE = {
    "root": "admin", "ann": "approver", "alice": "operator:head", "eve": "engineer", "gw": "app",
    "cb": "core",
}  # fmt: skip


def staffed(shell: Shell) -> dict[str, str]:
    """Keys by principal, all of them confirmed."""
    url = shell.service.settings.registry_url
    keys = Keys(url, Books(url, time.time))
    texts: dict[str, str] = {}
    for name, scope in PEOPLE.items():
        by = local_identity() if not texts else keys.identify(texts["root"].encode())
        assert by is not None
        texts[name], counts = keys.issue(by, name, [scope])
        if not counts:
            ann = keys.identify(texts["ann"].encode())
            assert ann is not None
            keys.confirm(ann, texts[name].split("_")[1])
    shell.app.ring.refresh()
    return texts


def as_(keys: Mapping[str, str], who: str) -> dict[str, str]:
    return {"authorization": f"Bearer {keys[who]}"}


@pytest.mark.parametrize(
    ("role", "pages", "governance"), [("all", 200, 200), ("pages", 200, 404), ("admin", 404, 200)]
)
def test_a_role_answers_its_own_paths(role: str, pages: int, governance: int) -> None:
    async def story() -> None:
        async with running(app=Front, settings={"role": role}) as shell:
            front = shell.app
            assert isinstance(front, Front) and (front._admin is not None) == (role == "admin")
            ask = {"user_id": "u1", "context": CONTEXT}
            assert (await shell.post("/v1/recommend", ask)).status_code == pages
            assert (await shell.post("/v1/events", {"events": [{}]})).status_code == (
                202 if pages == 200 else 404
            )
            status = await shell.get("/v1/plan")
            assert status.status_code == governance
            off = await shell.post("/v1/kill", {"scope": "item", "id": "i1", "reason": "r"})
            assert off.status_code == governance
            for path in ("/livez", "/readyz", "/openapi.json", "/metrics"):
                assert (await shell.get(path)).status_code == 200
            assert (await shell.get("/v1/plans")).status_code == 404
            if governance == 200:
                assert 'route="governance"' in (await shell.get("/metrics")).text

    run(story)


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(SettingsError, match="FENLIU_ROLE"):
        Settings.from_env({"FENLIU_ROLE": "both"})
    with pytest.raises(SettingsError, match="FENLIU_APPROVALS"):
        Settings.from_env({"FENLIU_APPROVALS": "yes"})
    assert Settings.from_env({"FENLIU_APPROVALS": "0"}).approvals is False


def test_principals_ask_for_what_is_theirs() -> None:
    async def story() -> None:
        async with running(app=Front, settings={"plan": None}) as shell:
            ask = {"user_id": "u1", "context": CONTEXT}
            explained = {**ask, "options": {"explain": True}}
            assert (await shell.post("/v1/recommend", explained)).status_code == 200  # nobody has a scope yet
            keys = staffed(shell)
            got = {
                who: (await shell.post("/v1/recommend", ask, **as_(keys, who))).status_code for who in PEOPLE
            }
            assert got == {"root": 200, "ann": 403, "alice": 403, "eve": 200, "gw": 200, "cb": 403}
            got = {
                who: (await shell.post("/v1/recommend", explained, **as_(keys, who))).status_code
                for who in ("root", "eve", "gw")
            }
            assert got == {"root": 200, "eve": 200, "gw": 403}
            assert (await shell.post("/v1/recommend", ask)).status_code == 200  # on loopback, as the app
            assert (
                await shell.post("/v1/kill", {"scope": "item", "id": "i1", "reason": "r"})
            ).status_code == 403
            wrong = await shell.post("/v1/recommend", ask, authorization="Bearer fl_000000000000_x")
            assert wrong.status_code == 401

    run(story)


def test_no_creative_goes_live_past_governance() -> None:
    async def story() -> None:
        async with running(app=Front, settings={"plan": None}) as shell:
            live = {"item_id": "i1", "title": "t", "layouts": ["banner"]}
            assert (await shell.put("/v1/creatives/c1", live)).status_code == 200  # without principals
            keys = staffed(shell)
            inside = {
                "kind": "content",
                "title": {"zh": "t"},
                "creatives": [{"id": "c3", "title": "t", "layouts": ["banner"]}],
            }
            draft = {
                **inside,
                "creatives": [{"id": "c3", "title": "t", "layouts": ["banner"], "state": "draft"}],
            }
            for who in ("cb", "root", "eve"):
                key = as_(keys, who)
                for body in (live, {**live, "state": "live"}, {**live, "state": "approved"}):
                    answer = await shell.put("/v1/creatives/c2", body, **key)
                    assert (answer.status_code, answer.json()["code"]) == (409, "not_approved")
                for path, body in (
                    ("/v1/items/x1", inside),
                    ("/v1/items:batch", {"items": [{**inside, "id": "x1"}]}),
                ):
                    answer = await shell.put(path, body, **key)
                    assert (answer.status_code, answer.json()["code"]) == (409, "not_approved")
                assert (
                    await shell.put("/v1/creatives/c2", {**live, "state": "draft"}, **key)
                ).status_code == 200
                answer = await shell.put("/v1/items/x1", draft, **key)
                assert answer.status_code == 200, answer.text
            for body in ([1], {"items": 1}, {"items": [1]}, {"creatives": 1}, {"creatives": [1]}):
                for path in ("/v1/items/x2", "/v1/items:batch", "/v1/creatives/c4"):
                    assert (await shell.put(path, body, **as_(keys, "cb"))).status_code in (400, 409, 422)
                    assert (await shell.put(path, body, **as_(keys, "gw"))).status_code == 403
            assert (await shell.send("DELETE", "/v1/items/i1", b"", **as_(keys, "gw"))).status_code == 403

    run(story)


PERMISSION = tuple(one.name for one in PROFILE.fields if one.purpose == "permission")
FACTS = {"risk_level": 5, "age": 40, "blocked": False, "holdings": ["p1"]}


def test_a_leaked_app_key_makes_nobody_suitable() -> None:
    """Every field of purpose permission is the core's to say, but for what a customer decides in the app."""
    assert set(PERMISSION) == {*FACTS, *OWN}

    async def story() -> None:
        async with running(app=Front, settings={"plan": None}) as shell:
            keys = staffed(shell)
            for name, value in FACTS.items():
                body = {"profile": {name: value, "city": "310000"}}
                for who in ("gw", "ann", "alice"):
                    refused = await shell.put("/v1/users/u1", body, **as_(keys, who))
                    assert refused.status_code == 403 and refused.json()["code"] == "forbidden"
                assert (await shell.put("/v1/users/u1", body)).status_code == 403  # on loopback, as the app
            assert (await shell.stores.live.fetch([live_keys("u:u1").patch]))[0] is None
            for who in ("cb", "eve", "root"):
                told = await shell.put("/v1/users/u1", {"profile": FACTS}, **as_(keys, who))
                assert told.json() == {"user_id": "u1", "changed": sorted(FACTS)}
            own = {"profiling": False, "tags_off": [3], "gender": 1, "tz": "Asia/Shanghai"}
            assert (await shell.put("/v1/users/u1", {"profile": own}, **as_(keys, "gw"))).status_code == 200
            for who in ("cb", "eve"):  # what came of it the core tells too; pages are not its business
                assert (
                    await shell.post("/v1/outcomes", {"outcomes": [{}]}, **as_(keys, who))
                ).status_code == 202
            assert (await shell.post("/v1/events", {"events": [{}]}, **as_(keys, "cb"))).status_code == 403

    run(story)


def test_the_app_takes_consents_back_and_gives_none() -> None:
    async def story() -> None:
        async with running(app=Front, settings={"plan": None}) as shell:
            keys = staffed(shell)

            async def said(who: str, *names: str) -> Any:
                body = {"profile": {"consents": list(names)}}
                answer = await shell.put("/v1/users/u1", body, **as_(keys, who))
                assert answer.status_code == 200, answer.text
                return answer.json().get("consents")

            assert await said("gw", "marketing") == []  # nothing is known of them: nothing was given
            await shell.know("u1", consents=0b011)
            shell.clock.now += 60.0  # the patch above is newer than this record, so it still holds
            assert await said("gw", "marketing", "third_party") == []
            assert await said("cb", "marketing", "data_sharing") is None
            assert await said("gw", "data_sharing", "third_party") == ["data_sharing"]
            assert await said("gw", "marketing", "data_sharing") == ["data_sharing"]
            store, key = shell.stores.features, feature_key(SPACE.version, PROFILE.name, "u1")
            assert isinstance(store, MemoryStore)
            store.blobs.set(key, b"of a form that nobody knows", 1e6)
            assert await said("gw", "data_sharing") == ["data_sharing"]  # said since the records were written
            store.blobs.set(key, LATE_BLOB, 1e6)
            late = await shell.put("/v1/users/u1", {"profile": {"consents": []}}, **as_(keys, "gw"))
            assert late.status_code == 503 and late.json()["code"] == "store_unavailable"

    run(story)


@pytest.mark.parametrize("who", ["gw", "cb"])
def test_what_cannot_be_read_is_not_changed(who: str) -> None:
    """A consent may have been taken back in it: whoever writes over it would forget that."""

    async def story() -> None:
        async with running(app=Front, settings={"plan": None}) as shell:
            keys, patch = staffed(shell), live_keys("u:u1").patch
            assert isinstance(shell.stores.live, MemoryLiveStore)
            shell.stores.live.blobs.set(patch, b"of a form that nobody knows", 1e6)
            answer = await shell.put("/v1/users/u1", {"profile": {"consents": []}}, **as_(keys, who))
            assert answer.status_code == 409 and answer.json()["code"] == "unreadable_record"
            assert await shell.stores.live.fetch([patch]) == [b"of a form that nobody knows"]

    run(story)


def test_consents_in_the_batch_record_are_taken_back_before_any_change() -> None:
    async def story() -> None:
        async with running(app=Front, settings={"plan": None}) as shell:
            keys = staffed(shell)
            await shell.know("u1", consents=0b111)
            body = {"profile": {"consents": ["third_party"], "profiling": True}}
            answer = await shell.put("/v1/users/u1", body, **as_(keys, "gw"))
            assert answer.json()["consents"] == ["third_party"]
            live = await shell.stores.live.fetch([live_keys("u:u1").patch])
            assert live[0] is not None and int(decode_patch(live[0]).record.values["consents"]) == 0b100

    run(story)


def test_approvals_may_be_required_without_principals() -> None:
    async def story() -> None:
        async with running(app=Front, settings={"approvals": True}) as shell:
            live = {"item_id": "i1", "title": "t", "layouts": ["banner"]}
            assert (await shell.put("/v1/creatives/c1", live)).status_code == 409

    run(story)


def test_a_preview_shows_another_plan_and_leaves_nothing() -> None:
    async def story() -> None:
        async with running(app=Front, settings={"plan": None}) as shell:
            await shell.know("u1")
            whole = json.loads(tiny_plan().model_dump_json(by_alias=True))
            proposed = {"part": "frame", "content": whole, "reason": "first"}
            answer = await shell.post("/v1/plan:propose", proposed)
            assert answer.status_code == 201, answer.text
            logged, seq = len(shell.logged()), (await shell.control.poll()).overlay_seq
            ask = {"user_id": "u1", "context": CONTEXT}
            now = await shell.post("/v1/plan:preview", ask)
            then = await shell.post("/v1/plan:preview", {**ask, "proposal": answer.json()["id"]})
            assert now.status_code == then.status_code == 200, then.text
            assert now.json()["plan"] == (await shell.page("u1"))["plan"] != then.json()["plan"]
            page = then.json()
            assert page["plan"] == tiny_plan().version and ids(page) and page["page_token"] is None
            assert page["effort"] == "full" and all("explained" in slot for slot in page["slots"])
            await shell.service.publisher.stop()
            assert len(shell.logged("served")) == 1 and logged == 0  # the page's, and no preview's
            assert (await shell.control.poll()).overlay_seq == seq
            assert shell.service.holder.live.plan.version == now.json()["plan"]
            bad = await shell.post("/v1/plan:preview", {**ask, "surface": "nowhere"})
            assert bad.json()["code"] == "unknown_surface"

    run(story)


def test_a_preview_leases_nothing_for_a_plan_that_is_only_proposed() -> None:
    async def story() -> None:
        async with running(app=Front, settings={"plan": None}) as shell:
            whole = json.loads(tiny_plan().model_dump_json(by_alias=True))
            flight = {"from": datetime.fromtimestamp(NOW - 86_400, UTC).isoformat()}
            quota = {"id": "q", "unit": "displayed", "at_most": 5, "per": "flight"}
            one = {"id": "c1", "items": ["i1"], "flight": flight, "quotas": [quota], "slots": ["home.shelf"]}
            one["tier"] = "mandatory"
            whole["campaigns"] = [one]
            answer = await shell.post("/v1/plan:propose", {"part": "frame", "content": whole, "reason": "r"})
            assert answer.status_code == 201, answer.text
            await shell.service.granting.renew()
            ask = {"user_id": "u1", "context": CONTEXT, "proposal": answer.json()["id"]}
            page = (await shell.post("/v1/plan:preview", ask)).json()
            assert any(item["campaign_id"] == "c1" for slot in page["slots"] for item in slot["items"])
            pools = await shell.stores.ledger.pools(["c1/q"])
            assert all(pool.outstanding == 0 for pool in pools.values())

    run(story)


def test_a_plan_file_does_not_pass_principals_by() -> None:
    async def story() -> None:
        async with running(app=Front) as shell:
            settings = shell.service.settings
            check_plan_file(settings)
            staffed(shell)
            with pytest.raises(SettingsError, match="FENLIU_PLAN"):
                check_plan_file(settings)
            reloader = shell.service.reloader
            before = shell.service.holder.live.plan.version
            reloader._looked = float("-inf")  # the reloader looks every other second
            await reloader.poll()
            assert PLAN_FILE in shell.service.holder.reason
            assert shell.service.holder.live.plan.version == before  # what runs goes on

    run(story)


def test_a_list_that_comes_and_goes_is_followed() -> None:
    from serving.lists import ListShelf

    async def story() -> None:
        async with running(app=Front, settings={"plan": None}) as shell:
            shelf, reloader = ListShelf(shell.service.settings.registry_url), shell.service.reloader
            whole = json.loads(tiny_plan().model_dump_json(by_alias=True)) | {
                "audiences": {"vip": {"member": "l1"}}
            }
            ask = {"part": "frame", "content": whole, "reason": "r"}
            refused = await shell.post("/v1/plan:propose", ask)
            assert refused.json()["code"] == "bad_plan" and "l1" in refused.json()["detail"]
            shelf.finish(shelf.begin("l1", "upload", "me"), 3, 1.0)
            made = await shell.post("/v1/plan:propose", ask)
            assert made.status_code == 201, made.text
            said = {"proposal": made.json()["id"], "alone": True}
            assert (await shell.post("/v1/plan:publish", said)).status_code == 200

            async def polled() -> Live:  # what changed may have been taken up by the service's own poll
                reloader._looked = float("-inf")
                await reloader.poll()
                return shell.service.holder.live

            live = await polled()
            assert live.plan.plan.audiences
            assert not [one for one in live.problems if "l1" in one]
            shelf.remove("l1")  # whoever was in it is in no audience by it, and pages go on
            assert any("l1" in one for one in (await polled()).problems)
            assert ids(await shell.page("u1"))

    run(story)


SAID = 'import json; print(json.dumps({"report": {"booking": {"fits": True}}}))'


def test_a_check_runs_in_a_process_of_its_own(tmp_path: Any) -> None:
    settings = Settings(home=tmp_path)
    assert "missing" in CheckProcess(settings, command=("-c", SAID))(tiny_plan())
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "manifest.json").write_text("{}")
    assert CheckProcess(settings, command=("-c", SAID))(tiny_plan()) == {"fits": True}
    with pytest.raises(Problem, match="no forecast within"):
        CheckProcess(settings, command=("-c", "import time; time.sleep(30)"), limit_s=0.2)(tiny_plan())
    with pytest.raises(Problem, match="process failed"):
        CheckProcess(settings, command=("-c", "raise SystemExit(3)"))(tiny_plan())
    wrong = 'import json; print(json.dumps({"error": {"path": "a", "problem": "b", "remedy": "c"}}))'
    with pytest.raises(PlanError, match="plan, a: b; c"):
        CheckProcess(settings, command=("-c", wrong))(tiny_plan())
    busy = CheckProcess(settings, command=("-c", SAID))
    busy._process._one.acquire()
    with pytest.raises(Problem, match="another forecast is being made"):
        busy(tiny_plan())
    closed = CheckProcess(settings, command=("-c", "import time; time.sleep(30)"))
    closed.close()
    with pytest.raises(Problem, match="process failed"):
        closed(tiny_plan())


def test_the_command_line_checks_a_whole_plan(tmp_path: Any) -> None:
    """The very command that the service runs, without a bundle."""
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "manifest.json").write_text("{}")
    assert CheckProcess(Settings(home=tmp_path))(tiny_plan()) == {}  # not forecast before a bundle is live
