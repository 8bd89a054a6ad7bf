"""Cause codes, tallies and price tags: figures that pages leave, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.campaign_metrics import MOST_CAMPAIGNS, CampaignCollector
from serving.causes import CAUSE_TEXTS, Cause, GoalFacts, cause
from serving.observe import Metrics
from serving.prices import Prices
from serving.reasons import Drop
from serving.tag_sums import MOST_KEYS, OTHER, Tagged, TagKey, TagSums
from serving.tallies import FAST, FIRST_DROP, CampaignTally, What
from tests.plain_counts import PageCounts

LATE = GoalFacts(
    at_least=1000.0,
    delivered=200.0,
    expected_end=700.0,
    units_left=5000.0,
    eligible=1000.0,
    price=0.5,
    ceiling=2.0,
)


def which(*indices):
    return np.array(indices, np.int32)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Cause.OUT_PRICED),
        ({"expected_end": 999.0}, None),
        ({"slots_on": False}, Cause.SLOT_OFF),
        ({"quota_left": 799.0}, Cause.QUOTA_SPENT),
        ({"quota_left": 801.0}, Cause.OUT_PRICED),
        ({"units_left": 700.0}, Cause.AUDIENCE_TOO_NARROW),
        ({"units_left": 700.0, "views_over_forecast": 0.8}, Cause.TRAFFIC_BELOW_FORECAST),
        ({"units_left": 300.0, "views_over_forecast": 0.8}, Cause.AUDIENCE_TOO_NARROW),
        ({"dropped": 900.0, "drops": {Drop.CREATIVE: 900.0}}, Cause.CREATIVE_MISSING),
        ({"dropped": 900.0, "drops": {Drop.CREATIVE: 100.0, Drop.RISK: 850.0}}, Cause.ITEM_NOT_PERMITTED),
        ({"dropped": 500.0, "drops": {Drop.RISK: 500.0}}, Cause.OUT_PRICED),
        ({"dropped": 500.0, "refused_cap": 400.0}, Cause.CAPPED),
        ({"refused_cap": 300.0, "refused_quota": 600.0}, Cause.QUOTA_SPENT),
        ({"price": 2.0}, Cause.AT_CEILING),
        ({"views_over_forecast": 0.8}, Cause.TRAFFIC_BELOW_FORECAST),
        ({"units_left": float("nan")}, Cause.OUT_PRICED),
        ({"eligible": 0.0, "dropped": 0.0}, Cause.OUT_PRICED),
    ],
)
def test_the_first_stage_that_leaves_too_little_is_the_cause(changes, expected):
    assert cause(replace(LATE, **changes)) is expected


def test_every_cause_has_both_texts():
    assert set(CAUSE_TEXTS) == set(Cause)
    assert all(one.text("zh") != one.text("en") for one in Cause)
    assert Cause.AT_CEILING == "infeasible_at_ceiling"


@given(
    st.builds(
        GoalFacts,
        at_least=st.floats(1, 1e9),
        delivered=st.floats(0, 1e9),
        expected_end=st.floats(0, 1e9),
        units_left=st.floats(0, 1e12),
        eligible=st.floats(0, 1e9),
        dropped=st.floats(0, 1e9),
        drops=st.dictionaries(st.sampled_from(Drop), st.floats(0, 1e9)),
        refused_cap=st.floats(0, 1e9),
        price=st.floats(-10, 10),
        ceiling=st.floats(0, 10),
        views_over_forecast=st.floats(0, 5),
    )
)
def test_a_late_goal_always_has_one_cause(facts):
    assert (cause(facts) is None) == (facts.expected_end >= 0.995 * facts.at_least)


PLAN = SimpleNamespace(ids=("a", "b", "c"))


def page() -> PageCounts:
    return PageCounts(
        eligible=which(0, 1, 2),
        potential=np.array([1.0, 0.5, 0.25], np.float32),
        dropped=which(2),
        masks=np.array([Drop.RISK.bit | Drop.CREATIVE.bit], np.uint32),
        offered=which(0, 1),
        lost_price=which(1),
        placed=which(0, 0),
        units=np.array([[1.0, 0.1, 0.01], [0.5, 0.05, 0.005]], np.float32),
    )


def test_pages_add_up_in_columns():
    tally = CampaignTally()
    n = 3
    for _ in range(n):
        page().added(tally.of(PLAN))
        tally.drain(FAST)
    ids, sums = tally.totals()
    assert ids == PLAN.ids
    assert sums[What.ELIGIBLE].tolist() == [n, n, n]
    assert sums[What.OFFERED].tolist() == [n, n, 0]
    assert sums[What.LOST_PRICE].tolist() == [0, n, 0]
    assert sums[What.PLACED].tolist() == [2 * n, 0, 0]
    assert sums[What.DISPLAYED] == pytest.approx([1.5 * n, 0, 0])
    assert sums[What.CONVERTED] == pytest.approx([0.015 * n, 0, 0], rel=1e-5)
    assert sums[What.POTENTIAL] == pytest.approx([n, 0.5 * n, 0.25 * n])
    assert sums[FIRST_DROP + Drop.RISK].tolist() == [0, 0, n]
    assert sums[FIRST_DROP + Drop.AGE].tolist() == [0, 0, 0]


def test_what_is_drained_is_drained_once_and_totals_stay():
    tally = CampaignTally()
    page().added(tally.of(PLAN))
    fast = tally.drain(FAST)
    slow = tally.drain()
    none = tally.drain()
    assert fast["a"][What.PLACED] == 2
    assert fast["a"][What.ELIGIBLE] == 0
    assert "b" not in fast
    assert slow["a"][What.PLACED] == 0
    assert slow["b"][What.LOST_PRICE] == 1
    assert none == {}
    assert tally.totals()[1][What.PLACED].tolist() == [2, 0, 0]


def test_another_plan_keeps_who_stays_and_drains_who_left():
    tally = CampaignTally()
    page().added(tally.of(PLAN))
    another = SimpleNamespace(ids=("c", "new", "a"))
    PageCounts(placed=which(1), units=np.ones((1, 3), np.float32)).added(tally.of(another))
    ids, sums = tally.totals()
    assert ids == ("c", "new", "a")
    assert sums[What.PLACED].tolist() == [0, 1, 2]
    drained = tally.drain()
    assert drained["b"][What.LOST_PRICE] == 1
    assert drained["c"][What.ELIGIBLE] == 1
    assert tally.drain() == {}


def test_an_empty_page_and_no_campaigns_are_no_failure():
    tally = CampaignTally()
    PageCounts().added(tally.of(SimpleNamespace(ids=())))
    assert tally.drain() == {}


def test_tags_add_up_by_rule_campaign_and_org():
    tags = TagSums()
    tags.add(
        [
            Tagged("pin", "a", "bj", "home.banner", 0.5, 0.8, 2.0),
            Tagged("lever", "b", "sh", "home.banner", -0.1, 0.4),
        ]
    )
    tags.add(
        [
            Tagged("pin", "a", "bj", "home.banner", 0.25, 0.2, 1.0),
            Tagged("pin", "a", "bj", "x", float("nan"), 1.0),
        ]
    )
    assert tags.totals[TagKey("pin", "a", "bj")].cny == pytest.approx(0.75)
    assert tags.totals[TagKey("pin", "a", "bj")].places == 2
    assert tags.by_rule() == pytest.approx({"pin": 0.75, "lever": -0.1})
    assert tags.by_org() == pytest.approx({"bj": 0.75, "sh": -0.1})
    assert tags.slot_prices["home.banner"].per_display == pytest.approx(1.8)
    drained = tags.drain()
    assert drained.tags == tags.totals
    assert tags.drain().tags == {}


def test_tags_are_bounded():
    tags = TagSums()
    tags.add([Tagged("pin", f"c{i}", "o", "s", 1.0, 1.0) for i in range(MOST_KEYS + 5)])
    assert len(tags.totals) == MOST_KEYS + 1
    assert tags.totals[TagKey("pin", OTHER, OTHER)].cny == 5.0


def test_metrics_are_bounded_and_whole():
    tally, tags, metrics = CampaignTally(), TagSums(), Metrics()
    many = SimpleNamespace(ids=tuple(f"c{i}" for i in range(MOST_CAMPAIGNS + 20)))
    n = len(many.ids)
    everyone = PageCounts(eligible=np.arange(n, dtype=np.int32), potential=np.ones(n, np.float32))
    everyone.added(tally.of(many))
    tags.add([Tagged("pin", "c1", "bj", "home.banner", 0.5, 0.5, 2.0)])
    held = SimpleNamespace(prices=Prices(per_display={"c1": 0.5}, causes={"g": "capped"}), prices_age_s=3.0)
    metrics.registry.register(CampaignCollector(tally, tags, held))
    metrics.paced("written", 0.1)
    metrics.ledger("taken", 3)
    text = metrics.exposition().decode()
    lines = [line for line in text.splitlines() if line.startswith("fenliu_campaign_eligible_total{")]
    assert len(lines) == MOST_CAMPAIGNS + 1
    assert 'fenliu_campaign_eligible_total{campaign="other"} 20.0' in lines
    assert 'fenliu_campaign_price_cny{campaign="c1",unit="displayed"} 0.5' in text
    assert 'fenliu_goals_late{cause="capped"} 1.0' in text
    assert 'fenliu_goals_late{cause="out_priced"} 0.0' in text
    assert 'fenliu_price_tag_cny_total{campaign="c1",org="bj",rule="pin"} 0.5' in text
    assert 'fenliu_slot_inner_price_cny{slot="home.banner"} 2.0' in text
    assert "fenliu_prices_age_seconds 3.0" in text
    assert 'fenliu_ledger_total{result="taken"} 3.0' in text
