"""`fenliu train`, `events` and `report`: from the log to the lake, to a bundle and its report."""

from __future__ import annotations

import argparse
import getpass
import os
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markdown import Markdown

from serving.backing import backed
from serving.plan import load_plan
from serving.security import needs
from serving.settings import Settings
from training.bundle_commands import record_forced_by_hand
from training.commands import ingest_now, lake_of, latest_report, source_of, train, waiting
from training.config import read_config
from training.desk import desk_of
from training.progress import counting, wide_console
from training.usage import UsageError
from training.workspace import alone

PROJECT: Final = Path(__file__).parents[1]


def train_now(args: argparse.Namespace, given: Settings) -> int:
    """Exit status 1 when the gate says no."""
    config = read_config(args.config)
    if args.hold:
        config = config.model_copy(update={"gate": config.gate.model_copy(update={"hold": True})})
    if args.seed is not None:
        config = config.model_copy(update={"seed": args.seed})
    plan = load_plan(args.plan) if args.plan else None
    source = source_of(args, os.environ, PROJECT)
    if args.force:
        needs(desk_of(given).who, "engineer", "admin")
    with backed(given) as settings:
        report = train(
            settings,
            source,
            config,
            plan=plan,
            fresh=args.fresh,
            force=args.force,
            by=getpass.getuser(),
            console=wide_console(),
        )
    if args.force and report.promoted and not report.verdict.passed and report.version is not None:
        record_forced_by_hand(given, report.version, "fenliu train --force")
    held = config.gate.hold and report.verdict.promote
    return 0 if report.promoted or held else 1


def events_ingest(_args: argparse.Namespace, given: Settings) -> int:
    console = wide_console()
    # Training ingests too: two commits at once could each count what the other's log entries were.
    with alone(given.home), backed(given) as settings, counting(console, "ingest") as tick:
        taken = ingest_now(settings, progress=tick)
    _print(
        console,
        f"{taken.accepted:,} events taken in, {taken.duplicates:,} were there already,"
        f" {taken.quarantined:,} set aside, in {taken.seconds:.1f} s",
    )
    return 0


def events_status(_args: argparse.Namespace, given: Settings) -> int:
    console = wide_console()
    with backed(given) as settings:
        for name, files in lake_of(settings).manifest().files.items():
            rows = sum(one["rows"] for one in files)
            _print(console, f"lake  {name}: {rows:,} rows in {len(files):,} files")
        _print(console, f"log   {waiting(settings):,} entries wait for ingest")
    return 0


def report(args: argparse.Namespace, settings: Settings) -> int:
    found = latest_report(settings.home)
    if found is None:
        raise UsageError("there is no report yet: `fenliu train` writes one")
    if args.path:
        print(found)
        return 0
    console = wide_console()
    console.print(Markdown(found.read_text(encoding="utf-8")))
    _print(console, f"\nreport and plots: {found.parent}")
    return 0


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
