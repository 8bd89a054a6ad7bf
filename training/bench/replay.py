"""`fenliu bench replay`: a day of decisions made again, bit for bit, by another process; and what it costs.

A service in this process answers pages while prices, items, kills and quotas change. Its log goes into a
lake, its bundle into a registry; then `fenliu replay --day` runs as a process of its own, which has nothing
but those two. The cost is processor time for the record and for keeping what it names.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from training.bench.harness import Result
from training.bench.tally import Tally

if TYPE_CHECKING:
    import numpy as np

    from serving.bundle import Bundle
    from serving.plan import Plan
    from training.bench.in_process import InProcess

T = TypeVar("T")
ABOUT = "decisions made again from the log, bit for bit, after a restart; what keeping their inputs costs"
ROOT: Final = Path(__file__).parents[2]
TOGETHER: Final = 16  # pages asked for at once
CUSTOMERS: Final = 400
NEW_PRICES: Final = 128  # pages: of a replica at 500 pages a second about four times a second
CHANNELS: Final = ("app", "h5")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pages", type=int, help="decisions (10,000; with --quick 1,000)")
    parser.add_argument("--items", type=int, default=3_000)
    parser.add_argument("--campaigns", type=int, default=100)
    parser.add_argument("--seed", type=int, default=2026)


def run(args: argparse.Namespace) -> Result:
    from training.bench.decide_world import NOW, world_of

    pages = args.pages or (1_000 if args.quick else 10_000)
    tally = Tally()
    logging.getLogger("fenliu.reload").setLevel(logging.CRITICAL)  # of the pacer, whose prices ours outbid
    with tempfile.TemporaryDirectory(prefix="fenliu-replay-") as folder:
        home = Path(folder)
        bundle, plan = world_of(args.items, args.campaigns, 6, args.seed)
        bundle = replace(bundle, version="bench-1", manifest={**bundle.manifest, "version": "bench-1"})
        _publish(bundle, home)
        asyncio.run(_lived(home, bundle, plan, pages, args.seed, tally))
        asyncio.run(
            _costing(home / "cost", bundle, plan, max(160, pages // 160 * TOGETHER), args.seed, tally)
        )
        _again(home, datetime.fromtimestamp(NOW, UTC).strftime("%Y-%m-%d"), pages, tally)
    return tally.result()


def _publish(bundle: Bundle, home: Path) -> None:
    from serving.bundle import save
    from serving.registry import Registry

    Registry(home / "registry").put(save(bundle, home / "made"))


async def _lived(home: Path, bundle: Bundle, plan: Plan, pages: int, seed: int, tally: Tally) -> None:
    import numpy as np

    from training.bench.decide_world import NOW
    from training.bench.in_process import in_process
    from training.ingest import ingest
    from training.lake import Lake

    rng = np.random.default_rng([seed, 11])
    async with in_process(home, bundle, plan, NOW) as bench:
        _customers(bench, bundle, rng)
        await bench.page({"user_id": "u0"})
        await _story(bench, pages - 1, rng)
        log, now = bench.log, bench.clock.now
    sizes = ingest(log, Lake(home / "lake"), now=now)
    tally.put("ingested", sizes.accepted, "entries", "records, events and what they name")
    lake = Lake(home / "lake")
    kept = [lake.inputs(kind, 0, 4e9) for kind in ("prices", "content", "plan")]
    bodies: list[Any] = [body for table in kept for body in table["body"].to_pylist()]
    size = sum(map(len, bodies))
    tally.put(
        "inputs_kb", size / 1024, "kB", f"{sum(t.num_rows for t in kept)} versions of prices, items, plans"
    )


def _customers(bench: InProcess, bundle: Bundle, rng: np.random.Generator) -> None:
    import numpy as np

    from training.bench.decide_world import blobs_of

    keys = np.ascontiguousarray(bundle.compiled.table["key"])
    for number in range(CUSTOMERS):
        if number % 9:  # the others are strangers
            bench.know(f"u{number}", blobs_of(keys, 8, rng))


def _ask(number: int, rng: np.random.Generator, page: dict[str, Any] | None) -> dict[str, Any]:
    context: dict[str, Any] = {"channel": CHANNELS[number % 5 == 0], "app_version": "9.2.0"}
    if number % 3 == 0:
        context["city"] = str(310_000 + number % 20)
    if number % 4 == 0:
        context["auth_level"] = "face"
    ask: dict[str, Any] = {"user_id": f"u{rng.integers(CUSTOMERS)}", "context": context}
    if number % 7 == 0:
        ask["visitor_id"] = f"d{rng.integers(CUSTOMERS)}"
    if number % 11 == 0:
        ask["options"] = {"profiling": False}
    if number % 5 == 2:
        ask["slots"] = [{"slot": "home.feed", "count": 6}, {"slot": "home.banner"}]
    if page is not None and page.get("page_token") and number % 2:
        at = datetime.fromtimestamp(page["at"], UTC).isoformat()
        named = {"page_token": page["page_token"], "occurred_at": at}
        shown = {"event_id": f"s{number}", "type": "displayed", "seen": [0, 1, 2], **named}
        ask["events"] = [shown, {"event_id": f"c{number}", "type": "clicked", "index": 1, **named}]
    return ask


async def _story(bench: InProcess, pages: int, rng: np.random.Generator) -> None:
    """Pages with changes in between: about every hundred pages something is another."""
    from serving.control import Kill

    page: dict[str, Any] | None = None
    for start in range(0, pages, TOGETHER):
        batch = start // TOGETHER
        bench.clock.now += 0.25
        _priced(bench, batch, rng)
        if batch % 7 == 3:
            await bench.service.changes.put_item(f"n{batch}", _fresh(batch))
        if batch % 13 == 5:
            await bench.control.kill(Kill("item", f"i{batch}"))
        if batch % 7 == 4:
            await bench.service.reloader.poll()
        asks = [
            _ask(start + one, rng, page if one == 0 else None) for one in range(min(TOGETHER, pages - start))
        ]
        bodies = await asyncio.gather(*map(bench.page, asks))
        page = {**json.loads(bodies[0]), "at": bench.clock.now}
        if batch % 16 == 0:
            await asyncio.sleep(0.03)  # the publisher's turn


def _priced(bench: InProcess, batch: int, rng: np.random.Generator) -> None:
    """Other prices about four times a second of the story, as a pacer would send them: rounded."""
    from serving.prices import Prices, decode_prices, version_of

    live = bench.service.holder.live
    cny = rng.normal(0.0, 0.02, len(live.plan.campaigns.ids)).tolist()
    made = Prices(
        version_of((1 << 31) - 1, batch + 1),
        bench.clock.now,
        dict(zip(live.plan.campaigns.ids, cny, strict=True)),
    )
    bench.service.holder.take_prices(decode_prices(made.encode()), bench.clock.now)


def _fresh(number: int) -> dict[str, Any]:
    return {
        "kind": "product",
        "title": {"zh": "新品", "en": "Fresh"},
        "category": "product/c1",
        "action": f"app://n/{number}",
    }


async def _costing(home: Path, bundle: Bundle, plan: Plan, pages: int, seed: int, tally: Tally) -> None:
    import numpy as np

    from training.bench.decide_world import NOW
    from training.bench.in_process import in_process

    rng = np.random.default_rng([seed, 12])
    async with in_process(home, bundle, plan, NOW) as bench:
        _customers(bench, bundle, rng)
        await _story(bench, 4 * TOGETHER, rng)
        await _cost(bench, pages, rng, tally)


class Watch:
    """Sums the processor time of calls, in this thread."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, call: Callable[..., T]) -> Callable[..., T]:
        def timed(*args: Any, **options: Any) -> T:
            began = time.thread_time()
            try:
                return call(*args, **options)
            finally:
                self.seconds += time.thread_time() - began

        return timed


