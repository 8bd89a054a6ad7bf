"""`fenliu replay`: the trace of a decision; a day compared bit for bit, or under another plan or bundle."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table

from features.redis_log import RedisLog
from serving import permits
from serving.backing import backed
from serving.plan import Plan, PlanError, load_plan
from serving.plans import PlanShelf
from serving.registry import Registry
from serving.security import token_keys
from serving.settings import Settings, TokenKey
from training.commands import lake_of
from training.desk import desk_of
from training.lake import Lake
from training.lives import Lives
from training.logged import Logged
from training.progress import counting
from training.replay import Record, ReplayError, decided_again, differing
from training.trace import trace_of, traced
from training.usage import UsageError
from training.whatif import WhatIf, what_if

DAY_S: Final = 86_400.0
MOST_TOLD: Final = 5


def replay(args: argparse.Namespace, given: Settings, console: Console) -> int:
    """Exit status 1 when a decision does not come out as it was. Raises UsageError, ReplayError."""
    if (args.decision is None) == (args.day is None):
        raise UsageError("name either a decision id or --day YYYY-MM-DD")
    if (args.plan or args.bundle) and args.day is None:
        raise UsageError("--plan and --bundle re-decide a day: add --day YYYY-MM-DD")
    permits.may_trace(desk_of(given).who)
    bundle = Registry(given.registry_url).loader(given.bundles)
    with logged_of(given, args.lake, lake_only=args.lake_only) as logged:
        lives = Lives(logged, bundle, PlanShelf(given.registry_url), days=args.day is not None)
        if args.decision is not None:
            return _one(args, logged, lives, token_keys(given), console)
        since = _day(args.day)
        total, records = logged.between(since, since + DAY_S)
        if not total:
            raise UsageError(f"no decision of {args.day} is in the lake or the log: fenliu events ingest?")
        if args.pages:
            step = max(1, -(-total // args.pages))
            records, total = (one for n, one in enumerate(records) if n % step == 0), -(-total // step)
        if not (args.plan or args.bundle):
            return _compare(args, records, total, lives, console)
        plan = _plan(args.plan, given) if args.plan else None
        other = bundle(args.bundle) if args.bundle else None
        with counting(console, "deciding again") as tick:
            found = what_if(records, lives, plan=plan, bundle=other, total=total, progress=tick)
        _tell(args, found, console)
        return 0


@contextmanager
def logged_of(given: Settings, lake_at: Path | None = None, *, lake_only: bool = False) -> Iterator[Logged]:
    """Records of the settings' lake (or another) and, unless `lake_only`, of what waits in the log."""
    lake = Lake(lake_at) if lake_at else lake_of(given)
    if lake_only:
        yield Logged(lake)
        return
    with backed(given) as settings, RedisLog(settings.log_url or "") as log:
        yield Logged(lake, log)


def _one(
    args: argparse.Namespace, logged: Logged, lives: Lives, keys: Sequence[TokenKey], console: Console
) -> int:
    records = logged.found(args.decision, args.subject)
    if not records:
        why = (
            f"no decision {args.decision} is in the log or the lake: dry runs and previews are not logged;"
            " was its partition dropped?"
        )
        return _failed(args, "not_found", why)
    try:
        one = traced(records[0], lives)
    except ReplayError as lost:
        return _failed(args, "lost", str(lost))
    document = trace_of(one, keys, items=args.item)
    if len(records) > 1:
        document["others_of_this_id"] = len(records) - 1
    if args.json:
        _json(document)
    else:
        _show(document, console)
    return 0 if document["reproduced"] else 1


def _failed(args: argparse.Namespace, code: str, why: str) -> int:
    """Exit status 2; as JSON too, which is how the service hears of it."""
    if not args.json:
        raise ReplayError(why)
    _json({"error": code, "decision_id": args.decision, "detail": why})
    return 2


def _compare(
    args: argparse.Namespace, records: Iterable[Record], total: int, lives: Lives, console: Console
) -> int:
    same, differ, lost = 0, Counter[str](), Counter[str]()
    examples: list[str] = []
    with counting(console, "deciding again") as tick:
        for done, record in enumerate(records, 1):
            try:
                live = lives.of(record)
                wrong = differing(record, decided_again(record, live), live)
            except ReplayError as gone:
                lost[str(gone).partition(": ")[2][:160]] += 1
                continue
            same += not wrong
            differ.update(wrong)
            if wrong and len(examples) < MOST_TOLD:
                examples.append(record["id"])
            if done % 64 == 0:
                tick(done, total)
        tick(total, total)
    found = {
        "decisions": total,
        "same": same,
        "lost": dict(lost),
        "differ_in": dict(differ),
        "examples": examples,
    }
    if args.json:
        _json(found)
    else:
        _print(console, f"{same:,} of {total:,} decisions came out bit for bit")
        for why, count in lost.most_common(MOST_TOLD):
            _print(console, f"  {count:,} could not be made again: {why}")
        for name, count in differ.most_common():
            _print(console, f"  {count:,} differ in {name}: {', '.join(examples)}")
    return 0 if same == total else 1


