"""An arm served from a bundle of its own: what it shows, how it is read afterwards, what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from features.ids import key32, key64
from features.log import EventLog
from features.schema import Schemas
from features.token import PLACES
from serving.admin_asks import PreviewAsk
from serving.arm_bundles import only
from serving.bundle import Bundle, BundleError
from serving.control import Kill, OverlayEntry
from serving.decide import decide
from serving.domain import Decision, Effort, Query, Rows
from serving.errors import Problem
from serving.live import Live
from serving.offline import Offline
from serving.plan import Plan, PlanError, check_plan
from serving.plan_fit import Fit
from serving.previewing import Previewing
from serving.prices import Prices
from serving.reload import Blank, check
from serving.reserving import reserving_of
from serving.standing import categories_of
from serving.wire import BatchAsk, parse
from tests.shell import CONTEXT, Shell, ids, run, running, without_ids
from tests.shell_looks import flushed
from tests.worlds import (
    NOW,
    SLOTS,
    customer,
    item,
    names,
    query,
    recent_entries,
    sold,
    tiny_bundle,
    tiny_live,
    tiny_plan,
)
from training.experiment.changes import promoted
from training.ingest import ingest
from training.lake import Lake
from training.lives import Lives
from training.logged import Logged
from training.ope.release import appraised
from training.replay import ReplayError, cached_of, decided_again, differing, query_of
from training.trace import trace_of, traced
from training.usage import UsageError
from training.whatif import what_if

START = "2026-01-01T00:00:00+08:00"
GONE, NEW = 9, 500  # only the running bundle has i9, only the other one i500
KEYS = (("k1", b"s" * 32),)
ARM = "experiments.layers.0.experiments.0.arms.1.changes.bundle (e/treatment)"


def other_bundle(version: str = "b2", **fields: Any) -> Bundle:
    """The running bundle's items in another order, with other titles; two less and one that is new."""
    items = [
        item(n, title={"zh": f"另{n}", "en": f"Other {n}"}, **fields)
        for n in reversed(range(120))
        if n not in (GONE, 21)
    ]
    return tiny_bundle(items=[*items, item(NEW, "product")], seed=1, version=version)


BUNDLES = {"b2": other_bundle()}


def experiments(version: str = "b2", **changes: Any) -> dict[str, Any]:
    arms = [{"name": "control"}, {"name": "treatment", "changes": {"bundle": version, **changes}}]
    one = {"name": "e", "arms": arms, "ramp": [{"at": START, "enrolled": 1}]}
    testers = {"u1": {"ranking": "e/treatment"}, "u2": {"ranking": "e/control"}}
    return {"layers": [{"name": "ranking", "experiments": [one]}], "testers": testers}


def armed(
    bundles: Mapping[str, Bundle] = BUNDLES, plan: Mapping[str, Any] | None = None, **options: Any
) -> Live:
    made = tiny_plan(experiments=experiments(), **(plan or {}))
    return tiny_live(plan=made, bundles=bundles.__getitem__, **options)


def placed(decision: Decision) -> list[tuple[int, int, int, float]]:
    return [(one.slot, one.position, one.key, one.score) for one in decision.placements]


class TestText:
    @pytest.mark.parametrize("text", ["", "../b", ".b", "a/b", "a b", "a*", "x" * 65, "版本"])
    def test_what_is_no_version_is_refused_with_its_path(self, text: str) -> None:
        raw = tiny_plan().model_dump(mode="json")
        with pytest.raises(PlanError) as error:
            check_plan({**raw, "experiments": experiments(text)})
        assert "changes.bundle" in error.value.path

    def test_at_most_four_beside_the_running_one(self) -> None:
        arms = [{"name": "control"}]
        arms += [{"name": f"a{n}", "changes": {"bundle": f"b{n}"}} for n in range(5)]  # type: ignore[dict-item]
        text = experiments()
        text["layers"][0]["experiments"][0]["arms"], text["testers"] = arms, {}
        with pytest.raises(PlanError, match="of at most 4") as error:
            tiny_plan(experiments=text)
        assert error.value.path.endswith("arms.5.changes.bundle (e/a4)")
        arms[5]["state"] = "off"
        assert tiny_plan(experiments=text)

    def test_layers_that_share_units_cannot_both_set_it(self) -> None:
        text = experiments()
        again = {**text["layers"][0]["experiments"][0], "name": "f"}
        text["layers"].append({"name": "second", "experiments": [again]})
        with pytest.raises(PlanError, match=r"bundle is set in the layers 'ranking' and 'second'"):
            tiny_plan(experiments=text)

    def test_a_winner_is_promoted_as_a_bundle(self) -> None:
        frame = tiny_plan(experiments=experiments()).model_dump(mode="json")
        with pytest.raises(UsageError, match="fenliu bundle promote b2"):
            promoted(frame, "e", "treatment", owner="o", now=NOW)


