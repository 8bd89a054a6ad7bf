"""`fenliu tune`: hyper-parameters searched on the validation part by Optuna; a stopped search goes on.

Tree-structured Parzen estimators (Bergstra et al. 2011), from the model's own first setting. Of models that
take epochs a trial is first given a third of them, and the rest only where it is then among the better third
of what was seen. Trials are kept in Optuna's journal, one study a model (`optuna.load_study` reads it); the
next setting follows from the finished trials and the seed alone, so that a search that was stopped, even in
the middle of a trial, goes on as if it had not been.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from training.model import Model, Params
from training.study import Study
from training.study_commands import EvaluateError, key_of, metric_of, request_of
from training.study_fit import Bench
from training.study_load import load
from training.tune_space import EPOCHS, SPACES, first, section, suggest

if TYPE_CHECKING:
    import optuna

TASTER: Final = 1 / 3  # of the epochs, and the share of trials that are given the rest
RANDOM_FIRST: Final = 8  # trials before the estimator speaks


@dataclass(frozen=True, slots=True)
class Tried:
    """`value` NaN: the fit failed, as `error` says. `stopped`: after the taster, whose value it then is."""

    params: Params
    value: float
    seconds: float
    stopped: bool = False
    error: str = ""


class Search:
    """One model's search on one study, kept in the journal at `path`."""

    def __init__(self, bench: Bench, name: str, path: Path) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.bench, self.name = bench, name
        self.model: Model = bench.fresh(name)
        self.base = dict(self.model.trials()[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        keep = optuna.pruners.PercentilePruner(100.0 * TASTER, n_startup_trials=1)
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path))), study_name=name, direction="maximize",
            pruner=keep, load_if_exists=True,
        )  # fmt: skip
        self._cut_off()
        if not self.study.trials:
            start = first(name, self.base, timed=bench.study.timed)
            if start is not None:
                self.study.enqueue_trial(start)

    def _cut_off(self) -> None:
        """Trials that a kill left running: put aside, and their settings asked for again."""
        import optuna

        for one in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            self.study.tell(one.number, state=optuna.trial.TrialState.FAIL)
            if one.params:
                self.study.enqueue_trial(one.params)

    @property
    def tried(self) -> list[Tried]:
        """Finished trials in order; those that a kill cut off are not counted."""
        import optuna

        ended = self.study.get_trials(deepcopy=False)
        states = optuna.trial.TrialState
        found = []
        for one in ended:
            said = one.user_attrs
            if not one.state.is_finished() or "seconds" not in said:
                continue
            value = one.value if one.state == states.COMPLETE else said.get("taster")
            params = {name: float(value) for name, value in said["params"].items()}
            error = str(said.get("error", ""))
            found.append(
                Tried(params, float("nan") if error or value is None else float(value),
                      float(said["seconds"]), one.state == states.PRUNED, error)
            )  # fmt: skip
        return found

    def step(self) -> None:
        """The next trial."""
        import optuna

        started, name = time.perf_counter(), self.name
        seed = int(np.random.default_rng([self.bench.config.seed, len(self.tried)]).integers(2**31))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=RANDOM_FIRST, multivariate=True
            )
        trial = self.study.ask()
        params = self.base | suggest(trial, name, timed=self.bench.study.timed)
        if name == "ials":
            params["unobserved"] = 0.0
        trial.set_user_attr("params", {key: str(value) for key, value in params.items()})
        state, value = optuna.trial.TrialState.COMPLETE, None
        try:
            if self._worth_it(trial, params):
                value = self._value(params)
            else:
                state = optuna.trial.TrialState.PRUNED
        except (ValueError, np.linalg.LinAlgError) as error:
            trial.set_user_attr("error", str(error))
            state = optuna.trial.TrialState.FAIL
        trial.set_user_attr("seconds", round(time.perf_counter() - started, 3))
        self.study.tell(trial, value, state=state)

    def _worth_it(self, trial: optuna.Trial, params: Params) -> bool:
        """Whether a third of the epochs says that the trial deserves the rest."""
        epochs = EPOCHS.get(self.name)
        if epochs is None or params[epochs] < 3:
            return True
        taster = self._value({**params, epochs: float(round(params[epochs] * TASTER))})
        trial.set_user_attr("taster", taster)
        trial.report(taster, step=1)
        return not trial.should_prune()

    def _value(self, params: Params) -> float:
        served = self.bench.fit(self.model, self.bench.study.valid, params, self.bench.config.seed)
        return self.bench.value(served, params)

    def best(self) -> Tried:
        """Raises EvaluateError where no trial ended well."""
        every = self.tried
        whole = [one for one in every if np.isfinite(one.value) and not one.stopped]
        if not whole:
            errors = sorted({one.error for one in every if one.error})
            raise EvaluateError(
                f"no trial of {self.name} ended well: {'; '.join(errors[:3]) or 'none was made'}"
            )
        return max(whole, key=lambda one: one.value)


