"""The shell around `decide`: bundles, kills, the overlay and the plan file are followed while it runs."""

from __future__ import annotations

import os
import time
from math import isnan
from pathlib import Path

import pytest

from features.log import MemoryLog
from serving.control import Kill
from serving.plans import PlanShelf
from tests.shell import ids, run, running
from tests.worlds import item, tiny_bundle, tiny_items, tiny_plan


def test_items_put_changed_and_deleted_are_in_force_after_a_poll() -> None:
    async def story() -> None:
        async with running(tiny_bundle(items=tiny_items(60))) as shell:
            new = {"kind": "function", "title": {"zh": "新功能", "en": "New one"}, "action": "app://new"}
            assert (await shell.put("/v1/items/new1", new)).json()["overlay"] == 1
            assert (await shell.put("/v1/items:batch", {"items": [{**new, "id": "new2"}]})).json()[
                "items"
            ] == 1
            creative = {"item_id": "new2", "title": "看这里", "state": "live"}
            assert (await shell.put("/v1/creatives/cr1", creative)).status_code == 200
            await shell.service.reloader.poll()
            live = shell.service.holder.live
            assert live.row("new1") is not None and live.row("new2") is not None
            row = live.row("new2")
            assert row is not None and [c.id for c in live.texts[row].creatives] == ["cr1"]
            page = await shell.page("u1", slots=[{"slot": "home.grid"}])
            victim = ids(page)[0]
            assert (await shell.client.delete(f"/v1/items/{victim}")).status_code == 200
            await shell.service.reloader.poll()
            assert victim not in ids(await shell.page("u1", slots=[{"slot": "home.grid"}]))
            back = {"kind": "function", "title": {"zh": "回来"}}
            await shell.put(f"/v1/items/{victim}", back)
            await shell.service.reloader.poll()
            assert shell.service.holder.live.row(victim) is not None
            assert victim in ids(await shell.page("u1", slots=[{"slot": "home.grid"}]))

    run(story)


def test_a_bundle_that_cannot_run_is_refused_and_kills_still_come() -> None:
    async def story() -> None:
        async with running() as shell:
            before = await shell.page("u1")
            shell.bundles.held["b-bad"] = tiny_bundle(
                items=[item(n, "product") for n in range(9)], version="b-bad"
            )
            await shell.control.set("bundle", "b-bad")
            victim = ids(before)[0]
            await shell.control.kill(Kill("item", victim))
            assert await shell.service.reloader.poll()
            after = await shell.page("u1")
            assert after["bundle"] == before["bundle"] and victim not in ids(after)
            assert b'fenliu_swaps_total{result="refused"} 1.0' in shell.service.metrics.exposition()
            await shell.control.set("bundle", "nowhere")
            await shell.service.reloader.poll()
            assert (await shell.page("u1"))["bundle"] == before["bundle"]
            shell.bundles.held["b2"] = tiny_bundle(seed=1, version="b2")
            await shell.control.set("bundle", "b2")
            await shell.service.reloader.poll()
            swapped = await shell.page("u1")
            assert swapped["bundle"] == "b2" and victim not in ids(swapped)

    run(story)


def test_a_kill_is_obeyed_when_control_says_again_what_it_said_before_a_refusal() -> None:
    """Killed; then a bundle that cannot run, and revived; then both are taken back: killed again."""

    async def story() -> None:
        async with running() as shell:
            victim = ids(await shell.page("u1"))[0]
            await shell.control.set("bundle", "b-tiny")
            await shell.control.kill(Kill("item", victim))
            assert await shell.service.reloader.poll()
            await shell.control.set("bundle", "nowhere")
            await shell.control.revive(Kill("item", victim))
            assert await shell.service.reloader.poll()
            assert victim in ids(await shell.page("u1"))
            await shell.control.set("bundle", "b-tiny")
            await shell.control.kill(Kill("item", victim))
            assert await shell.service.reloader.poll()
            assert victim not in ids(await shell.page("u1"))

    run(story)


def test_everything_killed_empties_the_page_and_says_so() -> None:
    async def story() -> None:
        async with running() as shell:
            await shell.control.kill(Kill("everything"))
            await shell.service.reloader.poll()
            page = await shell.page("u1")
            assert ids(page) == [] and "killed" in page["degraded"]
            await shell.control.revive(Kill("everything"))
            await shell.service.reloader.poll()
            assert ids(await shell.page("u1"))

    run(story)


