"""The blend's fit, the displays it is fitted to, and the windows it and the models are asked over."""

from __future__ import annotations

import numpy as np
import pytest

from features.events import WHAT
from features.ids import KINDS
from features.transforms import fatigue
from features.views import CONTACT
from serving.blend import TERMS
from training.blend import ASSUMED_FATIGUE, Examples, fit_blend
from training.config import ConfigError, TrainConfig, parse_config, read_config
from training.shown import answered, tired

DAY = 86_400.0


def examples(n_cases=300, per_case=60, seed=1, measured=True, popularity=0.8):
    """Log-odds within a customer: 3 score + 0.8 log share - 0.6 fatigue; levels differ wildly."""
    rng = np.random.default_rng(seed)
    n = n_cases * per_case
    case = np.repeat(np.arange(n_cases), per_case)
    columns = np.ones((n, len(TERMS)), np.float32)
    level = rng.normal(0, 1, n_cases)
    columns[:, 1] = rng.normal(0, 0.5, n) - 0.8 * level[case]  # heavy users have lower scores here
    columns[:, 2] = rng.normal(-6, 1, n)
    columns[:, 4] = rng.exponential(0.7, n)
    effect = 3 * (columns[:, 1] + 0.8 * level[case]) + popularity * (columns[:, 2] + 6)
    odds = effect - 0.6 * columns[:, 4] + 2 * level[case] - 1.5
    label = (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(float)
    if not measured:
        columns[:, 4] = 0
    return Examples(case, columns, rng.integers(0, 3, n).astype(np.uint8), label, measured)


def test_slopes_are_those_within_a_customer():
    blend = fit_blend(examples())
    for kind in range(3):
        score, share, _, tiredness = blend.coefficients[kind, 1:]
        assert score == pytest.approx(3, rel=0.2)
        assert share == pytest.approx(0.8, rel=0.2)
        assert tiredness == pytest.approx(-0.6, rel=0.25)


def test_the_mean_prediction_is_the_mean_label():
    data = examples()
    blend = fit_blend(data)
    c = data.columns
    predicted = blend.score(data.kinds, c[:, 1], c[:, 2], c[:, 4])
    assert predicted.mean() == pytest.approx(data.label.mean(), rel=0.02)


def test_without_displays_fatigue_is_the_assumption():
    blend = fit_blend(examples(measured=False))
    assert np.allclose(blend.coefficients[:, 4], ASSUMED_FATIGUE)


def test_without_popularity_it_never_reorders_within_a_kind():
    blend = fit_blend(examples(), with_popularity=False)
    assert (blend.coefficients[:, 2] == 0).all()
    assert (blend.coefficients[:, 1] > 0).all()


def test_nothing_good_counts_against_an_item():
    data = examples()
    worthless = Examples(data.case, -data.columns, data.kinds, data.label, True)
    blend = fit_blend(worthless)
    assert (blend.coefficients[:, 1] > 0).all() and (blend.coefficients[:, 2] >= 0).all()
    assert (blend.coefficients[:, 4] <= 0).all()


def test_a_kind_without_examples_has_the_common_blend():
    blend = fit_blend(examples())
    assert np.array_equal(blend.coefficients[3], blend.coefficients[5])
    assert blend.coefficients.shape == (len(KINDS), len(TERMS))
    assert blend.coefficients[3, 1] == pytest.approx(3, rel=0.2)


def test_fatigue_over_columns_is_the_service_s_own():
    rng = np.random.default_rng(2)
    n = 400
    at = np.sort(np.floor(rng.uniform(0, 20 * DAY, n)))
    item = rng.integers(1, 6, n)
    what = np.where(rng.random(n) < 0.8, WHAT["displayed"], WHAT["clicked"])
    order = np.lexsort((what, at, item))
    group, at, what = item[order].astype(np.int64), at[order], what[order]
    displayed = what == WHAT["displayed"]
    found = tired(group, at, displayed, np.cumsum(~displayed))
    for place in np.flatnonzero(displayed)[::5]:
        before = (at < at[place]) & (group == group[place])
        contact = np.zeros(int(before.sum()), CONTACT)
        contact["item"], contact["at"], contact["what"] = group[before], at[before], what[before]
        key = np.array([group[place]], np.uint64)
        assert found[place] == pytest.approx(fatigue(contact, key, at[place])[0], rel=1e-4, abs=1e-5)


def test_a_click_answers_the_last_display_of_the_day():
    group = np.array([1, 1, 1, 2, 2, 3])
    at = np.array([0, 10, 20, 0, 2 * DAY, 5.0])
    answer = np.array([False, False, True, False, True, False])
    assert answered(group, at, answer)[[0, 1, 3, 5]].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"seed": -1}, "seed"),
        ({"sede": 1}, "sede"),
        ({"gate": {"metric": "auc"}}, "gate.metric"),
        ({"models": ["als", "magic"]}, "models"),
        ({"weights": {"clicked": "much"}}, "weights.clicked"),
        ([1, 2], "names and values"),
    ],
)
def test_a_wrong_configuration_names_the_field(raw, said):
    with pytest.raises(ConfigError, match=said):
        parse_config(raw, "train.yaml")


def test_configuration_from_yaml(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("seed: 3\nmodels: [popular]\ngate: {metric: mrr}\n")
    config = read_config(path)
    assert config.seed == 3 and list(config.build_models()) == ["popular"]
    assert config.gate.metric_for(10) == "mrr"
    path.write_text("seed: [")
    with pytest.raises(ConfigError, match="not YAML"):
        read_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "none.yaml")


def test_the_default_metric_gives_way_where_it_says_nothing():
    assert TrainConfig().gate.metric_for(3000) == "recall@20"
    assert TrainConfig().gate.metric_for(24) == "mrr"
    assert parse_config({"gate": {"metric": "recall@20"}}).gate.metric_for(24) == "recall@20"


def test_every_model_has_as_many_trials():
    config = TrainConfig()
    counts = {
        name: len(model.trials()[: config.evaluation.most_trials])
        for name, model in config.build_models().items()
    }
    assert set(counts.values()) == {config.evaluation.most_trials}