class TestRefused:
    def refused(self, plan: Plan, bundles: Any, **options: Any) -> PlanError:
        with pytest.raises(PlanError) as error:
            tiny_live(plan=plan, bundles=bundles, **options)
        return error.value

    @pytest.mark.parametrize("strict", [True, False])
    @pytest.mark.parametrize(
        "problem", [OSError("away"), KeyError("b2"), BundleError("ids.txt", "is missing")]
    )
    def test_a_bundle_that_cannot_be_loaded(self, problem: Exception, strict: bool) -> None:
        def load(version: str) -> Bundle:
            assert version == "b2"
            raise problem

        error = self.refused(tiny_plan(experiments=experiments()), load, strict=strict)
        assert error.path == ARM and "b2 cannot be loaded" in error.problem

    def test_where_nobody_can_be_asked(self) -> None:
        with pytest.raises(PlanError, match="no registry is asked here"):
            tiny_live(plan=tiny_plan(experiments=experiments()))

    def test_a_bundle_without_an_item_of_the_plan(self) -> None:
        plan = tiny_plan(experiments=experiments(), campaigns=[sold(1, f"i{GONE}", "home.feed")])
        error = self.refused(plan, BUNDLES.__getitem__)
        assert error.path.startswith("experiments (e/treatment, bundle b2): campaigns.0")
        assert f"i{GONE}" in error.problem

    def test_a_bundle_of_other_schemas(self) -> None:
        strange = replace(BUNDLES["b2"], schemas=Schemas())
        error = self.refused(tiny_plan(experiments=experiments()), lambda _: strange)
        assert error.path == ARM and "other records of customers" in error.problem

    def test_an_arm_that_is_off_loads_nothing(self) -> None:
        text = experiments()
        text["layers"][0]["experiments"][0]["arms"][1]["state"] = "off"
        live = tiny_live(plan=tiny_plan(experiments=text), bundles={}.__getitem__)
        assert not live.rebased and {one.bundle.version for one in live.variants.values()} == {"b-tiny"}

    def test_an_arm_that_names_the_running_bundle_needs_no_other(self) -> None:
        live = tiny_live(plan=tiny_plan(experiments=experiments("b-tiny")))
        assert not live.rebased and all(one.items is live.items for one in live.variants.values())

    def test_one_bundle_is_judged_for_all_arms(self) -> None:
        made = tiny_bundle()
        live = tiny_live(made, tiny_plan(experiments=experiments()), bundles=only(made))
        assert decide(query(live), live).bundle == "b-tiny"

    def test_a_proposal_is_judged_by_the_arms_bundle(self) -> None:
        loads: list[str] = []

        def load(version: str) -> Bundle:
            loads.append(version)
            return BUNDLES[version]

        fit = Fit(tiny_bundle, lambda: None, bundles=load)
        assert fit(tiny_plan(experiments=experiments()), True) == {"bundle": "b-tiny", "problems": []}
        lacking = tiny_plan(experiments=experiments(), campaigns=[sold(1, f"i{GONE}", "home.feed")])
        with pytest.raises(PlanError, match=rf"e/treatment, bundle b2\): campaigns.0.*i{GONE}"):
            fit(lacking, True)
        assert loads == ["b2"]
        assert Fit(tiny_bundle, lambda: lacking, bundles=load)(lacking, True)["problems"]
        with pytest.raises(PlanError, match="b7 cannot be loaded"):
            fit(tiny_plan(experiments=experiments("b7")), True)


