from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from serving.fragments import Fragment, Frame, check_fragment, check_frame, compose, compose_good
from serving.plan import PlanError, compile_plan
from tests.campaigns import LEVER, big_raw, campaign, stock_of

PIN = {"pin": {"home.banner": 0}, "tier": "mandatory"}


def frame(**fields: Any) -> Frame:
    raw = big_raw()
    raw["campaigns"] = [campaign(0), campaign(1, tier="house")]
    raw["exclusions"] = [{"id": "x1", "campaigns": ["c0", "c1"]}]
    raw["ceilings"] = {
        "bj": {"lever": 2.0, "penalty": 3.0, "campaigns": 2, "tiers": ["share", "standard", "mandatory"]}
    }
    return check_frame(raw | fields)


def fragment(org: str = "bj", *campaigns: dict[str, Any], **fields: Any) -> Fragment:
    shown = list(campaigns) or [campaign(50, id=f"{org}-1")]
    return check_fragment({"org": org, "campaigns": shown, **fields})


def test_a_plan_is_its_frame_and_the_fragments_in_the_orgs_order():
    plan = compose(frame(), [fragment("sh", sequence=1), fragment("bj", sequence=2)])
    assert [one.id for one in plan.campaigns] == ["c0", "c1", "bj-1", "sh-1"]
    assert [one.org for one in plan.campaigns] == ["head", "head", "bj", "sh"]
    assert plan.version == compose(frame(), [fragment("bj"), fragment("sh")]).version
    assert type(plan).__name__ == "Plan" and compile_plan(plan, stock_of()).problems == ()
    assert type(plan).model_validate_json(plan.model_dump_json()) == plan


def test_a_frame_stands_alone():
    assert [one.id for one in compose(frame(), []).campaigns] == ["c0", "c1"]
    with pytest.raises(PlanError, match=r"ceilings\.none"):
        frame(ceilings={"none": {}})
    with pytest.raises(PlanError, match=r"campaigns\.0\.slots\.0 \(c7\)"):
        frame(campaigns=[campaign(7, slots=["none"])])


def test_an_org_brings_audiences_and_groups_of_its_own():
    audiences = {"mine": {"all": [{"audience": "winback"}, {"field": "star_level", "at_least": 3}]}}
    one, two = campaign(51, audience="mine"), campaign(52, audience="winback")
    plan = compose(
        frame(),
        [fragment("bj", one, two, audiences=audiences, exclusions=[{"id": "b", "campaigns": ["c51"]}])],
    )
    assert list(plan.audiences)[-1] == "mine" and plan.exclusions[-1].campaigns == ("c51",)


BAD = [
    ({"org": "none"}, "org"),
    ({"campaigns": [campaign(51, org="sh")]}, r"campaigns\.0\.org \(c51\)"),
    ({"campaigns": [campaign(51, org="head")]}, r"campaigns\.0\.org \(c51\)"),
    (
        {"campaigns": [campaign(50), campaign(51, slots=["home.shelf"], items=["i1"])]},
        r"campaigns\.1\.slots\.0 \(c51\)",
    ),
    ({"campaigns": [campaign(51, customers_of="sh")]}, r"campaigns\.0\.customers_of \(c51\)"),
    ({"campaigns": [campaign(51, audience="none")]}, r"campaigns\.0\.audience \(c51\)"),
    ({"campaigns": [campaign(0)]}, r"campaigns\.0\.id \(c0\)"),
    ({"campaigns": [campaign(51, lever=LEVER | {"factor": 2.5})]}, r"campaigns\.0\.lever\.factor \(c51\)"),
    (
        {"campaigns": [campaign(51, tier="share", penalty=4, goals=[{"share": 0.1, "slot": "home.banner"}])]},
        r"campaigns\.0\.penalty \(c51\)",
    ),
    ({"campaigns": [campaign(51, tier="house")]}, r"campaigns\.0\.tier \(c51\)"),
    ({"campaigns": [campaign(51, exclusive=True)]}, r"campaigns\.0\.exclusive \(c51\)"),
    ({"campaigns": [campaign(n) for n in (50, 51, 52)]}, "campaigns"),
    ({"audiences": {"winback": {"member": "vip"}}}, r"audiences\.winback"),
    ({"audiences": {"a": {"not": {"audience": "none"}}}}, r"audiences\.a[^:]*"),
    ({"audiences": {"a": {"any": [{"audience": "a"}]}}}, r"audiences\.a[^:]*"),
    ({"exclusions": [{"id": "b", "items": ["i1"]}]}, r"exclusions\.0 \(b\)"),
    ({"exclusions": [{"id": "b", "campaigns": ["c0"]}]}, r"exclusions\.0 \(b\)"),
    (
        {"exclusions": [{"id": "x1", "campaigns": ["c50"]}], "campaigns": [campaign(50)]},
        r"exclusions\.0\.id \(x1\)",
    ),
]


