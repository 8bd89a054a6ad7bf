"""The ledger's memory twin: the same keys and rows in this process, by the clock of its blobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

from features import reserving as asks
from features.ids import decision_mark
from features.ledger import (
    NO_EPOCH,
    SCOPES,
    CapCheck,
    Lease,
    Ledger,
    Pool,
    Reserved,
    Reserving,
    Shown,
    bucket_of,
    lapses_at,
    verify,
)
from features.live_store import CONTACT_LAST, device_key, live_keys
from features.reservations import (
    AT_AT,
    CONTACT_BYTES,
    DISPLAYED,
    HELD,
    NO_CHOICE,
    ON_DEVICE,
    REFUSED,
    WHAT_AT,
    Row,
    entries_of,
    entry_at,
    packed,
    rows_of,
    stamped,
)
from features.store import MemoryBlobs


@dataclass(slots=True)
class _Pool:
    confirmed: int = 0
    late: int = 0
    valid_s: float = 0.0
    out: dict[int, int] = field(default_factory=dict)

    def drop_ended(self, now: float) -> None:
        for bucket in [one for one in self.out if lapses_at(one, self.valid_s) <= now]:
            del self.out[bucket]


class MemoryLedger(Ledger):
    """Every role at one memory URL shares `blobs`, so that the live store's displays confirm here."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        self.blobs = blobs
        self._number = NO_EPOCH
        self._pools: dict[str, _Pool] = {}
        self._members: dict[tuple[str, int], set[bytes]] = {}

    @property
    def epoch(self) -> int:
        return self._number

    async def see_epoch(self) -> int:
        return self._number

    async def open_epoch(self, *, known: bool) -> int:
        return self._number if self._number or known else await self.renew_epoch()

    async def renew_epoch(self) -> int:
        self._number = max(self._number + 1, int(self.blobs.clock()))
        return self._number

    async def reserve(self, subject: str, reserving: Reserving, device: str | None = None) -> Reserved:
        verify(reserving)
        own = asks.decided_for(subject, reserving, device)
        taken = self._reserve(subject, subject, own, HELD)
        if device is None or own is reserving or not taken.current:
            return taken
        part, at = asks.device_part(subject, reserving, taken)
        if not part.places:
            return taken
        whole, refused = asks.joined(taken, self._reserve(subject, device, part, ON_DEVICE), at)
        items = [reserving.places[i][choice].item for i, choice in refused.items()]
        await self.release(subject, reserving.decision_id, items)
        return whole

    def _reserve(self, owner: str, subject: str, asked: Reserving, state: int) -> Reserved:
        if asked.epoch == NO_EPOCH or asked.epoch != self._number:
            return Reserved((-1,) * len(asked.places), False)
        now = int(self.blobs.clock())
        mark, key = decision_mark(owner, asked.decision_id), live_keys(subject).reserved
        rows = [row for row in rows_of(self.blobs.get(key) or b"") if row.expires > now]
        same = [row for row in rows if _same(row, mark, asked)]
        if same:
            answer = {row.place: -1 if row.state == REFUSED else row.choice for row in same}
            return Reserved(tuple(answer.get(place, -1) for place in range(len(asked.places))), True)
        rows = [row for row in rows if row.scope != asked.scope or row.epoch != asked.epoch]
        counts = _Counts(self.blobs, subject, rows, now)
        taken: list[int] = []
        for number, place in enumerate(asked.places):
            fits = (
                j
                for j, wish in enumerate(place)
                if all(counts.allow(asked.checks[cap], asks.entry_of(wish, mark)) for cap in wish.caps)
            )
            choice = next(fits, -1)
            taken.append(choice)
            entry = stamped(asks.entry_of(place[choice], mark), now) if choice >= 0 else _blank(mark)
            rows.append(
                Row(
                    entry, now + asks.lasts(asked.valid_s), asked.scope, asked.epoch, number,
                    choice if choice >= 0 else NO_CHOICE, asked.attempt, state if choice >= 0 else REFUSED,
                )
            )  # fmt: skip
        self.blobs.set(key, packed(rows), max((row.expires for row in rows), default=now) - now + 1)
        return Reserved(tuple(taken), True, len(counts.short))

    async def release(self, subject: str, decision_id: str, items: Sequence[int]) -> None:
        mark = decision_mark(subject, decision_id).to_bytes(4, "little")
        gone = {item.to_bytes(8, "little") + mark for item in items}
        key = live_keys(subject).reserved
        blob = self.blobs.get(key)
        if blob is None or not gone:
            return
        rows = [
            row._replace(state=REFUSED) if row.identity in gone and row.state in (HELD, ON_DEVICE) else row
            for row in rows_of(blob)
        ]
        self.blobs.set(key, packed(rows), self.blobs.expires(key) - self.blobs.clock())

    async def lease(self, quota: str, at_most: int, want: int, bucket: int, valid_s: float) -> Lease | None:
        now = self.blobs.clock()
        if self._number == NO_EPOCH or bucket - bucket_of(now) not in (0, 1):
            return None
        pool = self._pools.setdefault(quota, _Pool())
        valid_s = max(pool.valid_s, ceil(valid_s))
        pool.valid_s = valid_s
        pool.drop_ended(now)
        left = at_most - pool.confirmed - pool.late - sum(pool.out.values())
        if left <= 0:
            return None
        units = min(want, ceil(left / 4))
        pool.out[bucket] = pool.out.get(bucket, 0) + units
        return Lease(quota, bucket, units, self._number, (bucket + 1) * 10 - now)

    async def give_back(self, lease: Lease, unspent: int) -> None:
        pool = self._pools.get(lease.quota)
        if pool is not None and lease.epoch == self._number and lease.bucket in pool.out:
            pool.out[lease.bucket] -= min(max(unspent, 0), pool.out[lease.bucket])

    async def confirm(self, shown: Sequence[Shown], *, rebuilding: bool = False) -> None:
        now = self.blobs.clock()
        for one in shown:
            pool = self._pools.setdefault(one.quota, _Pool())
            known = self._members.setdefault((one.quota, one.bucket), set())
            fresh = len(set(one.members) - known)
            known.update(one.members)
            pool.drop_ended(now)
            in_time = min(fresh, pool.out.get(one.bucket, 0))
            if in_time:
                pool.out[one.bucket] -= in_time
            in_time = 0 if one.late else fresh if rebuilding else in_time
            pool.confirmed += in_time
            pool.late += fresh - in_time

    async def pools(self, quotas: Sequence[str]) -> dict[str, Pool]:
        found: dict[str, Pool] = {}
        for quota in quotas:
            pool = self._pools.get(quota, _Pool())
            pool.drop_ended(self.blobs.clock())
            found[quota] = Pool(pool.confirmed, pool.late, sum(pool.out.values()))
        return found

    async def now(self) -> float:
        return self.blobs.clock()

    async def close(self) -> None:
        return None


