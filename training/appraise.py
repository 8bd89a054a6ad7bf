"""The step `evaluate`: every model on later data, the choice, the blend, and how the live bundle does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.blend import Blend
from serving.bundle import Bundle
from serving.domain import Scores
from serving.models import PopularModel, ServedModel
from training.blend import (
    FEWEST_DISPLAYS,
    Shown,
    blended,
    examples_from_displays,
    examples_from_positives,
    fit_blend,
)
from training.evaluate import Cases, Measures, Past, Ranking, Scorer, difference, measure, rank
from training.gate import Comparison
from training.learn import Fitted, Prepared, fit_one, model_of
from training.scoring import scorer_of
from training.tuning import Window, measure_model
from training.watch import watched
from training.windows import had_share

BASELINE = PopularModel.name
GROUPS = (("no history", 0, 0), ("1 to 4 items", 1, 4), ("5 items or more", 5, None))
DENOMINATORS = {
    "recall@k": "|top k and held out| / |held out|",
    "recall_capped@k": "|top k and held out| / min(k, |held out|)",
}


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What the evaluation found. `report` is JSON-able and repeatable: it goes into the manifest."""

    chosen: str
    blend: Blend
    comparisons: tuple[Comparison, ...]
    report: Mapping[str, Any]


def appraise(prepared: Prepared, fitted: Fitted, live: Bundle | None, shown: Shown | None) -> Appraisal:
    """Measure all models on the test window, choose, fit the blend, compare with popularity and the live."""
    window, config, metric = prepared.test, prepared.config, prepared.metric
    measured = {
        name: measure_model(fitted.model("test", name), params, window, config)
        for name, params in fitted.params.items()
    }
    chosen = choose(measured, metric)
    blend, note = _blend(prepared, fitted, chosen, shown)
    popular = fitted.popular("test").popular
    kinds = prepared.dataset.kinds
    as_served = blended(_scorer(prepared, fitted, chosen), blend, popular, kinds, _segment(window))
    ranking, best_scores = _ranked(as_served, window)
    served = measure(ranking, window.cases, had_share(window.data))
    best, baseline = measured[chosen], measured[BASELINE]
    comparisons = [_against(best, baseline, BASELINE, "by segment with decay, tuned as hard", prepared)]
    if live is not None:
        comparisons += _against_live(live, best, prepared)
    before = None if live is None else live.manifest.get("evaluation", {}).get("watched")
    report = {
        "watched": watched(prepared, ranking, best_scores, served, baseline, before),
        "metric": metric,
        "metric_note": prepared.metric_note,
        "chosen": chosen,
        "chosen_because": f"best {metric} of {len(measured)} models on the same later data",
        "split": prepared.split.notes,
        "learned_from": prepared.learned_from,
        "customers": len(window.cases),
        "items": prepared.dataset.n_items,
        "already_liked_items": "not ranked"
        if prepared.masked
        else "ranked again (customers repeat themselves)",
        "history": "at most the last 64 events before the cut, as in service",
        "denominators": DENOMINATORS,
        "models": {name: _summary(one, baseline, metric, config.seed) for name, one in measured.items()},
        "params": {name: dict(params) for name, params in fitted.params.items()},
        "as_served": {"model": chosen, "blend": note, "metrics": served.values()},
        "groups": _groups(prepared, fitted, measured, metric),
        "comparisons": [asdict(one) for one in comparisons],
    }
    return Appraisal(chosen, blend, tuple(comparisons), report)


def _ranked(scorer: Scorer, window: Window) -> tuple[Ranking, NDArray[np.floating]]:
    """The ranking, and the best score of each case."""
    best = np.full(len(window.cases), np.nan)

    def told(case: int) -> Scores:
        scores = scorer(case)
        opened = window.cases.opened(case, scores)
        finite = opened[np.isfinite(opened)]
        best[case] = finite.max() if len(finite) else np.nan
        return scores

    return rank(told, window.cases), best


def choose(measured: Mapping[str, Measures], metric: str) -> str:
    """The best by the metric; the baseline, being simpler, where it is not beaten."""
    best = BASELINE
    for name, one in measured.items():
        if one.value(metric) > measured[best].value(metric):
            best = name
    return best


def _scorer(prepared: Prepared, fitted: Fitted, name: str) -> Scorer:
    past = prepared.test.past(prepared.config, fitted.params[name])
    return scorer_of(fitted.model("test", name), prepared.test.cases, past, prepared.customers)


def _segment(window: Window) -> Any:
    users, segments = window.cases.users, window.data.customers.segment
    return lambda case: int(segments[users[case]])


def _summary(one: Measures, baseline: Measures, metric: str, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "metrics": one.values(),
        "intervals": {name: list(pair) for name, pair in one.intervals(rng).items()},
        f"{metric}_against_{BASELINE}": list(difference(one, baseline, metric, rng)),
    }


