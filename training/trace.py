"""The trace of a decision: made again from its logged inputs by the code that decides, and written out.

    trace_of(traced, keys) -> document      candidates, what dropped each and where, score terms, prices, caps
    why_not(traced, item) -> document       the first thing in the way of an item

Where the customer stands in the document it is by a pseudonym under a secret; items, campaigns and slots go
by their ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features import compiled
from features.ids import key64
from serving.decide import page_of
from serving.domain import ArmDraw, Candidates, Decision, Drops, Lottery
from serving.headroom import Headroom
from serving.live import Live
from serving.market import Market
from serving.page import RULES
from serving.page_state import O_BASE, O_CAMPAIGN, O_CANDIDATE, O_VALUE
from serving.pipeline import Page
from serving.pipeline import Trace as Timings
from serving.reasons import Drop, Reason
from serving.security import pseudonym
from serving.settings import TokenKey
from serving.surfaces import SOURCES
from serving.wire import rfc3339
from training.lives import Lives, described
from training.plain_words import told as in_words
from training.replay import Record, decided_first, differing, settled

MOST: Final = 200  # candidates written out, those on the page and the best first


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """A decision made again, with what its stages saw."""

    record: Record
    live: Live  # the view of the page's arms
    decision: Decision
    page: Page
    ranked: Candidates
    found: Candidates
    drops: Drops
    market: Market
    first: tuple[int, ...]  # rows of the page before the ledger was asked
    differs: tuple[str, ...]  # from the record; empty: bit for bit the same


def traced(record: Record, lives: Lives) -> Traced:
    """Raises ReplayError when what it was made by is lost."""
    live = lives.of(record)
    first = decided_first(record, live)
    decision = settled(first, record)
    differs = tuple(differing(record, decision, live))
    told = replace(decision.query, explain=True, tagged=True)  # the page is the same with them
    view = live.under(one.arm for one in decision.arms)
    page = page_of(told, view, record["effort"], decision.cached)
    ranked, found, drops = view.pipelines[decision.effort].run(page, Timings())
    market = view.stalls.of(page, ranked, decision.effort)
    rows = tuple(place.row for place in first.placements)
    return Traced(record, view, decision, page, ranked, found, drops, market, rows, differs)


def trace_of(
    one: Traced, keys: Sequence[TokenKey], *, items: Sequence[str] = (), most: int = MOST
) -> dict[str, Any]:
    """JSON-able. `keys` make the customer's pseudonym; `items`: of which it is asked why they are not on the
    page.
    """
    record, decision, live = one.record, one.decision, one.live
    document: dict[str, Any] = {
        "decision_id": record["id"],
        "customer": pseudonym(keys, str(record["subject"])),
        "at": rfc3339(record["at"]),
        "surface": record["surface"],
        "reproduced": not one.differs,
        "differs": list(one.differs),
        "versions": {**described(record), "kernels": compiled.digest()},
        "rung": record["effort"],
        "degraded": record["degraded"],
        "profiling": record["profiling"],
        "arms": record["arms"],
        "context": record["context"],
        "views_read": [name for name, blob in zip(_VIEWS, record["blobs"], strict=False) if blob is not None],
        "kills": record["kills"],
        "quotas_spent": record["spent"],
        "ledger_answered": record["capped"],
        "slots": _slots(one),
        "refused": [
            {"place": place, "campaign": _campaign(live, campaign), "why": why}
            for place, campaign, why in record["refused"]
        ],
        "lotteries": [
            {
                "place": lottery.place,
                "drawn": lottery.drawn,
                "among": [
                    {"item": _item_of(live, key), "probability": p}
                    for key, p in zip(lottery.keys, lottery.probabilities, strict=True)
                ],
            }
            for lottery in decision.lotteries
        ],
        "bandit": {
            "version": decision.learned,
            "creatives": [_drawn(draw.keys, draw.probabilities, draw) for draw in decision.draws],
            "arms": [_drawn(draw.arms, draw.probabilities, draw) for draw in decision.arm_draws],
        },
        "campaigns": _campaigns(one),
        "candidates": _candidates(one, most),
    }
    if items:
        document["why_not"] = [why_not(one, item) for item in items]
    return document


def _drawn(names: Sequence[int | str], chances: Sequence[float], draw: Lottery | ArmDraw) -> dict[str, Any]:
    """Creatives by their key32 in hex."""
    told = [one if isinstance(one, str) else f"{one:08x}" for one in names]
    where = {"place": draw.place} if isinstance(draw, Lottery) else {"experiment": draw.experiment}
    return {**where, "drawn": told[draw.drawn], "among": dict(zip(told, chances, strict=True))}


_VIEWS: Final = ("profile", "membership", "recent", "contact", "overlay")


def _slots(one: Traced) -> list[dict[str, Any]]:
    decision, live = one.decision, one.live
    slots = [{"slot": asked.spec.name, "asked": asked.count, "places": []} for asked in decision.query.slots]
    for index, place in enumerate(decision.placements):
        places: Any = slots[place.slot]["places"]
        said = {
            "index": index,
            "position": place.position,
            "item": live.texts[place.row].id,
            "campaign": _campaign(live, place.campaign),
            "creative": live.texts[place.row].creatives[place.creative].id if place.creative >= 0 else None,
            "reason": Reason(place.reason).code,
            "sources": _sources(place.origin),
            "p": _number(place.score),
            "shown": _number(place.shown),
            "value_cny": _number(place.value),
            "without_prices_cny": _number(place.base),
            "rule": RULES[place.rule] or None,
            "rule_of": _campaign(live, place.by),
            "tag_cny": _number(place.tag),
            "needs_reservation": place.capped,
            "propensity": place.propensity,
        }
        places.append({**said, "words": in_words(said, profiling=one.record["profiling"])})
    return slots


def _campaigns(one: Traced) -> list[dict[str, Any]]:
    """Every campaign of the plan: whether it ran here, at which prices, and what its caps still allow."""
    live, page, decision = one.live, one.page, one.decision
    campaigns, met = live.plan.campaigns, decision.met
    running = set(met.running.tolist()) if met is not None else set()
    spent = set(met.spent.tolist()) if met is not None else set()
    full = set(met.full.tolist()) if met is not None else set()
    stood = set(met.permitted.tolist()) if met is not None else set()
    placed = {place.campaign for place in decision.placements if place.campaign >= 0}
    ghosts = {one.campaign for one in decision.ghosts}  # would be on the page, were the customer not held out
    headroom = Headroom(page.query)
    told = []
    for c, name in enumerate(campaigns.ids):
        three = [float(live.price_table[c, k]) for k in range(3)]
        caps = [campaigns.caps[index] for index in campaigns.caps_of[c]]
        state = (
            "placed" if c in placed else "held_out" if c in ghosts else "quota_spent" if c in spent
            else "not_running" if c not in running else "capped" if c in full
            else "lost" if c in stood else "not_permitted"
        )  # fmt: skip
        told.append(
            {
                "campaign": name,
                "state": state,
                "cny_per_display_click_conversion": [_number(price) for price in three],
                "caps_left": [headroom.left(cap, int(campaigns.keys[c])) for cap in caps],
            }
        )
    return told


def _candidates(one: Traced, most: int) -> dict[str, Any]:
    live, found, drops = one.live, one.found, one.drops
    placed = {place.row for place in one.decision.placements}
    at = _places(one.ranked.rows, found.rows)
    value = np.where(at >= 0, one.market.value[np.maximum(at, 0)] if len(one.ranked) else np.nan, np.nan)
    score = np.where(at >= 0, one.ranked.score[np.maximum(at, 0)] if len(one.ranked) else np.nan, np.nan)
    terms = _terms(one)
    order = sorted(
        range(len(found)),
        key=lambda i: (int(found.rows[i]) not in placed, -_or_least(float(value[i])), int(found.rows[i])),
    )
    counts: dict[str, int] = {}
    for mask in drops.compress(drops != 0).tolist():
        for drop in _dropped(mask):
            counts[drop["code"]] = counts.get(drop["code"], 0) + 1
    written = []
    for i in order[:most]:
        row = int(found.rows[i])
        written.append(
            {
                "item": live.texts[row].id,
                "sources": _sources(int(found.origin[i])),
                "dropped_by": _dropped(int(drops[i])),
                "p": _number(score[i]),
                "value_cny": _number(value[i]),
                "terms": {name: _number(column[at[i]]) for name, column in terms.items()}
                if at[i] >= 0
                else {},
                "placed": row in placed,
            }
        )
    return {"met": len(found), "permitted": len(one.ranked), "dropped": counts, "listed": written}


def _terms(one: Traced) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    for scorer in one.live.pipelines[one.decision.effort].scorers:
        found.update(scorer.terms(one.page, one.ranked))
    return found


def why_not(one: Traced, item: str) -> dict[str, Any]:
    """The first thing in the way, in the order of the stages; `placed` where nothing was."""
    live, decision = one.live, one.decision
    row = live.row(item)
    if row is None:
        return _because(
            item, "unknown_item", f"the catalogue of bundle {live.bundle.version} has no such item"
        )
    on = [place for place in decision.placements if place.row == row]
    if on:
        slot = decision.query.slots[on[0].slot].spec.name
        return _because(item, "placed", f"it is on the page: {slot}, position {on[0].position}")
    refused = [why for index, _, why in one.record["refused"] if one.first[index] == row]
    if refused:
        return _because(
            item, f"refused_{refused[0]}", "it was chosen, and the ledger or a quota gave no unit"
        )
    pipeline = live.pipelines[decision.effort]
    mask = int(pipeline.permit(one.page, np.array([row], np.int32))[0])
    if mask:
        dropped = _dropped(mask)
        return _because(item, "not_permitted", "; ".join(drop["en"] for drop in dropped), dropped_by=dropped)
    members = int(live.plan.placeable[row])
    taking = [asked for asked in decision.query.slots if members & asked.spec.bit]
    if not taking:
        return _because(item, "no_slot", "no slot that was asked for takes its kind and layouts")
    if all(key64(item) in asked.exclude for asked in taking):
        return _because(item, "excluded", "the request excluded it")
    if live.kills.everything or all(asked.spec.name in live.kills.slots for asked in taking):
        return _because(item, "slot_killed", "every slot that takes it was stopped")
    return _lost(one, item, row, [asked.spec.name for asked in taking])


def _lost(one: Traced, item: str, row: int, slots: Sequence[str]) -> dict[str, Any]:
    """It was permitted: was it met at all, and what was worth more?"""
    at = int(_places(one.ranked.rows, np.array([row], np.int32))[0])
    names = {asked.spec.name: number for number, asked in enumerate(one.decision.query.slots)}
    worth = {
        slot: _number(min(values))
        for slot in slots
        if (values := [p.value for p in one.decision.placements if p.slot == names[slot]])
    }
    if at < 0:
        p = _would_score(one, row)
        why = "no source proposed it: it was neither near to the customer nor popular, new or promoted here"
        return _because(item, "not_proposed", why, p=p, least_value_of_slots_cny=worth)
    mine = float(one.market.value[at])
    bare = [asked.spec.name for asked in one.decision.query.slots if not _creative(one, row, asked)]
    if bare and set(slots) <= set(bare):
        return _because(item, "no_creative", "nothing approved can be rendered in the slots that take it")
    on = np.flatnonzero(one.market.offers[:, O_CANDIDATE] == at)
    offers = [_offer(one, j) for j in on.tolist()]
    why = "others were worth more there, or a rule of the page (category, kind, exclusion, pin) held it"
    return _because(
        item, "outranked", why, value_cny=_number(mine), offers=offers, least_value_of_slots_cny=worth
    )


def _offer(one: Traced, j: int) -> dict[str, Any]:
    market = one.market
    return {
        "campaign": _campaign(one.live, int(market.offers[j, O_CAMPAIGN])),
        "value_cny": _number(market.worth[j, O_VALUE]),
        "without_prices_cny": _number(market.worth[j, O_BASE]),
    }


def _would_score(one: Traced, row: int) -> float | None:
    """What the scorers would have said of a permitted item that no source proposed."""
    pipeline = one.live.pipelines[one.decision.effort]
    some = pipeline.candidates(np.array([row], np.int32))
    for hydrator in pipeline.hydrators:
        if hydrator.enabled(one.page):
            some = some.widened(hydrator.columns(one.page, some))
    for scorer in pipeline.scorers:
        if scorer.enabled(one.page):
            some = some.scored(scorer.score(one.page, some))
    return _number(some.score[0])


def _creative(one: Traced, row: int, asked: Any) -> bool:
    english = one.page.query.context.locale.startswith("en")
    return one.live.creative(row, asked.spec.layout_code, english, one.page.query.now) is not None


def _because(item: str, code: str, why: str, **more: Any) -> dict[str, Any]:
    return {"item": item, "code": code, "why": why, **more}


def _dropped(mask: int) -> list[dict[str, str]]:
    return [
        {"code": drop.code, "zh": drop.text("zh"), "en": drop.text("en")} for drop in Drop if mask & drop.bit
    ]


def _places(sorted_rows: NDArray[np.int32], rows: NDArray[np.int32]) -> NDArray[np.intp]:
    """Position of each row in ascending `sorted_rows`; -1 where it is not."""
    if not len(sorted_rows):
        return np.full(len(rows), -1, np.intp)
    at = np.minimum(np.searchsorted(sorted_rows, rows), len(sorted_rows) - 1)
    return np.where(sorted_rows[at] == rows, at, -1)


def _sources(origin: int) -> list[str]:
    return [name for bit, name in enumerate(SOURCES) if origin >> bit & 1]


def _campaign(live: Live, index: int) -> str | None:
    return live.plan.campaigns.ids[index] if index >= 0 else None


def _item_of(live: Live, key: int) -> str | None:
    row = int(live.items.rows_of_keys(np.array([key], np.uint64))[0])
    return live.texts[row].id if row >= 0 else None


def _number(value: Any) -> float | None:
    number = float(value)
    return round(number, 7) if isfinite(number) else None


def _or_least(value: float) -> float:
    return value if isfinite(value) else float("-inf")
