"""Whatever happens between decisions, displays, lapses and crashes: no limit is exceeded by displays in time.

A plain model holds what was really decided and shown. Every display within its page's validity, told in
time, of a page not superseded, counts against the limit; at each moment these, and all that may still come,
stay within it. What was lost comes back.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.events import WHAT
from features.ids import decision_mark
from features.leases import Leases, Terms
from features.ledger import CapCheck, Reserving, Shown, Wish, bucket_of, lapses_at, member
from features.live_store import MemoryLiveStore, live_keys
from features.memory_ledger import MemoryLedger
from features.reservations import LATE, RESERVED, entries_of, entry_at
from features.reserving import entry_of
from features.store import MemoryBlobs

START = 1_800_000_000.0
VALID = 100.0
MOST, WINDOW = 3, 400

steps = st.lists(
    st.tuples(
        st.sampled_from(["decide", "decide", "show", "show", "retry", "tick", "tick", "link", "epoch"]),
        st.integers(0, 2),  # surface
        st.integers(0, 30),  # which page, which place
        st.sampled_from([0.4, 3.0, 30.0, 59.0, 150.0]),
    ),
    max_size=60,
)


@dataclass
class Page:
    subject: str
    decision: str
    scope: int
    at: float
    wishes: tuple[Wish, ...]
    taken: tuple[int, ...]
    live: bool = True
    shown: set[int] = field(default_factory=set)

    def held(self, now: float) -> int:
        """Places that a display could still confirm."""
        if not self.live or int(now) >= int(self.at) + VALID + 60:
            return 0
        return sum(choice == 0 and i not in self.shown for i, choice in enumerate(self.taken))


async def cap_run(script):
    clock = [START]
    blobs = MemoryBlobs(lambda: clock[0])
    ledger, live = MemoryLedger(blobs), MemoryLiveStore(blobs)
    epoch = await ledger.open_epoch(known=False)
    check = CapCheck(WHAT["displayed"], MOST, WINDOW, 0.0, "campaign", (), 0, "customer")
    pages: list[Page] = []

    async def reserve(page: Page) -> tuple[int, ...]:
        places = tuple((wish,) for wish in page.wishes)
        asked = Reserving(page.decision, page.scope, VALID, places, (check,), epoch)
        return (await ledger.reserve(page.subject, asked)).taken

    for action, surface, number, seconds in script:
        page = pages[number % len(pages)] if pages else None
        if action == "tick":
            clock[0] += seconds
        elif action == "epoch":
            epoch = await ledger.renew_epoch()
            for one in pages:
                one.scope = -one.scope - 1  # later pages do not take these over
        elif action == "decide":
            wishes = tuple(Wish(len(pages) * 10 + i + 1, 9, 0, surface, 0, 0, 1, (0,)) for i in range(2))
            new = Page("u:1", f"d{len(pages)}", surface, clock[0], wishes, ())
            new.taken = await reserve(new)
            for one in pages:
                one.live = one.live and one.scope != surface
            pages.append(new)
        elif action == "link":
            await live.link("v:1", "u:1")
        elif page is not None and action == "retry" and page.live and page.held(clock[0]) and page.scope >= 0:
            assert await reserve(page) == page.taken
        elif page is not None and action == "show":
            place = number % 2
            if page.taken[place] == 0:
                late = LATE if clock[0] > page.at + VALID else 0
                entry = entry_of(page.wishes[place], decision_mark(page.subject, page.decision))
                told = entry[:12] + int(clock[0]).to_bytes(4, "little") + entry[16:31]
                await live.append("u:1", contact=told + bytes((RESERVED | late,)) + entry[32:])
                page.shown.add(place)
        log = entries_of(blobs.get(live_keys("u:1").contact) or b"", 40)
        in_time = [entry_at(e) for e in log if not e[31] & LATE and entry_at(e) >= clock[0] - WINDOW]
        assert len(in_time) + sum(one.held(clock[0]) for one in pages) <= MOST
    clock[0] += WINDOW + VALID + 61  # all of it is over: all of it is free again
    last = Page(
        "u:1", "last", 9, clock[0], tuple(Wish(900 + i, 9, 0, 9, 0, 0, 1, (0,)) for i in range(4)), ()
    )
    assert await reserve(last) == (0, 0, 0, -1)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_a_cap_is_never_exceeded_and_what_was_lost_comes_back(script):
    asyncio.run(cap_run(script))


LIMIT = 12
spending = st.lists(
    st.tuples(
        st.sampled_from(
            ["take", "take", "take", "show", "show", "renew", "renew", "tick", "kill", "epoch", "undo"]
        ),
        st.integers(0, 2),
        st.integers(0, 40),
        st.sampled_from([0.3, 1.0, 4.0, 11.0, 110.0, 170.0]),
    ),
    max_size=80,
)


async def quota_run(script):
    clock = [START]
    skew = (0.0, 0.7, -0.9)  # what each replica's wall clock is ahead by
    ledger = MemoryLedger(MemoryBlobs(lambda: clock[0]))
    await ledger.open_epoch(known=False)

    def replica(number: int) -> Leases:
        leases = Leases(ledger, clock=lambda: clock[0] + skew[number], monotonic=lambda: clock[0])
        leases.watch({"q": Terms(LIMIT, VALID)})
        return leases

    replicas = [replica(number) for number in range(3)]
    taken: dict[int, tuple[float, bool, bool]] = {}  # decided_at, shown, in time
    for serial, (action, who, number, seconds) in enumerate(script):
        if action == "tick":
            clock[0] += seconds
        elif action == "renew":
            await replicas[who].renew()
        elif action == "kill":
            replicas[who] = replica(who)
        elif action == "epoch":
            await ledger.renew_epoch()
        elif action in ("take", "undo"):
            decided_at = clock[0] + skew[who]
            if replicas[who].take("q", decided_at):
                if action == "undo":
                    replicas[who].put_back("q", decided_at)
                else:
                    taken[serial] = (decided_at, False, False)
        elif taken:
            serial = list(taken)[number % len(taken)]
            decided_at, shown, _ = taken[serial]
            late = clock[0] > decided_at + VALID
            await ledger.confirm([Shown("q", bucket_of(decided_at), (member("u:1", f"d{serial}", 1),), late)])
            if not shown:
                taken[serial] = (decided_at, True, not late)
        pool = (await ledger.pools(["q"]))["q"]
        in_time = sum(good for _, _, good in taken.values())
        coming = sum(
            not shown and clock[0] < lapses_at(bucket_of(at), VALID) for at, shown, _ in taken.values()
        )
        assert in_time + coming <= LIMIT
        assert pool.confirmed + pool.outstanding <= LIMIT
        assert pool.confirmed + pool.late == sum(shown for _, shown, _ in taken.values())
        assert pool.outstanding >= coming
    clock[0] += VALID + 100
    left = LIMIT - sum(shown for _, shown, _ in taken.values())
    bucket, units = bucket_of(clock[0]), 0
    while (lease := await ledger.lease("q", LIMIT, 5, bucket, VALID)) is not None:
        units += lease.units
    assert units == max(left, 0)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spending)
def test_a_quota_is_never_exceeded_and_what_was_lost_comes_back(script):
    asyncio.run(quota_run(script))


def test_a_replica_spends_without_a_pause_across_buckets():
    async def whole():
        clock = [START]
        ledger = MemoryLedger(MemoryBlobs(lambda: clock[0]))
        await ledger.open_epoch(known=False)
        leases = Leases(ledger, clock=lambda: clock[0], monotonic=lambda: clock[0])
        leases.watch({"q": Terms(100_000, VALID)})
        refused = 0
        for tick in range(600):
            clock[0] = START + tick / 10
            if tick % 5 == 0:
                await leases.renew()
            refused += not leases.take("q", clock[0])
        pool = (await ledger.pools(["q"]))["q"]
        await leases.close()
        return refused, pool.outstanding, (await ledger.pools(["q"]))["q"].outstanding

    refused, before, after = asyncio.run(whole())
    assert refused <= 12  # while the first buckets' rate is being learnt
    assert after == 600 - refused < before
