"""The ledger under fire: many decisions at once on one quota and one customer's caps, with kills.

Eight replicas decide for 1,000 customers at a time, repeat and refresh; what they answer they write down
first, as an answer that left is out of their hands. Phones (this process) show most of it, some twice,
whatever became of the replica. Replicas are killed and started again, and the store (append-only file,
`always`) as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from features.embedded import EmbeddedValkey
from features.events import LATE, WHAT
from features.ids import decision_mark
from features.leases import Leases, Terms
from features.ledger import CapCheck, Reserving, Shown, Wish, bucket_ends, bucket_of, member, scope_of
from features.live_store import CONTACT_LAST, live_keys
from features.redis_address import parse_address
from features.redis_ledger import RedisLedger
from features.redis_live import RedisLiveStore
from features.redis_plain import opened
from features.redis_resp import RespLink
from features.redis_store import Fetcher
from features.reservations import HELD, rows_of
from features.reserving import entry_of
from features.store import StoreUnavailable
from features.views import CONTACT
from training.bench.harness import Bar, Result

ABOUT: Final = "exact caps and quotas: a race of eight processes, with kills of replicas and of the store"
QUOTA: Final = "race/q"
ONE: Final = "u:race"
CAMPAIGN: Final = 9
TALK_S: Final = 2.0  # the longest a store call may take before it is tried again


class Size(NamedTuple):
    """Seconds and counts of one run."""

    seconds: float
    valid_s: float
    grace_s: int
    limit: int
    most: int
    window_s: int
    clients: int
    at_once: int
    seed: int


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=int, default=8, help="replicas")
    parser.add_argument("--at-once", type=int, default=1000, help="decisions at a time, over all replicas")
    parser.add_argument("--seed", type=int, default=7)


def run(args: argparse.Namespace) -> Result:
    long = not args.quick
    size = Size(
        60.0 if long else 12.0, 20.0 if long else 4.0, 60 if long else 2, 30_000 if long else 3_500, 40, 5,
        args.processes, args.at_once, args.seed,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="fenliu-race-") as home:
        cost = asyncio.run(_cost(Path(home)))
        raced = asyncio.run(_race(size, Path(home)))
    note = "server time of 5 capped places, 2 caps each, over a full log of contacts; least of 8 rounds"
    return Result(
        {**raced.figures, "reserve_us": cost},
        raced.bars,
        {**raced.units, "reserve_us": "µs"},
        {**raced.notes, "reserve_us": note},
    )


async def _cost(home: Path) -> float:
    rng = np.random.default_rng(1)
    day = CapCheck(WHAT["displayed"], 9, 86_400, 0.0, "campaign", (), 0, "customer")
    rounds: list[float] = []
    with EmbeddedValkey(home / "cost") as server, opened(server.url) as told:
        link = RespLink(parse_address(server.url))
        ledger, live = RedisLedger(link), RedisLiveStore(Fetcher(link))
        epoch = await ledger.open_epoch(known=False)
        met = np.zeros(CONTACT_LAST, CONTACT)
        met["item"], met["event"] = rng.integers(1, 1 << 62, len(met)), rng.integers(0, 1 << 32, len(met))
        met["campaign"], met["slot"] = rng.integers(0, 60, len(met)) * 7919, rng.integers(1, 7, len(met))
        met["at"], met["what"], met["channel"] = int(await ledger.now()) - 60, WHAT["displayed"], 1
        for number in range(60):
            await live.append(f"u:{number}", contact=met.tobytes())
        for turn in range(8):
            told.config_resetstat()
            for number in range(60):
                places = tuple(
                    (Wish(int(rng.integers(1, 1 << 62)), int(k) * 7919, 0, int(k % 6 + 1), 0, 0, 1, (0, 1)),)
                    for k in rng.integers(1, 60, 5)
                )
                week = day._replace(most=20, window_s=7 * 86_400)
                asked = Reserving(f"d{turn}", turn, 600.0, places, (day, week), epoch)
                await ledger.reserve(f"u:{number}", asked)
            stats: Any = told.info("commandstats")
            rounds.append(float(stats["cmdstat_evalsha"]["usec_per_call"]))
        await link.close()
    return min(rounds)


# --- a replica


def _replica(url: str, journal: str, name: str, size: Size) -> None:
    asyncio.run(_deciding(url, journal, name, size))


async def _deciding(url: str, journal: str, name: str, size: Size) -> None:
    ledger = RedisLedger(RespLink(parse_address(url)), grace_s=size.grace_s)
    leases = Leases(ledger, clock=time.time, monotonic=time.monotonic)
    leases.watch({QUOTA: Terms(size.limit, size.valid_s)})
    renewing = asyncio.create_task(leases.run())
    rng = random.Random(f"{size.seed}/{name}")
    out = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    workers = max(size.at_once // size.clients, 1)
    await asyncio.gather(
        *(_customer(ledger, leases, out, f"{name}.{i}", size, rng) for i in range(workers)), renewing
    )


async def _customer(
    ledger: RedisLedger, leases: Leases, out: int, name: str, size: Size, rng: random.Random
) -> None:
    """Page after page until the process is killed; half of them for the one customer that all race for."""
    check = CapCheck(WHAT["displayed"], size.most, size.window_s, 0.0, "campaign", (), 0, "customer")
    serial = 0
    while True:
        await asyncio.sleep(rng.uniform(0.0, 0.4))
        serial += 1
        decision, at = f"{name}.{serial}", time.time()
        subject = ONE if rng.random() < 0.5 else f"u:{rng.randrange(10_000)}"
        if not leases.take(QUOTA, at):
            continue
        item = rng.randrange(1, 1 << 60)
        refresh = rng.random() < 0.1  # a page of a device seen before takes over what that one held
        scope = scope_of("home", f"device{rng.randrange(60)}" if refresh else decision)
        place = (Wish(item, CAMPAIGN, 0, 3, 0, 0, 1, (0,)),)
        asked = Reserving(decision, scope, size.valid_s, (place,), (check,), ledger.epoch)
        tries = 2 if rng.random() < 0.2 else 1
        taken = await _reserved(ledger, subject, asked, tries)
        if taken != 0:
            leases.put_back(QUOTA, at)
            continue
        page = {"id": decision, "subject": subject, "item": item, "at": at}
        os.write(out, json.dumps(page).encode() + b"\n")


async def _reserved(ledger: RedisLedger, subject: str, asked: Reserving, tries: int) -> int:
    """The choice; -1 also when the store does not say. A retry asks for the very same again."""
    taken = -1
    for _ in range(tries):
        try:
            async with asyncio.timeout(TALK_S):
                taken = (await ledger.reserve(subject, asked)).taken[0]
        except (StoreUnavailable, TimeoutError):
            return -1
    return taken


# --- the phones


@dataclass(slots=True)
class Truth:
    """What was answered and shown, and what the store said meanwhile."""

    answered: int = 0
    shown: int = 0
    in_time: int = 0
    told_twice: int = 0
    overdue: int = 0  # in time, and told when the lease's rest was returned already
    most_of_pool: int = 0
    most_of_cap: int = 0
    entries: dict[bytes, tuple[int, bool]] = field(default_factory=dict)  # the one customer's: at, late
    last_valid: float = 0.0
    pages: set[str] = field(default_factory=set)


class Phones:
    """Customers' devices: they show what replicas answered, and tell of it until they are heard."""

    def __init__(self, url: str, size: Size) -> None:
        link = RespLink(parse_address(url))
        self.ledger, self.live = RedisLedger(link, grace_s=size.grace_s), RedisLiveStore(Fetcher(link))
        self.size, self.truth = size, Truth()
        self._rng = random.Random(size.seed)
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
            await asyncio.sleep(0.05)

    async def settle(self) -> None:
        """Wait until every display has been told."""
        while self._telling:
            await asyncio.wait(self._telling)

    def _receive(self, page: dict[str, Any]) -> None:
        truth = self.truth
        truth.answered += 1
        truth.last_valid = max(truth.last_valid, page["at"] + self.size.valid_s)
        if self._rng.random() < 0.7:
            task = asyncio.create_task(
                self._show(page, self._rng.uniform(0.0, 0.9), self._rng.random() < 0.3)
            )
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _show(self, page: dict[str, Any], share: float, twice: bool) -> None:
        await asyncio.sleep(max(page["at"] + share * self.size.valid_s - time.time(), 0.0))
        now = time.time()
        self.truth.shown += 1
        late = now > page["at"] + self.size.valid_s
        self.truth.in_time += not late
        entry = bytearray(
            entry_of(
                Wish(page["item"], CAMPAIGN, 0, 3, 0, 0, 1, ()), decision_mark(page["subject"], page["id"])
            )
        )
        entry[12:16] = int(now).to_bytes(4, "little")
        entry[31] |= LATE if late else 0
        who = member(page["subject"], page["id"], page["item"])
        for _ in range(1 + twice):
            self.truth.told_twice += twice
            await self._tell(page["subject"], bytes(entry), Shown(QUOTA, bucket_of(page["at"]), (who,), late))

        ended = bucket_ends(bucket_of(page["at"])) + self.size.valid_s + self.size.grace_s
        self.truth.overdue += not late and time.time() > ended

    async def _tell(self, subject: str, entry: bytes, shown: Shown) -> None:
        """As Intake does: until it was written, whatever falls over meanwhile."""
        while True:
            try:
                async with asyncio.timeout(TALK_S):
                    await self.live.append(subject, contact=entry)
                    await self.ledger.confirm([shown])
                return
            except (StoreUnavailable, TimeoutError):
                await asyncio.sleep(0.05)

    async def _look(self) -> None:
        pool = (await self.ledger.pools([QUOTA]))[QUOTA]
        self.truth.most_of_pool = max(self.truth.most_of_pool, pool.confirmed + pool.outstanding)
        blob = (await self.live.fetch([live_keys(ONE).contact]))[0] or b""
        for at in range(0, len(blob), 40):
            entry = blob[at : at + 40]
            when = int.from_bytes(entry[12:16], "little")
            self.truth.entries[entry[:12]] = when, bool(entry[31] & LATE)
        self.truth.most_of_cap = max(self.truth.most_of_cap, await _held_rows(self))


