"""Permission fails closed: each rule with the views it needs there and allowing, there and forbidding, and
absent, expired, of another schema, or late. The slot is full in every case, and `degraded` names the view."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import pytest

from features.customer import LATE_BLOB, Blobs, decode_customer
from features.ids import KINDS, key32, key64
from features.schema import Field, View
from features.views import BLOCKED, OFFERS, withheld
from serving.control import Kill, OverlayEntry
from serving.decide import decide, page_of
from serving.domain import EFFORTS
from serving.filters import FILTERS
from serving.reasons import CLOSING, CUSTOMER, STATIC, Drop
from tests.worlds import (
    DAY,
    NOW,
    contact_entries,
    item,
    membership_blob,
    names,
    profile_blob,
    query,
    tiny_bundle,
    tiny_live,
    tiny_plan,
)

WANTED = 7  # the row under test, a product; the only ones it competes with are the open ones
OPEN_PRODUCTS = range(13, 120, 6)
HELD = "i55"


@dataclass(frozen=True)
class Rule:
    """An item under one rule; profile fields and logs that satisfy it, and changes to them that do not."""

    drop: Drop
    item: dict
    views: tuple[str, ...]
    profile: dict = field(default_factory=dict)
    audiences: tuple[int, ...] = ()
    contact: tuple = ()
    against: dict = field(default_factory=dict)

    def __str__(self):
        return self.drop.code


RULES = [
    Rule(
        Drop.RISK, {"risk_class": 3}, ("profile",), {"risk_level": 3}, against={"profile": {"risk_level": 2}}
    ),
    Rule(
        Drop.AGE, {"min_age": 18, "max_age": 60}, ("profile",), {"age": 60}, against={"profile": {"age": 61}}
    ),
    Rule(
        Drop.CONSENT,
        {"consents": ["marketing", "third_party"]},
        ("profile",),
        {"consents": 0b101},
        against={"profile": {"consents": 0b001}},
    ),
    Rule(
        Drop.NEEDS,
        {"needs": [HELD]},
        ("profile",),
        {"holdings": [key64(HELD)]},
        against={"profile": {"holdings": [key64("i1")]}},
    ),
    Rule(
        Drop.EXCLUDES,
        {"excludes": [HELD]},
        ("profile",),
        {"holdings": [key64("i1")]},
        against={"profile": {"holdings": [key64("i1"), key64(HELD)]}},
    ),
    Rule(
        Drop.REPEAT,
        {"repeat": "never"},
        ("profile", "live"),
        {"holdings": [key64("i1")]},
        contact=(("i2", "converted", 60.0),),
        against={"contact": ((f"i{WANTED}", "converted", 60.0),)},
    ),
    Rule(Drop.AUDIENCE, {"audience": 9}, ("membership",), audiences=(3, 9), against={"audiences": (3, 8)}),
    Rule(
        Drop.COOLING,
        {"cooling": True},
        ("live",),
        contact=((f"i{WANTED}", "dismissed", 15 * DAY), ("i2", "dismissed", DAY)),
        against={"contact": ((f"i{WANTED}", "dismissed", 13 * DAY),)},
    ),
    Rule(
        Drop.BLOCKED,
        {"audience": 9},
        ("profile",),
        {"blocked": 0},
        audiences=(9,),
        against={"profile": {"blocked": 1}},
    ),
    Rule(
        Drop.REGION,
        {"regions": ["310000"]},
        ("profile",),
        {"city": key32("310000")},
        against={"profile": {"city": key32("110000")}},
    ),
]
# About who is named, so unknown does not deny: an open offer stays while profiles are late.
WITHHELD = Rule(
    Drop.BARRED, {}, ("profile",), {"blocked": 0}, against={"profile": {"blocked": withheld("product")}}
)
PROBLEMS = ("absent", "expired", "schema", "late")

OTHER = View("profile", "user", timedelta(days=40), (Field("colour", "u2"),))


def live_for(rule, **fields):
    items = [item(n) for n in range(120)]
    items[WANTED] = item(WANTED, "product", **(rule.item if rule else {}), **fields)
    return tiny_live(tiny_bundle(items=items))


def shelf(live, blobs, effort="full", **context):
    """The page when the wanted item is the only product that is not excluded, beside three fillers."""
    who = decode_customer(blobs, now=NOW, schemas=live.bundle.schemas)
    rest = [f"i{n}" for n in OPEN_PRODUCTS]
    asked = query(live, who, exclude={"home.shelf": rest[3:], "home.feed": [f"i{WANTED}"]}, **context)
    return decide(asked, live, effort, np.array([WANTED], np.int32))


def blobs_of(rule, **changed):
    contact = changed.get("contact", rule.contact)
    return Blobs(
        profile_blob(**{"age": 40, "risk_level": 3, **rule.profile, **changed.get("profile", {})}),
        membership_blob(*changed.get("audiences", rule.audiences)),
        None,
        contact_entries(*contact).tobytes(),
        None,
    )


def spoiled(blobs, view, problem):
    """The same customer with one view absent, expired, of another schema, or late."""
    made = {
        "profile": {
            "absent": None,
            "expired": profile_blob(as_of=NOW - 41 * DAY, age=40, risk_level=3),
            "schema": OTHER.encode(OTHER.blank(1)[0], as_of=NOW - DAY),
            "late": LATE_BLOB,
        },
        "membership": {
            "absent": None,
            "expired": membership_blob(9, as_of=NOW - 41 * DAY),
            "schema": OTHER.encode(OTHER.blank(1)[0], as_of=NOW - DAY),
            "late": LATE_BLOB,
        },
        # A store that answers without a log says that there was no contact: known to be empty.
        "live": {"schema": b"\0" * 33, "late": LATE_BLOB},
    }[view]
    return blobs._replace(**{"contact" if view == "live" else view: made[problem]})


def wanted_in(live, decision):
    return f"i{WANTED}" in names(live, decision, "home.shelf")


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_shown_where_the_rule_is_known_to_hold(rule):
    live = live_for(rule)
    decision = shelf(live, blobs_of(rule))
    assert wanted_in(live, decision) and decision.sizes[2] == 4 and decision.degraded == ()


@pytest.mark.parametrize("effort", EFFORTS)
def test_what_the_bank_withholds_is_shown_on_no_rung_and_to_everybody_else(effort):
    """Open offers too: an abuser of coupons gets none; who is blocked gets no benefit whatever it asks."""
    live = live_for(None)
    kinds = {name: KINDS[live.kind_of[live.row(name)]] for name in (f"i{n}" for n in range(120))}

    def shown(**profile):
        blobs = blobs_of(WITHHELD, profile=profile)
        who = decode_customer(blobs, now=NOW)
        decision = decide(query(live, who), live, effort, np.arange(0, 120, dtype=np.int32))
        if effort == "full" and profile["blocked"]:
            assert decision.drops["barred"] >= 1
        return {kinds[live.texts[p.row].id] for p in decision.placements}

    everything = shown(blocked=0)
    assert {"product", "benefit", "function"} <= everything
    for kind in OFFERS:
        assert shown(blocked=withheld(kind)) == everything - {kind}
    assert shown(blocked=sum(map(withheld, OFFERS))) == everything - set(OFFERS)
    assert shown(blocked=BLOCKED) == everything - {"benefit"}
    assert shown(blocked=BLOCKED | withheld("product")) == everything - {"benefit", "product"}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_open_offers_stay_while_the_profile_is_unknown_and_restricted_ones_do_not(problem):
    live = live_for(None)
    who = decode_customer(spoiled(blobs_of(WITHHELD), "profile", problem), now=NOW)
    assert decide(query(live, who), live).sizes == (3, 5, 4, 1, 3, 6)
    limited = [item(n, **({"max_age": 149} if n % 24 == 4 else {})) for n in range(120)]
    asking = tiny_live(tiny_bundle(items=limited))
    rows = np.array([asking.row(f"i{n}") for n in range(4, 120, 24)], np.int32)
    assert {KINDS[asking.kind_of[row]] for row in rows.tolist()} == {"benefit"}
    found = asking.pipelines["full"].permission.drops(page_of(query(asking, who), asking), rows)
    assert all(drop & Drop.BLOCKED.bit for drop in found.tolist())


def test_withholding_a_kind_blocks_nothing_else_that_asks_about_the_customer():
    rule = RULES[0]
    live = live_for(rule)
    kept = {"blocked": withheld("benefit") | withheld("activity"), **rule.profile}
    assert wanted_in(live, shelf(live, blobs_of(rule, profile=kept)))


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_not_shown_on_any_rung_where_it_is_known_not_to_hold(rule, effort):
    live = live_for(rule)
    decision = shelf(live, blobs_of(rule, **rule.against), effort)
    assert not wanted_in(live, decision) and decision.degraded == ()
    if effort == "full":
        assert decision.drops[rule.drop.code] >= 1


CASES = [
    (rule, view, problem)
    for rule in RULES
    for view in rule.views
    for problem in PROBLEMS
    if not (view == "live" and problem in ("absent", "expired"))
]


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize(
    ("rule", "view", "problem"), CASES, ids=[f"{rule}-{view}-{problem}" for rule, view, problem in CASES]
)
def test_not_shown_while_its_view_is_unknown_and_the_slot_is_full(rule, view, problem, effort):
    live = live_for(rule)
    who = decode_customer(spoiled(blobs_of(rule), view, problem), now=NOW, schemas=live.bundle.schemas)
    decision = decide(query(live, who), live, effort, np.array([WANTED], np.int32))
    assert f"i{WANTED}" not in names(live, decision)
    assert decision.sizes == (3, 5, 4, 1, 3, 6)
    assert view in decision.degraded


@pytest.mark.parametrize("name", ["risk_level", "age", "consents", "holdings", "blocked", "city"])
def test_a_field_that_the_record_does_not_know_denies_as_a_missing_record_does(name):
    rule = next(r for r in RULES if name in r.profile)
    live = live_for(rule)
    fields = [n for n in ("risk_level", "age", "consents", "holdings", "blocked", "city") if n != name]
    known = profile_blob(known=fields, **{"age": 40, "risk_level": 3, **rule.profile})
    decision = shelf(live, blobs_of(rule)._replace(profile=known))
    assert not wanted_in(live, decision) and decision.degraded == ()


def test_an_item_is_shown_to_a_total_stranger_only_when_it_is_open():
    everything = {}
    for rule in RULES:
        everything |= rule.item
    items = [item(n, **(everything if n % 12 < 6 else {})) for n in range(120)]
    live = tiny_live(tiny_bundle(items=items))
    blobs = Blobs(LATE_BLOB, LATE_BLOB, LATE_BLOB, LATE_BLOB, LATE_BLOB)
    for effort in EFFORTS:
        decision = decide(
            query(live, decode_customer(blobs, now=NOW)), live, effort, np.arange(12, dtype=np.int32)
        )
        assert decision.degraded == ("profile", "membership", "live") and sum(decision.sizes) == 22
        assert all(live.rules[p.row] & CLOSING == 0 for p in decision.placements)


CONTEXT = [
    (Drop.CHANNEL, {"channels": ["app", "web"]}, {"channel": 1}, [{"channel": 2}, {"channel": 0}]),
    (
        Drop.APP_VERSION,
        {"min_app_version": "9.2.0"},
        {"app_version": 9_002_000},
        [{"app_version": 9_001_999}, {"app_version": 0}],
    ),
    (
        Drop.REGION,
        {"regions": ["310000"]},
        {"city": key32("310000")},
        [{"city": key32("110000")}, {"city": 0}],
    ),
    (
        Drop.AUTH_LEVEL,
        {"auth_level": "bound_card"},
        {"auth_level": 3},
        [{"auth_level": 2}, {"auth_level": 0}],
    ),
    (
        Drop.DATES,
        {"starts": "2026-01-01T00:00:00Z", "ends": "2026-12-31T00:00:00Z"},
        {"now": NOW},
        [{"now": 1_767_225_599.0}, {"now": 1_798_675_200.0}],
    ),
    (
        Drop.CREATIVE,
        {
            "creatives": [
                {"id": "c", "title": "t", "from": "2026-01-01T00:00:00Z", "until": "2026-12-31T00:00:00Z"}
            ]
        },
        {"now": NOW},
        [{"now": 1_767_225_599.0}, {"now": 1_798_675_200.0}],
    ),
]


@pytest.mark.parametrize(("drop", "fields", "good", "bad"), CONTEXT, ids=[drop.code for drop, *_ in CONTEXT])
def test_rules_about_the_request(drop, fields, good, bad):
    live = live_for(None, **fields)
    plain = RULES[0]
    assert wanted_in(live, shelf(live, blobs_of(plain), **good))
    for context in bad:
        for effort in EFFORTS:
            assert not wanted_in(live, shelf(live, blobs_of(plain), effort, **context))


def test_the_city_of_the_request_comes_before_that_of_the_profile():
    live = live_for(next(r for r in RULES if r.drop == Drop.REGION))
    home = blobs_of(RULES[0], profile={"city": key32("310000")})
    assert wanted_in(live, shelf(live, home))
    assert not wanted_in(live, shelf(live, home, city=key32("110000")))


def test_an_item_of_a_province_is_offered_in_its_cities():
    items = [item(n) for n in range(120)]
    items[WANTED] = item(WANTED, "product", regions=["320000"])
    live = tiny_live(tiny_bundle(items=items), tiny_plan(regions={"320100": ["320000"]}))
    assert wanted_in(live, shelf(live, blobs_of(RULES[0]), city=key32("320100")))
    assert not wanted_in(live, shelf(live, blobs_of(RULES[0]), city=key32("330100")))


@pytest.mark.parametrize("fields", [{"sold_out": True}, {"stock": 0}], ids=["sold_out", "stock"])
def test_what_is_sold_out_is_shown_to_nobody(fields):
    live = live_for(None, **fields)
    assert not wanted_in(live, shelf(live, blobs_of(RULES[0])))
    assert wanted_in(live_for(None, stock=1), shelf(live_for(None, stock=1), blobs_of(RULES[0])))


def test_what_is_killed_or_withdrawn_is_shown_to_nobody():
    bundle = tiny_bundle()
    killed = tiny_live(bundle, kills=[Kill("item", f"i{WANTED}")])
    withdrawn = tiny_live(bundle, overlay=[OverlayEntry(1, "item", f"i{WANTED}", None)])
    for live in (killed, withdrawn):
        for effort in EFFORTS:
            assert not wanted_in(live, shelf(live, blobs_of(RULES[0]), effort))


@pytest.mark.parametrize("state", ["draft", "reviewed", "approved", "withdrawn"])
def test_an_item_whose_creatives_are_not_live_is_shown_to_nobody(state):
    live = live_for(None, creatives=[{"id": "c", "title": "t", "state": state}])
    assert not wanted_in(live, shelf(live, blobs_of(RULES[0])))


def test_a_risk_that_was_never_assessed_permits_no_risky_product():
    live = live_for(None, risk_class=1)
    assert not wanted_in(live, shelf(live, blobs_of(RULES[0], profile={"risk_level": 0})))


def test_a_held_product_is_not_offered_again():
    live = live_for(None, repeat="never")
    held = {"holdings": [key64(f"i{WANTED}")]}
    assert not wanted_in(live, shelf(live, blobs_of(RULES[0], profile=held)))
    assert wanted_in(live, shelf(live, blobs_of(RULES[0], profile={"holdings": [key64("i1")]})))


def only(live, blobs, effort, *products):
    """The shelf when nothing but these products may stand on it."""
    who = decode_customer(blobs, now=NOW, schemas=live.bundle.schemas)
    others = [f"i{n}" for n in range(120) if f"i{n}" not in products]
    asked = query(live, who, exclude={"home.shelf": others})
    return names(live, decide(asked, live, effort, np.array([WANTED], np.int32)), "home.shelf")


def test_a_contact_log_that_was_cut_since_the_holdings_were_known_does_not_prove_that_nothing_was_bought():
    live = live_for(None, repeat="never")
    free = {"holdings": [key64("i1")]}
    cut = tuple(("i2", "displayed", 3600.0 - n) for n in range(256))
    assert not wanted_in(live, shelf(live, blobs_of(RULES[0], profile=free, contact=cut)))
    reaching_back = (("i2", "displayed", 3 * DAY), *cut[1:])
    assert wanted_in(live, shelf(live, blobs_of(RULES[0], profile=free, contact=reaching_back)))


@pytest.mark.parametrize("effort", ["full", "light", "popular"])
def test_a_held_product_that_matures_is_offered_again_when_nothing_else_is_left(effort):
    live, one = live_for(None, repeat="after_maturity"), f"i{WANTED}"
    free = {"holdings": [key64("i1")]}
    for blobs in (
        blobs_of(RULES[0], profile={"holdings": [key64(one)]}),
        blobs_of(RULES[0], profile=free, contact=((one, "converted", 60.0),)),
    ):
        assert one not in names(live, shelf(live, blobs, effort), "home.shelf")[:-1]
        assert only(live, blobs, effort, one, "i13", "i19")[-1] == one
    assert wanted_in(live, shelf(live, blobs_of(RULES[0], profile=free), effort))


def test_holdings_that_are_not_known_do_not_hold_a_maturing_product_back():
    live, plain = live_for(None, repeat="after_maturity"), live_for(None)
    unknown = Blobs(None, membership_blob(), None, None, None)
    assert wanted_in(live, shelf(live, unknown))
    assert names(live, shelf(live, unknown), "home.shelf") == names(
        plain, shelf(plain, unknown), "home.shelf"
    )


@pytest.mark.parametrize("fields", [{"excludes": [HELD]}, {"repeat": "never"}], ids=["excludes", "repeat"])
def test_a_list_of_holdings_that_may_have_been_cut_does_not_prove_that_something_is_not_held(fields):
    live = live_for(None, **fields)
    full = {"holdings": [key64(f"x{n}") for n in range(16)]}
    assert not wanted_in(live, shelf(live, blobs_of(RULES[0], profile=full)))


def test_a_contact_log_that_was_cut_within_the_period_does_not_prove_that_nothing_happened():
    live = live_for(None, cooling=True)
    log = tuple(("i2", "displayed", 3600.0 - n) for n in range(256))
    assert not wanted_in(live, shelf(live, blobs_of(RULES[0], contact=log)))
    old = tuple(("i2", "displayed", 20 * DAY - n) for n in range(256))
    assert wanted_in(live, shelf(live, blobs_of(RULES[0], contact=old)))


def test_permission_holds_with_profiling_off():
    live = live_for(RULES[0])
    who = decode_customer(blobs_of(RULES[0]), now=NOW, profiling=False)
    assert f"i{WANTED}" in {live.texts[r].id for r in live.plan.slots["home.shelf"].wide.tolist()}
    out = {"home.shelf": [f"i{n}" for n in OPEN_PRODUCTS][3:], "home.feed": [f"i{WANTED}"]}
    assert wanted_in(live, decide(query(live, who, exclude=out), live))


def test_every_rule_is_tested_here():
    tested = {rule.drop for rule in RULES} | {drop for drop, *_ in CONTEXT}
    tested |= {WITHHELD.drop}
    assert tested == {f.rule for f in FILTERS}
    assert {d for d in Drop if d.bit & STATIC} == set(Drop) - tested
    declared = {f.rule: f.views for f in FILTERS}
    assert all(declared[rule.drop] == rule.views for rule in (*RULES, WITHHELD))
    assert {d for d in Drop if d.bit & CUSTOMER} | {Drop.BLOCKED, Drop.REGION} == {
        rule.drop for rule in RULES
    }
