"""decide(query, live, effort): the whole decision, pure: no clock, no network, no randomness of its own.

The same inputs give the same page, bit for bit, on every replica and in every replay. What was awaited (the
customer's records) stands in the query; which rung to run is the shell's choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.allocation import Allocation
from serving.bandit_draws import drawn_arms
from serving.domain import (
    ArmDraw,
    Candidates,
    Decision,
    Drops,
    Effort,
    Explained,
    Lottery,
    Met,
    Placement,
    Query,
    Rows,
    SlotRequest,
)
from serving.experiments import Assigned, idle
from serving.exploring import Lotteries, explored
from serving.live import Live
from serving.market import Market
from serving.meeting import counted, met
from serving.newcomers import PREDICTS
from serving.newcomers_kernel import correct
from serving.pipeline import Page, Trace
from serving.placed import Columns, Later, Placements
from serving.reasons import Drop
from serving.seats import CAMPAIGN_KEY, CONVERTS, KEY, REASON, SHOWN, Seats
from serving.stepping import Steps, whole
from serving.why import reason_of

NO_UNITS: Final = (0.0, 0.0, 0.0)
_NONE: Final[NDArray[np.int32]] = np.zeros(0, np.int32)
SPARE: Final = 8  # candidates of a kind beyond twice its places

__all__ = ["Decision", "Query", "decide", "deciding", "page_of"]


def decide(
    query: Query,
    live: Live,
    effort: Effort = "full",
    cached: Rows | None = None,
    trace: Trace | None = None,
) -> Decision:
    """Fill the query's slots. Every rung passes permission and kills.

    `cached`: the rows of the customer's last page of this Live, for the rung of that name. `trace` collects
    stage timings where it has a timer; the decision does not depend on it. Rows of the decision, and of the
    query in it, are those of `live.of(decision)`: an arm may be served from another bundle.
    """
    return whole(deciding(query, live, effort, cached, trace))


def deciding(
    query: Query,
    live: Live,
    effort: Effort = "full",
    cached: Rows | None = None,
    trace: Trace | None = None,
) -> Steps[Decision]:
    """`decide`, stage by stage, for `serving.stepping.side_by_side`: the same page, whoever is beside it."""
    trace = trace if trace is not None else Trace()
    query, mine, arms, arm_draws = _under_arms(query, live)
    changed = live.experiments.campaigns
    if mine is not live:
        cached, live = _moved(cached, live, mine), mine
    yield
    page = page_of(query, live, effort, cached)
    ranked, found, drops = yield from live.pipelines[effort].steps(page, trace)
    if live.newcomers.mean is not None and effort in PREDICTS:
        better = np.empty_like(ranked.score)
        correct(ranked.rows, ranked.score, live.newcomers.mean, better)
        ranked = ranked.scored(better)
    start = trace.start()
    market = live.stalls.of(page, ranked, effort)
    trace.note("market", len(ranked), start)
    yield
    start = trace.start()
    allocation = Allocation(page, live, ranked, effort, market)
    chosen = allocation.fill()
    market, ghosts = allocation.market, allocation.ghosts
    trace.note("allocate", len(ranked), start)
    yield
    lost = tuple(trace.failed) + (("killed",) if live.kills.everything else ())
    start = trace.start()
    drawn: Lotteries | None = None
    draws: Sequence[Lottery] = ()
    if effort == "full" and query.profiling:
        drawn, draws = explored(query, live, ranked, market, chosen, page.segment)
    yield
    placements, spares = _placements(page, live, chosen, drawn)
    yield
    decision = Decision(
        query=query,
        bundle=live.bundle.version,
        plan=live.plan.version,
        overlay_seq=live.overlay_seq,
        effort=effort,
        placements=placements,
        degraded=query.customer.missing + lost,
        drops=_counted(drops),
        explained=_explained(page, live, effort, ranked, found, drops) if query.explain else None,
        cached=cached if effort == "cached" else None,
        prices=str(live.prices.version) if live.prices.version else None,
        spares=spares,
        lotteries=drawn if drawn is not None else (),
        met=_met(page, live, market, found, drops),
        arms=arms,
        draws=draws,
        arm_draws=arm_draws,
        learned=live.learned.version or None,
        ghosts=ghosts,
        idle=idle(arms, changed, page.eligible) if changed and arms else (),
    )
    trace.note("assemble", len(ranked), start)
    return decision


def _under_arms(query: Query, live: Live) -> tuple[Query, Live, tuple[Assigned, ...], tuple[ArmDraw, ...]]:
    """The arms of the page's unit, and the question as they have it. None where profiling is off."""
    if not live.experiments.layers or not query.profiling:
        return query, live, (), ()
    slots = sum([asked.spec.bit for asked in query.slots])
    arms = live.experiments.assigned(query.subject, query.device, query.customer, query.now, slots)
    draws: tuple[ArmDraw, ...] = ()
    if live.experiments.adaptive:
        arms, draws = drawn_arms(query, live, arms)
    mine = live.under([one.arm for one in arms]) if arms else live
    return asked_of(query, live, mine), mine, arms, draws


