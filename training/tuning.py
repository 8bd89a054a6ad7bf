"""Hyper-parameters, tried on the validation window: as many trials for a baseline as for a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.transforms import EventWeights
from training.config import TrainConfig
from training.evaluate import Cases, Measures, Past, measure, rank
from training.model import Effort, Model, Params, TrainData
from training.scoring import scorer_of
from training.windows import Behaviour, had_share

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting and what it reached on the validation window (NaN where there was none to ask)."""

    model: str
    params: Params
    value: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Window:
    """Customers, what they did up to the cut and what they did after it."""

    data: TrainData
    cases: Cases
    behaviour: Behaviour

    def past(self, config: TrainConfig, params: Params) -> Past:
        return self.behaviour.past(weights_of(config, params))


def weights_of(config: TrainConfig, params: Params) -> EventWeights:
    """The event weights with the half-life of a setting: the history served is made with the same."""
    return config.weights.event_weights(params["half_life_days"])


def tune(
    models: Mapping[str, Model], window: Window, config: TrainConfig, notice: Notice
) -> dict[str, tuple[Trial, ...]]:
    """Every model's trials, best first. Equal values keep the order of the grid."""
    found: dict[str, tuple[Trial, ...]] = {}
    for name, model in models.items():
        trials = [_try(model, params, window, config) for params in _settings(model, window, config)]
        trials.sort(key=lambda trial: -trial.value)  # stable
        best = trials[0]
        notice(f"{name}: {len(trials)} settings, best {config.gate.metric} {best.value:.4f}")
        found[name] = tuple(trials)
    return found


def _settings(model: Model, window: Window, config: TrainConfig) -> Sequence[Params]:
    settings = model.trials()[: config.evaluation.most_trials]
    return settings if len(window.cases) else settings[:1]


def _try(model: Model, params: Params, window: Window, config: TrainConfig) -> Trial:
    started = time.perf_counter()
    if not len(window.cases):
        return Trial(model.name, params, float("nan"), 0.0)
    served = model.fit(window.data, params, Effort(config.seed, config.threads))
    scorer = scorer_of(served, window.cases, window.past(config, params), window.data.customers)
    measures = measure(rank(scorer, window.cases, depth=0), window.cases, np.zeros(window.data.n_items))
    return Trial(model.name, params, measures.value(config.gate.metric), time.perf_counter() - started)


def measure_model(served: Any, params: Params, window: Window, config: TrainConfig) -> Measures:
    """All metrics of a fitted model on a window."""
    scorer = scorer_of(served, window.cases, window.past(config, params), window.data.customers)
    return measure(rank(scorer, window.cases), window.cases, had_share(window.data))
