"""`fenliu evaluate`: arguments, and the run from files to tables, JSON and plots."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from training.adapters import data_folder
from training.adapters.roles import parse_columns
from training.config import ENSEMBLE, KNOWN, parse_config, read_config
from training.reading import digest_of
from training.study import Rules
from training.study_files import Reading
from training.study_fit import Bench
from training.study_load import Request, load
from training.study_plots import plot
from training.study_presets import PRESETS, found
from training.study_progress import telling
from training.study_report import curve_table, one_line, show, to_json
from training.workspace import digest_of as digest

DEFAULT_MODELS: Final = ("ials", "ease", "als", "neighbours", "popular", ENSEMBLE)
TINY: Final = 80  # items below which lists of 10 hold too much of the catalogue to tell models apart
_SOURCES: Final = (
    "als", "ials", "ials_kernel", "ease", "ensemble", "neighbours", "popular", "prior", "model", "evaluate",
    "study", "study_attributes", "study_load", "study_fit", "study_split", "study_files", "study_process",
    "evidence", "placing", "scoring",
)  # fmt: skip
_SERVING: Final = ("vector_model", "ials_model", "table_models", "tables", "ensemble_model", "taste")


class EvaluateError(ValueError):
    """Arguments that do not go together; the message says what to do."""


def request_of(args: argparse.Namespace, environment: Mapping[str, str], root: Path) -> Request:
    """Arguments and preset together; what is given wins. Raises EvaluateError, ConfigError, DataError."""
    given = {
        name: getattr(args, name)
        for name in ("data", "train", "test", "valid", "known", "candidates", "users", "items")
    }
    files = {name: path for name, path in given.items() if path is not None}
    preset: Mapping[str, Any] = {}
    config = read_config(args.config)
    if args.preset is not None:
        files = found(args.preset, data_folder(environment, root)) | files
        preset = PRESETS[args.preset].arguments
        mine = json.loads(config.model_dump_json(exclude_unset=True)) if args.config else {}
        config = parse_config({**PRESETS[args.preset].config, **mine}, f"preset {args.preset}")

    def value(name: str, default: Any) -> Any:
        said = getattr(args, name)
        return said if said is not None else preset.get(name, default)

    _check(files, args)
    columns = parse_columns(value("columns", "") or "")
    known = {"user", "item", "weight", "timestamp", "split"}
    if strange := sorted(set(columns) - known):
        raise EvaluateError(
            f"--columns: there is no role {', '.join(strange)}; there are {', '.join(sorted(known))}"
        )
    reading = Reading(
        columns,
        args.header,
        value("min_weight", None),
        bool(value("binary", False)),
        args.encoding,
        args.delimiter,
        _only(args.only),
    )
    models = tuple(filter(None, (args.models or "").split(","))) or DEFAULT_MODELS
    if args.models is None and "models" in config.model_fields_set:
        models = config.models
    if strange := sorted(set(models) - {*KNOWN, ENSEMBLE}):
        raise EvaluateError(
            f"--models: there is no {', '.join(strange)}; there are {', '.join((*KNOWN, ENSEMBLE))}"
        )
    rules = Rules(
        args.seen,
        value("unseen", "drop"),
        int(value("min_history", 0)),
        args.history,
        args.customers,
        args.seed,
    )
    ks = tuple(sorted(_whole(args.k, "--k", 1)))
    return Request(
        files, reading, rules, value("split", None), args.core, args.segment, args.item_group,
        value("metric", None), ks, models, args.seeds, args.learn_valid, bool(value("rank_valid", False)),
        config.model_copy(update={"seed": args.seed, "models": models}), args.trials,
        tuple(sorted(_whole(args.curve, "--curve", 0))) if args.curve else (),
    )  # fmt: skip


def _only(text: str | None) -> tuple[str, tuple[str, ...]] | None:
    """A column and the values of it that count."""
    if text is None:
        return None
    column, mark, values = text.partition("=")
    found = tuple(filter(None, (value.strip() for value in values.split(","))))
    if not mark or not column.strip() or not found:
        raise EvaluateError(f"--only: '{text}' is not COLUMN=VALUE, such as transactionType=Buy")
    return column.strip(), found


def _whole(text: str, option: str, least: int) -> set[int]:
    """Whole numbers of at least so much, separated by commas."""
    try:
        found = {int(one) for one in text.split(",")}
    except ValueError:
        found = set()
    if not found or min(found) < least:
        raise EvaluateError(f"{option}: '{text}' is not a list of numbers such as 5,10,20,50")
    return found


def _check(files: Mapping[str, Path], args: argparse.Namespace) -> None:
    pair = "train" in files and "test" in files
    if pair == ("data" in files) or ("train" in files) != ("test" in files):
        raise EvaluateError(
            "name the interactions: --train FILE --test FILE, or one file, --data FILE --split time:0.8, "
            f"or --preset {'|'.join(PRESETS)}"
        )
    if pair and args.split:
        raise EvaluateError("--split divides one file (--data); --train and --test are divided already")
    if args.segment and "users" not in files:
        raise EvaluateError("--segment names a column of --users FILE")
    if args.item_group and "items" not in files:
        raise EvaluateError("--item-group names a column of --items FILE")
    if args.seeds < 1:
        raise EvaluateError("--seeds is at least 1")


def code_digest() -> str:
    """Of the sources that a result depends on: results of other code are not taken over."""
    state, root = blake2b(digest_size=8), Path(__file__).parents[1]
    for folder, names in (("training", _SOURCES), ("serving", _SERVING)):
        for name in names:
            state.update((root / folder / f"{name}.py").read_bytes())
    return state.hexdigest()


def key_of(request: Request) -> str:
    """The digest of the data, the protocol and the models' configuration."""
    said = (
        digest_of(list(request.files.values()), [*request.files]), repr(request.reading), repr(request.rules),
        request.split, request.core, request.segment, request.metric, request.ks, request.seeds,
        request.learn_valid, request.rank_valid, request.trials, code_digest(), len(request.files),
    )  # fmt: skip
    config = request.config.model_dump(mode="json", exclude={"models", "gate"})
    mixed = sorted(set(request.models) - {ENSEMBLE}) if ENSEMBLE in request.models else []
    return digest(*said, config, mixed)