def asked_of(query: Query, live: Live, other: Live) -> Query:
    """The question put to another view of the same plan. An anchor that is not there is none."""
    if other is live:
        return query
    anchor = query.anchor_row
    if anchor is not None and other.bundle is not live.bundle:
        found = int(other.items.rows_of_keys(live.keys[anchor : anchor + 1])[0])
        anchor = found if found >= 0 else None
    return replace(query, slots=tuple(_asked(asked, other) for asked in query.slots), anchor_row=anchor)


def _moved(rows: Rows | None, live: Live, other: Live) -> Rows | None:
    """Rows of one view as those of another, in their order; -1 where it does not have the item."""
    if rows is None or other.bundle is live.bundle:
        return rows
    return other.items.rows_of_keys(live.keys[rows[(rows >= 0) & (rows < len(live))]])


def _asked(asked: SlotRequest, live: Live) -> SlotRequest:
    """The same slot in another view; who asked for all of it asks for all of it there."""
    spec = live.plan.slots[asked.spec.name]
    count = spec.size if asked.count == asked.spec.size else min(asked.count, spec.size)
    return replace(asked, spec=spec, count=count)


def page_of(query: Query, live: Live, effort: Effort = "full", cached: Rows | None = None) -> Page:
    """What the stages share. Below `light` nothing about the customer but permission is looked at."""
    personal = effort in ("full", "light")
    places: dict[int, int] = {}
    bits = 0
    for asked in query.slots:
        bits |= asked.spec.bit
        for kind in asked.spec.kinds:
            places[kind] = places.get(kind, 0) + asked.count
    demand = tuple((kind, 2 * places[kind] + SPARE) for kind in sorted(places))
    city = query.context.city or int(query.customer.get("city"))
    areas = (city, *live.plan.areas.get(city, ())) if city else ()
    segment = int(query.customer.get("segment")) if personal else 0
    page = Page(query, demand, segment, city, areas, cached)
    page.bits, page.price, page.prices, page.owner = bits, live.price, live.price_table, query.owner
    return page


def _placements(
    page: Page, live: Live, seats: Seats, drawn: Lotteries | None
) -> tuple[Placements, Mapping[int, Placement]]:
    """The page, and the stand-ins of its capped places by index: made when one is needed, as few are."""
    placements = Placements(_columns(page, live, seats, drawn))
    if not isinstance(seats.spares, Later) and not seats.spares:
        return placements, {}
    return placements, Later(partial(_standing, page, live, seats))


def _standing(page: Page, live: Live, seats: Seats) -> dict[int, Placement]:
    standing = Seats.of([[spare] for spare in seats.spares.values()])
    at = list(seats.spares)
    standing = standing._replace(
        slot=[seats.slot[index] for index in at], position=[seats.position[index] for index in at]
    )
    return dict(zip(at, Placements(_columns(page, live, standing)).made, strict=True))


def _columns(page: Page, live: Live, seats: Seats, drawn: Lotteries | None = None) -> Columns:
    """Column by column: forty objects of twenty fields, one by one, would cost as much as ranking."""
    row, creative_key = seats.row, [0] * len(seats.row)
    if max(seats.creative, default=-1) >= 0:
        for index, creative in enumerate(seats.creative):
            if creative >= 0:
                creative_key[index] = live.texts[row[index]].creative_key(creative)
    key, reason, campaign_key, shown, units = _told(page, live, seats)
    if drawn is not None:
        for index in drawn.turned:
            key[index], reason[index] = int(live.keys[row[index]]), _reason(seats.origin[index], page)
    return Columns(
        slot=seats.slot,
        position=seats.position,
        row=row,
        key=key,
        score=seats.score,
        origin=seats.origin,
        reason=reason,
        creative=seats.creative,
        creative_key=creative_key,
        flags=seats.flags,
        propensity=[1.0] * len(row) if drawn is None else drawn.propensity,
        campaign=seats.campaign,
        campaign_key=campaign_key,
        value=seats.value,
        base=seats.base,
        tag=seats.tag,
        rule=seats.rule,
        by=seats.by,
        capped=seats.capped,
        shown=shown,
        units=units,
    )


