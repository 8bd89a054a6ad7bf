"""An arm served from a bundle of its own, by a service: pages, what is read of them later, reloading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from features.ids import key64
from features.log import EventLog
from features.token import PLACES
from serving.admin_asks import PreviewAsk
from serving.arm_bundles import only
from serving.control import Kill, OverlayEntry
from serving.decide import decide
from serving.domain import Decision, Effort, Query, Rows
from serving.errors import Problem
from serving.live import Live
from serving.offline import Offline
from serving.plan import Plan
from serving.previewing import Previewing
from serving.reload import Blank, check
from serving.stepping import at_once
from serving.wire import BatchAsk, parse
from tests.arm_bundles import ARM, BUNDLES, NEW, armed, other_bundle, plan_of
from tests.shell import CONTEXT, Shell, ids, run, running, without_ids
from tests.shell_looks import flushed
from tests.worlds import (
    NOW,
    SLOTS,
    item,
    sold,
    tiny_bundle,
    tiny_live,
    tiny_plan,
)
from training.ingest import ingest
from training.lake import Lake
from training.lives import Lives
from training.logged import Logged
from training.ope.release import appraised
from training.replay import ReplayError, cached_of, decided_again, differing, query_of
from training.trace import trace_of, traced
from training.whatif import what_if

KEYS = (("k1", b"s" * 32),)


async def served(shell: Shell) -> None:
    for n in range(1, 5):
        await shell.know(f"u{n}", star_level=n)
    for n in range(12):
        user = f"u{1 + n % 4}"
        shell.clock.now += 3
        context = (
            {"channel": "app", "anchor_item": f"i{7 + n // 8 * 2}"} if n % 3 == 0 else {"channel": "app"}
        )
        page = await shell.page(user, context=context)
        event = shell.event("clicked", f"e{n}", page_token=page["page_token"], index=n % 3)
        answer = await shell.post("/v1/events", {"events": [event]})
        assert answer.json()["accepted"] == 1, answer.text


class TestServed:
    def test_a_page_has_the_arms_texts_and_keys(self) -> None:
        async def story() -> None:
            arm = tiny_live(BUNDLES["b2"], plan_of(), bundles=only(BUNDLES["b2"]))
            async with running(plan=plan_of(), start=False) as shell:
                shell.bundles.held["b2"] = BUNDLES["b2"]
                await shell.app.startup()
                mine = await shell.page("u1", context={"channel": "app", "locale": "en"})
                theirs = await shell.page("u2", context={"channel": "app", "locale": "en"})
                assert (mine["bundle"], theirs["bundle"]) == ("b2", "b-tiny")
                assert mine["arms"] == {"ranking": "e/treatment"}
                titles = {
                    one["item_id"]: one["creative"]["title"] for s in mine["slots"] for one in s["items"]
                }
                known = {f"i{n}": f"Other {n}" for n in range(120)} | {f"i{NEW}": f"Item {NEW}"}
                assert titles and titles == {name: known[name] for name in titles}
                assert {
                    one["creative"]["title"].split()[0] for s in theirs["slots"] for one in s["items"]
                } == {"Item"}
                await flushed(shell)
                rows = {row["subject"]: row for row in shell.logged("served")}
                assert (rows["u:u1"]["bundle"], rows["u:u1"]["base"]) == ("b2", "b-tiny")
                assert (rows["u:u2"]["bundle"], rows["u:u2"]["base"]) == ("b-tiny", "b-tiny")
                for page, row in ((mine, rows["u:u1"]), (theirs, rows["u:u2"])):
                    assert row["item_ids"] == ids(page)
                    assert np.frombuffer(row["items"], "<u8").tolist() == [key64(name) for name in ids(page)]
                assert all(arm.row(name) is not None for name in ids(mine))
                first = ids(mine)[4]
                done = shell.event("clicked", "e1", page_token=mine["page_token"], index=4)
                await shell.post("/v1/events", {"events": [done]})
                await flushed(shell)
                (clicked,) = shell.logged("clicked")
                assert np.frombuffer(clicked["places"], PLACES)["item"].tolist() == [key64(first)]

        run(story)

    def test_the_control_has_the_page_that_it_had(self) -> None:
        async def pages(plan: Plan) -> list[Any]:
            async with running(plan=plan, start=False) as shell:
                shell.bundles.held["b2"] = BUNDLES["b2"]
                await shell.app.startup()
                await shell.know("u2", star_level=3)
                return [(await shell.page("u2", request_id=f"r{n}"))["slots"] for n in range(3)]

        without = tiny_plan(campaigns=[sold(1, "i8")])
        assert run(lambda: pages(plan_of())) == run(lambda: pages(without))

    def test_an_arms_page_is_remembered_until_something_on_it_is_stopped(self) -> None:
        async def story() -> None:
            async with running(plan=plan_of(), start=False) as shell:
                shell.bundles.held["b2"] = BUNDLES["b2"]
                await shell.app.startup()
                first = await shell.page("u1", request_id="r1")
                assert first["bundle"] == "b2" and await shell.page("u1", request_id="r1") == first
                await flushed(shell)
                assert len(shell.logged("served")) == 1
                await shell.control.kill(Kill("item", ids(first)[0]))
                await shell.service.reloader.poll()
                assert ids(first)[0] not in ids(await shell.page("u1", request_id="r1"))

        run(story)

    def test_every_page_is_decided_again_bit_for_bit(self, tmp_path: Path) -> None:
        lake = Lake(tmp_path)

        async def story() -> tuple[EventLog, float]:
            slots = [slot | ({"explore": 0.4} if slot["name"] == "home.feed" else {}) for slot in SLOTS]
            async with running(plan=plan_of(slots=slots), start=False) as shell:
                shell.bundles.held["b2"] = BUNDLES["b2"]
                await shell.app.startup()
                await served(shell)
                return shell.stores.log, shell.clock.now

        log, now = run(story)
        ingest(log, lake, now=now)
        held = {"b-tiny": tiny_bundle(), "b2": other_bundle()}
        lives, met = Lives(Logged(lake), held.__getitem__, days=True), set()
        anchors = 0
        for record in Logged(lake).between(0, 4e9)[1]:
            live = lives.of(record)
            assert live.bundle.version == "b-tiny"
            assert differing(record, decided_again(record, live), live) == []
            one = traced(record, lives)
            document = trace_of(one, KEYS, items=["i3"])
            assert document["reproduced"] and one.live.bundle.version == record["bundle"]
            shown = [place["item"] for slot in document["slots"] for place in slot["places"]]
            assert shown == record["item_ids"]
            assert any(one["placed"] for one in document["candidates"]["listed"])
            anchors += decided_again(record, live).query.anchor_row is not None
            met.add((record["bundle"], *record["arms"].values()))
        assert {("b2", "e/treatment"), ("b-tiny", "e/control")} == met and anchors
        logged = list(Logged(lake).between(0, 4e9)[1])
        assert what_if(logged, lives, plan=None, bundle=None).document()["places_changed"] == 0.0
        release = appraised(logged, lives.of, {})
        assert release is not None and release.left_out == 0
        assert release.before.by_slot() == release.after.by_slot()
        tampered = {**record, "base": "b2"}
        with pytest.raises(ReplayError, match="was made by bundle b2"):
            query_of(tampered, live)
        old = {name: value for name, value in record.items() if name != "base"}
        if old["bundle"] == "b-tiny":
            assert query_of(old, live) and cached_of(old, live) is None

    def test_the_cached_rung_of_an_arm_is_decided_again(self, tmp_path: Path) -> None:
        lake, tiring = Lake(tmp_path), False

        def failing(
            asked: Query, live: Live, effort: Effort = "full", cached: Rows | None = None
        ) -> Decision:
            if tiring and effort in ("full", "light"):
                raise RuntimeError("too tired for this rung")
            return decide(asked, live, effort, cached)

        async def story() -> tuple[EventLog, float]:
            nonlocal tiring
            async with running(plan=plan_of(), start=False, deciding=at_once(failing)) as shell:
                shell.bundles.held["b2"] = BUNDLES["b2"]
                await shell.app.startup()
                before = await shell.page("u1")
                tiring = True
                shell.clock.now += 5
                after = await shell.page("u1")
                both = set(ids(before)) - {f"i{NEW}"}
                assert len(both & set(ids(after))) > len(both) / 2
                return shell.stores.log, shell.clock.now

        log, now = run(story)
        ingest(log, lake, now=now)
        lives = Lives(Logged(lake), {"b-tiny": tiny_bundle(), **BUNDLES}.__getitem__)
        first, second = sorted(Logged(lake).between(0, 4e9)[1], key=lambda record: record["at"])
        assert (first["effort"], second["effort"]) == ("full", "cached") and second["bundle"] == "b2"
        kept = [key for key in np.frombuffer(first["items"], "<u8").tolist() if key != key64(f"i{NEW}")]
        assert np.frombuffer(second["cached"], "<u8").tolist() == kept
        live = lives.of(second)
        assert differing(second, decided_again(second, live), live) == []

    def test_offline_and_previewed_pages_are_the_arms(self) -> None:
        async def story() -> None:
            async with running(plan=plan_of(), start=False) as shell:
                shell.bundles.held["b2"] = BUNDLES["b2"]
                await shell.app.startup()
                service = shell.service
                page = await shell.page("u1")
                offline = Offline(service.holder.live, shell.stores, frozenset())
                ask = parse(BatchAsk, {"user_ids": ["u1"], "context": CONTEXT})
                line = orjson.loads(await offline.lines(ask, NOW))["page"]
                assert line["bundle"] == "b2" and without_ids(line) == without_ids(page)
                preview = Previewing(service, service.settings, shell.clock)
                asked = PreviewAsk(user_id="u1")
                seen = await preview(asked, plan_of(name="another"))
                assert seen["bundle"] == "b2" and ids(seen) == ids(page)
                terms = [name for slot in seen["slots"] for name in slot["explained"]["terms"]]
                assert terms and set(terms) <= set(ids(seen))
                with pytest.raises(Problem, match="b7 cannot be loaded") as error:
                    await preview(asked, plan_of("b7"))
                assert error.value.code == "bad_plan"
                for n in range(3, 7):
                    shell.bundles.held[f"b{n}"] = other_bundle(f"b{n}")
                    assert (await preview(asked, plan_of(f"b{n}")))["bundle"] == f"b{n}"
                assert set(service.reloader._held) == {"b-tiny", "b2"}  # what is looked at is not kept

        run(story)


class TestFollowed:
    def test_a_plan_is_refused_until_its_arms_bundle_is_there(self) -> None:
        async def story() -> None:
            async with running() as shell:
                loads: list[str] = []
                load = shell.bundles.load
                shell.bundles.load = lambda version: (loads.append(version), load(version))[1]  # type: ignore[method-assign]
                file, service = shell.service.settings.plan, shell.service
                assert file is not None
                before = service.holder.live
                file.write_text(plan_of().model_dump_json())
                assert await service.reloader.poll()  # the old bundle and plan, by the newest kills
                assert service.holder.live.plan.version == before.plan.version
                assert ARM in service.holder.reason and "b2 cannot be loaded" in service.holder.reason
                shell.bundles.held["b2"] = other_bundle(risk_class=5, min_age=99)
                file.write_text(plan_of(name="again").model_dump_json())
                await service.reloader.poll()
                assert service.holder.live.plan.version == before.plan.version
                assert "bundle b2" in service.holder.reason
                shell.bundles.held["b2"] = BUNDLES["b2"]
                file.write_text(plan_of(name="third").model_dump_json())
                assert await service.reloader.poll()
                live = service.holder.live
                assert live.plan.plan.name == "third" and live.over("b2").bundle is BUNDLES["b2"]
                loads.clear()
                await shell.control.kill(Kill("item", "i3"))
                await shell.put("/v1/items/i900", item(900, "product").model_dump(mode="json", by_alias=True))
                assert await service.reloader.poll()
                live = service.holder.live
                assert live.over("b2").row("i900") == len(BUNDLES["b2"]) and loads == []
                file.write_text(tiny_plan().model_dump_json())
                assert await service.reloader.poll()
                assert list(service.reloader._held) == ["b-tiny"]

        run(story)

    def test_an_arm_whose_slot_would_stay_empty_is_refused(self) -> None:
        """By its bundle alone it would be full; items withdrawn since leave nothing of it."""
        few = tiny_bundle(items=[item(n) for n in range(120) if n % 6 or n < 30], version="b2")
        overlay = [OverlayEntry(1 + n, "item", f"i{6 * n}", None) for n in range(5)]
        live = armed({"b2": few}, overlay=overlay)
        assert any("bundle b2: " in problem for problem in live.problems)
        with pytest.raises(Blank, match=r"from bundle b2: on surface home, home.grid would stay empty"):
            check(live, NOW)
        check(armed(overlay=overlay), NOW)

    def test_the_arms_bundle_is_promoted_without_being_loaded_again(self) -> None:
        async def story() -> None:
            async with running(plan=plan_of(), start=False) as shell:
                shell.bundles.held["b2"] = BUNDLES["b2"]
                await shell.app.startup()
                del shell.bundles.held["b2"]
                await shell.control.set("bundle", "b2")
                assert await shell.service.reloader.poll()
                live = shell.service.holder.live
                assert live.bundle is BUNDLES["b2"] and not live.rebased

        run(story)
