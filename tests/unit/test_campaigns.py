from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import cache
from math import inf

import numpy as np
import pytest

from features.ids import key32, key64
from serving.campaign import parse_window
from serving.campaigns import BANDS, TIERS
from serving.live import compile_for
from serving.plan import CompiledPlan, check_plan, compile_plan, load_plan
from serving.plan_checks import lapsed
from tests.campaigns import LEVER, big_plan, big_raw, campaign, items, stock_of
from tests.worlds import SLOTS, tiny_bundle, tiny_plan

FEED = next(at for at, slot in enumerate(SLOTS) if slot["name"] == "home.feed")


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@cache
def big() -> CompiledPlan:
    return compile_plan(big_plan(), stock_of())


def compiled(*campaigns, strict=True, stock=None, **fields) -> CompiledPlan:
    raw = big_raw() | {"campaigns": list(campaigns), "exclusions": [], "contact_rules": [], **fields}
    return compile_plan(check_plan(raw), stock or stock_of(), strict=strict)


def test_columns_hold_every_live_campaign_in_the_plans_order():
    made = big().campaigns
    assert made.ids == tuple(f"c{n}" for n in range(34) if n != 32)  # c32 is paused
    assert made.keys.tolist() == [key32(name) for name in made.ids]
    assert [TIERS[code] for code in made.tier[:3]] == ["mandatory", "mandatory", "guaranteed"]
    assert made.band.tolist() == [BANDS[one.tier] for one in made.specs]
    assert made.penalty[[0, 2, 3, 6, 11]].tolist() == [0, 3, 2, 1, 0]
    assert made.per_page[made.index("c15")] == 2 and made.roadblock[made.index("c15")]
    assert made.per_page[made.index("c28")] == 2 and made.per_page[0] == 1
    assert made.orgs[6] == key32("bj") and made.orgs[0] == key32("head")


def test_money_is_nan_where_the_value_table_decides():
    made, c = big().campaigns, big().campaigns.index("c12")
    assert (made.click[c], made.convert[c], made.dismiss[c]) == (0.5, 20, -1)
    assert np.isnan(made.click[0]) and np.isnan(made.dismiss[0]) and made.cost[0] == 0
    assert made.lever[c] == 1.5 and made.lever_until[c] == at(LEVER["until"])
    assert made.lever[0] == 1 and made.lever_until[0] == inf
    assert made.cost[made.index("c13")] == 5


def test_who_is_meant():
    made, names = big().campaigns, big().audiences.names
    assert names[made.audience[4]] == "winback" and made.audience[0] == -1
    keys = {name: int(made.customers_of[made.index(name)]) for name in ("c0", "c6", "c7", "c9", "c22")}
    head_reaches_all = {"c0": 0, "c9": 0}  # and a partner's customers are its parent's
    assert keys == {**head_reaches_all, "c6": key32("bj"), "c7": key32("bj-001"), "c22": key32("bj")}
    assert big().lineages[key32("bj-001")] == (key32("bj-001"), key32("bj"), key32("head"))
    assert made.surfaces[made.index("c26")] == frozenset({"outlet/001"}) and made.surfaces[0] == frozenset()


def test_promises_and_limits_know_their_campaign():
    made = big().campaigns
    by_key = {quota.key: quota for quota in made.quotas}
    assert by_key["c2/q"][1:] == (2, "displayed", 3000, "flight") and by_key["c3/d"].per == "day"
    stock = by_key["c13/stock"]
    assert (stock.unit, stock.at_most) == ("converted", 1000)  # a use is counted as it converts
    for c, owned in enumerate(made.quota_of):
        assert all(made.quotas[q].campaign == c for q in owned)
    share = next(goal for goal in made.goals if goal.share)
    assert share == (made.index("c6"), "displayed", 0, 0.1, 0, "even")
    cny = next(goal for goal in made.goals if goal.unit == "cny")
    assert cny.at_least == 12.5 and cny.slot == -1


def test_caps_are_keys():
    made = big().campaigns
    cap = made.caps[made.caps_of[0][0]]
    assert (cap.event, cap.most, cap.window_s, cap.calendar, cap.min_gap_s) == (
        "displayed",
        3,
        86_400,
        "",
        600,
    )
    assert cap.scope == "campaign" and cap.keys == frozenset()  # its own
    both = made.caps[made.caps_of[made.index("c29")][0]]
    assert both.keys == {key32("c29"), key32("c28")} and both.calendar == "week" and both.subject == "device"
    slot, org = (made.caps[k] for k in made.caps_of[made.index("c30")])
    assert slot.keys == {key32("home.banner")} and slot.calendar == "session"
    assert org.scope == "campaign" and key32("c32") in org.keys  # what a paused one showed counts
    assert key32("c6") in org.keys  # head office's cap counts those below it
    rules = [made.caps[k] for k in made.contact_rules]
    assert [rule.id for rule in rules][:3] == ["popups", "orgs/head", "orgs/bj"]
    assert rules[2].keys == {key32(name) for name in ("c6", "c7", "c22", "c26")}
    assert not set(made.contact_rules) & {k for own in made.caps_of for k in own}


