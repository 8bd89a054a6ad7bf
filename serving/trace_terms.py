"""Where traces of requests go, and of how many: FENLIU_TRACES and FENLIU_TRACES_RATIO. Off by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from serving.setting_values import SettingsError, number_within

RATIO: Final = 0.01


class TraceTerms(NamedTuple):
    """`endpoint`: of OTLP over HTTP, whole; `ratio`: of requests that nobody upstream decided about."""

    endpoint: str
    ratio: float = RATIO


def trace_terms(given: Mapping[str, str]) -> TraceTerms | None:
    """None where no endpoint is named: then nothing is recorded and nothing leaves. Raises SettingsError."""
    ratio = number_within(given, "FENLIU_TRACES_RATIO", RATIO, 0.0, 1.0)
    url = given.get("FENLIU_TRACES")
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise SettingsError(
            "FENLIU_TRACES is the URL of an OTLP/HTTP collector, such as http://collector:4318/v1/traces,"
            " without user or password (OTEL_EXPORTER_OTLP_HEADERS takes those)"
        )
    return TraceTerms(url, ratio)
