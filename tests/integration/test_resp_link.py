"""The multiplexed connection against a real server: order, failure, recovery, passwords, TLS."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvloop

from features.embedded import EmbeddedValkey
from features.redis_address import Refused, parse_address
from features.redis_plain import opened
from features.redis_resp import RespLink, Script
from features.redis_store import Fetcher
from features.store import StoreUnavailable

pytestmark = pytest.mark.integration


def with_link(url, steps, **options):
    async def run():
        link = RespLink(parse_address(url), **options)
        try:
            return await steps(link)
        finally:
            await link.close()

    return asyncio.run(run())


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_replies_go_to_those_who_asked(valkey_url, runner):
    async def run():
        link = RespLink(parse_address(valkey_url))
        replies = await asyncio.gather(*(link.command("ECHO", f"word {i}") for i in range(500)))
        await link.close()
        return replies

    assert runner(run()) == [b"word %d" % i for i in range(500)]


def test_many_commands_are_one_wait_and_the_first_refusal_fails_them_all(valkey_url):
    async def steps(link):
        await link.command("SET", "text", "x")
        many = await link.commands([("ECHO", f"{i}") for i in range(300)])
        none = await link.commands([])
        with pytest.raises(Refused):
            await link.commands([("ECHO", "a"), ("INCR", "text"), ("ECHO", "b")])
        return many, none, await link.command("ECHO", "after")

    many, none, after = with_link(valkey_url, steps)
    assert many == [b"%d" % i for i in range(300)] and none == [] and after == b"after"


def test_large_values_and_nulls_and_numbers(valkey_url):
    big = os.urandom(3_000_000)

    async def steps(link):
        await link.command("SET", "big", big)
        return await link.command("MGET", "big", "none"), await link.command("STRLEN", "big")

    assert with_link(valkey_url, steps) == ([big, None], len(big))


def test_an_error_reply_fails_its_own_command_only(valkey_url):
    async def steps(link):
        await link.command("SET", "text", "x")
        return await asyncio.gather(
            link.command("ECHO", "a"),
            link.command("INCR", "text"),
            link.command("NOSUCHCOMMAND"),
            link.command("ECHO", "b"),
            return_exceptions=True,
        )

    first, second, third, last = with_link(valkey_url, steps)
    assert (first, last) == (b"a", b"b")
    assert isinstance(second, Refused)
    assert isinstance(third, Refused)
    assert (second.code, third.code) == ("ERR", "ERR")


def test_a_script_is_sent_once_and_again_when_it_was_forgotten(valkey_url):
    script = Script("return {KEYS[1], ARGV[1], 7}")

    async def steps(link):
        first = await script.run(link, (b"k",), "a")
        await link.command("SCRIPT", "FLUSH")
        second = await script.run(link, (b"k",), b"a")
        broken = Script("return nonsense(")
        with pytest.raises(Refused, match="compiling"):
            await broken.run(link, ())
        return first, second

    assert with_link(valkey_url, steps) == ([b"k", b"a", 7], [b"k", b"a", 7])


def test_a_lost_connection_fails_what_was_under_way_and_the_next_command_reconnects(valkey_url):
    async def steps(link):
        own = await link.command("CLIENT", "ID")
        waiting = asyncio.create_task(link.command("BLPOP", "nothing", 5))
        await asyncio.sleep(0.05)
        with opened(valkey_url) as store:
            assert store.client_kill_filter(_id=own) == 1
        with pytest.raises(StoreUnavailable, match="closed the connection"):
            await waiting
        return await link.command("ECHO", "back")

    assert with_link(valkey_url, steps, stall_s=5.0) == b"back"


def test_while_the_store_is_away_commands_fail_at_once_and_recover(tmp_path):
    server = EmbeddedValkey(tmp_path).start()
    url = server.url

    async def steps(link):
        fetcher = Fetcher(link)
        assert await fetcher.fetch([b"k"]) == [None]
        server.stop()
        await asyncio.sleep(0.02)
        failed, slowest = 0, 0.0
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            start = time.perf_counter()
            with pytest.raises(StoreUnavailable):
                await fetcher.fetch([b"k"])
            slowest = max(slowest, time.perf_counter() - start)
            failed += 1
            await asyncio.sleep(0.001)
        server.start()
        until = time.monotonic() + 5
        while time.monotonic() < until:
            try:
                return failed, slowest, await fetcher.fetch([b"k"])
            except StoreUnavailable:
                await asyncio.sleep(0.01)
        return None

    try:
        failed, slowest, back = with_link(url, steps)
    finally:
        server.stop()
    assert failed > 50
    assert slowest < 0.2
    assert back == [None]


def test_a_store_that_hangs_is_given_up_and_taken_up_again(tmp_path):
    with EmbeddedValkey(tmp_path) as server:

        async def steps(link):
            await link.command("PING")
            os.kill(server.pid, signal.SIGSTOP)
            start = time.monotonic()
            try:
                with pytest.raises(StoreUnavailable):
                    await link.command("GET", "k")
                took = time.monotonic() - start
            finally:
                os.kill(server.pid, signal.SIGCONT)
            until = time.monotonic() + 5
            while time.monotonic() < until:
                try:
                    return took, await link.command("ECHO", "back")
                except StoreUnavailable:
                    await asyncio.sleep(0.02)
            return took, None

        took, back = with_link(server.url, steps, stall_s=0.3)
    assert 0.2 < took < 2.0
    assert back == b"back"


def test_a_connection_that_answers_is_not_taken_for_one_that_hangs(valkey_url):
    async def steps(link):
        before = await link.command("CLIENT", "ID")
        for _ in range(10):
            await link.command("ECHO", "x")
            await asyncio.sleep(0.05)
        return before, await link.command("CLIENT", "ID")

    before, after = with_link(valkey_url, steps, stall_s=0.1)
    assert before == after


def test_a_caller_whose_time_was_up_leaves_the_connection_in_order(valkey_url):
    async def steps(link):
        await link.command("PING")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await link.command("BLPOP", "nothing", 0.2)
        return await link.command("ECHO", "mine")

    assert with_link(valkey_url, steps, stall_s=5.0) == b"mine"


def test_nobody_there_is_unavailable_for_every_waiter(tmp_path):
    async def steps(link):
        return await asyncio.gather(*(link.command("PING") for _ in range(20)), return_exceptions=True)

    outcomes = with_link(f"unix://{tmp_path}/none", steps)
    assert all(isinstance(one, StoreUnavailable) for one in outcomes)


def test_a_port_that_accepts_and_says_nothing_runs_out_of_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]

        async def steps(link):
            start = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await link.command("PING")
            return time.monotonic() - start

        assert with_link(f"redis://:pw@127.0.0.1:{port}", steps, connect_s=0.1) < 1.0


def test_something_that_is_no_store_is_unavailable():
    async def steps(link):
        with pytest.raises(StoreUnavailable):
            await link.command("PING")

    async def run():
        async def web(reader, writer):
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(web, "127.0.0.1", 0)
        link = RespLink(parse_address(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        await steps(link)
        await link.close()
        server.close()
        await server.wait_closed()

    asyncio.run(run())


def test_password_and_database_come_from_the_url(tmp_path):
    with EmbeddedValkey(tmp_path, port=0) as server:
        name = server.url.rpartition("/")[0]

        async def write(link):
            await link.command("SET", "k", "in three")

        async def read(link):
            return await link.command("GET", "k")

        with_link(f"{name}/3", write)
        assert with_link(f"{name}/3", read) == b"in three"
        assert with_link(f"{name}/0", read) is None
        wrong = name.replace(":", ":wrong", 2).replace(":wrong//", "://", 1)
        with pytest.raises(StoreUnavailable, match="WRONGPASS"):
            with_link(f"{wrong}/0", read)


@contextmanager
def tls_server(folder: Path, *options: str) -> Iterator[tuple[int, dict[str, Path]]]:
    """A server of one's own certificate: its port, and files: cert, key; client and client_key it signed."""
    binary = shutil.which("redis-server")
    if binary is None or shutil.which("openssl") is None:
        pytest.skip("no redis-server with TLS on PATH, or no openssl to make a certificate with")
    files = {name: folder / f"{name}.pem" for name in ("cert", "key", "client", "client_key")}

    def openssl(words: str) -> None:
        subprocess.run(["openssl", *words.split()], check=True, capture_output=True)

    new = "-newkey rsa:2048 -nodes"
    openssl(
        f"req -x509 {new} -days 2 -subj /CN=localhost -keyout {files['key']} -out {files['cert']}"
        " -addext subjectAltName=DNS:localhost"
    )
    openssl(f"req {new} -subj /CN=fenliu -keyout {files['client_key']} -out {folder / 'asked.pem'}")
    openssl(
        f"x509 -req -days 2 -in {folder / 'asked.pem'} -CA {files['cert']} -CAkey {files['key']}"
        f" -set_serial 7 -out {files['client']}"
    )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    listens = f"--port 0 --tls-port {port} --bind 127.0.0.1 --dir {folder}"
    certified = f"--tls-cert-file {files['cert']} --tls-key-file {files['key']}"
    process = subprocess.Popen(
        [binary, *listens.split(), *certified.split(), *options], stdout=subprocess.DEVNULL
    )
    try:
        _wait_for(port)
        yield port, files
    finally:
        process.terminate()
        process.wait(10)


