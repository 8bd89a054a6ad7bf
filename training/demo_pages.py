"""What the demo prints: customers, pages slot by slot, what changed, and how to go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from serving.settings import Settings
from training.demo_office import CHECKER, MAKER, People
from training.job import RunReport
from training.world import World
from training.world.customers import LIFECYCLE, OCCUPATIONS
from training.world.words import CITIES

Page = Mapping[str, Any]


def introduce(console: Console, world: World, customer: int) -> None:
    people = world.customers
    occupation, city = OCCUPATIONS[people.occupation[customer]], CITIES[people.city[customer]][2]
    console.print(
        f"\n[bold]{people.ids[customer]}[/]: {people.age[customer]} years, {occupation}, {city},"
        f" assets ¥{people.assets[customer]:,.0f}, risk level C{people.risk_level[customer]},"
        f" star {people.star_level[customer]}, {LIFECYCLE[people.lifecycle[customer]]}"
    )


def homepage(console: Console, world: World, page: Page, most: int = 4) -> None:
    """Slot by slot, at most `most` places each."""
    titles = {item.id: item.title for item in world.items()}
    table = Table(show_edge=False, pad_edge=False)
    for name, justify in (("slot", "left"), ("#", "right"), ("名称", "left"), ("name", "left")):
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("reason")
    for filled in page["slots"]:
        places = filled["items"]
        for place in places[:most]:
            title = titles[place["item_id"]]
            first = filled["slot"] if place["position"] == 0 else ""
            table.add_row(
                first, str(place["position"] + 1), title["zh"], title["en"], f"{place['score']:.3f}",
                place["reason"]["code"],
            )  # fmt: skip
        if len(places) > most:
            table.add_row("", "", f"… {len(places) - most} more", "", "", "", style="dim")
    console.print(table)
    if page["degraded"]:
        console.print(f"degraded: {', '.join(page['degraded'])}")


def changes(console: Console, world: World, before: Page, after: Page) -> None:
    """What came and what left, slot by slot."""
    titles = {item.id: item.title["en"] for item in world.items()}
    table = Table(title="their next page", show_edge=False, pad_edge=False)
    for name in ("slot", "new on it", "reason"):
        table.add_column(name, overflow="fold")
    table.add_column("moved", justify="right")
    total = 0
    for old, new in zip(before["slots"], after["slots"], strict=True):
        was = [place["item_id"] for place in old["items"]]
        came = [place for place in new["items"] if place["item_id"] not in was]
        moved = sum(
            place["item_id"] in was and was.index(place["item_id"]) != place["position"]
            for place in new["items"]
        )
        total += len(came) + moved
        shown = "; ".join(titles[place["item_id"]] for place in came[:3])
        more = f" (+{len(came) - 3})" if len(came) > 3 else ""
        reasons = ", ".join(sorted({place["reason"]["code"] for place in came}))
        table.add_row(new["slot"], shown + more, reasons, str(moved))
    console.print(table)
    console.print(f"{total} of {sum(len(filled['items']) for filled in after['slots'])} places are different")


def against_popularity(console: Console, run: RunReport) -> None:
    """The metrics of the model that serves beside popularity's, on the same later data."""
    table = Table(title=f"on later data: {run.chosen} against popularity, both tuned", show_edge=False)
    table.add_column("metric")
    for name in (run.chosen, "popular"):
        table.add_column(name, justify="right")
    for metric in ("recall@20", "ndcg@10", "hr@10", "mrr", "coverage@20"):
        table.add_row(metric, *(f"{run.metrics[name][metric]:.4f}" for name in (run.chosen, "popular")))
    console.print(table)


def next_steps(
    console: Console, url: str, settings: Settings, report: Path, seconds: float, people: People | None = None
) -> None:
    """Where everything lies, and lines to try."""
    body = json.dumps(
        {"user_id": "u000042", "context": {"channel": "app", "app_version": "9.2.0", "city": "310000"}}
    )
    console.rule(f"done in {seconds:.0f} s")
    console.print(f"report and plots   {report}")
    console.print(f"lake, registry     {settings.home}")
    console.print(f"OpenAPI, metrics   {url}/openapi.json   {url}/metrics")
    governed = (
        ()
        if people is None
        else (
            f"export FENLIU_KEY={people.keys[0]}   # {MAKER} proposes; {CHECKER} approves: {people.keys[1]}",
            f"fenliu --home {settings.home} plan status",
            f"fenliu --home {settings.home} audit verify",
        )
    )
    console.print("\ntry:", highlight=False)
    for line in (
        *governed,
        f"curl -s {url}/v1/recommend/homepage -H 'x-api-key: {settings.app_key}'"
        f" -H 'content-type: application/json' -d '{body}' | python3 -m json.tool",
        f"curl -s {url}/readyz",
        f"fenliu --home {settings.home} bundle list",
    ):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
