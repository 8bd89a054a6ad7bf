"""What clients report: checked one by one, written to the log once, and seen by the next decision at once.

The log decides what is new (48 hours of marks); only what is new moves the live views. A duplicate of the
last ten minutes is applied again all the same: the first attempt may have reached the log and then failed,
and an append to the live views counts an event once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from features.events import Event, Rejected, from_log, live_entries, parse_event, to_log
from features.live_store import LiveStore
from features.log import Entry, LogFull
from features.patience import patience
from features.store import StoreUnavailable
from features.token import PageToken
from serving.observe import Metrics
from serving.publisher import Publisher

REPAIR_S: Final = 600.0
COUNTED_S: Final = 3_000.0  # less than the hour for which the ledger and the meters know who was counted
T = TypeVar("T")
Categories = Callable[[NDArray[np.uint64]], NDArray[np.uint32]]


class Counted(Protocol):
    """`serving.delivered.Delivered`: what events count for. Raises nothing for a store that is away."""

    async def count(self, events: Sequence[Event], timeout_s: float) -> None: ...


class Kept(NamedTuple):
    """Per entry whether it is new; how many of all wait in the spool for the log."""

    fresh: list[bool]
    spooled: int


class Acknowledging(Protocol):
    """`serving.durable.Durable`: an entry that came back is acknowledged by the configured level."""

    async def append(self, entries: Sequence[Entry], timeout_s: float) -> Kept: ...


class LiveBytes(NamedTuple):
    """Entries of one subject for its RECENT and CONTACT logs; `device`: of users' pages shown on it."""

    recent: bytes
    contact: bytes
    device: bytes = b""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a batch. `live`: entries by subject, to be seen by a decision made right now.

    `spooled` of the events wait on this machine for the log; `late`: the next page may not see all of them.
    """

    accepted: int = 0
    duplicates: int = 0
    rejected: tuple[dict[str, Any], ...] = ()
    live: dict[str, LiveBytes] = field(default_factory=dict)
    spooled: int = 0
    late: bool = False

    def answer(self) -> dict[str, Any]:
        """`degraded` is there when the log or the live views were away: nothing has to be sent again."""
        said = {"accepted": self.accepted, "duplicates": self.duplicates, "rejected": list(self.rejected)}
        missing = [role for role, away in (("log", self.spooled), ("live", self.late)) if away]
        return {**said, "degraded": missing} if missing else said


class Intake:
    """Client events into the log and the live views."""

    def __init__(
        self,
        log: Acknowledging,
        live: LiveStore,
        publisher: Publisher,
        metrics: Metrics,
        verify: Callable[[str], PageToken],
        write_timeout_s: float,
        counting: Counted,
    ) -> None:
        self._log, self._live, self._publisher, self._metrics = log, live, publisher, metrics
        self._counting = counting
        self._verify, self._timeout_s = verify, write_timeout_s

    async def take(
        self,
        raws: Sequence[Any],
        *,
        now: float,
        actions: Collection[str],
        categories: Categories,
        timeout_s: float | None = None,
    ) -> Taken:
        """Log and apply. Raises StoreUnavailable or LogFull when they could not be logged; send them again
        then.
        """
        events, rejected = self._parse(raws, now, actions)
        allowed_s = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        fresh, spooled = await self._append(events, allowed_s)
        young = [e for e, new in zip(events, fresh, strict=True) if new or now - e.at < REPAIR_S]
        live = entries_by_subject(young, categories)
        whole = await self._apply(live, young, allowed_s)
        await self._counting.count(young, allowed_s)
        accepted = sum(fresh)
        self._metrics.events("spooled", spooled)
        self._count(accepted, len(events) - accepted, len(rejected))
        return Taken(accepted, len(events) - accepted, tuple(rejected), live, spooled, not whole)

    async def replay(self, entries: Sequence[Entry], *, now: float, categories: Categories) -> None:
        """Apply what another process acknowledged and may not have applied: the log has just got it.

        Counts tell an event that comes twice for an hour only, so older ones are left to a rebuilding.
        """
        events = []
        for entry in entries:
            try:
                events.append(from_log(entry.payload))
            except ValueError:  # an outcome, acknowledged only after it was applied
                continue
        await self._apply(entries_by_subject(events, categories), events, self._timeout_s)
        await self._counting.count([one for one in events if now - one.at < COUNTED_S], self._timeout_s)

    async def take_inline(
        self,
        raws: Sequence[Any],
        *,
        now: float,
        actions: Collection[str],
        categories: Categories,
        timeout_s: float,
    ) -> Taken:
        """The same for events inside a page request: the page is worth more, so a failing log refuses the
        events.
        """
        try:
            return await self.take(raws, now=now, actions=actions, categories=categories, timeout_s=timeout_s)
        except StoreUnavailable as away:
            code = "log_full" if isinstance(away, LogFull) else "store_unavailable"
            self._metrics.store_error("inline_events")
            seen = self.preview(raws, now=now, actions=actions, categories=categories)
            refused = {bad["index"] for bad in seen.rejected}
            lost = [
                {"index": index, "code": code, "detail": "not logged: send it again to /v1/events"}
                for index in range(len(raws))
                if index not in refused
            ]
            return Taken(
                rejected=tuple(sorted((*seen.rejected, *lost), key=lambda r: r["index"])), live=seen.live
            )

    def preview(
        self, raws: Sequence[Any], *, now: float, actions: Collection[str], categories: Categories
    ) -> Taken:
        """What `take` would apply, with nothing written or counted."""
        events, rejected = self._parse(raws, now, actions)
        return Taken(rejected=tuple(rejected), live=entries_by_subject(events, categories))

    def _parse(
        self, raws: Sequence[Any], now: float, actions: Collection[str]
    ) -> tuple[list[Event], list[dict[str, Any]]]:
        events: list[Event] = []
        rejected: list[dict[str, Any]] = []
        for index, raw in enumerate(raws):
            try:
                events.append(parse_event(raw, received_at=now, verify=self._verify, actions=actions))
            except Rejected as bad:
                rejected.append({"index": index, "code": bad.code, "detail": bad.detail})
        return events, rejected

    async def _append(self, events: Sequence[Event], timeout_s: float) -> Kept:
        if not events:
            return Kept([], 0)
        entries = [Entry(event.event_id, event.subject, to_log(event)) for event in events]
        return await self._log.append(entries, timeout_s)

    async def _apply(self, live: dict[str, LiveBytes], events: Iterable[Event], timeout_s: float) -> bool:
        """The live views; what fails now is tried again in the background, for the log already has it.

        Whether all of it succeeded.
        """
        work = [
            partial(self._live.append, subject, recent=of.recent, contact=of.contact, device=of.device)
            for subject, of in live.items()
        ]
        pairs = {
            (e.visitor_id, e.user_id) for e in events if e.visitor_id is not None and e.user_id is not None
        }
        work += [partial(self._live.link, f"v:{visitor}", f"u:{user}") for visitor, user in sorted(pairs)]
        return all(await asyncio.gather(*(self._try(one, timeout_s) for one in work)))

    async def _try(self, work: Callable[[], Any], timeout_s: float) -> bool:
        try:
            await in_time(work(), timeout_s)
        except StoreUnavailable:
            self._metrics.store_error("live_append")
            self._publisher.repair(work)
            return False
        return True

    def _count(self, accepted: int, duplicates: int, rejected: int) -> None:
        self._metrics.events("accepted", accepted)
        self._metrics.events("duplicate", duplicates)
        self._metrics.events("rejected", rejected)


async def in_time(work: Awaitable[T], timeout_s: float) -> T:
    """What `work` gives. Raises StoreUnavailable as well when it takes longer."""
    try:
        async with patience(timeout_s):
            return await work
    except TimeoutError:
        raise StoreUnavailable("the store did not answer in time") from None


def entries_by_subject(events: Iterable[Event], categories: Categories) -> dict[str, LiveBytes]:
    """The live entries of events, in order, by subject; subjects without any are left out."""
    parts: dict[str, tuple[list[bytes], list[bytes], list[bytes]]] = {}
    for event in events:
        recent, contact = live_entries(event, categories)
        if recent or contact:
            of = parts.setdefault(event.subject, ([], [], []))
            of[0].append(recent)
            of[1].append(contact)
            if event.device is not None and contact:
                parts.setdefault(event.device, ([], [], []))[2].append(contact)
    return {subject: LiveBytes(*(b"".join(some) for some in of)) for subject, of in parts.items()}
