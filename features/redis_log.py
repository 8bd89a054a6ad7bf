"""The event log on Valkey or Redis (6.2 and later): a stream per shard, a key per event-id mark.

    log:{3}:stream     entries of shard 3: one field, the payload
    log:{3}:m:<id>     the mark of an event id, for 48 hours
    log:committed      shard -> offset that the lake has
    log:name           made once: says that this is still the same store

Everything of a shard carries its key tag, so the script that appends touches one slot of a cluster. Appends
go over the service's multiplexed connection; reading, committing and trimming are batch work on plain ones.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self, cast

from redis import Redis

from features.log import (
    MARK_TTL_S,
    MAX_ENTRIES,
    SHARDS,
    START,
    Backlog,
    CannotSync,
    Entry,
    LogFull,
    by_shard,
    gone_key,
    order_of,
)
from features.redis_address import Refused, parse_address
from features.redis_plain import TIMEOUT_S, plain_client, told
from features.redis_resp import RespLink, Script
from features.store import StoreUnavailable

# Room is checked for all before anything is written, and an entry is written before its mark: were the script
# ever cut short in between, the entry would come twice, which the lake notices, and would not be lost.
APPEND: Final = """
local room = tonumber(ARGV[1]) - redis.call('XLEN', KEYS[1])
local fresh = 0
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then fresh = fresh + 1 end
end
if fresh > room then return redis.error_reply('LOGFULL no room for ' .. fresh .. ' entries') end
local done = {}
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    redis.call('XADD', KEYS[1], '*', 'p', ARGV[i + 1])
    redis.call('SET', KEYS[i], '1', 'EX', ARGV[2])
    done[i - 1] = 1
  else
    done[i - 1] = 0
  end
