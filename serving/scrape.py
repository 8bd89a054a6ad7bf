"""Metrics on a port of the process's own, for Prometheus: behind HAProxy a scrape meets any replica.

Only `GET /metrics`, without a key: for a network that lets nobody but Prometheus in (k8s/base/network.yaml).
It answers on the service's own loop, as the sums that it reads are changed there.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Final

from serving.observe import CONTENT_TYPE
from serving.settings import SettingsError

WAIT_S: Final = 5.0
MOST_HEADER_BYTES: Final = 16_384


class Scraped:
    """`port` is the one listened on; None before `start` and where the settings name no ports."""

    def __init__(self, exposition: Callable[[], bytes]) -> None:
        self.port: int | None = None
        self._exposition = exposition
        self._server: asyncio.Server | None = None

    async def start(self, ports: range, host: str) -> None:
        """Listen on the first port that is free: replicas of one pod share the range.

        Raises SettingsError when each is taken. An empty range listens on nothing.
        """
        for port in ports:
            try:
                self._server = await asyncio.start_server(self._answer, host, port, limit=MOST_HEADER_BYTES)
            except OSError as taken:
                if taken.errno != errno.EADDRINUSE:
                    raise
                continue
            self.port = port
            return
        if ports:
            raise SettingsError(
                f"FENLIU_METRICS_PORTS={ports.start}-{ports.stop - 1}: each of them is taken; name one for"
                " each replica of a machine"
            )

    async def stop(self) -> None:
        """Safe to call twice."""
        server, self._server, self.port = self._server, None, None
        if server is not None:
            server.close()
            await server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
            found = head.startswith((b"GET /metrics ", b"GET /metrics?"))
            status, body = (b"200 OK", self._exposition()) if found else (b"404 Not Found", b"")
            writer.write(
                b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
                % (status, CONTENT_TYPE, len(body))
            )
            writer.write(body)
            await asyncio.wait_for(writer.drain(), WAIT_S)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a scraper that went away or never spoke
        finally:
            writer.close()
