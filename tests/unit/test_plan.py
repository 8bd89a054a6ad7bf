from __future__ import annotations

from pathlib import Path

import pytest

from features.ids import KINDS, key32
from serving.live import build_live, compile_for
from serving.plan import PlanError, check_plan, default_plan, load_plan, parse_plan
from tests.worlds import SLOTS, item, tiny_bundle, tiny_items, tiny_plan

ROOT = Path(__file__).parents[2]
SLOT = {"name": "home.shelf", "layout": "shelf", "size": 2, "kinds": ["product"]}
PLAN = {"name": "p", "surfaces": {"home": ["home.shelf"]}, "slots": [SLOT]}


def test_the_shipped_plan_has_the_canonical_homepage():
    plan = load_plan(ROOT / "k8s" / "plan.yaml")
    sizes = {slot.name: slot.size for slot in plan.slots}
    assert [sizes[name] for name in plan.surfaces["home"]] == [5, 10, 8, 1, 4, 12]
    assert set(plan.surfaces) == {"home", "wealth", "life"}
    compiled = compile_for(plan, tiny_bundle(600))
    assert compiled.slots["home.grid"].key == key32("home.grid")
    assert compiled.areas[key32("320100")] == (key32("320000"),)
    assert compiled.audiences.names == ("young", "wealthy", "winback", "interested")
    assert compiled.orgs.root == "head" and compiled.orgs.zones["branch/310000"] == "Asia/Shanghai"
    assert (
        plan.values is not None
        and len(compiled.campaigns) == 0
        and len(compiled.campaigns.contact_rules) == 2
    )


def test_the_campaigns_that_the_shipped_plan_shows_as_examples_are_valid():
    text = (ROOT / "k8s" / "plan.yaml").read_text(encoding="utf-8")
    before, _, examples = text.partition("# campaigns:\n")
    uncommented = "campaigns:\n" + "".join(f"{line[2:]}\n" for line in examples.splitlines())
    banner = "{name: home.banner, layout: banner, size: 5, kinds: [activity, content, benefit]"
    assert banner in before
    plan = parse_plan(before.replace(banner, banner + ", shares: {branch/110000: 0.2}") + uncommented)
    assert [one.tier for one in plan.campaigns] == ["mandatory", "guaranteed", "standard", "share"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"slots": [SLOT, SLOT]}, "duplicate slot 'home.shelf'"),
        ({"surfaces": {"home": ["home.none"]}}, "unknown slot 'home.none'"),
        ({"surfaces": {"home": ["home.shelf", "home.shelf"]}}, "names a slot twice"),
        ({"surfaces": {}}, "surfaces"),
        ({"slots": [SLOT | {"kinds": ["thing"]}]}, "slots.0.kinds.0"),
        ({"slots": [SLOT | {"kinds": ["product", "product"]}]}, "may not name a thing twice"),
        ({"slots": [SLOT | {"layout": "hero"}]}, "slots.0.layout"),
        ({"slots": [SLOT | {"size": 0}]}, "slots.0.size"),
        ({"slots": [SLOT | {"explore": 0.6}]}, "slots.0.explore"),
        ({"slots": [SLOT | {"refresh": "hour"}]}, "slots.0.refresh"),
        ({"colour": 1}, "colour: Extra inputs are not permitted; remove it"),
        ({"name": None}, "name"),
    ],
)
def test_a_plan_is_checked_whole_and_errors_name_the_path(change, problem):
    with pytest.raises(PlanError) as caught:
        check_plan(PLAN | change)
    assert problem in str(caught.value) and caught.value.remedy


def test_missing_parts_say_so():
    with pytest.raises(PlanError, match="surfaces: Field required; add it"):
        check_plan({"name": "p", "slots": [SLOT]})


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "\x00"])
def test_text_that_is_no_plan_is_refused(text):
    with pytest.raises(PlanError):
        parse_plan(text, "here")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(PlanError, match=r"none\.yaml"):
        load_plan(tmp_path / "none.yaml")


def test_the_version_is_of_the_content():
    assert check_plan(PLAN).version == check_plan(dict(reversed(PLAN.items()))).version
    assert check_plan(PLAN).version != check_plan(PLAN | {"name": "q"}).version
    assert len(check_plan(PLAN).version) == 12