def tune(
    args: argparse.Namespace, environment: Mapping[str, str], root: Path, home: Path, console: Console
) -> int:
    """The command. Exit status 0."""
    args.models, args.seeds, args.curve, wanted = ",".join(args.model), 1, None, args.trials
    request = request_of(args, environment, root)
    if not set(args.model) <= SPACES.keys():
        raise EvaluateError(f"--model: there are {', '.join(SPACES)}")
    study = load(request, now=time.time())
    if not len(study.valid.cases):
        raise EvaluateError("the validation part leaves nobody to ask: give more data, or --valid FILE")
    metric = metric_of(request, len(study.items))
    ks = tuple(k for k in request.ks if k <= len(study.items)) or (min(request.ks),)
    folder = home / "tuning" / key_of(request)
    bench = Bench(study, request.config, metric, ks, [request.config.seed], None, console.print, _silent)
    found: dict[str, Search] = {}
    ends = time.monotonic() + args.minutes * 60.0
    for name in args.model:
        search = found[name] = Search(bench, name, folder / f"{name}.journal")
        _run(search, wanted, ends, metric, console)
    config: dict[str, Any] = {"models": [*args.model]}
    for name, search in found.items():
        config[name] = section(name, search.best().params)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(
        _HEAD.format(metric=metric) + yaml.safe_dump(config, sort_keys=False), encoding="utf-8"
    )
    console.print(_table(found, metric, study))
    picture = plot(found, metric, folder / "trials.png")
    if args.json is not None:
        said = {name: [_said(one) for one in search.tried] for name, search in found.items()}
        args.json.write_text(
            json.dumps({"metric": metric, "trials": said, "config": config}, indent=1) + "\n"
        )
    console.print(
        f"best settings: {args.out} (fenliu train --config {args.out}); trials: {picture}", soft_wrap=True
    )
    return 0


_HEAD: Final = (
    "# Found by `fenliu tune`, by {metric} on the validation part. Use: fenliu train --config THIS\n"
)


def _silent(_total: int, _what: str) -> Any:
    return lambda _done: None


def _run(search: Search, wanted: int, ends: float, metric: str, console: Console) -> None:
    tried = search.tried
    before = len(tried)
    if before:
        console.print(f"{search.name}: {before} trials from before", highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(search.name, total=wanted, completed=before)
        while len(tried) < wanted and time.monotonic() < ends:
            search.step()
            tried = search.tried
            whole = [one.value for one in tried if np.isfinite(one.value) and not one.stopped]
            said = f"{search.name}: best {metric} {max(whole):.4f}" if whole else search.name
            bars.update(task, completed=len(tried), description=said)
    if len(tried) < wanted:
        console.print(
            f"{search.name}: out of time after {len(tried)} of {wanted} trials; run it again to go on"
        )


def _said(one: Tried) -> dict[str, Any]:
    params = {name: value if np.isfinite(value) else "inf" for name, value in one.params.items()}
    return {"params": params, "value": one.value if np.isfinite(one.value) else None, "seconds": one.seconds,
            "stopped": one.stopped, "error": one.error}  # fmt: skip


def _table(found: Mapping[str, Search], metric: str, study: Study) -> Table:
    table = Table(title=f"{metric} on validation ({len(study.valid.cases):,} customers)")
    for column in ("model", "best", "trials", "stopped early", "failed", "seconds", "setting"):
        table.add_column(column, overflow="fold")
    for name, search in found.items():
        best, every = search.best(), search.tried
        setting = ", ".join(f"{key} {value:g}" for key, value in best.params.items())
        table.add_row(
            name, f"{best.value:.4f}", str(len(every)), str(sum(one.stopped for one in every)),
            str(sum(bool(one.error) for one in every)), f"{sum(one.seconds for one in every):.0f}", setting,
        )  # fmt: skip
    return table


def plot(found: Mapping[str, Search], metric: str, path: Path) -> Path:
    """Every trial's value with the best so far, and below it the values against each hyper-parameter."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = 2 * len(found)
    wide = max(len(SPACES[name]) for name in found)
    figure = Figure(figsize=(2.6 * wide, 2.4 * rows))
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, wide)
    for place, (name, search) in enumerate(found.items()):
        tried = search.tried
        values = np.array([one.value for one in tried])
        whole = np.array([not one.stopped and np.isfinite(one.value) for one in tried])
        axes = figure.add_subplot(grid[2 * place, :])
        axes.scatter(np.flatnonzero(whole), values[whole], s=12, label="whole")
        axes.scatter(np.flatnonzero(~whole), values[~whole], s=12, c="#bbbbbb", label="stopped early")
        axes.plot(
            np.maximum.accumulate(np.where(whole, np.nan_to_num(values, nan=-1), -1)).clip(0), lw=1, c="k"
        )
        axes.set_title(f"{name}: {metric} by trial", fontsize=9)
        axes.legend(fontsize=7)
        for column, (key, space) in enumerate(SPACES[name].items()):
            axes = figure.add_subplot(grid[2 * place + 1, column])
            given = np.array([one.params[key] for one in tried])
            shown = np.where(np.isfinite(given), given, 3650.0)
            axes.scatter(shown[whole], values[whole], s=10)
            if np.ptp(shown[whole]) > 0 and (shown[whole] > 0).all() and getattr(space, "log", True):
                axes.set_xscale("log")
            axes.set_title(key, fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