class _Counts:
    """What one subject has used of caps: its logs and the rows that are held, those of this page included."""

    def __init__(self, blobs: MemoryBlobs, subject: str, rows: list[Row], now: int) -> None:
        own = entries_of(blobs.get(live_keys(subject).contact) or b"", CONTACT_BYTES)
        device = entries_of(blobs.get(device_key(subject)) or b"", CONTACT_BYTES)
        self._logs = {False: own, True: own + device}
        self._rows = rows  # grows with the page
        self._now = now
        self._full = len(own) >= CONTACT_LAST
        self.short: set[CapCheck] = set()

    def allow(self, check: CapCheck, entry: bytes) -> bool:
        since = max(int(check.since), self._now - check.window_s if check.window_s else 0)
        if since > self._now:
            return False
        wide = check.subject == asks.DEVICE
        if self._full and entry_at(self._logs[False][0]) > since:
            self.short.add(check)
        offset, width = SCOPES[check.field]
        field = slice(offset, offset + width)
        keys = asks.check_keys(check) or [entry[field]]
        met = [
            int.from_bytes(row[AT_AT : AT_AT + 4], "little")
            for row in self._logs[wide]
            if row[field] in keys and row[WHAT_AT] == check.event
        ]
        states = (HELD, ON_DEVICE) if wide else (HELD,)
        held = check.event == DISPLAYED and sum(
            row.state in states and row.entry[field] in keys for row in self._rows
        )
        if check.min_gap_s and (held or max(met, default=0) + check.min_gap_s > self._now):
            return False
        return sum(at >= since for at in met) + held < check.most


def _same(row: Row, mark: int, asked: Reserving) -> bool:
    return row.mark == mark.to_bytes(4, "little") and row.attempt == asked.attempt


def _blank(mark: int) -> bytes:
    return bytes(8) + mark.to_bytes(4, "little") + bytes(CONTACT_BYTES - 12)
