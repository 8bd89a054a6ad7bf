"""The picture of `fenliu bench serve`: throughput by connections, latency under offered load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.bench.serve_rounds import CONNECTIONS, EMPTY, LIGHT, NAIVE, OURS, Rounds

QUANTILES = np.array([0.5, 0.9, 0.95, 0.99, 0.999])


def plot(path: Path, rounds: Rounds, opened: Mapping[str, list[float]], deadline_ms: float) -> Path:
    """`opened`: latencies in seconds of each open loop, by its label."""
    figure: Any = Figure(figsize=(13, 4.6))
    FigureCanvasAgg(figure)
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    names = [name for name in (EMPTY, LIGHT, OURS, NAIVE) if (name, CONNECTIONS[0]) in rounds.rates]
    for number, name in enumerate(names):
        at = np.arange(len(CONNECTIONS)) + (number - len(names) / 2 + 0.5) * 0.2
        left.bar(at, [rounds.rate(name, one) for one in CONNECTIONS], width=0.18, label=name)
    left.set_xticks(range(len(CONNECTIONS)), [str(one) for one in CONNECTIONS])
    left.set(title="closed loop", xlabel="connections", ylabel="answers a second")
    left.legend()
    for label, latencies in opened.items():
        if latencies:
            right.plot(1 / (1 - QUANTILES), np.quantile(latencies, QUANTILES) * 1e3, "o-", label=label)
    right.axhline(deadline_ms, color="grey", linestyle=":", linewidth=0.8)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xticks(1 / (1 - QUANTILES), [f"p{q * 100:g}" for q in QUANTILES])
    right.minorticks_off()
    right.set(title="open loop, from the intended moment of sending", ylabel="ms (dotted: the deadline)")
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return path
