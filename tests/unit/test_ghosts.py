"""Ghost placements: who is held out, what the page would have been, and what is logged of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from features.customer import Blobs
from features.ids import key32, key64
from serving.decide import decide
from serving.ghosts import held_out
from serving.plan import PlanError
from serving.served import record
from serving.splitting import salt_of
from serving.wire import RecommendAsk
from tests.worlds import customer, market_live, placed, query, sold

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


def test_a_campaigns_own_share_counts_and_nobody_is_held_out_without_profiling() -> None:
    live = market_live(
        sold(1, "i2", values={"click": 50.0}, ghost=0.05), sold(2, "i8", values={"click": 40.0})
    )
    assert {page.ghosts[0].key for page in pages(live, 200) if page.ghosts} == {key32("c1")}
    assert not any(page.ghosts for page in pages(live, 200, profiling=False))
    with pytest.raises(PlanError, match="held out from nobody"):
        market_live(sold(3, "i14", tier="mandatory", ghost=0.01))


def test_what_is_logged(held: Any) -> None:
    live, made = held
    page = next(one for one in made if one.ghosts)
    row = record(page, Blobs(*[None] * 6), RecommendAsk(user_id="u1"), live)
    assert row["ghosts"][0][0] == page.ghosts[0].key and page.ghosts[0].key not in row["decided"]
    assert set(row["decided"]) == {one.campaign_key for one in page.placements if one.campaign >= 0}
    assert customer().unit == ""
