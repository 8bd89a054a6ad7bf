"""Every validated plan compiles against every bundle that has its items; no org's draft blocks another's."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st

from features.ids import KIND_CODE, KINDS
from serving.bundle import Bundle
from serving.calendar import Calendar
from serving.fragments import Fragment, check_fragment, check_frame, compose, compose_good
from serving.plan import CompiledPlan, Plan, PlanError, check_plan, compile_plan
from tests.campaigns import big_raw, stock_of
from tests.worlds import SLOTS, item, tiny_bundle

KINDS_OF = {slot["name"]: slot["kinds"] for slot in SLOTS}
SIZE_OF = {slot["name"]: slot["size"] for slot in SLOTS}
LIMITS = st.fixed_dictionaries(
    {
        "event": st.sampled_from(["displayed", "clicked", "dismissed", "converted"]),
        "most": st.integers(1, 20),
        "window": st.sampled_from(["30m", "7d", "day", "week", "month", "session", "ever"]),
        "subject": st.sampled_from(["customer", "device"]),
        "scope": st.sampled_from(["item", "creative", "campaign", "category", "slot", "channel", "org"]),
    }
)
DAYS = st.integers(1, 28).map(lambda day: f"2026-11-{day:02d}")
FLIGHTS = st.fixed_dictionaries(
    {},
    optional={
        "from": st.just("2026-10-15") | DAYS,
        "until": st.just("2027-01-01T00:00:00+08:00") | DAYS,
        "tz": st.sampled_from(["Asia/Shanghai", "America/New_York", "Europe/Berlin"]),
        "weekdays": st.lists(
            st.sampled_from(["mon", "wed", "fri", "sun"]), min_size=1, max_size=3, unique=True
        ),
        "hours": st.sampled_from([[[9, 21]], [[0, 6], [22, 24]], [[7, 9], [8, 12]]]),
        "holidays": st.just("cn"),
    },
)


@st.composite
def campaigns(draw, name: str) -> dict[str, Any]:
    """A campaign whose items fit its slots; whether it agrees with itself and others is for the checks."""
    slot = draw(st.sampled_from(list(KINDS_OF)))
    codes = [KIND_CODE[kind] for kind in KINDS_OF[slot]]
    fitting = [number for number in range(120) if number % 6 in codes]
    numbers = draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=4, unique=True))
    tier = draw(st.sampled_from(["mandatory", "guaranteed", "share", "standard", "house"]))
    made: dict[str, Any] = {
        "id": name,
        "items": [f"i{n}" for n in numbers],
        "slots": [slot],
        "tier": tier,
        "flight": draw(FLIGHTS),
        "caps": draw(st.lists(LIMITS, max_size=2)),
        "audience": draw(st.sampled_from([None, "winback", "others", "both"])),
        "per_page": draw(st.sampled_from([None, 1, 3])),
        "pacing": draw(st.sampled_from(["even", "asap", "front_loaded"])),
        "state": draw(st.sampled_from(["live", "live", "paused"])),
        "values": draw(
            st.fixed_dictionaries({}, optional={"click": st.floats(-1, 5), "dismiss": st.floats(-5, 0)})
        ),
    }
    if tier == "guaranteed":
        made["goals"] = [
            {"at_least": draw(st.integers(1, 5000)), "unit": draw(st.sampled_from(["displayed", "CNY"]))}
        ]
        made["flight"] |= {"from": "2026-10-01", "until": "2027-02-01"}
    if tier == "share":
        made["goals"] = [{"share": draw(st.sampled_from([0.02, 0.05, 0.4])), "slot": slot}]
    if draw(st.booleans()):
        made["quotas"] = [
            {
                "id": "q",
                "at_most": draw(st.integers(1, 9000)),
                "per": draw(st.sampled_from(["flight", "day"])),
            }
        ]
    if draw(st.integers(0, 3)) == 0:
        made["pin"] = {slot: draw(st.integers(0, SIZE_OF[slot]))}
    if tier == "standard" and draw(st.booleans()):
        made["benefit"] = {"cost": draw(st.floats(0, 20)), "stock": draw(st.none() | st.integers(1, 99))}
    return made


@st.composite
def plans(draw) -> dict[str, Any]:
    raw = big_raw() | {"exclusions": [], "contact_rules": []}
    raw["campaigns"] = [draw(campaigns(f"c{n}")) for n in range(draw(st.integers(0, 8)))]
    if raw["campaigns"] and draw(st.booleans()):
        named = draw(
            st.lists(st.sampled_from([one["id"] for one in raw["campaigns"]]), min_size=1, unique=True)
        )
        raw["exclusions"] = [{"id": "x", "campaigns": named, "categories": ["product"]}]
    return raw


@lru_cache(16)
def bundle(n_items: int, shuffled: int) -> Bundle:
    """A catalogue of at least the plans' items, in some order."""
    order = np.random.default_rng(shuffled).permutation(n_items)
    return tiny_bundle(items=[item(int(number)) for number in order])


