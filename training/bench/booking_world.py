"""The generated traffic of `fenliu bench pacing` as a plan and a replay sample, to try bookings on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ids import LAYOUTS, key32, key64
from features.views import ITEM_STATS, PROFILE
from serving.plan import CompiledPlan, Plan, Stock, check_plan, compile_plan
from serving.plan_default import CANONICAL
from serving.worth import Worth
from training.bench.campaigns14 import GUARANTEED, SHARE
from training.bench.offline14 import NOBODY
from training.bench.pages14 import drawn
from training.bench.traffic14 import START, Market, Views
from training.booking_pages import Joined, Spread, Stocked
from training.booking_priced import Prices, bare, evaluated
from training.sample_columns import Sample, Shape, bits_of, no_logs
from training.sample_strata import earlier

TIERS: Final = ("guaranteed", "share", "standard", "standard")
FIRST_LIST: Final = 40_000  # number of the first campaign's audience
LOOK: Final = 1.5  # organic candidates kept per place of a slot
BLOCK: Final = 4096


class Traffic(NamedTuple):
    """`sample` holds every page; `spread` says that it is the time itself that is booked."""

    market: Market
    sample: Sample
    spread: Spread
    raw: dict[str, Any]  # the plan with its campaigns, as operators would write it


def org_name(branch: int) -> str:
    return f"b{branch}"


def item_name(item: int) -> str:
    return f"i{item}"


def moment(minute: int) -> str:
    return datetime.fromtimestamp(START + 60.0 * minute, UTC).isoformat()


def traffic_of(market: Market, views: Views) -> Traffic:
    """The plan's campaigns are the market's that have a goal; the others may be booked."""
    sample = sample_of(market, views)
    spread = Spread(sample.at.copy(), sample.weight.astype(np.float64))
    return Traffic(market, sample, spread, raw_plan(market))


def raw_plan(market: Market) -> dict[str, Any]:
    campaigns = market.campaigns
    wanted = np.flatnonzero(campaigns.wanted > 0).tolist()
    slots = [
        {
            "name": name, "layout": layout, "size": size, "kinds": list(kinds), "diminish": 1.0,
            "per_category": 100, "display_rates": [float(r) for r in market.slots.rates[at, :size]],
        }
        for at, (name, layout, size, kinds) in enumerate(CANONICAL)
    ]  # fmt: skip
    slots[0]["shares"] = {org_name(b): 0.15 for b in range(10)}
    gains = {item_name(i): {"click": float(gain)} for i, gain in enumerate(market.gain.tolist())}
    return {
        "name": "bench",
        "surfaces": {"home": [slot["name"] for slot in slots]},
        "slots": slots,
        "orgs": [{"id": "head"}, *({"id": org_name(b), "parent": "head"} for b in range(10))],
        "values": {"version": "v1", "click": 0.0, "items": gains},
        "audiences": {f"a{c}": {"member": f"l{c}"} for c in range(len(campaigns))},
        "campaigns": [campaign_of(market, c) for c in wanted],
    }


def tightened(traffic: Traffic, part: float, seed: int) -> dict[str, Any]:
    """The plan with goals that can all be kept and leave little: `part` of what random prices give."""
    stocked = stocked_of(traffic.market, traffic.raw)
    joined = Joined(stocked, traffic.sample, traffic.spread)
    campaigns = len(joined.campaigns)
    rng = np.random.default_rng([seed, 97])
    per_click = np.array([goal.unit == "clicked" for goal in joined.campaigns.goals])
    price = np.exp(rng.normal(0.0, 0.4, campaigns))
    prices = Prices(np.where(per_click, 0.0, price), np.where(per_click, price / 0.035, 0.0), 0.0 * price)
    taken = evaluated([bare(one) for one in joined.parts(units=np.ones(campaigns, np.bool_))], prices)
    said = []
    for c, one in enumerate(traffic.raw["campaigns"]):
        goal = dict(one["goals"][0])
        if taken.units[0, c] < 100:  # what random prices leave out is not booked
            continue
        if "share" in goal:
            mine = joined.eligible(c)
            slot = float(traffic.market.slots.rates[0].sum() * traffic.spread.weight[mine].sum())
            goal["share"] = round(min(part * float(taken.units[0, c]) / slot, 0.14), 6)
        else:
            unit = 1 if goal["unit"] == "clicked" else 0
            goal["at_least"] = max(1.0, float(round(part * taken.units[unit, c])))
        said.append(one | {"goals": [goal]})
    return traffic.raw | {"campaigns": said}


def campaign_of(market: Market, c: int) -> dict[str, Any]:
    campaigns = market.campaigns
    names = [name for at, (name, *_) in enumerate(CANONICAL) if int(campaigns.slots[c]) >> at & 1]
    tier = int(campaigns.tier[c])
    goal: dict[str, Any] = {
        "unit": "clicked" if campaigns.clicked[c] else "displayed",
        "at_least": float(campaigns.wanted[c]),
    }
    if tier == SHARE:
        goal = {"share": float(campaigns.wanted[c]), "slot": "home.banner"}
    said: dict[str, Any] = {
        "id": f"c{c}",
        "org": org_name(int(campaigns.branch[c])) if tier == SHARE else "head",
        "items": [item_name(int(campaigns.item[c]))],
        "slots": names,
        "flight": {"from": moment(int(campaigns.begins[c])), "until": moment(int(campaigns.ends[c]))},
        "tier": TIERS[tier],
        "goals": [goal] if tier in (GUARANTEED, SHARE) else [],
        "penalty": float(campaigns.penalty[c]) or None,
    }
    if tier != SHARE:
        said["audience"] = f"a{c}"
    return {name: value for name, value in said.items() if value is not None}


def stocked_of(market: Market, raw: dict[str, Any]) -> Stocked:
    """The plan over the market's items, of which everybody may be shown every one."""
    plan: Plan = check_plan(raw)
    names = [item_name(i) for i in range(len(market.kind))]
    row_of = {name: row for row, name in enumerate(names)}
    n = len(names)
    keys = np.array([key64(name) for name in names], np.uint64)
    stock = Stock(
        row=row_of.get,
        kinds=market.kind,
        layouts=np.full(n, (1 << len(LAYOUTS)) - 1, np.uint8),
        rules=np.zeros(n, np.uint32),
        ranked=np.arange(n, dtype=np.int32),
        lists={f"l{c}": FIRST_LIST + c for c in range(len(market.campaigns))},
    )
    compiled: CompiledPlan = compile_plan(plan, stock, strict=False)
    worth = Worth.of(plan.values, ITEM_STATS.blank(n), market.kind, keys)
    return Stocked(
        compiled,
        worth,
        keys,
        np.zeros(n, np.uint32),
        market.kind,
        names.__getitem__,
        open=np.ones(n, np.bool_),
    )


