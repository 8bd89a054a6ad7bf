"""Ghost placements: who is held out, what the page would have been, and what is logged of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import serving.decide as deciding
from features.customer import Blobs
from features.ids import key32, key64
from serving import allocation
from serving.decide import decide, page_of
from serving.exploring import explored
from serving.ghosts import held_out
from serving.live import Live
from serving.plan import PlanError, check_plan, load_plan
from serving.served import record
from serving.splitting import salt_of
from serving.surfaces import BIT
from serving.wire import RecommendAsk
from tests.worlds import SLOTS, customer, market_live, placed, query, sold, tiny_bundle, tiny_live, tiny_plan
from training import trace

PLAN = Path(__file__).parents[2] / "k8s" / "plan.yaml"
GHOSTS = {"ghosts": 0.05}
PLAIN = [
    sold(1, "i2", values={"click": 50.0}),
    sold(2, "i9", "home.feed", values={"click": 40.0}),
    sold(3, "i14", tier="mandatory"),
]


def pages(live: Any, n: int = 400, **fields: Any) -> list[Any]:
    return [decide(query(live, subject=f"u:u{at}", **fields), live) for at in range(n)]


@pytest.fixture(scope="module")
def held() -> tuple[Any, list[Any]]:
    live = market_live(*PLAIN, experiments=GHOSTS)
    return live, pages(live)


def test_a_part_is_held_out_by_hash_and_never_of_what_is_mandatory(held: Any) -> None:
    live, made = held
    names = live.plan.campaigns.ids
    ghosts = {
        name: [names[one.campaign] for page in made for one in page.ghosts].count(name) for name in names
    }
    assert ghosts["c3"] == 0 and 8 <= ghosts["c1"] <= 36 and 8 <= ghosts["c2"] <= 36
    share = np.array([0.05])
    keys = np.array([key64(f"u:u{at}") for at in range(400)], np.uint64)
    hashed = held_out(keys, np.full(400, salt_of("", "ghost", "c1"), np.uint64), share)
    assert hashed.tolist() == [any(names[one.campaign] == "c1" for one in page.ghosts) for page in made]


def test_the_page_is_the_one_without_the_campaign_and_the_log_has_the_one_with_it(held: Any) -> None:
    live, made = held
    whole, alone = market_live(*PLAIN), {
        "c1": market_live(*PLAIN[1:]), "c2": market_live(PLAIN[0], PLAIN[2]),
    }  # fmt: skip
    seen = 0
    for at, page in enumerate(made):
        plain = decide(query(whole, subject=f"u:u{at}"), whole)
        where = {(one.slot, one.position): one.campaign_key for one in plain.placements}
        names = {live.plan.campaigns.ids[one.campaign] for one in page.ghosts}
        assert not any(placed(page, live, name) for name in names)
        assert all(where[one.slot, one.position] == one.key for one in page.ghosts)
        all_held = live.ghosts.held(f"u:u{at}")
        other = alone.get("".join(names)) if all_held.sum() == 1 else None
        if not names:
            other = whole
        if other is not None:
            same = decide(query(other, subject=f"u:u{at}"), other)
            assert [one.row for one in page.placements] == [one.row for one in same.placements]
            seen += bool(names)
    assert seen > 10


def test_lotteries_change_neither_who_is_shown_a_campaign_nor_who_would_have_been(held: Any) -> None:
    """Ghosts are noted before exploration, the shown after it: no place of a campaign is in a lottery of
    items, whatever explores, and nothing that is drawn comes with a campaign."""
    _, plain = held
    slots = [{**slot, "explore": 0.5, "explore_new": 0.5} for slot in SLOTS]
    live = market_live(*PLAIN, experiments=GHOSTS, slots=slots)
    turned = 0
    for before, page in zip(plain, pages(live), strict=True):
        assert page.ghosts == before.ghosts
        where, now = ([(at, one.campaign) for at, one in enumerate(of.placements)] for of in (before, page))
        assert where == now
        turned += sum(one.drawn > 0 for one in page.lotteries)
    assert turned > 400


def test_nobody_is_shown_what_they_are_held_out_from_however_often_a_page_is_solved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every item of a slot has a creative that may not be shown: more turns are wanted than there are."""
    one = sold(2, "i9", "home.feed", values={"click": 40.0})
    live = market_live(one, experiments={"ghosts": 0.05})
    asked = [query(live, subject=f"u:u{n}", decision_id=f"d{n}") for n in range(400)]
    held = [one for one in asked if live.ghosts.held(one.subject).any()]
    assert len(held) > 10
    creative, banner = Live.creative, live.plan.slots["home.banner"]
    shut = {row for row in range(len(live)) if int(live.plan.members[row]) & banner.bit}

    def dead(self: Any, row: int, layout: int, *rest: Any) -> int | None:
        return None if row in shut and layout == banner.layout_code else creative(self, row, layout, *rest)

    monkeypatch.setattr(Live, "creative", dead)
    for most in (1, 2, 12):
        monkeypatch.setattr(allocation, "MOST_TURNS", most)
        bare = market_live(one, experiments={"ghosts": 0.05})
        for asking in held:
            decision = decide(asking, bare)
            assert not placed(decision, bare, "c2") and decision.ghosts


