"""The demo's plan over small worlds, and its delivery table from made-up readings."""

from __future__ import annotations

from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from serving.catalogue import compile_items
from serving.causes import Cause
from serving.filters import rules_of
from serving.fragments import check_frame
from serving.plan import Plan, Stock, compile_plan
from serving.prices import Prices
from training.demo_campaigns import (
    BRANCH,
    INFEASIBLE,
    PARTNER,
    TOO_MUCH,
    Traffic,
    demo_frame,
    demo_parts,
    demo_plan,
    masks,
)
from training.demo_delivery import Reading, Tags, due_part, plot, show_delivery, show_tags, standings, tags_of
from training.demo_flights import WEEKS_TOO_MUCH, at_the_end, begin, for_a_week, verdict
from training.world import World

START = 1_790_035_200.0
BEGIN, SECONDS, RATE = START + 1_000.0, 100.0, 20.0
BASE = yaml.safe_load((Path(__file__).parents[2] / "k8s" / "plan.yaml").read_text(encoding="utf-8"))
FRAME = {name: part for name, part in BASE.items() if name != "campaigns"}


def world(seed: int = 7, items: int = 1_000) -> World:
    return World.create(seed, 2_000, items, START)


@pytest.fixture(scope="module")
def small() -> World:
    return world()


@pytest.fixture(scope="module")
def plan(small: World) -> Plan:
    return demo_plan(small, BEGIN, SECONDS, RATE, FRAME)


def stock_of(items: Any) -> Stock:
    made = compile_items(items)
    ids = {name: row for row, name in enumerate(made.ids)}
    return Stock(
        row=ids.get,
        kinds=np.ascontiguousarray(made.table["kind"]),
        layouts=made.layouts,
        rules=rules_of(made.table),
        ranked=np.arange(len(made.table), dtype=np.int32),
        creatives=lambda row: made.texts[row].creatives,
        categories=np.ascontiguousarray(made.table["category"]),
        tops=np.ascontiguousarray(made.table["top_category"]),
        lists={},
    )


@pytest.mark.parametrize("seed", [1, 2, 3, 7, 11])
def test_it_validates_and_compiles_over_worlds_of_any_seed(seed: int) -> None:
    made = world(seed)
    plan = demo_plan(made, BEGIN, SECONDS, RATE, FRAME)
    compiled = compile_plan(plan, stock_of(made.items()))
    assert len(compiled.campaigns) == 30
    assert compiled.problems == ()
    assert set(compiled.campaigns.offer_campaign.tolist()) == set(range(30))
    assert (compiled.campaigns.offer_slots != 0).all()


def test_it_has_what_the_issue_asks_for(plan: Plan) -> None:
    by_tier = {tier: [one for one in plan.campaigns if one.tier == tier] for tier in
               ("mandatory", "guaranteed", "share", "standard", "house")}  # fmt: skip
    assert any(one.pin for one in by_tier["mandatory"])
    assert any(one.roadblock for one in plan.campaigns)
    assert len(by_tier["guaranteed"]) == 10
    assert {goal.unit for one in by_tier["guaranteed"] for goal in one.goals} == {"displayed", "clicked"}
    assert {one.pacing for one in by_tier["guaranteed"]} == {"even", "asap", "front_loaded"}
    assert any(one.benefit and one.benefit.stock for one in by_tier["standard"])
    assert any(one.audience == "winback" for one in by_tier["standard"])
    assert any(one.lever and one.lever.owner for one in plan.campaigns)
    assert any(one.quotas for one in plan.campaigns)
    assert any(cap.most == 3 and cap.min_gap_s for one in plan.campaigns for cap in one.caps)
    assert len(by_tier["house"]) == 3
    assert plan.exclusions and plan.contact_rules and plan.values


