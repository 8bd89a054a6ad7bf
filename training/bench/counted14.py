"""Quotas and caps of the generated traffic: through the product's own ledger, and counted a second time.

The ledger (`features.memory_ledger`, with the contact logs of `features.live_store`) leases, reserves,
confirms, supersedes and lapses by its own rules, on a clock that the flight moves minute by minute. `Tally`
is made of the world's events alone: what a decision reserves is outstanding until it is displayed or has
lapsed; a customer's next page takes over what of a cap the last one did not use; a display after its page's
validity counts, is late and is kept apart. Where the two differ, or where confirmed + outstanding exceeds a
limit, it is counted here and the bench misses its bar.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from features.events import WHAT
from features.ids import decision_mark
from features.ledger import CapCheck, Lease, Pool, Reserving, Shown, Wish, bucket_of, lapses_at, member
from features.live_store import MemoryLiveStore
from features.memory_ledger import MemoryLedger
from features.reservations import GRACE_S, stamped
from features.reserving import entry_of
from features.store import MemoryBlobs
from serving.curves import Floats
from training.bench.campaigns14 import DAY, Campaigns14
from training.bench.traffic14 import START

VALID_S: Final = 600.0  # of a page
CAP_LAPSE: Final = -int(-(VALID_S + GRACE_S) // 60)  # minutes after the decision
QUOTA_LAPSE: Final = -int(-(lapses_at(bucket_of(START), VALID_S) - START) // 60)
LATE: Final = int(VALID_S // 60) + 1  # minutes after the decision: no longer in time
HOME: Final = 1

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
T = TypeVar("T")


class Placed(NamedTuple):
    """Placements of campaigns, by page. `decision` numbers the page view."""

    decision: Ints
    campaign: Ints
    customer: Ints
    item: Ints
    p: Floats
    minute: int  # of the decision

    def only(self, kept: Bools) -> Placed:
        return Placed(
            self.decision[kept], self.campaign[kept], self.customer[kept], self.item[kept], self.p[kept],
            self.minute,
        )  # fmt: skip


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The answer of a memory twin, which never waits: no event loop is needed."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        answer: T = done.value
        return answer
    coroutine.close()
    raise RuntimeError("a memory twin waited: drive it with an event loop")


class Tally:
    """Counts of the world's events. `quota`: the campaigns that have one."""

    def __init__(self, campaigns: Campaigns14, quota: Ints, customers: int) -> None:
        many = len(campaigns)
        self.at_most = campaigns.at_most
        self.is_quota = np.zeros(many, np.bool_)
        self.is_quota[quota] = True
        self.outstanding, self.confirmed, self.late = np.zeros(many), np.zeros(many), np.zeros(many)
        capped = np.flatnonzero(campaigns.cap > 0)
        self.cap = np.zeros((many, 2), np.int32)  # (column of `used`, most a day); 0 none
        self.cap[capped, 0], self.cap[capped, 1] = np.arange(len(capped)), campaigns.cap[capped]
        shape = customers, max(len(capped), 1)
        self.used = np.zeros(shape, np.uint8)  # shown today + reserved
        self.today, self.waiting = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        self.late_today = np.zeros(shape, np.uint8)  # of `today`: they count, and overshoot nothing
        self.last = np.full(customers, -1)  # the decision whose reservations are held
        self.over_quota, self.over_cap = 0.0, 0

    def spent(self) -> Bools:
        """(C,) nothing of the quota is left."""
        return self.is_quota & (self.confirmed + self.late + self.outstanding >= self.at_most)

    def new_day(self) -> None:
        self.today[:] = 0
        self.late_today[:] = 0
        self.used = self.waiting.copy()

    def asked(self, customers: NDArray[np.integer[Any]]) -> None:
        """Their last pages' reservations of caps are taken over."""
        self.waiting[customers] = 0
        self.used[customers] = self.today[customers]
        self.last[customers] = -1

    def reserved(self, placed: Placed) -> None:
        quotas = placed.campaign[self.is_quota[placed.campaign]]
        np.add.at(self.outstanding, quotas, 1.0)
        self.last[placed.customer] = placed.decision
        of, column, most = self._capped(placed)
        np.add.at(self.waiting, (of, column), np.uint8(1))
        self._look(of, column, most)

    def shown(self, placed: Placed, minute: int) -> None:
        quotas = placed.campaign[self.is_quota[placed.campaign]]
        of, column, most = self._capped(placed)
        np.add.at(self.today, (of, column), np.uint8(1))
        if minute - placed.minute >= LATE:
            np.add.at(self.late, quotas, 1.0)
            np.add.at(self.late_today, (of, column), np.uint8(1))
        else:
            np.add.at(self.outstanding, quotas, -1.0)
            np.add.at(self.confirmed, quotas, 1.0)
            np.subtract.at(self.waiting, (of, column), np.uint8(1))
        self._look(of, column, most)

    def quota_lapsed(self, placed: Placed) -> None:
        np.add.at(self.outstanding, placed.campaign[self.is_quota[placed.campaign]], -1.0)

    def cap_lapsed(self, placed: Placed) -> None:
        held = self.last[placed.customer] == placed.decision
        of, column, _ = self._capped(placed.only(held))
        np.subtract.at(self.waiting, (of, column), np.uint8(1))
        np.subtract.at(self.used, (of, column), np.uint8(1))

    def _capped(self, placed: Placed) -> tuple[Ints, Ints, NDArray[np.int32]]:
        capped = self.cap[placed.campaign, 1] > 0
        which = self.cap[placed.campaign[capped]]
        return placed.customer[capped], which[:, 0].astype(np.int64), which[:, 1]

    def _look(self, of: Ints, column: Ints, most: NDArray[np.int32]) -> None:
        """Whether confirmed + outstanding is over a limit now, displays in time."""
        self.used[of, column] = self.today[of, column] + self.waiting[of, column]
        self.over_cap += int((self.used[of, column] - self.late_today[of, column] > most).sum())
        used = self.confirmed + self.outstanding - self.at_most
        self.over_quota = max(self.over_quota, float(used[self.is_quota].max(initial=0.0)))


