"""`fenliu doctor` on traces: is a collector there, where one is named."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from serving.settings import Settings
from training.finding import Finding

TIMEOUT_S: Final = 3.0


def trace_findings(settings: Settings) -> Iterator[Finding]:
    """Nothing where no collector is named; else connects to it, and sends nothing."""
    if settings.traces is None:
        return
    parts = urlsplit(settings.traces.endpoint)
    where = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    told = f"{settings.traces.ratio:.2%} of requests to {where[0]}:{where[1]}"
    try:
        socket.create_connection(where, TIMEOUT_S).close()
    except OSError as away:
        remedy = "is FENLIU_TRACES right, and the collector running? Spans are dropped until then"
        yield Finding("traces", "warn", f"{told}, which does not answer ({away})", remedy)
        return
    yield Finding("traces", "ok", told)
