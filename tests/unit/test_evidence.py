"""What popularity is worth to those of whom little is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.transforms import History
from serving.ensemble_model import EnsembleModel, standardised
from serving.models import PopularModel, ServedModel, load_model
from tests.unit.test_ease import NO_TOKENS, data
from training.ease import Ease
from training.ensemble import Ensemble, settings_of, with_prior
from training.evaluate import Cases, Lists, Past
from training.evidence import fit_worth, metric_of, shortened
from training.model import Customers, Effort
from training.popular import PopularByDecay

POPULAR = {"half_life_days": 1e4, "smoothing": 10.0}
EASE = {"l2": 5.0, "pseudo": 0.0, "half_life_days": 1e4}


@pytest.fixture(scope="module")
def models() -> tuple[ServedModel, PopularModel]:
    return Ease().fit(data(), EASE, Effort(0, 1)), PopularByDecay().fit(data(), POPULAR, Effort(0, 1))


def history(*rows: int) -> History:
    return History(np.array(rows, np.int32), np.ones(len(rows), np.float32))


def scores(model: ServedModel, *rows: int) -> np.ndarray:
    return model.score_all(model.represent(history(*rows), NO_TOKENS, 0))


def test_of_nobody_the_prior_alone_speaks_and_of_many_items_hardly(models, tmp_path: Path) -> None:
    ease, popular = models
    plain, drawn = EnsembleModel([ease], [1.0]), EnsembleModel([ease], [1.0], popular, 4.0)
    assert np.array_equal(scores(drawn), standardised(scores(popular)))
    few, many = (np.corrcoef(scores(drawn, *range(n)), scores(plain, *range(n)))[0, 1] for n in (1, 12))
    assert few < many
    assert np.array_equal(scores(drawn, 999), standardised(scores(popular, 999)))  # not in this bundle
    drawn.save(tmp_path)
    assert np.array_equal(scores(load_model(tmp_path), 1, 2), scores(drawn, 1, 2))


def test_shortened_histories_keep_the_latest() -> None:
    past = Past(np.array([0, 3, 3, 4]), np.array([5, 6, 7, 8], np.int32), np.arange(4, dtype=np.float32))
    two = shortened(past, 2)
    assert two.indptr.tolist() == [0, 2, 2, 3]
    assert two.rows.tolist() == [6, 7, 8]
    assert two.weights.tolist() == [1, 2, 3]
    assert not len(shortened(past, 0).rows)


def test_the_worth_is_less_where_histories_say_more(models) -> None:
    ease, popular = models
    n, rng = ease.n_items, np.random.default_rng(2)
    rows = np.stack([rng.permutation(n)[:12] for _ in range(60)]).astype(np.int32)
    past = Past(np.arange(61, dtype=np.int64) * 12, rows.ravel(), np.ones(720, np.float32))
    best = np.argsort(-scores(popular))[:3]
    found = {}
    for useful in (True, False):
        wanted = [np.argmax(scores(ease, *row)) if useful else rng.choice(best) for row in rows]
        held = Lists.group(np.arange(60), np.array(wanted, np.int32), 60)
        nothing = Lists.group(np.zeros(0, np.int64), np.zeros(0, np.int32), 60)
        cases = Cases(np.arange(60, dtype=np.int32), held, nothing, n)
        customers, value = Customers.unknown(60), metric_of("mrr", (10,))
        found[useful] = fit_worth(EnsembleModel([ease], [1.0]), popular, cases, past, customers, value)
    assert found[True] < found[False]


def test_a_setting_brings_its_prior_along() -> None:
    params = with_prior(settings_of({"ease": EASE}, {"ease": 1.0}), POPULAR, 2.0)
    made = Ensemble({"ease": Ease(), "popular": PopularByDecay()}).fit(data(), params, Effort(0, 1))
    assert made.worth == 2.0
    assert isinstance(made.prior, PopularModel)
    assert with_prior({"ease.weight": 1.0}, POPULAR, 0.0) == {"ease.weight": 1.0}
