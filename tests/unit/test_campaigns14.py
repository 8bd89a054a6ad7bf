"""The generated fortnight is what the evidence asks for; the rivals' prices stay within their ceilings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serving.curves import ASAP, EVEN, FRONT_LOADED
from training.bench import offline14
from training.bench.campaigns14 import GUARANTEED, SHARE, Size
from training.bench.flight14 import Flight
from training.bench.pacing import FULL, rivals_of
from training.bench.policies import NAMED, RIVALS, policy
from training.bench.rivals14 import GRIDS
from training.bench.traffic14 import market
from training.dual import CLICKED

SMALL = Size(
    views=1_500, days=3, customers=200, guaranteed=8, clicked=1, shares=2, quotas=4, standard=8,
    least_goal=100.0, least_clicks=20.0,
)  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_the_fortnight_has_the_goals_that_the_evidence_asks_for(seed):
    made = market(Size(**{**FULL, "customers": 1_000}), seed)
    campaigns = made.campaigns
    guaranteed = campaigns.tier == GUARANTEED
    assert len(campaigns) == 200
    assert guaranteed.sum() == 120
    assert (campaigns.wanted[guaranteed] >= 2_000).all()
    assert (campaigns.clicked & guaranteed).sum() == campaigns.clicked.sum() == FULL["clicked"]
    assert np.bincount(campaigns.pacing[guaranteed], minlength=3)[[EVEN, FRONT_LOADED, ASAP]].tolist() == [
        113, 5, 2,
    ]  # fmt: skip
    assert (campaigns.tier == SHARE).sum() == 10


@pytest.fixture(scope="module")
def offline():
    made = offline14.with_quotas(market(SMALL, 3), 3)
    return made, offline14.plan_offline(made, 3, steps=3)


@pytest.mark.parametrize("name", ["ours", *RIVALS])
def test_a_policy_flies_within_the_ceilings(offline, name):
    made, plan = offline
    short = replace(made, size=replace(made.size, days=1))
    programme = offline14.programme_of(made, made.views, 1.0)
    flying = policy(name, made, plan)
    flown = Flight(short, programme, 3).fly(flying)
    assert np.isfinite(flown.prices).all()
    assert (np.abs(flown.prices) <= programme.penalty + 1e-12).all()
    assert flown.over_quota == 0
    assert flown.over_cap == 0
    if flying.passing is not None:
        assert ((flying.passing > 0) & (flying.passing <= 1)).all()


def test_the_bound_owes_the_clicks_that_come_and_not_those_predicted(offline):
    made, _ = offline
    said = offline14.programme_of(made, made.views, 1.0)
    owed = offline14.programme_of(made, made.views, 1.0, calibrated=True)
    clicked = said.goal_unit == CLICKED
    assert clicked.any()
    truth = made.truth[made.campaigns.item[said.goal_campaign]]
    assert np.array_equal(owed.least[~clicked], said.least[~clicked])
    assert np.allclose((owed.least * truth)[clicked], said.least[clicked])


def test_every_tuned_gain_is_one_that_its_policy_takes(offline):
    for name, grid in GRIDS.items():
        policy(name, *offline, **{gain: values[0] for gain, values in grid.items()})


def test_rivals_by_name():
    assert rivals_of("none") == ()
    assert rivals_of("named") == NAMED
    assert rivals_of("pid,throttle") == ("pid", "throttle")
    with pytest.raises(ValueError, match="no rival is called 'best'"):
        rivals_of("pid,best")
