"""The demo's side of the HTTP contract: asks for pages, looks, taps, lets the world's customers answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

from features.ids import CHANNELS, key32, key64
from training.simulate import Placed, Simulation
from training.world import World
from training.world.words import CITIES

Page = Mapping[str, Any]
BATCH: Final = 150  # events a call: each may carry a token of 1.2 KB, and a body 256 KB
TOGETHER: Final = 8


class Client:
    """One app. Raises httpx errors: in the demo a request that fails is a defect."""

    def __init__(self, url: str, key: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=url, headers={"x-api-key": key}, timeout=10.0, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def ready(self, patience_s: float = 30.0) -> None:
        """Returns when a page can be asked for. TimeoutError with the service's own reason."""
        until = time.monotonic() + patience_s
        while True:
            answer = await self._http.get("/readyz")
            if answer.status_code == 200:
                return
            if time.monotonic() > until:
                raise TimeoutError(f"the service is not ready: {answer.text}")
            await asyncio.sleep(0.1)

    async def until(self, what: str, version: str, patience_s: float = 60.0) -> float:
        """Seconds until pages are made with a `bundle` or `plan`."""
        began = time.monotonic()
        while time.monotonic() - began < patience_s:
            if (await self._get("/readyz")).get(what) == version:
                return time.monotonic() - began
            await asyncio.sleep(0.05)
        raise TimeoutError(f"{what} {version} went out {patience_s:g} s ago and does not serve yet")

    async def page(self, asked: Mapping[str, Any]) -> Page:
        return await self._post("/v1/recommend/homepage", asked)

    async def surface(self, name: str, asked: Mapping[str, Any]) -> Page:
        return await self._post("/v1/recommend", {**asked, "surface": name})

    async def metrics(self) -> str:
        """The text of /metrics."""
        answer = await self._http.get("/metrics")
        answer.raise_for_status()
        return answer.text

    async def governed(self, path: str, key: str, body: Mapping[str, Any], timeout_s: float = 240.0) -> Page:
        """A governance call by whoever's key it is; the answer, or the problem as the service says it."""
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        answer = await self._http.post(path, content=orjson.dumps(body), headers=headers, timeout=timeout_s)
        said: Page = orjson.loads(answer.content)
        return said

    async def events(self, events: Sequence[Mapping[str, Any]]) -> int:
        """How many were accepted."""
        accepted = 0
        for first in range(0, len(events), BATCH):
            answer = await self._post("/v1/events", {"events": events[first : first + BATCH]})
            accepted += int(answer["accepted"])
        return accepted

    async def look_and_tap(self, page: Page, slot: str, taps: int) -> list[str]:
        """Everything is displayed, and the last `taps` items of a slot are tapped; their ids."""
        now = datetime.now(UTC).isoformat()
        places = [place for filled in page["slots"] for place in filled["items"]]
        tapped = next(filled["items"] for filled in page["slots"] if filled["slot"] == slot)[-taps:]
        common = {"occurred_at": now, "page_token": page["page_token"]}
        seen = {"event_id": str(uuid4()), "type": "displayed", "seen": [place["index"] for place in places]}
        clicks = [
            {"event_id": str(uuid4()), "type": "clicked", "index": place["index"], **common}
            for place in tapped
        ]
        await self.events([{**seen, **common}, *clicks])
        return [place["item_id"] for place in tapped]

    async def simulate(self, simulation: Simulation, customers: NDArray[np.int64]) -> tuple[int, int]:
        """Their pages, and what they do within ten minutes, as if at once: (pages, events accepted)."""
        gate = asyncio.Semaphore(TOGETHER)

        async def one(customer: int) -> Page:
            async with gate:
                return await self.page(ask(simulation.world, customer))

        pages = await asyncio.gather(*(one(int(customer)) for customer in customers))
        now = time.time()
        tokens = [page["page_token"] for page in pages]
        simulation.respond(customers, np.full(len(customers), now), placed(pages), tokens)
        events, _ = simulation.wire(_new(simulation, now))
        for event in events:  # the demo does not wait for the minutes between a page and its clicks
            event["occurred_at"] = datetime.fromtimestamp(now, UTC).isoformat()
        return len(pages), await self.events(events)

    async def _get(self, path: str) -> Page:
        return self._read(await self._http.get(path))

    async def _post(self, path: str, body: Mapping[str, Any]) -> Page:
        answer = await self._http.post(
            path, content=orjson.dumps(body), headers={"content-type": "application/json"}
        )
        return self._read(answer)

    @staticmethod
    def _read(answer: httpx.Response) -> Page:
        answer.raise_for_status()
        read: Page = orjson.loads(answer.content)
        return read


def _new(simulation: Simulation, now: float) -> Any:
    """What arrives within ten minutes of pages shown here; older pages have no token any more."""
    rows = simulation.arrived(now + 600.0)
    return rows[simulation.answerable(rows)]


def ask(world: World, customer: int) -> dict[str, Any]:
    """The body of a page request of customer row `customer`."""
    people = world.customers
    return {
        "user_id": people.ids[customer],
        "context": {
            "channel": CHANNELS[int(people.channel[customer]) - 1],
            "app_version": "9.2.0",
            "city": CITIES[int(people.city[customer])][0],
            "auth_level": "bound_card",
        },
    }


def body(asked: Mapping[str, Any]) -> bytes:
    return orjson.dumps(asked)


def placed(pages: Sequence[Page]) -> Placed:
    """Pages as the world's customers see them."""
    rows = [
        (number, key32(filled["slot"]), place["position"], key64(place["item_id"]), place["index"])
        for number, page in enumerate(pages)
        for filled in page["slots"]
        for place in filled["items"]
    ]
    page, slot, position, item, index = zip(*rows, strict=True)
    return Placed(
        np.array(page, np.int64), np.array(slot, np.uint32), np.array(position, np.int64),
        np.array(item, np.uint64), np.array(index, np.int64),
    )  # fmt: skip


def contrasting(world: World) -> tuple[int, int, int]:
    """Three very different customers: a wealthy elder, a young one on a payroll, a prospect."""
    people = world.customers
    free = people.profiling & ~people.blocked
    elder = free & (people.age >= 50) & (people.risk_level >= 3)
    young = free & (people.age < 30) & people.payroll & (people.risk_level >= 2)
    newcomer = free & (people.lifecycle == 0)
    active = people.activity
    return (
        int(np.argmax(np.where(elder, people.assets, -1))),
        int(np.argmax(np.where(young, active, -1))),
        int(np.argmin(np.where(newcomer, people.assets + active, np.inf))),
    )