def _groups(
    prepared: Prepared, fitted: Fitted, measured: Mapping[str, Measures], metric: str
) -> dict[str, Any]:
    """The same metrics for customers with nothing, a little and more behind them."""
    past = prepared.test.past(prepared.config, fitted.params[BASELINE])
    lengths = np.diff(past.indptr)
    found: dict[str, Any] = {}
    for label, low, high in GROUPS:
        mine = (lengths >= low) & (lengths <= (high if high is not None else np.inf))
        if not mine.any():
            continue
        names = list(dict.fromkeys((metric, "hr@10", "recall@20", "ndcg@10", "mrr")))
        models = {
            model: {name: float(one.of_case(name)[mine].mean()) for name in names}
            for model, one in measured.items()
        }
        found[label] = {"customers": int(mine.sum()), "models": models}
    return found


def _against(mine: Measures, other: Measures, name: str, how: str, prepared: Prepared) -> Comparison:
    metric, rng = prepared.metric, np.random.default_rng(prepared.config.seed)
    gap = difference(mine, other, metric, rng)
    return Comparison(name, how, mine.value(metric), other.value(metric), gap, len(prepared.test.cases))


def _against_live(live: Bundle, best: Measures, prepared: Prepared) -> list[Comparison]:
    """The live bundle itself where it has not seen the test's events, else its recipe on the same past."""
    cut = prepared.split.now_test
    learned_until = live.manifest.get("trained_until")
    if isinstance(learned_until, int | float) and learned_until <= cut:
        how = "the live bundle itself, which has seen nothing of these events"
        return [_against(best, _measure_bundle(live, prepared), "live", how, prepared)]
    said = live.manifest.get("model", {})
    name, params = said.get("name"), said.get("params")
    model = model_of(name, prepared.config) if isinstance(name, str) else None
    if model is None or not isinstance(params, Mapping):
        return []
    how = "its model and settings, fitted on the same past (the live bundle has seen some of these events)"
    window, config = prepared.test, prepared.config
    served = fit_one(model, window.data, params, config)
    return [_against(best, measure_model(served, params, window, config), "live", how, prepared)]


def _measure_bundle(live: Bundle, prepared: Prepared) -> Measures:
    """Metrics of a bundle over this dataset's items; those it does not have stay unranked."""
    window = prepared.test
    there = live.items.rows_of_keys(prepared.dataset.items.keys)
    scorer = bundle_scorer(
        live.model, window.cases, window.behaviour.past(live.weights, there), prepared, there
    )
    return measure(rank(scorer, window.cases), window.cases, had_share(window.data))


def bundle_scorer(model: ServedModel, cases: Cases, past: Past, prepared: Prepared, there: Any) -> Scorer:
    """`there` (n_items,): the bundle's row of each item here, -1 where it has none."""
    theirs = scorer_of(model, cases, past, prepared.customers)
    known = there >= 0

    def scores(case: int) -> Scores:
        found = np.full(len(there), np.nan, np.float32)
        found[known] = theirs(case)[there[known]]
        return found

    return scores


def _blend(prepared: Prepared, fitted: Fitted, chosen: str, shown: Shown | None) -> tuple[Blend, str]:
    """The chosen model's blend, and how it was made; popularity takes part only where that ranks no worse."""
    window, phase = (prepared.valid, "train") if len(prepared.valid.cases) else (prepared.test, "test")
    config, metric = prepared.config, prepared.metric
    past = window.past(config, fitted.params[chosen])
    model, popular = fitted.model(phase, chosen), fitted.popular(phase).popular
    rng = np.random.default_rng(config.seed)
    if shown is not None and len(shown.item) >= FEWEST_DISPLAYS and 0 < shown.label.mean() < 1:
        examples = examples_from_displays(shown, model, popular, window.cases, past, prepared.customers)
        made = f"probability of a click given a display, from {len(shown.item):,} displays"
    else:
        examples = examples_from_positives(model, popular, window.cases, past, prepared.customers, rng)
        made = (
            "held-out items against the candidates met with them; the effect of repeated display is assumed"
        )
    plain = fit_blend(examples, with_popularity=False)
    if phase == "test":
        return plain, f"{made}; calibrated only, there being no validation window"
    mixed = fit_blend(examples)
    scorer = scorer_of(model, window.cases, past, prepared.customers)

    def value(blend: Blend) -> float:
        of = blended(scorer, blend, popular, prepared.dataset.kinds, _segment(window))
        ranking = rank(of, window.cases, depth=0)
        return measure(ranking, window.cases, np.zeros(prepared.dataset.n_items)).value(metric)

    if value(mixed) >= value(plain):
        return mixed, f"{made}; with popularity in the segment"
    return plain, f"{made}; without popularity, which made the ranking worse"
