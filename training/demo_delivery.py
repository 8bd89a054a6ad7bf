"""Delivery against plan as the demo shows it: read from meters, pools, control and /metrics, as anybody may.

`Watch` reads, `standings` and `tags_of` compute, `show_…` and `plot` print and draw.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from features.ids import key32
from features.ledger import quota_on
from features.meters import ShareMeter
from features.stores import Stores, StoreUrls
from serving.campaign import Campaign
from serving.causes import Cause
from serving.curves import PACINGS, asap_by, target
from serving.headroom import zone_of
from serving.metered import Metered
from serving.pace_inputs import campaign_share, share_of_day, slot_share
from serving.plan import CompiledPlan
from serving.prices import NO_PRICES, Prices, decode_prices
from serving.redis_control import RedisControl
from serving.settings import Settings

EVERY_S: Final = 2.0


class Reading(NamedTuple):
    """One look. `shares`: campaign -> (its displays, all displays of the slot to its customers) today."""

    at: float
    delivered: Mapping[str, Mapping[str, float]]  # campaign -> unit -> units
    prices: Prices
    shares: Mapping[str, tuple[float, float]]
    quotas: Mapping[str, tuple[int, int, int]]  # key -> displays confirmed in time, outstanding, late


class Tags(NamedTuple):
    """CNY since the service started, as /metrics has them."""

    by_campaign: Mapping[str, float]
    by_rule: Mapping[str, float]
    by_org: Mapping[str, float]
    slots: Mapping[str, float]  # CNY per display


class Standing(NamedTuple):
    """A campaign at one reading. `goal` and `due` are NaN where nothing is promised."""

    campaign: str
    org: str
    tier: str
    unit: str
    goal: float
    delivered: float
    due: float
    price: float  # net, CNY per unit
    cause: Cause | None
    quota_left: float  # NaN without a quota
    pace: float  # delivered over due


class Watch:
    """The stores of a running service, read from beside it. `compiled`: the plan that it runs by."""

    def __init__(self, settings: Settings, compiled: CompiledPlan) -> None:
        self._stores = Stores.open(
            StoreUrls(**{role: url or "" for role, url in settings.store_urls.items()})
        )
        self._control = RedisControl.at(settings.control_url or "")
        self._campaigns, self._metered = compiled.campaigns, Metered.of(compiled)
        self._shares = _share_meters(compiled)
        self._prices = NO_PRICES

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._control.close()
        await self._stores.close()

    async def read(self) -> Reading:
        """Raises StoreUnavailable."""
        now = time.time()
        measured = {
            name: tuple(share_of_day(one, now)[0] for one in pair) for name, pair in self._shares.items()
        }
        wanted = [*self._campaigns.ids, *(meter for pair in measured.values() for meter in pair)]
        found = await self._stores.meters.read(wanted)
        totals = {name: {unit: one.total for unit, one in units.items()} for name, units in found.items()}
        pools = {pool.key: quota_on(pool.key, pool.per, now, pool.zone) for pool in self._metered.pools}
        held = await self._stores.ledger.pools(list(pools.values())) if pools else {}
        state = await self._control.poll("")
        if state.blob is not None:
            self._prices = decode_prices(state.blob)
        return Reading(
            now,
            {name: totals.get(name, {}) for name in self._campaigns.ids},
            self._prices,
            {
                name: (totals.get(own, {}).get("displayed", 0.0), totals.get(all_, {}).get("displayed", 0.0))
                for name, (own, all_) in measured.items()
            },
            {
                key: (held[name].confirmed, held[name].outstanding, held[name].late)
                for key, name in pools.items()
                if name in held
            },
        )


def _share_meters(compiled: CompiledPlan) -> dict[str, tuple[ShareMeter, ShareMeter]]:
    """Of each campaign with a share: its own displays in the slot, and everybody's to its customers."""
    campaigns, names = compiled.campaigns, {slot.index: slot.name for slot in compiled.slots.values()}
    below: dict[int, list[str]] = {}
    for org, line in compiled.orgs.lineages.items():
        for above in line:
            below.setdefault(key32(above), []).append(org)
    found = {}
    for goal in campaigns.goals:
        if goal.share > 0:
            c, slot = goal.campaign, names[goal.slot]
            zone, orgs = zone_of(campaigns.calendars[c].tz), below.get(int(campaigns.customers_of[c]), [])
            own = campaign_share(slot, campaigns.ids[c], zone)
            found[campaigns.ids[c]] = own, slot_share(slot, orgs, zone)
    return found


def tags_of(metrics: str) -> Tags:
    """From the text of /metrics."""
    sums: list[dict[str, float]] = [{}, {}, {}]
    slots: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if family.name == "fenliu_slot_inner_price_cny":
                slots[sample.labels["slot"]] = sample.value
            elif family.name == "fenliu_price_tag_cny" and sample.name.endswith("_total"):
                for into, label in zip(sums, ("campaign", "rule", "org"), strict=True):
                    name = sample.labels[label]
                    into[name] = into.get(name, 0.0) + sample.value
    return Tags(sums[0], sums[1], sums[2], slots)


def standings(campaigns: Iterable[Campaign], reading: Reading) -> list[Standing]:
    """One line per campaign, in the order given."""
    return [_standing(one, reading) for one in campaigns]


