"""`fenliu spool`: what waits on this machine while the log is away; is it whole; drain what nobody holds."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table

from features.events import unpack
from features.file_spool import FileSpool
from features.log import Entry
from features.spool_look import Inspected, inspected
from features.store import StoreUnavailable
from serving.backing import backed
from serving.settings import Settings
from training.commands import log_of
from training.progress import counting
from training.usage import UsageError

BATCH: Final = 500


def status(args: argparse.Namespace, settings: Settings, console: Console) -> int:
    found, now = list(inspected(_folder(args, settings))), time.time()
    if args.json:
        print(orjson.dumps({"segments": [_plain(one, now) for one in found]}).decode())
        return 0
    table = Table("segment", "process", "events", "oldest", "bytes", "damaged")
    for one in found:
        said = _plain(one, now)
        oldest = "-" if said["oldest_s"] is None else f"{said['oldest_s']:,.0f} s"
        table.add_row(
            said["segment"], "lives" if one.held else "ended", f"{said['events']:,}", oldest,
            f"{said['bytes']:,}", f"{one.damaged:,}",
        )  # fmt: skip
    console.print(table if found else "nothing waits", highlight=False)
    return 0


def verify(args: argparse.Namespace, settings: Settings, console: Console) -> int:
    bad = events = torn = 0
    for one in inspected(_folder(args, settings)):
        bad, torn, events = bad + one.damaged, torn + one.torn, events + len(one.records)
        for record in one.records if args.show else ():
            print(orjson.dumps(_shown(record.at, record.entry), default=_text).decode())
        if one.damaged or one.torn:
            console.print(
                f"{one.path}: {one.damaged:,} bytes damaged, a torn tail of {one.torn:,}", highlight=False
            )
    if not args.show:
        console.print(f"{events:,} whole records, {bad:,} bytes damaged", highlight=False)
    return 1 if bad else 0


def drain(args: argparse.Namespace, given: Settings, console: Console) -> int:
    """What a living process holds it drains by itself. Raises StoreUnavailable: the rest stays."""
    import asyncio

    spool = FileSpool(_folder(args, given), 1 << 62)
    try:
        count = spool.adopt(spool.orphans())
        if not count:
            console.print("nothing waits that no process holds", highlight=False)
            return 0
        with backed(given) as settings, counting(console, "drain") as tick:
            new, old = asyncio.run(_drained(spool, settings, count, tick))
    finally:
        spool.close()
    console.print(
        f"{new:,} events drained, {old:,} the log had already; live views and counts do not get them from"
        " here (fenliu ledger rebuild)",
        highlight=False,
    )
    return 0


async def _drained(spool: FileSpool, settings: Settings, count: int, tick: Any) -> tuple[int, int]:
    log, done, new = log_of(settings), 0, 0
    try:
        while page := spool.head(BATCH):
            gone = await log.forgotten({one.entry.subject for one in page if one.entry is not None})
            entries = [e for at, e in page if e is not None and at > gone.get(e.subject, 0.0)]
            new += sum(await log.append(entries))
            spool.drop(len(page))
            done += len(page)
            tick(done, max(done, count))
    except StoreUnavailable as away:
        raise StoreUnavailable(f"{away}; {spool.entries:,} events stay in the spool") from away
    finally:
        await log.close()
    return new, done - new


def _folder(args: argparse.Namespace, settings: Settings) -> Path:
    folder: Path = args.folder or settings.spool_folder
    if args.folder is not None and not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    return folder


def _plain(one: Inspected, now: float) -> dict[str, Any]:
    ages = [now - record.at for record in one.records if record.entry is not None]
    return {
        "segment": f"{one.path.parent.name}/{one.path.name}", "held": one.held, "events": len(ages),
        "oldest_s": round(max(ages), 1) if ages else None, "bytes": one.path.stat().st_size,
        "damaged": one.damaged, "torn": one.torn,
    }  # fmt: skip


def _shown(at: float, entry: Entry | None) -> dict[str, Any]:
    if entry is None:
        return {"erased": True}
    try:
        said = unpack(entry.payload)
    except ValueError as bad:
        said = {"unreadable": str(bad)}
    return {"spooled_at": at, "event_id": entry.event_id, "subject": entry.subject, "event": said}


def _text(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
