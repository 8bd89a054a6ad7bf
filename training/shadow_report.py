"""The report of a shadow run: Markdown, a picture and the figures as JSON, in a folder; and the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
from rich.table import Table

from training.shadow_figures import DEPTHS, SIDES

_INK, _WARM = "#20476b", "#d98841"
_MOST_REASONS: Final = 6


def table_of(found: Mapping[str, Any]) -> Table:
    """What is known so far, both sides beside one another."""
    pages, places, shown = found["pages"], found["places"], found["displays"]
    title = (
        f"{pages['compared']:,} pages decided again by {found['candidate']} beside {found['live']};"
        f" {shown['clicks']:,} clicks on {shown['places']:,} ripe displays"
    )
    table = Table(title=title, title_justify="left")
    for name, side in (("", "left"), ("live", "right"), ("candidate", "right"), ("", "left")):
        table.add_column(name, justify=side)  # type: ignore[arg-type] # of two of its words
    for row in _rows(found):
        table.add_row(*row)
    if places["differ"] is not None:
        table.add_section()
        table.add_row("places that differ", "", _share(places["differ"]), "")
        for slot, one in places["by_slot"].items():
            depths = "  ".join(f"@{k} {_share(v)}" for k, v in one["overlap"].items())
            table.add_row(f"  {slot}", "", _share(one["differ"]), f"overlap {depths}")
    left = list(pages["left_out"].items())[:_MOST_REASONS]
    if left or pages["unreadable_rows"]:
        table.add_section()
        for reason, n in left:
            table.add_row("left out", "", f"{n:,}", reason)
        if pages["unreadable_rows"]:
            table.add_row("left out", "", f"{pages['unreadable_rows']:,}", "rows that cannot be read")
    return table


def _rows(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    shown, loss = found["displays"], found["displays"]["log_loss"]
    rows: list[tuple[str, str, str, str]] = []

    def both(name: str, values: Mapping[str, Any], text: Any, note: str = "") -> None:
        live, other = (text(values[side]) for side in SIDES)
        rows.append((name, live, other, note))

    if loss is not None:
        low, high = (one / loss["live"] for one in loss["difference"][1:])
        both("log loss", loss, lambda one: f"{one:.5f}", f"difference {low:+.2%} to {high:+.2%}")
        sums = shown["calibration"]
        for slot in sums["live"]:
            clicks = f"{sums['live'][slot]['clicks']:,} clicks"
            both(f"Σp/Σy {slot}", {side: sums[side][slot] for side in SIDES}, _sum, clicks)
    for surface, one in found["drift"].items():
        rows.append((f"drift {surface}", "", "too few" if one is None else f"{one:.3f}", "stability index"))
    both("fill", found["fill"], _share)
    both("degraded", {side: found["degraded"][side]["pages"] for side in SIDES}, _share)
    both("… alone", {side: found["degraded"][side]["alone"] for side in SIDES}, _share, "the other is not")
    both("µs a page", found["us_per_page"], lambda one: "" if one is None else f"{one:,.0f}", "median")
    return rows


def write_shadow(found: Mapping[str, Any], folder: Path) -> Path:
    """`shadow.md`, `shadow.json` and the picture into a folder; the path of the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shadow.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    pictures = _draw(found, folder)
    path = folder / "shadow.md"
    path.write_text("\n".join(_markdown(found, pictures)) + "\n", encoding="utf-8")
    return path


def _markdown(found: Mapping[str, Any], pictures: Sequence[str]) -> list[str]:
    pages, shown = found["pages"], found["displays"]
    verdict = "**keeps every limit**" if not found["refusals"] else "**does not keep its limits**"
    lines = [
        f"# {found['candidate']} in the shadow of {found['live']}",
        "",
        f"The candidate {verdict}: {pages['compared']:,} pages of {_when(found['since'])} to"
        f" {_when(found['until'])} decided again by both bundles from their logged inputs,"
        f" {found['share']:.2%} of all; {shown['clicks']:,} clicks on {shown['places']:,} displays.",
        "",
        *(f"- `{one['code']}`: {one['text']}" for one in found["refusals"]),
        *(f"- not told: {one}" for one in found["not_told"]),
        "",
        "| | live | candidate | |",
        "|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in _rows(found)),
        "",
        "## Places that differ",
        "",
        "| slot | places | differ | " + " | ".join(f"overlap@{k}" for k in DEPTHS) + " |",
        "|---|---|---|" + "---|" * len(DEPTHS),
        *(_slot_row(slot, one) for slot, one in found["places"]["by_slot"].items()),
        "",
        "## Pages",
        "",
        f"Seen {pages['seen']:,}, taken {pages['sampled']:,}, compared {pages['compared']:,};"
        f" {_share(pages['live_as_logged'])} of these came out under the live bundle bit for bit as they were"
        f" logged. On {pages['with_kills']:,} something was switched off. Rows that cannot be read:"
        f" {pages['unreadable_rows']:,}.",
        "",
        *(f"- {n:,} left out: {reason}" for reason, n in pages["left_out"].items()),
        *(f"- {n:,} displays left out: {reason}" for reason, n in shown["left_out"].items()),
        *(f"- {n:,} pages under plan {plan}" for plan, n in pages["plans"].items()),
        "",
        "Both bundles score the very places that were displayed. The live one chose them,"
        " and so shows more of what it overestimates; what the candidate would overestimate by its own choice"
        " is not seen here.",
        "",
    ]
    return [*lines, *(f"![{name}]({name})" for name in pictures)]


def _slot_row(slot: str, one: Mapping[str, Any]) -> str:
    depths = (one["overlap"].get(str(k)) for k in DEPTHS)
    cells = [slot, f"{one['places']:,}", _share(one["differ"]), *map(_share, depths)]
    return "| " + " | ".join(cells) + " |"


def _draw(found: Mapping[str, Any], folder: Path) -> list[str]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    slots = found["places"]["by_slot"]
    if not slots:
        return []
    sums = found["displays"]["calibration"]
    told = [name for name in sums["candidate"] if sums["candidate"][name]["clicks"]]
    figure = Figure(figsize=(9.0, 1.6 + 0.35 * max(len(slots), len(told), 3)), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, title in ((left, "Places that differ"), (right, "Expected over real clicks, 95 %")):
        axes.set_title(title, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    left.barh(list(slots), [one["differ"] for one in slots.values()], color=_WARM)
    left.set_xlim(0, 1)
    for side, colour, shift in (("live", _INK, -0.12), ("candidate", _WARM, 0.12)):
        for place, name in enumerate(told):
            one = sums[side][name]
            right.plot([one["low"], one["high"]], [place + shift] * 2, color=colour, lw=1.2)
            right.plot(
                one["ratio"], place + shift, "o", ms=4, color=colour, label=side if not place else None
            )
    if told:
        right.set_yticks(range(len(told)), told)
        right.axvline(1.0, color="black", lw=0.6)
        right.legend(frameon=False, fontsize=8)
    figure.savefig(folder / "shadow.png")
    return ["shadow.png"]


def _sum(one: Mapping[str, float]) -> str:
    return f"{one['ratio']:.3f} ({one['low']:.3f} to {one['high']:.3f})" if one["clicks"] else "no click"


def _share(one: float | None) -> str:
    return "" if one is None else f"{one:.2%}"


def _when(at: float | None) -> str:
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
