"""`fenliu tune`: hyper-parameters searched on the validation part; a search that was stopped goes on.

Seeded random search, then steps around the best (`training.tune_space`). Of models that take epochs a trial
is first given a third of them, and the rest only where it is then among the better third of what was seen
(after Li et al. 2020, asynchronous successive halving). Every trial is a line of a journal; the next one
follows from the journal alone, so a search that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

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
from training.tune_space import EPOCHS, SPACES, section, suggest

TASTER: Final = 1 / 3  # of the epochs, and the share of trials that are given the rest


@dataclass(frozen=True, slots=True)
class Tried:
    """`value` NaN: the fit failed, as `error` says. `taster`: the value after a third of the epochs."""

    params: Params
    value: float
    seconds: float
    taster: float | None = None
    stopped: bool = False  # after the taster: `value` is the taster's
    error: str = ""


def read_journal(path: Path) -> list[Tried]:
    """Trials of earlier runs; a last line that was cut off is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            break
        params = {name: float(value) for name, value in said.pop("params").items()}
        value = said.pop("value")
        found.append(Tried(params, float("nan") if value is None else value, **said))
    return found


def write_line(path: Path, one: Tried) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {name: getattr(one, name) for name in Tried.__slots__}
    said |= {
        "params": {k: str(v) for k, v in one.params.items()},
        "value": one.value if np.isfinite(one.value) else None,
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(said) + "\n")


def worth_the_rest(taster: float, before: Sequence[Tried]) -> bool:
    """Whether a taster is among the better third of those seen, itself included."""
    seen = sorted((one.taster for one in before if one.taster is not None), reverse=True)
    return sum(other > taster for other in seen) < max(1.0, TASTER * (len(seen) + 1))


class Search:
    """One model's search on one study."""

    def __init__(self, bench: Bench, name: str, journal: Path) -> None:
        self.bench, self.name, self.journal = bench, name, journal
        self.model: Model = bench.fresh(name)
        self.base = dict(self.model.trials()[0])
        self.tried = read_journal(journal)

    def step(self) -> Tried:
        """The next trial, written down."""
        past = [(one.params, one.value) for one in self.tried]
        seed, timed = self.bench.config.seed, self.bench.study.timed
        params = self.base | suggest(self.name, past, seed, timed=timed)
        if self.name == "ials":
            params["unobserved"] = 0.0
        one = self._try(params)
        self.tried.append(one)
        write_line(self.journal, one)
        return one

    def _try(self, params: Params) -> Tried:
        started = time.perf_counter()
        taster, epochs = None, EPOCHS.get(self.name)
        try:
            if epochs is not None and params[epochs] >= 3:
                few = {**params, epochs: float(round(params[epochs] * TASTER))}
                taster = self._value(few)
                if not worth_the_rest(taster, self.tried):
                    return Tried(params, taster, _since(started), taster, stopped=True)
            return Tried(params, self._value(params), _since(started), taster)
        except (ValueError, np.linalg.LinAlgError) as error:
            return Tried(params, float("nan"), _since(started), taster, error=str(error))

    def _value(self, params: Params) -> float:
        served = self.bench.fit(self.model, self.bench.study.valid, params, self.bench.config.seed)
        return self.bench.value(served, params)

    def best(self) -> Tried:
        """Raises EvaluateError where no trial ended well."""
        whole = [one for one in self.tried if np.isfinite(one.value) and not one.stopped]
        if not whole:
            errors = sorted({one.error for one in self.tried if one.error})
            raise EvaluateError(
                f"no trial of {self.name} ended well: {'; '.join(errors[:3]) or 'none was made'}"
            )
        return max(whole, key=lambda one: one.value)


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 3)


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
        search = found[name] = Search(bench, name, folder / f"{name}.jsonl")
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
    before = len(search.tried)
    if before:
        console.print(f"{search.name}: {before} trials from before", highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(search.name, total=wanted, completed=before)
        while len(search.tried) < wanted and time.monotonic() < ends:
            search.step()
            whole = [one.value for one in search.tried if np.isfinite(one.value) and not one.stopped]
            said = f"{search.name}: best {metric} {max(whole):.4f}" if whole else search.name
            bars.update(task, completed=len(search.tried), description=said)
    if len(search.tried) < wanted:
        console.print(
            f"{search.name}: out of time after {len(search.tried)} of {wanted} trials; run it again to go on"
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
        values = np.array([one.value for one in search.tried])
        whole = np.array([not one.stopped and np.isfinite(one.value) for one in search.tried])
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
            given = np.array([one.params[key] for one in search.tried])
            shown = np.where(np.isfinite(given), given, 3650.0)
            axes.scatter(shown[whole], values[whole], s=10)
            if np.ptp(shown[whole]) > 0 and (shown[whole] > 0).all() and getattr(space, "log", True):
                axes.set_xscale("log")
            axes.set_title(key, fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