def test_a_rule_on_items_and_one_on_orgs_without_campaigns():
    rule = {"most": 2, "window": "ever"}
    made = compiled(
        campaign(0),
        contact_rules=[
            {"id": "r1", "scope": "item", "of": ["i5"], **rule},
            {"id": "r2", "scope": "org", "of": ["sh"], **rule},
            {"id": "r3", "scope": "channel", "of": ["h5"], **rule},
        ],
    ).campaigns
    kept = [made.caps[k] for k in made.contact_rules]
    assert [(cap.id, cap.keys) for cap in kept] == [("r1", {key64("i5")}), ("r3", {2})]


def test_groups_of_campaigns_items_and_categories():
    made = big().campaigns
    assert [tuple(group) for group in made.groups] == [("x1", 1), ("x2", 2)]
    assert made.group_of[2:4] == ((0,), (0, 1)) and made.group_of[0] == ()
    rows = stock_of().row
    assert made.item_groups[rows("i1")] == (0, 1)  # by its id, and product/c1
    assert made.item_groups[rows("i4")] == (0,) and rows("i2") not in made.item_groups  # benefit/c0


def test_offers_are_bits_of_the_slots_that_take_the_item():
    made, plan = big().campaigns, big()
    of = {
        (made.ids[c], r): int(bits)
        for c, r, bits in zip(made.offer_campaign, made.offer_row, made.offer_slots)
    }
    banner, popup = (plan.slots[name].bit for name in ("home.banner", "home.popup"))
    assert of["c15", 2] == banner | popup and of["c0", 2] == banner
    assert of["c16", 2] == banner  # v2 is for banners, whatever the item's other creative can do
    place = made.offer_campaign.tolist().index(made.index("c16"))
    assert made.offer_creatives[place] == {key32("v2")} and made.offer_creatives[0] is None
    assert (np.diff(made.offer_campaign) >= 0).all()


def test_pins_name_slot_and_position():
    made = big().campaigns
    assert (made.index("c22"), big().slots["home.banner"].index, 2) in made.pins


def test_exclusive_items_are_in_no_slot_without_a_campaign():
    plan, rows = big(), stock_of().row
    assert plan.campaigns.exclusive_rows.tolist() == sorted(
        [rows("i22"), rows("i33")]
    )  # i33: paused, still not
    banner = plan.slots["home.banner"]
    assert int(plan.members[22]) == 0 and int(plan.placeable[22]) & banner.bit
    assert 22 not in banner.wide.tolist() and 22 not in banner.open.tolist()
    assert (plan.members & ~plan.placeable == 0).all()


def test_what_is_not_in_the_catalogue_is_left_out_and_said():
    goods = campaign(0, items=["i2", "nowhere", "i8"]), campaign(1, items=["i2"], creatives={"i2": ["v9"]})
    made = compiled(*goods, campaign(2, items=["i1"]), strict=False)
    assert [problem.path for problem in made.problems] == [
        "campaigns.0.items.1 (c0)",
        "campaigns.1.creatives.i2 (c1)",
        "campaigns.2.items.0 (c2)",
    ]
    assert made.campaigns.ids == ("c0", "c1", "c2")  # the campaign stays, to say why it does not deliver
    assert made.campaigns.offer_row.tolist() == [2, 8]


def test_creatives_that_are_not_live_are_said():
    made = items()
    drafts = [creative.model_copy(update={"state": "draft"}) for creative in made[2].creatives]
    made[2] = made[2].model_copy(update={"creatives": tuple(drafts)})
    one = campaign(0, items=["i2"], creatives={"i2": ["v1"]})
    problem = compiled(one, strict=False, stock=stock_of(tiny_bundle(items=made))).problems[0]
    assert "none of them is live" in str(problem)


def test_a_stock_that_does_not_say_what_creatives_it_has_is_believed():
    bare = stock_of()._replace(creatives=None, categories=None, lists=None)
    group = {"id": "x", "categories": ["benefit"]}
    one = campaign(0, items=["i2"], creatives={"i2": ["v9"]})
    made = compiled(one, stock=bare, exclusions=[group])
    assert made.campaigns.offer_creatives == (frozenset({key32("v9")}),) and made.campaigns.item_groups == {}


def test_a_list_that_nobody_uploaded_is_said_where_lists_are_known():
    stock = stock_of()._replace(lists={})
    made = compile_plan(big_plan(), stock, strict=False)
    assert made.problems[0].path.startswith("audiences.winback")
    assert made.audiences.index["winback"] == 0


def test_no_campaigns_are_no_columns():
    made = compile_for(tiny_plan(), tiny_bundle()).campaigns
    assert len(made) == 0 and made.offer_row.shape == (0,) and made.open_at(0.0).shape == (0,)
    assert made.exclusive_rows.shape == (0,) and made.contact_rules == ()


