"""The batch half of the loop: log to lake, lake to dataset, matrix to factors, a whole run on real data."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from implicit.als import AlternatingLeastSquares
from rich.console import Console
from scipy import sparse
from threadpoolctl import threadpool_limits

from features.embedded import EmbeddedValkey
from features.events import Event, to_log
from features.ids import key64
from features.log import Entry
from features.redis_log import RedisLog
from features.token import PLACES
from features.transforms import EventWeights
from serving.backing import backed
from serving.catalogue import compile_items, parse_item
from serving.settings import Settings
from training.adapters import data_folder
from training.adapters import load as load_source
from training.als import factorise
from training.bench.bank import SEED, Bank
from training.bench.tally import Tally
from training.commands import lake_of, train
from training.config import TrainConfig
from training.dataset import build_dataset
from training.ingest import ingest
from training.lake import Lake
from training.model import Effort

PLACES_SEEN: Final = 12
APPENDED: Final = 4_000  # entries a call while the log is being filled
FACTORS: Final = 64
ML_1M: Final = "ml-1m"


def ingested(events: int, tally: Tally, console: Console) -> None:
    """Events as the API writes them, from the log on an embedded Valkey into Parquet."""
    with (
        tempfile.TemporaryDirectory(prefix="fenliu-bench-") as home,
        EmbeddedValkey(Path(home) / "store") as store,
        RedisLog(store.url) as log,
    ):
        asyncio.run(_fill(store.url, events))
        console.print(f"{events:,} events wait in the log")
        taken = ingest(log, Lake(Path(home) / "lake"), now=time.time())
    if taken.accepted != events:
        raise RuntimeError(f"{events} events were logged and {taken.accepted} ingested")
    note = f"{events:,} events, a quarter of them displays of {PLACES_SEEN} places; no served records"
    tally.put("ingest_events_per_s", events / taken.seconds, "events/s", note)


async def _fill(url: str, events: int) -> None:
    log = RedisLog(url)
    batch: list[Entry] = []
    try:
        for entry in _entries(events, time.time() - 3600.0):
            batch.append(entry)
            if len(batch) == APPENDED:
                await log.append(batch)
                batch.clear()
        await log.append(batch)
    finally:
        await log.close()


def _entries(count: int, begin: float) -> Iterator[Entry]:
    """Of every page: what was seen, a click, and two looks elsewhere."""
    items = np.array([key64(f"p{number}") for number in range(3_000)], np.uint64)
    rng = np.random.default_rng(SEED)
    first = rng.integers(0, len(items) - PLACES_SEEN, count)
    blank = np.zeros(PLACES_SEEN, PLACES)
    blank["index"] = blank["position"] = np.arange(PLACES_SEEN)
    empty = Event(
        event_id="", type="acted", occurred_at=begin, received_at=begin, decided_at=None, at=begin,
        subject="", user_id=None, visitor_id=None, decision_id=None, places=blank[:0], action=None,
        item_key=0, item_id=None, amount=None, currency=None, channel=1, late=False, session_id=None,
    )  # fmt: skip
    for number in range(count):
        page, turn = divmod(number, 4)
        user = f"c{page % 50_000:07d}"
        at, row = begin + number * 1e-3, int(first[page])
        common = replace(
            empty, event_id=f"e{number:09d}", subject=f"u:{user}", user_id=user, occurred_at=at, at=at,
            received_at=at + 0.5,
        )  # fmt: skip
        if turn < 2:
            places = blank.copy()
            places["item"] = items[row : row + PLACES_SEEN]
            common = replace(common, decided_at=at - 1.0, decision_id=f"d{page:09d}")
        if turn == 0:
            event = replace(common, type="displayed", places=places)
        elif turn == 1:
            event = replace(common, type="clicked", places=places[:1], item_key=int(items[row]))
        else:
            event = replace(common, action="viewed", item_id=f"p{row}", item_key=int(items[row]))
        yield Entry(event.event_id, event.subject, to_log(event))


def prepared(bank: Bank, rounds: int, tally: Tally, console: Console) -> None:
    """The lake's events to what models learn from."""
    lake = lake_of(bank.settings)
    items = compile_items([parse_item(raw) for raw in lake.read_items()])
    rows = sum(int(file["rows"]) for file in lake.manifest().files["events"])
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        dataset = build_dataset(lake, items, now=time.time(), weights=EventWeights())
        took.append(time.perf_counter() - began)
    console.print(f"dataset of {rows:,} events: {median(took):.2f} s")
    note = f"{rows:,} rows of the lake, {len(dataset.interactions):,} of them behaviour; median of {rounds}"
    tally.put("dataset_events_per_s", rows / median(took), "events/s", note)