def _new_pages(folder: Path, offsets: dict[Path, int]) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.journal")):
        with path.open("rb") as file:
            file.seek(offsets.get(path, 0))
            for line in file:
                if not line.endswith(b"\n"):
                    break
                offsets[path] = offsets.get(path, 0) + len(line)
                yield json.loads(line)


# --- the race


class Replicas:
    """The processes, each with a journal of its own."""

    def __init__(self, url: str, folder: Path, size: Size) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._url, self._folder, self._size = url, folder, size
        self._running: list[BaseProcess] = []
        self._started = 0
        for _ in range(size.clients):
            self._start()

    def _start(self) -> None:
        name = f"r{self._started}"
        self._started += 1
        journal = str(self._folder / f"{name}.journal")
        process = self._context.Process(
            target=_replica, args=(self._url, journal, name, self._size), daemon=True
        )
        process.start()
        self._running.append(process)

    def replace_one(self) -> None:
        """kill -9 the oldest, start another."""
        self._kill(self._running.pop(0))
        self._start()

    def kill_all(self) -> None:
        while self._running:
            self._kill(self._running.pop())

    @staticmethod
    def _kill(process: BaseProcess) -> None:
        process.kill()
        process.join(10)


async def _race(size: Size, home: Path) -> Result:
    server = EmbeddedValkey(home / "store", fsync="always").start()
    phones = Phones(server.url, size)
    await phones.ledger.open_epoch(known=False)
    watching = asyncio.create_task(phones.watch(home))
    replicas = Replicas(server.url, home, size)
    store_away = 0.0
    try:
        await _until(lambda: phones.truth.answered > 0, 30)
        for part in range(8):
            await asyncio.sleep(size.seconds / 8)
            if part == 4:
                server, store_away = await _killed(server, home)
            elif part % 2:
                await asyncio.to_thread(replicas.replace_one)
        await asyncio.to_thread(replicas.kill_all)
        return await _ended(phones, size, store_away)
    finally:
        replicas.kill_all()
        watching.cancel()
        await phones.ledger.close()
        server.stop()


