"""`fenliu bench chaos`: one thing after another is broken under a steady client; what was lost, how long.

The service runs in one process, then on Ray Serve with two replicas behind HAProxy, each store role on a
server of its own. A row breaks something, mends it, and is judged by its allowance: pages answered, places
filled, events acknowledged that the lake does not have once, caps overshot. Customers are so many that none
gets more than six homepages: a contact log holds 256 places, and what a cap no longer finds there it cannot
count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from training.bench.chaos_faults import FAULTS, QUICK, Fault, nothing
from training.bench.chaos_ray import RAY_FAULTS, RAY_QUICK
from training.bench.harness import Result
from training.bench.tally import Tally
from training.progress import wide_console

if TYPE_CHECKING:
    from training.bench.chaos_client import Client, Row
    from training.bench.chaos_world import Town

ABOUT = "faults under load: what was answered, filled, lost, doubled, and the time to recover"
ANSWERED: Final = 0.999
FILLED: Final = 0.9999
SETTLE_S: Final = 10.0
MOST_PLACES: Final = 40
OVERLOAD: Final = 2.0
OVERLOADS: Final = {"local": "2 x overload", "ray": "Ray: 2 x overload"}
RAY_ROW_S: Final = 24.0  # HAProxy may be away for ten


@dataclass
class Told:
    """A row of the table."""

    name: str
    row: Row
    recovered_s: float
    allowed: bool
    notes: list[str] = field(default_factory=list)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=float, default=25.0, help="pages a second of the client")
    parser.add_argument("--seconds", type=float, help="of each row (12, Ray's 24; with --quick 4)")
    parser.add_argument("--customers", type=int, default=6_000, help="who take turns: see above")
    parser.add_argument("--items", type=int, default=600)
    parser.add_argument("--only", help="rows whose name holds this text")
    parser.add_argument("--no-ray", action="store_true", help="leave out the rows of Ray's own processes")
    parser.add_argument("--seed", type=int, default=2026)


def run(args: argparse.Namespace) -> Result:
    from training.bench.chaos_world import town

    console, tally = wide_console(), Tally()
    seconds = args.seconds or (4.0 if args.quick else 12.0)
    local, ray = _chosen(FAULTS, QUICK, args), _chosen(RAY_FAULTS, RAY_QUICK, args)
    told: list[Told] = []
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="fc-", ignore_cleanup_errors=True) as folder,
        town(Path(folder), customers=args.customers, items=args.items, seed=args.seed) as made,
    ):
        for kind, faults, row_s in (("local", local, seconds), ("ray", ray, max(seconds, RAY_ROW_S))):
            overload = OVERLOADS[kind] if not args.quick and (args.only or "") in OVERLOADS[kind] else None
            if not (faults or overload) or (kind == "ray" and args.no_ray):
                continue
            took = made.start(kind)
            console.print(f"{kind}: ready after {took:.1f} s", highlight=False)
            told += asyncio.run(_rows(made, faults, args.rate, row_s, args.seed, console))
            if overload is not None:
                told.append(asyncio.run(_overload(made, seconds, args.seed, console, overload)))
            made.end()
        _settled(made, told, tally)
    _table(told, console)
    worst = [one.name for one in told if not one.allowed]
    tally.put("rows", len(told))
    tally.put(
        "rows_not_allowed", len(worst), "", ", ".join(worst) or "each within its allowance", ("<=", 0.0)
    )
    tally.put("load", load, "", "of the machine when it began, over a minute")
    print(json.dumps({"rows": [_plain(one) for one in told]}))
    return tally.result()


def _chosen(faults: Sequence[Fault], quick: Collection[str], args: argparse.Namespace) -> list[Fault]:
    found = [one for one in faults if (args.only or "") in one.name]
    return [one for one in found if one.name in quick] if args.quick and not args.only else found


async def _rows(
    made: Town, faults: list[Fault], rate: float, seconds: float, seed: int, console: Console
) -> list[Told]:
    from training.bench.chaos_client import Client

    told: list[Told] = []
    client = Client(made.url, made.customers, seed)
    try:
        await client.run(rate, 1.0)  # warm
        await client.settle(SETTLE_S)
        for fault in faults:
            told.append(await one_row(made, client, fault, rate, seconds))
            said(console, told[-1])
    finally:
        await client.close()
    return told


async def one_row(made: Town, client: Client, fault: Fault, rate: float, seconds: float) -> Told:
    """A quarter of the time before, a quarter broken, half after it was mended; longer where a step takes
    its time. Customers of their own, or a second client that retries, where the fault says so.
    """
    from training.bench.chaos_client import Client, recovered_s
    from training.bench.chaos_world import FRESH, PATIENT

    patients = made.customers + FRESH
    beside = [] if fault.within_s is None else [Client(made.url, PATIENT, 5, first=patients, retries=60)]
    if fault.fresh:
        client = Client(made.url, FRESH, 6, first=made.customers)
    over, notes = asyncio.Event(), list[str]()
    sending = [asyncio.create_task(one.run(rate, over=over)) for one in (client, *beside)]
    await asyncio.sleep(seconds / 4)
    broken, made.marked = time.monotonic(), None
    for step, wait in ((fault.break_, seconds / 4), (fault.mend, 0.0)):
        note = await asyncio.to_thread(step, made)
        notes += [note] if isinstance(note, str) else []
        await asyncio.sleep(wait)
    mended = time.monotonic()
    await asyncio.sleep(seconds / 2)
    over.set()
    await asyncio.gather(*sending)
    row = await client.settle(SETTLE_S)
    patient = [await one.settle(2 * SETTLE_S) for one in beside]
    for one in [*beside, *([client] if fault.fresh else [])]:
        await one.close()
    complaints = [
        text
        for text in (_complaint(fault, row, broken), fault.judge(row, broken, made.marked or mended))
        if text
    ]
    complaints += ["a client that retries failed" for one in patient if one.failed or one.held_back]
    for other in patient:
        notes.append(f"a client that retries: {other.answered} of {other.sent}")
        row.acknowledged |= other.acknowledged
    since = broken if fault.by_itself or fault.mend is nothing else mended
    return Told(fault.name, row, recovered_s(row, since), not complaints, notes + complaints)


def _complaint(fault: Fault, row: Row, broken: float = 0.0) -> str:
    """What is not allowed about pages and places; nothing where all is."""
    if row.held_back and not fault.fresh:  # few customers of their own: the next page waits for the last
        return f"{row.held_back} pages could not be sent: too many were open"
    if fault.fill and row.filled < FILLED * row.asked:
        return "places were left empty"
    if fault.within_s is not None:
        if strange := row.failed.keys() - fault.kinds:
            return f"failed by {', '.join(sorted(strange))}"
        away = max(row.failed_at, default=broken) - broken
        return f"pages failed for {away:.1f} s" if away > fault.within_s or row.refused else ""
    if fault.pages and (row.answered < ANSWERED * row.sent or row.failed):
        return "pages were not answered"
    return ""


async def _overload(made: Town, seconds: float, seed: int, console: Console, name: str) -> Told:
    """Twice what a closed loop gets: pages or 503 with Retry-After, nothing else."""
    from training.bench.chaos_client import Client

    client = Client(made.url, made.customers, seed + 1, tells=False)  # it needs the processor as well
    try:
        rate = OVERLOAD * await client.closed(16, 3.0) / 3.0
        await client.settle(SETTLE_S)
        await client.run(rate, seconds)
        row = await client.settle(SETTLE_S)
    finally:
        await client.close()
    told = Told(name, row, 0.0, not row.failed, [f"{rate:.0f} pages a second"])
    said(console, told)
    return told


# --- what remained


def _settled(made: Town, told: list[Told], tally: Tally) -> None:
    """Everything is ingested; each acknowledged event has to be in the lake once, each cap kept."""
    from training.commands import ingest_now, lake_of

    ingest_now(made.settings)
    columns = ["event_id", "type", "subject", "campaign", "late"]
    events = lake_of(made.settings).events(columns=columns)
    ids, kinds = events["event_id"].to_pylist(), events["type"].to_pylist()
    held = set(ids)
    acknowledged = {one for row in told for one in row.row.acknowledged}
    lost = acknowledged - held
    for one in told:
        if gone := one.row.acknowledged - held:
            one.allowed = False
            one.notes.append(f"{len(gone)} acknowledged events lost")
    clicks = Counter(one for one, kind in zip(ids, kinds, strict=True) if kind == "clicked")
    doubled = sum(count > 1 for count in clicks.values())
    doubled += sum(count > MOST_PLACES for count in Counter(ids).values())  # a display is a row a place
    tally.put("acknowledged", len(acknowledged), "events", "answered with 202")
    tally.put("lost", len(lost), "events", "acknowledged, and not in the lake", ("<=", 0.0))
    tally.put("doubled", doubled, "events", "in the lake more than once", ("<=", 0.0))
    tally.put("caps_overshot", _overshot(events), "customers", "shown the capped campaign twice", ("<=", 0.0))
    tally.put("displays", sum(kind == "displayed" for kind in kinds), "places")


def _overshot(events: Any) -> int:
    from features.ids import key32
    from training.bench.chaos_client import CAPPED

    wanted = key32(CAPPED)
    columns = (events[name].to_pylist() for name in ("subject", "campaign", "type", "late"))
    shown = Counter(
        subject
        for subject, campaign, kind, late in zip(*columns, strict=True)
        if campaign == wanted and kind == "displayed" and not late
    )
    return sum(count > 1 for count in shown.values())


def said(console: Console, one: Told) -> None:
    console.print(
        f"{one.name}: {one.row.answered} of {one.row.sent} answered, {one.recovered_s:.1f} s to recover"
        f"{'' if one.allowed else '  NOT ALLOWED'} {dict(one.row.failed) or ''} {'; '.join(one.notes)}",
        highlight=False,
        markup=False,
    )


def _table(told: list[Told], console: Console) -> None:
    names = (
        "row",
        "sent",
        "answered",
        "503",
        "failed",
        "degraded",
        "fill",
        "events",
        "spooled",
        "unsure",
        "recovered s",
    )
    table = Table(*names, "p99 ms", "")
    for one in told:
        row = one.row
        late = sorted(row.latencies)
        p99 = late[int(0.99 * (len(late) - 1))] * 1e3 if late else float("nan")
        table.add_row(
            one.name, str(row.sent), f"{row.answered / max(row.sent, 1):.2%}", str(row.refused),
            str(dict(row.failed) or 0), str(row.degraded), f"{row.filled / max(row.asked, 1):.3%}",
            str(len(row.acknowledged)), str(row.spooled), str(len(row.unsure)),
            f"{one.recovered_s:.1f}", f"{p99:.0f}",
            "ok" if one.allowed else "NO",
        )  # fmt: skip
    console.print(table)


def _plain(one: Told) -> dict[str, Any]:
    row = one.row
    return {
        "row": one.name, "sent": row.sent, "answered": row.answered, "refused_503": row.refused,
        "failed": dict(row.failed), "degraded": row.degraded, "asked": row.asked, "filled": row.filled,
        "events_acknowledged": len(row.acknowledged), "events_unsure": len(row.unsure),
        "spooled_answers": row.spooled,
        "recovered_s": round(one.recovered_s, 2), "allowed": one.allowed, "notes": one.notes,
    }  # fmt: skip
