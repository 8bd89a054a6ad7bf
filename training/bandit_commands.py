"""`fenliu bandit status`: what the bandit knows of creatives, of arms of adaptive experiments and of new
items, and how often it shows each."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any

import numpy as np
from rich.table import Table as Printed
from scipy.special import gammaincc

from features.ids import key32, key64
from serving.backing import backed
from serving.bandit import Learned
from serving.bandit_draws import group_of
from serving.bandit_shelf import BanditShelf
from serving.bundle import Bundle
from serving.newcomers import PRIOR, Newcomers
from serving.plan import Plan
from serving.redis_control import RedisControl
from serving.settings import Settings
from training.desk import desk_of
from training.progress import wide_console
from training.usage import UsageError


def status(args: argparse.Namespace, settings: Settings) -> int:
    """Arms, posterior and share, over all customers or by segment."""
    version = args.version or _live(settings)
    if not version:
        raise UsageError(
            "the bandit has learned nothing yet: it needs items with two approved creatives in a slot with"
            " `explore` above 0, and pages that were displayed"
        )
    learned = BanditShelf(settings.registry_url).fetch(version)
    desk = desk_of(settings)
    release = desk.governance.refresh().release
    plan = None if release is None else desk.governance.shelf.fetch(release.plan)
    told = document(learned, desk.bundle, plan, args.item)
    new = newcomers(learned, desk.bundle, args.item)
    if args.json:
        print(json.dumps({"version": version, "items": told, "new": new}, ensure_ascii=False))
        return 0
    old = time.time() - learned.until
    table = Printed(title=f"bandit {version}, of pages until {old:,.0f} s ago")
    for column in ("item", "segment", "creative", "displays", "clicks", "rate by the model", "share"):
        table.add_column(column, justify="left" if column in ("item", "creative") else "right")
    for one in told[: args.most]:
        for cell in one["segments"] if args.segments else one["segments"][-1:]:
            for arm in cell["creatives"]:
                table.add_row(
                    one["item"], str(cell["segment"]), arm["creative"], f"{arm['displays']:,.0f}",
                    f"{arm['clicks']:,.0f}", f"{arm['mean']:.4f} ± {arm['deviation']:.4f}",
                    f"{arm['share']:.1%}",
                )  # fmt: skip
    console = wide_console()
    console.print(table)
    if new:
        console.print(_table_of(new[: args.most], learned.bundle))
    return 0


def _table_of(new: list[dict[str, Any]], bundle: str) -> Printed:
    table = Printed(title=f"new items, by what bundle {bundle} predicts of them")
    for column in ("item", "clicks predicted", "clicks", "times as many", "chance of more", "share"):
        table.add_column(column, justify="left" if column == "item" else "right")
    for one in new:
        table.add_row(
            one["item"], f"{one['predicted']:,.1f}", f"{one['clicks']:,.0f}",
            f"{one['mean']:.2f} ± {one['deviation']:.2f}", f"{one['better']:.0%}", f"{one['share']:.1%}",
        )  # fmt: skip
    return table


def newcomers(learned: Learned, bundle: Bundle | None, only: str | None = None) -> list[dict[str, Any]]:
    """Items that few clicks have taught the bundle, by what they were shown for: clicks predicted where they
    were displayed and clicks met, the factor on what is predicted (`mean`, `deviation` of its posterior),
    `better`: the chance that it is above 1, `share` of the clicks predicted of new items. Nothing where the
    bundle is another one: its word was about other predictions.
    """
    if bundle is None or not learned.fresh or learned.bundle != bundle.version:
        return []
    known = Newcomers.of(bundle.stats["clicks"], len(bundle.stats))
    keys = np.fromiter(learned.fresh, np.uint64, len(learned.fresh))
    rows = bundle.items.rows_of_keys(keys)
    total = sum(predicted for predicted, _ in learned.fresh.values())
    found: list[dict[str, Any]] = []
    for (key, (predicted, met)), row in zip(learned.fresh.items(), rows.tolist(), strict=True):
        name = bundle.compiled.ids[row] if row >= 0 else f"{key:016x}"  # put since: the bundle has no name
        if only is not None and only != name and key != key64(only):
            continue
        prior = float(known.shape[row]) if row >= 0 else PRIOR
        shape, rate = prior + met, prior + predicted
        found.append(
            {
                "item": name,
                "predicted": predicted,
                "clicks": met,
                "mean": shape / rate,
                "deviation": shape**0.5 / rate,
                "better": float(gammaincc(shape, rate)),
                "share": predicted / total if total else 0.0,
            }
        )
    return sorted(found, key=lambda one: (-one["predicted"], one["item"]))


def _live(settings: Settings) -> str | None:
    async def asked(url: str) -> str | None:
        control = RedisControl.at(url)
        try:
            return (await control.poll()).bandit
        finally:
            await control.close()

    with backed(settings) as complete:
        return asyncio.run(asked(complete.control_url or ""))


def document(
    learned: Learned, bundle: Bundle | None, plan: Plan | None = None, only: str | None = None
) -> list[dict[str, Any]]:
    """Items and adaptive experiments, best known first; each segment, then `all` by their displays."""
    names, creatives = _names(learned, bundle)
    layers = plan.experiments.layers if plan is not None and plan.experiments is not None else ()
    names |= {group_of(one.name): one.name for layer in layers for one in layer.experiments if one.adaptive}
    found = []
    for key, table in learned.tables.items():
        item = names.get(key, f"{key:016x}")
        if only is not None and only != item and key != key64(only):
            continue
        seen = learned.seen[key].of(table.arms)
        rows = [*table.cells]
        weight = seen.shown.sum(axis=0)[rows]
        of = {name: at for at, name in enumerate(seen.arms)}
        segments: list[dict[str, Any]] = []
        for segment, parts in [(one, np.eye(len(rows))[at]) for at, one in enumerate(rows)] + [
            ("all", weight)
        ]:
            total = float(parts.sum())
            share = parts / total if total else np.full(len(rows), 1 / max(len(rows), 1))
            told = []
            for at, name in enumerate(table.arms):
                met = seen.shown[of[name]], seen.reward[of[name]]
                displays, clicks = (float(one[rows][parts > 0].sum()) for one in met)
                told.append(
                    {
                        "creative": creatives.get(name, name),
                        "displays": displays,
                        "clicks": clicks,
                        "mean": float(share @ table.mean[:-1, at]) if rows else float(table.mean[-1, at]),
                        "deviation": float(share @ table.deviation[:-1, at]) if rows else 0.0,
                        "share": float(share @ table.chances[:-1, at])
                        if rows
                        else float(table.chances[-1, at]),
                    }
                )
            segments.append({"segment": segment, "creatives": told})
        found.append({"item": item, "displays": table.displays, "segments": segments})
    return sorted(found, key=lambda one: -float(one["displays"]))


def _names(learned: Learned, bundle: Bundle | None) -> tuple[dict[int, str], dict[str, str]]:
    """Ids of items by their keys, and of creatives by theirs in hex, as far as the bundle knows them."""
    if bundle is None:
        return {}, {}
    items: dict[int, str] = {}
    creatives: dict[str, str] = {}
    for text in bundle.compiled.texts:
        if (key := key64(text.id)) in learned.tables:
            items[key] = text.id
            creatives.update({f"{key32(one.id):08x}": one.id for one in text.creatives})
    return items, creatives
