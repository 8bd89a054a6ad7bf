"""The run report: what was learned, how good it is on later data, what the gate said. Markdown and PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS
from serving.models import ItemVectors, ServedModel
from training.gate import Verdict
from training.index import IndexReport
from training.progress import StepRecord

_SHOWN = ("hr@10", "recall@20", "ndcg@10", "map", "mrr")
_INK, _SOFT, _WARM = "#20476b", "#8fb3d1", "#d98841"


@dataclass(frozen=True, slots=True)
class Findings:
    """All that a report tells. `popularity` (n_items,) positives per item; `model` the one that serves."""

    version: str
    evaluation: Mapping[str, Any]
    verdict: Verdict
    promoted: bool
    live_before: str | None
    data: Mapping[str, Any]
    index: Sequence[IndexReport]
    model: ServedModel
    kinds: NDArray[np.uint8]
    popularity: NDArray[np.float64]
    steps: Sequence[StepRecord]
    seed: int
    threads: int


def write_report(findings: Findings, folder: Path) -> Path:
    """Write `report.md` and its pictures into a folder; the path of the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _draw(findings, folder)
    path = folder / "report.md"
    path.write_text("\n".join(_markdown(findings, pictures)) + "\n", encoding="utf-8")
    return path


def _markdown(findings: Findings, pictures: Mapping[str, str]) -> list[str]:
    lines = [f"# Training run {findings.version}", "", *_summary(findings), ""]
    lines += ["## On later data", "", *_setting(findings.evaluation), "", *_metrics(findings.evaluation), ""]
    lines += ["### By what was known of the customer", "", *_groups(findings.evaluation), ""]
    lines += ["## The gate", "", *_gate(findings), ""]
    if findings.index:
        lines += ["## The index of nearest items", "", *_index(findings.index), ""]
    lines += ["## Pictures", "", *(f"![{title}]({name})" for title, name in pictures.items()), ""]
    return [*lines, "## The run", "", *_steps(findings)]


def _summary(findings: Findings) -> list[str]:
    evaluation, metric = findings.evaluation, findings.evaluation["metric"]
    chosen = evaluation["chosen"]
    mine = evaluation["models"][chosen]["metrics"][metric]
    base = evaluation["models"]["popular"]["metrics"][metric]
    held = "held until somebody promotes it" if findings.verdict.promote else "**not promoted**"
    state = "live" if findings.promoted else held
    before = findings.live_before or "none"
    return [
        f"The bundle is {state}; live before it: {before}. It serves by **{chosen}**: {metric} {mine:.4f} on "
        f"later data, against {base:.4f} for popularity ({evaluation['chosen_because']}).",
        *([f"\nNote: {evaluation['metric_note']}."] if evaluation["metric_note"] else []),
    ]


def _setting(evaluation: Mapping[str, Any]) -> list[str]:
    split = "; ".join(f"{name}: {value}" for name, value in evaluation["split"].items())
    return [
        f"{evaluation['customers']:,} customers, {evaluation['items']:,} items, full ranking, none sampled. "
        f"Items the customer liked before: {evaluation['already_liked_items']}. "
        f"Histories: {evaluation['history']}. "
        f"Models learned from: {evaluation['learned_from']}. Split: {split}.",
        "",
        "`recall@k` is over **all held-out items**; `recall_capped@k` over **min(k, held out)**. Intervals "
        "are 95 %, by bootstrap over customers.",
    ]


def _metrics(evaluation: Mapping[str, Any]) -> list[str]:
    models = evaluation["models"]
    heads = [f"{name}{' (serves)' if name == evaluation['chosen'] else ''}" for name in models]
    lines = ["| metric | " + " | ".join(heads) + " | as served |", "|---|" + "---|" * (len(models) + 1)]
    for metric in next(iter(models.values()))["metrics"]:
        cells = [_cell(one, metric) for one in models.values()]
        served = evaluation["as_served"]["metrics"].get(metric)
        lines.append(f"| {metric} | " + " | ".join(cells) + f" | {_value(served)} |")
    key = f"{evaluation['metric']}_against_popular"
    gaps = [f"{name} {_gap(one[key])}" for name, one in models.items() if name != "popular"]
    lines += ["", f"Difference from popularity in {evaluation['metric']}, paired: " + "; ".join(gaps) + "."]
    served = evaluation["as_served"]
    return [*lines, "", f"As served: {served['model']} through the blend ({served['blend']})."]


def _cell(model: Mapping[str, Any], metric: str) -> str:
    interval = model["intervals"].get(metric)
    spread = f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""
    return _value(model["metrics"][metric]) + spread


