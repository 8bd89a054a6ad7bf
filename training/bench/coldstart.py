"""Cold start: customers known by few items, and items that nobody has met, on held-out later events.

Customers are asked as if known by their latest 0, 1, 3, 5, 10 and all items: plain fold-in, fold-in with the
profile's prior at its best, popularity by segment, and the ensemble that is drawn to it. Items: a tenth of
those in the test's training are hidden from it, placed by their traits, and ranked among one another.
Everything is chosen on the validation window.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from serving.catalogue import compile_items, parse_item
from serving.ensemble_model import EnsembleModel
from serving.models import ServedModel
from training.adapters import data_folder
from training.adapters import load as load_source
from training.bench.harness import Bar, Result
from training.config import TrainConfig
from training.dataset import build_dataset
from training.ensemble import fit_weights, together, with_prior
from training.evaluate import Cases, Measures, Past, measure, rank
from training.evidence import LENGTHS, fit_worth, metric_of, shortened
from training.item_traits import Traits
from training.lake import Lake
from training.learn import Prepared, prepare
from training.model import Effort, Params, TrainData
from training.progress import wide_console
from training.scoring import scorer_of
from training.source import import_source
from training.tuning import Window
from training.world import World

ABOUT = "customers known by few items, and new items placed by what is known of them"
HIDDEN: Final = 0.1
TOP: Final = 20
TINY: Final = 80  # items below which lists of 10 tell little
STRENGTHS: Final = (0.3, 1.0, 3.0, 10.0)
_START: Final = 1_700_006_400.0
_CURVE: Final = ("plain fold-in", "tuned fold-in", "popularity by segment", "ensemble")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sources", default="ml-1m,insurance,bank")
    parser.add_argument("--customers", type=int, default=20_000, help="of the synthetic bank")
    parser.add_argument("--items", type=int, default=2_000, help="of the synthetic bank")
    parser.add_argument("--days", type=int, default=10, help="of the synthetic bank")
    parser.add_argument("--draws", type=int, default=10, help="of the items that are hidden")
    parser.add_argument("--most", type=int, default=1_500, help="customers asked")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)


def run(args: argparse.Namespace) -> Result:
    """Bars: nowhere below popularity by segment; hidden items 3 × random and 0.4 × warm."""
    if args.quick:
        args.sources, args.customers, args.items, args.days = "bank", 4_000, 2_000, 5
        args.draws, args.most = 1, 300
    console, figures, bars = wide_console(), dict[str, float](), dict[str, Bar]()
    for name in args.sources.split(","):
        with tempfile.TemporaryDirectory(prefix="fenliu-bench-") as home:
            prepared = _prepared(name, args, Path(home))
            found = customers(prepared, args)
            console.print(_table(name, found))
            gaps = [now["ensemble"] - now["popularity by segment"] for now in found.values()]
            figures[f"{name}_customers_least_gap"] = min(gaps)
            for label in _CURVE:
                said = label.replace(" ", "_").replace("-", "_")
                figures |= {f"{name}_{said}_{n}": now[label] for n, now in found.items()}
            bars[f"{name}_customers_least_gap"] = (">=", 0.0)
            if prepared.dataset.n_items >= TINY:
                figures |= {f"{name}_{key}": value for key, value in new_items(prepared, args).items()}
                bars |= {f"{name}_new_over_random": (">=", 3.0), f"{name}_new_over_warm": (">=", 0.4)}
    return Result(figures, bars)


def _prepared(name: str, args: argparse.Namespace, home: Path) -> Prepared:
    lake = Lake(home / "lake")
    if name == "bank":
        World.create(args.seed, args.customers, args.items, _START).write(lake, args.days)
    else:
        folder = data_folder(os.environ, Path(__file__).parents[2])
        import_source(load_source(name, now=_START, data=folder), lake, quarantine_folder=home / "quarantine")
    config = TrainConfig.model_validate(
        {
            "seed": args.seed,
            "threads": args.threads,
            "models": ("ials", "ease", "neighbours"),
            "evaluation": {"tuning_customers": args.most, "test_customers": args.most},
        }
    )
    items = [parse_item(raw) for raw in lake.read_items()]
    now = max(float(file["high"]) for file in lake.manifest().files["events"])
    weights = config.weights.event_weights(half_life_days=30.0)
    dataset = build_dataset(
        lake, compile_items(items), now=now, weights=weights, window=None, tags=None,
        outcomes=config.outcomes.rules(),
    )  # fmt: skip
    return prepare(dataset, config, Traits.of(items))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A window's cases, and values by the metric that suits the catalogue."""

    window: Window
    metric: str
    past: Past

    def measures(self, model: ServedModel, past: Past | None = None) -> Measures:
        cases = self.window.cases
        scorer = scorer_of(model, cases, self.past if past is None else past, self.window.data.customers)
        return measure(rank(scorer, cases, depth=0), cases, np.zeros(cases.n_items))

    def curve(self, model: ServedModel) -> dict[str, float]:
        told = {str(n): shortened(self.past, n) for n in LENGTHS} | {"all": self.past}
        return {n: self.measures(model, past).value(self.metric) for n, past in told.items()}


