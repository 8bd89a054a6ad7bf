"""The demo's act with campaigns: published by two people, paced while visitors come, shown against plan."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console

from serving.causes import Cause
from serving.live import compile_for
from serving.plan import CompiledPlan, Plan
from serving.plans import PlanShelf
from serving.settings import Settings
from training.booking_commands import refresh_sample
from training.demo_campaigns import INFEASIBLE, Traffic, demo_parts
from training.demo_client import Client
from training.demo_delivery import Reading, Watch, plot, show_delivery, show_tags, standings, tags_of
from training.demo_office import People
from training.demo_traffic import Visitors
from training.world import World
from training.world.respondent import Respondent

SECONDS: Final = 100.0
LEAD_S: Final = 10.0  # from proposing to the first flight
HOUR_S: Final = 3600.0
RATES: Final = (5.0, 25.0)  # pages a second
OF_WHAT_COMES: Final = 0.35  # of the pages that a second of visitors took before: room for their reports
PICTURE: Final = "delivery.png"
DAY_S: Final = 86_400.0
SAMPLED: Final = 4_000  # pages of the replay sample: seconds
WEEKS_TOO_MUCH: Final = 10


@dataclass
class Flights:
    """What the act works on; `rate`: pages that came in a second before; `published`: the plan's parts."""

    console: Console
    settings: Settings
    world: World
    respondent: Respondent
    people: People
    frame: Mapping[str, Any]
    seed: int
    rate: float
    causes: Mapping[str, str] = field(default_factory=dict)  # of goals, when the flights ended
    published: Mapping[str, Any] = field(default_factory=dict)

    def traffic(self, start: float) -> Traffic:
        rate = min(max(OF_WHAT_COMES * self.rate, RATES[0]), RATES[1])
        return Traffic(self.world, start, SECONDS, round(rate, 1))


async def fly(flights: Flights, bank: Client) -> None:
    console, settings = flights.console, flights.settings
    console.rule("30 campaigns")
    traffic = flights.traffic(begin(time.time(), SECONDS))
    parts = demo_parts(traffic, flights.frame)
    version, done = await asyncio.to_thread(flights.people.publish, parts, "the demo's campaigns")
    flights.published = parts
    for one in done:
        console.print(f"{one.part}: {one.proposal} proposed, approved, published as revision {one.revision}")
    plan, compiled = await asyncio.to_thread(_compiled, flights, version)
    console.print(f"plan {version} is live {await bank.until('plan', version):.1f} s later")
    wait = traffic.start - time.time()
    if wait > LEAD_S:
        console.print(f"flights begin in {wait:.0f} s: within one hour, since meters are kept by the hour")
    await asyncio.sleep(max(wait, 0.0))
    readings: list[Reading] = []
    async with Watch(settings, compiled) as watch:

        async def look() -> None:
            if not readings or time.time() - readings[-1].at >= 2.0:
                readings.append(await watch.read())

        visitors = Visitors(traffic, bank, flights.respondent, flights.seed)
        with console.status(f"{traffic.rate:g} customers a second for {SECONDS:.0f} s …"):
            told = await visitors.come(look)
        readings.append(await watch.read())
    console.print(
        f"{told.pages:,} pages and {told.events:,} events in {told.seconds:.0f} s;"
        f" {told.never} pages were never looked at, {told.late} only after they had expired"
    )
    ended = at_the_end(readings, traffic.until)
    flights.causes = ended.prices.causes
    tags = tags_of(await bank.metrics())
    show_delivery(console, standings(plan.campaigns, ended), tags)
    show_tags(console, tags)
    during = [one for one in readings if one.at <= traffic.until]
    picture = await asyncio.to_thread(plot, settings.home / PICTURE, plan.campaigns, during)
    console.print(f"delivery and prices over time: [bold]{picture}[/]")