def test_the_branch_has_its_share_and_the_partner_its_swap(plan: Plan) -> None:
    slots = {slot.name: slot for slot in plan.slots}
    of = {one.id: one for one in plan.campaigns}
    assert of["c20-sh-share"].org == BRANCH and slots["home.banner"].shares[BRANCH] > 0
    assert of["c28-swap-partner"].org == PARTNER and of["c28-swap-partner"].slots == ("home.banner",)
    assert slots["life.banner"].owner == PARTNER and of["c13-swap-ours"].slots == ("life.banner",)
    assert of["c13-swap-ours"].org == "head"


def test_no_item_is_in_two_campaigns(plan: Plan) -> None:
    items = [item for one in plan.campaigns for item in one.items]
    assert len(items) == len(set(items))


def test_every_goal_but_one_is_within_what_its_audience_gives(small: World, plan: Plan) -> None:
    traffic, known = Traffic(small, BEGIN, SECONDS, RATE), masks(small)
    for one in plan.campaigns:
        for goal in one.goals:
            if goal.at_least is None or goal.unit != "displayed":
                continue
            if one.id == INFEASIBLE:
                assert goal.at_least > 0.9 * TOO_MUCH * traffic.away * traffic.displays("home.banner")
            else:
                mask = None if one.audience is None else known[one.audience]
                assert goal.at_least <= max(0.5 * traffic.displays(one.slots[0], mask), 5)


def test_audiences_are_not_empty_and_those_who_were_away_come(small: World) -> None:
    traffic = Traffic(small, BEGIN, SECONDS, RATE)
    assert all(traffic.part(mask) > 0.02 for mask in masks(small).values())
    assert traffic.weights.sum() == pytest.approx(1.0)
    assert traffic.weights[traffic.returning].sum() == pytest.approx(traffic.away, rel=0.2)
    assert (small.customers.assets[traffic.returning] >= 20_000).all()


def test_the_frame_stands_without_its_campaigns(small: World) -> None:
    assert check_frame(demo_frame(small, FRAME)).campaigns == ()


def test_a_bank_with_too_few_items_is_told(small: World) -> None:
    with pytest.raises(ValueError, match="--items"):
        demo_parts(Traffic(world(items=150), BEGIN, SECONDS, RATE), FRAME)


def test_flights_lie_within_one_hour_of_the_meters() -> None:
    hour = 3_600.0 * 500_000
    assert begin(hour + 60, 100) == hour + 70
    assert begin(hour + 3_500, 100) == hour + 3_600
    assert begin(hour + 3_595, 100) == hour + 3_605


def reading(at: float, **delivered: float) -> Reading:
    prices = Prices(
        1,
        at,
        {"c03-autumn": 0.05, INFEASIBLE: 2.0},
        causes={f"{INFEASIBLE}/displayed": "audience_too_narrow"},
    )
    counted = {name.replace("_", "-"): {"displayed": units} for name, units in delivered.items()}
    return Reading(at, counted, prices, {"c20-sh-share": (6.0, 100.0)}, {"c12-asap/most": (40, 5, 1)})


def test_a_standing_is_delivery_against_the_curve(plan: Plan) -> None:
    found = {one.campaign: one for one in standings(plan.campaigns, reading(BEGIN + 50, c03_autumn=100.0))}
    autumn = found["c03-autumn"]
    assert autumn.due == pytest.approx(autumn.goal / 2, rel=0.02)
    assert autumn.pace == pytest.approx(100.0 / autumn.due)
    assert (autumn.price, autumn.cause) == (0.05, None)
    assert found[INFEASIBLE].cause is Cause.AUDIENCE_TOO_NARROW
    share = found["c20-sh-share"]
    assert share.delivered == 6.0 and share.due == pytest.approx(12.0)
    quota = next(one for one in plan.campaigns if one.id == "c12-asap").quotas[0]
    assert found["c12-asap"].quota_left == quota.at_most - 45
    assert found["c16-fuel"].quota_left > 0 and np.isnan(found["c25-house"].quota_left)


def test_curves_end_where_flights_do(plan: Plan) -> None:
    for one in plan.campaigns:
        if one.goals and one.goals[0].at_least:
            assert due_part(one, BEGIN - 1) == 0.0
            assert due_part(one, BEGIN + SECONDS + 1) == 1.0
    of = {one.id: one for one in plan.campaigns}
    half = BEGIN + 50
    assert due_part(of["c12-asap"], half) == 1.0
    assert due_part(of["c09-school"], half) > due_part(of["c03-autumn"], half)