def test_a_changed_plan_file_is_taken_up() -> None:
    async def story() -> None:
        async with running() as shell:
            path = shell.service.settings.plan
            assert path is not None
            path.write_text(tiny_plan(name="second").model_dump_json())
            assert await shell.service.reloader.poll()
            assert (await shell.page("u1"))["plan"] == tiny_plan(name="second").version
            path.write_text("slots: [")
            await shell.service.reloader.poll()
            assert (await shell.page("u1"))["plan"] == tiny_plan(name="second").version

    run(story)


def test_the_age_of_the_running_plan_is_that_of_its_publication() -> None:
    async def story() -> None:
        async with running(settings={"plan": None}) as shell:

            def age() -> float:
                found = shell.service.metrics.registry.get_sample_value("fenliu_plan_age_seconds", {})
                assert found is not None
                return found

            assert isnan(age())  # the default plan was never published
            shelf, plan = PlanShelf(shell.service.settings.registry_url), tiny_plan(name="second")
            version = shelf.put(plan)
            file = Path(shell.service.settings.registry_url) / "plans" / f"{version}.json"
            os.utime(file, (time.time() - 5_000,) * 2)
            await shell.control.set("plan", version)
            await shell.service.reloader.poll()
            assert (await shell.page("u1"))["plan"] == version and 5_000 <= age() < 5_100
            third = tiny_plan(name="third")
            await shell.control.set("plan", shelf.put(third))
            await shell.service.reloader.poll()
            assert (await shell.page("u1"))["plan"] == third.version and 0 <= age() < 100
            await shell.control.set("plan", None)
            await shell.service.reloader.poll()
            assert isnan(age())

    run(story)


def test_the_age_of_a_plan_file_is_since_it_was_written() -> None:
    async def story() -> None:
        async with running() as shell:
            path = shell.service.settings.plan
            assert path is not None
            os.utime(path, (time.time() - 7_000,) * 2)
            await shell.service.reloader.poll()
            age = shell.service.metrics.registry.get_sample_value("fenliu_plan_age_seconds", {})
            assert age is not None and 7_000 <= age < 7_100

    run(story)


def test_a_storage_that_does_not_tell_times_leaves_the_age_open() -> None:
    shelf = PlanShelf("memory://ages")
    assert shelf.published("0" * 12) is None  # nothing is there
    assert shelf.published(shelf.put(tiny_plan(name="second"))) == pytest.approx(time.time(), abs=60)


def test_kills_come_also_while_the_plan_file_is_gone() -> None:
    async def story() -> None:
        async with running() as shell:
            victim = ids(await shell.page("u1"))[0]
            plan = shell.service.settings.plan
            assert plan is not None
            text = plan.read_text()
            plan.unlink()
            await shell.control.kill(Kill("item", victim))
            assert await shell.service.reloader.poll()
            page = await shell.page("u1")
            assert page["slots"] and victim not in ids(page)
            plan.write_text(text)
            assert await shell.service.reloader.poll()

    run(story)


def test_what_was_refused_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with running() as shell:
            await shell.control.set("bundle", "late")
            assert not (await shell.service.reloader.poll()) or (await shell.page("u1"))["bundle"] == "b-tiny"
            shell.bundles.held["late"] = tiny_bundle(seed=3, version="late")
            await shell.service.reloader.poll()
            assert (await shell.page("u1"))["bundle"] == "b-tiny"
            monkeypatch.setattr("serving.reload.REFUSED_S", -1.0)
            assert await shell.service.reloader.poll()
            assert (await shell.page("u1"))["bundle"] == "late"

    run(story)


def test_a_full_log_says_when_to_come_back() -> None:
    async def story() -> None:
        async with running() as shell:
            log = shell.stores.log
            assert isinstance(log, MemoryLog)
            log.max_entries = 0
            event = shell.event("acted", "e1", user_id="u1", action="viewed", item_id="i1")
            answer = await shell.post("/v1/events", {"events": [event]})
            assert answer.status_code == 503 and answer.json()["code"] == "log_full"
            assert int(answer.headers["retry-after"]) >= 1
            page = await shell.page("u1", events=[event])
            assert [r["code"] for r in page["events"]["rejected"]] == ["log_full"] and page["slots"]
            log.max_entries = 1000

    run(story)
