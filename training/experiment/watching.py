"""`fenliu experiment watch`: what the service's guard sees, by hand; with --act it does what that does."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from rich.table import Table

from features.redis_log import RedisLog
from serving.backing import backed
from serving.guard import Breach, Ward, breaches, running_in
from serving.guard_statistics import ALPHA, Look
from serving.settings import Settings
from training.commands import live_plan
from training.desk import desk_of
from training.progress import wide_console
from training.usage import UsageError

Looks = Mapping[tuple[str, str], Sequence[Look]]


def watch(args: argparse.Namespace, settings: Settings) -> int:
    """Exit status 1 where an arm breaches."""
    if args.every is not None and args.every < 1:
        raise UsageError("--every is at least one second")
    with backed(settings) as complete:
        if complete.log_url is None:
            raise UsageError("there is no event log: name its store (FENLIU_LOG_URL or REDIS_URL)")
        with RedisLog(complete.log_url) as log:
            ward = Ward(log, time.time() - args.back)
            while True:
                found = _look(args, complete, ward)
                if args.every is None:
                    return 1 if found else 0
                time.sleep(args.every)


def _look(args: argparse.Namespace, settings: Settings, ward: Ward) -> list[Breach]:
    plan, now = live_plan(settings), time.time()
    if plan is None:
        raise UsageError("no plan is live: publish one first")
    looks = ward.step(plan, now)
    found = breaches(looks)
    if args.json:
        print(json.dumps(_document(looks), ensure_ascii=False), flush=True)
    else:
        wide_console().print(_table(looks, plan.version))
        if not running_in(plan, now):
            print("no experiment is running")
    if args.act:
        for one in found:
            desk = desk_of(settings)
            desk.act(
                lambda office, one=one, who=desk.who: office.switch_off(  # type: ignore[misc]
                    who, one.experiment, one.arm, reason=one.reason, evidence=one.evidence
                )
            )
            print(f"{one.experiment}/{one.arm} is switched off: {one.reason}", flush=True)
    return found


def _document(looks: Looks) -> dict[str, Any]:
    return {
        "alpha": ALPHA,
        "arms": [
            {"experiment": name, "arm": arm, "guards": [_plain(one) for one in some]}
            for (name, arm), some in looks.items()
        ],
    }


def _plain(look: Look) -> dict[str, Any]:
    numbers = {
        name: None if isinstance(value, float) and isnan(value) else value
        for name, value in look._asdict().items()
    }
    return {**numbers, "breached": look.breached}


def _table(looks: Looks, plan: str) -> Table:
    title = "an arm goes off where a test is beyond what it needs: z, or the log of a bet on first failures"
    table = Table(title=f"guardrails of plan {plan}: {title}")
    for column in ("arm", "units", "metric", "control", "arm's", "tolerated", "test", "needed", ""):
        table.add_column(column, no_wrap=not column)  # the verdict stays one word on a narrow terminal
    for (name, arm), some in looks.items():
        for one in some:
            told = f"{'log' if one.first else 'z'} {one.z:.2f}"
            said = "BREACHED" if one.breached else "too early" if isnan(one.z) else ""
            table.add_row(
                f"{name}/{arm}", f"{one.units:,.0f}", one.metric, f"{one.control:.4g}", f"{one.arm:.4g}",
                f"{one.tolerance:.0%}", told, f"{one.needed:.2f}", said,
            )  # fmt: skip
    return table
