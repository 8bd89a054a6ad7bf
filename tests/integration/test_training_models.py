"""Every model trained, one after another the one that serves: bundles load, answer and pass their gate."""

from __future__ import annotations

import numpy as np
import pytest

from features.transforms import History
from serving.bundle import load
from serving.models import EaseModel, EnsembleModel, IalsModel
from tests.integration.test_training_job import NOW, shop
from training.config import parse_config
from training.ensemble import weights_of
from training.job import run_training

SMALL = {
    "threads": 1,
    "als": {
        "factors": 8,
        "iterations": 3,
        "settings": [[3.0, 1.0]],
        "half_lives": [30.0],
        "strengths": [1.0],
    },
    "ials": {"factors": 8, "epochs": 4, "settings": [[0.01, 10.0]], "half_lives": [30.0], "strengths": [1.0]},
    "ease": {"ridges": [30.0], "half_lives": [30.0]},
    "neighbours": {"half_lives": [30.0], "pseudos": [1.0]},
    "popular": {"half_lives": [30.0]},
    "gate": {"fewest_customers": 5},
}


@pytest.mark.parametrize(
    ("models", "kind"),
    [(["ials"], IalsModel), (["ease"], EaseModel), (["als", "ials", "ease", "neighbours", "ensemble"], None)],
)
def test_what_is_trained_serves(tmp_path, models, kind):
    config = parse_config(SMALL | {"models": models})
    report = run_training(tmp_path, shop(events=4000), config, now=NOW)
    assert report.promoted, report.verdict
    bundle = load(report.folder, verify=True)
    if kind is not None:
        assert isinstance(bundle.model, kind)
    history = History(np.array([3, 7], np.int32), np.ones(2, np.float32))
    taste = bundle.model.represent(history, np.zeros(0, np.uint32), 1)
    scores = bundle.model.score_all(taste)
    assert np.isfinite(scores).sum() > 100
    best = bundle.model.nearest(taste, 5, 1)
    assert np.array_equal(best.score, np.sort(best.score)[::-1])
    assert set(report.metrics) == {*models, "popular"}


def test_an_ensemble_serves_and_a_second_run_compares_with_it(tmp_path):
    config = parse_config(SMALL | {"models": ["ials", "ease", "ensemble"]})
    report = run_training(tmp_path, shop(events=4000, noise=0.5), config, now=NOW)
    parts = weights_of(report.evaluation["params"]["ensemble"])
    assert set(parts) <= {"ials", "ease", "popular"}
    assert max(parts.values()) == 1.0
    if report.chosen == "ensemble":
        assert isinstance(load(report.folder, verify=True).model, EnsembleModel)
    again = run_training(tmp_path, shop(events=4500, noise=0.5, seed=2), config, now=NOW)
    assert [one["other"] for one in again.evaluation["comparisons"]] == ["popular", "live"]
