"""Whom an experiment on campaigns counts: only who could have been shown one of them, in whichever arm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from features.customer import Blobs
from features.events import served_to_log
from features.log import Entry
from serving.decide import decide
from serving.experiment import Experiment
from serving.experiment_compiling import campaigns_changed
from serving.experiments import idle
from serving.guard_counts import GuardCounts
from serving.served import record
from serving.wire import RecommendAsk
from tests.unit.test_experiments import experiment, layers
from tests.worlds import customer, market_live, query, sold
from training.experiment.changes import told_of
from training.log_rows import decode, served_table
from training.replay import differing

AUDIENCES = {"stars": {"field": "star_level", "at_least": 6}}
OFFERS = (
    sold(0, "i4"),
    sold(1, "i2", audience="stars", tier="mandatory"),
    sold(2, "i4", state="paused"),
    sold(3, "i2"),
)
CHANGES: dict[str, dict[str, Any]] = {
    "paused": {"paused": ["c1"]},
    "levers": {"levers": {"c1": 3.0}},
    "both": {"paused": ["c1"], "levers": {"c2": 2.0}},
}


def lives(change: dict[str, Any]) -> dict[str, Any]:
    """By arm a live whose u1 has it. c1 is for customers of six stars and more; c2 does not run."""
    found = {}
    for arm in ("control", "treatment"):
        text = layers(experiment(arm={"changes": change}), testers={"u1": {"ranking": f"e/{arm}"}})
        found[arm] = market_live(*OFFERS, audiences=AUDIENCES, experiments=text)
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_arms_agree_on_whom_they_could_differ_for(name: str) -> None:
    for arm, live in lives(CHANGES[name]).items():
        assert live.experiments.campaigns == {"e": (1,)}
        for stars, out in ((7, ()), (6, ()), (5, ("ranking",))):
            page = decide(query(live, customer(star_level=stars)), live)
            assert [one.name for one in page.arms] == [f"e/{arm}"] and page.idle == out
            shown = {one.campaign for one in page.placements}
            assert 1 not in shown or (stars >= 6 and (arm == "control" or "paused" not in CHANGES[name]))


def test_a_campaign_that_an_arm_pauses_is_shown_in_the_control_alone() -> None:
    pages = {
        arm: decide(query(live, customer(star_level=9)), live)
        for arm, live in lives(CHANGES["paused"]).items()
    }
    assert [1 in {one.campaign for one in page.placements} for page in pages.values()] == [True, False]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"ranker": "popularity"},
        {"paused": ["c1"], "slots": {"home.feed": {"size": 1}}},
        {"sources_off": ["new"]},
    ],
)
def test_other_experiments_are_counted_wherever_they_run(change: dict[str, Any]) -> None:
    live = lives(change)["treatment"]
    assert not live.experiments.campaigns and not decide(query(live, customer(star_level=1)), live).idle


def test_what_is_not_known_is_counted() -> None:
    arms = decide(query(lives(CHANGES["paused"])["control"]), lives(CHANGES["paused"])["control"]).arms
    assert idle(arms, {"e": (1,)}, None) == ()
    assert idle(arms, {"e": (1,)}, np.array([True, False])) == ("ranking",)
    assert (
        idle(arms, {"e": (1, 0)}, np.array([True, False])) == idle(arms, {"f": ()}, np.zeros(2, bool)) == ()
    )


def test_pages_that_cannot_differ_reach_neither_report_nor_guard() -> None:
    """Not forced: whoever has the arm by hash. Their record says so, and a replay finds the same."""
    live = market_live(
        *OFFERS, audiences=AUDIENCES, experiments=layers(experiment(arm={"changes": CHANGES["paused"]}))
    )
    entries, counts = [], GuardCounts()
    for stars in (9, 2):
        asked = query(live, customer(star_level=stars))
        page = decide(asked, live)
        row = record(page, Blobs(*[None] * 6), RecommendAsk(user_id="u1"), live)
        assert row["idle"] == ([] if stars == 9 else ["ranking"])
        assert differing({**row, "idle": row["idle"]}, page, live) == []
        assert differing({**row, "idle": ["other"]}, page, live) == ["idle"]
        payload = served_to_log({**row, "subject": f"u:{stars}", "unit": f"u:{stars}", "ms": 1.0})
        entries.append(Entry("s", "u:u1", payload))
    counts.take([one.payload for one in entries], {"e": False})
    assert counts.units("e") == 1
    made = served_table(decode([(0, str(at), one.payload) for at, one in enumerate(entries)]).rows)
    (arm,) = made["arms"].to_pylist()[0]
    assert arm.startswith("e/") and made["arms"].to_pylist()[1] == []


def test_a_report_says_what_it_counts() -> None:
    one = Experiment.model_validate(experiment(arm={"changes": {"paused": ["c2"], "levers": {"c1": 2.0}}}))
    assert campaigns_changed(one) == {"c1", "c2"}
    assert any("on which c1 or c2 could have been shown" in line for line in told_of(one))
    assert not any(
        "could have been shown" in line for line in told_of(Experiment.model_validate(experiment()))
    )
