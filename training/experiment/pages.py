"""An answer as pages that a manager can read: Markdown, the same as one HTML file, and its plots."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from math import inf, nan
from pathlib import Path
from typing import Any

import matplotlib
import orjson

from training.experiment.analysis import Answer, Compared
from training.experiment.wording import between, shown

matplotlib.use("Agg")


def write(answer: Answer, folder: Path, off: Sequence[Answer] = ()) -> Path:
    """report.md, report.html, answer.json and the plots, into `folder`; the Markdown's path.

    `off`: of arms that were switched off, until then; each is told in short, and has a folder below.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plots = _plots(answer, folder)
    page = folder / "report.md"
    page.write_text(markdown(answer, plots, off), encoding="utf-8")
    (folder / "report.html").write_text(html(answer, folder, plots, off), encoding="utf-8")
    (folder / "answer.json").write_bytes(orjson.dumps(document(answer, off), option=orjson.OPT_INDENT_2))
    for one in off:
        write(one, folder / f"off-{_arm(one)}")
    return page


def document(answer: Answer, off: Sequence[Answer]) -> dict[str, Any]:
    """For machines; `off` by arm."""
    return answer.document() | ({"off": {_arm(one): one.document() for one in off}} if off else {})


def _arm(answer: Answer) -> str:
    return list(answer.question.weights)[1]


