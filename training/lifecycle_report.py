"""Lifecycle models for people: one line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def show(console: Console, models: Sequence[Mapping[str, Any]], span_days: float) -> None:
    """Those that were learnt as a table, and why others were not."""
    title = f"lifecycle models: what comes within {span_days:g} days, judged on the last of them"
    table = Table(title=title, box=None)
    columns = (
        "model",
        "asked of",
        "rate",
        "AUC",
        "logistic",
        "gain, 95 %",
        "lift of 10 %",
        "Σp/Σy",
        "told by",
    )
    for column in columns:
        table.add_column(column, justify="left" if column in ("model", "told by") else "right")
    for one in models:
        found = one["report"]
        if found is None:
            continue
        (low, high), sums = found["auc_gap"][1:], found["forest"]["sums"]
        total = f"{sums['ratio']:.2f} ({sums['low']:.2f} to {sums['high']:.2f})"
        table.add_row(
            one["name"], f"{found['rows']:,}", f"{found['positives'] / found['rows']:.3f}",
            f"{found['forest']['auc']:.3f}", f"{found['baseline']['auc']:.3f}", f"{low:+.3f} to {high:+.3f}",
            f"{found['forest']['lift']:.2f}", total, ", ".join(found["telling"][:3]),
        )  # fmt: skip
    console.print(table)
    for one in models:
        if one["report"] is None:
            console.print(f"  {one['name']}: none ({one['why_not']})", highlight=False, markup=False)