class Booked:
    """The product's ledger for these campaigns: what it refuses is not shown."""

    def __init__(self, campaigns: Campaigns14, quota: Ints) -> None:
        self._now = START
        blobs = MemoryBlobs(lambda: self._now)
        self.ledger, self.live = MemoryLedger(blobs), MemoryLiveStore(blobs)
        self.epoch = at_once(self.ledger.open_epoch(known=False))
        self.campaigns, self.quota = campaigns, quota
        self.is_quota = np.zeros(len(campaigns), np.bool_)
        self.is_quota[quota] = True
        self.by_cap = 0  # placements that a customer's caps refused

    def at(self, minute: int) -> None:
        self._now = START + 60.0 * minute

    def reserve(self, placed: Placed) -> Bools:
        """Which of the placements may not be shown: their quota is spent, or the customer's cap is."""
        refused = np.zeros(len(placed.campaign), np.bool_)
        leases: dict[int, Lease] = {}
        metered = np.flatnonzero(self.is_quota[placed.campaign])
        for campaign in np.unique(placed.campaign[metered]).tolist():
            asking = metered[placed.campaign[metered] == campaign]
            units, lease = self._lease(campaign, len(asking))
            refused[asking[units:]] = True
            if lease is not None:
                leases[campaign] = lease
        capped = np.flatnonzero((self.campaigns.cap[placed.campaign] > 0) & ~refused)
        if len(capped):
            ends = np.flatnonzero(np.diff(placed.decision[capped])) + 1
            for page in np.split(capped, ends):
                for place in self._hold(placed, page):
                    refused[place] = True
                    self.by_cap += 1
                    if lease := leases.get(int(placed.campaign[place])):
                        at_once(self.ledger.give_back(lease, 1))
        return refused

    def _lease(self, campaign: int, want: int) -> tuple[int, Lease | None]:
        """As a replica that asks until it has what its pages need, or there is no more."""
        units, last = 0, None
        at_most, bucket = int(self.campaigns.at_most[campaign]), bucket_of(self._now)
        while units < want:
            lease = at_once(self.ledger.lease(pool_of(campaign), at_most, want - units, bucket, VALID_S))
            if lease is None:
                break
            units, last = units + lease.units, lease
        return units, last

    def _hold(self, placed: Placed, page: Ints) -> list[int]:
        """Places of one page that the customer's caps refuse."""
        most = self.campaigns.cap[placed.campaign[page]].tolist()
        since = START + (placed.minute // DAY) * DAY * 60.0
        kinds = sorted(set(most))
        checks = tuple(CapCheck(WHAT["displayed"], n, 0, since, "campaign", (), 0, "customer") for n in kinds)
        wishes = [
            _wish(item, campaign, kinds.index(n))
            for item, campaign, n in zip(
                placed.item[page].tolist(), placed.campaign[page].tolist(), most, strict=True
            )
        ]
        asked = Reserving(
            str(placed.decision[page[0]]), HOME, VALID_S, tuple((one,) for one in wishes), checks, self.epoch
        )
        answer = at_once(self.ledger.reserve(_subject(placed.customer[page[0]]), asked))
        return [int(at) for at, choice in zip(page, answer.taken, strict=True) if choice < 0]

    def shown(self, placed: Placed, minute: int) -> None:
        late = minute - placed.minute >= LATE
        bucket = bucket_of(START + 60.0 * placed.minute)
        members: dict[int, list[bytes]] = {}
        entries: dict[tuple[int, int], list[bytes]] = {}
        quota, capped = self.is_quota[placed.campaign], self.campaigns.cap[placed.campaign] > 0
        for at in np.flatnonzero(quota | capped).tolist():
            decision, campaign, customer, item = (int(column[at]) for column in placed[:4])
            subject = _subject(customer)
            if quota[at]:
                one = member(subject, str(decision), item + 1)
                members.setdefault(campaign, []).append(one)
            if capped[at]:
                mark = decision_mark(subject, str(decision))
                entry = stamped(entry_of(_wish(item, campaign, 0), mark), int(self._now))
                entries.setdefault((customer, decision), []).append(entry)
        for (customer, _), logged in entries.items():
            at_once(self.live.append(_subject(customer), contact=b"".join(logged)))
        shown = [Shown(pool_of(campaign), bucket, tuple(ones), late) for campaign, ones in members.items()]
        at_once(self.ledger.confirm(shown))

    def pools(self) -> list[Pool]:
        names = [pool_of(campaign) for campaign in self.quota.tolist()]
        found = at_once(self.ledger.pools(names))
        return [found[name] for name in names]


class Counted:
    """Both, side by side: the ledger decides, the tally is what is reported."""

    def __init__(self, campaigns: Campaigns14, quota: Ints, customers: int) -> None:
        self.tally, self.booked = Tally(campaigns, quota, customers), Booked(campaigns, quota)
        self.quota = quota
        self.refused = self.differences = self.late = self.displays = 0

    def at(self, minute: int) -> None:
        self.booked.at(minute)
        if minute % DAY == 0:
            self.tally.new_day()

    def reserve(self, placed: Placed) -> Bools:
        """Which may not be shown. Pages come without what the tally has no room for: what a cap refuses here
        is a difference; a quota may run out between two pages of a minute."""
        before = self.booked.by_cap
        refused = self.booked.reserve(placed)
        self.refused += int(refused.sum())
        self.differences += self.booked.by_cap - before
        self.tally.reserved(placed.only(~refused))
        return refused

    def shown(self, placed: Placed, minute: int) -> None:
        self.displays += len(placed.campaign)
        self.late += len(placed.campaign) * int(minute - placed.minute >= LATE)
        self.booked.shown(placed, minute)
        self.tally.shown(placed, minute)

    def compare(self) -> None:
        """Every pool of the ledger against the tally."""
        tally = self.tally
        own = np.stack([tally.confirmed[self.quota], tally.late[self.quota], tally.outstanding[self.quota]])
        theirs = np.array(self.booked.pools(), np.float64).reshape(-1, 3).T
        self.differences += int((own != theirs).any(axis=0).sum())


def pool_of(campaign: int) -> str:
    return f"q{campaign}"


def _subject(customer: int) -> str:
    return f"u:{customer}"


def _wish(item: int, campaign: int, check: int) -> Wish:
    """Keys are never 0."""
    return Wish(item + 1, campaign + 1, 1, 1, 1, 0, 1, (check,))
