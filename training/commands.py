"""Training as the command line and the demo run it: on the stores and the registry of the settings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from features.redis_log import RedisLog
from features.stores import Stores, StoreUrls
from serving.plan import Plan
from serving.plans import PlanShelf
from serving.redis_control import RedisControl
from serving.settings import Settings
from training.backfill import backfill
from training.config import TrainConfig
from training.ingest import IngestReport, ingest
from training.job import RunReport, run_training
from training.lake import Lake
from training.source import Source
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
        log=_log(settings),
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

    async def ask() -> str | None:
        stores = Stores.open(StoreUrls.one(settings.control_url or ""))
        link = stores.control_link
        try:
            return None if link is None else (await RedisControl(link).poll()).plan
        finally:
            await stores.close()

    version = asyncio.run(ask())
    return None if version is None else PlanShelf(settings.registry_url).fetch(version)


def ingest_now(settings: Settings, progress: Callable[[int, int], None] | None = None) -> IngestReport:
    """Everything that waits in the log, into the lake. Raises what ingest does, and DiskFull."""
    with writing_to(settings.home):
        return ingest(_log(settings), lake_of(settings), now=time.time(), progress=progress)


def waiting(settings: Settings) -> int:
    """Entries in the log, ingested ones that were not trimmed yet included."""
    return _log(settings).length()


def lake_of(settings: Settings) -> Lake:
    return Lake(settings.home / "lake")


def latest_report(home: Path) -> Path | None:
    """The report that was written last; None before the first run."""
    reports = sorted((home / "runs").glob("*/report.md"), key=lambda path: path.stat().st_mtime)
    return reports[-1] if reports else None


def _log(settings: Settings) -> RedisLog:
    return RedisLog(settings.log_url or "")