def customers(prepared: Prepared, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The metric by how much is known, and by what: {"0": {"plain fold-in": …}, …}."""
    config, effort = prepared.config, Effort(args.seed, args.threads)
    metric = "mrr" if prepared.dataset.n_items < TINY else "ndcg@10"
    valid = _asked(prepared.valid, prepared, metric)
    models, own, fitted = config.build_models(), dict[str, Params](), dict[str, ServedModel]()
    for name, model in models.items():
        life = max(params["half_life_days"] for params in model.trials())
        tried = [params for params in model.trials() if name == "popular" or params["half_life_days"] == life]
        made = [(model.fit(prepared.valid.data, params, effort), params) for params in tried]
        reached = [valid.measures(one).value(metric) for one, _ in made]
        fitted[name], own[name] = made[int(np.argmax(reached))]
    strong = [{**own["ials"], "strength": one} for one in STRENGTHS]
    means = [
        np.mean(list(valid.curve(models["ials"].fit(prepared.valid.data, one, effort)).values()))
        for one in strong
    ]
    tuned = strong[int(np.argmax(means))]
    fitted["ials"] = models["ials"].fit(prepared.valid.data, tuned, effort)
    own["ials"] = tuned
    setting = _setting(valid, fitted, own, args.seed)
    test, data = _asked(prepared.test, prepared, metric), prepared.test.data
    last = {name: models[name].fit(data, own[name], effort) for name in models}
    parts = [last[name] for name in own if f"{name}.weight" in setting]
    shown = {
        "plain fold-in": models["ials"].fit(data, {**tuned, "strength": 0.0}, effort),
        "tuned fold-in": last["ials"],
        "popularity by segment": last["popular"],
        "ensemble": together(parts, setting, lambda _: last["popular"]),
    }
    curves = {label: test.curve(model) for label, model in shown.items()}
    return {n: {label: curve[n] for label, curve in curves.items()} for n in curves["ensemble"]}


def _setting(
    valid: _Asked, fitted: Mapping[str, ServedModel], own: Mapping[str, Params], seed: int
) -> dict[str, float]:
    """Weights and the prior's worth, on validation."""
    cases, people = valid.window.cases, valid.window.data.customers
    scorers = {name: scorer_of(model, cases, valid.past, people) for name, model in fitted.items()}
    weights = {name: one for name, one in fit_weights(scorers, cases, valid.metric, seed).items() if one > 0}
    whole = EnsembleModel([fitted[name] for name in weights], list(weights.values()))
    value = metric_of(valid.metric, (10,))
    worth = fit_worth(whole, fitted["popular"], cases, valid.past, people, value)
    return with_prior({f"{name}.weight": one for name, one in weights.items()}, own["popular"], worth)


def _asked(window: Window, prepared: Prepared, metric: str) -> _Asked:
    """Histories that do not fade: one for all models."""
    return _Asked(window, metric, window.past(prepared.config, {"half_life_days": 36_500.0}))


def new_items(prepared: Prepared, args: argparse.Namespace) -> dict[str, float]:
    """Recall among hidden items, over draws: placed by traits, at random, and when they are known."""
    config, effort = prepared.config, Effort(args.seed, args.threads)
    window, model = prepared.test, config.build_models()["ials"]
    asked = _asked(window, prepared, "recall@20")
    params = {**model.trials()[0], "half_life_days": 36_500.0}
    warm = model.fit(window.data, params, effort)
    met = np.flatnonzero(window.data.had_by() > 0)
    rows = []
    for draw in range(args.draws):
        rng = np.random.default_rng([args.seed, draw])
        hidden = np.zeros(window.data.n_items, np.bool_)
        hidden[rng.choice(met, max(int(len(met) * HIDDEN), 2 * TOP), replace=False)] = True
        cold = model.fit(without(window.data, hidden), params, effort)
        among = [found_among(hidden, one, asked) for one in (cold, warm)]
        rows.append((*(value for value, _ in among), among[0][1]))
    placed, known, chance = np.mean(rows, axis=0).tolist()
    return {
        "new_recall@20": placed, "warm_recall@20": known, "random_recall@20": chance,
        "new_over_random": placed / chance, "new_over_warm": placed / known,
    }  # fmt: skip


def without(data: TrainData, hidden: NDArray[np.bool_]) -> TrainData:
    """The window as if nobody had met the hidden items."""
    return replace(data, positives=data.positives.take(~hidden[data.positives.item]))


def found_among(hidden: NDArray[np.bool_], model: ServedModel, asked: _Asked) -> tuple[float, float]:
    """Recall@TOP of the held-out hidden items when only hidden ones are ranked, and that of chance."""
    cases: Cases = asked.window.cases
    scorer = scorer_of(model, cases, asked.past, asked.window.data.customers)
    found, chance = [], []
    for case in range(len(cases)):
        wanted = cases.held.of(case)
        wanted = wanted[hidden[wanted]]
        if not len(wanted):
            continue
        scores = np.where(hidden, np.nan_to_num(scorer(case), nan=-1e9), -np.inf)
        scores[cases.seen.of(case)] = -np.inf
        best = np.argsort(-scores, kind="stable")[:TOP]
        found.append(np.isin(wanted, best).mean())
        chance.append(min(TOP / max(int(np.isfinite(scores).sum()), 1), 1.0))
    return float(np.mean(found)), float(np.mean(chance))


def _table(name: str, found: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title=f"{name}: customers known by their latest items only", show_edge=False)
    table.add_column("")
    for n in found:
        table.add_column(n, justify="right")
    for label in _CURVE:
        table.add_row(label, *(f"{now[label]:.4f}" for now in found.values()))
    return table
