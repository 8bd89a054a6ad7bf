"""`fenliu demo`: the whole loop on a synthetic bank, told as it happens.

History -> training -> bundle -> Ray Serve -> three customers' pages -> what one of them does -> the next
page -> a few hundred customers more -> 30 campaigns, paced while visitors come -> ingest -> retraining -> hot
swap under load -> a booking that cannot be kept -> how to go on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from serving.backing import backed
from serving.plan import Plan, check_plan, load_plan
from serving.settings import Settings
from training import demo_client as client
from training.bench import load
from training.commands import ingest_now, train
from training.config import TrainConfig
from training.demo_campaigns import demo_frame
from training.demo_compile import compiling
from training.demo_flights import Flights, fly, too_much
from training.demo_office import People
from training.demo_pages import against_popularity, changes, homepage, introduce, next_steps
from training.job import RunReport
from training.lake import Lake
from training.progress import counting
from training.simulate import Simulation
from training.world import World, Written

DAY = 86_400.0
PLAN = Path(__file__).parents[1] / "k8s" / "plan.yaml"
FEWEST_ITEMS = 1_000  # that fill every surface of PLAN; a smaller bank has the homepage alone
VISITORS = 300
LOAD_RATE = 40.0  # pages a second while the bundle is swapped
PATIENT_MS = 2_000  # and how long they may take: training has the same two cores


@dataclass(frozen=True)
class Stage:
    """What the acts share."""

    args: argparse.Namespace
    console: Console
    settings: Settings
    world: World
    written: Written

    @cached_property
    def frame(self) -> dict[str, Any] | None:
        """The plan without campaigns; None where the bank is too small, or FENLIU_PLAN names a file."""
        if self.settings.plan is not None or self.args.items < FEWEST_ITEMS or not PLAN.exists():
            return None
        base = yaml.safe_load(PLAN.read_text(encoding="utf-8"))
        return demo_frame(self.world, {name: part for name, part in base.items() if name != "campaigns"})

    @cached_property
    def plan(self) -> Plan | None:
        """What a bundle must fill."""
        if self.settings.plan is not None:
            return load_plan(self.settings.plan)
        return None if self.frame is None else check_plan(_plain(self.frame))


def run_demo(args: argparse.Namespace, console: Console) -> int:
    """Exit status 0 when no request failed."""
    began = time.monotonic()
    _end_in_order()
    with _prepared(args, console) as settings, compiling(console) as compiled:
        world, written = _history(args, console, settings)
        stage = Stage(args, console, settings, world, written)
        console.rule("training the first bundle")
        first = _train(stage)
        console.rule("serving")
        people = _governed(stage)
        compiled()
        with _serving(stage) as url:
            console.print(f"[bold]{url}[/] answers, {time.monotonic() - began:.0f} s after the start")
            failed, last = asyncio.run(_play(stage, url, first, people))
            against_popularity(console, last)
            next_steps(console, url, settings, last.report, time.monotonic() - began, people)
            if not args.once:
                console.print("\n[bold]It stays up. Ctrl-C ends it.[/]")
                _wait_for_the_end()
            console.print("shutting down …")
    console.print("[bold]everything is shut down[/]" + ("" if not failed else f"; {failed} requests failed"))
    return 0 if not failed else 1


@contextmanager
def _prepared(args: argparse.Namespace, console: Console) -> Iterator[Settings]:
    """A fresh folder of the demo's own, a key of its own, and the store."""
    settings = Settings.from_env(port=args.port)
    home = settings.home / "demo"
    if home.exists():
        shutil.rmtree(home)
    key = settings.app_key or secrets.token_hex(16)
    settings = replace(settings, home=home, registry="", app_key=key)
    console.print(f"everything lives in [bold]{home}[/]")
    with backed(settings) as complete:
        yield complete


