"""decide(query, live, effort): the whole decision, pure: no clock, no network, no randomness of its own.

The same inputs give the same page, bit for bit, on every replica and in every replay. What was awaited (the
customer's records) stands in the query; which rung to run is the shell's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.allocation import Allocation, Chosen
from serving.domain import (
    Candidates,
    Decision,
    Drops,
    Effort,
    Explained,
    Placement,
    Query,
    Rows,
)
from serving.live import Live
from serving.pipeline import Page, Trace
from serving.reasons import Drop, Reason
from serving.surfaces import BIT

SPARE = 8  # candidates of a kind beyond twice its places

__all__ = ["Decision", "Query", "decide", "page_of"]


def decide(
    query: Query,
    live: Live,
    effort: Effort = "full",
    cached: Rows | None = None,
    trace: Trace | None = None,
) -> Decision:
    """Fill the query's slots. Every rung passes permission and kills.

    `cached`: the rows of the customer's last page of this Live, for the rung of that name. `trace` collects
    stage timings where it has a timer; the decision does not depend on it.
    """
    trace = trace if trace is not None else Trace()
    page = page_of(query, live, effort, cached)
    ranked, found, drops = live.pipelines[effort].run(page, trace)
    start = trace.start()
    chosen = Allocation(page, live, ranked, effort).fill()
    trace.note("allocate", len(ranked), start)
    lost = tuple(trace.failed) + (("killed",) if live.kills.everything else ())
    start = trace.start()
    decision = Decision(
        query=query,
        bundle=live.bundle.version,
        plan=live.plan.version,
        overlay_seq=live.overlay_seq,
        effort=effort,
        placements=_placements(page, live, chosen),
        degraded=query.customer.missing + lost,
        drops=_counted(drops),
        explained=_explained(page, live, effort, ranked, found, drops) if query.explain else None,
        cached=cached if effort == "cached" else None,
    )
    trace.note("assemble", len(ranked), start)
    return decision


def page_of(query: Query, live: Live, effort: Effort = "full", cached: Rows | None = None) -> Page:
    """What the stages share. Below `light` nothing about the customer but permission is looked at."""
    personal = effort in ("full", "light")
    places: dict[int, int] = {}
    for asked in query.slots:
        for kind in asked.spec.kinds:
            places[kind] = places.get(kind, 0) + asked.count
    demand = tuple((kind, 2 * places[kind] + SPARE) for kind in sorted(places))
    city = query.context.city or int(query.customer.get("city"))
    areas = (city, *live.plan.areas.get(city, ())) if city else ()
    segment = int(query.customer.get("segment")) if personal else 0
    return Page(query, demand, segment, city, areas, cached)


def _placements(page: Page, live: Live, chosen: Sequence[Sequence[Chosen]]) -> tuple[Placement, ...]:
    """Made column by column: forty objects of eleven fields, one by one, would cost as much as ranking."""
    flat = [one for places in chosen for one in places]
    if not flat:
        return ()
    rows, scores, origins, creatives, flags = zip(*flat, strict=True)
    why = {origin: int(_reason(origin, page)) for origin in set(origins)}
    texts = live.texts
    columns = (
        [slot for slot, places in enumerate(chosen) for _ in places],
        [position for places in chosen for position in range(len(places))],
        rows,
        live.keys.take(rows).tolist(),
        scores,
        origins,
        [why[origin] for origin in origins],
        creatives,
        [
            texts[row].creative_key(creative) if creative >= 0 else 0
            for row, creative in zip(rows, creatives, strict=True)
        ],
        flags,
        [1.0] * len(rows),
    )
    return tuple(map(Placement._make, zip(*columns, strict=True)))


_REASONS: Final[tuple[tuple[str, Reason], ...]] = (
    ("nearest_to_anchor", Reason.SIMILAR_TO_ANCHOR),
    ("near_location", Reason.NEAR_YOU),
    ("nearest_to_recent", Reason.NEAR_VIEWED),
    ("nearest_to_customer", Reason.SIMILAR_PEOPLE),
    ("popular_in_city", Reason.POPULAR_HERE),
    ("popular_in_segment", Reason.POPULAR_SEGMENT),
    ("new", Reason.NEW_ITEM),
    ("popular_with_everybody", Reason.POPULAR),
    ("operator", Reason.PICK_OF_OPERATOR),
)
_BY_BIT: Final = tuple((1 << BIT[source], reason) for source, reason in _REASONS)
_BACKFILL: Final = 1 << BIT["backfill"]


def _reason(origin: int, page: Page) -> Reason:
    """The first that is true: without a profile nobody is "like you", without a segment no group."""
    for bit, reason in _BY_BIT:
        if not origin & bit:
            continue
        if reason is Reason.SIMILAR_PEOPLE and (page.taste is None or not page.taste.informed):
            continue
        if reason is Reason.POPULAR_SEGMENT and not page.segment:
            return Reason.POPULAR
        return reason
    return Reason.FALLBACK if origin & _BACKFILL else Reason.POPULAR


def _counted(drops: Drops) -> dict[str, int]:
    """How many candidates each rule dropped, by its code."""
    found: dict[str, int] = {}
    for mask in drops.compress(drops != 0).tolist():
        for code in _codes(mask):
            found[code] = found.get(code, 0) + 1
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
