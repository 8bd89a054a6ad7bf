"""`fenliu bundle`, `fenliu plan show` and `fenliu plan schema`: what there is, and which of it is live."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from rich.table import Table

from serving.backing import backed
from serving.control import Control
from serving.plan import Plan, default_plan
from serving.plans import PlanShelf
from serving.redis_control import RedisControl
from serving.registry import Registry
from serving.settings import Settings
from training.model_card import model_card
from training.progress import wide_console
from training.usage import UsageError

T = TypeVar("T")


def bundle_list(_args: argparse.Namespace, settings: Settings) -> int:
    registry = Registry(settings.registry_url)
    live = registry.live()
    table = Table(title=f"bundles in {settings.registry_url}")
    for column in ("", "version", "items", "model", "gate"):
        table.add_column(column)
    for version in reversed(registry.list()):
        manifest = registry.show(version)
        gate = manifest.get("gate", {})
        table.add_row(
            "live" if version == live else "",
            version,
            str(manifest.get("data", {}).get("items", "")),
            str(manifest.get("model", {}).get("name", "")),
            "passed" if gate.get("passed") else "forced" if gate.get("forced") else "no",
        )
    wide_console().print(table)
    return 0


def bundle_show(args: argparse.Namespace, settings: Settings) -> int:
    registry = Registry(settings.registry_url)
    version = args.version or registry.live()
    if version is None:
        raise UsageError(
            "no bundle is live yet: `fenliu train` makes the first, or name one: fenliu bundle show V"
        )
    print(json.dumps(registry.show(version), indent=2, ensure_ascii=False))
    return 0


def bundle_card(args: argparse.Namespace, settings: Settings) -> int:
    registry = Registry(settings.registry_url)
    version = args.version or registry.live()
    if version is None:
        raise UsageError("no bundle is live yet: `fenliu train` makes the first")
    card = model_card(registry.show(version))
    if args.out is None:
        print(card)
    else:
        args.out.write_text(card, encoding="utf-8")
    return 0


def bundle_promote(args: argparse.Namespace, settings: Settings) -> int:
    registry = Registry(settings.registry_url)
    gate = registry.show(args.version).get("gate", {})
    if not gate.get("passed") and not args.force:
        raise UsageError(
            f"the gate said no to {args.version} ({_why(gate)}); --force promotes it all the same"
        )
    if args.force:
        record_forced_by_hand(settings, args.version, args.reason)
    registry.promote(args.version, by=getpass.getuser(), forced=args.force, reason=args.reason)
    _point_at_bundle(settings, args.version)
    return 0


def bundle_rollback(args: argparse.Namespace, settings: Settings) -> int:
    registry = Registry(settings.registry_url)
    _point_at_bundle(settings, registry.rollback(by=getpass.getuser(), reason=args.reason))
    return 0


def plan_show(_args: argparse.Namespace, settings: Settings) -> int:
    version = _with_control(settings, lambda control: control.poll()).plan
    if version is not None:
        plan = PlanShelf(settings.registry_url).fetch(version)
    elif (kinds := _kinds_of_live(settings)) is not None:
        plan = default_plan(kinds)
        print("no plan was published: this is the one that fits the live bundle", file=sys.stderr)
    else:
        raise UsageError("neither a plan nor a bundle is live yet: fenliu train, or fenliu plan publish FILE")
    print(plan.model_dump_json(indent=2))
    return 0


def plan_schema(_args: argparse.Namespace, _settings: Settings) -> int:
    print(json.dumps(Plan.model_json_schema(), indent=2, ensure_ascii=False))
    return 0


def record_forced_by_hand(settings: Settings, version: str, reason: str) -> None:
    """On the record, and only by whom it is up to. Raises Problem `forbidden`."""
    from training.desk import desk_of
    from training.plan_commands import record_forced

    record_forced(desk_of(settings), version, reason)


def _point_at_bundle(settings: Settings, version: str) -> None:
    _with_control(settings, lambda control: control.set("bundle", version))
    wide_console().print(f"bundle {version} is live", highlight=False, soft_wrap=True)


def _why(gate: dict[str, Any]) -> str:
    return "; ".join(one["text"] for one in gate.get("refusals", ())) or "no reason recorded"


def _kinds_of_live(settings: Settings) -> Any:
    """How many items of each kind the bundle in service has, by the registry; None before the first."""
    from serving.bundle import load  # brings FAISS

    registry = Registry(settings.registry_url)
    version = registry.live()
    if version is None:
        return None
    return load(registry.fetch(version, settings.bundles)).kind_counts()


def _with_control(given: Settings, act: Callable[[Control], Awaitable[T]]) -> T:
    """Run one call on the control store, the embedded one where none is configured."""

    async def run(url: str) -> T:
        control = RedisControl.at(url)
        try:
            return await act(control)
        finally:
            await control.close()

    with backed(given) as settings:
        return asyncio.run(run(settings.control_url or ""))