def begin(now: float, seconds: float) -> float:
    """When flights of so many seconds can begin that lie within one hour of the meters, soon after `now`."""
    start = now + LEAD_S
    ends = start + seconds
    return start if start // HOUR_S == ends // HOUR_S else ends // HOUR_S * HOUR_S


def at_the_end(readings: list[Reading], until: float) -> Reading:
    """What was delivered in all, at the prices that held last while flights were open."""
    last = max((one for one in readings if one.at <= until), key=lambda one: one.at, default=readings[-1])
    return readings[-1]._replace(at=until, prices=last.prices)


def _compiled(flights: Flights, version: str) -> tuple[Plan, CompiledPlan]:
    bundle = flights.people.maker.bundle
    if bundle is None:
        raise RuntimeError("no bundle is live: the demo trains one first")
    plan = PlanShelf(flights.settings.registry_url).fetch(version)
    return plan, compile_for(plan, bundle)


async def too_much(flights: Flights, bank: Client) -> None:
    """The same guarantee for a week, ten times as much: what the check says, and what the pacer said.

    The check decides pages of the replay sample again, which is taken here, of all that the demo has served.
    """
    console = flights.console
    console.rule("a booking that cannot be kept")
    if not flights.published:
        return
    frame = for_a_week(flights.published["frame"], INFEASIBLE, time.time())
    goal = next(one["goals"][0]["at_least"] for one in frame["campaigns"] if one["id"] == INFEASIBLE)
    console.print(f"{INFEASIBLE}: {goal:,} displays within a week to customers who were away")
    await asyncio.to_thread(refresh_sample, flights.settings, console, pages=SAMPLED)
    with console.status("plan:check decides the sampled pages again …"):
        said = await bank.governed(
            "/v1/plan:check", flights.people.keys[0], {"part": "frame", "content": frame}
        )
    for line in verdict(said, INFEASIBLE):
        console.print(line, highlight=False)
    for name, code in flights.causes.items():
        if name.partition("/")[0] == INFEASIBLE:
            console.print(f"while it ran, the pacer said: {Cause(code).text('en')} ({code})", highlight=False)


def for_a_week(frame: Mapping[str, Any], campaign: str, now: float) -> dict[str, Any]:
    """The frame with one campaign booked anew: from the next minute for a week, WEEKS_TOO_MUCH as much."""
    found = deepcopy(dict(frame))
    one = next(one for one in found["campaigns"] if one["id"] == campaign)
    first, last = (
        datetime.fromtimestamp(now + ahead, UTC).isoformat(timespec="seconds") for ahead in (60.0, 7 * DAY_S)
    )
    one["flight"] = {"from": first, "until": last}
    one["goals"] = [goal | {"at_least": WEEKS_TOO_MUCH * goal["at_least"]} for goal in one["goals"]]
    return found


def verdict(said: Mapping[str, Any], campaign: str) -> list[str]:
    """What `plan:check` answered about one campaign, for people."""
    booking = (said.get("report") or {}).get("booking") or {}
    found = [one for one in booking.get("goals", ()) if one["campaign"] == campaign]
    if not found:
        why = said.get("detail") or "; ".join(booking.get("notes", ())) or "no replay sample was taken yet"
        return [f"plan:check makes no forecast: {why}"]
    lines = []
    for one in found:
        fits = "fits" if one["fits"] else "does NOT fit"
        code = one.get("cause")
        why = f": {Cause(code).text('en')} ({code})" if code else ""
        lines.append(
            f"plan:check: {one['id']} {fits}{why}; asked {one['asked']:,.0f},"
            f" expected {one['expected']:,.0f} ({one['low']:,.0f} to {one['high']:,.0f})"
        )
    goals = {one["id"] for one in found}
    lines += [
        f"  {one['how']}: {one['most']:,.0f}{', which fits' if one['fits'] else ''}"
        for one in booking.get("relax", ())
        if one["goal"] in goals
    ]
    return lines
