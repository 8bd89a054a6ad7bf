"""Weights of several models as one (`serving.ensemble_model`), fitted on the validation cases alone.

Scores of each model are standardised within a customer; weights are searched by coordinates for the best
value of the metric (and of NDCG in longer lists), from the best model alone outwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from serving.ensemble_model import EnsembleModel, standardised
from serving.models import ServedModel
from training.evaluate import Cases, Ranking, Scorer, measure, ranks_of
from training.model import NEVER, Effort, Model, Params, TrainData

STEPS: Final = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the largest weight
ROUNDS: Final = 3
MOST_CELLS: Final = 60_000_000  # scores held at once
BEST: Final = 1_000  # of a model's ranking, that are mixed where the catalogue is large
PRIOR: Final = "popular"
LEAST_GAIN: Final = 1e-3  # relative: less is noise, and a model more to serve
BESIDE: Final = ("ndcg@20", "ndcg@50")  # averaged with the metric: one short list alone is noisy


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Fits the parts that a setting names: `ials.weight`, `ials.factors`, … in one mapping."""

    models: Mapping[str, Model]
    name: ClassVar[str] = "ensemble"

    def trials(self) -> Sequence[Params]:
        """None: a setting is made of the parts' best and of `fit_weights`."""
        return []

    def fit(self, data: TrainData, params: Params, effort: Effort) -> EnsembleModel:
        parts = [self.models[name].fit(data, part_of(params, name), effort) for name in weights_of(params)]
        return together(parts, params, lambda prior: self.models[PRIOR].fit(data, prior, effort))


def together(
    parts: Sequence[ServedModel], params: Params, popular: Callable[[Params], ServedModel]
) -> EnsembleModel:
    """Fitted parts as one, by a setting; `popular` fits the prior of those of whom little is known."""
    prior = popular(part_of(params, "prior")) if params.get("worth", 0.0) > 0 else None
    return EnsembleModel(parts, list(weights_of(params).values()), prior, params.get("worth", 0.0))


def weights_of(params: Params) -> dict[str, float]:
    """The parts of a setting, with their weights."""
    return {key.partition(".")[0]: value for key, value in params.items() if key.endswith(".weight")}


def part_of(params: Params, name: str) -> dict[str, float]:
    """The setting of one part."""
    every = {key.partition(".")[2]: value for key, value in params.items() if key.startswith(f"{name}.")}
    return {key: value for key, value in every.items() if key != "weight"}


def settings_of(
    own: Mapping[str, Params], weights: Mapping[str, float], half_life_days: float = NEVER
) -> dict[str, float]:
    """One setting of all parts with a weight above 0; the history of all decays by `half_life_days`."""
    found = {"half_life_days": half_life_days}
    for name, weight in weights.items():
        if weight > 0:
            found |= {f"{name}.weight": weight} | {f"{name}.{key}": value for key, value in own[name].items()}
    return found


def half_lives(own: Mapping[str, Params]) -> list[float]:
    """Those that the parts were tuned to; popularity has no history."""
    lives = {params["half_life_days"] for name, params in own.items() if name != "popular"}
    return sorted(lives) or [NEVER]


def choose(
    own: Mapping[str, Params],
    fit: Callable[[str, Params], ServedModel],
    models: Mapping[str, Model],
    weigh: Callable[[Mapping[str, ServedModel], float], tuple[dict[str, float], float]],
    *,
    ridges: bool = True,
) -> tuple[float, dict[str, float]]:
    """(value, setting): the parts at `own`, the half-life of their history, and with `ridges` other ridges
    of EASE: each is one more inverse in the end.

    `weigh` gives the best weights of fitted parts for a half-life, and their value. The ridge that
    is best for EASE alone is seldom best beside iALS: a weaker one says more that the others do not.
    """
    fitted = {name: fit(name, params) for name, params in own.items()}
    tried = [(*weigh(fitted, life), life) for life in half_lives(own)]
    weights, value, life = max(tried, key=lambda one: one[1])
    now = {name: dict(params) for name, params in own.items()}
    if ridges and "ease" in own:
        for ridge in sorted({params["l2"] for params in models["ease"].trials()} - {own["ease"]["l2"]}):
            other = {**own["ease"], "l2": ridge}
            swapped = {**fitted, "ease": fit("ease", other)}
            found, reached = weigh(swapped, life)
            if reached > value * (1.0 + LEAST_GAIN):
                weights, value, now["ease"] = found, reached, other
    return value, settings_of(now, weights, life)