def factorised(users: int, items: int, rounds: int, iterations: int, tally: Tally, console: Console) -> None:
    """Our ALS step beside bare implicit on the same matrix, in turns; both with one thread a BLAS call."""
    matrix = long_tailed(users, items, users * 80)
    params = {"factors": float(FACTORS), "iterations": float(iterations), "regularization": 10.0}
    effort = Effort(SEED, threads=os.cpu_count() or 1)
    ours: list[float] = []
    bare: list[float] = []
    factorise(matrix[:200], params, effort)  # what the first call of all loads is nobody's
    for _ in range(rounds):
        began = time.perf_counter()
        factorise(matrix, params, effort)
        middle = time.perf_counter()
        _bare(matrix, iterations, effort)
        bare.append(time.perf_counter() - middle)
        ours.append(middle - began)
    ratio = median(mine / theirs for mine, theirs in zip(ours, bare, strict=True))
    console.print(f"ALS: ours {median(ours):.2f} s, bare implicit {median(bare):.2f} s")
    shape = f"{users:,} x {items:,}, {matrix.nnz:,} cells, {FACTORS} factors, {iterations} iterations"
    tally.put("als_ratio", ratio, "x bare", f"median of {rounds} rounds; {shape}", ("<=", 1.3))
    tally.put("als_seconds", median(ours), "s")


def _bare(matrix: sparse.csr_matrix, iterations: int, effort: Effort) -> None:
    model = AlternatingLeastSquares(
        factors=FACTORS, regularization=10.0, alpha=1.0, iterations=iterations,
        num_threads=effort.threads, random_state=effort.seed,
    )  # fmt: skip
    with threadpool_limits(limits=1, user_api="blas"):  # as implicit itself asks for
        model.fit(matrix, show_progress=False)


def long_tailed(users: int, items: int, cells: int) -> sparse.csr_matrix:
    """Confidences (users, items) f4 of about `cells` meetings; few items and few users have most of them."""
    rng = np.random.default_rng(SEED)
    user = (users * rng.random(cells) ** 1.5).astype(np.int32)
    item = (items * rng.random(cells) ** 2.0).astype(np.int32)
    weight = (1.0 + rng.random(cells)).astype(np.float32)
    matrix = sparse.csr_matrix((weight, (user, item)), shape=(users, items), dtype=np.float32)
    matrix.sum_duplicates()
    return matrix


def real_data(tally: Tally, console: Console) -> None:
    """`fenliu train --source ml-1m` in a fresh folder: files to live bundle. Left out where there is none."""
    where = data_folder(os.environ, Path(__file__).parents[2])
    if not (where / ML_1M).is_dir():
        console.print(f"ml1m_seconds is left out: there is no {where / ML_1M} (set FENLIU_DATA)")
        return
    console.print("training on ml-1m, all models and settings …")
    with tempfile.TemporaryDirectory(prefix="fenliu-bench-") as home:
        began = time.perf_counter()
        with backed(Settings(home=Path(home))) as settings:
            source = load_source(ML_1M, now=time.time(), data=where)
            told = train(settings, source, TrainConfig(), by="bench")
            took = time.perf_counter() - began
    if not told.promoted:
        raise RuntimeError(
            "the gate refused the bundle of ml-1m: " + "; ".join(map(str, told.verdict.refusals))
        )
    steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in told.seconds.items())
    tally.put("ml1m_seconds", took, "s", f"{told.chosen} serves; {steps}", ("<=", 60.0))
