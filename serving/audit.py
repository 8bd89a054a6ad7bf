"""The audit log: who did what, when and why, append-only, each record bound to the one before.

A record is one line of JSON with sorted keys; `hash` is SHA-256 over that line without `hash`, and `prev` the
hash of the record before (64 zeros for the first). So a changed byte, a record taken out, put in or moved
breaks the chain at a place that `verify` names. A tail that was cut off leaves a whole chain behind; it is
found against the heads, which are kept apart: one beside the log, and any that the caller keeps (in control,
on another machine, on paper). Whoever can rewrite the log and every head can forge it: keep one elsewhere.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, NamedTuple

from serving.append_only import AppendOnly, Files

NOTHING: Final = "0" * 64
REASON_CHARS: Final = 500
HEAD: Final = "HEAD.json"
LOOKS, LOOK_S = 20, 0.025  # how often, and after how long, a head that is missing is looked for again
_FIELDS: Final = ("seq", "at", "principal", "key", "action", "object", "reason", "detail", "prev", "hash")


class AuditError(ValueError):
    """The log cannot be trusted or written; says where and what to do."""


class Moved(Exception):
    """Somebody else wrote first: look again and decide again."""


class Head(NamedTuple):
    """The last record there was: its number and hash. (0, NOTHING) before the first."""

    seq: int = 0
    hash: str = NOTHING

    @property
    def text(self) -> str:
        return f"{self.seq}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be recorded. `detail` holds JSON values only; no secrets, no customers."""

    principal: str
    action: str
    object: str = ""
    reason: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""  # id of the key that was shown


@dataclass(frozen=True, slots=True)
class Record:
    """An entry in its place. `at` is RFC 3339, never before the record before."""

    seq: int
    at: str
    principal: str
    key: str
    action: str
    object: str
    reason: str
    detail: Mapping[str, Any]
    prev: str
    hash: str

    @property
    def head(self) -> Head:
        return Head(self.seq, self.hash)

    @property
    def time(self) -> float:
        """POSIX seconds."""
        return datetime.fromisoformat(self.at).timestamp()

    def line(self) -> bytes:
        return canonical(asdict(self))


class Verdict(NamedTuple):
    """What `verify` found. `broken`: number of the first record that does not hold; None when all do."""

    records: int
    head: Head
    broken: int | None = None
    problem: str = ""

    @property
    def ok(self) -> bool:
        return self.broken is None and not self.problem