async def echoed(link):
    return await link.command("ECHO", "hidden")


def test_tls_checks_the_certificate(tmp_path):
    with tls_server(tmp_path, "--tls-auth-clients", "no") as (port, files):
        trusted = f"rediss://localhost:{port}?ssl_ca_certs={files['cert']}"
        anybody = f"rediss://127.0.0.1:{port}?ssl_cert_reqs=none"
        assert with_link(trusted, echoed, connect_s=2.0) == b"hidden"
        assert with_link(anybody, echoed, connect_s=2.0) == b"hidden"
        with opened(trusted) as store:
            assert store.echo("hidden") == b"hidden"
        for distrusted in (
            f"rediss://localhost:{port}",
            f"rediss://127.0.0.1:{port}?ssl_ca_certs={files['cert']}",
        ):
            with pytest.raises(StoreUnavailable, match="certificate verify failed"):
                with_link(distrusted, echoed, connect_s=2.0)
            with pytest.raises(StoreUnavailable, match="certificate verify failed"), opened(distrusted):
                pass


def test_tls_shows_a_certificate_of_its_own_where_the_server_asks_for_one(tmp_path):
    asks = ("--tls-auth-clients", "yes", "--tls-ca-cert-file", str(tmp_path / "cert.pem"))
    with tls_server(tmp_path, *asks) as (port, files):
        unknown = f"rediss://localhost:{port}?ssl_ca_certs={files['cert']}"
        known = f"{unknown}&ssl_certfile={files['client']}&ssl_keyfile={files['client_key']}"
        assert with_link(known, echoed, connect_s=2.0) == b"hidden"
        with opened(known) as store:
            assert store.echo("hidden") == b"hidden"
        with pytest.raises(StoreUnavailable):
            with_link(unknown, echoed, connect_s=2.0)
        with pytest.raises(StoreUnavailable), opened(unknown) as store:
            store.echo("hidden")


def _wait_for(port: int) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("the TLS server did not start")
