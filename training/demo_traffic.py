"""Visitors of the demo while campaigns run: second by second they ask, look, tap, and report what they saw.

Most displays are reported within seconds, as the world's customers have it; some pages stay open and are
reported after they expired (late), some are never looked at. All of it over the HTTP contract.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from features.ids import KIND_CODE
from training.demo_campaigns import LIFE, NEVER, Traffic
from training.demo_client import TOGETHER, Client, Page, ask, placed
from training.simulate import Simulation
from training.world.respondent import Respondent

LATE: Final = 0.03  # of the pages stay open for LATE_S before anything of them is seen
LATE_S: Final = 35.0  # longer than the banner's `valid_for_s`
STEP_S: Final = 1.0
REPORTS_S: Final = 30.0  # an app reports what was on screen in batches: up to so much later
SETTLE_S: Final = REPORTS_S + 3.0  # after the last page, for the reports that are under way


class Told(NamedTuple):
    pages: int
    events: int
    never: int
    late: int
    seconds: float


class Visitors:
    """`respondent`: the customers as their history left them, for the homepage."""

    def __init__(self, traffic: Traffic, bank: Client, respondent: Respondent, seed: int) -> None:
        self._traffic, self._bank = traffic, bank
        self._rng = np.random.default_rng([seed, 30])
        world = traffic.world
        self._home = Simulation.start(world, respondent)
        self._life = Simulation.start(world, world.respondent(LIFE, run=1), LIFE)
        self._looked_up: set[int] = set()
        catalogue = world.catalogue
        funds = [row for row, draft in enumerate(catalogue.drafts) if draft.category.startswith("fund/")]
        self._funds = [catalogue.ids[row] for row in funds if catalogue.kind[row] == KIND_CODE["product"]]
        self._waiting: list[tuple[float, dict[str, Any]]] = []  # to be sent at a time
        self._pages = self._events = self._never = self._late = 0

    async def come(self, look: Callable[[], Awaitable[None]]) -> Told:
        """Until the flights are over; `look` is called after every step."""
        began, traffic = time.time(), self._traffic
        due = 0.0
        while (now := time.time()) < traffic.until:
            due = min(
                due + traffic.rate * STEP_S, 3 * traffic.rate
            )  # late seconds are made up for, to a point
            count, due = int(due), due - int(due)
            await self._step(count)
            await look()
            await asyncio.sleep(max(0.0, now + STEP_S - time.time()))
        until = time.time() + SETTLE_S
        while time.time() < until:
            await self._report()
            await look()
            await asyncio.sleep(STEP_S)
        return Told(self._pages, self._events, self._never, self._late, time.time() - began)

    async def _step(self, count: int) -> None:
        who = self._rng.choice(len(self._traffic.weights), count, p=self._traffic.weights)
        who = np.unique(who)  # nobody opens two pages in one second
        await self._look_up(who)
        life = self._rng.random(len(who)) < self._traffic.life
        await asyncio.gather(
            self._ask(who[~life], self._home, self._bank.page),
            self._ask(who[life], self._life, lambda asked: self._bank.surface("life", asked)),
        )
        await self._report()

    async def _ask(
        self,
        who: NDArray[np.int64],
        simulation: Simulation,
        page: Callable[[dict[str, Any]], Awaitable[Page]],
    ) -> None:
        if not len(who):
            return
        gate = asyncio.Semaphore(TOGETHER)

        async def one(customer: int) -> Page:
            async with gate:
                return await page(ask(simulation.world, customer))

        pages = await asyncio.gather(*(one(int(customer)) for customer in who))
        self._pages += len(pages)
        fate = self._rng.random(len(who))
        never, late = fate < NEVER, fate >= 1 - LATE
        self._never, self._late = self._never + int(never.sum()), self._late + int(late.sum())
        now = time.time()
        for chosen, at in ((~never & ~late, now), (late, now + LATE_S)):
            rows = np.flatnonzero(chosen)
            if len(rows):
                shown = [pages[row] for row in rows.tolist()]
                tokens = [one["page_token"] for one in shown]
                simulation.respond(who[rows], np.full(len(rows), at), placed(shown), tokens)

    async def _look_up(self, who: NDArray[np.int64]) -> None:
        """Those who were away looked up a fund elsewhere before they came back."""
        people = self._traffic.world.customers
        back = np.intersect1d(who, self._traffic.returning).tolist()
        fresh = [row for row in back if row not in self._looked_up]
        self._looked_up.update(fresh)
        events = [
            {
                "event_id": str(uuid4()),
                "type": "acted",
                "action": "viewed",
                "user_id": people.ids[row],
                "item_id": self._funds[row % len(self._funds)],
                "channel": "web",
                "occurred_at": datetime.now(UTC).isoformat(),
            }
            for row in fresh
        ]
        if events and self._funds:
            self._events += await self._bank.events(events)

    async def _report(self) -> None:
        """What happened by now goes into the app's next batch; what is due is sent."""
        now = time.time()
        for name, simulation in (("home", self._home), ("life", self._life)):
            rows = simulation.arrived(now)
            events, _ = simulation.wire(rows[simulation.answerable(rows) & (rows["received_at"] > now - 60)])
            sent_at = now + self._rng.uniform(0.0, REPORTS_S, len(events))
            named = ({**one, "event_id": f"demo-{name}-{one['event_id']}"} for one in events)
            self._waiting += zip(sent_at.tolist(), named, strict=True)
        told = [one for at, one in self._waiting if at <= now]
        self._waiting = [each for each in self._waiting if each[0] > now]
        if told:
            self._events += await self._bank.events(told)