def said_of(params: Params) -> str:
    """The weights, for people."""
    said = ", ".join(f"{weight:g} {name}" for name, weight in weights_of(params).items())
    worth = params.get("worth", 0.0)
    return f"{said}; popularity is worth {worth:g} items of a history" if worth else said


def with_prior(params: Params, popular: Params, worth: float) -> dict[str, float]:
    """The setting with popularity, at its own best, as the prior of those of whom little is known."""
    if not worth:
        return dict(params)
    return {**params, "worth": worth} | {f"prior.{name}": value for name, value in popular.items()}


@dataclass(frozen=True, slots=True)
class _Case:
    """`scores` (models, open items), and where the held-out items stand among those."""

    scores: NDArray[np.float32]
    held: NDArray[np.intp]


def fit_weights(scorers: Mapping[str, Scorer], cases: Cases, metric: str, seed: int) -> dict[str, float]:
    """A weight for each model, the largest 1; 0 where a model adds nothing. Without cases all weigh 1."""
    names = list(scorers)
    if not len(cases):
        return dict.fromkeys(names, 1.0)
    width = cases.n_items if cases.n_items <= 4 * BEST else BEST * len(names)
    most = max(50, MOST_CELLS // max(width * len(names), 1))
    chosen = np.arange(len(cases))
    if len(cases) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(len(cases), most, replace=False))
    table = [_case(list(scorers.values()), cases, case) for case in chosen.tolist()]
    cases = cases.take(chosen)

    def value(weights: NDArray[np.float32]) -> float:
        ranks = np.concatenate([_ranks(weights @ one.scores, one.held) for one in table])
        ranking = Ranking(ranks, np.zeros((len(cases), 0), np.int32))
        found = measure(ranking, cases, np.zeros(cases.n_items), ks=ks)
        return float(np.mean([found.value(name) for name in judged]))

    judged = dict.fromkeys((metric, *BESIDE))
    ks = sorted({k for name in judged for k in ks_of(name)})
    singles = np.eye(len(names), dtype=np.float32)
    values = [value(one) for one in singles]
    best = int(np.argmax(values))
    weights, reached = singles[best].copy(), values[best]
    for _ in range(ROUNDS):
        before = reached
        for place in sorted(range(len(names)), key=lambda at: -values[at]):
            for step in (0.0, *STEPS):
                tried = weights.copy()
                tried[place] = step * float(np.delete(weights, place).max(initial=0.0) or 1.0)
                if not tried.any():
                    continue
                found = value(tried)
                if found > reached * (1.0 + LEAST_GAIN):
                    weights, reached = tried / tried.max(), found
        if reached <= before * (1.0 + LEAST_GAIN):
            break
    return {name: round(float(weight), 4) for name, weight in zip(names, weights, strict=True)}


def _ranks(scores: NDArray[np.float32], held: NDArray[np.intp]) -> NDArray[np.int64]:
    """`ranks_of`; of a few held-out items by comparison, which is faster than a sort."""
    if len(held) > 4:
        return ranks_of(scores, held.astype(np.int32))
    found = np.empty(len(held), np.int64)
    for place, at in enumerate(held.tolist()):
        mine = scores[at]
        before = np.count_nonzero(scores > mine) + np.count_nonzero(scores[:at] == mine)
        found[place] = before if np.isfinite(mine) else -1
    return found


def ks_of(metric: str) -> tuple[int, ...]:
    """The list length that a metric's name asks for."""
    return (int(metric.partition("@")[2]),) if "@" in metric else (10,)


def _case(scorers: Sequence[Scorer], cases: Cases, case: int) -> _Case:
    """Of a large catalogue only what a model has among its `BEST`, and what is held out: nothing else comes
    into the lists that are judged.
    """
    parts = [np.asarray(scorer(case)) for scorer in scorers]
    allowed = np.isfinite(cases.opened(case, np.zeros(cases.n_items, np.float32)))
    known = np.any([np.isfinite(part) for part in parts], axis=0)
    rows = np.flatnonzero(allowed)
    scores = np.stack([standardised(part)[rows] for part in parts])
    scores[:, ~known[rows]] = np.nan
    if len(rows) > 4 * BEST:
        best = np.argpartition(-np.nan_to_num(scores, nan=-np.inf), BEST, axis=1)[:, :BEST]
        kept = np.union1d(best.ravel(), np.flatnonzero(np.isin(rows, cases.held.of(case))))
        rows, scores = rows[kept], scores[:, kept]
    held = np.searchsorted(rows, cases.held.of(case))
    held = np.minimum(held, len(rows) - 1)
    return _Case(np.ascontiguousarray(scores), held)