def _history(args: argparse.Namespace, console: Console, settings: Settings) -> tuple[World, Written]:
    console.rule("a synthetic bank")
    start = (time.time() // DAY - args.days) * DAY
    world = World.create(args.seed, args.customers, args.items, start)
    with counting(console, f"{args.days} days of {args.customers:,} customers") as tick:
        written = world.write(
            Lake(settings.home / "lake"), args.days, progress=lambda day, _: tick(day, args.days)
        )
    console.print(
        f"{args.customers:,} customers, {args.items:,} items, {written.pages:,} pages,"
        f" {written.events:,} events and {written.outcomes:,} outcomes of the core system"
    )
    return world, written


def _train(stage: Stage) -> RunReport:
    return train(stage.settings, None, TrainConfig(), plan=stage.plan, by="demo", console=stage.console)


def _governed(stage: Stage) -> People | None:
    """Two people, and the plan without campaigns in force by their hands."""
    if stage.frame is None:
        return None
    people = People.hired(stage.settings)
    version, _ = people.publish({"frame": stage.frame}, "the bank's surfaces and slots")
    stage.console.print(f"plan {version}: proposed by one person, approved by another, published")
    return people


def _plain(frame: dict[str, Any]) -> dict[str, Any]:
    """Without what only a frame has."""
    return {name: part for name, part in frame.items() if name != "ceilings"}


def _serving(stage: Stage) -> AbstractContextManager[str]:
    if stage.args.local:
        from serving.local import serve_local

        return serve_local(stage.settings)
    from serving.app import serve_ray

    with stage.console.status("starting Ray Serve with HAProxy …"):
        return serve_ray(stage.settings)


async def _play(stage: Stage, url: str, first: RunReport, people: People | None) -> tuple[int, RunReport]:
    """The acts, in order; the number of failed requests, and the last training run."""
    flights: Flights | None = None
    async with client.Client(url, stage.settings.app_key or "") as bank:
        await bank.ready()
        await _three_customers(stage, bank)
        await _one_of_them_acts(stage, bank)
        rate = await _visitors(stage, bank)
        if people is None:
            stage.console.print("no campaigns here: they need 1,000 items or more, and no FENLIU_PLAN")
        else:
            flights = Flights(
                stage.console, stage.settings, stage.world, stage.written.respondent, people,
                stage.frame or {}, stage.args.seed, rate,
            )  # fmt: skip
            await fly(flights, bank)
    ended = await _retrain_under_load(stage, url, first)
    if flights is not None:
        async with client.Client(url, stage.settings.app_key or "") as bank:
            await too_much(flights, bank)
    return ended


async def _three_customers(stage: Stage, bank: client.Client) -> None:
    stage.console.rule("the homepage of three customers")
    for customer in client.contrasting(stage.world):
        page = await bank.page(client.ask(stage.world, customer))
        introduce(stage.console, stage.world, customer)
        homepage(stage.console, stage.world, page)


async def _one_of_them_acts(stage: Stage, bank: client.Client) -> None:
    customer = client.contrasting(stage.world)[1]
    stage.console.rule(f"customer {stage.world.customers.ids[customer]} looks, and taps")
    before = await bank.page(client.ask(stage.world, customer))
    tapped = await bank.look_and_tap(before, "home.shelf", taps=3)
    stage.console.print(
        "tapped: " + ", ".join(stage.world.items()[row].title["en"] for row in _rows(stage, tapped))
    )
    after = await bank.page(client.ask(stage.world, customer))
    changes(stage.console, stage.world, before, after)


async def _visitors(stage: Stage, bank: client.Client) -> float:
    """A few hundred customers ask, look and act as the world has it; how many pages came in a second."""
    stage.console.rule(f"{VISITORS} more customers")
    simulation = Simulation.start(stage.world, stage.written.respondent)
    chosen = np.random.default_rng(stage.args.seed).choice(
        len(stage.world.customers), VISITORS, replace=False
    )
    began = time.monotonic()
    with stage.console.status("they ask, look and tap …"):
        pages, sent = await bank.simulate(simulation, chosen)
    stage.console.print(f"{pages} customers asked for their page; {sent:,} events came back")
    return pages / (time.monotonic() - began)


async def _retrain_under_load(stage: Stage, url: str, first: RunReport) -> tuple[int, RunReport]:
    console, settings = stage.console, stage.settings
    console.rule("retraining on what they did, and a hot swap under load")
    taken = await asyncio.to_thread(ingest_now, settings)
    console.print(
        f"ingest: {taken.accepted:,} events from the log to Parquet, {taken.duplicates:,} duplicates"
    )
    stop = asyncio.Event()
    shooting = asyncio.create_task(_load(stage, url, stop))
    second = await asyncio.to_thread(_train, stage)
    async with client.Client(url, settings.app_key or "") as bank:
        waited = await bank.until("bundle", second.version) if second.promoted and second.version else None
    await asyncio.sleep(1.0)
    stop.set()
    outcome = await shooting
    if waited is None:
        why = "; ".join(one.text for one in second.verdict.refusals)
        console.print(f"the gate kept [bold]{first.version}[/] live: {why}")
    else:
        console.print(
            f"[bold]{first.version}[/] -> [bold]{second.version}[/], live {waited:.1f} s after its promotion"
        )
    console.print(
        f"meanwhile {sum(outcome.statuses.values()):,} pages were asked for at {LOAD_RATE:.0f} a second:"
        f" [bold]{outcome.failed} failed[/], p50 {outcome.quantile(0.5) * 1e3:.1f} ms,"
        f" p99 {outcome.quantile(0.99) * 1e3:.1f} ms (training shares the two cores)"
    )
    return outcome.failed, second


async def _load(stage: Stage, url: str, stop: asyncio.Event) -> load.Outcome:
    host, port = url.removeprefix("http://").rsplit(":", 1)
    headers = {"x-api-key": stage.settings.app_key or ""}
    patient = {"options": {"deadline_ms": PATIENT_MS}}
    rows = range(0, len(stage.world.customers), 97)
    bodies = [client.body({**client.ask(stage.world, row), **patient}) for row in rows]
    requests = [
        load.post("/v1/recommend/homepage", body, url.removeprefix("http://"), headers) for body in bodies
    ]
    total = load.Outcome()
    while not stop.is_set():
        part = await load.open_loop(host, int(port), requests, rate=LOAD_RATE, seconds=1.0, connections=8)
        total.latencies += part.latencies
        total.statuses += part.statuses
        total.seconds += part.seconds
    return total


def _rows(stage: Stage, item_ids: list[str]) -> list[int]:
    known = {item: row for row, item in enumerate(stage.world.catalogue.ids)}
    return [known[item] for item in item_ids]


def _end_in_order() -> None:
    """Being asked to end ends as Ctrl-C does, also where a shell started us deaf to Ctrl-C."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.default_int_handler)


def _wait_for_the_end() -> None:
    """Returns at Ctrl-C, or when the process is asked to end."""
    _end_in_order()  # again: Ray has put its own handler in
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
