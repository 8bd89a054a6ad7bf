"""What a customer and an operator wait for: a click that changes the page, a bundle that takes over."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
import orjson
from rich.console import Console

from serving.bundle import load, save
from serving.models import VectorModel
from serving.registry import Registry
from training.bench.bank import HOMEPAGE, Bank, Till, decided, placed
from training.bench.tally import Tally
from training.bench.volley import Target, Volley
from training.demo_client import ask, body
from training.materialize import point_at

PATIENCE_S: Final = 1.0  # a page that has not changed by then counts with this time
TARGET: Final = "pages"


@dataclass(slots=True)
class Clicks:
    """`seconds` of every trial, and what became of it."""

    seconds: list[float]
    at_once: int = 0  # the first page asked for was another one
    visible: int = 0  # and other items, or in other places, not only other scores
    never: int = 0
    unsteady: int = 0  # left out: their page changes by itself, or the store was late for it


def clicks(bank: Bank, trials: int, tally: Tally, console: Console) -> None:
    """From sending a click until the page whose decision differs has been read."""
    found, lengths = Clicks([]), _lengths(bank)
    with Till(bank) as till:
        for customer in bank.open_customers().tolist():
            if len(found.seconds) == trials:
                break
            _click(bank, till, customer, lengths, found)
    done = max(len(found.seconds), 1)
    console.print(
        f"{done} clicks: the next page differed for {found.at_once}, never for {found.never};"
        f" {found.unsteady} customers were left out, whose page changes by itself"
    )
    waits = np.array(found.seconds) * 1e3
    note = f"POST a click, ask again: {done} customers; {found.never} unchanged within {PATIENCE_S:g} s"
    tally.put("click_to_changed_p99_ms", float(np.quantile(waits, 0.99)), "ms", note, ("<=", 50.0))
    tally.put("click_to_changed_p50_ms", float(np.median(waits)), "ms")
    tally.put("click_next_share", found.at_once / done, "", "changed by the very next page")
    tally.put("click_visible_share", found.visible / done, "", "other items or places, not only scores")


def _lengths(bank: Bank) -> dict[str, float]:
    """Of each item's vector, by id."""
    bundle = load(Registry(bank.settings.registry_url).fetch(bank.version, bank.settings.home / "read"))
    assert isinstance(bundle.model, VectorModel)
    return dict(zip(bundle.items.ids, np.linalg.norm(bundle.model.vectors, axis=1).tolist(), strict=True))


def _click(bank: Bank, till: Till, customer: int, lengths: dict[str, float], found: Clicks) -> None:
    asked = body(ask(bank.world, customer))
    page, again = till.page(asked), till.page(asked)
    if decided(page) != decided(again) or page["degraded"] or again["degraded"]:
        found.unsteady += 1
        return
    told = orjson.dumps({"events": [_tap(again, lengths)]})
    began = time.perf_counter()
    answer: Any = orjson.loads(till.post("/v1/events", told))
    if answer["accepted"] != 1:
        raise RuntimeError(f"a click was not accepted: {answer}")
    asks, took = 0, 0.0
    while took < PATIENCE_S:
        asks += 1
        raw = till.post(HOMEPAGE, asked)
        took = time.perf_counter() - began
        changed = orjson.loads(raw)
        if decided(changed) != decided(page) and not changed["degraded"]:
            found.at_once += asks == 1
            found.visible += placed(changed) != placed(page)
            break
    else:
        found.never += 1
    found.seconds.append(took)


def _tap(page: dict[str, Any], lengths: dict[str, float]) -> dict[str, Any]:
    """A click on the item of the page that the model knows best: of one that nobody met it learns nothing."""
    shown = [one for slot in page["slots"] for one in slot["items"]]
    return {
        "event_id": str(uuid4()),
        "type": "clicked",
        "occurred_at": datetime.now(UTC).isoformat(),
        "page_token": page["page_token"],
        "index": max(shown, key=lambda one: lengths[one["item_id"]])["index"],
    }


def swaps(bank: Bank, count: int, rate: float, tally: Tally, console: Console) -> None:
    """Bundles that take over one after the other while pages are asked for at a constant rate."""
    settings = bank.settings
    versions = _twins(bank, count)
    target = Target(settings.host, settings.port, bank.requests(2_000))
    waits: list[float] = []
    with Volley({TARGET: target}) as volley, Till(bank) as till:
        volley.open(TARGET, rate=rate, seconds=0.2).result()  # the process is up, the paths are warm
        asked = bank.bodies(1)[0]
        shooting = volley.open(TARGET, rate=rate, seconds=count * 1.0 + 0.5)
        time.sleep(0.3)
        for version in versions:
            if shooting.done():
                break
            waits.append(_promoted(bank, till, asked, version))
            time.sleep(0.2)
        outcome = shooting.result()
    console.print(f"{len(waits)} swaps while {sum(outcome.statuses.values()):,} pages were asked for")
    note = f"median of {len(waits)}; the replica looks every {settings.poll_s:g} s"
    tally.put("swap_s", float(np.median(waits)), "s", note)
    tally.put("swap_worst_s", max(waits), "s")
    shots = sum(outcome.statuses.values())
    loaded = f"of {shots:,} pages at {rate:g}/s, open loop; p99 {outcome.quantile(0.99) * 1e3:.1f} ms"
    tally.put("swap_failed", outcome.failed, "requests", loaded, ("<=", 0.0))


def _promoted(bank: Bank, till: Till, asked: bytes, version: str) -> float:
    """Seconds from a promotion to the first page made with the bundle that was promoted."""
    settings = bank.settings
    began = time.perf_counter()
    Registry(settings.registry_url).promote(version, by="bench")
    point_at(settings.control_url or "", "bundle", version)
    while till.page(asked)["bundle"] != version:
        if time.perf_counter() - began > 30.0:
            raise RuntimeError(f"bundle {version} was promoted 30 s ago and does not serve yet")
        time.sleep(0.002)
    return time.perf_counter() - began


def _twins(bank: Bank, count: int) -> list[str]:
    """Versions of the live bundle in the registry: to a replica each is new, to be fetched and built."""
    registry = Registry(bank.settings.registry_url)
    bundle = load(registry.fetch(bank.version, bank.settings.home / "twins"))
    names = [f"{bank.version}-twin{number}" for number in range(count)]
    for name in names:
        folder: Path = bank.settings.home / "twins" / f"made-{name}"
        registry.put(save(replace(bundle, version=name), folder))
    return names
