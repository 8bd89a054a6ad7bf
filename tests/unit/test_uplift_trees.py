"""Uplift by forests, from pages on which chance decided, against a truth that is known."""

from __future__ import annotations

import numpy as np
import pytest

from training import uplift_trees
from training.bench.uplift_rivals import area
from training.uplift import Study
from training.uplift_trees import UpliftError, clicks_alone, r_learner, t_learner, x_learner


def trial(n: int = 6_000, seed: int = 1) -> tuple[Study, np.ndarray]:
    """Two offers, each shown to a third; a click persuades, and those who click buy less by themselves."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (n, 3)).astype(np.float32)
    click = np.stack([0.6 / (1 + np.exp(-2 * x[:, 0])), 0.6 / (1 + np.exp(2 * x[:, 0]))], axis=1)
    anyway = 0.3 / (1 + np.exp(2 * x[:, 1]))
    item = rng.integers(-1, 2, n)
    clicked = (item >= 0) & (rng.random(n) < click[np.arange(n), np.maximum(item, 0)])
    own = rng.random((n, 2)) < anyway[:, None]
    used = clicked & (rng.random(n) < 0.7)
    bought = own.copy()
    bought[used, item[used]] = True
    study = Study(
        columns=x, interest=np.zeros((n, 2), np.float32), tags=np.zeros(0, np.int64), item=item,
        clicked=clicked, used=used, fresh=clicked, bought=bought,
        chance=np.full((n, 2), 1 / 3, np.float32), quiet=np.ones(n, np.bool_),
        keys=np.arange(2, dtype=np.uint64), kinds=np.zeros(2, np.uint8), group=np.arange(2),
        groups=np.arange(2, dtype=np.uint32),
    )  # fmt: skip
    return study, click * 0.7 * (1 - anyway[:, None])


# Two forests that are subtracted carry the noise of both: the T-learner is the weakest by construction.
@pytest.mark.parametrize(("learner", "least"), [(t_learner, 0.7), (x_learner, 0.8), (r_learner, 0.8)])
def test_who_gains_is_found(learner: object, least: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplift_trees, "CLICK_TREES", 30)
    monkeypatch.setattr(uplift_trees, "BASE_TREES", 25)
    study, _ = trial()
    fresh, truth = trial(2_000, seed=2)
    found = learner(study)(fresh.seen)  # type: ignore[operator]
    assert found.shape == truth.shape
    assert area(found, truth) / area(truth, truth) > least
    assert found.mean() == pytest.approx(truth.mean(), rel=0.35)


def test_clicks_alone_order_by_clicks_and_chance_is_needed() -> None:
    study, _ = trial(2_000)
    assert (((p := clicks_alone(study)(study.seen)) > 0) & (p < 1)).all()
    for learner in (t_learner, x_learner, r_learner):
        with pytest.raises(UpliftError, match="randomised"):
            learner(study._replace(chance=None))
    with pytest.raises(UpliftError, match="are needed"):
        r_learner(study.take(np.arange(100)))
