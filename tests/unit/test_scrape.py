"""Each replica of a machine answers `/metrics` on a port of its own, of a range that they share."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from features.ports import free_port
from serving.observe import Metrics
from serving.scrape import Scraped
from serving.settings import Settings, SettingsError


async def asked(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


def test_two_replicas_share_a_range_and_a_third_is_refused():
    async def steps():
        first = free_port()
        ports = range(first, first + 2)
        made = [Scraped(Metrics().exposition) for _ in range(3)]
        async with AsyncExitStack() as stack:
            for one in made:
                stack.push_async_callback(one.stop)
            await made[0].start(ports, "127.0.0.1")
            await made[1].start(ports, "127.0.0.1")
            taken = [one.port for one in made[:2]]
            with pytest.raises(SettingsError, match="each of them is taken"):
                await made[2].start(ports, "127.0.0.1")
            found = [await asked(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n") for port in taken]
            other = await asked(taken[0], b"GET /v1/plan HTTP/1.1\r\nHost: x\r\n\r\n")
        return taken, found, other

    taken, found, other = asyncio.run(steps())
    assert taken[0] != taken[1]
    assert all(one.startswith(b"HTTP/1.1 200 OK") and b"fenliu_in_flight" in one for one in found)
    assert other.startswith(b"HTTP/1.1 404") and b"fenliu" not in other


def test_no_range_listens_on_nothing():
    async def steps():
        one = Scraped(Metrics().exposition)
        await one.start(Settings().metrics_ports, "127.0.0.1")
        found = one.port
        await one.stop()
        return found

    assert asyncio.run(steps()) is None


@pytest.mark.parametrize("text", ["9200", "9200-", "9206-9200", "80-90", "a-b", "9200-70000"])
def test_a_range_that_is_none_is_refused(text):
    with pytest.raises(SettingsError, match="FENLIU_METRICS_PORTS must be FIRST-LAST"):
        Settings.from_env({"FENLIU_METRICS_PORTS": text})


def test_a_range_is_read():
    assert Settings.from_env({"FENLIU_METRICS_PORTS": "9200-9206"}).metrics_ports == range(9200, 9207)
