"""Every store of one process, by role; roles at one URL share a connection, and one page's reads one MGET.

`memory://` keeps a role in this process (roles with the same URL share it). Control is opened by the
serving side on `control_link`: this package does not know its port.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final, NamedTuple, Self

from features.customer import LATE_BLOB, Blobs
from features.external import external_key
from features.ledger import Ledger
from features.live_store import LiveStore, MemoryLiveStore, decision_key
from features.log import EventLog, MemoryLog
from features.memory_ledger import MemoryLedger
from features.meters import MemoryMeters, Meters
from features.rates import MemoryRates, Rates
from features.redis_address import parse_address
from features.redis_ledger import RedisLedger
from features.redis_live import RedisLiveStore
from features.redis_log import RedisLog
from features.redis_meters import RedisMeters
from features.redis_rates import RedisRates
from features.redis_resp import RespLink
from features.redis_store import Fetcher, RedisStore
from features.store import Clock, FeatureStore, MemoryBlobs, MemoryStore, StoreUnavailable, feature_key
from features.views import MEMBERSHIP, PROFILE

MEMORY: Final = "memory://"
_BATCH: Final = (PROFILE.name, MEMBERSHIP.name)

Found = list[bytes | None]
_NO_BATCH: Final[Found] = [None, None, None]


@dataclass(frozen=True, slots=True)
class StoreUrls:
    """One URL a role."""

    features: str
    live: str
    log: str
    control: str

    @classmethod
    def one(cls, url: str) -> Self:
        """Every role at one server."""
        return cls(url, url, url, url)


class Fetched(NamedTuple):
    """What was known of a customer. A late role's blobs are LATE_BLOB; `late` names the roles.

    `visitor` (None: no visitor was asked for) holds the live blobs of the device beside a user's own.
    `decision` is what was remembered for this decision id; None also when `live` is late. `reserved`: the
    customer's rows of views.RESERVATION, beside Blobs because no replay needs them.
    """

    blobs: Blobs
    visitor: Blobs | None
    decision: bytes | None
    late: tuple[str, ...]
    reserved: bytes | None = None


class Stores:
    """Belongs to one event loop. Made by `open`; nothing connects before the first command."""

    def __init__(
        self,
        features: FeatureStore,
        live: LiveStore,
        ledger: Ledger,
        meters: Meters,
        log: EventLog,
        links: dict[str, RespLink],
        control: str,
    ) -> None:
        self.features = features
        self.live = live
        self.ledger = ledger
        self.meters = meters
        self.log = log
        self._links = links
        self._control = control
        self.rates: Rates = MemoryRates(time.time)
        self._together = False  # whether features and live are one server
        self._roles: dict[str, str] = {}  # URL by role, of the roles at a server
        self._fetchers: dict[str, Fetcher] = {}  # by URL

    @classmethod
    def open(
        cls,
        urls: StoreUrls,
        *,
        clock: Clock = time.time,
        connect_s: float = 0.25,
        stall_s: float = 1.0,
        log_apart: bool = False,
    ) -> Stores:
        """`clock` is for memory roles; servers have their own. `log_apart`: the log has a connection of its
        own, for one that waits for its disk. Raises BadStoreUrl.
        """
        links: dict[str, RespLink] = {}
        for url in (urls.features, urls.live, urls.log, urls.control):
            if not url.startswith(MEMORY) and url not in links:
                links[url] = RespLink(parse_address(url), connect_s=connect_s, stall_s=stall_s)
        fetchers = {url: Fetcher(link) for url, link in links.items()}
        blobs = {url: MemoryBlobs(clock) for url in (urls.features, urls.live)}
        stores = cls(
            RedisStore(fetchers[urls.features])
            if urls.features in links
            else MemoryStore(blobs[urls.features]),
            RedisLiveStore(fetchers[urls.live]) if urls.live in links else MemoryLiveStore(blobs[urls.live]),
            RedisLedger(links[urls.live]) if urls.live in links else MemoryLedger(blobs[urls.live]),
            RedisMeters(links[urls.live]) if urls.live in links else MemoryMeters(clock),
            RedisLog(urls.log, link=None if log_apart else links[urls.log])
            if urls.log in links
            else MemoryLog(clock),
            links,
            urls.control,
        )
        stores._together = urls.features == urls.live
        stores._roles = {role: url for role, url in asdict(urls).items() if url in links}
        stores._fetchers = fetchers
        stores.rates = RedisRates(links[urls.live]) if urls.live in links else MemoryRates(clock)
        return stores

    @property
    def control_link(self) -> RespLink | None:
        """The connection for the control role; None when it is in memory."""
        return self._links.get(self._control)

    def time_reads(self, told: Callable[[str, float], None]) -> None:
        """Have some reads of customers timed: `told` gets the roles of the server, such as `features` or
        `features live`, and the seconds from the request's leaving to its answer."""
        for url, fetcher in self._fetchers.items():
            roles = [role for role in ("features", "live") if self._roles.get(role) == url]
            if roles:
                fetcher.timed = partial(told, " ".join(roles))

    async def memory(self) -> dict[str, float]:
        """By role the part of its server's `maxmemory` that is in use; roles in this process, without a
        limit, away or silent about it are left out. Raises nothing.
        """
        asked = {url: _memory(link) for url, link in self._links.items()}
        parts = dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
        return {role: part for role, url in self._roles.items() if (part := parts[url]) is not None}

    async def fetch_customer(
        self,
        subject: str,
        visitor: str | None = None,
        version: str | None = None,
        decision_id: str | None = None,
        *,
        timeout_s: float | None = None,
        skip: Collection[str] = (),
    ) -> Fetched:
        """Everything a decision reads, in one MGET per distinct server, in parallel.

        `visitor` is a subject beside a user's; `version` None: no key space yet. A role that fails or takes
        longer than `timeout_s` is late, and the other role's answer stands; those in `skip` (features, live)
        are not asked, and late at once. Only users have batch records. Raises nothing.
        """
        is_user = subject.startswith("u:") and version is not None
        batch = [feature_key(version or "", name, subject[2:]) for name in _BATCH] if is_user else []
        if is_user:
            batch.append(external_key(subject[2:]))
        live = [*self.live.keys(subject)]
        if visitor is not None:
            live += self.live.keys(visitor)
        if decision_id is not None:
            live.append(decision_key(subject, decision_id))
        known: Found | None
        recent: Found | None
        if skip and batch and (len(skip) > 1 or self._together):
            known = recent = None  # of one server either may say that it does not answer
        elif skip:
            known = recent = None
            if batch and "features" not in skip:
                known = await _in_time(self.features, batch, timeout_s)
            if "live" not in skip:
                recent = await _in_time(self.live, live, timeout_s)
        elif self._together or not batch:
            found = await _in_time(self.live, batch + live, timeout_s)
            known, recent = (None, None) if found is None else (found[: len(batch)], found[len(batch) :])
        else:
            known, recent = await asyncio.gather(
                _in_time(self.features, batch, timeout_s), _in_time(self.live, live, timeout_s)
            )
        return _fetched(known if is_user else _NO_BATCH, recent, visitor is not None, decision_id is not None)

    async def close(self) -> None:
        await self.log.close()
        for link in self._links.values():
            await link.close()


async def _memory(link: RespLink) -> float | None:
    try:
        said: bytes = await link.command(b"INFO", b"memory")
        found = dict(line.split(":", 1) for line in said.decode().splitlines() if ":" in line)
        most = int(found.get("maxmemory", "0"))
        return int(found["used_memory"]) / most if most else None
    except (StoreUnavailable, KeyError, ValueError):  # managed stores leave things out
        return None


async def _in_time(
    store: FeatureStore | LiveStore, keys: Sequence[bytes], timeout_s: float | None
) -> Found | None:
    try:
        return await store.fetch(keys, timeout_s)
    except StoreUnavailable:
        return None


def _fetched(known: Found | None, recent: Found | None, visitor: bool, decision: bool) -> Fetched:
    late = tuple(role for role, found in (("features", known), ("live", recent)) if found is None)
    profile, membership, external = [LATE_BLOB] * 3 if known is None else known
    live = [LATE_BLOB] * 10 if recent is None else recent
    return Fetched(
        Blobs(profile, membership, *live[:3])._replace(unit=live[4], external=external),
        Blobs(None, None, *live[5:8])._replace(unit=live[9]) if visitor else None,
        recent[-1] if decision and recent is not None else None,
        late,
        live[3],
    )
