"""`fenliu bench shadow`: what the shadow mode costs, and that it tells a bundle from itself and from another.

Pages of the world of `bench decide` as the event log holds them, clicked as often as the live bundle says
(the bundle has no ranker: its first stage speaks). Shadowed three times: by the same bundle under another
name, twice to time it, and by a bundle drawn from another seed. Processor time of one process, no store.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import msgpack
import numpy as np

from features.customer import decode_customer
from features.events import served_to_log
from features.ids import key32
from features.log import Entry, MemoryLog
from features.token import PLACES
from serving.bundle import Bundle
from serving.decide import decide
from serving.kept import PLAN, kept_entry, plan_body
from serving.live import Live, build_live
from serving.served import record
from serving.wire import RecommendAsk, context_of
from training.bench.decide_world import NOW, blobs_of, bundle_of, queries, world_of
from training.bench.harness import Bar, Result
from training.lake import Lake
from training.lives import Lives
from training.placed_chances import chances_of
from training.shadow import RIPE_S, Shadow
from training.shadow_commands import document, follow
from training.shadow_figures import Limits
from training.shadow_inputs import TailedInputs

ABOUT: Final = (
    "the shadow mode: pages a second beside the decisions it makes, and whether it tells bundles apart"
)
BARS: Final[dict[str, Bar]] = {
    "places_that_differ_from_itself": ("<=", 0.0),
    "refused_itself": ("<=", 0.0),
    "refused_another": (">=", 1.0),
    "live_as_logged": (">=", 1.0),
}
ASK: Final = {"channel": "app", "app_version": "9.2.0", "auth_level": "bound_card"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pages", type=int, default=4_000)
    parser.add_argument("--items", type=int, default=3_000)
    parser.add_argument("--campaigns", type=int, default=200)
    parser.add_argument("--history", type=int, default=32, help="live events a customer")
    parser.add_argument("--seed", type=int, default=2026)


def run(args: argparse.Namespace) -> Result:
    pages, items = (600, 1_000) if args.quick else (args.pages, args.items)
    bundle, plan = world_of(items, args.campaigns, 6, args.seed)
    bundle = replace(bundle, version="live")
    live = build_live(bundle, (), plan, strict=False)
    log = MemoryLog(lambda: NOW)
    plain = kept_entry(PLAN, live.plan.version, NOW, lambda: plan_body(plan))
    asyncio.run(log.append([plain, *_traffic(live, pages, args.history, args.seed)]))
    another = replace(bundle_of(items, args.seed + 1), version="another")
    same, seconds = min(
        (_shadowed(bundle, replace(bundle, version="same"), log) for _ in range(2)), key=_took
    )
    other, _ = _shadowed(bundle, another, log)
    took = same["us_per_page"]
    figures = {
        "pages_a_second": pages / seconds,
        "us_a_page": 1e6 * seconds / pages,
        "us_a_page_besides_deciding": 1e6 * seconds / pages - took["live"] - took["candidate"],
        "candidate_over_live_us": took["candidate"] / took["live"],
        "places_that_differ_from_itself": same["places"]["differ"],
        "places_that_differ_from_another": other["places"]["differ"],
        "refused_itself": float(len(same["refusals"])),
        "refused_another": float(len(other["refusals"])),
        "live_as_logged": same["pages"]["live_as_logged"],
        "clicks": float(same["displays"]["clicks"]),
    }
    notes = {"refused_another": ", ".join(dict.fromkeys(one["code"] for one in other["refusals"]))}
    return Result(figures, BARS, {"us_a_page": "µs CPU", "us_a_page_besides_deciding": "µs CPU"}, notes)


def _took(one: tuple[dict[str, Any], float]) -> float:
    return one[1]


def _shadowed(bundle: Bundle, candidate: Bundle, log: MemoryLog) -> tuple[dict[str, Any], float]:
    """What is told of a candidate, and the processor's seconds for it."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = TailedInputs(Lake(folder), log)
        lives = Lives(inputs, {"live": bundle}.__getitem__)
        shadow = Shadow(lives, inputs, candidate, "live", most=10**9)
        start = time.process_time()
        follow(shadow, log, 0.0, None, lambda: None, clock=lambda: NOW + 2 * RIPE_S)
        return document(shadow, candidate.version, "live", 1.0, Limits()), time.process_time() - start


def _traffic(live: Live, pages: int, history: int, seed: int) -> Iterator[Entry]:
    """Served records, everything displayed, clicks by what the live bundle says."""
    rng = np.random.default_rng([seed, 6])
    (like,) = queries(live, 1, history, seed)
    ask = RecommendAsk(user_id="u", context=ASK)  # type: ignore[arg-type] # parsed as a body is
    context = context_of(ask.context)
    for number in range(pages):
        blobs = blobs_of(live.keys, history, rng)
        known = decode_customer(blobs, now=NOW, schemas=live.bundle.schemas, consented=True)
        subject, name = f"u:{number}", f"d{number}"
        query = replace(
            like, decision_id=name, subject=subject, customer=known, context=context,
            profiling=known.profiling,
        )  # fmt: skip
        decision = decide(query, live)
        yield Entry(f"s{name}", subject, served_to_log(record(decision, blobs, ask, live)))
        placed = decision.placements
        places = np.zeros(len(placed), PLACES)
        places["item"] = [one.key for one in placed]
        slots = [query.slots[one.slot].spec.name for one in placed]
        places["slot"], places["position"] = [key32(one) for one in slots], [one.position for one in placed]
        chance = chances_of(query, live, places["item"].copy(), slots, places["position"])
        clicked = places[rng.random(len(placed)) < np.nan_to_num(chance)]
        for kind, some in (("displayed", places), ("clicked", clicked)):
            if len(some):
                row = {"t": kind, "subject": subject, "decision_id": name, "places": some.tobytes()}
                yield Entry(f"{kind}{name}", subject, msgpack.packb(row))
