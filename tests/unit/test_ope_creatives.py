"""Off-policy weights of pages whose creatives the bandit drew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from features.customer import Blobs, decode_customer
from features.ids import key32
from features.views import PROFILE
from serving.bandit import NOTHING_LEARNED
from serving.bandit_draws import chances_of
from serving.decide import decide
from serving.live import Live
from serving.served import record
from serving.wire import RecommendAsk
from tests.unit.test_creative_draws import items, live_of
from tests.worlds import NOW, query
from training.ope.estimators import dr, ips
from training.ope.policies import Round, as_logged, as_slates, rounds_of

PAGES = 150


def blobs_of(segment: int) -> Blobs:
    profile = PROFILE.blank(1)[0]
    profile["segment"], profile["profiling"], profile["consents"] = segment, 1, 7
    return Blobs(PROFILE.encode(profile, as_of=NOW - 60), None, None, None, None, None)


@pytest.fixture(scope="module")
def made() -> list[Live]:
    """Logged under the first; exploring less, hardly giving up anything for drawing."""
    return [live_of(items()), live_of(items(), explore=0.15), live_of(items(), budget=0.001)]


@pytest.fixture(scope="module")
def logged(made: list[Live]) -> list[dict[str, Any]]:
    return pages_of(made[0])


def pages_of(live: Live) -> list[dict[str, Any]]:
    found, ask = [], RecommendAsk(user_id="u1")
    for number in range(PAGES):
        blobs = blobs_of(number % 4)
        asked = query(live, decode_customer(blobs, now=NOW), decision_id=f"d{number}")
        page = decide(replace(asked, subject="u:u1"), live)
        found.append(record(page, blobs, ask, live))
    return found


def test_the_own_log_weighs_one_and_has_more_rounds_than_items_alone(made, logged) -> None:
    found = rounds_of(logged, lambda _: made[0], {})
    assert found.pages == PAGES and found.draws > PAGES and found.left_out == 0
    assert as_logged(found, np.random.default_rng(0)).weight == pytest.approx(1.0, abs=1e-12)
    assert [one.bound for one in found.rounds] == pytest.approx([1.0] * len(found.rounds))
    assert any(len(one.logged) == 1 and len(one.creative.logged) > 1 for one in found.rounds)


@pytest.mark.parametrize("at", [1, 2])
def test_a_creatives_chance_is_the_candidates_own_whatever_its_page_drew(made, logged, at) -> None:
    other = made[at]
    found = rounds_of(logged, lambda _: other, {})
    met = beside = 0
    for one in found.rounds:
        if len(one.creative.logged) < 2 or not one.target.get(one.shown):
            continue
        segment = int(one.page) % 4
        slot = other.plan.slots[one.slot]
        keys = tuple(one.creative.logged)
        told = chances_of(other.learned, one.shown, segment, keys, slot.explore_budget)
        assert one.creative.target == pytest.approx(dict(zip(keys, told, strict=True)))
        assert one.chance == pytest.approx(one.target[one.shown] * one.creative.target[one.creative.shown])
        met += 1
        beside += len(one.target) > 1 and max(one.target, key=lambda key: one.target[key]) != one.shown
    assert met > PAGES and beside > 5


def test_what_a_creative_earns_is_found_by_its_chances(made) -> None:
    """Logged while nothing was learned, where all creatives are alike; they earn where what was learned since
    shows them mostly."""
    live, earned = made[0], {}
    rows = pages_of(live.taught(NOTHING_LEARNED))
    for number, row in enumerate(rows):
        held = {one[0]: one for one in row["draws"]}
        met: dict[int, int] = {}
        for place, item in enumerate(np.frombuffer(row["items"], "<u8").tolist()):
            slot = row["place_slot"][place]
            position = met[slot] = met.get(slot, -1) + 1
            if place in held:
                _, keys, _, drawn = held[place]
                if keys[drawn] in _liked(live, item, tuple(keys), number):
                    earned[row["subject"], row["id"], key32(row["slots"][slot]), position] = 1.0
    found = rounds_of(rows, lambda _: live, earned)
    rng = np.random.default_rng(1)
    seen = as_logged(found, rng)
    mean, spread = seen.weight.mean(), seen.weight.std() / np.sqrt(len(seen))
    assert abs(mean - 1) < 4 * spread and seen.bound is None
    truth = np.mean([_worth(one, live) for one in found.rounds])
    for estimate in (ips(seen), dr(seen)):
        assert abs(estimate.value - truth) < 4 * estimate.error
    assert truth - seen.reward.mean() > 6 * ips(seen).error
    assert len(as_slates(found, rng)) > 1


def _liked(live: Live, item: int, keys: tuple[int, ...], page: int) -> dict[int, float]:
    """The creatives that are shown more often than not, with their chances."""
    told = chances_of(live.learned, item, page % 4, keys, 0.5)
    return {key: chance for key, chance in zip(keys, told, strict=True) if chance > 0.5}


def _worth(one: Round, live: Live) -> float:
    """What a place earns under the candidate, over all that it may put there."""
    total = 0.0
    for item, chance in one.target.items():
        row = int(live.items.rows_of_keys(np.array([item], np.uint64))[0])
        own = live.creative(row, live.plan.slots[one.slot].layout_code, False, NOW)
        if own is not None and own >= 0:
            texts = live.texts[row].creatives
            keys = (texts[own].key, *(text.key for at, text in enumerate(texts) if at != own))
            total += chance * sum(_liked(live, item, keys, one.page).values())
    return total