def metric_of(request: Request, n_items: int) -> str:
    """The metric that models are tuned and compared by. Raises EvaluateError for one that there is not."""
    metric = request.metric or ("mrr" if n_items < TINY else "ndcg@10")
    ks = tuple(k for k in request.ks if k <= n_items) or (min(request.ks),)
    known = [f"{name}@{k}" for name in ("recall", "recall_capped", "ndcg", "hr", "mrr", "map") for k in ks]
    if metric not in (*known, "map", "mrr"):
        raise EvaluateError(
            f"--metric: there is no '{metric}' with --k {','.join(map(str, ks))}; there are map, mrr, "
            f"{', '.join(known)}"
        )
    return metric


def evaluate(
    request: Request, home: Path, console: Console, *, now: float, fresh: bool = False
) -> dict[str, Any]:
    """Run it; tables to the console. The result as JSON; cached by model under `home/evaluations`."""
    started = time.perf_counter()
    with telling(console) as begin:
        begin(1, f"reading {', '.join(path.name for path in request.files.values())}")
        study = load(request, now=now)
    n_items = len(study.items)
    metric = metric_of(request, n_items)
    ks = tuple(k for k in request.ks if k <= n_items) or (min(request.ks),)
    if len(set(request.models)) == 1 and request.models[0] == ENSEMBLE:
        raise EvaluateError("--models: an ensemble needs others beside it, such as ials,ease,ensemble")
    folder = home / "evaluations" / key_of(request)
    if fresh:
        for path in folder.glob("*.json"):
            path.unlink()
    console.print(
        f"read in {time.perf_counter() - started:.1f} s; results: {folder}", highlight=False, soft_wrap=True
    )
    with telling(console) as begin:
        seeds = [request.rules.seed + place for place in range(request.seeds)]

        def notice(text: str) -> None:
            console.print(f"  {text}", highlight=False, markup=False, soft_wrap=True)

        bench = Bench(study, request.config, metric, ks, seeds, folder, notice, begin, request.trials)
        outcomes = bench.run(request.models)
        begin(1, "intervals, pairs, slices")
        said = to_json(study, outcomes, metric, ks, request.rules.seed, bench.not_run)
        if request.curve:
            said["curve"] = bench.curve(outcomes, request.curve)
    if request.curve:
        console.print(curve_table(said))
    said["data"] = {role: str(path) for role, path in request.files.items()}
    said["seconds"] = round(time.perf_counter() - started, 1)
    show(console, said)
    plots = plot(said, folder)
    said["plots"] = [str(path) for path in plots]
    (folder / "report.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    console.print(
        f"{one_line(outcomes, metric)}; plots and report: {folder}", highlight=False, soft_wrap=True
    )
    return said


def run(
    args: argparse.Namespace, environment: Mapping[str, str], root: Path, home: Path, console: Console
) -> int:
    """The command: exit status 0."""
    request = request_of(args, environment, root)
    said = evaluate(request, home, console, now=time.time(), fresh=args.fresh)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    return 0
