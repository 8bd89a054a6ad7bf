"""`fenliu customer`: a copy of what is kept, erasure with a report, plain words, retention."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from rich.console import Console

from features.ids import check_id
from serving import permits
from serving.backing import backed
from serving.plans import PlanShelf
from serving.registry import Registry
from serving.security import needs, token_keys
from serving.settings import Settings
from training.commands import ingest_now, lake_of
from training.customer_export import devices_of, exported
from training.desk import desk_of
from training.erasure import ANEW, Erased, Places, Who, erase, remains
from training.lives import Lives
from training.logged import Logged
from training.replay_commands import logged_of
from training.retention import dropped
from training.trace import trace_of, traced
from training.usage import UsageError
from training.workspace import alone


def customer_export(args: argparse.Namespace, given: Settings, _console: Console) -> int:
    needs(desk_of(given).who, "engineer", "admin")
    check_id(args.user, "user id")
    with backed(given) as settings:
        document = exported(Places(settings, lake_of(settings)), args.user, now=time.time())
    print(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY).decode())
    return 0


def customer_erase(args: argparse.Namespace, given: Settings, console: Console) -> int:
    """Exit status 1 when something is left that names the customer."""
    desk = desk_of(given)
    needs(desk.who, "admin")
    for user in args.user:
        check_id(user, "user id")
    with alone(given.home), backed(given) as settings:
        ingest_now(settings)
        places = Places(settings, lake_of(settings))
        visitors = (
            sorted({one for user in args.user for one in devices_of(places, user)}) if args.devices else []
        )
        who = Who(tuple(args.user), tuple(visitors))
        quiet = args.json
        done = erase(places, who, (lambda _: None) if quiet else lambda text: _print(console, text))
        left = remains(places, who) + [
            f"{one.place}: its append-only file, until BGREWRITEAOF was run (FENLIU_KEEPER_PASSWORD lets us)"
            for one in done
            if one.what == ANEW and not one.many
        ]
    _recorded(desk, args, done, left)
    report = {
        "customers": len(who.users),
        "devices": len(who.visitors),
        "deleted": [one._asdict() for one in done if one.many],
        "left": left,
    }
    if args.json:
        print(orjson.dumps(report).decode())
    else:
        total = sum(one.many for one in done if one.what != ANEW)
        _print(console, f"{total:,} rows, keys and entries deleted; left: {', '.join(left) or 'nothing'}")
        _print(console, "models hold nothing of a single customer; the next training is made without them")
    return 1 if left else 0


def _recorded(desk: Any, args: argparse.Namespace, done: list[Erased], left: list[str]) -> None:
    """On the audit log, by count: an erased customer's name must not stand there for ever."""
    said = {f"{one.place} {one.what}": one.many for one in done if one.many}
    about = f"customers:{len(args.user)}"
    desk.governance.record(desk.who, "customer_erased", about, args.reason, {**said, "left": len(left)})


def customer_find(args: argparse.Namespace, given: Settings, console: Console) -> int:
    needs(desk_of(given).who, "engineer", "admin")
    with backed(given) as settings:
        found = remains(Places(settings, lake_of(settings)), Who(tuple(args.user)))
    for place in found:
        _print(console, place)
    if not found:
        _print(console, "no store and no file names them")
    return 1 if found else 0


def customer_why(args: argparse.Namespace, given: Settings, console: Console) -> int:
    permits.may_trace(desk_of(given).who)
    with logged_of(given) as logged:
        document = _trace(logged, given, args.decision)
    if not document["reproduced"]:
        _print(console, "(the decision does not come out as it was: said of what comes out now)")
    for slot in document["slots"]:
        for place in slot["places"]:
            if args.index in (None, place["index"]):
                words = place["words"][args.lang]
                _print(console, f"{slot['slot']} {place['position']}  {place['item']}: {words}")
    return 0


def _trace(logged: Logged, given: Settings, decision_id: str) -> dict[str, Any]:
    records = logged.found(decision_id)
    if not records:
        raise UsageError(f"no decision {decision_id} is in the log or the lake")
    bundles = Registry(given.registry_url).loader(given.bundles)
    lives = Lives(logged, bundles, PlanShelf(given.registry_url))
    return trace_of(traced(records[0], lives), token_keys(given))


def customer_retain(args: argparse.Namespace, given: Settings, console: Console) -> int:
    if args.days < 1:
        raise UsageError("--days: at least 1")
    desk = desk_of(given)
    needs(desk.who, "engineer", "admin")
    before = datetime.now(UTC) - timedelta(days=args.days)
    with alone(given.home):
        gone = dropped(lake_of(given), before.timestamp(), dry_run=args.dry_run)
    for table, (files, rows) in gone.items():
        _print(
            console, f"{table}: {files:,} files of {rows:,} rows {'would go' if args.dry_run else 'dropped'}"
        )
    if not args.dry_run and any(files for files, _ in gone.values()):
        detail = {table: rows for table, (_, rows) in gone.items()}
        desk.governance.record(desk.who, "partitions_dropped", "lake", f"{args.days} days", detail)
    return 0


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)
