"""`fenliu ope`: what another plan or bundle would have earned on the traffic that was logged."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
from rich.console import Console

from serving.backing import backed
from serving.bundle import load as load_bundle
from serving.lists import ListShelf
from serving.live import build_live
from serving.plan import Plan, default_plan, load_plan
from serving.registry import Registry
from serving.settings import Settings
from training.adapters import data_folder
from training.commands import lake_of, live_plan
from training.lake import Lake
from training.ope.candidate import Views, candidate
from training.ope.estimators import Logged, Slates
from training.ope.open_bandit import load, seen_as
from training.ope.policies import as_logged, as_slates, replayed, told
from training.ope.report import judge, show, write
from training.progress import counting, wide_console
from training.usage import UsageError

DAY_S = 86_400.0


def ope(args: argparse.Namespace, settings: Settings) -> int:
    """Exit status 1 where the log cannot tell: the estimate is refused, or a warning was given."""
    console, rng = wide_console(), np.random.default_rng(args.seed)
    slates: Sequence[Slates] = ()
    if args.open_bandit:
        seen, title, rest = _open_bandit(args.open_bandit, rng)
    else:
        seen, slates, title, rest = _replay(args, settings, rng, console)
    verdict = judge(seen, rng, slates=slates, most=None if args.value else 1.0, rounds=args.bootstrap)
    if args.json:
        print(orjson.dumps(verdict.document() | rest).decode())
    else:
        show(console, title, verdict)
        if drawn := rest.get("creatives_drawn"):
            console.print(
                f"creatives drawn on {drawn:,} places are in the weights; the model knows items alone",
                highlight=False,
            )
    path = write(verdict, seen, args.out or settings.home / "ope")
    if not args.json:
        console.print(f"written: {path.parent}", highlight=False, soft_wrap=True)
    return 1 if verdict.diagnosis.warnings else 0


def _open_bandit(direction: str, rng: np.random.Generator) -> tuple[Logged, str, dict[str, object]]:
    where = data_folder(os.environ, Path(__file__).parents[2])
    source, _, target = direction.partition("-")
    log, other = load(where, source), load(where, target)
    title = f"Open Bandit, men: {target} from the log of {source}; in its own log {other.click.mean():.4f}"
    return seen_as(log, other.frequencies, rng), title, {"on_policy": float(other.click.mean())}


def _replay(
    args: argparse.Namespace, settings: Settings, rng: np.random.Generator, console: Console
) -> tuple[Logged, Sequence[Slates], str, dict[str, object]]:
    lake = lake_of(settings)
    views, names = _candidate(args, settings, lake)
    until = time.time()
    with counting(console, "pages decided again") as tick:
        found = replayed(
            lake, views, until - args.days * DAY_S, until,
            value=args.value, most=args.pages, progress=tick,
        )  # fmt: skip
    if not found.rounds:
        for why, times in found.why.items():
            raise UsageError(f"no page can be decided again: {why} ({times:,} of {found.left_out:,} pages)")
        raise UsageError(
            "no page of that time held a lottery: give a slot `explore` in the plan, serve, and run"
            " `fenliu events ingest`"
        )
    title = f"{names}: {found.pages:,} pages decided again"
    return as_logged(found, rng), as_slates(found, rng), title, told(found)


def _candidate(args: argparse.Namespace, settings: Settings, lake: Lake) -> tuple[Views, str]:
    """What decides each page, and what it is called. Raises PlanError where the plan does not fit."""
    registry = Registry(settings.registry_url)
    version = args.bundle or registry.live()
    if version is None:
        raise UsageError("no bundle is live: train one, or name one with --bundle")
    bundle = load_bundle(registry.fetch(version, settings.bundles), verify=False)
    if args.plan:
        plan: Plan | None = load_plan(args.plan)
    else:
        with backed(settings) as complete:
            plan = live_plan(complete)
    lists = ListShelf(settings.registry_url).numbers()
    plan = plan or default_plan(bundle.kind_counts())
    bundles = registry.loader(settings.bundles)
    fits = build_live(bundle, (), plan, lists=lists, bundles=bundles)
    return candidate(lake, bundles, plan, bundle), f"{fits.plan.version} over {bundle.version}"