def _value(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _gap(gap: Sequence[float]) -> str:
    return f"{gap[0]:+.4f} [{gap[1]:+.4f}, {gap[2]:+.4f}]"


def _groups(evaluation: Mapping[str, Any]) -> list[str]:
    head = "| customers with | number | model | " + " | ".join(_SHOWN) + " |"
    lines = [head, "|---|---|---|" + "---|" * len(_SHOWN)]
    for label, group in evaluation["groups"].items():
        for name, metrics in group["models"].items():
            cells = " | ".join(_value(metrics.get(metric)) for metric in _SHOWN)
            lines.append(f"| {label} | {group['customers']:,} | {name} | {cells} |")
    return lines


def _gate(findings: Findings) -> list[str]:
    lines = [
        f"- against {one['other']} ({one['how']}): {one['candidate']:.4f} and {one['value']:.4f}, "
        f"difference {_gap(one['difference'])}, {one['customers']:,} customers"
        for one in findings.evaluation["comparisons"]
    ]
    if findings.verdict.passed:
        return [
            *lines,
            "- passed: all finite, keys distinct, golden queries answered, index recall enough",
        ]
    head = "- refused, and **promoted by force**" if findings.verdict.promote else "- **refused**"
    return [*lines, f"{head}:", *(f"  - `{one.code}`: {one.text}" for one in findings.verdict.refusals)]


def _index(index: Sequence[IndexReport]) -> list[str]:
    head = "| kind | items | index | probes | recall@50 | µs a query | µs exact |"
    return [head, "|---|---|---|---|---|---|---|"] + [
        f"| {one.kind} | {one.items:,} | {one.form} | {one.nprobe or ''} | {one.recall:.4f} | "
        f"{one.index_us:.0f} | {one.exact_us:.0f} |"
        for one in index
    ]


def _steps(findings: Findings) -> list[str]:
    data = "; ".join(f"{name} {value:,}" for name, value in findings.data.items() if isinstance(value, int))
    lines = [f"Data: {data}. Seed {findings.seed}, {findings.threads} threads.", ""]
    lines += ["| step | seconds | |", "|---|---|---|"]
    for step in findings.steps:
        took = "skipped" if step.skipped else f"{step.seconds:.1f}"
        lines.append(f"| {step.name} | {took} | {'; '.join(step.notes)} |")
    return lines


def _draw(findings: Findings, folder: Path) -> dict[str, str]:
    import matplotlib as mpl

    mpl.use("Agg")
    pictures = {"Metrics on later data": "metrics.png", "How popularity is spread": "popularity.png"}
    _draw_metrics(findings.evaluation, folder / "metrics.png")
    _draw_popularity(findings.popularity, folder / "popularity.png")
    if isinstance(findings.model, ItemVectors):
        pictures["Lengths of the item vectors"] = "norms.png"
        _draw_norms(np.asarray(findings.model.vectors), findings.kinds, folder / "norms.png")
    if findings.index:
        pictures["Recall of the index"] = "index.png"
        _draw_index(findings.index, folder / "index.png")
    return pictures


def _axes(title: str, size: tuple[float, float] = (7.0, 3.6)) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _draw_metrics(evaluation: Mapping[str, Any], path: Path) -> None:
    names = list(dict.fromkeys((evaluation["metric"], *_SHOWN)))
    models = evaluation["models"]
    bars = {**{name: (one["metrics"], one["intervals"]) for name, one in models.items()}}
    axes = _axes("Metrics on later data, with 95 % intervals", (8.0, 3.8))
    width = 0.8 / len(bars)
    colours = [_INK, _WARM, _SOFT, "#777777"]
    for place, (name, (values, intervals)) in enumerate(bars.items()):
        x = np.arange(len(names)) + (place - (len(bars) - 1) / 2) * width
        heights = np.array([values[metric] for metric in names])
        spread = np.array([intervals[metric] for metric in names]).T
        errors = np.maximum(np.stack((heights - spread[0], spread[1] - heights)), 0.0)
        axes.bar(x, heights, width, yerr=errors, label=name, color=colours[place % 4], error_kw={"lw": 0.8})
    for one in evaluation["comparisons"]:
        if one["other"] == "live":
            axes.plot([-0.45, 0.45], [one["value"]] * 2, color="black", lw=1.2, ls="--", label="live bundle")
    axes.set_xticks(np.arange(len(names)), names)
    axes.legend(frameon=False, fontsize=8)
    axes.figure.savefig(path)


def _draw_popularity(popularity: NDArray[np.float64], path: Path) -> None:
    counts = np.sort(popularity[popularity > 0])[::-1]
    axes = _axes("Positives per item, most popular first")
    axes.loglog(np.arange(1, len(counts) + 1), counts, color=_INK)
    axes.set_xlabel("rank")
    axes.set_ylabel("positives")
    if len(counts):
        tenth = counts[: max(1, len(counts) // 10)].sum() / counts.sum()
        note = f"top tenth: {tenth:.0%} of all"
        axes.text(0.98, 0.92, note, transform=axes.transAxes, ha="right", fontsize=9)
    axes.figure.savefig(path)


def _draw_norms(vectors: NDArray[np.float32], kinds: NDArray[np.uint8], path: Path) -> None:
    norms = np.linalg.norm(vectors, axis=1)
    axes = _axes("Lengths of the item vectors, by kind")
    for code, name in enumerate(KINDS):
        mine = norms[(kinds == code) & (norms > 0)]
        if len(mine):
            axes.hist(mine, bins=40, histtype="step", label=f"{name} ({len(mine):,})")
    axes.set_xlabel("length")
    axes.set_ylabel("items")
    axes.legend(frameon=False, fontsize=8)
    axes.figure.savefig(path)


def _draw_index(index: Sequence[IndexReport], path: Path) -> None:
    axes = _axes("Recall of the index against exact search (top 50)")
    axes.bar([one.kind for one in index], [one.recall for one in index], color=_SOFT)
    axes.set_ylim(min(0.9, *(one.recall for one in index)), 1.005)
    for place, one in enumerate(index):
        axes.text(place, one.recall, f"{one.form}\n{one.index_us:.0f} µs", ha="center", va="top", fontsize=8)
    axes.figure.savefig(path)
