"""The scripts against the memory twin on random histories, and decisions that race over connections."""

from __future__ import annotations

import asyncio
import random

import pytest

from features.events import WHAT
from features.ids import decision_mark
from features.ledger import CapCheck, Reserving, Shown, Wish, bucket_of, member
from features.live_store import MemoryLiveStore, live_keys
from features.memory_ledger import MemoryLedger
from features.redis_address import parse_address
from features.redis_ledger import RedisLedger
from features.redis_live import RedisLiveStore
from features.redis_resp import RespLink
from features.redis_store import Fetcher
from features.reservations import rows_of
from features.reserving import entry_of
from features.store import MemoryBlobs

pytestmark = pytest.mark.integration
FIELDS = ("item", "campaign", "category", "slot", "channel", "creative")


def some_check(rng: random.Random) -> CapCheck:
    field = rng.choice(FIELDS)
    keys = (1, 2) if field == "campaign" and rng.random() < 0.3 else ()
    what = rng.choice((1, 1, 1, 2))
    return CapCheck(
        what, rng.randrange(1, 6), rng.choice((0, 500, 5000)), 0.0, field, keys,
        rng.choice((0, 0, 0, 400)), rng.choice(("customer", "customer", "device")),
    )  # fmt: skip


def some_wish(rng: random.Random, checks: int, item: int) -> Wish:
    caps = tuple(i for i in range(checks) if rng.random() < 0.5)
    few = [rng.randrange(1, 4) for _ in range(4)]
    return Wish(item, few[0], few[1], few[2], few[3], 0, rng.randrange(1, 3), caps)


async def history(seed: int, ledger, live, now: int) -> list:
    """What a random history answers; the same seed tells both stores the same."""
    rng = random.Random(seed)
    epoch = await ledger.open_epoch(known=False)
    seen: list = []
    pages: list[tuple[str, str, str | None, Wish]] = []
    for number in range(60):
        user, device = f"u:{rng.randrange(2)}", rng.choice(("v:1", "v:2", None))
        subject = user if device is None or rng.random() < 0.8 else device
        device = device if subject == user else None
        checks = tuple(some_check(rng) for _ in range(rng.randrange(1, 4)))
        items = iter(range(number * 100, number * 100 + 99))
        places = tuple(
            tuple(some_wish(rng, len(checks), next(items) + 1) for _ in range(rng.randrange(1, 4)))
            for _ in range(rng.randrange(1, 5))
        )
        asked = Reserving(f"d{number}", rng.randrange(4), 600, places, checks, epoch)
        for _ in range(rng.choice((1, 1, 2))):
            answer = await ledger.reserve(subject, asked, device)
            seen.append((number, answer.taken))
        pages += [
            (subject, f"d{number}", device, place[choice])
            for place, choice in zip(places, answer.taken, strict=True)
            if choice >= 0
        ]
        for _ in range(rng.randrange(3)):
            if pages:
                owner, decision, where, wish = rng.choice(pages)
                entry = bytearray(entry_of(wish, decision_mark(owner, decision)))
                entry[12:16] = (now - rng.randrange(1000)).to_bytes(4, "little")
                entry[29] = rng.choice((WHAT["displayed"], WHAT["displayed"], WHAT["clicked"]))
                await live.append(owner, contact=bytes(entry))
                if where is not None:
                    await live.append(where, device=bytes(entry))
        if rng.random() < 0.1:
            await live.link("v:1", "u:0")
        if rng.random() < 0.1 and pages:
            owner, decision, _, wish = rng.choice(pages)
            await ledger.release(owner, decision, [wish.item])
    for subject in ("u:0", "u:1", "v:1", "v:2"):
        blobs = await live.fetch([*live_keys(subject)])
        rows = [row._replace(entry=row.entry[:12] + row.entry[16:], expires=0, epoch=0) for row in
                rows_of(blobs[3] or b"")]  # fmt: skip
        seen.append((subject, blobs[1], rows))
    return seen


@pytest.mark.parametrize("seed", range(6))
def test_the_scripts_do_what_the_twin_does(valkey_url, seed):
    async def whole():
        link = RespLink(parse_address(valkey_url))
        try:
            ledger = RedisLedger(link)
            now = int(await ledger.now())
            there = await history(seed, ledger, RedisLiveStore(Fetcher(link)), now)
        finally:
            await link.close()
        blobs = MemoryBlobs(lambda: now + 0.5)
        here = await history(seed, MemoryLedger(blobs), MemoryLiveStore(blobs), now)
        return there, here

    there, here = asyncio.run(whole())
    for one, other in zip(there, here, strict=True):
        assert one == other


def test_racing_connections_never_exceed_a_cap_or_a_quota(valkey_url):
    limit, most = 60, 7

    async def replica(number: int) -> tuple[int, int, list[tuple[str, float, int]]]:
        ledger = RedisLedger(RespLink(parse_address(valkey_url)))
        epoch = await ledger.open_epoch(known=False)
        check = CapCheck(1, most, 3600, 0.0, "campaign", (), 0, "customer")
        bucket = bucket_of(await ledger.now()) + 1
        held, capped, shown = 0, 0, []
        for serial in range(30):
            lease = await ledger.lease("q", limit, 1, bucket, 600)
            held += lease.units if lease is not None else 0
            wish = Wish(number * 1000 + serial + 1, 9, 0, 1, 0, 0, 1, (0,))
            asked = Reserving(f"r{number}.{serial}", number * 100 + serial, 600, ((wish,),), (check,), epoch)
            first, again = await asyncio.gather(ledger.reserve("u:1", asked), ledger.reserve("u:1", asked))
            assert first == again
            capped += first.taken[0] == 0
            if lease is not None:
                shown.append((f"r{number}.{serial}", bucket, wish.item))
        for decision, at, item in shown[::2]:
            who = Shown("q", int(at), (member("u:1", decision, item),))
            await asyncio.gather(ledger.confirm([who]), ledger.confirm([who]))
        await ledger.close()
        return held, capped, shown

    async def whole():
        found = await asyncio.gather(*(replica(number) for number in range(8)))
        ledger = RedisLedger(RespLink(parse_address(valkey_url)))
        pool = (await ledger.pools(["q"]))["q"]
        await ledger.close()
        return found, pool

    found, pool = asyncio.run(whole())
    assert sum(held for held, _, _ in found) == limit
    assert sum(capped for _, capped, _ in found) == most
    assert pool.late == 0 and pool.confirmed + pool.outstanding == limit
    assert pool.confirmed == sum(len(shown[::2]) for _, _, shown in found)
