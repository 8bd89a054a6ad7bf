"""What was delivered of goals: so far, by the live meters, which a forecast begins from; and over the time of
a forecast that is past, by the lake, which is what it is scored by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute

from features.ids import key32
from features.stores import Stores, StoreUrls
from serving.metered import Metered
from serving.pace_inputs import goal_id
from serving.plan import CompiledPlan, PlanError
from serving.plans import PlanShelf
from serving.settings import Settings
from training.booking_record import Forecasts
from training.lake import Lake

pc: Any = pyarrow.compute
_COLUMNS: Final = ("type", "subject", "decision_id", "item_key", "campaign", "amount", "currency")
_COUNTED: Final = ("displayed", "clicked", "converted")


def so_far(settings: Settings, plan: CompiledPlan, now: float) -> dict[str, float]:
    """Units by goal id and by quota key, as the meters and the ledger have them. Raises StoreUnavailable."""
    metered, campaigns = Metered.of(plan), plan.campaigns
    meters = {key: one.meter for key, one in metered.booked.items()}

    async def ask() -> dict[str, float]:
        stores = Stores.open(StoreUrls(**{role: url or "" for role, url in settings.store_urls.items()}))
        try:
            read = await stores.meters.read(list(meters.values()))
            names = {pool.key: pool.name(now) for pool in metered.pools}
            pools = await stores.ledger.pools(list(names.values()))
        finally:
            await stores.close()
        found = {key: float(pools[name].confirmed) for key, name in names.items() if name in pools}
        for goal in campaigns.goals:
            reading = read.get(meters.get(int(campaigns.keys[goal.campaign]), ""), {}).get(goal.unit.lower())
            if reading is not None and goal.share == 0:
                found[goal_id(goal, campaigns)] = reading.total
        return found

    return asyncio.run(ask())


def over(lake: Lake, campaigns: Sequence[str], since: float, until: float) -> dict[tuple[str, str], float]:
    """Units by (campaign, unit) of events with since <= at < until; a placement counts once for a unit."""
    keys = {key32(name): name for name in campaigns}
    table = lake.events(since, until, columns=_COLUMNS)
    kinds = pc.cast(table["type"], pa.string())
    ours = pc.is_in(table["campaign"], pa.array(sorted(keys), pa.uint32()))
    kept = pc.and_(pc.and_(pc.is_in(kinds, pa.array(_COUNTED)), pc.is_valid(table["decision_id"])), ours)
    table = table.set_column(0, "type", kinds).filter(pc.fill_null(kept, False))
    each = table.group_by(["campaign", "type", "subject", "decision_id", "item_key"]).aggregate(
        [("amount", "max"), ("currency", "min")]
    )
    money = pc.fill_null(pc.equal(each["currency_min"], "CNY"), True)
    each = each.append_column("cny", pc.if_else(money, pc.fill_null(each["amount_max"], 0.0), 0.0))
    sums = each.group_by(["campaign", "type"]).aggregate([("cny", "count"), ("cny", "sum")])
    found: dict[tuple[str, str], float] = {}
    for one in sums.to_pylist():
        name = keys[one["campaign"]]
        found[name, one["type"]] = float(one["cny_count"])
        if one["type"] == "converted":
            found[name, "cny"] = float(one["cny_sum"])
    return found


def score_due(registry: str, lake: Lake, now: float) -> int:
    """Score the forecasts whose time is over, of plans that were in force; how many it was.

    A forecast of a plan that was never published has nothing to be scored by.
    """
    forecasts, shelf, count = Forecasts(registry), PlanShelf(registry), 0
    for name in forecasts.due(now):
        said = forecasts.read(name)
        try:
            shelf.fetch(said["plan"])
        except PlanError:
            continue
        known = [one for one in said["goals"] if "/share-" not in one["id"]]
        units = over(lake, [one["campaign"] for one in known], said["since"], said["until"])
        delivered: Mapping[str, float] = {
            one["id"]: units.get((one["campaign"], one["unit"].lower()), 0.0) for one in known
        }
        count += forecasts.score(name, delivered, now)
    return count
