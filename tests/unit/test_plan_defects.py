"""Two hundred plans with one defect each: every one is refused, and the error's path names the defect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from itertools import count
from typing import Any, NamedTuple

import pytest

from features.ids import key32
from serving.plan import PlanError, check_plan, compile_plan
from tests.campaigns import LEVER, big_raw, campaign, stock_of

Raw = dict[str, Any]
N = len(big_raw()["campaigns"])
SLOTS = len(big_raw()["slots"])


class Defect(NamedTuple):
    name: str
    path: str  # what the error's path must begin with
    raw: Raw


def changed(change: Callable[[Raw], None]) -> Raw:
    raw = big_raw()
    change(raw)
    return raw


def with_campaign(at: int, **fields: Any) -> Raw:
    return changed(lambda raw: raw["campaigns"][at].update(deepcopy(fields)))


def with_flight(at: int, **fields: Any) -> Raw:
    return changed(lambda raw: raw["campaigns"][at]["flight"].update(deepcopy(fields)))


def with_slot(at: int, **fields: Any) -> Raw:
    return changed(lambda raw: raw["slots"][at].update(deepcopy(fields)))


def plus(*campaigns: Raw) -> Raw:
    return changed(lambda raw: raw["campaigns"].extend(campaigns))


def new(**fields: Any) -> Raw:
    return plus(campaign(99, **fields))


@cache
def colliding() -> tuple[str, str]:
    """Two ids with the same 32-bit key."""
    seen: dict[int, str] = {}
    for number in count():
        name = f"c-{number}"
        other = seen.setdefault(key32(name), name)
        if other != name:
            return other, name
    raise AssertionError


def dangling() -> Iterator[Defect]:
    for at in (0, 4, 12, 17, 30):
        here = f"campaigns.{at}"
        yield Defect("unknown item", f"{here}.items.0 (c{at})", with_campaign(at, items=["i999"]))
        yield Defect("unknown slot", f"{here}.slots.0 (c{at})", with_campaign(at, slots=["home.none"]))
        yield Defect("unknown surface", f"{here}.surfaces.0 (c{at})", with_campaign(at, surfaces=["none"]))
        yield Defect("unknown audience", f"{here}.audience (c{at})", with_campaign(at, audience="none"))
        yield Defect("unknown org", f"{here}.org (c{at})", with_campaign(at, org="none"))
        yield Defect(
            "unknown customers", f"{here}.customers_of (c{at})", with_campaign(at, customers_of="none")
        )
        yield Defect("unknown zone", f"{here}.flight.tz (c{at})", with_flight(at, tz="Mars/Olympus"))
        yield Defect("unknown list", f"{here}.flight.holidays (c{at})", with_flight(at, holidays="none"))
        item = big_raw()["campaigns"][at]["items"][0]
        creatives = {item: ["none"]}
        yield Defect(
            "unknown creative", f"{here}.creatives.{item} (c{at})", with_campaign(at, creatives=creatives)
        )
        yield Defect(
            "creative of another", f"{here}.creatives.i7 (c{at})", with_campaign(at, creatives={"i7": ["v"]})
        )
    yield Defect(
        "instance without org", "campaigns.26.surfaces.0", with_campaign(26, surfaces=["outlet/009"])
    )
    yield Defect(
        "slot not on its surface", "campaigns.11.slots.0", with_campaign(11, surfaces=["outlet/{id}"])
    )
    for scope in ("campaign", "slot", "org", "channel", "item", "category"):
        cap = {"event": "clicked", "most": 1, "window": "day", "scope": scope, "of": ["none"]}
        at = "of.0" if scope in ("campaign", "slot", "org", "channel") else "of"
        yield Defect(
            f"cap of an unknown {scope}", f"campaigns.11.caps.0.{at} (c11)", with_campaign(11, caps=[cap])
        )
        rule = {"id": "r", **cap}
        yield Defect(
            f"rule on an unknown {scope}",
            f"contact_rules.0.{at} (r)",
            changed(lambda raw, rule=rule: raw.update(contact_rules=[rule])),
        )
    for field, at in (("campaigns", "campaigns.0"), ("items", "items.0"), ("categories", "categories.0")):
        group = {"id": "x", field: ["none"]}
        raw = changed(lambda raw, group=group: raw.update(exclusions=[group]))
        yield Defect(f"group of unknown {field}", f"exclusions.0.{at} (x)", raw)
    for at in (0, 3):
        name = big_raw()["slots"][at]["name"]
        yield Defect("slot of an unknown org", f"slots.{at}.owner ({name})", with_slot(at, owner="none"))
        raw = with_slot(at, shares={"none": 0.1})
        yield Defect("share of an unknown org", f"slots.{at}.shares.none ({name})", raw)
        yield Defect("unknown fallback", f"slots.{at}.fallback ({name})", with_slot(at, fallback=["i999"]))
    template = {"slots": ["none"]}
    yield Defect(
        "template", "templates.t/{id}.slots.0", changed(lambda r: r["templates"].update({"t/{id}": template}))
    )
    template = {"slots": ["outlet.banner"], "orgs": {"1": "none"}}
    yield Defect(
        "instance", "templates.t/{id}.orgs.1", changed(lambda r: r["templates"].update({"t/{id}": template}))
    )
    yield Defect("parent", "orgs.1.parent (bj)", changed(lambda raw: raw["orgs"][1].update(parent="none")))
    yield Defect(
        "audience of one", "audiences.a", changed(lambda r: r["audiences"].update(a={"audience": "none"}))
    )
    yield Defect("list", "audiences.a", changed(lambda r: r["audiences"].update(a={"member": "none"})))
    yield Defect(
        "action", "audiences.a", changed(lambda r: r["audiences"].update(a={"did": "flew", "within": "1d"}))
    )
    yield Defect(
        "item of value", "values.items.i999", changed(lambda r: r["values"]["items"].update(i999={}))
    )
    yield Defect("surface", "the whole", changed(lambda raw: raw["surfaces"].update(x=["none"])))


def twice() -> Iterator[Defect]:
    for at in (1, 7, 33):
        yield Defect("campaign", f"campaigns.{at}.id (c0)", with_campaign(at, id="c0"))
        yield Defect("item", f"campaigns.{at}.items.1", with_campaign(at, items=["i2", "i2"]))
        slots = big_raw()["campaigns"][at]["slots"]
        yield Defect("slot", f"campaigns.{at}.slots.1", with_campaign(at, slots=slots * 2))
    quotas = [{"id": "q", "at_most": 5}, {"id": "q", "at_most": 6}]
    yield Defect("quota", "campaigns.11.quotas.1.id", with_campaign(11, quotas=quotas))
    yield Defect(
        "stock", "campaigns.13.quotas.0.id", with_campaign(13, quotas=[{"id": "stock", "at_most": 5}])
    )
    slashed = campaign(98, id="c11/a", quotas=[{"id": "b", "at_most": 5}])
    raw = plus(slashed)
    raw["campaigns"][11]["quotas"] = [{"id": "a/b", "at_most": 5}]
    yield Defect("quota key", f"campaigns.{N}.quotas.0.id", raw)
    goals = [{"at_least": 5}, {"at_least": 6}]
    yield Defect("goal", "campaigns.2.goals.1", with_campaign(2, goals=goals))
    for kind in ("orgs", "exclusions", "contact_rules"):
        size = len(big_raw()[kind])
        raw = changed(lambda raw, kind=kind: raw[kind].append(raw[kind][0]))
        yield Defect(kind, f"{kind}.{size}.id", raw)
    first, second = colliding()
    raw = plus(campaign(98, id=first), campaign(99, id=second))
    yield Defect("32-bit key", f"campaigns.{N + 1}.id ({second})", raw)
    yield Defect("slot name", "the whole", changed(lambda raw: raw["slots"].append(raw["slots"][0])))


def flights() -> Iterator[Defect]:
    for at in (0, 6, 17, 28):
        here = f"campaigns.{at}.flight"
        yield Defect("ends as it begins", f"{here}.until (c{at})", with_flight(at, until="2026-11-01"))
        yield Defect("ends before", f"{here}.until (c{at})", with_flight(at, until="2025-01-01T00:00:00Z"))
        yield Defect("too long", f"{here}.until (c{at})", with_flight(at, until="2086-01-01"))
        yield Defect("no offset", f"{here}.until (c{at})", with_flight(at, until="2026-11-05T10:00:00"))
        yield Defect("no date", f"{here}.from (c{at})", with_flight(at, **{"from": "soon"}))
        yield Defect("no hours", f"{here}.hours (c{at})", with_flight(at, hours=[]))
        yield Defect("empty hours", f"{here}.hours.1 (c{at})", with_flight(at, hours=[[1, 2], [9, 9]]))
        yield Defect("hour 25", f"{here}.hours.0.1 (c{at})", with_flight(at, hours=[[9, 25]]))
        yield Defect("no weekdays", f"{here}.weekdays (c{at})", with_flight(at, weekdays=[]))
        yield Defect("unknown weekday", f"{here}.weekdays.0 (c{at})", with_flight(at, weekdays=["someday"]))
        sunday = {"from": "2026-11-01", "until": "2026-11-02", "weekdays": ["wed"]}
        yield Defect("never open", f"{here} (c{at})", with_flight(at, **sunday))
        yield Defect(
            "no list", f"{here}.holidays (c{at})", with_flight(at, on_holidays="only", holidays=None)
        )
    raw = changed(lambda raw: raw["holidays"].update(cn=[]))
    yield Defect("only on no day", "campaigns.19.flight.holidays (c19)", raw)


def promises() -> Iterator[Defect]:
    goal = [{"at_least": 10}]
    for tier in ("mandatory", "standard", "house"):
        yield Defect("goal of a tier without", f"campaigns.{N}.goals (c99)", new(tier=tier, goals=goal))
        yield Defect("penalty without goal", f"campaigns.{N}.penalty (c99)", new(tier=tier, penalty=1.0))
    for tier in ("guaranteed", "share"):
        yield Defect("no goal", f"campaigns.{N}.goals (c99)", new(tier=tier))
        for penalty in (0, -1):
            raw = new(tier=tier, goals=goal, penalty=penalty)
            yield Defect("penalty", f"campaigns.{N}.penalty (c99)", raw)
    for at in (2, 3, 4):
        unit, quota = big_raw()["campaigns"][at]["goals"][0]["unit"], {"id": "small", "at_most": 9}
        raw = with_campaign(at, quotas=[quota | {"unit": unit}])
        yield Defect("goal over quota", f"campaigns.{at}.goals.0.at_least (c{at})", raw)
        raw = with_campaign(at, quotas=[quota | {"unit": unit, "at_most": 1, "per": "day"}])
        yield Defect("goal over daily quota", f"campaigns.{at}.goals.0.at_least (c{at})", raw)
        yield Defect("endless", f"campaigns.{at}.goals.0 (c{at})", with_flight(at, until=None))
        yield Defect("in a share tier", f"campaigns.{at}.goals.0 (c{at})", with_campaign(at, tier="share"))
        yield Defect("half a unit", f"campaigns.{at}.goals.0", with_campaign(at, goals=[{"at_least": 10.5}]))
    here = f"campaigns.{N}.goals.0"
    both = {"at_least": 5, "share": 0.1, "slot": "home.banner"}
    bad = (both, {}, {"share": 0.1}, {"at_least": 5, "slot": "home.banner"}, {"at_least": 0}, {"share": 1.5})
    for one in bad:
        yield Defect("half a goal", here, new(tier="guaranteed", goals=[one]))
    yield Defect("share elsewhere", here, new(tier="share", goals=[{"share": 0.1, "slot": "home.feed"}]))
    for most in (0, 0.5, -1, float("nan"), float("inf")):
        yield Defect(
            "quota", "campaigns.11.quotas.0.at_most", with_campaign(11, quotas=[{"id": "q", "at_most": most}])
        )
    yield Defect(
        "half a display",
        "campaigns.11.quotas.0.at_most",
        with_campaign(11, quotas=[{"id": "q", "at_most": 1.5}]),
    )


def shares() -> Iterator[Defect]:
    def banner(**given: float) -> Raw:
        return changed(lambda raw: raw["slots"][0].update(shares=given))

    yield Defect(
        "over-delegated", "slots.0.shares.", banner(**{"bj": 0.7, "bj-001": 0.4, "sh": 0.5, "partner-x": 0.1})
    )
    yield Defect(
        "over-delegated to a partner", "slots.0.shares.", banner(**{"bj": 0.3, "sh": 0.8, "partner-x": 0.3})
    )
    yield Defect("own share", "slots.0.shares.head", banner(head=0.1, bj=0.3, sh=0.5))
    yield Defect("share of 0", "slots.0.shares.bj", banner(bj=0.0, sh=0.5))
    yield Defect("share above 1", "slots.0.shares.bj", banner(bj=1.1, sh=0.5))
    for at, share in ((6, 0.11), (7, 0.25), (8, 0.6), (9, 0.2)):
        goals = [{"share": share, "slot": "home.banner"}]
        yield Defect("above what was delegated", "campaigns.", with_campaign(at, goals=goals))
    goals = [{"share": 0.45, "slot": "home.banner"}]
    yield Defect("delegated away", "campaigns.10.goals.0.share (c10)", with_campaign(10, goals=goals))
    raw = new(tier="share", goals=[{"share": 0.2, "slot": "home.banner"}])
    yield Defect("two at one time", f"campaigns.{N}.goals.0.share (c99)", raw)
    for at, org in ((13, "bj"), (14, "sh"), (28, "partner-x"), (24, "bj-001")):
        yield Defect("slot of others", f"campaigns.{at}.slots.0", with_campaign(at, org=org))
    yield Defect("instance of others", "campaigns.26.slots.0", with_campaign(26, surfaces=["outlet/002"]))
    yield Defect("customers of others", "campaigns.7.customers_of", with_campaign(7, customers_of="sh"))
    cycle = changed(lambda raw: raw["orgs"][1].update(parent="bj-001"))
    yield Defect("cycle", "orgs.1.parent (bj)", cycle)
    yield Defect("two roots", "orgs", changed(lambda raw: raw["orgs"][3].update(parent=None)))
    yield Defect("zone of an org", "orgs.1.tz", changed(lambda raw: raw["orgs"][1].update(tz="Moon")))


def places() -> Iterator[Defect]:
    for at, position in ((0, 1), (20, 0), (1, 2), (22, 1)):
        raw = with_campaign(at, pin={"home.banner": position})
        yield Defect("overlapping pins", "campaigns.", raw)
    yield Defect(
        "pins of overlapping flights", "campaigns.1.pin.home.banner (c1)", with_flight(0, until="2026-11-11")
    )
    yield Defect(
        "pins of one audience", "campaigns.21.pin.home.banner", with_campaign(21, audience="winback")
    )
    yield Defect(
        "pins of meeting audiences", "campaigns.21.pin.home.banner", with_campaign(21, audience="both")
    )
    yield Defect("pins of everybody", "campaigns.21.pin.home.banner", with_campaign(21, audience=None))
    yield Defect("pins of one org", "campaigns.23.pin.home.banner", with_campaign(23, org="bj"))
    yield Defect("pins of head office", "campaigns.23.pin.home.banner", with_campaign(23, org="head"))
    yield Defect("pins of one day", "campaigns.25.pin.home.popup", with_flight(25, weekdays=["mon"]))
    for at in (0, 20, 22):
        yield Defect(
            "beyond the slot", f"campaigns.{at}.pin.home.banner", with_campaign(at, pin={"home.banner": 3})
        )
        yield Defect(
            "below the slot", f"campaigns.{at}.pin.home.banner", with_campaign(at, pin={"home.banner": -1})
        )
        yield Defect(
            "not its slot", f"campaigns.{at}.pin.home.popup", with_campaign(at, pin={"home.popup": 0})
        )
    yield Defect("roadblock and pin", "campaigns.15.roadblock", with_campaign(15, pin={"home.popup": 0}))
    yield Defect("roadblock with one item", "campaigns.15.roadblock", with_campaign(15, items=["i8"]))
    yield Defect("roadblock once a page", "campaigns.15.per_page", with_campaign(15, per_page=1))
    for per_page in (0, -1):
        yield Defect("per page", "campaigns.28.per_page (c28)", with_campaign(28, per_page=per_page))
    for at, slot in ((28, "home.grid"), (13, "home.shelf"), (11, "home.grid")):
        yield Defect("kind", f"campaigns.{at}.items.0 (c{at})", with_campaign(at, slots=[slot]))
    yield Defect("layout", "campaigns.16.items.0 (c16)", with_campaign(16, slots=["home.feed"]))


def money() -> Iterator[Defect]:
    until = "lever.until"
    levers = [
        ("lever.factor", {"factor": 0.1}),
        ("lever.factor", {"factor": 5.1}),
        ("lever.factor", {"factor": float("nan")}),
        (until, {"until": "2026-11-20T00:00:00"}),
        (until, {"until": "2026-10-20T00:00:00Z"}),
        ("lever.reason", {"reason": ""}),
        ("lever.owner", {"owner": ""}),
    ]
    for at in (11, 12):
        for path, change in levers:
            yield Defect("lever", f"campaigns.{at}.{path} (c{at})", with_campaign(at, lever=LEVER | change))
        for name in ("owner", "reason", "until"):
            short = {key: value for key, value in LEVER.items() if key != name}
            yield Defect("lever", f"campaigns.{at}.lever.{name} (c{at})", with_campaign(at, lever=short))
        for outcome, value in (("click", float("inf")), ("convert", float("nan")), ("dismiss", 0.1)):
            raw = with_campaign(at, values={outcome: value})
            yield Defect("values", f"campaigns.{at}.values.{outcome} (c{at})", raw)
        yield Defect("negative cost", f"campaigns.{at}.benefit.cost", with_campaign(at, benefit={"cost": -1}))
    for at in (0, 11):
        yield Defect("benefit of a tier", f"campaigns.{at}.benefit", with_campaign(at, benefit={"cost": 1}))
    for path, change in (
        ("values.dismiss", {"dismiss": 0.1}),
        ("values.convert", {"convert": float("nan")}),
        ("values.click", {"click": {"thing": 1}}),
        ("values.click", {"click": {"product": float("inf")}}),
    ):
        yield Defect("value table", path, changed(lambda raw, change=change: raw["values"].update(change)))
    yield Defect("no version", "values.version", changed(lambda raw: raw["values"].pop("version")))


def limits() -> Iterator[Defect]:
    cap = {"event": "displayed", "most": 3, "window": "1d"}
    for path, change in (
        ("window", {"window": "fortnight"}),
        ("window", {"window": "500d"}),
        ("window", {"window": "0d"}),
        ("most", {"most": 0}),
        ("most", {"most": 256}),
        ("event", {"event": "served"}),
        ("subject", {"subject": "household"}),
        ("scope", {"scope": "planet"}),
        ("min_gap_s", {"min_gap_s": -1}),
        ("", {"min_gap_s": 90_000}),
        ("", {"of": ["c11", "c11"]}),
        ("of", {"of": ["c12"]}),
        ("of", {"scope": "slot", "of": ["home.feed"]}),
        ("of", {"scope": "org", "of": ["bj"]}),
        ("of", {"scope": "item", "of": ["i7"]}),
    ):
        dot = "." if path else ""
        yield Defect("cap", f"campaigns.11.caps.0{dot}{path}", with_campaign(11, caps=[cap | change]))
    many = [{"id": f"x{n}", "items": ["i1"]} for n in range(65)]
    yield Defect("65 groups", "exclusions", changed(lambda raw: raw.update(exclusions=many)))
    for field, name, most in (("items", "i1", 2), ("campaigns", "c1", 5)):
        groups = [{"id": f"x{n}", field: [name]} for n in range(most + 1)]
        yield Defect(
            f"{field} in too many groups",
            f"exclusions.{most}.{field}.0 (x{most})",
            changed(lambda raw, groups=groups: raw.update(exclusions=groups)),
        )
    for path, change in (("most", {"most": 0}), ("", {"campaigns": [], "items": [], "categories": []})):
        raw = changed(lambda raw, change=change: raw["exclusions"][0].update(change))
        yield Defect("group", f"exclusions.0{'.' + path if path else ''}", raw)
    for path, change in (
        ("kinds_least", {"kinds_least": {"product": 4, "content": 3}, "kinds_most": {}}),
        ("kinds_least.product", {"kinds_least": {"product": 3}, "kinds_most": {"product": 2}}),
        ("kinds_least.product", {"kinds_least": {"product": 7}, "kinds_most": {}}),
        ("kinds_least.benefit", {"kinds_least": {"benefit": 1}}),
        ("kinds_most.benefit", {"kinds_most": {"benefit": 1}}),
        ("display_rates", {"display_rates": [1, 0.5]}),
        ("display_rates", {"display_rates": [0.5, 0.6, 0.1, 0.1, 0.1, 0.1]}),
        ("display_rates.0", {"display_rates": [1.1, 0.6, 0.1, 0.1, 0.1, 0.1]}),
        ("display_rates.5", {"display_rates": [1, 0.6, 0.1, 0.1, 0.1, 0]}),
        ("diminish", {"diminish": 0}),
        ("cross", {"cross": 1.2}),
        ("interruption", {"interruption": -1}),
        ("switching_cost", {"switching_cost": float("inf")}),
        ("fallback", {"fallback": ["i0"]}),
    ):
        yield Defect("slot", f"slots.5.{path} (home.feed)", with_slot(5, **change))
    yield Defect(
        "exclusive fallback", "slots.5.fallback", with_campaign(28, items=["i3", "i7"], exclusive=True)
    )
    templates = {"outlet/{a}": {"slots": ["outlet.banner"]}, "{a}/001": {"slots": ["home.grid"]}}
    for name, one in templates.items():
        raw = changed(lambda raw, name=name, one=one: raw["templates"].update({name: one}))
        yield Defect("ambiguous template", f"templates.{name}", raw)
    for name in ("outlets", "x/{a}{b}", "{a}/{b}", "x{a}"):
        raw = changed(lambda raw, name=name: raw["templates"].update({name: {"slots": ["home.grid"]}}))
        yield Defect("no template", f"templates.{name}", raw)
    yield Defect("unknown field", "campaigns.3.colour (c3)", with_campaign(3, colour="red"))
    circle = {"a": {"audience": "b"}, "b": {"not": {"audience": "a"}}}
    yield Defect("circle", "audiences.", changed(lambda raw: raw["audiences"].update(circle)))
    yield Defect("no rule", "audiences.a", changed(lambda raw: raw["audiences"].update(a={"some": []})))


CLASSES = (dangling, twice, flights, promises, shares, places, money, limits)
DEFECTS = [(each.__name__, defect) for each in CLASSES for defect in each()]


def test_the_plan_without_a_defect_is_sound():
    assert compile_plan(check_plan(big_raw()), stock_of()).problems == ()
    assert N >= 30 and len(DEFECTS) >= 200


@pytest.mark.parametrize(
    ("kind", "defect"),
    DEFECTS,
    ids=[f"{at}-{kind}-{defect.name}" for at, (kind, defect) in enumerate(DEFECTS)],
)
def test_every_defect_is_refused_with_its_path(kind, defect):
    with pytest.raises(PlanError) as caught:
        compile_plan(check_plan(defect.raw), _stock())
    error = caught.value
    assert error.path.startswith(defect.path), f"{kind}, {defect.name}: {error}"
    assert error.problem and error.remedy and error.path in str(error)


@cache
def _stock() -> Any:
    return stock_of()