def sound(raw: dict[str, Any]) -> Plan | None:
    try:
        return check_plan(raw)
    except PlanError as error:
        assert error.path and error.remedy
        return None


@settings(max_examples=250, deadline=None)
@given(plans(), st.sampled_from([120, 121, 200, 360]), st.integers(0, 3), st.floats(1.79e9, 1.80e9))
def test_a_validated_plan_compiles_against_every_bundle_that_has_its_items(raw, n_items, shuffled, now):
    plan = sound(raw)
    event("valid" if plan is not None else "refused")
    if plan is None:
        return
    made = compile_plan(plan, stock_of(bundle(n_items, shuffled)))
    assert made.problems == ()
    agree(made, now)
    assert Plan.model_validate_json(plan.model_dump_json()).version == plan.version


def agree(made: CompiledPlan, now: float) -> None:
    """What must hold of any compiled campaigns."""
    columns, stock = made.campaigns, stock_of(bundle(120, 0))
    live = [one for one in made.plan.campaigns if one.state == "live"]
    assert columns.ids == tuple(one.id for one in live) and len(columns.calendars) == len(live)
    assert len(columns.offer_row) == sum(len(one.items) for one in live)
    assert len(set(zip(columns.offer_campaign.tolist(), columns.offer_row.tolist()))) == len(
        columns.offer_row
    )
    for c, bits in zip(columns.offer_campaign, columns.offer_slots):
        named = sum(made.slots[name].bit for name in columns.specs[c].slots)
        assert bits and int(bits) & ~named == 0
    for owned, all_of in ((columns.quota_of, columns.quotas), (columns.caps_of, columns.caps)):
        flat = [one for own in owned for one in own]
        assert sorted({*flat, *(columns.contact_rules if all_of is columns.caps else ())}) == list(
            range(len(all_of))
        )
    assert columns.open_at(now).tolist() == [one.open_at(now) for one in columns.calendars]
    assert all(isinstance(one, Calendar) for one in columns.calendars) and len(stock.kinds) == 120
    assert made.members[columns.exclusive_rows].sum() == 0


@st.composite
def drafts(draw, org: str) -> list[Fragment]:
    """Versions of an org's fragment, newest first; some sound, some not."""
    versions = []
    for revision in range(draw(st.integers(1, 3)), 0, -1):
        made = [draw(campaigns(f"{org}-{revision}-{n}")) for n in range(draw(st.integers(0, 2)))]
        for one in made:
            one |= {"audience": draw(st.sampled_from([None, "winback", "nobody"]))}
        raw = {"org": org, "revision": revision, "sequence": draw(st.integers(0, 9)), "campaigns": made}
        versions.append(check_fragment(raw))
    return versions


FRAME = check_frame(
    big_raw()
    | {"campaigns": [], "exclusions": []}
    | {"slots": [slot | {"shares": {"bj": 0.3, "sh": 0.3}} for slot in big_raw()["slots"]]}
)


@settings(max_examples=120, deadline=None)
@given(drafts("bj"), drafts("sh"))
def test_no_orgs_draft_blocks_another(ours, theirs):
    """bj and sh share no customer and no name: whatever one writes, the other gets what it would alone."""
    together, _ = compose_good(FRAME, {"bj": ours, "sh": theirs})
    for org, versions in (("bj", ours), ("sh", theirs)):
        alone, _ = compose_good(FRAME, {org: versions})
        mine = [one for one in together.campaigns if one.org == org]
        assert mine == list(alone.campaigns)
        stands = [version for version in versions if _fits(version)]
        expected = [] if not stands else [one.id for one in stands[0].campaigns]
        assert [one.id for one in mine] == expected
    assert compose_good(FRAME, {"sh": theirs, "bj": ours})[0].version == together.version


def _fits(version: Fragment) -> bool:
    try:
        compose(FRAME, [version])
    except PlanError as error:
        event("refused")
        assert error.path.startswith("fragment of ")
        return False
    event("stands")
    return True


def test_kinds_follow_in_turn():
    assert [item(n).kind for n in range(6)] == list(KINDS)
