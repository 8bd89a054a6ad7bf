"""The ledger port (role `live`): caps on one customer's keys, quotas by leases; values and rules of both.

Two halves that never share a script. Caps: one script a page on the customer's (or device's) own keys counts
what reached them (contact log) and what may still (reservations), and takes the first alternative of each
place that every cap allows. A reservation becomes a count at the first `displayed`, lapses 60 s after its
page, and is superseded by the next page of the same surface and device. Quotas: a replica leases units for
decisions of one 10 s bucket; nothing on the request's path touches a campaign's key.

Both check the epoch: a store that lost its memory, or another one in its place, shows nothing capped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from struct import Struct
from typing import Final, NamedTuple, Protocol
from zoneinfo import ZoneInfo

from features.events import WHAT
from features.ids import decision_key64, key32
from features.reservations import GRACE_S

BUCKET_S: Final = 10
STOP_S: Final = 2  # a lease is spent until this long before its end
pack_member: Final = Struct("<QQ").pack
MOST_PLACES: Final = 250  # capped places of a page, and alternatives of a place
NO_EPOCH: Final = 0

SCOPES: Final = {
    "item": (0, 8),
    "campaign": (16, 4),
    "category": (20, 4),
    "slot": (24, 4),
    "channel": (28, 1),
    "creative": (32, 4),
    "org": (36, 4),
}
"""Where a scope's key lies in a CONTACT entry: offset and width. A cap on an org or on a set of campaigns is
compiled to campaign keys, so an entry's `org` is 0 unless the writer happens to know it."""


@dataclass(frozen=True, slots=True)
class CapSpec:
    """At most `most` of `event` per window and subject within a scope.

    The window is rolling (`window_s` > 0) or a `calendar` one: day, week (from Monday), month, session, ever.
    `keys` empty: the placement's own key of the scope; else the keys that count together.
    """

    id: str
    event: str
    most: int
    window_s: int = 0
    calendar: str = ""
    subject: str = "customer"
    scope: str = "campaign"
    keys: frozenset[int] = frozenset()
    min_gap_s: int = 0


class CapCheck(NamedTuple):
    """A cap at one moment. The window begins at the later of `since` (POSIX s) and now - `window_s` (0: no
    such bound). A window that begins in the store's future is refused: the caller's clock is ahead.
    """

    event: int  # WHAT code
    most: int
    window_s: int
    since: float
    field: str  # of SCOPES
    keys: tuple[int, ...]
    min_gap_s: int
    subject: str


class Wish(NamedTuple):
    """One alternative of a place. `caps`: indices into Reserving.checks."""

    item: int
    campaign: int
    category: int
    slot: int
    creative: int
    org: int
    channel: int
    caps: tuple[int, ...]


class Reserving(NamedTuple):
    """What a page asks of the ledger. `places`: the alternatives of each capped place, best first.

    `scope`: key32 of surface and device (`scope_of`). `attempt` counts pages decided afresh under one id.
    """

    decision_id: str
    scope: int
    valid_s: float
    places: tuple[tuple[Wish, ...], ...]
    checks: tuple[CapCheck, ...]
    epoch: int
    attempt: int = 0


class Reserved(NamedTuple):
    """`taken`: the alternative of each place, -1 where none is allowed. `current`: the epoch was right.

    `short`: checks answered from a log that does not reach back to the window's start.
    """

    taken: tuple[int, ...]
    current: bool
    short: int = 0


class Lease(NamedTuple):
    """Units of a quota for decisions of one bucket. `left_s`: seconds from the grant to the bucket's end."""

    quota: str
    bucket: int
    units: int
    epoch: int
    left_s: float


class Pool(NamedTuple):
    """A quota's counts: displays in time, late ones, and what may still come."""

    confirmed: int
    late: int
    outstanding: int


class Shown(NamedTuple):
    """Displays of one quota by decisions of one bucket. `members`: one each (`member`), so that each counts
    once; `late`: they occurred after their page's validity.
    """

    quota: str
    bucket: int
    members: tuple[bytes, ...]
    late: bool = False


