"""The step `models`: settings tried on the validation window, then fits for the test and for service."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.ensemble_model import EnsembleModel
from serving.models import IalsModel, PopularModel, ServedModel, VectorModel, load_model
from training.config import ENSEMBLE, KNOWN, TrainConfig
from training.dataset import Dataset
from training.ensemble import (
    PRIOR,
    Ensemble,
    choose,
    fit_weights,
    part_of,
    said_of,
    settings_of,
    weights_of,
    with_prior,
)
from training.evaluate import KS
from training.evidence import fit_worth
from training.evidence import metric_of as value_of
from training.index import IndexReport, build_index
from training.interactions import Interactions
from training.item_traits import Traits
from training.model import Customers, Effort, Model, Params, TrainData
from training.popular import build_popular
from training.scoring import scorer_of
from training.split import Split, split
from training.tuning import Notice, Trial, Window, measure_model, tune
from training.windows import behaviour_of, cases_of, customers_of, masks, train_data

PHASES = ("train", "test", "final")
"""What a model was fitted on: up to validation, up to the test, and everything there is (to serve)."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A dataset cut into windows: `valid` to tune on, `test` to judge by, `final` to serve from."""

    dataset: Dataset
    split: Split
    customers: Customers
    config: TrainConfig
    metric: str
    valid: Window
    test: Window
    final: TrainData
    metric_note: str
    masked: bool  # items liked before are left out of the test's ranking
    learned_from: str

    @property
    def tested_on_train(self) -> bool:
        """Whether the models that are tested are those that were tuned."""
        return self.learned_from == "train"


def prepare(dataset: Dataset, config: TrainConfig, traits: Traits | None = None) -> Prepared:
    """Split and cut. Raises DataError where a part comes out empty.

    `traits` place new items, though not while tuning, where every setting is a fit.
    """
    parts = split(dataset, config.evaluation.protocol)
    customers = customers_of(dataset)
    rng = np.random.default_rng(config.seed)
    asked = config.evaluation.learn_from
    from_train = asked == "train" or (asked == "auto" and parts.protocol == "given")
    before = parts.train if from_train else parts.train_and_valid()

    def window(
        past: Interactions,
        lived: Interactions,
        later: Interactions,
        now: float,
        most: int,
        known: Traits | None = None,
    ) -> Window:
        repeats = config.evaluation.repeats
        cases = cases_of(dataset, past, later, repeats=repeats, most=most, rng=rng)
        behaviour = behaviour_of(cases, lived, now, dataset.others)
        return Window(train_data(dataset, customers, past, now, known), cases, behaviour)

    metric = config.gate.metric_for(dataset.n_items)
    gate = config.gate.model_copy(update={"metric": metric})
    return Prepared(
        dataset=dataset,
        split=parts,
        customers=customers,
        config=config.model_copy(update={"gate": gate}),
        metric=metric,
        metric_note="" if metric == config.gate.metric else _NEARLY_ALL.format(items=dataset.n_items),
        valid=window(
            parts.train, parts.train, parts.valid, parts.now_valid, config.evaluation.tuning_customers
        ),
        test=window(
            before,
            parts.train if from_train else parts.lived,
            parts.test,
            parts.now_test,
            config.evaluation.test_customers,
            traits,
        ),
        final=train_data(dataset, customers, dataset.interactions, dataset.now, traits),
        masked=masks(before, parts.test, dataset.n_items, config.evaluation.repeats),
        learned_from="train" if from_train else "train and valid",
    )


_NEARLY_ALL = (
    "with {items} items, 20 places hold much of the catalogue and Recall@20 tells nothing apart: "
    "models are tuned, chosen and judged by the reciprocal rank (configure gate.metric to change that)"
)


def fit_all(prepared: Prepared, folder: Path, notice: Notice) -> dict[str, tuple[Trial, ...]]:
    """Tune, fit for every phase, and save to `folder/{phase}/{model}`; the trials to `folder/trials.json`."""
    config = prepared.config
    models = config.build_models()
    trials = tune(models, prepared.valid, config, notice)
    windows = {"train": prepared.valid.data, "test": prepared.test.data, "final": prepared.final}
    if prepared.tested_on_train:
        del windows["train"]
    if config.blends:
        trials[ENSEMBLE] = (_together(models, trials, prepared, notice),)
        models[ENSEMBLE] = Ensemble(config.build_models())
    (folder / "trials.json").write_text(json.dumps(trials_json(trials), indent=1, sort_keys=True) + "\n")
    for phase, data in windows.items():
        for name, model in models.items():
            served = fit_one(model, data, trials[name][0].params, config, cities=phase == "final")
            served.save(folder / phase / name)
    return trials


