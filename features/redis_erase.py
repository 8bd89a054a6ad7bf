"""Everything that a store holds of a customer: found by key, and in the event log by content; and erased.

A key of a customer carries the subject (`u:ID`, `v:ID`) between delimiters. Found by SCAN, so that key spaces
before the one in use, marks and whatever a version before this one wrote are met as well. After it the
append-only file is written anew, for the old one still says what was deleted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError

from features.log import GONE_S, gone_key
from features.redis_plain import opened

BATCH: Final = 2_000
REWRITE_S: Final = 120.0
_EDGE: Final = rb"[{}:#/|]"


class Whose:
    """Tells whether bytes name one of some subjects. `ids`: bare ids, which records carry as well."""

    def __init__(self, subjects: Sequence[str]) -> None:
        self.subjects = tuple(subjects)
        names = b"|".join(re.escape(one.encode()) for one in subjects)
        bare = b"|".join(re.escape(one.partition(":")[2].encode()) for one in subjects)
        self._key = re.compile(rb"(?:^|%s)(?:%s)(?:%s|$)" % (_EDGE, names, _EDGE))
        self._inside = re.compile(rb"%s(?:%s)%s" % (_EDGE, names, _EDGE))
        self._text = re.compile(rb"(?<![A-Za-z0-9_.@-])(?:%s)(?![A-Za-z0-9_.@-])" % bare)
        self._strings = tuple(_packed(text) for one in subjects for text in (one, one.partition(":")[2]))

    def key(self, key: bytes) -> bool:
        return self._key.search(key) is not None

    def payload(self, packed: bytes) -> bool:
        """In MessagePack: as a whole string, never as a part of one."""
        return any(one in packed for one in self._strings)

    def raw(self, raw: bytes) -> bool:
        """In a file of keys and records, such as a store's own."""
        return self._inside.search(raw) is not None or self.payload(raw)

    def text(self, text: bytes) -> bool:
        """In a text file: as a whole word."""
        return self._text.search(text) is not None


def _packed(text: str) -> bytes:
    raw = text.encode()
    head = bytes([0xA0 | len(raw)]) if len(raw) < 32 else b"\xd9" + bytes([len(raw)])
    return head + raw


def erase_keys(url: str, whose: Whose) -> int:
    """Delete every key of the subjects; how many. Raises StoreUnavailable, Refused (an ACL without SCAN)."""
    with opened(url) as store:
        found = list(_keys(store, whose))
        for start in range(0, len(found), BATCH):
            store.unlink(*found[start : start + BATCH])
    return len(found)


def erase_entries(url: str, whose: Whose) -> int:
    """Delete the subjects' entries of the event log; how many."""
    gone = 0
    with opened(url) as store:
        for stream in _streams(store):
            for offset, payload in _entries(store, stream):
                if whose.payload(payload):
                    gone += int(store.xdel(stream, offset))
    return gone


def note_gone(url: str, subjects: Sequence[str], at: float) -> None:
    """So that events of theirs which still wait in some replica's spool are not drained into the log."""
    with opened(url) as store:
        for one in subjects:
            store.set(gone_key(one), repr(at), ex=GONE_S)


def remaining(url: str, whose: Whose) -> int:
    """Keys and log entries that still name the subjects."""
    with opened(url) as store:
        held = sum(1 for _ in _keys(store, whose))
        for stream in _streams(store):
            held += sum(whose.payload(payload) for _, payload in _entries(store, stream))
    return held


def rewrite(url: str, wait: Callable[[float], None] = time.sleep) -> bool:
    """Have the append-only file written anew; whether it was within two minutes."""
    with opened(url) as store:
        if not _persistence(store).get("aof_enabled"):
            return True
        try:
            store.bgrewriteaof()
        except RedisError as busy:
            if "in progress" not in str(busy):
                return False
        for _ in range(int(REWRITE_S / 0.1)):
            said = _persistence(store)
            if not said.get("aof_rewrite_in_progress") and not said.get("aof_rewrite_scheduled"):
                return said.get("aof_last_bgrewrite_status") == "ok"
            wait(0.1)
    return False


def _persistence(store: Redis) -> dict[str, Any]:
    found: Any = store.info("persistence")
    return dict(found)


def _keys(store: Redis, whose: Whose) -> Iterator[bytes]:
    for subject in whose.subjects:
        pattern = b"*" + _globbed(subject.encode()) + b"*"
        for key in store.scan_iter(match=pattern, count=BATCH):
            if whose.key(key):
                yield key


def _globbed(text: bytes) -> bytes:
    return re.sub(rb"([\\*?\[\]^-])", rb"\\\1", text)


def _streams(store: Redis) -> Iterator[bytes]:
    for shard in range(64):
        name = b"log:{%d}:stream" % shard
        if store.exists(name):
            yield name


def _entries(store: Redis, stream: bytes) -> Iterator[tuple[bytes, bytes]]:
    after = b"-"
    while True:
        found: Any = store.xrange(stream, min=after, count=BATCH)
        yield from ((offset, fields[b"p"]) for offset, fields in found)
        if len(found) < BATCH:
            return
        after = b"(" + found[-1][0]
