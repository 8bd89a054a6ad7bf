"""The client of the chaos benchmark: pages and events at a steady rate, whatever the service does.

An open loop: each request is sent at its time and not when the one before was answered; at most `MOST_OPEN`
are open, what would be more is counted as not sent. Events are sent again under their ids until they are
acknowledged or the row is over, as a phone would.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import httpx
import orjson

MOST_OPEN: Final = 400
TIMEOUT_S: Final = 5.0
AGAIN_S: Final = 0.25
TRIES: Final = 60
STREAK: Final = 10
MAY_BE_EMPTY: Final = frozenset({"home.popup"})  # under the plan's contact rule: three a day
SLOTS: Final = 39  # places of the others
CAPPED: Final = "once-a-day"  # the campaign whose cap no row may overshoot


@dataclass
class Row:
    """What one row saw. Times are monotonic."""

    sent: int = 0
    answered: int = 0
    refused: int = 0  # 503 with Retry-After
    failed: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    filled: int = 0
    degraded: int = 0
    held_back: int = 0  # too many were open
    failed_at: list[float] = field(default_factory=list)  # of those failures; monotonic
    capped: list[tuple[float, bool]] = field(default_factory=list)  # page asked for when; with CAPPED on it?
    bundles: list[tuple[float, str]] = field(default_factory=list)  # page asked for when; its bundle
    spooled: int = 0  # answers that said that the log was away
    acknowledged: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)  # sent, and never acknowledged
    told: list[tuple[float, bool]] = field(default_factory=list)  # when, and whether whole: pages and events
    latencies: list[float] = field(default_factory=list)


def recovered_s(row: Row, mended: float) -> float:
    """From `mended` to the first of STREAK whole answers in a row; infinite where there were none."""
    streak = 0
    after = sorted(one for one in row.told if one[0] >= mended)
    for at, (_, whole) in enumerate(after):
        streak = streak + 1 if whole else 0
        if streak == STREAK:
            return after[at - STREAK + 1][0] - mended
    return float("inf")


class Client:
    """`retries`: how often a page that was not answered is asked for again, under its id. `first`: number of
    the first of its `customers`. `tells`: whether events follow a page.
    """

    def __init__(
        self,
        url: str,
        customers: int,
        seed: int,
        *,
        retries: int = 0,
        first: int = 0,
        tells: bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url, self._customers, self._rng, self._retries = url, customers, random.Random(seed), retries
        limits = httpx.Limits(max_connections=MOST_OPEN, max_keepalive_connections=64)
        self._http = httpx.AsyncClient(
            base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False, transport=transport
        )
        self._first, self._tells = first, tells
        self.row = Row()
        self._next, self._busy = 0, set[int]()
        self._open: set[asyncio.Task[None]] = set()

    async def run(self, rate: float, seconds: float = 1e6, over: asyncio.Event | None = None) -> None:
        """Send `rate` pages a second for so long, or until it is over."""
        began = time.monotonic()
        for number in range(int(rate * seconds)):
            if over is not None and over.is_set():
                return
            wait = began + number / rate - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            if len(self._open) >= MOST_OPEN or len(self._busy) >= self._customers:
                self.row.held_back += 1
                continue
            self._spawn(self._page())

    async def closed(self, connections: int, seconds: float) -> int:
        """Pages that so many callers get who each wait for their answer."""
        until, before = time.monotonic() + seconds, self.row.answered

        async def caller() -> None:
            while time.monotonic() < until:
                await self._page()

        await asyncio.gather(*(caller() for _ in range(connections)))
        return self.row.answered - before

    async def settle(self, patience_s: float) -> Row:
        """What is still open is answered or given up; the row, and a new one begins."""
        until = time.monotonic() + patience_s
        while self._open and time.monotonic() < until:
            await asyncio.wait(set(self._open), timeout=0.1)
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        row, self.row = self.row, Row()
        open_ = row.sent - row.answered - row.refused - sum(row.failed.values())
        if open_ > 0:  # neither answered nor refused by now
            row.failed["unanswered"] += open_
            row.failed_at.append(time.monotonic())
        return row

    async def close(self) -> None:
        await self._http.aclose()

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _page(self) -> None:
        customer = self._somebody()
        if customer is None:
            self.row.held_back += 1
            return
        try:
            await self._visit(customer)
        finally:
            self._busy.discard(customer)

    def _somebody(self) -> int | None:
        """The next customer whose last page was displayed, or given up: nobody holds two phones here."""
        if len(self._busy) >= self._customers:
            return None
        while self._next % self._customers in self._busy:
            self._next += 1
        found = self._next % self._customers
        self._busy.add(found)
        self._next += 1
        return found

    async def _visit(self, customer: int) -> None:
        body = {
            "user_id": f"u{self._first + customer}",
            "request_id": uuid4().hex,
            "context": {"channel": "app"},
        }
        row = self.row
        row.sent += 1
        began = time.monotonic()
        for turn in range(self._retries + 1):
            page = await self._asked(row, body, last=turn == self._retries)
            if page is not None:
                row.latencies.append(time.monotonic() - began)
                if self._tells:
                    await self._events(row, page)
                return
            await asyncio.sleep(AGAIN_S)

    async def _asked(self, row: Row, body: dict[str, Any], *, last: bool) -> dict[str, Any] | None:
        began = time.monotonic()
        try:
            answer = await self._http.post("/v1/recommend", content=orjson.dumps(body), headers=_JSON)
        except httpx.HTTPError as away:
            _lost(row, type(away).__name__, last=last)
            return None
        if answer.status_code == 503 and "retry-after" in answer.headers:
            row.told.append((time.monotonic(), False))
            row.refused += last
            return None
        if answer.status_code != 200:
            _lost(row, str(answer.status_code), last=last)
            return None
        page: dict[str, Any] = orjson.loads(answer.content)
        row.answered += 1
        row.asked += SLOTS
        row.filled += sum(len(slot["items"]) for slot in page["slots"] if slot["slot"] not in MAY_BE_EMPTY)
        row.degraded += bool(page["degraded"])
        shown = any(one["campaign_id"] == CAPPED for slot in page["slots"] for one in slot["items"])
        row.capped.append((began, shown))
        row.bundles.append((began, page["bundle"]))
        row.told.append((time.monotonic(), not page["degraded"]))
        return page

    async def _events(self, row: Row, page: dict[str, Any]) -> None:
        """Everything was displayed, and one place in three pages clicked."""
        count = sum(len(slot["items"]) for slot in page["slots"])
        at = datetime.now(UTC).isoformat()
        token = {"page_token": page["page_token"], "occurred_at": at}
        events = [{"event_id": f"s{uuid4().hex}", "type": "displayed", "seen": list(range(count)), **token}]
        if count and self._rng.random() < 1 / 3:
            index = self._rng.randrange(count)
            events.append({"event_id": f"c{uuid4().hex}", "type": "clicked", "index": index, **token})
        ids = {str(one["event_id"]) for one in events}
        row.unsure |= ids
        for _ in range(TRIES):
            if await self._told(row, events):
                row.unsure -= ids
                row.acknowledged |= ids
                return
            await asyncio.sleep(AGAIN_S)

    async def _told(self, row: Row, events: list[dict[str, Any]]) -> bool:
        """Whether all of them were acknowledged."""
        try:
            answer = await self._http.post(
                "/v1/events", content=orjson.dumps({"events": events}), headers=_JSON
            )
        except httpx.HTTPError:
            row.told.append((time.monotonic(), False))
            return False
        row.told.append((time.monotonic(), answer.status_code == 202))
        if answer.status_code != 202:
            return False
        said = orjson.loads(answer.content)
        row.spooled += "log" in said.get("degraded", ())
        return not said["rejected"]


_JSON: Final = {"content-type": "application/json"}


def _lost(row: Row, why: str, *, last: bool) -> None:
    row.told.append((time.monotonic(), False))
    if last:
        row.failed[why] += 1
        row.failed_at.append(time.monotonic())