async def _killed(server: EmbeddedValkey, home: Path) -> tuple[EmbeddedValkey, float]:
    began = time.monotonic()
    if server.pid is not None:
        os.kill(server.pid, signal.SIGKILL)
    again = await asyncio.to_thread(_restarted, server, home)
    return again, time.monotonic() - began


def _restarted(server: EmbeddedValkey, home: Path) -> EmbeddedValkey:
    server.stop()
    return EmbeddedValkey(home / "store", fsync="always").start()


async def _ended(phones: Phones, size: Size, store_away: float) -> Result:
    """Nobody decides any more: what is held must come back, and then the limit must be reachable exactly."""
    truth, ledger = phones.truth, phones.ledger
    await asyncio.sleep(0.5)  # the last answers are read
    await phones.settle()
    await ledger.see_epoch()
    begun, looked = await _outstanding(phones), time.time()
    held = max(await _held_rows(phones), 0)
    caps_back = await _until(lambda: _held_rows(phones), size.valid_s + size.grace_s + 5)
    due = truth.last_valid + size.grace_s
    caps_after = caps_back - max(due, looked)
    quota_back = await _until(lambda: _outstanding(phones), size.valid_s + size.grace_s + 25)
    pool = (await ledger.pools([QUOTA]))[QUOTA]
    left, bucket = 0, bucket_of(await ledger.now())
    while (lease := await ledger.lease(QUOTA, size.limit, 500, bucket, size.valid_s)) is not None:
        left += lease.units
        bucket = bucket_of(await ledger.now())
    figures = {
        "quota_overshoot": max(truth.in_time, truth.most_of_pool, pool.confirmed) - size.limit,
        "cap_overshoot": _most_in_window(truth, size) - size.most,
        "not_counted": truth.shown - pool.confirmed - pool.late,
        "not_returned": size.limit - pool.confirmed - pool.late - left,
        "answered": truth.answered,
        "shown": truth.shown,
        "told_twice": truth.told_twice,
        "late": pool.late,
        "late_unexplained": pool.late - (truth.shown - truth.in_time) - truth.overdue,
        "taken_over": sum(late for _, late in truth.entries.values()),
        "cap_shown": len(truth.entries),
        "cap_most_held": truth.most_of_cap,
        "outstanding_at_end": begun,
        "reserved_at_end": held,
        "cap_back_s": caps_after,
        "quota_back_s": quota_back - max(due, looked),
        "store_away_s": store_away,
    }
    zero: Bar = ("<=", 0.0)
    bars: dict[str, Bar] = {
        "quota_overshoot": zero, "cap_overshoot": zero, "not_counted": zero, "not_returned": zero,
        "late_unexplained": zero,
        "answered": (">=", 500.0), "cap_back_s": ("<=", 1.5), "quota_back_s": ("<=", 16.5),
    }  # fmt: skip
    notes = {
        "late_unexplained": "flagged late, and neither shown late nor told after the lease's rest returned",
        "quota_overshoot": f"displays in time, or confirmed + outstanding, over the limit of {size.limit:,}",
        "cap_overshoot": f"the one customer's displays in time in any {size.window_s} s, over {size.most}",
        "not_counted": "displays told, less those the pool has",
        "not_returned": "of the limit, after everything lapsed: neither counted nor grantable",
        "cap_back_s": "all reservations gone, after the last page's validity and grace",
        "quota_back_s": "all leases gone, after the same; one fetched ahead ends within 15 s of a decision",
        "taken_over": "the one customer's displays of pages that a refresh had taken over: late",
        "cap_most_held": "the one customer's reservations at a time",
    }
    return Result(figures, bars, {"cap_back_s": "s", "quota_back_s": "s", "store_away_s": "s"}, notes)


async def _outstanding(phones: Phones) -> int:
    return (await phones.ledger.pools([QUOTA]))[QUOTA].outstanding


async def _held_rows(phones: Phones) -> int:
    now = await phones.ledger.now()
    blob = (await phones.live.fetch([live_keys(ONE).reserved]))[0] or b""
    return sum(row.state == HELD and row.expires > now for row in rows_of(blob))


def _most_in_window(truth: Truth, size: Size) -> int:
    """The most displays in time that any window of the cap's length holds."""
    at = np.sort(np.array([when for when, late in truth.entries.values() if not late], np.int64))
    if not len(at):
        return 0
    first = np.searchsorted(at, at - size.window_s, side="right")
    return int((np.arange(len(at)) - first + 1).max())


async def _until(done: Any, most_s: float) -> float:
    """Wait until `done()` is true, or a coroutine of it gives 0; the time it was. TimeoutError."""
    async with asyncio.timeout(most_s):
        while True:
            found = done()
            if asyncio.iscoroutine(found):
                found = not await found
            if found:
                return time.time()
            await asyncio.sleep(0.1)
