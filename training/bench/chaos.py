"""`fenliu bench chaos`: one thing after another is broken under a steady client; what was lost, how long.

The service runs by its own command in one process, each store role on a server of its own. A row breaks
something, mends it, and is judged by its allowance: pages answered, places filled, events acknowledged that
the lake does not have once, caps overshot. Customers are so many that none gets more than six homepages: a
contact log holds 256 places, and what a cap no longer finds there it cannot count.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

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

Step = Callable[["Town"], object]


@dataclass(frozen=True, slots=True)
class Fault:
    """`break_` and `mend` block and run in a thread. `pages`: whether every page has to be answered."""

    name: str
    break_: Step
    mend: Step
    pages: bool = True
    fill: bool = True


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
    parser.add_argument("--seconds", type=float, help="of each row (12; with --quick 4)")
    parser.add_argument("--customers", type=int, default=2_000, help="who take turns: see above")
    parser.add_argument("--items", type=int, default=600)
    parser.add_argument("--only", help="rows whose name holds this text")
    parser.add_argument("--seed", type=int, default=2026)


def run(args: argparse.Namespace) -> Result:
    from training.bench.chaos_world import town

    console, tally = wide_console(), Tally()
    seconds = args.seconds or (4.0 if args.quick else 12.0)
    told: list[Told] = []
    faults = [one for one in FAULTS if (args.only or "") in one.name]
    if args.quick:
        faults = [one for one in faults if one.name in QUICK]
    with (
        tempfile.TemporaryDirectory(prefix="fenliu-chaos-", ignore_cleanup_errors=True) as folder,
        town(Path(folder), customers=args.customers, items=args.items, seed=args.seed) as made,
    ):
        made.start("--local")
        told += asyncio.run(_rows(made, faults, args.rate, seconds, args.seed, console))
        if not args.quick and not args.only:
            told.append(asyncio.run(_overload(made, seconds, args.seed, console)))
        made.end()
        _settled(made, told, tally)
    _table(told, console)
    worst = [one.name for one in told if not one.allowed]
    tally.put("rows", len(told))
    tally.put(
        "rows_not_allowed", len(worst), "", ", ".join(worst) or "each within its allowance", ("<=", 0.0)
    )
    print(json.dumps({"rows": [_plain(one) for one in told]}))
    return tally.result()


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
    """A quarter of the time before, a quarter broken, half after it was mended."""
    sending = asyncio.create_task(client.run(rate, seconds))
    notes: list[str] = []
    await asyncio.sleep(seconds / 4)
    for step, wait in ((fault.break_, seconds / 4), (fault.mend, 0.0)):
        note = await asyncio.to_thread(step, made)
        notes += [note] if isinstance(note, str) else []
        await asyncio.sleep(wait)
    from training.bench.chaos_client import recovered_s

    mended = time.monotonic()
    await sending
    row = await client.settle(SETTLE_S)
    return Told(fault.name, row, recovered_s(row, mended), _allowed(fault, row), notes)


def _allowed(fault: Fault, row: Row) -> bool:
    answered = not fault.pages or (row.answered >= ANSWERED * row.sent and not row.failed)
    filled = not fault.fill or row.filled >= FILLED * row.asked
    return answered and filled and not row.held_back


async def _overload(made: Town, seconds: float, seed: int, console: Console) -> Told:
    """Twice what a closed loop gets: pages or 503 with Retry-After, nothing else."""
    from training.bench.chaos_client import Client

    client = Client(made.url, made.customers, seed + 1)
    try:
        rate = OVERLOAD * await client.closed(16, 3.0) / 3.0
        await client.settle(SETTLE_S)
        await client.run(rate, seconds)
        row = await client.settle(SETTLE_S)
    finally:
        await client.close()
    told = Told("2 x overload", row, 0.0, not row.failed, [f"{rate:.0f} pages a second"])
    said(console, told)
    return told


# --- faults


def _nothing(_: Town) -> None:
    return None


def _stopped(role: str) -> Fault:
    return Fault(f"{role} stopped", lambda town: town.stop(role), lambda town: town.go_on(role))


def _killed(role: str) -> Fault:
    return Fault(
        f"{role} killed, from its AOF", lambda town: town.kill(role), lambda town: town.restart(role)
    )


def _flush(town: Town) -> None:
    from features.redis_plain import opened

    with opened(town.settings.features_url or "") as store:
        store.flushall()


def _materialise(town: Town) -> None:
    from training.bench.chaos_world import materialised

    materialised(town)


def _memory_of(role: str, most: str) -> Step:
    def change(town: Town) -> None:
        from features.redis_plain import opened

        with opened(getattr(town.settings, f"{role}_url")) as store:
            store.config_set("maxmemory", most)

    return change


def _full_disk(town: Town) -> str:
    """The log's server may write no byte more to any file."""
    import resource

    pid = town.stores["log"].pid
    assert pid is not None
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    return "RLIMIT_FSIZE of the log's server"