class TestPages:
    def test_each_arm_has_the_page_of_its_bundle(self) -> None:
        live = armed()
        who = customer(recent=recent_entries(("i1", "clicked", 60), ("i8", "clicked", 30)), star_level=7)
        for subject, version, alone in (
            ("u:u1", "b2", tiny_live(BUNDLES["b2"])),
            ("u:u2", "b-tiny", tiny_live()),
        ):
            made = decide(query(live, who, subject=subject), live)
            plain = decide(query(alone, who, subject=subject), alone)
            assert made.bundle == version and made.plan == live.plan.version
            assert placed(made) == placed(plain)
            view = live.of(made)
            assert view.bundle.version == version
            assert names(view, made) == names(alone, plain)
            assert [view.keys[one.row] for one in made.placements] == [one.key for one in made.placements]
        assert decide(query(live, who, profiling=False), live).bundle == "b-tiny"

    def test_a_view_without_experiments_is_its_own(self) -> None:
        live = tiny_live()
        assert live.of(decide(query(live), live)) is live
        arm = armed().over("b2")
        assert arm.bundle.version == "b2" and arm.of(decide(query(arm), arm)) is arm

    def test_the_anchor_and_the_last_page_are_moved(self) -> None:
        live = armed()
        arm = live.over("b2")
        anchored = decide(query(live, anchor_row=live.row("i7")), live)
        assert anchored.query.anchor_row == arm.row("i7") != live.row("i7")
        assert "i7" not in names(arm, anchored)
        assert decide(query(live, anchor_row=live.row(f"i{GONE}")), live).query.anchor_row is None
        last = ["i3", f"i{GONE}", "i15", "i4", "i10"]
        rows = np.array([*[live.row(name) for name in last], -1, 9999], np.int32)
        cached = decide(query(live), live, "cached", rows)
        assert cached.cached is not None
        assert [arm.texts[row].id for row in cached.cached.tolist() if row >= 0] == ["i3", "i15", "i4", "i10"]
        same = decide(query(arm), arm, "cached", np.array([arm.row(n) for n in last if n != "i9"], np.int32))
        assert placed(cached) == placed(same)

    def test_other_changes_of_the_arm_hold_beside_it(self) -> None:
        text = experiments(slots={"home.feed": {"size": 2}})
        live = tiny_live(plan=tiny_plan(experiments=text), bundles=BUNDLES.__getitem__)
        made = decide(query(live), live)
        assert made.bundle == "b2" and len(names(live.of(made), made, "home.feed")) == 2

    def test_item_changes_kills_and_prices_hold_in_the_arm(self) -> None:
        before = armed(plan={"campaigns": [sold(1, "i8")]})
        decision = decide(query(before), before)
        first = names(before.of(decision), decision)
        gone, killed = [name for name in first if name != "i8"][:2]
        fresh = item(900, "product").model_dump(mode="json", by_alias=True, exclude_defaults=True)
        overlay = [OverlayEntry(1, "item", gone, None), OverlayEntry(2, "item", "i900", fresh)]
        live = armed(plan={"campaigns": [sold(1, "i8")]}, overlay=overlay, kills=[Kill("item", killed)])
        arm = live.over("b2")
        assert arm.row("i900") == len(BUNDLES["b2"]) != live.row("i900")
        after = decide(query(live), live)
        assert after.bundle == "b2" and not {gone, killed} & set(names(live.of(after), after))
        assert live.plan.campaigns.ids == arm.plan.campaigns.ids
        priced = live.priced(Prices(7, NOW, {"c1": 0.5}))
        assert priced.over("b2").price.display.tolist() == priced.price.display.tolist() == [0.5]
        assert decide(query(priced), priced).prices == "7"

    def test_what_the_ledger_is_asked_is_of_the_arms_items(self) -> None:
        rules = [{"id": "r", "most": 3, "window": "day", "scope": "category"}]
        live = armed(plan={"contact_rules": rules})
        made = decide(query(live), live)
        asking = reserving_of(made, live, 1)
        assert made.bundle == "b2" and len(asking.places) == len(made.placements) > 0
        wanted = [int(BUNDLES["b2"].compiled.table["category"][one.row]) for one in made.placements]
        assert [wish[0].category for wish in asking.reserving.places] == wanted
        assert len(set(wanted)) > 3

    def test_the_category_of_an_item_that_only_the_arm_has(self) -> None:
        found = categories_of(armed())
        keys = np.array([key64(f"i{NEW}"), key64(f"i{GONE}"), key64("nothing")], np.uint64)
        assert found(keys).tolist() == [
            key32(item(NEW, "product").category), key32(item(GONE).category), 0
        ]  # fmt: skip
        assert categories_of(tiny_live())(keys)[0] == 0


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


def plan_of(version: str = "b2", **changes: Any) -> Plan:
    return tiny_plan(experiments=experiments(version), campaigns=[sold(1, "i8")], **changes)


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
        release = appraised(logged, live, {})
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
            async with running(plan=plan_of(), start=False, decide=failing) as shell:
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