def fallback(*names):
    slots = [slot | ({"fallback": list(names)} if slot["name"] == "home.shelf" else {}) for slot in SLOTS]
    return tiny_plan(slots=slots)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("nowhere",), "is not in the catalogue"),
        (("i0",), "is of a kind or layout that home.shelf does not take"),
        (("i1",), "is not open"),
    ],
)
def test_a_fallback_must_be_open_and_of_the_slot(names, problem):
    items = [item(1, risk_class=2) if n == 1 else item(n) for n in range(120)]
    with pytest.raises(PlanError, match=problem) as caught:
        compile_for(fallback(*names), tiny_bundle(items=items))
    assert "slots.2.fallback" in caught.value.path


def test_fallbacks_keep_the_operators_order():
    compiled = compile_for(fallback("i19", "i7"), tiny_bundle())
    assert compiled.slots["home.shelf"].fallback.tolist() == [19, 7]


def test_a_slot_without_enough_open_items_is_refused():
    items = [item(n, **({"risk_class": 1} if n % 6 == 1 and n > 15 else {})) for n in range(120)]
    with pytest.raises(PlanError, match=r"home\.shelf: 4 places, but only 3 open items"):
        compile_for(tiny_plan(), tiny_bundle(items=items))


def test_slots_that_compete_for_the_same_items_are_counted_together():
    # 5 open benefits: enough for home.benefits (3) alone, and for the popup, and for the banner, not for all.
    only = [item(n, "benefit") for n in range(5)]
    kinds = ["function"] * 9 + ["product"] * 15 + ["service"] * 9
    rest = [item(100 + n, kind) for n, kind in enumerate(kinds)]
    with pytest.raises(PlanError, match=r"home.banner \+ home.benefits: 6 places, but only 5"):
        compile_for(tiny_plan(), tiny_bundle(items=only + rest))


def test_items_that_no_live_creative_can_render_are_in_no_slot():
    made = [item(n) for n in range(120)]
    made[1] = item(1, creatives=[{"id": "c", "title": "t", "layouts": ["banner"]}])
    compiled = compile_for(tiny_plan(), tiny_bundle(items=made))
    assert int(compiled.members[1]) == 0
    assert 1 not in compiled.slots["home.shelf"].wide.tolist()


def test_partitions_hold_the_kinds_of_the_slot_and_popular_comes_first():
    bundle = tiny_bundle()
    slot = compile_for(tiny_plan(), bundle).slots["home.feed"]
    kinds = bundle.compiled.table["kind"][slot.wide]
    assert {KINDS[code] for code in kinds.tolist()} == {"content", "product", "activity", "service"}
    shares = bundle.popular.shares[0][slot.wide]
    assert (shares[1:] <= shares[:-1]).all()
    assert slot.open.tolist() == slot.wide.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_fits_a_catalogue_of_one_kind(kind):
    for n in (1, 2, 3, 24, 61, 3000):
        plan = default_plan({kind: n})
        places = sum(slot.size for slot in plan.slots)
        assert 1 <= places <= max(1, n // 3) and places <= 20
        assert set(plan.surfaces["home"]) <= {"home.shelf", "home.feed"}
        compile_for(plan, tiny_bundle(items=[item(i, kind) for i in range(n)]) if n > 2 else tiny_bundle())


def test_all_kinds_give_the_canonical_homepage():
    plan = default_plan(dict.fromkeys(KINDS, 60))
    assert sum(slot.size for slot in plan.slots) == 40 and len(plan.slots) == 6
    compile_for(plan, tiny_bundle(items=tiny_items(360)))


def test_a_catalogue_too_thin_for_it_gets_a_smaller_page():
    plan = default_plan({"function": 3, "product": 9})
    assert sum(slot.size for slot in plan.slots) == 4


def test_an_empty_catalogue_has_no_plan():
    with pytest.raises(PlanError, match="load items first"):
        default_plan({})


def test_a_bundle_that_the_plan_does_not_fit_does_not_come_up():
    with pytest.raises(PlanError):
        build_live(tiny_bundle(6), (), tiny_plan())
