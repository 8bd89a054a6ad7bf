"""Training as the command line and the demo run it: on the stores and the registry of the settings."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from features.redis_log import RedisLog
from serving.plan import Plan
from serving.plans import PlanShelf
from serving.settings import Settings
from training.adapters import data_folder, load
from training.adapters.general import Options
from training.adapters.roles import parse_columns
from training.backfill import backfill
from training.config import TrainConfig
from training.ingest import IngestReport, ingest
from training.job import RunReport, run_training
from training.lake import Lake
from training.materialize import pointers
from training.source import Source
from training.usage import UsageError
from training.workspace import writing_to


def train(
    settings: Settings,
    source: Source | None,
    config: TrainConfig,
    *,
    plan: Plan | None = None,
    fresh: bool = False,
    force: bool = False,
    by: str = "train",
    console: Console | None = None,
) -> RunReport:
    """One run; `settings` names a URL for every role. `plan`: what the bundle must fill, else the live one.

    Raises what run_training does, DiskFull, and PlanError when the live plan cannot be read.
    """
    with writing_to(settings.home):
        return _train(settings, source, config, plan, fresh=fresh, force=force, by=by, console=console)


def _train(
    settings: Settings,
    source: Source | None,
    config: TrainConfig,
    plan: Plan | None,
    *,
    fresh: bool,
    force: bool,
    by: str,
    console: Console | None,
) -> RunReport:
    report = run_training(
        settings.home,
        source,
        config,
        now=time.time(),
        registry=settings.registry_url,
        features_url=settings.features_url,
        control=settings.control_url,
        log=log_of(settings),
        plan=plan or live_plan(settings),
        fresh=fresh,
        force=force,
        by=by,
        console=console,
    )
    filled = backfill(settings.live_url or "", lake_of(settings))
    if filled and console is not None:
        console.print(f"live views: filled from the history of {filled:,} customers", highlight=False)
    return report


def live_plan(settings: Settings) -> Plan | None:
    """The plan that control points at; None while the default one is live."""
    version = pointers(settings.control_url or "").plan
    return None if version is None else PlanShelf(settings.registry_url).fetch(version)


def source_of(args: argparse.Namespace, environment: Mapping[str, str], root: Path) -> Source | None:
    """What the data arguments of `fenliu train` name; None: the lake alone. `root`: the project's folder.

    Raises UsageError for arguments that do not go together, DataError for what the files hold.
    """
    if args.source and args.events:
        raise UsageError("name either --source or --events, not both")
    if not (args.source or args.events):
        if args.items or args.users or args.map:
            raise UsageError("--items, --users and --map go with --events FILE")
        return None
    given = {
        "default_type": args.type,
        "kind": args.kind,
        "items": args.items,
        "users": args.users,
        "columns": parse_columns(args.map) if args.map else None,
        "types": parse_columns(args.types) if args.types else None,
        "min_rating": args.min_rating,
        "keep_repeats": args.keep_repeats,
        "encoding": args.encoding,
        "delimiter": args.delimiter,
    }
    options = Options(**{name: value for name, value in given.items() if value is not None})
    where = data_folder(environment, root)
    return load(args.source or args.events, now=time.time(), data=where, options=options)


def ingest_now(settings: Settings, progress: Callable[[int, int], None] | None = None) -> IngestReport:
    """Everything that waits in the log, into the lake. Raises what ingest does, and DiskFull."""
    with writing_to(settings.home):
        return ingest(log_of(settings), lake_of(settings), now=time.time(), progress=progress)


def waiting(settings: Settings) -> int:
    """Entries in the log, ingested ones that were not trimmed yet included."""
    return log_of(settings).length()


def lake_of(settings: Settings) -> Lake:
    return Lake(settings.home / "lake")


def latest_report(home: Path) -> Path | None:
    """The report that was written last; None before the first run."""
    reports = sorted((home / "runs").glob("*/report.md"), key=lambda path: path.stat().st_mtime)
    return reports[-1] if reports else None


def log_of(settings: Settings) -> RedisLog:
    return RedisLog(settings.log_url or "")
