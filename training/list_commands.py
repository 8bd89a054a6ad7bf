"""`fenliu plan audience` and `fenliu list …`: audiences and lists from a terminal, on the record.

Who is in a list decides who sees what, so with principals only an operator, engineer or admin writes one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from serving.lists import ListEntry, ListShelf
from serving.principals import LOCAL
from serving.security import needs
from training import audience_commands
from training.commands import live_plan
from training.desk import Desk
from training.lists import Upload
from training.usage import UsageError


def audience(args: argparse.Namespace, desk: Desk, console: Console) -> int:
    if args.count:
        audience_commands.count_audience(
            desk.settings, args.name, org=args.org, sample=args.sample, seed=args.seed, console=console
        )
        return 0
    plan = live_plan(desk.settings)
    rules: Mapping[str, Any] = (
        {} if plan is None else plan.model_dump(mode="json", by_alias=True)["audiences"]
    )
    if args.name not in rules:
        raise UsageError(f"the live plan has no audience {args.name!r}; it has: {', '.join(rules) or 'none'}")
    console.print_json(json.dumps(rules[args.name], ensure_ascii=False))
    return 0


def list_upload(args: argparse.Namespace, desk: Desk, console: Console) -> int:
    owner = _writer(desk)
    done = audience_commands.upload(
        desk.settings, args.name, args.file, owner=owner, whole=args.whole, console=console
    )
    _record(desk, "list_written", done, args.reason)
    return 0


def list_lookalike(args: argparse.Namespace, desk: Desk, console: Console) -> int:
    owner = _writer(desk)
    _, done = audience_commands.lookalike(
        desk.settings, args.name, args.seeds, args.top, owner=owner, seed=args.seed, console=console
    )
    _record(desk, "list_written", done, args.reason)
    return 0


def list_evaluate(args: argparse.Namespace, desk: Desk, console: Console) -> int:
    owner = _writer(desk)
    done = audience_commands.evaluate_offline(
        desk.settings, owner=owner, batch=tuple(args.batch), console=console
    )
    for one in done:
        _record(desk, "list_written", one, args.reason)
    if not done:
        console.print("the plan's audiences name no score, and no --batch was asked for", highlight=False)
    return 0


def list_remove(args: argparse.Namespace, desk: Desk, console: Console) -> int:
    _writer(desk)
    done = audience_commands.remove(desk.settings, args.name, console=console)
    _record(desk, "list_removed", done, args.reason)
    return 0


def list_show(args: argparse.Namespace, desk: Desk, console: Console) -> int:
    entries = ListShelf(desk.settings.registry_url).entries()
    if args.name is not None and args.name not in entries:
        raise UsageError(f"there is no list {args.name!r}; there are: {', '.join(entries) or 'none'}")
    table = Table(box=None)
    for column in ("name", "number", "kind", "owner", "version", "customers", "written", "note"):
        table.add_column(column, justify="right" if column in ("number", "version", "customers") else "left")
    for one in entries.values():
        if args.name in (None, one.name):
            table.add_row(*_shown(one))
    console.print(table)
    return 0


def _shown(one: ListEntry) -> tuple[str, ...]:
    at = f"{datetime.fromtimestamp(one.at, UTC):%Y-%m-%d %H:%M}Z" if one.at else ""
    at = f"{at} (being written, or an upload was killed)".lstrip() if one.writing else at
    return one.name, str(one.number), one.kind, one.owner, str(one.version), f"{one.size:,}", at, one.note


def _writer(desk: Desk) -> str:
    """Under whose name a list is kept. Raises Problem `forbidden`, UsageError."""
    who = desk.who
    needs(who, "operator", "engineer", "admin")
    return who.key if who.principal == LOCAL else who.principal


def _record(desk: Desk, action: str, done: Upload, reason: str) -> None:
    entry = done.entry
    said = {"number": entry.number, "version": entry.version, "size": entry.size, "kind": entry.kind}
    desk.governance.record(desk.who, action, f"list:{entry.name}", reason, said)