async def _cost(bench: InProcess, pages: int, rng: np.random.Generator, tally: Tally) -> None:
    """What of a page's processor time goes into its record, and into keeping what the record names."""
    from serving import recommender as shell
    from serving import served
    from serving.kept import Keeping

    keeping, record = Watch(), Watch()
    put = bench.service.publisher.put
    kept = Keeping(lambda entry: put(keeping(entry)))
    kept.note = keeping(kept.note)  # type: ignore[method-assign]
    plain, before = served.served_entry, bench.service.recommender.keeping
    vars(shell)["served_entry"] = record(plain)
    bench.service.recommender.keeping = kept
    began = time.process_time()
    for start in range(0, pages, TOGETHER):
        bench.clock.now += 0.25
        if start % NEW_PRICES == 0:
            _priced(bench, 1_000_000 + start, rng)
        asks = [_ask(11 * start + one, rng, None) for one in range(TOGETHER)]
        await asyncio.gather(*map(bench.page, asks))
    await bench.service.publisher.flush()
    whole = time.process_time() - began
    vars(shell)["served_entry"] = plain
    bench.service.recommender.keeping = before
    each = 1e6 / pages
    tally.put("page_us", whole * each, "µs", "processor time of a page, all in this process")
    tally.put("record_us", record.seconds * each, "µs", "of it for the record, off the request's path")
    tally.put(
        "keeping_us", keeping.seconds * each, "µs", "of it for what records name; prices anew each 128 pages"
    )
    cost = (record.seconds + keeping.seconds) / (whole - record.seconds - keeping.seconds)
    tally.put("tracing_cost", cost, "share", "of throughput, the record included", ("<=", 0.05))


def _again(home: Path, day: str, pages: int, tally: Tally) -> None:
    began = time.perf_counter()
    done = subprocess.run(
        (
            sys.executable,
            "-m",
            "fenliu",
            "--home",
            str(home),
            "replay",
            "--day",
            day,
            "--json",
            "--lake-only",
        ),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout:
        raise RuntimeError(f"fenliu replay ended with {done.returncode}: {done.stderr[-2000:]}")
    said = json.loads(done.stdout.strip().splitlines()[-1])
    differ, lost = said["differ_in"], said["lost"]
    tally.put("decisions", said["decisions"], "", "made again by another process", (">=", float(pages)))
    note = f"differ in {differ}, e.g. {said['examples']}" if differ else "bit for bit, all columns"
    tally.put("not_the_same", said["decisions"] - said["same"], "", f"{note}; lost {lost}", ("<=", 0.0))
    tally.put("replay_s", time.perf_counter() - began, "s", "with the start of the process")
