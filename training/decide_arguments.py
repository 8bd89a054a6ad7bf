"""The arguments of `fenliu decide`; imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

EXAMPLES: Final = """  fenliu decide --customers ids.txt --out pages.ndjson
  fenliu decide --customers ids.csv.gz --surface home --slot home.feed=3 --processes 8 --out push.ndjson
  RAY_ADDRESS=auto fenliu decide --customers all.txt --processes 64 --out pages.ndjson
"""


def add_decide(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--customers", type=Path, required=True, metavar="FILE",
        help="an id a line, or the first column of a CSV; may be gzipped",
    )  # fmt: skip
    parser.add_argument("--surface", help="the page (home)")
    parser.add_argument("--slot", action="append", metavar="NAME[=COUNT]", help="only this slot of it; again")
    parser.add_argument(
        "--context", default="{}", metavar="JSON", help='as in POST /v1/recommend: {"channel": "push"}'
    )
    parser.add_argument("--id", default=None, help="the decision id of every page (drawn from the time)")
    parser.add_argument("--out", type=Path, default=None, metavar="FILE", help="NDJSON (standard output)")
    parser.add_argument("--processes", type=int, default=1, help="Ray workers; 1: here, without Ray")
