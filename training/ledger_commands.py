"""`fenliu ledger …`: what the ledger holds by the plan in force, and counting it anew from log and lake."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute
from rich.console import Console
from rich.table import Table

from features.events import Event
from features.ledger import NO_EPOCH
from features.meters import UNITS
from features.rebuild import clear, rebuild
from features.stores import Stores, StoreUrls
from features.token import PLACES
from serving.control import Control
from serving.lists import ListShelf
from serving.live import compile_for
from serving.metered import Metered
from serving.redis_control import RedisControl
from training.backfill import restored
from training.commands import ingest_now, lake_of, live_plan
from training.desk import Desk
from training.lake import Lake
from training.progress import counting
from training.usage import UsageError

pc: Any = pyarrow.compute
T = TypeVar("T")
COUNTED: Final = ("displayed", "clicked", "converted")
COLUMNS: Final = (
    "event_id", "type", "occurred_at", "received_at", "at", "subject", "decision_id", "slot", "item_key",
    "campaign", "amount", "currency", "channel", "late",
)  # fmt: skip


def ledger_status(args: argparse.Namespace, desk: Desk, console: Console) -> int:
    """Quotas: displays confirmed in time, late ones, and what may still come. Campaigns: units delivered."""
    metered, now = _metered(desk), time.time()

    async def ask(stores: Stores, _control: Control) -> dict[str, Any]:
        names = {pool.key: pool.name(now) for pool in metered.pools}
        pools = await stores.ledger.pools(list(names.values()))
        meters = await stores.meters.read([one.meter for one in metered.booked.values()])
        return {
            "epoch": await stores.ledger.see_epoch(),
            "quotas": [
                {"quota": pool.key, "at_most": pool.at_most, **pools[names[pool.key]]._asdict()}
                for pool in metered.pools
                if names[pool.key] in pools
            ],
            "delivered": {
                name: {unit: one.total for unit, one in units.items()} for name, units in meters.items()
            },
        }

    found = _with_stores(desk, ask)
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
        return 0
    _show(found, console)
    return 0


def _show(found: Mapping[str, Any], console: Console) -> None:
    epoch = found["epoch"]
    told = "none: nothing capped is shown" if epoch == NO_EPOCH else str(epoch)
    console.print(f"epoch {told}", highlight=False)
    quotas = Table("quota", box=None)
    for name in ("at most", "confirmed", "outstanding", "late"):
        quotas.add_column(name, justify="right")
    for one in found["quotas"]:
        numbers = (one["at_most"], one["confirmed"], one["outstanding"], one["late"])
        quotas.add_row(one["quota"], *(f"{number:,}" for number in numbers))
    delivered = Table("campaign", box=None)
    for unit in UNITS:
        delivered.add_column(unit, justify="right")
    for name, units in found["delivered"].items():
        delivered.add_row(name, *(f"{units.get(unit, 0.0):,.0f}" for unit in UNITS))
    for table in (quotas, delivered):
        if table.row_count:
            console.print(table)


def ledger_rebuild(args: argparse.Namespace, desk: Desk, console: Console) -> int:
    """Nothing capped is shown until it is done. What the lake lacks (the org of a display) is not counted."""
    metered, settings = _metered(desk), desk.settings
    taken = _with_stores(desk, lambda stores, _: stores.ledger.see_epoch()) != NO_EPOCH
    if taken and not args.yes:
        raise UsageError("the ledger has an epoch, so its counts are there: say --yes to throw them away")
    with counting(console, "ingest") as tick:
        ingest_now(settings, progress=tick)
    gone = clear(settings.live_url or "")
    lake = lake_of(settings)
    table = _counted(lake, metered)

    async def count(stores: Stores, control: Control) -> int:
        if not taken:  # emptied: customers' caps stand on their logs, which must be back before it opens
            with counting(console, "customers") as tick:
                await restored(stores.live, lake, tick)
        with counting(console, "count") as tick:
            events = _told(events_of(table, _decided(lake)), table.num_rows, tick)
            made = await rebuild(stores.ledger, stores.meters, events, metered.booked, metered.shares)
        await control.set("epoch", str(await stores.ledger.see_epoch()))
        return made

    made = _with_stores(desk, count)
    console.print(f"{gone:,} old counts removed, {made:,} counted anew; the ledger is open", highlight=False)
    return 0


def events_of(table: pa.Table, decided: Mapping[tuple[str, str], float]) -> Iterator[Event]:
    """Events of the lake's rows (COLUMNS), one a row: a place each. `decided`: when, by subject and decision.

    A display whose decision is not in the lake counts as if it had been decided when it was shown.
    """
    for batch in table.to_batches(max_chunksize=10_000):
        columns = batch.to_pydict()
        for row in zip(*(columns[name] for name in COLUMNS), strict=True):
            one = dict(zip(COLUMNS, row, strict=True))
            places = np.zeros(1, PLACES)
            places["item"], places["slot"] = one["item_key"] or 0, one["slot"] or 0
            places["campaign"] = one["campaign"] or 0
            yield Event(
                event_id=one["event_id"],
                type=one["type"],
                occurred_at=one["occurred_at"] if one["occurred_at"] is not None else one["at"],
                received_at=one["received_at"],
                decided_at=decided.get((one["subject"], one["decision_id"]), one["at"]),
                at=one["at"],
                subject=one["subject"],
                user_id=None,
                visitor_id=None,
                decision_id=one["decision_id"],
                places=places,
                action=None,
                item_key=one["item_key"] or 0,
                item_id=None,
                amount=one["amount"],
                currency=one["currency"],
                channel=one["channel"] or 0,
                late=bool(one["late"]),
                session_id=None,
            )


def _counted(lake: Lake, metered: Metered) -> pa.Table:
    """Rows that count for something: of campaigns of the plan, and displays in slots with shares."""
    table = lake.events(columns=COLUMNS)
    ours = pc.is_in(table["campaign"], pa.array(sorted(metered.booked), pa.uint32()))
    shared = pc.is_in(table["slot"], pa.array(sorted(metered.shares), pa.uint32()))
    kinds = pc.is_in(pc.cast(table["type"], pa.string()), pa.array(COUNTED))
    known = pc.and_(kinds, pc.is_valid(table["decision_id"]))
    return table.filter(pc.and_(pc.or_(ours, shared), known))


def _decided(lake: Lake) -> dict[tuple[str, str], float]:
    served = lake.served(columns=("id", "subject", "at"))
    columns = (served[name].to_pylist() for name in ("subject", "id", "at"))
    return {(subject, decision): at for subject, decision, at in zip(*columns, strict=True)}


def _told(events: Iterator[Event], total: int, tick: Callable[[int, int], None]) -> Iterator[Event]:
    for done, event in enumerate(events, 1):
        if done % 1000 == 0 or done == total:
            tick(done, total)
        yield event


def _metered(desk: Desk) -> Metered:
    """What counts for what, by the plan in force over the live bundle."""
    plan, bundle = live_plan(desk.settings), desk.bundle
    if plan is None or bundle is None:
        raise UsageError("no plan is published, or no bundle is live: there is nothing to count for")
    return Metered.of(compile_for(plan, bundle, ListShelf(desk.settings.registry_url).numbers()))


def _with_stores(desk: Desk, act: Callable[[Stores, Control], Awaitable[T]]) -> T:
    async def run() -> T:
        stores = Stores.open(StoreUrls(**{role: url or "" for role, url in desk.settings.store_urls.items()}))
        control = RedisControl.at(desk.settings.control_url or "")
        try:
            return await act(stores, control)
        finally:
            await control.close()
            await stores.close()

    return asyncio.run(run())
