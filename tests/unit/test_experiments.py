"""Who is in which arm of which experiment, and what that makes of a page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.customer import Blobs
from features.ids import KINDS, key64, keys64
from serving.arm_plans import combined
from serving.decide import decide
from serving.experiment_compiling import compile_experiments
from serving.experiments import Assigned
from serving.guard_statistics import RATES
from serving.joining import with_device
from serving.metric_names import BETTER
from serving.plan import PlanError, check_plan, parse_plan
from serving.splitting import part_of, parts_of, salt_of
from tests.worlds import NOW, SLOTS, customer, names, query, recent_entries, sold, tiny_live, tiny_plan
from training.experiment.metrics import METRICS

START = "2026-01-01T00:00:00+08:00"
LATER = "2027-01-01T00:00:00+08:00"
KEYS = keys64(f"u:u{n}" for n in range(20_000))


def experiment(name: str = "e", **fields: Any) -> dict[str, Any]:
    arms = [{"name": "control"}, {"name": "treatment", **fields.pop("arm", {})}]
    return {"name": name, "arms": arms, "ramp": [{"at": START, "enrolled": 1}], **fields}


def layers(*experiments: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"layers": [{"name": "ranking", "experiments": list(experiments)}], **fields}


def compiled(text: dict[str, Any], **changes: Any) -> Any:
    plan = tiny_plan(experiments=text, **changes)
    return compile_experiments(plan, {slot.name: 1 << at for at, slot in enumerate(plan.slots)})


def arms_of(made: Any, n: int = 4_000, now: float = NOW, **fields: Any) -> list[tuple[Assigned, ...]]:
    return [made.assigned(f"u:u{at}", None, customer(), now, **fields) for at in range(n)]


class TestSplitting:
    def test_one_and_many_are_the_same(self) -> None:
        salt = salt_of("a", "b")
        assert [part_of(int(key), salt) for key in KEYS[:500]] == parts_of(KEYS[:500], salt).tolist()

    def test_names_are_told_apart(self) -> None:
        assert salt_of("a", "bc") != salt_of("ab", "c") != salt_of("abc")

    def test_known_values(self) -> None:
        """Any replica of any version must agree: who is in an experiment hangs on it."""
        assert part_of(key64("u:u1"), salt_of("", "layer", "ranking")) == pytest.approx(
            0.4634428139110284, abs=0
        )

    def test_parts_are_even_and_salts_independent(self) -> None:
        one, other = parts_of(KEYS, salt_of("1")), parts_of(KEYS, salt_of("2"))
        table = np.histogram2d(one, other, bins=8, range=[[0, 1], [0, 1]])[0]
        expected = len(KEYS) / 64
        assert ((table - expected) ** 2 / expected).sum() < 104  # chi-square of 63, 0.999


class TestAssignment:
    def test_units_exclude_each_other_in_a_layer(self) -> None:
        made = compiled(layers(experiment("a", range=[0, 0.4]), experiment("b", range=[0.4, 0.9])))
        found = arms_of(made)
        assert {len(arms) for arms in found} == {0, 1}
        share = np.mean([bool(arms) for arms in found])
        assert share == pytest.approx(0.9, abs=0.02)
        first = np.mean([arms[0].name.startswith("a/") for arms in found if arms])
        assert first == pytest.approx(0.4 / 0.9, abs=0.03)

    def test_one_and_many_are_the_same(self) -> None:
        text = layers(
            experiment("a", range=[0, 0.4], ramp=[{"at": START, "enrolled": 0.3}]),
            experiment("b", range=[0.5, 0.8]),
            holdout=0.1,
        )
        text["layers"][0]["holdout"] = 0.15
        made = compiled(text)
        told = made.names("ranking")
        for keyed, arms in zip(made.many(KEYS[:4000], NOW, "ranking").tolist(), arms_of(made), strict=True):
            name = {-1: None, -2: "holdout"}.get(keyed, told[keyed] if keyed >= 0 else None)
            assert name == (arms[0].name if arms else None)

    def test_a_ramp_moves_nobody_out_and_nobody_to_another_arm(self) -> None:
        steps = [{"at": f"2026-01-0{day}T00:00:00Z", "enrolled": share} for day, share in STEPS]
        made = compiled(layers(experiment(ramp=steps)))
        before = np.full(len(KEYS), -1)
        for day, share in STEPS:
            now = made.many(KEYS, _at(day), "ranking")
            assert (now[before >= 0] == before[before >= 0]).all()
            assert (now >= 0).mean() == pytest.approx(share, abs=0.01)
            before = now
        assert (made.many(KEYS, _at(1) - 86_400, "ranking") == -1).all()

    def test_holdouts_are_in_nothing(self) -> None:
        text = layers(experiment(range=[0, 0.8]), holdout=0.1)
        text["layers"][0]["holdout"] = 0.2
        found = [arms[0] for arms in arms_of(compiled(text)) if arms]
        assert {(one.layer, one.name) for one in found} == {
            ("*", "holdout"), ("ranking", "holdout"), ("ranking", "e/control"), ("ranking", "e/treatment"),
        }  # fmt: skip
        assert sum(one.layer == "*" for one in found) / 4_000 == pytest.approx(0.1, abs=0.015)
        assert sum(one == Assigned("ranking", "holdout") for one in found) / 4_000 == pytest.approx(
            0.18, abs=0.02
        )

    def test_domains_part_the_units(self) -> None:
        text = {
            "domains": [{"name": "left", "share": 0.3}],
            "layers": [
                {"name": "wide", "experiments": [experiment("w")]},
                {"name": "own", "domain": "left", "experiments": [experiment("o")]},
            ],
        }
        found = arms_of(compiled(text))
        assert np.mean([len(arms) for arms in found]) == pytest.approx(1.3, abs=0.02)

    def test_an_audience_that_does_not_hold_keeps_out(self) -> None:
        rule = {"old": {"field": "age", "at_least": 50}}
        made = compiled(layers(experiment(audience="old")), audiences=rule)
        assert not made.assigned("u:u1", None, customer(age=40), NOW)
        assert made.assigned("u:u1", None, customer(age=60), NOW)

    def test_a_page_without_the_slots_that_differ_is_not_counted(self) -> None:
        arm = {"changes": {"slots": {"home.feed": {"explore": 0.2}}}}
        made = compiled(layers(experiment(arm=arm)))
        feed = [slot["name"] for slot in SLOTS].index("home.feed")
        assert not made.assigned("u:u1", None, customer(), NOW, ~(1 << feed))
        assert made.assigned("u:u1", None, customer(), NOW, 1 << feed)

    def test_a_device_stays_in_its_arm_before_and_after_login(self) -> None:
        made = compiled(layers(experiment(unit="device")))
        for n in range(50):
            before = made.assigned(f"v:d{n}", None, customer(), NOW)
            assert before == made.assigned(f"u:u{n}", f"v:d{n}", customer(), NOW) != ()
        assert not made.assigned("u:u1", None, customer(), NOW)

    def test_a_new_customer_stays_in_the_visitors_arm(self) -> None:
        made = compiled(layers(experiment()))
        seen = Blobs(None, None, b"x" * 32, None, None)
        for n in range(50):
            blobs = with_device(Blobs(None, None, None, None, None), seen, f"v:d{n}")
            known = replace(customer(), unit=(blobs.unit or b"").decode())
            assert made.assigned(f"u:u{n}", None, known, NOW) == made.assigned(
                f"v:d{n}", None, customer(), NOW
            )
        assert with_device(Blobs(None, None, b"y" * 32, None, None), seen, "v:d1").unit is None
        assert not made.assigned("u:u1", None, replace(customer(), unit=None), NOW)  # not known: in nothing

    def test_testers_see_what_they_ask_for(self) -> None:
        text = layers(experiment(range=[0, 0.01]), holdout=0.5, testers={"t1": {"ranking": "e/treatment"}})
        made = compiled(text)
        assert made.assigned("u:t1", None, customer(), NOW)[0][1:] == ("e/treatment", -1, True)
        assert made.assigned("u:other", "v:t1", customer(), NOW)[0].forced

    def test_a_tester_is_in_the_domain_of_what_they_ask_for(self) -> None:
        text = {
            "domains": [{"name": "left", "share": 0.5}, {"name": "right", "share": 0.5}],
            "layers": [
                {"name": side, "domain": side, "experiments": [experiment(side)]}
                for side in ("left", "right")
            ],
        }
        for n in range(30):
            made = compiled({**text, "testers": {f"t{n}": {"right": "right/treatment"}}})
            found = made.assigned(f"u:t{n}", None, customer(), NOW)
            assert [one.layer for one in found] == ["right"]
        both = {"t": {"left": "left/control", "right": "right/control"}}
        with pytest.raises(PlanError, match="two domains"):
            compiled({**text, "testers": both})

    def test_an_arm_that_is_off_has_nobody_and_moves_nobody(self) -> None:
        three = [{"name": name} for name in ("control", "a", "b")]
        before = compiled(layers(experiment(arms=three))).many(KEYS, NOW, "ranking")
        three[1]["state"] = "off"
        after = compiled(layers(experiment(arms=three))).many(KEYS, NOW, "ranking")
        assert (after[before != 1] == before[before != 1]).all() and (after[before == 1] == -1).all()


STEPS = ((1, 0.01), (2, 0.05), (3, 0.2), (4, 0.5))


def _at(day: int) -> float:
    return 1_767_225_600.0 + (day - 1) * 86_400 + 1


@settings(max_examples=25)
@given(st.integers(0, 2**64 - 1), st.floats(0, 1), st.floats(0, 1))
def test_who_is_in_at_a_share_is_in_at_a_larger_one(key: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    stands = part_of(key, salt_of("enrolled"))
    assert not stands < low or stands < high


def test_arms_change_the_page_and_are_logged() -> None:
    changes = {
        "size": {"slots": {"home.banner": {"size": 2}}},
        "layout": {"slots": {"home.benefits": {"layout": "feed", "size": 2}}},
        "kinds": {"slots": {"home.feed": {"kinds": ["content"], "kinds_most": {"content": 3}}}},
        "paused": {"paused": ["c1"]},
        "ranker": {"ranker": "popularity", "sources_off": ["nearest_to_customer", "new"]},
    }
    campaigns = [sold(1, "i2", tier="mandatory")]
    plain = tiny_live(plan=tiny_plan(campaigns=campaigns))
    known = customer(recent=recent_entries(("i1", "clicked", 60), ("i9", "clicked", 30)), star_level=7)
    whole = decide(query(plain, known), plain)
    for name, change in changes.items():
        testers = {"u1": {"ranking": "e/treatment"}}
        text = layers(experiment(arm={"changes": change}), testers=testers)
        live = tiny_live(plan=tiny_plan(campaigns=campaigns, experiments=text))
        page, other = decide(query(live, known), live), decide(query(live, subject="u:u2"), live)
        assert [one[:2] for one in page.arms] == [("ranking", "e/treatment")] and page.arms[0].forced
        assert page.plan == live.plan.version != plain.plan.version
        assert page.placements == decide(query(live, known), live).placements
        assert names(live, page) != names(plain, whole), name
        if other.arms[0].name == "e/control":
            assert [one.row for one in other.placements] == [
                one.row for one in decide(query(plain, subject="u:u2"), plain).placements
            ]
        assert not decide(query(live, profiling=False), live).arms
    assert len(live.variants) == 1 and live.priced(live.prices).variants.keys() == live.variants.keys()


def test_every_set_of_arms_has_its_plan_under_one_version() -> None:
    text = {
        "layers": [
            {"name": "a", "experiments": [experiment("a", arm={"changes": {"ranker": "popularity"}})]},
            {"name": "b", "experiments": [experiment("b", arm={"changes": {"levers": {"c1": 2.0}}})]},
        ]
    }
    plan = tiny_plan(experiments=text, campaigns=[sold(1, "i2")])
    made = list(combined(plan))
    assert sorted(names for names, _, _ in made) == [
        ("a/treatment",), ("a/treatment", "b/treatment"), ("b/treatment",),
    ]  # fmt: skip
    assert {one.version for _, one, _ in made} == {plan.version}
    by_names = {names: (one, tuning) for names, one, tuning in made}
    lever = by_names["a/treatment", "b/treatment"][0].campaigns[0].lever
    assert lever is not None and lever.factor == 2.0
    assert by_names["b/treatment",][1].ranker == "blend"


def test_an_arm_of_another_layout_or_kinds_is_its_own_page() -> None:
    shape = {
        "home.shelf": {"layout": "feed"},
        "home.feed": {"kinds": ["content", "product"], "kinds_least": {"product": 2}, "kinds_most": {}},
    }
    text = layers(experiment(arm={"changes": {"slots": shape}}), testers={"u1": {"ranking": "e/treatment"}})
    rates = [0.9, 0.7, 0.5, 0.3]
    slots = [one | ({"display_rates": rates} if one["name"] == "home.shelf" else {}) for one in SLOTS]
    live = tiny_live(plan=tiny_plan(experiments=text, slots=slots))
    page = decide(query(live), live)
    mine = live.of(page)
    shown = {slot.spec.name: slot.spec for slot in page.query.slots}
    assert shown["home.shelf"].layout == "feed" and shown["home.shelf"].size == 4
    assert shown["home.shelf"].rates.tolist() == pytest.approx([0.8 * 0.88**at for at in range(4)]), (
        "not measured"
    )
    feed = [
        KINDS[int(mine.table["kind"][one.row])]
        for one in page.placements
        if page.query.slots[one.slot].spec.name == "home.feed"
    ]
    assert set(feed) == {"content", "product"} and feed.count("product") >= 2
    others = [decide(query(live, subject=f"u:u{at}"), live) for at in range(2, 12)]
    control = next(one for one in others if one.arms[0].name == "e/control")
    shelf = next(slot.spec for slot in control.query.slots if slot.spec.name == "home.shelf")
    assert shelf.layout == "shelf" and shelf.rates.tolist() == pytest.approx(rates)


def shaped(change: dict[str, Any]) -> dict[str, Any]:
    return {"changes": {"slots": {"home.feed": change}}}


def levered(n: int) -> dict[str, Any]:
    return {"changes": {"levers": {f"c{n}": 2}}}


DEFECTS: dict[str, tuple[dict[str, Any], str]] = {
    "falling ramp": (
        layers(experiment(ramp=[{"at": START, "enrolled": 0.5}, {"at": LATER, "enrolled": 0.1}])),
        "would go out",
    ),
    "ramp out of order": (
        layers(experiment(ramp=[{"at": LATER, "enrolled": 0.1}, {"at": START, "enrolled": 0.5}])),
        "order of time",
    ),
    "empty range": (layers(experiment(range=[0.5, 0.5])), "is empty"),
    "shared range": (layers(experiment("a", range=[0, 0.5]), experiment("b", range=[0.4, 1])), "in common"),
    "same name": (layers(experiment("a", range=[0, 0.5]), experiment("a", range=[0.5, 1])), "is there twice"),
    "no audience": (layers(experiment(audience="nobody")), "no audience"),
    "ends first": (layers(experiment(until="2025-01-01T00:00:00Z")), "not after its start"),
    "no slot": (
        layers(experiment(arm={"changes": {"slots": {"no.slot": {"size": 2}}}})), "no slot of the plan"
    ),
    "no campaign": (layers(experiment(arm={"changes": {"paused": ["c9"]}})), "no campaign of the plan"),
    "no change": (layers(experiment(arm={"changes": {"slots": {"home.feed": {}}}})), "changes nothing"),
    "bad slot": (
        layers(experiment(arm={"changes": {"slots": {"home.feed": {"fallback": ["i1", "i1"]}}}})),
        "may not name a thing twice",
    ),
    "least of no kind": (
        layers(experiment(arm={"changes": {"slots": {"home.feed": {"kinds_least": {"function": 1}}}}})),
        r"treatment\).*kinds_least.function.*is no kind of the slot",
    ),
    "one shape of two layers": (
        {
            "layers": [
                {"name": name, "experiments": [experiment(name, arm=shaped(said))]}
                for name, said in (("a", {"size": 3}), ("b", {"kinds_least": {"content": 5}}))
            ]
        },
        "slots.home.feed.shape is set in the layers",
    ),
    "watched twice": (
        layers(experiment(guardrails=[{"metric": "errors"}, {"metric": "errors", "tolerance": 0.1}])),
        "'errors' is there twice",
    ),
    "no metric decides": (
        layers(experiment(criterion="nonsense")),
        r"experiments\.0\.criterion \(e\): 'nonsense' is no metric; name one of value, clicks",
    ),
    "no metric is watched": (
        layers(experiment(guardrails=[{"metric": "errors"}, {"metric": "nonsense"}])),
        r"guardrails\.1\.metric \(e\): 'nonsense' is no metric; name one of value, .*latency",
    ),
    "guarded against what is better": (
        layers(experiment(guardrails=[{"metric": "value", "worse": "higher"}])),
        r"guardrails\.0\.worse \(e\): higher value is better.*remove it, or write lower",
    ),
    "no domain": ({"layers": [{"name": "a", "domain": "x", "experiments": []}]}, "is no domain"),
    "too much domain": (
        {"domains": [{"name": "a", "share": 0.7}, {"name": "b", "share": 0.7}]}, "more than 1"
    ),
    "no layer of a tester": (layers(experiment(), testers={"t": {"other": "e/control"}}), "is no layer"),
    "no arm of a tester": (layers(experiment(), testers={"t": {"ranking": "e/x"}}), "no arm of the layer"),
    "two owners": (
        {
            "layers": [
                {"name": name, "experiments": [experiment(name, arm={"changes": {"ranker": "popularity"}})]}
                for name in ("a", "b")
            ]
        },
        "which share units",
    ),
    "too many plans": (
        {
            "layers": [
                {"name": f"l{n}", "experiments": [experiment(f"e{n}", arm=levered(n))]} for n in range(6)
            ]
        },
        "held in memory",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_refused_with_its_place_and_a_remedy(name: str) -> None:
    text, said = DEFECTS[name]
    raw = tiny_plan(campaigns=[sold(n, f"i{2 + 6 * n}") for n in range(6)]).model_dump(mode="json")
    with pytest.raises(PlanError, match=said) as error:
        check_plan({**raw, "experiments": text})
    assert error.value.path.startswith("experiments") and error.value.remedy


def test_an_items_own_creatives_only() -> None:
    arm = {"changes": {"creatives": {"c1": {"i9": ["v1"]}}}}
    with pytest.raises(PlanError, match="is no item of the campaign"):
        tiny_plan(campaigns=[sold(1, "i2")], experiments=layers(experiment(arm=arm)))


@pytest.mark.parametrize("said", ["off", '"off"', "false"])
def test_off_is_off_with_and_without_quotes(said: str) -> None:
    """YAML 1.1 reads a bare `off` as false."""
    arms = f"[{{name: control}}, {{name: a, state: {said}}}, {{name: b}}]"
    one = f"{{name: e, arms: {arms}, ramp: [{{at: '{START}', enrolled: 1}}]}}"
    shown = "{name: s, layout: feed, size: 2, kinds: [content]}"
    layer = f"{{name: l, experiments: [{one}]}}"
    text = f"name: p\nsurfaces: {{home: [s]}}\nslots: [{shown}]\nexperiments: {{layers: [{layer}]}}"
    plan = parse_plan(text)
    assert plan.experiments is not None
    assert [arm.state for arm in plan.experiments.layers[0].experiments[0].arms] == ["live", "off", "live"]
    with pytest.raises(PlanError, match=r"live.*off"):
        parse_plan(text.replace(f"state: {said}", "state: on"))


def test_what_a_plan_may_name_is_what_guards_and_reports_tell() -> None:
    assert set(RATES) | set(METRICS) == set(BETTER)
    assert {name: one.better for name, one in METRICS.items()} == {name: BETTER[name] for name in METRICS}