def _sections(answer: Answer, off: Sequence[Answer] = ()) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, sentences, table rows with their head first)."""
    asked = answer.question
    total = sum(answer.units.values())
    sizes = [["arm", "units", "expected"]] + [
        [arm, f"{count:,}", f"{answer.mismatch.expected[arm]:,.0f}"] for arm, count in answer.units.items()
    ]
    said = [f"{total:,} {asked.units} over {len(answer.days)} days ({answer.days[0]} to {answer.days[-1]})."]
    if answer.mismatch.found:
        said.append(f"Sample ratio mismatch, p = {answer.mismatch.p:.2g}. Look at:")
        said += [f"- {cause}" for cause in answer.mismatch.causes]
    else:
        said.append(f"As many in each arm as were assigned (p = {answer.mismatch.p:.2f}).")
    if answer.crossed:
        said.append(f"{answer.crossed:,} units were seen in two arms and are left out.")
    head = [
        "arm",
        "metric",
        "control",
        "arm's",
        "difference",
        "interval",
        "p at any look",
        "variance saved",
        "",
    ]
    metrics = [head] + [_row(one, one.metric == asked.criterion.name) for one in answer.compared]
    notes = [
        "The interval holds at all looks together: looking every day is safe. p is corrected for the number"
        " of arms (criterion, and its interval) or of metrics and arms (others, whose intervals stand alone);"
        " it makes the verdict.",
        *answer.breached,
    ]
    segments = [["segment", "value", "arm", "units", "difference", "interval"]]
    for name, rows in answer.segments.items():
        segments += [
            [name, value, arm, f"{units:,}", shown(gap, "+.2%"), between(low, high)]
            for arm, value, units, gap, low, high in rows
        ]
    found: list[tuple[str, list[str], list[list[str]]]] = [
        ("Units", said, sizes),
        ("Metrics", notes, metrics),
    ]
    if len(segments) > 1:
        about = f"The criterion, {asked.criterion.name}; intervals are wide enough for all of a dimension."
        found.append(("Segments", [about], segments))
    for one in off:
        table = [_row(each, each.metric == asked.criterion.name) for each in one.compared]
        found.append((f"Switched off: {_arm(one)}", [one.summary, *one.breached], [head, *table]))
    return found


def _row(one: Compared, main: bool) -> list[str]:
    mark = "**" if main else ""
    return [
        one.arm,
        f"{mark}{one.metric}{mark}",
        shown(one.control, ".5g"),
        shown(one.treatment, ".5g"),
        shown(one.relative, "+.2%"),
        between(one.relative_low, one.relative_high),
        f"{one.adjusted_p:.3g}",
        f"{one.reduction:.0%}",
        one.verdict,
    ]


def markdown(answer: Answer, plots: list[str], off: Sequence[Answer] = ()) -> str:
    lines = [f"# Experiment {answer.question.experiment}", "", f"**{answer.summary}**", ""]
    if answer.question.about:
        lines += [*(f"- {line}" for line in answer.question.about), ""]
    for title, said, rows in _sections(answer, off):
        lines += [f"## {title}", "", *said, ""]
        lines += ["| " + " | ".join(row) + " |" for row in rows[:1]]
        lines += ["|" + "---|" * len(rows[0])]
        lines += ["| " + " | ".join(row) + " |" for row in rows[1:]] + [""]
    return "\n".join(lines + [f"![{name}]({name})" for name in plots]) + "\n"


def html(answer: Answer, folder: Path, plots: list[str], off: Sequence[Answer] = ()) -> str:
    """One file with the plots in it."""
    title, summary = escape(answer.question.experiment), escape(answer.summary)
    parts = [f"<h1>Experiment {title}</h1><p><b>{summary}</b></p>"]
    if answer.question.about:
        items = "".join(f"<li>{escape(line)}</li>" for line in answer.question.about)
        parts.append(f"<ul>{items}</ul>")
    for title, said, rows in _sections(answer, off):
        parts.append(f"<h2>{title}</h2>" + "".join(f"<p>{escape(line)}</p>" for line in said))
        cells = [
            "<tr>" + "".join(f"<{tag}>{escape(cell.strip('*'))}</{tag}>" for cell in row) + "</tr>"
            for row, tag in zip(rows, ["th"] + ["td"] * (len(rows) - 1), strict=True)
        ]
        parts.append("<table>" + "".join(cells) + "</table>")
    for name in plots:
        data = base64.b64encode((folder / name).read_bytes()).decode()
        parts.append(f'<img alt="{name}" src="data:image/png;base64,{data}">')
    style = (
        "body{font:15px sans-serif;max-width:60em;margin:2em auto}td,th{padding:.2em .8em;text-align:left}"
    )
    return f'<!doctype html><meta charset="utf-8"><style>{style}</style>' + "\n".join(parts)


def _plots(answer: Answer, folder: Path) -> list[str]:
    from matplotlib import pyplot as plt

    made = []
    main = [one for one in answer.compared if one.metric == answer.question.criterion.name]
    figure, axis = plt.subplots(figsize=(8, 4))
    for one in main:
        _band(axis, list(range(len(one.by_day))), [row[1:] for row in one.by_day], one.arm)
        axis.set_xticks(range(len(one.by_day)), [row[0][5:] for row in one.by_day], rotation=60)
    axis.set_title(f"{answer.question.criterion.name}: difference to the control, by day of looking")
    made.append(_saved(figure, axis, folder / "by_day.png", relative=True))
    if answer.novelty:
        figure, axis = plt.subplots(figsize=(8, 4))
        for arm, rows in answer.novelty.items():
            _band(axis, [row[0] for row in rows], [row[1:] for row in rows], arm)
        axis.set_title("novelty: difference a unit and day, by days since a unit's first page")
        made.append(_saved(figure, axis, folder / "novelty.png", relative=False))
    plt.close("all")
    return made


def _band(axis: Any, x: list[int], rows: list[Any], name: str) -> None:
    (line,) = axis.plot(x, [row[0] for row in rows], marker="o", label=name)
    low, high = ([nan if abs(row[at]) == inf else row[at] for row in rows] for at in (1, 2))
    axis.fill_between(x, low, high, alpha=0.2, color=line.get_color())


def _saved(figure: Any, axis: Any, path: Path, *, relative: bool) -> str:
    axis.axhline(0, color="black", linewidth=0.8)
    if relative:
        axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return path.name
