"""The ranker on the synthetic bank, whose truth is known: quality on held-out days, and what a page costs."""

from __future__ import annotations

import argparse
from typing import Final

ABOUT = "the second-stage ranker: quality on held-out days of a bank whose truth is known, and its speed"
TEST_DAYS: Final = 3
CALIBRATION_DAYS: Final = 2
STRETCH: Final = 4  # days that share one set of counts
BEFORE: Final = 5  # kept days that only counts are made of


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--customers", type=int, default=8_000)
    parser.add_argument("--items", type=int, default=1_000)
    parser.add_argument("--visits", type=float, default=1.0, help="a customer's mean visits a day")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--kept", type=int, default=20, help="of them, the last, whose pages are looked at")
    parser.add_argument("--pages", type=int, default=60_000, help="pages to learn from")
    parser.add_argument("--test-pages", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=5)
