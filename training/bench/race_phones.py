"""Customers' devices in the race: they show what replicas answered, and tell of it until they are heard.

They also look at the store all the while, for the most that it ever held.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from features.events import LATE
from features.ids import decision_mark
from features.ledger import Pool, Shown, bucket_ends, bucket_of, member
from features.live_store import live_keys
from features.redis_address import parse_address
from features.redis_ledger import RedisLedger
from features.redis_live import RedisLiveStore
from features.redis_resp import RespLink
from features.redis_store import Fetcher
from features.reservations import HELD, rows_of
from features.reserving import entry_of
from features.store import StoreUnavailable
from features.views import CONTACT
from training.bench.race_world import ONE, QUOTA, TALK_S, Size, wish_of

DISPLAYED: Final = 0.8  # of what was answered
TWICE: Final = 0.3  # of what was displayed is told twice
LAST: Final = 0.9  # of a page's validity: when it is displayed at the latest
LOOK_S: Final = 0.05
ENTRY: Final = CONTACT.itemsize


@dataclass(slots=True)
class Truth:
    """What was answered and shown, and what the store said meanwhile. Of the quota, where nothing is said."""

    pages: int = 0  # with and without the quota
    answered: int = 0
    shown: int = 0
    in_time: int = 0
    told_twice: int = 0
    overdue: int = 0  # in time, and told when the lease's rest was returned already
    looks: int = 0
    looks_spent: int = 0  # at which all of the quota was shown or still to be
    most_of_pool: int = 0
    most_of_cap: int = 0
    entries: dict[bytes, tuple[int, bool]] = field(default_factory=dict)  # the one customer's: at, late
    last_valid: float = 0.0


class Phones:
    def __init__(self, url: str, size: Size) -> None:
        link = RespLink(parse_address(url))
        self.ledger, self._live = RedisLedger(link, grace_s=size.grace_s), RedisLiveStore(Fetcher(link))
        self.truth = Truth()
        self._size, self._rng = size, random.Random(size.seed)
        self._telling: set[asyncio.Task[None]] = set()

    async def watch(self, folder: Path) -> None:
        """Read journals and look at the store until cancelled."""
        offsets: dict[Path, int] = {}
        while True:
            for page in _new_pages(folder, offsets):
                self._receive(page)
            with suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(TALK_S):
                    await self._look()
            await asyncio.sleep(LOOK_S)

    async def settle(self) -> None:
        """Wait until every display has been told."""
        while self._telling:
            await asyncio.wait(self._telling)

    async def pool(self) -> Pool:
        return (await self.ledger.pools([QUOTA]))[QUOTA]

    async def outstanding(self) -> int:
        return (await self.pool()).outstanding

    async def held(self) -> int:
        """The one customer's reservations that are in force."""
        now = await self.ledger.now()
        blob = (await self._live.fetch([live_keys(ONE).reserved]))[0] or b""
        return sum(row.state == HELD and row.expires > now for row in rows_of(blob))

    def _receive(self, page: dict[str, Any]) -> None:
        truth = self.truth
        truth.pages += 1
        truth.answered += page["metered"]
        truth.last_valid = max(truth.last_valid, page["at"] + self._size.valid_s)
        if self._rng.random() < DISPLAYED:
            share, twice = self._rng.uniform(0.0, LAST), self._rng.random() < TWICE
            task = asyncio.create_task(self._show(page, share, twice))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _show(self, page: dict[str, Any], share: float, twice: bool) -> None:
        await asyncio.sleep(max(page["at"] + share * self._size.valid_s - time.time(), 0.0))
        now, bucket = time.time(), bucket_of(page["at"])
        late = now > page["at"] + self._size.valid_s
        metered = page["metered"]
        self.truth.shown += metered
        self.truth.in_time += metered and not late
        self.truth.told_twice += twice
        mark = decision_mark(page["subject"], page["id"])
        entry = bytearray(entry_of(wish_of(page["item"], capped=False), mark))
        entry[12:16] = int(now).to_bytes(4, "little")
        entry[31] |= LATE if late else 0
        who = member(page["subject"], page["id"], page["item"])
        shown = [Shown(QUOTA, bucket, (who,), late)] if metered else []
        for _ in range(1 + twice):
            await self._tell(page["subject"], bytes(entry), shown)
        returned = bucket_ends(bucket) + self._size.valid_s + self._size.grace_s
        self.truth.overdue += metered and not late and time.time() > returned

    async def _tell(self, subject: str, entry: bytes, shown: list[Shown]) -> None:
        """As Intake does: until it was written, whatever falls over meanwhile."""
        while True:
            try:
                async with asyncio.timeout(TALK_S):
                    await self._live.append(subject, contact=entry)
                    await self.ledger.confirm(shown)
                return
            except (StoreUnavailable, TimeoutError):
                await asyncio.sleep(0.05)

    async def _look(self) -> None:
        pool, truth = await self.pool(), self.truth
        truth.looks += 1
        truth.looks_spent += pool.confirmed + pool.late + pool.outstanding >= self._size.limit
        truth.most_of_pool = max(truth.most_of_pool, pool.confirmed + pool.outstanding)
        blob = (await self._live.fetch([live_keys(ONE).contact]))[0] or b""
        for at in range(0, len(blob), ENTRY):
            entry = blob[at : at + ENTRY]
            when = int.from_bytes(entry[12:16], "little")
            truth.entries[entry[:12]] = when, bool(entry[31] & LATE)
        truth.most_of_cap = max(truth.most_of_cap, await self.held())


def _new_pages(folder: Path, offsets: dict[Path, int]) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.journal")):
        with path.open("rb") as file:
            file.seek(offsets.get(path, 0))
            for line in file:
                if not line.endswith(b"\n"):
                    break
                offsets[path] = offsets.get(path, 0) + len(line)
                yield json.loads(line)
