"""Traffic of a tiny live bundle with a ranker, and what a candidate in its shadow is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from features.customer import Blobs, decode_customer
from features.events import served_to_log
from features.ids import key32
from features.log import Entry, MemoryLog
from features.token import PLACES
from serving.bundle import Bundle
from serving.decide import decide
from serving.kept import PLAN, kept_entry, plan_body
from serving.live import Live
from serving.plan import Plan
from serving.served import record
from serving.wire import RecommendAsk, context_of
from tests.rankers import ranked_bundle
from tests.worlds import NOW, profile_blob, query, recent_entries, tiny_bundle, tiny_live, tiny_plan
from training.lake import Lake
from training.lives import Lives
from training.placed_chances import chances_of
from training.shadow import RIPE_S, Shadow
from training.shadow_commands import document, follow
from training.shadow_figures import Limits
from training.shadow_inputs import TailedInputs

PAGES = 400
LATE = NOW + PAGES + 2 * RIPE_S
CONTEXT = {"channel": "app", "app_version": "9.2.0", "auth_level": "bound_card"}


@cache
def live_bundle() -> Bundle:
    return replace(ranked_bundle(tiny_bundle()), version="b-live")


def named(version: str, **changes: Any) -> Bundle:
    return replace(live_bundle(), version=version, **changes)


def shuffled() -> Bundle:
    """What each item draws is another item's."""
    ranker = live_bundle().ranker
    assert ranker is not None
    facts = ranker.facts
    table = facts.table[np.random.default_rng(5).permutation(len(facts.table))]
    return named("b-shuffled", ranker=replace(ranker, facts=replace(facts, table=table)))


def page_of(live: Live, number: int, at: float | None = None) -> tuple[dict[str, Any], Any]:
    """A served record, and the query that it came from."""
    at = NOW + number if at is None else at
    seen = recent_entries((f"i{number % 120}", "clicked", 50.0), (f"i{7 * number % 120}", "clicked", 9.0))
    blobs = Blobs(
        profile_blob(age=20 + number % 50, risk_level=number % 6, star_level=number % 8, segment=number % 4),
        None, seen.tobytes(), None, None,
    )  # fmt: skip
    known = decode_customer(blobs, now=at, schemas=live.bundle.schemas, consented=True)
    ask = RecommendAsk(user_id=f"u{number}", context=CONTEXT)
    asked = query(live, known, decision_id=f"d{number}", subject=f"u:u{number}", now=at)
    asked = replace(asked, context=context_of(ask.context))
    return record(decide(asked, live), blobs, ask, live), asked


def served(live: Live, number: int, at: float | None = None) -> tuple[dict[str, Any], list[Entry]]:
    """A page and what became of it: everything displayed, clicked as often as the live ranker says."""
    row, asked = page_of(live, number, at)
    items = np.frombuffer(row["items"], "<u8")
    slot = np.frombuffer(row["place_slot"], "u1").astype(np.int64)
    names = [row["slots"][one] for one in slot.tolist()]
    position = np.arange(len(slot)) - np.searchsorted(slot, slot)
    places = np.zeros(len(items), PLACES)
    places["item"], places["slot"], places["position"] = items, [key32(one) for one in names], position
    true = chances_of(asked, live, items, names, position)
    hit = np.random.default_rng(number).random(len(items)) < np.nan_to_num(true)
    entries = [Entry(f"s{number}", row["subject"], served_to_log(row))]
    for kind, some in (("displayed", places), ("clicked", places[hit])):
        if len(some):
            said = {"t": kind, "subject": row["subject"], "decision_id": row["id"], "places": some.tobytes()}
            entries.append(Entry(f"{kind}{number}", row["subject"], msgpack.packb(said)))
    return row, entries


def plan_entry(plan: Plan) -> Entry:
    live = tiny_live(live_bundle(), plan)
    return kept_entry(PLAN, live.plan.version, NOW, lambda: plan_body(plan))


@cache
def traffic(pages: int = PAGES) -> tuple[Entry, ...]:
    live = tiny_live(live_bundle())
    return (*(one for n in range(pages) for one in served(live, n)[1]), plan_entry(tiny_plan()))


def logged(entries: Iterable[Entry]) -> MemoryLog:
    log = MemoryLog(lambda: NOW)
    asyncio.run(log.append(list(entries)))
    return log


def shadowed(
    tmp_path: Path, candidate: Bundle, entries: Iterable[Entry], now: float = LATE, **options: Any
) -> dict[str, Any]:
    """What `--once` says."""
    log, held = logged(entries), {"b-live": live_bundle(), candidate.version: candidate}
    inputs = TailedInputs(Lake(str(tmp_path / "lake")), log)
    shadow = Shadow(Lives(inputs, held.__getitem__), inputs, candidate, "b-live", **options)
    follow(shadow, log, 0.0, None, lambda: None, clock=lambda: now)
    return document(shadow, candidate.version, "b-live", options.get("share", 1.0), Limits())