def test_the_end_has_the_last_prices_of_open_flights() -> None:
    early, late = reading(BEGIN + 10), reading(BEGIN + 130, c03_autumn=9.0)
    late = late._replace(prices=Prices(2, BEGIN + 130))
    ended = at_the_end([early, late], BEGIN + SECONDS)
    assert ended.prices.version == 1 and ended.delivered["c03-autumn"]["displayed"] == 9.0


METRICS = """\
# HELP fenliu_price_tag_cny_total CNY forgone because of a rule
# TYPE fenliu_price_tag_cny_total counter
fenliu_price_tag_cny_total{rule="guarantee",campaign="c03-autumn",org="head"} 1.5
fenliu_price_tag_cny_total{rule="share",campaign="c20-sh-share",org="branch/310000"} 0.5
fenliu_price_tag_cny_total{rule="cap",campaign="",org=""} 0.25
# HELP fenliu_slot_inner_price_cny CNY per display
# TYPE fenliu_slot_inner_price_cny gauge
fenliu_slot_inner_price_cny{slot="home.banner"} 0.02
"""


def test_tags_are_summed_by_campaign_rule_and_org() -> None:
    tags = tags_of(METRICS)
    assert tags.by_rule == {"guarantee": 1.5, "share": 0.5, "cap": 0.25}
    assert tags.by_org == {"head": 1.5, "branch/310000": 0.5, "": 0.25}
    assert tags.by_campaign["c03-autumn"] == 1.5 and tags.slots == {"home.banner": 0.02}


def test_table_and_plot(plan: Plan, tmp_path: Path) -> None:
    console = Console(width=100, record=True, file=StringIO())
    show_delivery(console, standings(plan.campaigns, reading(BEGIN + 50)), tags_of(METRICS))
    show_tags(console, Tags({}, {}, {}, {}))
    text = console.export_text()
    assert all(one.id in text for one in plan.campaigns)
    assert "audience_too_narrow" in text
    made = plot(tmp_path / "p" / "x.png", plan.campaigns, [reading(BEGIN), reading(BEGIN + 50)])
    assert made.stat().st_size > 10_000


def test_one_campaign_is_booked_anew_for_a_week_and_nothing_else_changes(plan: Plan) -> None:
    frame = {"campaigns": [one.model_dump(mode="json", by_alias=True) for one in plan.campaigns]}
    found = for_a_week(frame, INFEASIBLE, BEGIN)
    for old, new in zip(frame["campaigns"], found["campaigns"], strict=True):
        assert (old == new) is (old["id"] != INFEASIBLE)
        if old["id"] == INFEASIBLE:
            assert new["goals"][0]["at_least"] == WEEKS_TOO_MUCH * old["goals"][0]["at_least"]
            first, last = (
                datetime.fromisoformat(new["flight"][name]).timestamp() for name in ("from", "until")
            )
            assert BEGIN < first < last <= BEGIN + 7 * 86_400


def test_what_the_check_says_of_a_booking() -> None:
    goal = {"id": f"{INFEASIBLE}/displayed", "campaign": INFEASIBLE, "asked": 300.0, "expected": 50.0}
    goal |= {"low": 40.0, "high": 60.0, "fits": False, "cause": "audience_too_narrow"}
    relax = {"goal": goal["id"], "how": "everybody instead of its audience", "most": 900.0, "fits": True}
    lines = verdict({"report": {"booking": {"goals": [goal], "relax": [relax]}}}, INFEASIBLE)
    assert "does NOT fit" in lines[0] and "audience_too_narrow" in lines[0]
    assert "which fits" in lines[1]
    assert "no replay sample" in verdict({"report": {}}, INFEASIBLE)[0]
    assert "another plan" in verdict({"detail": "another plan is being checked"}, INFEASIBLE)[0]