end
return done
"""
_APPEND: Final = Script(APPEND)
SYNC_MS: Final = 2_000  # `appendfsync everysec` holds a write back for up to two seconds
_COMMITTED: Final = b"log:committed"
_NAME: Final = b"log:name"


class RedisLog:
    """`link`: the service's connection to the same server, where it has one; the service closes it."""

    def __init__(
        self,
        url: str,
        *,
        link: RespLink | None = None,
        shards: int = SHARDS,
        max_entries: int = MAX_ENTRIES,
        mark_ttl_s: int = MARK_TTL_S,
        read_timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`max_entries`: in each shard. Opens nothing; raises BadStoreUrl."""
        self.address = parse_address(url)
        self.shards = shards
        self.max_entries = max_entries
        self.mark_ttl_s = mark_ttl_s
        self._link = link
        self._owned = link is None
        self._plain = plain_client(url, read_timeout_s)
        self._name: str | None = None
        self._opened = 0  # the connection of the last append, by its number

    async def append(self, entries: Sequence[Entry]) -> list[bool]:
        accepted = [False] * len(entries)
        parts = by_shard(entries, self.shards)
        self._opened = 0 if self._link is None else self._link.openings
        answers = await asyncio.gather(
            *(self._append(shard, [entries[row] for row in rows]) for shard, rows in parts.items()),
            return_exceptions=True,
        )
        for rows, answer in zip(parts.values(), answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            for row, new in zip(rows, answer, strict=True):
                accepted[row] = bool(new)
        return accepted

    async def _append(self, shard: int, entries: list[Entry]) -> list[int]:
        if self._link is None:
            self._link = RespLink(self.address)
        marks = (f"log:{{{shard}}}:m:{entry.event_id}".encode() for entry in entries)
        payloads = (entry.payload for entry in entries)
        try:
            answer = await _APPEND.run(
                self._link, (_stream(shard), *marks), self.max_entries, self.mark_ttl_s, *payloads
            )
            return cast("list[int]", answer)
        except Refused as problem:
            if problem.code == "LOGFULL":
                raise LogFull(
                    f"shard {shard} of the event log holds its {self.max_entries} entries: ingest it"
                ) from None
            if "OOM " in problem.text:  # older servers put their own words before it
                raise LogFull(
                    "the event log's store is out of memory: ingest it, or raise maxmemory"
                ) from None
            raise

    async def synced(self) -> None:
        """By WAITAOF, which holds up its connection: the log should have one of its own (`link` None)."""
        if self._link is None:
            self._link = RespLink(self.address, stall_s=2 * SYNC_MS / 1e3)
        opened = self._opened
        try:
            local, _ = await self._link.command(b"WAITAOF", 1, 0, SYNC_MS)
        except Refused as no:
            raise CannotSync(
                f"{no}. It takes WAITAOF, which Valkey and Redis from 7.2 on have, `appendonly yes`, and"
                " a user that may (+waitaof)"
            ) from None
        # The command speaks of its own connection's writes: another one would have said yes at once.
        if opened and self._link.openings != opened:
            raise StoreUnavailable("the connection was lost before the log said that it had synced")
        if local < 1:
            raise StoreUnavailable("the log did not sync in time")

    async def forgotten(self, subjects: Collection[str]) -> dict[str, float]:
        if self._link is None:
            self._link = RespLink(self.address)
        await self._link.connected()
        asked = sorted(subjects)
        found = await self._link.commands([(b"GET", gone_key(one)) for one in asked])
        if problem := next((one for one in found if isinstance(one, Refused)), None):
            raise problem
        return {one: float(at) for one, at in zip(asked, found, strict=True) if at is not None}

    @property
    def name(self) -> str:
        if self._name is None:
            with self._reading() as store:
                store.set(_NAME, secrets.token_hex(8), nx=True)
                self._name = f"stream:{cast('bytes', store.get(_NAME)).decode()}"
        return self._name

    def read(self, shard: int, after: str, count: int) -> list[tuple[str, bytes]]:
        order_of(after)
        with self._reading() as store:
            found: Any = store.xrange(_stream(shard), min=f"({after}", count=count)
        return [(offset.decode(), fields[b"p"]) for offset, fields in found]

    def since(self, at: float) -> str:
        return f"{max(int(at * 1000) - 1, 0)}-0"  # numbered by the server's milliseconds

    def commit(self, offsets: Mapping[int, str]) -> None:
        if offsets:
            with self._reading() as store:
                store.hset(_COMMITTED, mapping={str(shard): offset for shard, offset in offsets.items()})

    def committed(self) -> dict[int, str]:
        with self._reading() as store:
            held: Any = store.hgetall(_COMMITTED)
        known = {int(shard): offset.decode() for shard, offset in held.items()}
        return {shard: known.get(shard, START) for shard in range(self.shards)}

    def trim(self, shard: int, upto: str) -> int:
        high, low = min(order_of(upto), order_of(self.committed()[shard]))
        with self._reading() as store:
            return store.xtrim(_stream(shard), minid=f"{high}-{low + 1}", approximate=False)

    def length(self, shard: int | None = None) -> int:
        shards = range(self.shards) if shard is None else (shard,)
        with self._reading() as store:
            return sum(store.xlen(_stream(one)) for one in shards)

    def backlog(self) -> Backlog:
        """Two round trips; entries are numbered by the milliseconds at which the server got them."""
        committed = self.committed()
        with self._reading() as store, store.pipeline(transaction=False) as asked:
            for shard, offset in committed.items():
                asked.xlen(_stream(shard))
                asked.xrange(_stream(shard), min=f"({offset}", count=1)
            told_of: list[Any] = asked.execute()
        firsts = [order_of(rows[0][0].decode())[0] for rows in told_of[1::2] if rows]
        return Backlog(sum(told_of[::2]), min(firsts) / 1000.0 if firsts else None)

    async def close(self) -> None:
        self.close_reader()
        if self._owned and self._link is not None:
            await self._link.close()
            self._link = None

    def close_reader(self) -> None:
        """Close the plain connections; they open again when they are needed."""
        self._plain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_reader()

    @contextmanager
    def _reading(self) -> Iterator[Redis]:
        with told(f"the event log at {self.address.name} is away"):
            yield self._plain


def _stream(shard: int) -> bytes:
    return b"log:{%d}:stream" % shard
