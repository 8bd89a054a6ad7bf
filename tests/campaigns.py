"""A big valid plan over `tests.worlds`' catalogue that uses every feature, and its stock, for tests."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from serving.bundle import Bundle
from serving.catalogue import Item
from serving.filters import rules_of
from serving.plan import Plan, Stock, check_plan
from tests.worlds import SLOTS, item, tiny_bundle

FLIGHT = {"from": "2026-11-01", "until": "2026-12-01"}
LEVER = {"factor": 1.5, "owner": "li", "reason": "season", "until": "2026-11-20T00:00:00+08:00"}
BANNERS = [f"i{n}" for n in range(2, 120, 6)]  # activities
CONTENTS = [f"i{n}" for n in range(3, 120, 6)]
PRODUCTS = [f"i{n}" for n in range(1, 120, 6)]
BENEFITS = [f"i{n}" for n in range(4, 120, 6)]


def items() -> list[Item]:
    """120 items of all kinds in turn; i2 has two creatives, one of them for banners only."""
    made = [item(number) for number in range(120)]
    creatives = [
        {"id": "v1", "title": "t", "layouts": ["banner", "popup", "feed"]},
        {"id": "v2", "title": "t", "layouts": ["banner"]},
    ]
    made[2] = item(2, creatives=creatives)
    return made


def stock_of(bundle: Bundle | None = None) -> Stock:
    """The bundle's items as the compiler needs them, with creatives and categories."""
    bundle = bundle if bundle is not None else tiny_bundle(items=items())
    table = bundle.compiled.table
    return Stock(
        row=bundle.items.row,
        kinds=np.ascontiguousarray(table["kind"]),
        layouts=bundle.compiled.layouts,
        rules=rules_of(table),
        ranked=np.arange(len(table), dtype=np.int32),
        creatives=lambda row: bundle.compiled.texts[row].creatives,
        categories=np.ascontiguousarray(table["category"]),
        tops=np.ascontiguousarray(table["top_category"]),
        lists={"vip": 40_000},
    )


def campaign(number: int, **fields: Any) -> dict[str, Any]:
    """A standard campaign `c{number}` with one activity in the banner."""
    plain = {
        "id": f"c{number}",
        "items": [BANNERS[number % len(BANNERS)]],
        "slots": ["home.banner"],
        "flight": dict(FLIGHT),
    }
    return plain | deepcopy(fields)


def _slots() -> list[dict[str, Any]]:
    slots = deepcopy(SLOTS)
    by_name = {slot["name"]: slot for slot in slots}
    by_name["home.banner"] |= {
        "owner": "head",
        "shares": {"bj": 0.3, "sh": 0.5, "partner-x": 0.1},
        "display_rates": [1, 0.5, 0.25],
        "diminish": 0.8,
        "cross": 0.9,
    }
    by_name["home.grid"] |= {"refresh": "session", "switching_cost": 0.02}
    by_name["home.popup"] |= {"interruption": 0.05}
    by_name["home.feed"] |= {
        "kinds_least": {"product": 1},
        "kinds_most": {"content": 4, "product": 3},
        "fallback": ["i3"],
    }
    slots.append({"name": "outlet.banner", "layout": "banner", "size": 1, "kinds": ["activity"]})
    return slots