def _room_again(town: Town) -> str:
    import resource

    pid = town.stores["log"].pid
    assert pid is not None
    try:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except ProcessLookupError:
        town.restart("log")
        return "the server had ended: restarted from its AOF"
    return "room again"


def _corrupt(town: Town) -> None:
    version = f"corrupt-{time.time_ns()}"
    made = replace(town.bundle, version=version, manifest={**town.bundle.manifest, "version": version})
    from serving.bundle import save
    from training.materialize import point_at

    town.registry.put(save(made, town.home / version))
    spoilt = town.home / "registry" / "bundles" / version / "stats.npy"
    raw = bytearray(spoilt.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    spoilt.write_bytes(bytes(raw))
    point_at(town.settings.control_url or "", "bundle", version)


def _other_items(town: Town) -> None:
    """A bundle in which the plan's items do not exist."""
    from training.bench.decide_world import world_of

    other, _ = world_of(40, 1, 6, 1)
    town.publish(f"other-{time.time_ns()}", other)


def _former_bundle(town: Town) -> None:
    from training.materialize import point_at

    point_at(town.settings.control_url or "", "bundle", "chaos-1")


def _nan_plan(town: Town) -> None:
    from training.materialize import point_at

    text = town.plan.model_dump_json(by_alias=True).replace('"factor":', '"factor": NaN, "was":')
    text = text.replace('"click":', '"click": NaN, "was_click":', 1)
    (town.home / "registry" / "plans" / "ffffffffffff.json").write_text(text)
    point_at(town.settings.control_url or "", "plan", "ffffffffffff")


def _former_plan(town: Town) -> None:
    from training.materialize import point_at

    point_at(town.settings.control_url or "", "plan", town.plan.version)


def _new_bundle(town: Town) -> None:
    town.publish(f"next-{time.time_ns()}", town.bundle)


def _killed_service(town: Town) -> None:
    assert town.process is not None
    town.process.kill()
    town.process.wait()


def _garbage_prices(town: Town) -> None:
    from features.redis_plain import opened

    with opened(town.settings.control_url or "") as store, contextlib.suppress(Exception):
        store.hset("control", "prices", "999999999999999999999")
        store.set("control:prices", b'{"version": 1e999, "prices": {"c1": [NaN]}}')


BASE: Final = Fault("nothing", _nothing, _nothing)
FAULTS: Final = (
    BASE,
    *(_stopped(role) for role in ("features", "live", "log", "control")),
    *(_killed(role) for role in ("features", "live", "log", "control")),
    Fault("features flushed, materialised", _flush, _materialise),
    Fault("log out of memory", _memory_of("log", "1mb"), _memory_of("log", "0")),
    Fault("log's disk full", _full_disk, _room_again),
    Fault("corrupt bundle", _corrupt, _former_bundle),
    Fault("bundle of other items", _other_items, _former_bundle),
    Fault("plan with NaN", _nan_plan, _former_plan),
    Fault("garbage for prices", _garbage_prices, _nothing),
    Fault("new bundle under load", _new_bundle, _nothing),
)
QUICK: Final = frozenset({"nothing", "features killed, from its AOF", "log stopped", "plan with NaN"})


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
    from training.bench.chaos_world import CAPPED

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
            str(len(row.acknowledged)), str(len(row.unsure)), f"{one.recovered_s:.1f}", f"{p99:.0f}",
            "ok" if one.allowed else "NO",
        )  # fmt: skip
    console.print(table)


def _plain(one: Told) -> dict[str, Any]:
    row = one.row
    return {
        "row": one.name, "sent": row.sent, "answered": row.answered, "refused_503": row.refused,
        "failed": dict(row.failed), "degraded": row.degraded, "asked": row.asked, "filled": row.filled,
        "events_acknowledged": len(row.acknowledged), "events_unsure": len(row.unsure),
        "recovered_s": round(one.recovered_s, 2), "allowed": one.allowed, "notes": one.notes,
    }  # fmt: skip
