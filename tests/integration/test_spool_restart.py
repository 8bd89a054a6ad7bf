"""Store away, events acknowledged, process killed, store back, process back: all there once, in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.embedded import EmbeddedValkey
from features.redis_log import RedisLog
from features.redis_plain import opened
from serving.settings import Settings
from training.doctor_spool import spool as examined

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]

# What a replica is between the HTTP surface and the log: appends line by line, answers when acknowledged.
REPLICA = """
import asyncio, sys
from prometheus_client import CollectorRegistry
from features.log import Entry
from features.redis_log import RedisLog
from features.redis_plain import opened
from serving.settings import Settings
from training.doctor_spool import spool as examined
from features.file_spool import FileSpool
from serving.durable import Durable
from serving.spool_metrics import SpoolMetrics

async def main():
    url, folder, level = sys.argv[1:]
    log, spool = RedisLog(url), FileSpool(folder, 1 << 24, segment=4096)
    durable = Durable(log, spool, level, SpoolMetrics(CollectorRegistry(), spool, 1, lambda: 1.0))
    async def nothing(_): ...
    await durable.start(nothing, lambda: True)
    print("up", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, subject = line.split()
        await durable.append([Entry(name, subject, f"{subject} {name}".encode())], 0.25)
        print(name, flush=True)
        if name == "last":
            while spool.entries:
                await asyncio.sleep(0.01)
            print("drained", flush=True)

asyncio.run(main())
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    made = EmbeddedValkey(tmp_path / "store", fsync="always").start()
    yield made
    made.stop()


def replica(url: str, folder: Path, level: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", REPLICA, url, str(folder), level],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    return process


def told(process: subprocess.Popen[str], name: str, subject: str) -> None:
    """Returns when it was acknowledged."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{name} {subject}\n")
    process.stdin.flush()
    assert process.stdout.readline().strip() == name


def ended(process: subprocess.Popen[str]) -> None:
    with process:  # its pipes are closed
        process.kill()


@pytest.mark.parametrize("level", ["stream", "stream+fsync"])
def test_nothing_is_lost_doubled_or_out_of_order(tmp_path: Path, server: EmbeddedValkey, level: str) -> None:
    folder, sent = tmp_path / "spool", list[tuple[str, str]]()

    def send(process: subprocess.Popen[str], count: int) -> None:
        for _ in range(count):
            sent.append((f"e{len(sent)}", f"u:{len(sent) % 3}"))
            told(process, *sent[-1])

    first = replica(server.url, folder, level)
    send(first, 10)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    send(first, 40)
    ended(first)  # with all of them in its spool, and a half-written record behind them
    newest = max(folder.rglob("*.seg"))
    with newest.open("ab") as file:
        file.write(b"\xf5FLs\x00\x01")
    second = replica(server.url, folder, level)  # the store is still away
    send(second, 10)
    again = EmbeddedValkey(server.folder, fsync="always").start()
    try:
        time.sleep(0.1)
        send(second, 10)
        told(second, "last", "u:0")
        assert second.stdout is not None and second.stdout.readline() == "drained\n"
        with RedisLog(again.url) as log:
            rows = [p.decode().split() for shard in range(log.shards) for _, p in log.read(shard, "0-0", 999)]
        for subject in ("u:0", "u:1", "u:2"):
            wanted = [name for name, of in sent if of == subject] + ["last"] * (subject == "u:0")
            assert [name for of, name in rows if of == subject] == wanted
        assert not list(folder.rglob("*.seg"))
    finally:
        ended(second)
        again.stop()


def test_the_doctor_says_what_an_old_store_cannot_do(tmp_path: Path, redis_url: str, valkey_url: str) -> None:
    def said(url: str) -> list[tuple[str, str]]:
        settings = Settings(home=tmp_path, log_url=url, durability="stream+fsync")
        return [one[:2] for one in examined(settings, time.time)]

    with opened(redis_url) as store:
        old = tuple(map(int, store.info("server")["redis_version"].split("."))) < (7, 2)
    assert (("durability", "bad") in said(redis_url)) == old
    assert said(valkey_url) == [("spool", "ok")]