def canonical(value: Any) -> bytes:
    """The one way to write a JSON value: sorted keys, no spaces, UTF-8. Raises ValueError for NaN."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode()


def digest(value: Any) -> str:
    """SHA-256 of the canonical bytes, 64 hex digits."""
    return sha256(canonical(value)).hexdigest()


def chained(entry: Entry, prev: Head, at: str) -> Record:
    """The record of an entry after `prev`. Raises ValueError when its detail is not JSON."""
    reason = " ".join(entry.reason.split())[:REASON_CHARS]
    body = {
        "seq": prev.seq + 1,
        "at": at,
        "principal": entry.principal,
        "key": entry.key,
        "action": entry.action,
        "object": entry.object,
        "reason": reason,
        "detail": json.loads(canonical(entry.detail)),
        "prev": prev.hash,
    }
    return Record(**body, hash=digest(body))


def parse_record(raw: bytes, prev: Head) -> Record:
    """The record after `prev`. Raises AuditError saying what about it does not hold."""
    where = f"audit record {prev.seq + 1}"
    try:
        body = json.loads(raw)
        record = Record(**{name: body.pop(name) for name in _FIELDS})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AuditError(f"{where} cannot be read ({str(error)[:80]})") from None
    if body or record.line() + b"\n" != raw:
        raise AuditError(f"{where} is not written as records are")
    if record.seq != prev.seq + 1:
        raise AuditError(f"{where} has the number {str(record.seq)[:20]}")
    if record.prev != prev.hash:
        raise AuditError(f"{where} does not follow the record before it")
    if record.hash != digest({name: getattr(record, name) for name in _FIELDS if name != "hash"}):
        raise AuditError(f"{where} was changed: its hash is another")
    return record


class Audit:
    """`url`: the registry's. `clock` gives POSIX seconds. Calls block; safe to call from several threads."""

    def __init__(self, url: str, clock: Callable[[], float] = time.time, block: int = 500) -> None:
        self._log = AppendOnly(url, "governance/audit", block)
        self._heads = Files(url, "governance")
        self._clock = clock
        self._lock = threading.Lock()
        self.records: list[Record] = []  # all that were read, by number - 1

    @property
    def head(self) -> Head:
        """Of what was read."""
        return self.records[-1].head if self.records else Head()

    def refresh(self) -> list[Record]:
        """Read what others wrote since; returns it. Raises AuditError when it does not hold, or was cut."""
        with self._lock:
            kept = self.kept()  # first: a record is there before the head names it
            fresh = self._read_on()
            for _ in range(LOOKS):  # of the very first writers none may have kept a head yet
                if kept.seq or self.head.seq <= 1:
                    break
                time.sleep(LOOK_S)
                kept = self.kept()
                fresh += self._read_on()
            self._uncut(kept)
            return fresh

    def append(self, entry: Entry, after: Head) -> Record:
        """Write the record that follows `after`. Raises Moved when there is one, AuditError, OSError."""
        with self._lock:
            if after != self.head:
                raise Moved
            last = self.records[-1].at if self.records else ""
            record = chained(entry, after, max(last, rfc3339(self._clock())))
            if not self._log.create(record.seq, record.line()):
                raise Moved
            self.records.append(record)
            self._keep()
            return record

    def _read_on(self) -> list[Record]:
        fresh: list[Record] = []
        for raw in self._log.since(len(self.records)):
            fresh.append(parse_record(raw, self.head))
            self.records.append(fresh[-1])
        return fresh

    def _keep(self) -> None:
        """Write the head; again when another writer came between, whose newer one ours has replaced."""
        while True:
            self._heads.replace(HEAD, canonical({"seq": self.head.seq, "hash": self.head.hash}) + b"\n")
            if not self._read_on():
                return

    def write(self, entry: Entry) -> Record:
        """Append whatever else is written meanwhile: for facts that depend on no other record."""
        while True:
            try:
                self.refresh()
                return self.append(entry, self.head)
            except Moved:
                continue

    def _uncut(self, kept: Head) -> None:
        """The head beside the log may be behind (a writer died), never ahead."""
        remedy = "restore governance/ from a copy, then run: fenliu audit verify"
        if kept.seq > self.head.seq:
            there = f"the audit log ends at record {self.head.seq}, but {kept.seq} were written"
            raise AuditError(f"{there}: its tail was cut; {remedy}")
        if kept.seq == 0 and self.head.seq > 1:
            raise AuditError(
                f"governance/{HEAD} is missing: nobody knows where the audit log ended; {remedy}"
            )
        if kept.seq and self.records[kept.seq - 1].hash != kept.hash:
            raise AuditError(f"audit record {kept.seq} is not the one that was written; {remedy}")

    def kept(self) -> Head:
        """The head beside the log. Raises AuditError when it cannot be read."""
        raw = self._heads.read(HEAD)
        if raw is None:
            return Head()
        try:
            body = json.loads(raw)
            return Head(int(body["seq"]), str(body["hash"]))
        except (ValueError, KeyError, TypeError):
            raise AuditError(f"governance/{HEAD} is damaged: restore it from a copy") from None

    def verify(self, *heads: Head) -> Verdict:
        """Read everything again and check it against the kept head and those given. Raises OSError."""
        try:
            known = (self.kept(), *heads)
        except AuditError as bad:
            return Verdict(0, Head(), 1, str(bad))
        sealed = dict(self._sealed_lines())
        at, last, seen = Head(), self._log.last(), {0: NOTHING}
        for number in range(1, last + 1):
            raw = self._log.read(number)
            try:
                if raw is None:
                    raise AuditError(f"audit record {number} is missing")
                at = parse_record(raw, at).head
                if sealed.get(number, raw) != raw:
                    raise AuditError(f"audit record {number} differs from its block's joined file")
            except AuditError as broken:
                return Verdict(number - 1, at, number, str(broken))
            seen[number] = at.hash
        return _against(at, seen, known)

    def _sealed_lines(self) -> Iterator[tuple[int, bytes]]:
        for first, lines in self._log.sealed().items():
            yield from enumerate(lines, first)


def _against(at: Head, seen: Mapping[int, str], heads: tuple[Head, ...]) -> Verdict:
    """The whole chain read against what heads remember of it; the first is the one beside the log."""
    if at.seq and heads[0].seq == 0:
        problem = f"governance/{HEAD} is missing: nobody knows whether the tail is whole"
        return Verdict(at.seq, at, at.seq + 1, problem)
    for head in heads:
        if head.seq > at.seq:
            problem = f"{head.seq} records were written, {at.seq} are there: the tail was cut"
            return Verdict(at.seq, at, at.seq + 1, problem)
        if seen[head.seq] != head.hash:
            problem = f"audit record {head.seq} is not the one that a head remembers"
            return Verdict(at.seq, at, head.seq, problem)
    return Verdict(at.seq, at)


def parse_head(text: str) -> Head:
    """`SEQ:HASH`, as `fenliu audit verify` prints it. Raises AuditError."""
    found = re.fullmatch(r"(\d{1,12}):([0-9a-f]{64})", text.strip())
    if found is None:
        raise AuditError("a head is SEQ:HASH, as fenliu audit verify prints it")
    return Head(int(found[1]), found[2])


def rfc3339(at: float) -> str:
    """POSIX seconds as "2026-03-01T08:00:00.123Z": texts of one length, which sort like times."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
