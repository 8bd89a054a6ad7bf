"""An arm served from a bundle of its own: how it is written, what is refused, what its pages hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from features.ids import key32, key64
from features.schema import Schemas
from serving.arm_bundles import only
from serving.bundle import Bundle, BundleError
from serving.control import Kill, OverlayEntry
from serving.decide import decide
from serving.domain import Decision
from serving.plan import Plan, PlanError, check_plan
from serving.plan_fit import Fit
from serving.prices import Prices
from serving.reserving import reserving_of
from serving.standing import categories_of
from tests.arm_bundles import ARM, BUNDLES, GONE, NEW, armed, experiments, other_bundle
from tests.worlds import (
    NOW,
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
from training.usage import UsageError


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

    def test_an_arm_whose_bundle_is_gone_can_be_taken_out(self) -> None:
        """Beside something else that is wrong already, which keeps nobody from publishing."""
        lacking = [sold(1, "i-gone", "home.feed")]
        now = tiny_plan(experiments=experiments(), campaigns=lacking)
        fit = Fit(tiny_bundle, lambda: now, bundles={}.__getitem__)
        assert len(fit(tiny_plan(campaigns=lacking), True)["problems"]) == 1
        with pytest.raises(PlanError, match="b2 cannot be loaded"):
            fit(now, True)

    def test_bundles_are_loaded_once_however_many_arms_have_one(self) -> None:
        held, loads = {f"b{n}": other_bundle(f"b{n}") for n in range(4)}, list[str]()
        text = experiments()
        arms = [{"name": "control"}, *({"name": name, "changes": {"bundle": name}} for name in held)]
        text["layers"][0]["experiments"][0]["arms"], text["testers"] = arms, {}

        def load(version: str) -> Bundle:
            loads.append(version)
            return held[version]

        fit = Fit(tiny_bundle, lambda: None, bundles=load)
        for _ in range(2):
            fit(tiny_plan(experiments=text), True)
        assert loads == list(held)


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