def _campaigns() -> list[dict[str, Any]]:
    cap = {"event": "displayed", "most": 3, "window": "1d", "min_gap_s": 600}
    guaranteed = {"tier": "guaranteed", "goals": [{"unit": "displayed", "at_least": 2000}]}
    one = {"from": "2026-11-01", "until": "2026-11-10"}
    two = {"from": "2026-11-10", "until": "2026-11-20T12:00:00+08:00"}
    return [
        campaign(0, tier="mandatory", name="notice", pin={"home.banner": 0}, flight=one, caps=[cap]),
        campaign(1, tier="mandatory", pin={"home.banner": 0}, flight=two),
        campaign(2, **guaranteed, penalty=3.0, quotas=[{"id": "q", "at_most": 3000}]),
        campaign(3, **guaranteed, pacing="front_loaded", quotas=[{"id": "d", "at_most": 100, "per": "day"}]),
        campaign(4, tier="guaranteed", goals=[{"unit": "clicked", "at_least": 50}], audience="winback"),
        campaign(
            5,
            tier="guaranteed",
            goals=[{"unit": "CNY", "at_least": 12.5}, {"unit": "converted", "at_least": 5}],
        ),
        campaign(6, tier="share", org="bj", goals=[{"share": 0.1, "slot": "home.banner"}]),
        campaign(
            7,
            tier="share",
            org="bj-001",
            goals=[{"share": 0.2, "slot": "home.banner"}],
            customers_of="bj-001",
        ),
        campaign(8, tier="share", org="sh", goals=[{"share": 0.5, "slot": "home.banner"}]),
        campaign(9, tier="share", org="partner-x", goals=[{"share": 0.1, "slot": "home.banner"}]),
        campaign(10, tier="share", goals=[{"share": 0.3, "slot": "home.banner"}], pacing="asap"),
        campaign(11, tier="house"),
        campaign(12, lever=LEVER, values={"click": 0.5, "convert": 20, "dismiss": -1}),
        campaign(13, items=BENEFITS[:3], slots=["home.benefits"], benefit={"cost": 5.0, "stock": 1000}),
        campaign(14, items=[BENEFITS[3]], slots=["home.benefits", "home.banner"], exclusive=True),
        campaign(
            15, items=BANNERS[:4], slots=["home.banner", "home.popup"], roadblock=True, tier="mandatory"
        ),
        campaign(16, items=["i2"], creatives={"i2": ["v2"]}, slots=["home.banner", "home.feed"]),
        campaign(17, flight={**FLIGHT, "weekdays": ["mon", "tue"], "hours": [[9, 12], [14, 21]]}),
        campaign(18, flight={**FLIGHT, "tz": "Europe/Berlin", "holidays": "cn", "on_holidays": "skip"}),
        campaign(19, flight={"holidays": "cn", "on_holidays": "only"}),
        campaign(20, pin={"home.banner": 1}, audience="winback"),
        campaign(21, pin={"home.banner": 1}, audience="others"),
        campaign(22, pin={"home.banner": 2}, org="bj"),
        campaign(23, pin={"home.banner": 2}, org="sh"),
        campaign(24, pin={"home.popup": 0}, slots=["home.popup"], flight={**FLIGHT, "weekdays": ["mon"]}),
        campaign(25, pin={"home.popup": 0}, slots=["home.popup"], flight={**FLIGHT, "weekdays": ["tue"]}),
        campaign(26, org="bj-001", slots=["outlet.banner"], surfaces=["outlet/001"]),
        campaign(27, slots=["outlet.banner"], surfaces=["outlet/{id}"], per_page=1),
        campaign(28, items=PRODUCTS[:2], slots=["home.shelf", "home.feed"], surfaces=["home"], per_page=2),
        campaign(
            29,
            caps=[cap | {"scope": "campaign", "of": ["c29", "c28"], "window": "week", "subject": "device"}],
        ),
        campaign(
            30,
            caps=[
                cap | {"scope": "slot", "of": ["home.banner"], "window": "session"},
                cap | {"scope": "org"},
            ],
        ),
        campaign(
            31,
            caps=[cap | {"scope": "item", "window": "ever"}, cap | {"scope": "category", "window": "month"}],
        ),
        campaign(32, state="paused", items=[CONTENTS[5]], exclusive=True),
        campaign(33, caps=[cap | {"scope": "channel", "of": ["app"], "window": "day"}], audience="both"),
    ]


def big_raw() -> dict[str, Any]:
    """34 campaigns, valid, as JSON-like data."""
    home = [slot["name"] for slot in SLOTS]
    return {
        "name": "big",
        "surfaces": {"home": home, "cards": ["home.banner"]},
        "slots": _slots(),
        "templates": {"outlet/{id}": {"slots": ["outlet.banner"], "orgs": {"001": "bj-001", "002": "sh"}}},
        "values": {
            "version": "v3",
            "click": {"product": 0.4, "activity": 0.1},
            "convert": 30,
            "dismiss": -0.05,
            "items": {"i1": {"convert": 80}},
        },
        "orgs": [
            {"id": "head", "name": "总行", "tz": "Asia/Shanghai"},
            {"id": "bj", "parent": "head"},
            {"id": "bj-001", "parent": "bj"},
            {"id": "sh", "parent": "head"},
            {"id": "partner-x", "parent": "head", "kind": "partner"},
        ],
        "holidays": {"cn": ["2026-10-01", "2026-11-11"]},
        "audiences": {
            "winback": {"all": [{"days_since": "login", "at_least": 30}, {"member": "vip"}]},
            "others": {"all": [{"not": {"audience": "winback"}}, {"field": "star_level", "at_least": 3}]},
            "both": {"any": [{"audience": "winback"}, {"audience": "others"}]},
        },
        "exclusions": [
            {"id": "x1", "campaigns": ["c2", "c3"], "items": ["i1"], "categories": ["benefit"], "most": 1},
            {"id": "x2", "campaigns": ["c3"], "categories": ["product/c1"], "most": 2},
        ],
        "contact_rules": [
            {"id": "popups", "most": 2, "window": "day", "scope": "slot", "of": ["home.popup"]},
            {"id": "orgs", "most": 9, "window": "7d", "scope": "org"},
        ],
        "campaigns": _campaigns(),
    }


def big_plan() -> Plan:
    return check_plan(big_raw())
