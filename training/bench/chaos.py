"""`fenliu bench chaos`: one thing after another is broken under a steady client; what was lost, how long.

The service runs in one process, then on Ray Serve with two replicas behind HAProxy, each store role on a
server of its own. A row breaks something, mends it, and is judged by its allowance: pages answered, places
filled, recovered at all, the fault met where it is something to be refused, events acknowledged that the lake
or the customers' contact logs do not have once, caps overshot. Customers are so many that none
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
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
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
PROOF_S: Final = 10.0  # within which the service has met what it is to refuse
MOST_PLACES: Final = 40
OVERLOAD: Final = 2.0
BESIDE: Final = 5.0  # pages a second that are looked into under overload
MOST_OPEN: Final = 400  # requests open at once under overload, as many as the other client may have
LATE_S: Final = 5.0  # who waits longer has gone
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
    lost: int = 0  # events acknowledged in this row that the lake does not have
    doubled: int = 0  # … that it or a contact log has more than once


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
    proof = (lambda: "") if fault.proof is None else await asyncio.to_thread(fault.proof, made)
    sending = [asyncio.create_task(one.run(rate, over=over)) for one in (client, *beside)]
    await asyncio.sleep(seconds / 4)
    broken, made.marked = time.monotonic(), None
    notes += await _done(fault.break_, made)
    await asyncio.sleep(seconds / 4)
    missing = await _proven(proof)
    notes += await _done(fault.mend, made)
    mended = time.monotonic()
    await asyncio.sleep(seconds / 2)
    over.set()
    await asyncio.gather(*sending)
    row = await client.settle(SETTLE_S)
    patient = [await one.settle(2 * SETTLE_S) for one in beside]
    for one in [*beside, *([client] if fault.fresh else [])]:
        await one.close()
    since = broken if fault.by_itself or fault.mend is nothing else mended
    recovered = recovered_s(row, since)
    complaints = [
        text
        for text in (
            _complaint(fault, row, broken),
            fault.judge(row, broken, made.marked or mended),
            missing,
            "" if recovered < float("inf") else "it has not recovered",
        )
        if text
    ]
    complaints += ["a client that retries failed" for one in patient if one.failed or one.held_back]
    for other in patient:
        notes.append(f"a client that retries: {other.answered} of {other.sent}")
        row.acknowledged |= other.acknowledged
    return Told(fault.name, row, recovered, not complaints, notes + complaints)


async def _done(step: Callable[[Town], object], made: Town) -> list[str]:
    note = await asyncio.to_thread(step, made)
    return [note] if isinstance(note, str) else []


async def _proven(proof: Callable[[], str]) -> str:
    """Once the service has had time to meet the fault: "" or what is missing."""
    until = time.monotonic() + PROOF_S
    while (missing := await asyncio.to_thread(proof)) and time.monotonic() < until:
        await asyncio.sleep(0.5)
    return missing


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
    if not fault.pages and (strange := row.failed.keys() - fault.kinds):
        return f"failed by {', '.join(sorted(strange))}"
    return ""


async def _overload(made: Town, seconds: float, seed: int, console: Console, name: str) -> Told:
    """Twice what a closed loop gets, from a generator in a process of its own: pages or 503 with Retry-After,
    nothing else. Beside it a few pages a second by the client that looks into them.
    """
    from training.bench.chaos_client import Client
    from training.bench.load import post
    from training.bench.volley import Target, Volley

    bodies = [
        json.dumps({"user_id": f"u{number}", "context": {"channel": "app"}}).encode()
        for number in range(made.customers // 2, made.customers)
    ]
    asked = [post("/v1/recommend", body, "127.0.0.1") for body in bodies]
    client = Client(made.url, made.customers // 2, seed + 1, tells=False)
    with Volley({"page": Target("127.0.0.1", made.port, asked)}) as volley:
        try:
            best = await asyncio.to_thread(volley.closed, "page", connections=16, seconds=3.0)
            rate = OVERLOAD * best.rate
            shots = volley.open("page", rate=rate, seconds=seconds, connections=MOST_OPEN)
            await client.run(BESIDE, seconds)
            row = await client.settle(SETTLE_S)
            seen = await asyncio.to_thread(shots.result)
        finally:
            await client.close()
    row.sent += sum(seen.statuses.values())
    row.answered += seen.statuses.pop(200, 0)
    row.refused += seen.statuses.pop(503, 0)
    row.failed.update({str(status or "no answer"): many for status, many in seen.statuses.items() if many})
    row.latencies += seen.latencies
    late = sum(one > LATE_S for one in seen.latencies)
    notes = [f"{rate:.0f} pages a second", f"{late} answers after {LATE_S:g} s"]
    in_time = late <= (1 - ANSWERED) * row.sent  # from when each was due: with its wait for a connection
    told = Told(name, row, 0.0, in_time and not row.failed and row.filled >= FILLED * row.asked, notes)
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
    clicks = Counter(one for one, kind in zip(ids, kinds, strict=True) if kind == "clicked")
    twice = {one for one, count in clicks.items() if count > 1}
    twice |= {one for one, count in Counter(ids).items() if count > MOST_PLACES}  # a display: a row a place
    for one in told:
        one.lost, one.doubled = len(one.row.acknowledged - held), len(one.row.acknowledged & twice)
        if one.lost or one.doubled:
            one.allowed = False
            one.notes.append(f"{one.lost} acknowledged events lost, {one.doubled} doubled")
    tally.put("acknowledged", len(acknowledged), "events", "answered with 202")
    tally.put("lost", len(lost), "events", "acknowledged, and not in the lake", ("<=", 0.0))
    tally.put("doubled", len(twice), "events", "in the lake more than once", ("<=", 0.0))
    note = "displays that a contact log holds twice, or holds and the lake does not"
    tally.put("doubled_live", _doubled_live(made, events), "displays", note, ("<=", 0.0))
    tally.put("caps_overshot", _overshot(events), "customers", "shown the capped campaign twice", ("<=", 0.0))
    tally.put("displays", sum(kind == "displayed" for kind in kinds), "places")


def _doubled_live(made: Town, events: Any) -> int:
    """Over what customers' contact logs hold at the end, by the entry's identity and by their number."""
    from features.events import WHAT
    from features.live_store import live_keys
    from features.redis_plain import opened
    from features.views import CONTACT

    in_lake = Counter(
        subject
        for subject, kind in zip(events["subject"].to_pylist(), events["type"].to_pylist(), strict=True)
        if kind == "displayed"
    )
    with opened(made.settings.live_url or "") as store:
        logs = [(one, store.get(live_keys(one).contact)) for one in in_lake]
    found = 0
    for subject, log in logs:
        entries = np.frombuffer(log, CONTACT) if isinstance(log, bytes) else np.empty(0, CONTACT)
        shown = entries[entries["what"] == WHAT["displayed"]]
        distinct = len(np.unique(shown[["item", "event"]]))
        found += len(shown) - distinct + max(0, distinct - in_lake[subject])
    return found


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
        "lost",
        "doubled",
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
            str(len(row.acknowledged)), str(one.lost), str(one.doubled), str(row.spooled),
            str(len(row.unsure)), f"{one.recovered_s:.1f}", f"{p99:.0f}",
            "ok" if one.allowed else "NO",
        )  # fmt: skip
    console.print(table)


def _plain(one: Told) -> dict[str, Any]:
    row = one.row
    return {
        "row": one.name, "sent": row.sent, "answered": row.answered, "refused_503": row.refused,
        "failed": dict(row.failed), "degraded": row.degraded, "asked": row.asked, "filled": row.filled,
        "events_acknowledged": len(row.acknowledged), "events_unsure": len(row.unsure),
        "lost": one.lost, "doubled": one.doubled,
        "spooled_answers": row.spooled,
        "recovered_s": round(one.recovered_s, 2), "allowed": one.allowed, "notes": one.notes,
    }  # fmt: skip