def test_what_only_held_out_campaigns_proposed_is_no_runner_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of items that nobody has clicked, which lotteries would rather try than others."""
    slots = [{**slot, "explore": 0.5, "explore_new": 0.5} for slot in SLOTS]
    bundle, plan = tiny_bundle(900), tiny_plan(slots=slots)
    feed = plan_slot(plan, bundle, "home.feed")
    sells = [
        {
            "id": f"c{k}",
            "items": feed[k::6][:40],
            "slots": ["home.feed"],
            "values": {"click": 40.0},
            "ghost": 0.05,
        }
        for k in range(6)
    ]
    fresh = np.isin(bundle.items.keys, [key64(item) for one in sells for item in one["items"]])
    bundle.stats["clicks"][:], bundle.stats["displays"][:] = (
        np.where(fresh, 0, 1_000),
        np.where(fresh, 0, 20_000),
    )
    live = tiny_live(bundle, tiny_plan(campaigns=sells, slots=slots))
    alone: list[set[int]] = []  # keys of candidates that only campaigns proposed

    def watched(asked: Any, live: Any, ranked: Any, *rest: Any) -> Any:
        mine = ranked.origin == 1 << BIT["campaign"]
        held = live.ghosts.held(asked.subject)
        others = live.offers.row[~held[live.offers.campaign]]
        alone.append(set(live.keys[ranked.rows[mine & ~np.isin(ranked.rows, others)]].tolist()))
        return explored(asked, live, ranked, *rest)

    monkeypatch.setattr(deciding, "explored", watched)
    pages = [decide(query(live, subject=f"u:u{n}"), live) for n in range(300)]
    met = [(page, ours) for page, ours in zip(pages, alone, strict=True) if page.ghosts and ours]
    assert len(met) > 5
    for page, ours in met:
        assert not ours & {key for one in page.lotteries for key in one.keys}


def plan_slot(plan: Any, bundle: Any, name: str) -> list[str]:
    """Ids of the items that a slot may hold without a campaign."""
    live = tiny_live(bundle, plan)
    rows = np.flatnonzero(live.plan.members & np.uint64(live.plan.slots[name].bit))
    return [live.texts[row].id for row in rows.tolist()]


def test_a_campaigns_own_share_counts_and_nobody_is_held_out_without_profiling() -> None:
    live = market_live(
        sold(1, "i2", values={"click": 50.0}, ghost=0.05), sold(2, "i8", values={"click": 40.0})
    )
    assert {page.ghosts[0].key for page in pages(live, 200) if page.ghosts} == {key32("c1")}
    assert not any(page.ghosts for page in pages(live, 200, profiling=False))
    with pytest.raises(PlanError, match="held out from nobody"):
        market_live(sold(3, "i14", tier="mandatory", ghost=0.01))


def test_every_campaign_holds_one_in_a_hundred_out_unless_said_otherwise() -> None:
    mandatory, own = sold(3, "i14", tier="mandatory"), sold(2, "i9", "home.feed", ghost=0.02)
    raw = {"name": "p", "surfaces": {"home": [one["name"] for one in SLOTS]}, "slots": SLOTS}
    raw["campaigns"] = [sold(1, "i2"), own, mandatory, sold(4, "i20", ghost=0)]
    for said, usual in (
        ({}, 0.01),
        ({"experiments": {"salt": "x"}}, 0.01),
        ({"experiments": {"ghosts": 0}}, 0),
    ):
        live = tiny_live(plan=check_plan(raw | said))
        found = dict(zip(live.plan.campaigns.ids, live.ghosts.share.tolist(), strict=True))
        assert found == {"c1": usual, "c2": 0.02, "c3": 0.0, "c4": 0.0}
    shipped = load_plan(PLAN)
    assert shipped.experiments is not None and shipped.experiments.ghosts == 0.01


def test_dividing_experiments_anew_draws_no_other_ghosts() -> None:
    """A campaign's lift is read days and weeks later: who was never shown it must stay the same."""
    before, after = (market_live(*PLAIN, experiments=GHOSTS | {"salt": salt}) for salt in ("", "another"))
    everybody = [f"u:u{at}" for at in range(2_000)]
    held = np.array([before.ghosts.held(one) for one in everybody])
    assert (held == [after.ghosts.held(one) for one in everybody]).all()
    one, other = held[:, 0].astype(float), held[:, 1].astype(float)
    assert one.mean() == pytest.approx(0.05, abs=0.015) and abs(np.corrcoef(one, other)[0, 1]) < 0.07


def test_what_is_logged(held: Any) -> None:
    live, made = held
    page = next(one for one in made if one.ghosts)
    row = record(page, Blobs(*[None] * 6), RecommendAsk(user_id="u1"), live)
    assert row["ghosts"][0][0] == page.ghosts[0].key and page.ghosts[0].key not in row["decided"]
    assert set(row["decided"]) == {one.campaign_key for one in page.placements if one.campaign >= 0}
    refused = pages(live, 1, profiling=False)[0]
    asked = RecommendAsk(user_id="u1")
    assert row["lifts"] and not record(refused, Blobs(*[None] * 6), asked, live)["lifts"]
    assert customer().unit == ""


def test_a_trace_says_who_was_held_out(held: Any) -> None:
    live, made = held
    decision = next(one for one in made if one.ghosts)
    told = trace._campaigns(SimpleNamespace(live=live, page=page_of(decision.query, live), decision=decision))
    states = {one["campaign"]: one["state"] for one in told}
    names = {live.plan.campaigns.ids[one.campaign] for one in decision.ghosts}
    assert {name for name, state in states.items() if state == "held_out"} == names
    assert states["c3"] == "placed"
