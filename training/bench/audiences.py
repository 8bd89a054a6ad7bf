"""`fenliu bench audiences`: a request's audiences, a count over the whole base, and lists written."""

from __future__ import annotations

import argparse
from typing import Final

from training.bench.audience_figures import audience_figures
from training.bench.harness import Bar, Result
from training.bench.list_writes import list_figures
from training.bench.tally import Tally
from training.progress import counting, wide_console

ABOUT: Final = "audiences: µs a request, seconds of a count over the base, members of lists written a second"
CAMPAIGNS: Final = 2_000
PREDICATES: Final = 500


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--customers", type=int, help="of the base that is counted (1,000,000; quick 200,000)"
    )
    parser.add_argument("--members", type=int, help="of a list (300,000; quick 100,000)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="of lists, each on a fresh store; the least disturbed counts"
    )


def run(args: argparse.Namespace) -> Result:
    customers = args.customers or (200_000 if args.quick else 1_000_000)
    members = args.members or (100_000 if args.quick else 300_000)
    tally, console = Tally(), wide_console()
    with console.status(f"campaigns' audiences, and a base of {customers:,} customers"):
        found = audience_figures(CAMPAIGNS, PREDICATES, customers)
    _requests(tally, found)
    _base(tally, found, customers)
    with counting(console, f"rounds of lists of {members:,}") as tick:
        lists = list_figures(members, args.rounds, tick)
    _lists(tally, lists, members)
    return tally.result()


def _requests(tally: Tally, found: dict[str, float]) -> None:
    for name, value in found.items():
        if name.startswith("audiences_us_"):
            n = int(name.rpartition("_")[2])
            predicates = found[f"audiences_predicates_{n}"]
            tally.put(
                name, value, "µs", f"processor time a request, {n:,} campaigns, {predicates:.0f} predicates",
                ("<=", 40.0) if n == CAMPAIGNS else None,
            )  # fmt: skip


def _base(tally: Tally, found: dict[str, float], customers: int) -> None:
    tally.put("base_customers", customers)
    tally.put(
        "base_mapping_s", found["base_mapping_s"], "s", "the materialised columns opened, memory-mapped"
    )
    tally.put(
        "count_s", found["count_s"], "s", "one audience of 8 predicates over everybody; median of 7",
        ("<=", 0.5),
    )  # fmt: skip
    tally.put("count_processor_s", found["count_processor_s"], "s")
    tally.put("count_first_s", found["count_first_s"], "s", "the first of them: pages are faulted in")
    tally.put(
        "count_with_breakdown_s", found["count_with_breakdown_s"], "s", "by org and more, with a sample"
    )
    tally.put("count_members", found["count_members"])


def _lists(tally: Tally, lists: dict[str, float], members: int) -> None:
    notes = {
        "list_fresh_per_s": f"{members:,} customers who were in no list",
        "list_second_per_s": "the same into a second list",
        "list_removed_per_s": "the first list taken away from them",
        "list_uploaded_per_s": "a third, from a text file: read, sorted, kept in the lake, written",
        "list_plain_per_s": "plain pipelined SETs of the same keys and sizes into a fresh store",
    }
    for name, note in notes.items():
        bar: Bar | None = (">=", 100_000.0) if name == "list_fresh_per_s" else None
        tally.put(name, lists[name], "members/s", note, bar)
    tally.put("list_fresh_to_plain", lists["list_fresh_to_plain"], "x plain", "each is read before it is set")