def test_open_campaigns_are_remembered_until_one_of_them_changes():
    made = replace(big().campaigns, _memo=[])
    monday = at("2026-11-23T09:30:00+08:00")
    open_ = made.open_at(monday)
    assert open_[made.index("c17")] and not open_[made.index("c0")] and not open_[made.index("c19")]
    assert made.open_at(monday + 60) is open_ and not open_.flags.writeable
    noon = made.open_at(at("2026-11-23T12:00:00+08:00"))
    assert noon is not open_ and not noon[made.index("c17")]


def test_open_campaigns_do_not_depend_on_what_was_asked_before():
    made = replace(big().campaigns, _memo=[])
    times = np.random.default_rng(3).uniform(at("2026-10-01T00:00:00Z"), at("2026-12-05T00:00:00Z"), 120)
    for now in (*times.tolist(), *sorted(times.tolist())):
        plain = [calendar.open_at(now) for calendar in made.calendars]
        assert made.open_at(now).tolist() == plain


def test_equal_calendars_are_one_object():
    calendars = big().campaigns.calendars
    assert calendars[2] is calendars[3] and len({id(one) for one in calendars}) < len(calendars) / 2


def test_slots_carry_what_the_page_needs():
    banner, feed, grid = (big().slots[name] for name in ("home.banner", "home.feed", "home.grid"))
    assert banner.rates.tolist() == [1, 0.5, 0.25] and banner.measured and not feed.measured
    assert (banner.diminish, banner.cross, banner.owner) == (0.8, 0.9, "head")
    assert grid.switching_cost == 0.02 and big().slots["home.popup"].interruption == 0.05
    assert feed.kinds_least.tolist() == [0, 1, 0, 0, 0, 0] and feed.kinds_most.tolist() == [
        255,
        3,
        255,
        4,
        255,
        255,
    ]
    for slot in big().slots.values():
        assert (
            slot.rates.shape == (slot.size,) and (np.diff(slot.rates) <= 0).all() and slot.rates.min() >= 0.02
        )


def test_a_plan_without_the_new_fields_compiles_to_the_same_slots():
    plan = tiny_plan()
    slot = compile_for(plan, tiny_bundle()).slots["home.feed"]
    assert slot.index == FEED and slot.wide.tolist() == slot.open.tolist() and len(slot.wide) == 80
    assert slot.owner == "head" and slot.diminish == 0.9 and slot.cross == 1.0
    made = compile_for(plan, tiny_bundle())
    assert (made.members == made.placeable).all() and made.values is None


def test_surfaces_resolve_by_name_then_by_template():
    plan = big()
    assert plan.surface("home") == (plan.surfaces["home"], None)
    slots, org = plan.surface("outlet/001")
    assert org == "bj-001" and [slot.name for slot in slots] == ["outlet.banner"]
    assert (
        plan.surface("outlet/009") is None and plan.surface("outlet/") is None and plan.surface("x") is None
    )
    assert plan.called("outlet/001") == ("outlet/001", "outlet/{id}") and plan.called("home") == ("home",)
    free = compiled(templates={"city/{code}/news": {"slots": ["home.feed"]}})
    assert free.surface("city/310000/news") == ((free.slots["home.feed"],), None)
    assert free.surface("city/310000") is None and free.surface("city/310000/x") is None


def test_levers_that_are_over_are_named():
    plan = big_plan()
    assert lapsed(plan, at("2026-11-19T00:00:00Z")) == []
    assert [error.path for error in lapsed(plan, at("2026-11-21T00:00:00Z"))] == [
        "campaigns.12.lever.until (c12)"
    ]


@pytest.mark.parametrize(
    ("text", "window"),
    [("30m", (1800, "")), ("12h", (43_200, "")), ("1d", (86_400, "")), ("week", (0, "week"))],
)
def test_windows_roll_or_follow_the_calendar(text, window):
    assert parse_window(text) == window


def test_the_plan_survives_its_json_and_yaml(tmp_path):
    plan = big_plan()
    (tmp_path / "plan.json").write_text(plan.model_dump_json(indent=1))
    again = load_plan(tmp_path / "plan.json")
    assert again == plan and again.version == plan.version


def test_the_schema_is_usable_in_editors():
    schema = type(big_plan()).model_json_schema()
    flight = schema["$defs"]["Flight"]["properties"]
    assert "exclusive end" in flight["until"]["description"] and "from" in flight
    assert schema["additionalProperties"] is False and len(schema["$defs"]) > 20


def test_versions_are_of_what_is_said():
    raw = big_raw()
    same = raw | {"campaigns": [one | {"state": one.get("state", "live")} for one in raw["campaigns"]]}
    assert check_plan(same).version == big_plan().version  # a default, said or not
    raw["campaigns"][0]["per_page"] = 2
    assert check_plan(raw).version != big_plan().version
