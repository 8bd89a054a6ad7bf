"""The bench harness: what every `fenliu bench NAME` prints and how it decides `ok`.

A benchmark is a module of this package with `ABOUT` (one line), `arguments(parser)` and
`run(args) -> Result`.
It prints a table for people; its last line is one JSON object
`{"bench", "figures": {name: number}, "bars": {name: [">=" or "<=", number]}, "ok"}`.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, cast

import orjson
from rich.console import Console
from rich.table import Table

Bar = tuple[Literal[">=", "<="], float]

BENCHES = (
    *("loop", "serve", "decide", "race", "benefit", "pacing", "tags", "booking", "page", "audiences"),
    *("solver", "budget", "offline", "faults", "soak", "flame", "replay", "rights", "chaos", "fuzz"),
    "guards",
    *("assignment", "experiments", "guard", "bandit", "ope", "ghosts", "exploration", "coldstart", "ranker"),
    *("lifecycle", "uplift", "scores", "shadow"),
)


@dataclass(frozen=True, slots=True)
class Result:
    """`figures` by name; `bars` name some of them; `units` and `notes` are for the table only."""

    figures: Mapping[str, float]
    bars: Mapping[str, Bar] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return all(meets(self.figures.get(name, math.nan), bar) for name, bar in self.bars.items())


class Bench(Protocol):
    ABOUT: str

    def arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> Result: ...


def meets(figure: float, bar: Bar) -> bool:
    """Whether a figure meets its bar; what is missing or not a number never does."""
    sign, limit = bar
    return figure >= limit if sign == ">=" else figure <= limit


def load(name: str) -> Bench:
    return cast(Bench, importlib.import_module(f"training.bench.{name}"))


def register(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    """One subcommand a benchmark, each with `--quick` and its own sizes."""
    names = parser.add_subparsers(dest="bench", metavar="NAME", required=True)
    for name in BENCHES:
        bench = load(name)
        one = names.add_parser(
            name,
            help=bench.ABOUT,
            description=bench.ABOUT,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        one.add_argument("--quick", action="store_true", help="a small size, with the bars it can decide")
        bench.arguments(one)
        one.set_defaults(run=run)


def report(name: str, result: Result, console: Console) -> int:
    """Print the table and the closing JSON line. Returns the exit status: 0 only when every bar is met."""
    table = Table(title=f"bench {name} on {os.cpu_count()} cores, {platform.machine()}")
    for column in ("figure", "value", "unit", "bar", "note"):
        justify: Literal["right", "left"] = "right" if column == "value" else "left"
        table.add_column(column, justify=justify, no_wrap=column in ("figure", "bar"))
    for figure, value in result.figures.items():
        bar = result.bars.get(figure)
        shown = f"{bar[0]} {bar[1]:g} {'met' if meets(value, bar) else 'MISSED'}" if bar else ""
        table.add_row(
            figure, _number(value), result.units.get(figure, ""), shown, result.notes.get(figure, "")
        )
    console.print(table)
    line = {
        "bench": name,
        "figures": {figure: _finite(value) for figure, value in result.figures.items()},
        "bars": {figure: list(bar) for figure, bar in result.bars.items()},
        "ok": result.ok,
    }
    console.file.flush()
    print(orjson.dumps(line).decode(), flush=True)
    return 0 if result.ok else 1


def _finite(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