@pytest.mark.parametrize(("fields", "path"), BAD)
def test_a_bad_fragment_is_refused_by_name_and_in_its_own_counting(fields, path):
    raw = {"org": "bj", "revision": 7, "campaigns": [], **deepcopy(fields)}
    with pytest.raises(PlanError, match=rf"^plan, fragment of \w+, revision 7: {path}: ") as caught:
        compose(frame(), [fragment("sh"), check_fragment(raw)])
    assert caught.value.remedy


@pytest.mark.parametrize(("fields", "path"), BAD)
def test_a_bad_draft_never_blocks_another_org(fields, path):
    bad = check_fragment({"org": "bj", "revision": 7, "sequence": 9, "campaigns": [], **deepcopy(fields)})
    org = bad.org
    good = fragment("sh", sequence=10), fragment("partner-x", sequence=3)
    older = [fragment("bj", revision=6)] if org == "bj" else []
    versions = {org: [bad, *older], "sh": [good[0]], "partner-x": [good[1]]}
    plan, problems = compose_good(frame(), versions)
    kept = ["bj-1"] if older else []
    assert [one.id for one in plan.campaigns] == ["c0", "c1", *kept, "partner-x-1", "sh-1"]
    assert len(problems) == 1 and "revision 7" in problems[0].path


def test_an_org_may_exclude_when_head_office_allows_it():
    allowed = frame(ceilings={"bj": {"exclusive": True}})
    plan = compose(allowed, [fragment("bj", campaign(51, exclusive=True))])
    assert plan.campaigns[-1].exclusive


def test_a_ceiling_is_of_the_orgs_below_too():
    late = fragment("bj-001", campaign(51, lever=LEVER | {"factor": 2.5}))
    with pytest.raises(PlanError, match="above the ceiling of 2"):
        compose(frame(), [late])


def test_of_two_that_clash_the_later_one_yields():
    both = [campaign(51, org="partner-x", **PIN), campaign(52, org="bj", **PIN)]
    partner, branch = (
        fragment("partner-x", both[0], sequence=1),
        fragment("bj", both[1], sequence=2, revision=4),
    )
    with pytest.raises(PlanError, match=r"fragment of bj, revision 4: campaigns\.0\.pin\.home\.banner"):
        compose(frame(), [branch, partner])
    fallback = fragment("bj", revision=3)
    plan, problems = compose_good(frame(), {"bj": [branch, fallback], "partner-x": [partner]})
    assert [one.id for one in plan.campaigns[2:]] == ["bj-1", "c51"] and len(problems) == 1
    swapped = [one.model_copy(update={"sequence": 3 - one.sequence}) for one in (branch, partner)]
    plan, _ = compose_good(frame(), {"bj": [swapped[0]], "partner-x": [swapped[1]]})
    assert [one.id for one in plan.campaigns[2:]] == ["c52"]


def test_good_fragments_compose_as_they_do_alone():
    versions = {"bj": [fragment("bj")], "sh": [fragment("sh")], "partner-x": []}
    plan, problems = compose_good(frame(), versions)
    assert problems == () and plan.version == compose(frame(), [fragment("bj"), fragment("sh")]).version


def test_a_fragment_handed_in_for_another_org_is_no_version_of_it():
    plan, problems = compose_good(frame(), {"sh": [fragment("bj"), fragment("sh")]})
    assert [one.id for one in plan.campaigns[2:]] == ["sh-1"] and "handed in for 'sh'" in str(problems[0])


def test_two_fragments_of_one_org_are_refused():
    with pytest.raises(PlanError, match="another fragment"):
        compose(frame(), [fragment("bj"), fragment("bj", campaign(51))])


def test_what_the_fields_say_is_checked_at_once():
    with pytest.raises(PlanError, match=r"campaigns\.0\.tier \(c51\)"):
        fragment("bj", campaign(51, tier="best"))
    with pytest.raises(PlanError, match=r"colour: .* remove it"):
        check_fragment({"org": "bj", "colour": 1})