class Ledger(Protocol):
    """Raises StoreUnavailable. The time allowed is the caller's (`asyncio.timeout`)."""

    @property
    def epoch(self) -> int:
        """The epoch that holds on this very connection, as last seen; NO_EPOCH: nothing capped may be shown.

        Changes at once when the connection is lost: it is to be seen anew by `see_epoch`.
        """
        ...

    async def see_epoch(self) -> int:
        """Look at the epoch; after a restart or failover of the store a new one is opened.

        NO_EPOCH: the store has none, so it is fresh or has lost its memory: `open_epoch` says which.
        """
        ...

    async def open_epoch(self, *, known: bool) -> int:
        """As `see_epoch`; where none exists and none was `known` (control says so) the first is opened."""
        ...

    async def renew_epoch(self) -> int:
        """Open a new epoch whatever there was: the end of a rebuild. Leases granted before are void."""
        ...

    async def reserve(self, subject: str, reserving: Reserving, device: str | None = None) -> Reserved:
        """Take what the caps allow, atomically per subject, and hold it for `valid_s` + 60 s.

        The same decision and attempt again: the same answer. `device`: the visitor's subject beside a user's;
        device caps are then held on its keys, by a second script. Without one a user is refused what has a
        device cap. ValueError when there are too many places or alternatives.
        """
        ...

    async def release(self, subject: str, decision_id: str, items: Sequence[int]) -> None:
        """Give reservations back that will not be shown: item keys of the decision's places. Idempotent."""
        ...

    async def lease(self, quota: str, at_most: int, want: int, bucket: int, valid_s: float) -> Lease | None:
        """Up to `want` units for decisions of `bucket` (the store's present one or the next).

        None when nothing is left, the bucket is another, or the epoch is not this connection's.
        """
        ...

    async def give_back(self, lease: Lease, unspent: int) -> None:
        """Return units that no decision took and none will. Nothing happens when the lease is void."""
        ...

    async def confirm(self, shown: Sequence[Shown], *, rebuilding: bool = False) -> None:
        """Count displays, each member once. In time: moved from outstanding to confirmed.

        `rebuilding`: the leases are lost, so what was not late is confirmed without one.
        """
        ...

    async def pools(self, quotas: Sequence[str]) -> dict[str, Pool]: ...

    async def now(self) -> float:
        """The store's clock, POSIX seconds."""
        ...

    async def close(self) -> None: ...


def scope_of(surface: str, device: str | None) -> int:
    """The key under which a later page supersedes an earlier one: the same surface on the same device."""
    return key32(f"{surface}|{device or ''}")


def bucket_of(decided_at: float) -> int:
    """The bucket whose lease a decision is made under.

    Bucket b takes decisions in [10b - 2, 10b + 8) and ends at 10b + 10: spending stops 2 s before the end,
    where the next bucket takes over, so that there is always one to spend from.
    """
    return int((decided_at + STOP_S) // BUCKET_S)


def bucket_ends(bucket: int) -> int:
    return (bucket + 1) * BUCKET_S


def lapses_at(bucket: int, valid_s: float) -> int:
    """When what a bucket leased and nobody confirmed returns to the pool."""
    return bucket_ends(bucket) + ceil(valid_s) + GRACE_S


def pool_ttl_s(quota: str) -> int:
    """How long an idle pool is kept: a day's longer than any event about it, a flight's for a year."""
    return (9 if "@" in quota else 400) * 86_400


def member(subject: str, decision_id: str, item: int) -> bytes:
    """One placement's identity in member sets: (subject, decision) and the item, which a page shows once."""
    return pack_member(decision_key64(subject, decision_id), item)


def quota_on(quota: str, per: str, now: float, zone: ZoneInfo) -> str:
    """The pool's name: a `per: day` quota has one for each day of the campaign's zone."""
    return f"{quota}@{datetime.fromtimestamp(now, zone):%Y%m%d}" if per == "day" else quota


def check_of(spec: CapSpec, now: float, zone: ZoneInfo, session_at: float | None = None) -> CapCheck:
    """A cap at `now` for a customer in `zone`. `session_at`: when the session began; None: just now unknown,
    so the last 24 hours are counted, which is the safe side.
    """
    return CapCheck(
        WHAT[spec.event],
        spec.most,
        spec.window_s,
        _since(spec, now, zone, session_at),
        spec.scope,
        tuple(sorted(spec.keys)),
        spec.min_gap_s,
        spec.subject,
    )


def _since(spec: CapSpec, now: float, zone: ZoneInfo, session_at: float | None) -> float:
    if spec.calendar == "session":
        return now - 86_400 if session_at is None else session_at
    if spec.calendar in ("", "ever"):
        return 0.0
    here = datetime.fromtimestamp(now, zone)
    start = here.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if spec.calendar == "week":
        start -= timedelta(days=start.weekday())
    elif spec.calendar == "month":
        start = start.replace(day=1)
    return start.timestamp()


def verify(reserving: Reserving) -> None:
    """ValueError when the script could not hold it."""
    longest = max((len(place) for place in reserving.places), default=0)
    if len(reserving.places) > MOST_PLACES or longest > MOST_PLACES:
        raise ValueError(f"a page reserves at most {MOST_PLACES} places of {MOST_PLACES} alternatives each")
