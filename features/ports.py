"""A port to listen on that nothing else will take in the meantime."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import Final

CALLERS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")  # Linux; what outgoing connections are given
FIRST, LAST = 20_000, 29_999  # below what systems give to callers, and beside what Ray takes for itself
TRIES: Final = 64


def free_port(first: int = FIRST, last: int = LAST) -> int:
    """A loopback port of `first` to `last` that nobody listens on.

    The kernel's own choice (port 0) comes from the range that it gives to outgoing connections: between the
    choice and the moment a server binds it, any client of the machine may have been given it. Only where
    that range covers ours, or all of ours is taken, the kernel chooses.
    """
    lowest, highest = _callers()
    if last < lowest or highest < first:
        for _ in range(TRIES):
            port = first + secrets.randbelow(last - first + 1)  # not the next one: others choose too
            if _free(port):
                return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _callers() -> tuple[int, int]:
    """The ports of outgoing connections: Linux says, others keep to IANA's (RFC 6335)."""
    try:
        lowest, highest = map(int, CALLERS.read_text().split())
    except (OSError, ValueError):
        return 49_152, 65_535
    return lowest, highest
