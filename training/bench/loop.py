"""`fenliu bench loop`: every part of the loop, in one process, on the embedded Valkey."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from rich.console import Console

from training.bench.harness import Result
from training.bench.tally import Tally
from training.progress import wide_console

if TYPE_CHECKING:
    from training.bench.bank import Bank

ABOUT = "the loop's parts: ingest, dataset, ALS, ml-1m, materialise, click to page, hot swap"

FULL = {"customers": 20_000, "days": 14, "events": 1_000_000, "materialised": 500_000, "als_users": 30_000,
        "als_iterations": 12, "rounds": 5, "trials": 1_000, "swaps": 20}  # fmt: skip
QUICK = {"customers": 3_000, "days": 6, "events": 30_000, "materialised": 100_000, "als_users": 5_000,
         "als_iterations": 4, "rounds": 3, "trials": 200, "swaps": 3}  # fmt: skip
ABOUT_SIZES = {
    "customers": "customers of the synthetic bank",
    "days": "days of its history",
    "events": "events to ingest",
    "materialised": "customers to materialise",
    "als_users": "users of the ALS matrix",
    "als_iterations": "iterations of the ALS step",
    "rounds": "rounds of the figures that are medians",
    "trials": "clicks to time",
    "swaps": "bundles to swap under load",
}
RATE = 100.0


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--local", action="store_true", help="one process instead of Ray Serve: as it always is"
    )
    for name, about in ABOUT_SIZES.items():
        flag = f"--{name.replace('_', '-')}"
        said = f"{about} ({FULL[name]:,}; with --quick {QUICK[name]:,})"
        parser.add_argument(flag, type=int, default=argparse.SUPPRESS, help=said)
    parser.add_argument("--rate", type=float, default=RATE, help="pages a second while bundles are swapped")
    parser.add_argument("--no-ml-1m", action="store_true", help="leave the run on ml-1m out")


def run(args: argparse.Namespace) -> Result:
    from training.bench import bank as banks
    from training.bench import batch, store_load

    size = {name: getattr(args, name, default) for name, default in (QUICK if args.quick else FULL).items()}
    console, tally = wide_console(), Tally()
    began = time.perf_counter()
    batch.ingested(size["events"], tally, console)
    batch.factorised(size["als_users"], 3_500, size["rounds"], size["als_iterations"], tally, console)
    with banks.opened(console, customers=size["customers"], days=size["days"]) as bank:
        batch.prepared(bank, size["rounds"], tally, console)
        store_load.materialised(bank, size["materialised"], size["rounds"], tally, console)
        _served(bank, size, args.rate, tally, console)
    console.print(f"all but ml-1m: {time.perf_counter() - began:.1f} s")
    if not args.no_ml_1m:
        batch.real_data(tally, console)
    console.print(f"the whole benchmark took {time.perf_counter() - began:.1f} s")
    return tally.result()


def _served(bank: Bank, size: dict[str, int], rate: float, tally: Tally, console: Console) -> None:
    from serving.local import serve_local
    from training.bench import online

    with serve_local(bank.settings):
        online.clicks(bank, size["trials"], tally, console)
        online.swaps(bank, size["swaps"], rate, tally, console)
