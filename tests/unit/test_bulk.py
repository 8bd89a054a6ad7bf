"""The byte layout of a bulk write, against commands built one by one, and the refusals it must not hide."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import BinaryIO

import numpy as np
import pytest

from features.bulk import BulkError, bulk_write, verify
from features.schema import Field, View
from features.store import StoreUnavailable, feature_key

VIEW = View("taste", "user", timedelta(days=40), (Field("a", "<f4"), Field("raw", "S5")))


class FakeServer:
    """Keeps what it is sent, and answers each command with the next of `answers` (or OK)."""

    def __init__(self, path: str, answers: list[bytes], hang_up_after: int | None = None) -> None:
        self.commands: list[list[bytes]] = []
        self._answers = answers
        self._hang_up_after = hang_up_after
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(1)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the client may leave in the middle
            link, _ = self._listener.accept()
            with link, link.makefile("rb") as stream:
                self._answer(link, stream)

    def _answer(self, link: socket.socket, stream: BinaryIO) -> None:
        while line := stream.readline():
            parts = []
            for _ in range(int(line[1:])):
                parts.append(stream.read(int(stream.readline()[1:]) + 2)[:-2])
            if parts[0] == b"CLIENT":  # redis-py introduces itself
                link.sendall(b"+OK\r\n")
                continue
            at = len(self.commands)
            if at == self._hang_up_after:
                return
            self.commands.append(parts)
            link.sendall(self._answers[at] if at < len(self._answers) else b"+OK\r\n")

    def close(self) -> None:
        self._listener.close()
        self.thread.join(5)


@pytest.fixture
def serve(tmp_path) -> Iterator:
    started: list[FakeServer] = []

    def start(answers=(), hang_up_after=None) -> tuple[FakeServer, str]:
        path = tmp_path / f"s{len(started)}"
        started.append(FakeServer(str(path), list(answers), hang_up_after))
        return started[-1], f"unix://{path}"

    yield start
    for server in started:
        server.close()


def packed(n: int, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    records = VIEW.blank(n)
    records["a"] = rng.normal(size=n)
    records["raw"] = [bytes(one) for one in rng.integers(0, 256, (n, 5), dtype=np.uint8)]
    return VIEW.pack(records, as_of=1.8e9)


def test_every_command_is_what_one_built_alone_would_be(serve):
    server, url = serve()
    ids = [f"u{i}" for i in range(0, 1200, 7)] + ["客户一", "x" * 64, "a}b{c", "with space"]
    blobs = packed(len(ids))
    told: list[int] = []
    assert bulk_write(url, VIEW, "v9", ids, blobs, progress=told.append) == len(ids) == sum(told)
    server.close()
    by_key = {parts[1]: parts for parts in server.commands}
    assert len(by_key) == len(ids) == len(server.commands)
    for one, blob in zip(ids, blobs, strict=True):
        name, _, value, ex, ttl = by_key[feature_key("v9", "taste", one)]
        assert (name, value, ex) == (b"SET", blob.tobytes(), b"EX")
        assert 0.9 * 40 * 86_400 <= int(ttl) <= 1.1 * 40 * 86_400


def test_ids_may_be_an_array_and_ttls_of_several_lengths(serve):
    server, url = serve()
    ids = np.array([f"u{i:03d}".encode() for i in range(500)])
    assert bulk_write(url, VIEW, "v9", ids, packed(500), ttl_s=100) == 500
    server.close()
    ttls = sorted(int(parts[4]) for parts in server.commands)
    assert {len(parts[4]) for parts in server.commands} == {2, 3}
    assert (ttls[0], ttls[-1]) == (90, 110)
    assert np.bincount(ttls)[91:110].min() > 15  # spread, not bunched


def test_large_writes_go_in_pieces(serve, monkeypatch):
    monkeypatch.setattr("features.bulk.PIECE_BYTES", 1000)
    server, url = serve()
    told: list[int] = []
    assert (
        bulk_write(url, VIEW, "v9", [f"u{i:04d}" for i in range(100)], packed(100), progress=told.append)
        == 100
    )
    server.close()
    assert len(told) > 5
    assert sum(told) == 100


def test_nothing_to_write_is_nothing(serve):
    _, url = serve()
    assert bulk_write(url, VIEW, "v9", [], packed(0)) == 0


@pytest.mark.parametrize("at", [0, 3, 9])
@pytest.mark.parametrize(
    "text", [b"-OOM command not allowed", b"-NOPERM no permission for this user", b"-ERR"]
)
def test_a_refusal_is_named(serve, at, text):
    _, url = serve([b"+OK\r\n"] * at + [text + b"\r\n"])
    with pytest.raises(BulkError, match=text[1:].decode()):
        bulk_write(url, VIEW, "v9", [f"u{i}" for i in range(10)], packed(10))


def test_a_store_that_hangs_up_is_unavailable(serve):
    _, url = serve(hang_up_after=4)
    with pytest.raises(StoreUnavailable):
        bulk_write(url, VIEW, "v9", [f"u{i}" for i in range(10)], packed(10))


def test_a_store_that_does_not_answer_is_unavailable(serve, monkeypatch):
    monkeypatch.setattr("features.bulk.TIMEOUT_S", 0.1)
    _, url = serve([b""])
    with pytest.raises(StoreUnavailable, match="was lost: Timeout"):
        bulk_write(url, VIEW, "v9", ["u"], packed(1))


def test_no_store_is_unavailable(tmp_path):
    with pytest.raises(StoreUnavailable, match="no store at"):
        bulk_write(f"unix://{tmp_path}/none", VIEW, "v9", ["u"], packed(1))


@pytest.mark.parametrize(
    ("ids", "blobs", "ttl_s"),
    [
        (["a"], packed(2), None),
        (["a", "b"], packed(1), None),
        (["a"], np.zeros(1, "V9"), None),
        (["a"], packed(1), 0.5),
        (["a"], packed(1), float("nan")),
    ],
)
def test_what_cannot_be_written_is_refused_before_a_connection(ids, blobs, ttl_s):
    with pytest.raises(ValueError, match=r"record"):
        bulk_write("unix:///nowhere", VIEW, "v9", ids, blobs, ttl_s)


def test_verify_counts_and_compares(serve):
    ids, blobs = ["a", "b", "c"], packed(3)
    values = b"*3\r\n" + b"".join(b"$%d\r\n%b\r\n" % (VIEW.size, one.tobytes()) for one in blobs)
    rng = np.random.default_rng(1)

    server, url = serve([b":3\r\n", values])
    assert verify(url, VIEW, "v9", ids, blobs, 10, rng) == 3
    server.close()
    assert [parts[0] for parts in server.commands] == [b"EXISTS", b"MGET"]

    _, url = serve([b":2\r\n"])
    with pytest.raises(BulkError, match="3 records written, 2 found"):
        verify(url, VIEW, "v9", ids, blobs, 10, rng)

    changed = bytearray(values)
    changed[-3] ^= 1
    _, url = serve([b":3\r\n", bytes(changed)])
    with pytest.raises(BulkError, match=r"u:c.*differs"):
        verify(url, VIEW, "v9", ids, blobs, 10, rng)

    _, url = serve([b":3\r\n", b"*3\r\n" + 3 * b"$-1\r\n"])
    with pytest.raises(BulkError, match="differs"):
        verify(url, VIEW, "v9", ids, blobs, 10, rng)
