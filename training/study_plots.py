"""The pictures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.study_report import has


def plot(said: Mapping[str, Any], folder: Path) -> list[Path]:
    """`metrics.png`: the main metrics with intervals; `by-k.png`: by list length; `slices.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    models, metric = list(said["models"]), said["metric"]
    names = [n for n in dict.fromkeys((metric, "hr@10", "ndcg@10", "recall@20", "mrr")) if has(said, n)]

    def written(figure: Any, name: str) -> Path:
        FigureCanvasAgg(figure)
        figure.tight_layout()
        figure.savefig(folder / name, dpi=110)
        return folder / name

    figure = Figure(figsize=(2.6 * len(names), 3.6))
    for place, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), place + 1)
        values = [said["models"][model]["metrics"][name] for model in models]
        spans = np.array([said["models"][model]["intervals"][name] for model in models]).T
        errors = np.abs(spans - np.array(values))
        axes.bar(range(len(models)), values, yerr=errors, capsize=3, color="#4878a8")
        axes.set_xticks(range(len(models)), models, rotation=60, ha="right")
        axes.set_title(name)
    first = written(figure, "metrics.png")
    figure = Figure(figsize=(9, 3.6))
    for place, name in enumerate(("recall", "ndcg")):
        axes = figure.add_subplot(1, 2, place + 1)
        for model in models:
            ks = [k for k in said["ks"] if f"{name}@{k}" in said["models"][model]["metrics"]]
            axes.plot(
                ks, [said["models"][model]["metrics"][f"{name}@{k}"] for k in ks], marker="o", label=model
            )
        axes.set_xlabel("k")
        axes.set_title(f"{name}@k")
        axes.legend(fontsize=8)
    second = written(figure, "by-k.png")
    labels = list(said["slices"])
    figure = Figure(figsize=(9, 1.2 + 0.5 * max(len(labels), 1)))
    axes = figure.add_subplot(1, 1, 1)
    for place, model in enumerate(models):
        values = [said["slices"][label]["models"][model][metric] for label in labels]
        axes.barh(np.arange(len(labels)) + place * 0.8 / len(models), values, 0.8 / len(models), label=model)
    axes.set_yticks(np.arange(len(labels)) + 0.4, [label[:50] for label in labels])
    axes.invert_yaxis()
    axes.set_title(f"slices: {metric}")
    axes.legend(fontsize=8)
    paths = [first, second, written(figure, "slices.png")]
    if "curve" in said:
        figure = Figure(figsize=(6, 3.8))
        axes = figure.add_subplot(1, 1, 1)
        for model, values in said["curve"].items():
            axes.plot(range(len(values)), list(values.values()), marker="o", label=model)
        axes.set_xticks(range(len(values)), list(values))
        axes.set_xlabel("items that a customer is known by")
        axes.set_title(metric)
        axes.legend(fontsize=8)
        paths.append(written(figure, "curve.png"))
    return paths