def _told(
    page: Page, live: Live, seats: Seats
) -> tuple[list[int], list[int], list[int], list[float], list[tuple[float, float, float]]]:
    """Of each place the item's key, the reason, the campaign's key, P(displayed), and expected displays,
    clicks and conversions for the campaign: as the market's answer says, or from the places themselves."""
    if seats.grid is not None:
        whole, parts = seats.grid.whole, seats.grid.parts
        reason, _, campaign_key = whole[REASON : CAMPAIGN_KEY + 1].tolist()
        shown, *expected = parts[SHOWN : CONVERTS + 1].tolist()
        key = whole[KEY].view(np.uint64).tolist()
        return key, reason, campaign_key, shown, list(zip(*expected, strict=True))
    rates = [asked.spec.shown for asked in page.query.slots]
    shown = [rates[slot][position] for slot, position in zip(seats.slot, seats.position, strict=True)]
    why = {one: _reason(one, page) for one in set(seats.origin)}
    campaign_key, units = [0] * len(shown), [NO_UNITS] * len(shown)
    campaigns, cvr = live.plan.campaigns.keys, live.stalls.cvr
    for index, of in enumerate(seats.campaign):
        if of >= 0:
            clicked = shown[index] * seats.score[index]
            campaign_key[index] = int(campaigns[of])
            units[index] = shown[index], clicked, clicked * float(cvr[seats.row[index]])
    key = live.keys.take(seats.row).tolist() if shown else []
    return key, [why[one] for one in seats.origin], campaign_key, shown, units


def _reason(origin: int, page: Page) -> int:
    return reason_of(origin, page.taste is not None and page.taste.informed, bool(page.segment))


def _met(page: Page, live: Live, market: Market, found: Candidates, drops: Drops) -> Met | None:
    """What campaigns met on this page, for causes and counts; None where none ran."""
    if page.running is None:
        return None
    running, looked_at, why, permitted, full = met(
        *(page.running, live.offers.campaign, live.offers.row, page.offers, found.rows, drops),
        *(market.offers, market.room, market.counter_of, live.stalls.where),
    )
    if not len(running) and not page.spent:
        return None
    spent = np.array(page.spent, np.int32) if page.spent else _NONE
    return Met(running, looked_at, why, permitted, full, spent)


def _counted(drops: Drops) -> dict[str, int]:
    """How many candidates each rule dropped, by its code."""
    found: dict[str, int] = {}
    masks, counts = counted(drops)
    for mask, many in zip(masks.tolist(), counts.tolist(), strict=True):
        for code in _codes(mask):
            found[code] = found.get(code, 0) + many
    return found


@lru_cache(maxsize=4096)
def _codes(mask: int) -> tuple[str, ...]:
    return tuple(drop.code for drop in Drop if mask & drop.bit)


def _explained(
    page: Page, live: Live, effort: Effort, ranked: Candidates, found: Candidates, drops: Drops
) -> Explained:
    members = live.plan.members[found.rows]
    slots = [_counted(drops[_suits(members, asked.spec.bit)]) for asked in page.query.slots]
    at = np.searchsorted(found.rows, ranked.rows)
    score = np.full(len(found), np.nan, np.float32)
    score[at] = ranked.score
    terms: dict[str, NDArray[np.float32]] = {}
    for scorer in live.pipelines[effort].scorers:
        for name, column in scorer.terms(page, ranked).items():
            terms[name] = np.full(len(found), np.nan, np.float32)
            terms[name][at] = column
    return Explained(found.rows, found.origin, drops, score, terms, slots)


def _suits(members: NDArray[np.uint64], bit: int) -> NDArray[np.bool_]:
    suits: NDArray[np.bool_] = (members & np.uint64(bit)) != 0
    return suits