def _together(
    models: Mapping[str, Model], trials: Mapping[str, tuple[Trial, ...]], prepared: Prepared, notice: Notice
) -> Trial:
    """The ensemble's setting: the models at their best, weights fitted on the validation window."""
    config, window, started = prepared.config, prepared.valid, time.perf_counter()
    own = {name: tried[0].params for name, tried in trials.items()}
    if not len(window.cases):
        return Trial(ENSEMBLE, settings_of(own, dict.fromkeys(own, 1.0)), float("nan"), 0.0)
    effort, metric = Effort(config.seed, config.threads), config.gate.metric

    def weigh(fitted: Mapping[str, ServedModel], life: float) -> tuple[dict[str, float], float]:
        past = window.behaviour.past(config.weights.event_weights(life))
        cases, customers = window.cases, window.data.customers
        scorers = {name: scorer_of(served, cases, past, customers) for name, served in fitted.items()}
        weights = fit_weights(scorers, cases, metric, config.seed)
        served = EnsembleModel([fitted[name] for name in weights], list(weights.values()))
        return weights, measure_model(served, {"half_life_days": life}, window, config).value(metric)

    value, params = choose(own, lambda n, one: models[n].fit(window.data, one, effort), models, weigh)
    fitted = [models[n].fit(window.data, part_of(params, n), effort) for n in weights_of(params)]
    past = window.past(config, params)
    worth = fit_worth(
        EnsembleModel(fitted, list(weights_of(params).values())),
        models[PRIOR].fit(window.data, own[PRIOR], effort),
        window.cases, past, window.data.customers, value_of(metric, KS),
    )  # fmt: skip
    params = with_prior(params, own[PRIOR], worth)
    notice(f"{ENSEMBLE}: {said_of(params)}, {metric} {value:.4f}")
    return Trial(ENSEMBLE, params, value, time.perf_counter() - started)


def model_of(name: str, config: TrainConfig) -> Model | None:
    """The model of a name, the ensemble included; None where there is none."""
    models = config.model_copy(update={"models": KNOWN}).build_models()
    return Ensemble(models) if name == ENSEMBLE else models.get(name)


def fit_one(
    model: Model, data: TrainData, params: Params, config: TrainConfig, *, cities: bool = False
) -> ServedModel:
    """One fit; popularity with its tables by city when it is to be served."""
    if cities and model.name == PopularModel.name:
        return PopularModel(build_popular(data, params), data.kinds)
    return model.fit(data, params, Effort(config.seed, config.threads))


def trials_json(trials: Mapping[str, tuple[Trial, ...]]) -> dict[str, Any]:
    """Without the seconds, which differ from run to run."""
    return {
        name: [{"params": dict(trial.params), "value": _number(trial.value)} for trial in tried]
        for name, tried in trials.items()
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Fitted:
    """The models as the step left them on disk."""

    folder: Path
    params: Mapping[str, Params]

    @classmethod
    def read(cls, folder: Path) -> Fitted:
        trials = json.loads((folder / "trials.json").read_text())
        return cls(folder, {name: tried[0]["params"] for name, tried in trials.items()})

    def model(self, phase: str, name: str) -> ServedModel:
        """Of `train`, the model of `test` where both are one."""
        folder = self.folder / phase / name
        return load_model(folder if folder.exists() else self.folder / "test" / name)

    def popular(self, phase: str) -> PopularModel:
        found = self.model(phase, PopularModel.name)
        assert isinstance(found, PopularModel)
        return found


def index_final(prepared: Prepared, fitted: Fitted, folder: Path) -> tuple[IndexReport, ...]:
    """The step `index`: the served vectors with their index, saved to `folder/{model}`."""
    reports: list[IndexReport] = []
    for name in (VectorModel.name, IalsModel.name):
        if name in fitted.params:
            model = fitted.model("final", name)
            assert isinstance(model, VectorModel | IalsModel)
            found, mine = _indexed(model, prepared, fitted.params[name])
            found.save(folder / name)
            reports += mine
    return tuple(reports)


def _indexed(
    model: VectorModel | IalsModel, prepared: Prepared, params: Params
) -> tuple[VectorModel | IalsModel, list[IndexReport]]:
    config = prepared.config
    queries = customer_vectors(model, prepared, params)
    index, reports = build_index(
        np.asarray(model.vectors),
        model.kinds.codes,
        queries,
        seed=config.seed,
        wanted=config.gate.index_recall,
    )
    return model.with_index(index), [replace(report, model=model.name) for report in reports]


def customer_vectors(
    model: VectorModel | IalsModel, prepared: Prepared, params: Params, most: int = 256
) -> NDArray[np.float32]:
    """Vectors of test customers as the service would make them: what the index will be asked with."""
    window = prepared.test
    past = window.past(prepared.config, params)
    cases = np.linspace(0, len(window.cases) - 1, min(most, len(window.cases))).astype(int)
    found = []
    for case in np.unique(cases).tolist():
        user = int(window.cases.users[case])
        tokens, segment = prepared.customers.tokens_of(user), int(prepared.customers.segment[user])
        found.append(model.represent(past.of(case), tokens, segment).values)
    return np.stack(found) if found else np.zeros((0, model.width), np.float32)
