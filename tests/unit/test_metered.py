"""Which displays count for what under a plan."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from features.ids import key32
from serving.metered import Metered
from tests.worlds import market_live, sold, tiny_live, tiny_plan

ORGS = [
    {"id": "head", "tz": "Asia/Shanghai"},
    {"id": "bj", "parent": "head"},
    {"id": "bj-001", "parent": "bj"},
]
FLIGHT = {"from": "2026-09-01", "until": "2026-10-01"}


def metered(*campaigns, **changes):
    return Metered.of(market_live(*campaigns, **changes).plan)


def test_a_plan_without_campaigns_meters_nothing():
    made = Metered.of(tiny_live().plan)
    assert not made.booked and not made.shares and not made.pools


def test_displays_of_every_campaign_are_counted_and_what_its_goals_and_quotas_are_in():
    made = metered(
        sold(1, "i2"),
        sold(2, "i8", quotas=[{"id": "q", "at_most": 9}, {"id": "k", "unit": "clicked", "at_most": 5}]),
        sold(3, "i14", tier="guaranteed", goals=[{"unit": "CNY", "at_least": 5}], flight=FLIGHT),
    )
    one, two, three = (made.booked[key32(name)] for name in ("c1", "c2", "c3"))
    assert one.meter == "c1" and one.units == {"displayed", "clicked", "converted"} and not one.quotas
    assert [quota[:2] for quota in two.quotas] == [("c2/q", "flight")]
    assert three.units == {"displayed", "clicked", "converted", "cny"}
    assert [pool.key for pool in made.pools] == ["c2/q"] and made.pools[0].terms.at_most == 9


def test_a_quota_per_day_has_a_pool_a_day_of_its_flights_zone():
    quota = {"id": "d", "at_most": 3, "per": "day"}
    (pool,) = metered(sold(1, "i2", quotas=[quota], flight={"tz": "America/New_York"})).pools
    midnight = datetime(2026, 9, 22, tzinfo=ZoneInfo("America/New_York")).timestamp()
    assert pool.name(midnight - 1) == "c1/d@20260921" and pool.name(midnight) == "c1/d@20260922"
    (whole,) = metered(sold(1, "i2", quotas=[{"id": "d", "at_most": 3}])).pools
    assert whole.name(midnight) == "c1/d"


def test_a_lease_is_kept_as_long_as_the_longest_page_that_may_show_it():
    slots = tiny_plan().model_dump(mode="json", by_alias=True)["slots"]
    slots[0] |= {"valid_for_s": 30}
    slots[3] |= {"valid_for_s": 90}
    quota = {"id": "q", "at_most": 3}
    both = {"id": "c1", "items": ["i2"], "slots": ["home.banner", "home.popup"], "quotas": [quota]}
    assert metered(both, slots=slots).pools[0].valid_s == 90
    assert metered(sold(1, "i2", quotas=[quota]), slots=slots).pools[0].valid_s == 30


def test_a_share_is_of_the_slots_displays_to_the_campaigns_customers():
    slots = tiny_plan().model_dump(mode="json", by_alias=True)["slots"]
    slots[0] |= {"owner": "head", "shares": {"bj": 0.3}}
    goal = {"share": 0.2, "slot": "home.banner"}
    made = metered(sold(1, "i2", tier="share", org="bj", goals=[goal], flight=FLIGHT), orgs=ORGS, slots=slots)
    assert set(made.shares) == {key32("home.banner")}
    own, whole = made.shares[key32("home.banner")]
    assert own.campaign == key32("c1") and whole.campaign == 0
    assert whole.orgs == {key32("bj"), key32("bj-001")} and own.zone == ZoneInfo("Asia/Shanghai")