def sample_of(market: Market, views: Views) -> Sample:
    """Every view as a page of the sample, in order of time."""
    n, campaigns = len(views), market.campaigns
    bookable = np.unique(campaigns.item).astype(np.int32)
    column = np.full(len(market.kind), -1)
    column[bookable] = np.arange(len(bookable))
    p = np.zeros((n, len(bookable)), np.float32)
    parts: list[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]] = []
    for low in range(0, n, BLOCK):
        some = slice(low, min(low + BLOCK, n))
        one = _drawn(market, views, some)
        page = np.repeat(np.arange(some.stop - low), np.diff(one.batch.option_at))
        held = column[one.item] >= 0
        p[low + page[held], column[one.item[held]]] = one.p[held]
        kept = _looked_at(one.batch.option_at, one.batch.options.value, one.batch.options.members, market)
        sizes = np.bincount(page[kept], minlength=some.stop - low)
        parts.append((sizes, one.item[kept], one.p[kept]))
    sizes, option, option_p = (np.concatenate(part) for part in zip(*parts, strict=True))
    log_at, log, logged = no_logs(n)
    org = np.array([key32(org_name(b)) for b in range(10)], np.uint32)[market.branch_of[views.customer]]
    at = START + 60.0 * views.minute.astype(np.float64)
    blank = PROFILE.blank(1)
    return Sample(
        bundle="bench", made_at=START, since=START, until=START + 60.0 * market.minutes, population=float(n),
        shapes=(Shape("home", tuple((name, size) for name, _, size, _ in CANONICAL), whole=True),),
        items=np.array([key64(item_name(i)) for i in range(len(market.kind))], np.uint64),
        bookable=bookable, at=at, subject=views.customer.astype(np.uint64),
        unit=views.customer.astype(np.uint64) + np.uint64(1), org=org,
        owner=np.zeros(n, np.uint32), shape=np.zeros(n, np.int32), weight=np.ones(n, np.float32),
        earlier=earlier(views.customer.astype(np.uint64), at), segment=np.zeros(n, np.uint16),
        taste=np.zeros((n, 0), np.float32), option_at=np.r_[0, np.cumsum(sizes)].astype(np.int64),
        option=option, option_p=option_p, p=p, permitted=bits_of(p > 0),
        known=np.full(n, PROFILE.all_known, np.uint64), listed=np.ones(n, np.bool_),
        profiling=np.ones(n, np.bool_), log_at=log_at, log=log, logged=logged,
        fields={"org": org, "age": np.broadcast_to(blank["age"], (n,))},
        memberships={
            FIRST_LIST + c: np.flatnonzero(one[views.customer]) for c, one in enumerate(campaigns.audience)
        },
    )  # fmt: skip


def _drawn(market: Market, views: Views, some: slice) -> Any:
    campaigns = len(market.campaigns)
    free = np.zeros((1, campaigns))
    closed, caps = np.ones((1, campaigns), np.bool_), np.zeros((campaigns, 2), np.int32)
    return drawn(market, views.customer[some], views.salt[some], free, free, closed, NOBODY, caps)


def _looked_at(
    starts: NDArray[np.int64], value: NDArray[np.float32], members: NDArray[np.uint64], market: Market
) -> NDArray[np.bool_]:
    """The best of every slot on every page: LOOK times its places."""
    page = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    kept = np.zeros(len(value), np.bool_)
    order = np.lexsort((-value, page))
    for bit, count in zip(market.slots.bit, market.slots.count, strict=True):
        fits = order[(members[order] & bit) != 0]
        first = np.searchsorted(page[fits], np.arange(len(starts) - 1))
        rank = np.arange(len(fits)) - first[page[fits]]
        kept[fits[rank < int(LOOK * count) + 2]] = True
    return kept
