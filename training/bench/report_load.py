"""A report over many events: a lake of day-partitioned Parquet is made up, and read as the command reads one.

The report runs in a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console

from training.bench.tally import Tally
from training.experiment.analysis import Question, answer
from training.experiment.collect import Files, collect, connect
from training.experiment.metrics import named
from training.experiment.units import Asked
from training.progress import counting
from training.tables import arrow

DAYS: Final = 14
PRE_DAYS: Final = 4  # of them, before the experiment starts
PART: Final = "part.parquet"
FIRST: Final = datetime(2026, 11, 1, tzinfo=UTC)
METRICS: Final = ("value", "clicks", "ctr", "conversions")
EVERY: Final = (
    *(*METRICS, "cvr", "dismissals", "dismissal_rate", "complaints"),
    *("errors", "latency", "fill", "lower_rungs"),
)  # all that a report knows but answers imported as outcomes
PAGES: Final = 0.12  # of all events, those of the days of the experiment
CHUNK: Final = 1_000_000
LIFT: Final = 0.03
TYPES: Final = np.array(["displayed", "clicked", "converted", "dismissed"])
CHANCES: Final = (0.86, 0.1, 0.02, 0.02)
_CHILD: Final = """
import sys
from training.bench.report_load import child
child(sys.argv[1], sys.argv[2].split(","))
"""


def report_figures(tally: Tally, console: Console, events: int, units: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with counting(console, f"days of {events:,} events written") as tick:
            for day in range(DAYS):
                _write_day(Path(folder), day, events // DAYS, units, seed)
                tick(day + 1, DAYS)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
        found, every = (_reported(console, folder, names) for names in (METRICS, EVERY))
    tally.put("report_events", events, "", f"{units:,} units, {DAYS} days, {size / 1e9:.2f} GB of Parquet")
    tally.put(
        "report_s", found["seconds"], "s", "units, four metrics day by day, segments, mismatch", ("<=", 60)
    )
    tally.put(
        "report_cpu_s", found["cpu"], "s", "of processor, over all threads: what company does not change"
    )
    tally.put("report_gb", found["gb"], "GB", "at its peak, Python and all", ("<=", 4))
    note = f"{len(EVERY)} metrics, of pages too: errors, latency, fill, rungs"
    tally.put("report_every_s", every["seconds"], "s", note, ("<=", 60))
    tally.put("report_every_gb", every["gb"], "GB", "at its peak", ("<=", 4))
    tally.put("report_lift", found["lift"], "", f"relative, on clicks; {LIFT:g} was put in")
    tally.put("report_covers", found["covers"], "", "whether the interval holds it", (">=", 1))


def _reported(console: Console, folder: str, names: Sequence[str]) -> dict[str, float]:
    with console.status(f"the report of {len(names)} metrics"):
        told = subprocess.run(
            [sys.executable, "-c", _CHILD, folder, ",".join(names)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    found: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return found


def child(folder: str, names: Sequence[str]) -> None:
    """The report, and what it cost, as one JSON line."""
    started = time.perf_counter()
    root = Path(folder)
    by_date = {
        table: {path.parent.name[5:]: [str(path)] for path in sorted((root / table).glob("date=*/*.parquet"))}
        for table in ("served", "events")
    }
    metrics = named(names)
    files = Files(by_date["served"], by_date["events"])
    seen = collect(connect(1.5), files, Asked("load", ("control", "treatment")), metrics, criterion="clicks")
    weights = {"control": 1.0, "treatment": 1.0}
    found = answer(Question("load", weights, metrics[1], metrics, {}, DAYS - PRE_DAYS), seen)
    clicks = found.of("treatment", "clicks")
    told = {
        "seconds": time.perf_counter() - started,
        "cpu": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]),
        "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "lift": clicks.relative,
        "covers": float(clicks.relative_low <= LIFT <= clicks.relative_high),
    }
    print(json.dumps(told))


def _write_day(root: Path, day: int, events: int, units: int, seed: int) -> None:
    rng = np.random.default_rng([seed, day])
    active = np.random.default_rng(seed).gamma(0.6, size=units)
    ladder = np.cumsum(active) / active.sum()
    begins = (FIRST + timedelta(days=day)).timestamp()
    date = (FIRST + timedelta(days=day)).strftime("date=%Y-%m-%d")
    pages = int(events * PAGES) if day >= PRE_DAYS else 0
    for table, count in (("served", pages), ("events", events - pages)):
        if not count:
            continue
        (root / table / date).mkdir(parents=True)
        writer = None
        for first in range(0, count, CHUNK):
            n = min(CHUNK, count - first)
            unit = np.minimum(np.searchsorted(ladder, rng.random(n)), units - 1)
            at = begins + rng.random(n) * 86_400
            served = table == "served"
            made = _pages(rng, unit, at, units) if served else _events(rng, unit, at, day, units)
            writer = writer or pq.ParquetWriter(root / table / date / PART, made.schema, compression="zstd")
            writer.write_table(made)
        if writer is not None:
            writer.close()


@lru_cache(1)
def _subjects(units: int) -> Any:
    """The subjects of all units: rows of events take from them."""
    return arrow.array([f"u:{unit}" for unit in range(units)])


def _pages(rng: np.random.Generator, unit: NDArray[np.int64], at: NDArray[np.float64], units: int) -> Any:
    names = arrow.array(["load/control", "load/treatment"])
    arms = arrow.ListArray.from_arrays(
        arrow.array(np.arange(len(unit) + 1), pa.int32()), names.take(arrow.array(unit % 2, pa.int32()))
    )
    subject = _subjects(units).take(arrow.array(unit))
    n = len(unit)
    effort = arrow.DictionaryArray.from_arrays(
        arrow.array((rng.random(n) < 0.01).astype(np.int32)), arrow.array(["full", "light"])
    )
    return arrow.table(
        {
            "subject": subject, "unit": subject, "at": arrow.array(at), "effort": effort, "arms": arms,
            "channel": arrow.array(["app"]).take(arrow.array(np.zeros(n, np.int32))),
            "ms": arrow.array(rng.gamma(2.0, 4.0, n).astype(np.float32)),
            "asked": arrow.array(np.full(n, 40, np.uint16)),
            "filled": arrow.array((40 - rng.binomial(40, 0.01, n)).astype(np.uint16)),
            "failed": arrow.array(rng.random(n) < 0.005),
        }
    )  # fmt: skip


def _events(
    rng: np.random.Generator, unit: NDArray[np.int64], at: NDArray[np.float64], day: int, units: int
) -> Any:
    """The treatment turns some displays into clicks, once the experiment runs."""
    kind = rng.choice(len(TYPES), len(unit), p=CHANCES)
    if day >= PRE_DAYS:
        more = LIFT * CHANCES[1] / CHANCES[0]
        kind[(unit % 2 == 1) & (kind == 0) & (rng.random(len(unit)) < more)] = 1
    amount = np.where(kind == 2, rng.gamma(2.0, 40.0, len(unit)), np.nan)
    return arrow.table(
        {
            "subject": _subjects(units).take(arrow.array(unit)),
            "type": arrow.DictionaryArray.from_arrays(arrow.array(kind, pa.int32()), arrow.array(TYPES)),
            "at": arrow.array(at),
            "amount": arrow.array(amount, mask=np.isnan(amount)),
            "action": arrow.nulls(len(unit), pa.string()),
        }
    )
