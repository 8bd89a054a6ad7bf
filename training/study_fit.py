"""Tuning, fitting and measuring the models of a study, with what it cost, one result a model kept on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.ensemble_model import EnsembleModel
from serving.models import ServedModel
from training.config import ENSEMBLE, TrainConfig
from training.ensemble import PRIOR, choose, fit_weights, part_of, said_of, together, weights_of, with_prior
from training.evaluate import Measures, Ranking, measure, rank
from training.evidence import fit_worth, metric_of
from training.model import NEVER, Effort, Model, Params, TrainData
from training.scoring import scorer_of
from training.source import DataError
from training.study import Stage, Study
from training.study_process import FEWEST_ROWS, Fit, FitDied, fit_apart, fit_here
from training.tune_space import EPOCHS
from training.windows import had_share

SEEDED: Final = ("als", "ials", ENSEMBLE)  # the others come out the same from every seed
MOST_FACTORS: Final = 512
MOST_WORK: Final = 1e12  # operations of a fit that is only a try: about a minute of two cores
WIDER_GAIN: Final = 0.005
TRIED_ITEMS: Final = 6_000  # of a larger catalogue, EASE's ridges are compared on those that most have
Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a fit, its peak of resident memory above the data (MiB); seconds of tuning and ranking.

    `peak_mib` is NaN where the data are too few for a process of its own; of an ensemble, whose parts are
    fitted one after the other, it is that of the largest part.
    """

    fit_s: float
    peak_mib: float
    tuning_s: float
    rank_s: float
    trials: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One model on the test. `by_seed`: every metric's value for each seed; `ranking` is the first seed's."""

    name: str
    params: Mapping[str, float]
    measures: Measures
    ranking: Ranking
    by_seed: tuple[Mapping[str, float], ...]
    cost: Cost
    cached: bool = False


@dataclass(slots=True)
class Bench:
    """Fits and measures; keeps every result under `folder`, named by the digest of all that it depends on."""

    study: Study
    config: TrainConfig
    metric: str
    ks: Sequence[int]
    seeds: Sequence[int]
    folder: Path | None
    notice: Notice
    progress: Callable[[int, str], Any]
    trials: int = 24
    served: dict[tuple[str, int], ServedModel] = field(default_factory=dict)  # by model and seed
    not_run: dict[str, str] = field(default_factory=dict)  # by model: why

    def run(self, names: Sequence[str]) -> list[Outcome]:
        """All models in order, the ensemble last."""
        models = self.config.build_models()
        chosen = {name: models[name] for name in names if name != ENSEMBLE}
        found = [self._kept(name) or self._tried(name, self._single, model) for name, model in chosen.items()]
        parts = {one.name: one for one in found if one is not None}
        chosen = {name: chosen[name] for name in parts}
        if ENSEMBLE in names and len(chosen) > 1:
            found.append(self._kept(ENSEMBLE) or self._tried(ENSEMBLE, self._ensemble, chosen, parts))
        if not any(found):
            raise DataError("the models", None, None, "none could be fitted", "See the reasons above")
        return [one for one in found if one is not None]

    def _tried(self, name: str, how: Callable[..., Outcome], *args: Any) -> Outcome | None:
        """What comes of it; None, and said why, where the model cannot be fitted on these data."""
        try:
            return how(*args)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError, MemoryError, FitDied) as error:
            if isinstance(error, DataError):
                raise
            self.not_run[name] = str(error) or type(error).__name__
            self.notice(f"{name}: NOT RUN: {self.not_run[name]}; the others go on")
            return None

    def _single(self, model: Model) -> Outcome:
        params, trials, took = self._tuned(model)

        def fit(seed: int, stage: Stage) -> Fit:
            made = self._apart(model.name, stage, params, seed)
            self.served[model.name, seed] = made.model
            return made

        return self._tested(model.name, params, fit, trials, took)

    def fresh(self, name: str) -> Model:
        """A model that has nothing of earlier trials at hand: its fit costs what it costs."""
        return self.config.build_models()[name]

    def fit(self, model: Model, stage: Stage, params: Params, seed: int) -> ServedModel:
        return model.fit(stage.data, params, Effort(seed, self.config.threads))

    def tryout(self, model: Model, params: Params) -> ServedModel:
        """A fit on the validation stage, to compare settings; EASE only of the items that most have."""
        data = self.study.valid.data
        if model.name == "ease" and data.n_items > TRIED_ITEMS:
            params = {**params, "most": float(TRIED_ITEMS)}
        return self.fit(model, self.study.valid, params, self.seeds[0])

    def _apart(self, name: str, stage: Stage, params: Params, seed: int) -> Fit:
        """What is tested: a fresh model, fitted in a process of its own where the data are worth one."""
        self.progress(1, f"{name}: learning from all {len(stage.data.positives):,} rows")
        how = fit_apart if len(stage.data.positives) >= FEWEST_ROWS else fit_here
        return how(self.config, name, params, stage.data, Effort(seed, self.config.threads))

    def settings(self, model: Model) -> list[Params]:
        """The model's trials; without times nothing decays."""
        every = [dict(params) for params in model.trials()]
        if not self.study.timed:
            every = [params | {"half_life_days": NEVER} for params in every]
        once: dict[str, Params] = {json.dumps(params, sort_keys=True): params for params in every}
        return list(once.values())[: self.trials]

    def _tuned(self, model: Model) -> tuple[Params, int, float]:
        settings, started = self.settings(model), time.perf_counter()
        if len(settings) == 1 or not len(self.study.valid.cases):
            return settings[0], 0, 0.0
        told = self.progress(len(settings), f"{model.name}: trying settings")
        values = []
        for params in settings:
            values.append(self._reached(model, params))
            told(1)
        best = int(np.argmax(values))
        if values[best] < 0:
            self.tryout(model, settings[best])  # raises what made them all fail
        params, value, more = self._wider(model, settings[best], values[best])
        took, tried = time.perf_counter() - started, len(settings) + more
        self.notice(
            f"{model.name}: {tried} settings tried, {self.metric} {value:.4f} on validation, {took:.0f} s"
        )
        return params, tried, took

    def _reached(self, model: Model, params: Params) -> float:
        """The metric on validation; -1 where the setting cannot be fitted."""
        try:
            found = self.value(self.tryout(model, params), params)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            self.notice(f"{model.name}: a setting failed: {error}")
            return -1.0
        return found if np.isfinite(found) else -1.0

    def _wider(self, model: Model, params: Params, value: float) -> tuple[Params, float, int]:
        """The best setting of a model of vectors with twice the factors, and twice again, while it gains."""
        tried, data = 0, self.study.valid.data
        passes = EPOCHS.get(model.name)
        while passes is not None:
            wide = {**params, "factors": 2 * params["factors"]}
            work = operations(data, wide["factors"]) * wide[passes]
            if wide["factors"] > min(MOST_FACTORS, data.n_items // 4, data.n_users // 4) or work > MOST_WORK:
                break
            tried += 1
            self.progress(1, f"{model.name}: trying {wide['factors']:.0f} factors")
            reached = self._reached(model, wide)
            if not reached > value * (1.0 + WIDER_GAIN):
                break
            params, value = wide, reached
        return params, value, tried

    def value(self, served: ServedModel, params: Params) -> float:
        """The metric on the validation cases."""
        stage = self.study.valid
        scorer = scorer_of(served, stage.cases, stage.past(params["half_life_days"]), stage.data.customers)
        ranking = rank(scorer, stage.cases, depth=0, threads=self.config.threads)
        return measure(ranking, stage.cases, np.zeros(stage.cases.n_items), self.ks).value(self.metric)

    def _tested(
        self,
        name: str,
        params: Params,
        fit: Callable[[int, Stage], Fit],
        trials: int,
        tuning_s: float,
    ) -> Outcome:
        stage, depth = self.study.test, max(self.ks)
        past, share = stage.past(params["half_life_days"]), had_share(stage.data)
        kept: list[tuple[Measures, Ranking]] = []
        peaks: list[float] = []
        fit_s, rank_s = 0.0, 0.0
        seeds = self.seeds if name in SEEDED else self.seeds[:1]
        for place, seed in enumerate(seeds):
            served, seconds, peak = fit(seed, stage)
            fit_s, peaks = fit_s + seconds, [*peaks, peak]
            started = time.perf_counter()
            label = name if len(seeds) == 1 else f"{name}, seed {place + 1} of {len(seeds)}"
            scorer = scorer_of(served, stage.cases, past, stage.data.customers)
            told = self.progress(len(stage.cases), f"{label}: ranking for customers")
            ranking = rank(scorer, stage.cases, depth, told, self.config.threads)
            rank_s += time.perf_counter() - started
            kept.append((measure(ranking, stage.cases, share, self.ks), ranking))
        n = len(seeds)
        cost = Cost(fit_s / n, float(np.max(peaks)), tuning_s, rank_s / n, trials)
        by_seed = tuple(one.values() for one, _ in kept)
        outcome = Outcome(name, dict(params), _mean([one for one, _ in kept]), kept[0][1], by_seed, cost)
        self._keep(outcome)
        return outcome

    def _ensemble(self, models: Mapping[str, Model], parts: Mapping[str, Outcome]) -> Outcome:
        """Of every model at its own best setting, or nearly; all read one history."""
        started = time.perf_counter()
        valid = self.study.valid
        own = {name: dict(parts[name].params) for name in models}

        def weigh(fitted: Mapping[str, ServedModel], life: float) -> tuple[dict[str, float], float]:
            self.progress(1, "ensemble: weights")
            past = valid.past(life)
            scorers = {
                n: scorer_of(one, valid.cases, past, valid.data.customers) for n, one in fitted.items()
            }
            weights = fit_weights(scorers, valid.cases, self.metric, self.config.seed)
            served = EnsembleModel([fitted[name] for name in weights], list(weights.values()))
            return weights, self.value(served, {"half_life_days": life})

        def part(name: str, params: Params) -> ServedModel:
            self.progress(1, f"ensemble: {name} as a part")
            return self.tryout(models[name], params)

        best = choose(own, part, models, weigh, ridges=len(self.study.items) <= TRIED_ITEMS)
        if PRIOR in models:
            best = best[0], self._with_prior(models, parts, best[1])
        own = {name: part_of(best[1], name) for name in weights_of(best[1])}
        took = time.perf_counter() - started
        self.notice(f"ensemble: {said_of(best[1])}; {self.metric} {best[0]:.4f} on validation, {took:.0f} s")

        def fit(seed: int, stage: Stage) -> Fit:
            made: list[Fit] = []
            for name in weights_of(best[1]):
                known = self.served.get((name, seed if name in SEEDED else self.seeds[0]))
                if known is not None and own[name] == dict(parts[name].params):
                    made.append(Fit(known, parts[name].cost.fit_s, parts[name].cost.peak_mib))
                else:  # beside others another setting is better than alone
                    made.append(self._apart(name, stage, own[name], seed))
            seconds, peak = sum(one.seconds for one in made), float(np.max([one.peak_mib for one in made]))
            whole = together([one.model for one in made], best[1], self._popular(stage))
            return Fit(whole, seconds, peak)

        return self._tested(ENSEMBLE, best[1], fit, 1, took)

    def _with_prior(
        self, models: Mapping[str, Model], parts: Mapping[str, Outcome], params: Params
    ) -> dict[str, float]:
        """The setting with what popularity is worth to those of whom little is known."""
        valid = self.study.valid
        self.progress(1, "ensemble: popularity for those of whom little is known")
        fitted = [self.tryout(models[name], part_of(params, name)) for name in weights_of(params)]
        whole = EnsembleModel(fitted, list(weights_of(params).values()))
        popular = self.tryout(models[PRIOR], parts[PRIOR].params)
        past, value = valid.past(params["half_life_days"]), metric_of(self.metric, tuple(self.ks))
        worth = fit_worth(whole, popular, valid.cases, past, valid.data.customers, value)
        return with_prior(params, parts[PRIOR].params, worth)

    def _popular(self, stage: Stage) -> Callable[[Params], ServedModel]:
        return lambda params: self.fit(self.fresh(PRIOR), stage, params, self.seeds[0])

    def curve(self, outcomes: Sequence[Outcome], lengths: Sequence[int]) -> dict[str, dict[str, float]]:
        """The metric of each model by how many of a customer's latest items it is told, 0 among them."""
        stage, found = self.study.test, dict[str, dict[str, float]]()
        for one in outcomes:
            path = None if self.folder is None else self.folder / f"curve-{one.name}.json"
            known = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.exists() else {}
            wanted = [n for n in lengths if str(n) not in known]
            served = self._again(one, outcomes) if wanted else None
            told = self.progress(len(wanted), f"{one.name}: customers known by few items")
            for n in wanted:
                assert served is not None
                past = stage.known_by(n, one.params["half_life_days"])
                scorer = scorer_of(served, stage.cases, past, stage.data.customers)
                ranking = rank(scorer, stage.cases, depth=0, threads=self.config.threads)
                values = measure(ranking, stage.cases, np.zeros(stage.cases.n_items), self.ks)
                known[str(n)] = values.value(self.metric)
                told(1)
            if path is not None and wanted:
                path.write_text(json.dumps(known) + "\n", encoding="utf-8")
            found[one.name] = {str(n): known[str(n)] for n in lengths}
            found[one.name]["all"] = one.by_seed[0][self.metric]
        return found

    def _again(self, one: Outcome, outcomes: Sequence[Outcome]) -> ServedModel:
        """The served model of an outcome: the one at hand, or fitted again where it was taken from disk."""
        stage, seed = self.study.test, self.seeds[0]
        if one.name != ENSEMBLE:
            if (one.name, seed) not in self.served:
                self.served[one.name, seed] = self.fit(self.fresh(one.name), stage, one.params, seed)
            return self.served[one.name, seed]
        weights = weights_of(one.params)
        alone = {other.name: dict(other.params) for other in outcomes}
        made = []
        for name in weights:
            own = part_of(one.params, name)
            known = self.served.get((name, seed)) if own == alone.get(name) else None
            made.append(known or self.fit(self.fresh(name), stage, own, seed))
        return together(made, one.params, self._popular(stage))

    def _kept(self, name: str) -> Outcome | None:
        """What an earlier run left; None where there is nothing, or nothing that can be read."""
        if self.folder is None:
            return None
        try:
            said = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
            with np.load(self.folder / f"{name}.npz") as arrays:
                measures = Measures(tuple(said["names"]), arrays["per_case"], said["whole"])
                ranking = Ranking(arrays["ranks"], arrays["top"])
        except (OSError, ValueError, KeyError):
            return None
        self.notice(f"{name}: as measured before ({self.folder.name})")
        by_seed = tuple(said["by_seed"])
        return Outcome(name, said["params"], measures, ranking, by_seed, Cost(**said["cost"]), cached=True)

    def _keep(self, one: Outcome) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{one.name}.npz.draft").open("wb") as file:
            np.savez_compressed(
                file, per_case=one.measures.per_case, ranks=one.ranking.ranks, top=one.ranking.top
            )
        (self.folder / f"{one.name}.npz.draft").replace(self.folder / f"{one.name}.npz")
        said = {
            "names": one.measures.names, "whole": one.measures.whole, "params": one.params,
            "by_seed": one.by_seed, "cost": {name: getattr(one.cost, name) for name in Cost.__slots__},
        }  # fmt: skip
        draft = self.folder / f"{one.name}.json.draft"
        draft.write_text(json.dumps(said) + "\n", encoding="utf-8")
        draft.replace(self.folder / f"{one.name}.json")


def operations(data: TrainData, factors: float) -> float:
    """Of one epoch of iALS, about: the curves of all rows, and their solutions."""
    return 4.0 * len(data.positives) * factors**2 + (data.n_users + data.n_items) * factors**3 / 3.0


def _mean(measures: Sequence[Measures]) -> Measures:
    """Each case's metrics, averaged over the seeds."""
    first = measures[0]
    per_case: NDArray[np.float64] = np.mean([one.per_case for one in measures], axis=0)
    whole = {name: float(np.mean([one.whole[name] for one in measures])) for name in first.whole}
    return Measures(first.names, per_case, whole)
