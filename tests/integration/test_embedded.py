"""The embedded store: start, reuse, restart with its data, a clean end however the owner ends, messages."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from features.embedded import EmbeddedError, EmbeddedValkey, open_store_url
from features.redis_address import parse_address
from features.redis_plain import opened
from features.store import StoreUnavailable

pytestmark = pytest.mark.integration


def answers(url: str) -> bool:
    with opened(url) as store:
        return store.ping()


def put(url: str, key: str, value: bytes) -> None:
    with opened(url) as store:
        store.set(key, value)


def held(url: str, key: str) -> bytes | None:
    with opened(url) as store:
        return store.get(key)


def setting(url: str, name: str) -> str:
    with opened(url) as store:
        return store.config_get(name)[name]


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # dead, and not yet collected by whoever adopted it


def wait_until(condition, seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_it_starts_answers_and_stops_without_an_orphan(tmp_path):
    server = EmbeddedValkey(tmp_path / "store")
    with pytest.raises(EmbeddedError, match="not been started"):
        _ = server.url
    server.start()
    url, pid = server.url, server.pid
    assert url.startswith("unix://")
    assert answers(url)
    assert server.start() is server
    assert server.pid == pid
    server.stop()
    assert wait_until(lambda: not runs(pid))
    assert server.pid is None
    server.stop()
    with pytest.raises(StoreUnavailable):
        answers(url)
    assert not list((tmp_path / "store").glob("*.sock"))


def test_it_keeps_what_it_acknowledged_across_a_restart(tmp_path):
    with EmbeddedValkey(tmp_path) as server:
        put(server.url, "k", bytes(range(256)))
    with EmbeddedValkey(tmp_path) as server:
        assert held(server.url, "k") == bytes(range(256))


def test_it_is_set_up_to_keep_and_not_to_evict(tmp_path):
    expected = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "auto-aof-rewrite-min-size": str(512 << 20),
        "maxmemory-policy": "noeviction",
        "save": "",
    }
    with EmbeddedValkey(tmp_path) as server:
        for name, value in expected.items():
            assert setting(server.url, name) == value
        assert (tmp_path / "valkey.sock").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "valkey.conf").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "valkey.json").stat().st_mode & 0o777 == 0o600


def test_a_second_start_in_the_folder_uses_the_first(tmp_path):
    with EmbeddedValkey(tmp_path) as first:
        second = EmbeddedValkey(tmp_path).start()
        assert (first.owned, second.owned) == (True, False)
        assert second.url == first.url
        second.stop()
        assert answers(first.url)


def test_starts_at_the_same_time_give_one_server(tmp_path):
    servers = [EmbeddedValkey(tmp_path) for _ in range(4)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert [server.owned for server in servers].count(True) == 1
        assert len({server.url for server in servers}) == 1
    finally:
        for server in servers:
            server.stop()


def test_a_loopback_port_needs_the_password(tmp_path):
    with EmbeddedValkey(tmp_path, port=0) as server:
        address = parse_address(server.url)
        assert address.host == "127.0.0.1"
        assert answers(server.url)
        with pytest.raises(StoreUnavailable, match="NOAUTH"):
            answers(f"redis://127.0.0.1:{address.port}")
        command_line = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert address.password.encode() not in command_line


def test_a_long_folder_name_gets_a_short_socket(tmp_path):
    folder = tmp_path / ("long" * 30)
    with EmbeddedValkey(folder) as server:
        path = Path(parse_address(server.url).path)
        assert len(str(path)) < 100
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert setting(server.url, "dir") == str(folder)
        assert EmbeddedValkey(folder).start().url == server.url
    path.parent.rmdir()


OWNER = textwrap.dedent("""
    import sys, threading, time
    from features.embedded import EmbeddedValkey
    server = EmbeddedValkey(sys.argv[1])
    starter = threading.Thread(target=server.start)  # a thread that ends before the server may
    starter.start(); starter.join()
    print(server.pid, server.url, flush=True)
    if sys.argv[2] == "wait":
        time.sleep(60)
""")


def owner(folder: Path, how: str) -> tuple[subprocess.Popen[str], int, str]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder), how],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": "."},
    )
    assert process.stdout is not None
    pid, url = process.stdout.readline().split()
    process.stdout.close()
    return process, int(pid), url


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_an_owner_that_is_killed_and_loses_nothing(tmp_path, sign):
    process, pid, url = owner(tmp_path, "wait")
    put(url, "k", b"kept")
    time.sleep(0.3)
    assert runs(pid)
    process.send_signal(sign)
    process.wait(10)
    assert wait_until(lambda: not runs(pid))
    with EmbeddedValkey(tmp_path) as server:
        assert held(server.url, "k") == b"kept"


def test_it_ends_with_an_owner_that_forgot_to_stop_it(tmp_path):
    process, pid, _ = owner(tmp_path, "leave")
    assert process.wait(15) == 0
    assert wait_until(lambda: not runs(pid))
    assert not (tmp_path / "valkey.json").exists()


def test_a_server_that_was_killed_is_replaced(tmp_path):
    first = EmbeddedValkey(tmp_path).start()
    os.kill(first.pid, signal.SIGKILL)
    assert wait_until(lambda: not runs(first.pid))
    with EmbeddedValkey(tmp_path) as second:
        assert second.owned
        assert answers(second.url)
        first.stop()  # of a server that is gone: nothing to end, and the second keeps its state
        assert EmbeddedValkey(tmp_path).start().url == second.url


def test_a_configured_store_is_used_and_said_to_be(tmp_path):
    opened = open_store_url("redis://me:hidden@store:7000/1", tmp_path / "none")
    assert opened.url == "redis://me:hidden@store:7000/1"
    assert opened.server is None
    assert "store:7000" in opened.message
    assert "not started" in opened.message
    assert "hidden" not in opened.message
    assert not (tmp_path / "none").exists()
    opened.close()


def test_without_one_the_embedded_is_started_and_says_how_to_change_that(tmp_path):
    opened = open_store_url(None, tmp_path)
    again = open_store_url("", tmp_path)
    assert answers(opened.url)
    assert "started" in opened.message
    assert "already running" in again.message
    assert "REDIS_URL" in opened.message
    again.close()
    assert answers(opened.url)
    opened.close()


def test_damaged_data_gives_the_reason_and_the_log(tmp_path):
    with EmbeddedValkey(tmp_path) as server:
        put(server.url, "k", b"v")
    manifest = next(tmp_path.glob("appendonlydir/*.manifest"))
    manifest.write_text("not a manifest\n")
    with pytest.raises(EmbeddedError, match=r"ended at its start.*valkey\.log"):
        EmbeddedValkey(tmp_path).start()
    manifest.unlink()
    shutil.rmtree(tmp_path / "appendonlydir")
    with EmbeddedValkey(tmp_path) as server:
        assert answers(server.url)


def test_a_folder_that_cannot_be_made_or_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match="cannot be made"):
        EmbeddedValkey(tmp_path / "file" / "store").start()
    with pytest.raises(EmbeddedError, match="quote or backslash"):
        EmbeddedValkey(tmp_path / 'a"b').start()
    with pytest.raises(EmbeddedError, match=r"cannot be started|ended at its start"):
        EmbeddedValkey(tmp_path / "none", binary=tmp_path / "no-such-server").start()
