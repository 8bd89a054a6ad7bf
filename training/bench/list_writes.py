"""Figures of lists: memberships written to the feature store, beside plain SETs of the same sizes there."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.embedded import EmbeddedValkey
from features.keyspace import KeySpace, ViewBatch
from features.materialise import materialise
from features.redis_plain import piped
from features.store import feature_key
from features.views import MEMBERSHIP
from serving.lists import ListShelf
from training.lake import Lake
from training.lists import Lists, read_ids
from training.memberships import change_memberships

VERSION: Final = "v1"
AS_OF: Final = 1_790_000_000.0
PIECE: Final = 1_000  # commands a write of the plain client; it keeps two writes in flight
FIRST, SECOND, THIRD = 7, 8, 9  # numbers of lists
NOBODY: Final = np.zeros(0, "S1")


def list_figures(members: int, rounds: int, tick: Callable[[int, int], None]) -> dict[str, float]:
    """Members a second, in the least disturbed of `rounds` with a fresh store each: a list of customers who
    are in none, a second one of the same, the first taken away; and a file uploaded whole (read, sorted, kept
    in the lake, written). `to_plain`: of plain pipelined SETs of the same keys and sizes, in turns; median.
    """
    ids = np.array([b"u%09d" % number for number in range(members)], np.bytes_)
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix="fenliu-lists-") as home:
            seconds = _round(Path(home), ids)
        for name, value in seconds.items():
            found.setdefault(name, []).append(value)
        tick(number + 1, rounds)
    plain = np.array(found["plain"])
    rates = {f"list_{name}_per_s": members / min(seconds) for name, seconds in found.items()}
    return rates | {"list_fresh_to_plain": float(np.median(plain / np.array(found["fresh"])))}


def _round(home: Path, ids: NDArray[np.bytes_]) -> dict[str, float]:
    file = home / "list.txt"
    file.write_bytes(b"\n".join(ids.tolist()))
    with EmbeddedValkey(home / "plain") as store:
        plain = _timed(lambda: _plainly(store.url, ids))
    with EmbeddedValkey(home / "store") as store:
        url, space = store.url, _space(store.url)
        seconds = {
            "fresh": _timed(lambda: change_memberships(url, space, FIRST, add=ids, remove=NOBODY)),
            "second": _timed(lambda: change_memberships(url, space, SECOND, add=ids, remove=NOBODY)),
            "removed": _timed(lambda: change_memberships(url, space, FIRST, add=NOBODY, remove=ids)),
        }
        lists = Lists(ListShelf(str(home / "registry")), Lake(home / "lake"), url, space)
        seconds["uploaded"] = _timed(
            lambda: lists.write("bench", read_ids(file), kind="upload", owner="head", at=AS_OF)
        )
    return seconds | {"plain": plain}


def _space(url: str) -> KeySpace:
    """A key space with memberships, of somebody who is in no list here."""
    held = MEMBERSHIP.blank(1)
    held["audiences"][:, 0] = THIRD
    batch = ViewBatch(MEMBERSHIP, ["nobody"], MEMBERSHIP.pack(held, as_of=AS_OF), AS_OF)
    return materialise(url, VERSION, [batch], rng=np.random.default_rng(0))


def _plainly(url: str, ids: NDArray[np.bytes_]) -> None:
    """A record each, as short commands as there are, replies counted."""
    value = bytes(MEMBERSHIP.size)
    seconds = b"%d" % MEMBERSHIP.ttl.total_seconds()
    tail = b"$%d\r\n%b\r\n$2\r\nEX\r\n$%d\r\n%b\r\n" % (len(value), value, len(seconds), seconds)
    before, after = feature_key(VERSION, MEMBERSHIP.name, "\0", MEMBERSHIP.entity).split(b"\0")
    width = len(before) + ids.itemsize + len(after)
    head = b"*5\r\n$3\r\nSET\r\n$%d\r\n%b" % (width, before)
    between = after + b"\r\n" + tail
    with piped(url) as pipe:
        waiting = 0
        for at in range(0, len(ids), PIECE):
            some = ids[at : at + PIECE].tolist()
            pipe.send(head + (between + head).join(some) + between)
            pipe.settle(waiting)
            waiting = len(some)
        pipe.settle(waiting)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