def _plan(named: str, given: Settings) -> Plan:
    if Path(named).exists():
        return load_plan(Path(named))
    try:
        return PlanShelf(given.registry_url).fetch(named)
    except PlanError as gone:
        raise UsageError(f"{named} is neither a plan file nor a published version: {gone}") from None


def _day(text: str) -> float:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise UsageError(f"--day takes a UTC date such as 2026-11-22, not {text!r}") from None


def _show(document: dict[str, Any], console: Console) -> None:
    versions = document["versions"]
    same = "bit for bit as answered" if document["reproduced"] else f"DIFFERS in {document['differs']}"
    _print(
        console, f"decision {document['decision_id']} at {document['at']} on {document['surface']}: {same}"
    )
    _print(
        console, "  " + "  ".join(f"{name} {value}" for name, value in versions.items() if value is not None)
    )
    lost = ", ".join(document["degraded"]) or "nothing"
    _print(console, f"  rung {document['rung']}, missing: {lost}, profiling: {document['profiling']}")
    table = Table("slot", "#", "item", "campaign", "CNY", "p", "shown", "rule", "reason", "sources")
    for slot in document["slots"]:
        for place in slot["places"]:
            rule = place["rule"] and f"{place['rule']} {place['rule_of'] or ''} {place['tag_cny']}"
            table.add_row(
                slot["slot"], str(place["position"]), place["item"], place["campaign"] or "",
                str(place["value_cny"]), str(place["p"]), str(place["shown"]), rule or "",
                place["reason"], ", ".join(place["sources"]),
            )  # fmt: skip
    console.print(table)
    met = document["candidates"]
    dropped = ", ".join(f"{code} {n}" for code, n in sorted(met["dropped"].items())) or "none"
    _print(console, f"candidates: {met['met']} met, {met['permitted']} permitted; dropped by {dropped}")
    states = Counter(one["state"] for one in document["campaigns"])
    if states:
        _print(console, "campaigns: " + ", ".join(f"{n} {state}" for state, n in states.most_common()))
    for one in document["refused"]:
        _print(console, f"refused: place {one['place']} of {one['campaign']} by {one['why']}")
    for one in document.get("why_not", []):
        more = {name: value for name, value in one.items() if name not in ("item", "code", "why")}
        _print(console, f"why not {one['item']}: {one['code']}: {one['why']} {more or ''}")


def _tell(args: argparse.Namespace, found: WhatIf, console: Console) -> None:
    document = found.document()
    if args.json:
        _json(document)
        return
    before, after = document["before"], document["after"]
    _print(
        console, f"{found.pages:,} pages decided again, {document['places_changed']:.1%} of places changed"
    )
    table = Table("slot", "campaign", "share as served", "share then")
    for slot in sorted(before["slots"].keys() | after["slots"].keys()):
        was = before["slots"].get(slot, {}).get("shares", {})
        now = after["slots"].get(slot, {}).get("shares", {})
        for name in sorted(was.keys() | now.keys(), key=lambda one: -max(was.get(one, 0), now.get(one, 0))):
            table.add_row(slot, name, f"{was.get(name, 0):.2%}", f"{now.get(name, 0):.2%}")
    console.print(table)
    table = Table("campaign", "displays as served", "then", "clicks as served", "then", "caps full on")
    nothing = {"displays": 0.0, "clicks": 0.0}
    for name in sorted(before["campaigns"].keys() | after["campaigns"].keys()):
        was, now = before["campaigns"].get(name, nothing), after["campaigns"].get(name, nothing)
        table.add_row(
            name, f"{was['displays']:,.1f}", f"{now['displays']:,.1f}",
            f"{was['clicks']:,.2f}", f"{now['clicks']:,.2f}", str(found.capped[name]),
        )  # fmt: skip
    console.print(table)
    _print(console, f"value without prices: {before['value_cny']:,.2f} CNY -> {after['value_cny']:,.2f} CNY")
    _print(console, f"fill: {before['fill']:.4%} -> {after['fill']:.4%}")
    for why, count in found.skipped.most_common(MOST_TOLD):
        _print(console, f"{count:,} pages could not be decided: {why}")


def _json(document: dict[str, Any]) -> None:
    print(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY).decode())


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)
