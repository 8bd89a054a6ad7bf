"""Customers into the feature store, beside what a plain pipelined SET of the same sizes reaches there."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console

from features.aggregate import fill
from features.embedded import EmbeddedValkey
from features.keyspace import ViewBatch
from features.redis_address import parse_address
from features.views import AGGREGATED_FIELDS, PROFILE
from training.bench.bank import SEED, Bank
from training.bench.tally import Tally
from training.materialize import write_features
from training.profiles import USER_ID, profile_records

PIPELINED: Final = 1_000  # commands a write of the plain client; it keeps two writes in flight
OK: Final = b"+OK\r\n"
TTL_S: Final = 40 * 86_400


def materialised(bank: Bank, customers: int, rounds: int, tally: Tally, console: Console) -> None:
    """In turns: ours from records in memory to a verified key space, and the plain client."""
    ids = [f"c{number:08d}" for number in range(customers)]
    records, features = _drawn(customers)
    plain = list(_commands(ids, PROFILE.pack(records, as_of=time.time())))
    console.print(f"{customers:,} customers of {PROFILE.wire_dtype.itemsize} bytes are ready to be written")
    whole: list[float] = []
    writing: list[float] = []
    plainly: list[float] = []
    for number in range(rounds):
        with _store() as url:
            began = time.perf_counter()
            batch = _packed(ids, records, features)
            middle = time.perf_counter()
            write_features(url, f"v{number}", [batch], rng=np.random.default_rng(SEED))
            ended = time.perf_counter()
            whole.append(ended - began)
            writing.append(ended - middle)
        with _store() as url:
            began = time.perf_counter()
            _send(url, plain)
            plainly.append(time.perf_counter() - began)
    ratio = median(plain_s / ours for plain_s, ours in zip(plainly, whole, strict=True))
    how = f"{customers:,} records packed, written, counted, a sample re-read; median of {rounds}"
    tally.put("materialised_per_s", customers / median(whole), "customers/s", how, (">=", 100_000.0))
    tally.put("materialise_write_per_s", customers / median(writing), "customers/s", "without the packing")
    sizes = f"pre-built SET key value EX ttl, {PIPELINED:,} a write, same keys and sizes"
    tally.put("plain_set_per_s", customers / median(plainly), "commands/s", sizes)
    tally.put("materialised_to_plain", ratio, "x plain")
    _read_from_table(bank, ids, tally)


def _drawn(customers: int) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """PROFILE records as a customers' table would fill them, and their aggregated fields."""
    rng = np.random.default_rng(SEED)
    records = PROFILE.blank(customers)
    for name in records.dtype.names or ():
        field = records[name]
        if field.dtype.kind == "S":
            records[name] = b"Asia/Shanghai"
        elif name not in AGGREGATED_FIELDS:
            records[name] = rng.integers(0, 2, field.shape)
    features = np.zeros(customers, [(name, records.dtype[name]) for name in AGGREGATED_FIELDS])
    for name in AGGREGATED_FIELDS:
        features[name] = rng.random(features[name].shape)
    return records, features


def _packed(ids: list[str], records: NDArray[np.void], features: NDArray[np.void]) -> ViewBatch:
    """As the step `materialise` builds them: aggregates joined to the profiles, then the wire form."""
    now = time.time()
    known = np.full(len(ids), PROFILE.all_known, np.uint64)
    fill(records, known, features)
    return ViewBatch(PROFILE, ids, PROFILE.pack(records, as_of=now, known=known), now)


def _read_from_table(bank: Bank, ids: list[str], tally: Tally) -> None:
    """The step before: a customers' table, text as a bank exports it, to records."""
    users = bank.world.users()
    repeated = pa.concat_tables([users] * (len(ids) // users.num_rows + 1)).slice(0, len(ids))
    at = repeated.column_names.index(USER_ID)
    table = repeated.set_column(at, USER_ID, pa.array(ids)).combine_chunks()
    began = time.perf_counter()
    profile_records(table, ids)
    took = time.perf_counter() - began
    tally.put("profile_records_per_s", len(ids) / took, "customers/s", "table in memory to records, once")


@contextmanager
def _store() -> Iterator[str]:
    """A fresh server: none pays for rewriting the log of the one before."""
    with tempfile.TemporaryDirectory(prefix="fenliu-bench-") as home, EmbeddedValkey(Path(home)) as store:
        yield store.url


def _commands(ids: list[str], blobs: NDArray[np.void]) -> Iterator[bytes]:
    """RESP, PIPELINED commands a piece; keys as long as ours."""
    size = PROFILE.wire_dtype.itemsize
    raw = blobs.tobytes()
    for first in range(0, len(ids), PIPELINED):
        piece = bytearray()
        for row in range(first, min(first + PIPELINED, len(ids))):
            key = f"fs:p0:profile:{{u:{ids[row]}}}".encode()
            piece += b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(key), key, size)
            piece += raw[row * size : (row + 1) * size]
            piece += b"\r\n$2\r\nEX\r\n$7\r\n%d\r\n" % TTL_S
        yield bytes(piece)


def _send(url: str, pieces: list[bytes]) -> None:
    """Every piece, two in flight, every reply counted. RuntimeError when one is no OK."""
    with socket.socket(socket.AF_UNIX) as store:
        store.connect(parse_address(url).path or "")
        waiting = 0
        for piece in pieces:
            store.sendall(piece)
            _replies(store, waiting)
            waiting = piece.count(b"*5\r\n$3\r\nSET")
        _replies(store, waiting)


def _replies(store: socket.socket, count: int) -> None:
    left = len(OK) * count
    while left:
        part = store.recv(min(left, 1 << 16))
        if not part or part.strip(OK):
            raise RuntimeError(f"the store refused a plain SET: {part[:80]!r}")
        left -= len(part)