def _standing(one: Campaign, reading: Reading) -> Standing:
    goal = one.goals[0] if one.goals else None
    unit = "displayed" if goal is None else goal.unit.lower()
    delivered, wanted = reading.delivered.get(one.id, {}).get(unit, 0.0), float("nan")
    due = wanted
    if goal is not None and goal.at_least is not None:
        wanted = goal.at_least
        due = wanted * due_part(one, reading.at)
    elif goal is not None and goal.share is not None:
        delivered, shown = reading.shares.get(one.id, (0.0, 0.0))
        wanted = due = goal.share * shown
    prices = {
        "displayed": reading.prices.per_display, "clicked": reading.prices.per_click
    }.get(unit, reading.prices.per_convert)  # fmt: skip
    found = [code for name, code in reading.prices.causes.items() if name.partition("/")[0] == one.id]
    left = [
        quota.at_most - sum(reading.quotas.get(f"{one.id}/{quota.id}", (0, 0, 0))[:2])
        for quota in one.quotas
        if quota.unit == "displayed"
    ]
    if one.benefit is not None and one.benefit.stock is not None:
        left.append(one.benefit.stock - reading.delivered.get(one.id, {}).get("converted", 0.0))
    return Standing(
        one.id, one.org, one.tier, unit, wanted, delivered, due, prices.get(one.id, 0.0),
        Cause(found[0]) if found else None, min(left, default=float("nan")),
        delivered / due if due > 0 else float("nan"),
    )  # fmt: skip


def due_part(one: Campaign, at: float) -> float:
    """The part of its goal that should be delivered by then, as if the traffic of its flight were even."""
    begins, ends = _posix(one, one.flight.from_, -inf), _posix(one, one.flight.until, inf)
    part = np.array([(at - begins) / max(ends - begins, 1e-9)])
    by = asap_by(np.zeros(1), np.ones(1))
    return float(target(part, np.array([PACINGS.index(one.pacing)], np.uint8), by)[0])


def _posix(one: Campaign, moment: datetime | date | None, instead: float) -> float:
    if moment is None:
        return instead
    if not isinstance(moment, datetime):
        zone = zone_of(one.flight.tz or "Asia/Shanghai")
        moment = datetime(moment.year, moment.month, moment.day, tzinfo=zone)
    return moment.timestamp()


def show_delivery(console: Console, found: Sequence[Standing], tags: Tags) -> None:
    """`%` of what was due; `price` net, CNY per unit; `left` of its quotas; `tag` CNY forgone for it."""
    table = Table(title="delivery against plan", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("campaign", "tier"):
        table.add_column(name, no_wrap=True)
    for name in ("goal", "got", "due", "%", "price", "left", "tag"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        unit = "" if one.unit == "displayed" else f" {one.unit}"
        table.add_row(
            one.campaign, one.tier, _number(one.goal) + unit, _number(one.delivered), _number(one.due),
            "" if one.pace != one.pace else f"{one.pace:.0%}",
            "" if one.goal != one.goal and not one.price else f"{one.price:+.3f}",
            _number(one.quota_left), f"{tags.by_campaign.get(one.campaign, 0.0):.2f}",
        )  # fmt: skip
    console.print(table)
    for one in found:
        if one.cause is not None:
            console.print(f"late: {one.campaign}, {one.cause.text('en')} ({one.cause})", highlight=False)


def show_tags(console: Console, tags: Tags) -> None:
    """What rules cost the page, by rule and by org, and what each slot's displays are worth inside."""
    for title, values, form in (
        ("price tags by rule, CNY forgone", tags.by_rule, "{:.2f}"),
        ("price tags by org, CNY forgone", tags.by_org, "{:.2f}"),
        ("internal price of a slot, CNY per display", tags.slots, "{:.4f}"),
    ):
        told = "   ".join(
            f"{name or '(no campaign)'} [bold]{form.format(value)}[/]"
            for name, value in sorted(values.items())
        )
        console.print(f"{title}: {told or 'none'}", highlight=False)


def plot(path: Path, campaigns: Sequence[Campaign], readings: Sequence[Reading]) -> Path:
    """Delivery of every goal against its curve over the demo's time, and the prices below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(11, 9), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    began = readings[0].at
    times = [one.at - began for one in readings]
    for at, one in enumerate(one for one in campaigns if one.goals):
        seen = [_standing(one, reading) for reading in readings]
        whole = max((each.goal for each in seen if each.goal == each.goal), default=0.0) or 1.0
        style = {"color": f"C{at % 10}", "linestyle": "-" if at < 10 else "-."}
        above.plot(times, [each.delivered / whole for each in seen], label=one.id, **style)
        above.plot(times, [each.due / whole for each in seen], color=style["color"], linestyle=":", lw=0.8)
        below.plot(times, [each.price for each in seen], **style)
    above.set_ylabel("delivered / goal (dotted: due)")
    above.set_ylim(0, 1.4)
    above.legend(fontsize=7, ncols=2, loc="upper left")
    below.set_ylabel("net price, CNY per unit")
    below.set_yscale("symlog", linthresh=0.01)
    below.set_xlabel("seconds")
    for axis in (above, below):
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _number(value: float) -> str:
    return "" if value != value else f"{value:,.0f}"
