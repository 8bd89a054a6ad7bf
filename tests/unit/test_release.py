"""Plans and bundles judged on logged pages before they are released."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from features.customer import Blobs, decode_customer
from features.ids import key32
from serving.decide import decide
from serving.live import Live
from serving.plan import PlanError
from serving.served import record
from serving.settings import Settings
from serving.wire import RecommendAsk
from tests.worlds import SLOTS, query, tiny_bundle, tiny_live, tiny_plan
from training.gate import Verdict
from training.ope.candidate import Views
from training.ope.plan_release import margin_of, off_policy
from training.ope.release import Release, Shares, appraised, told
from training.usage import UsageError

BLOBS = Blobs(None, None, None, None, None, None)
PAGES, CUSTOMERS = 500, 100


def explored(explore: float = 0.4, seed: int = 0, **feed: Any):
    slots = [{**slot, "explore": explore, **feed} if slot["name"] == "home.feed" else slot for slot in SLOTS]
    return tiny_live(tiny_bundle(seed=seed), tiny_plan(slots=slots))


def always(live: Live) -> Views:
    return lambda _: live


LIVE = explored()


def pages(winner: float, runner: float) -> tuple[list[Any], dict[Any, float]]:
    """Logged pages, on which the winners of lotteries are clicked this often, runners-up that often."""
    rng, logged, earned = np.random.default_rng(3), [], {}
    known = decode_customer(BLOBS, now=query(LIVE).now)
    for number in range(PAGES):
        who = f"u:u{number % CUSTOMERS}"
        page = decide(query(LIVE, known, decision_id=f"d{number}", subject=who), LIVE)
        logged.append(record(page, BLOBS, RecommendAsk(user_id="u1"), LIVE))
        for one in page.lotteries:
            place = page.placements[one.place]
            if rng.random() < (runner if one.drawn else winner):
                earned[who, f"d{number}", key32("home.feed"), place.position] = 1.0
    return logged, earned


@pytest.fixture(scope="module")
def good() -> tuple[list[Any], dict[Any, float]]:
    return pages(0.4, 0.05)


def test_the_policy_that_was_logged_is_as_good_as_itself(good) -> None:
    found = appraised(good[0], always(LIVE), good[1])
    assert found is not None and found.difference is not None and found.stopped() == []
    assert abs(found.difference[0]) < 0.1 * found.logged and found.same == 1.0
    assert found.before.places == found.after.places and found.document()["kinds"]["before"]["home.grid"]


def test_more_of_what_is_worse_is_stopped_with_its_reason(good) -> None:
    found = appraised(good[0], always(explored(0.5)), good[1])
    better = appraised(good[0], always(explored(0.2)), good[1])
    assert found is not None and better is not None and better.difference is not None
    assert better.stopped() == [] and better.difference[1] > 0
    (why,) = found.stopped(0.0)
    assert "beyond doubt" in why and "%" in why and found.stopped(0.5) == []


def test_what_the_log_cannot_tell_stops_nothing_and_is_said(good) -> None:
    other = explored(0.4, seed=5)
    found = appraised(good[0], always(other), good[1])
    assert found is not None and found.warnings and found.stopped() == []
    assert appraised([{**one, "lotteries": []} for one in good[0]], always(LIVE), {}) is None
    assert "explore" in told(None)["missing"]


def test_a_plan_that_fills_less_is_stopped(good) -> None:
    found = appraised(good[0][:50], always(explored(size=2)), good[1])
    assert found is not None and "it fills" in found.stopped()[-1]


def test_the_verdict_of_a_bundle_keeps_what_was_found() -> None:
    found = Release(10, 0, 20, 1.0, 0.1, (-0.05, -0.06, -0.04), (), Shares(), Shares())
    said = Verdict((), off_policy=told(found)).to_json()
    assert said["off_policy"]["stopped"] and "off_policy" not in Verdict(()).to_json()


def test_how_much_less_is_accepted_is_said_by_the_environment(tmp_path) -> None:
    assert margin_of({}) == 0.05 and margin_of({"FENLIU_RELEASE_MARGIN": "off"}) is None
    with pytest.raises(UsageError, match="between 0 and 1"):
        margin_of({"FENLIU_RELEASE_MARGIN": "-1"})
    settings = Settings(home=tmp_path)
    assert "lake" in off_policy(settings, tiny_plan(), {})["missing"] and issubclass(PlanError, Exception)
