"""Logs as one JSON object a line, with the decision id of the request they were written in; secrets cut out.

`FENLIU_LOG=json` switches it on in every process that serves. The id comes from a context variable: what a
request awaits carries it along, so no call passes it on.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, TextIO
from urllib.parse import unquote, urlsplit

import orjson

DECISION: ContextVar[str | None] = ContextVar("decision_id", default=None)
JSON: Final = "json"
_SECRETS: Final = (
    (re.compile(r"(\w+://[^\s:/@]*:)[^\s@/]+@"), r"\1***@"),  # a password in a URL
    (re.compile(r"\bfl_[0-9a-f]{6,}_[A-Za-z0-9_-]+"), "fl_***"),  # a principal's key
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), "jwt ***"),  # a token of an identity provider
    (re.compile(r"(?i)\b(bearer|x-api-key:?)\s+[^\s\"',]+"), r"\1 ***"),
    (re.compile(r"\b[0-9a-f]{32,}\b"), "***"),  # what signs page tokens, in hex
)
_ROOT: Final = "fenliu"
_OTHERS: Final = ("asyncio", "uvicorn.error")  # they tell of our errors too, in their own words
_NAMED: Final = (
    "FENLIU_APP_KEY", "FENLIU_APP_KEY_BEFORE", "FENLIU_KEY", "FENLIU_KEEPER_PASSWORD",
    "OTEL_EXPORTER_OTLP_HEADERS",
)  # fmt: skip
LEAST_SECRET: Final = 6  # characters: shorter ones would cut up words
_known: re.Pattern[str] | None = None  # the secrets of this process, by their very text


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
        }
        if (decision := DECISION.get()) is not None:
            line["decision_id"] = decision
        if record.exc_info:
            line["exception"] = redacted(self.formatException(record.exc_info))
        return orjson.dumps(line, default=str).decode()


class PlainLines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def secrets_in(env: Mapping[str, str]) -> set[str]:
    """Every secret that the environment holds: keys, what signs tokens, passwords in URLs."""
    found = {env[name].strip() for name in _NAMED if name in env}
    found |= {one.partition(":")[2].strip() for one in env.get("FENLIU_TOKEN_KEYS", "").split(",")}
    for value in env.values():
        if "://" in value:
            with suppress(ValueError):
                password = urlsplit(value).password
                found |= {password, unquote(password)} if password else set()
    return {one for one in found if len(one) >= LEAST_SECRET}


def know_secrets(env: Mapping[str, str]) -> None:
    """From now on `redacted` knows this process's secrets, whatever they look like."""
    global _known
    found = sorted(secrets_in(env), key=len, reverse=True)
    _known = re.compile("|".join(map(re.escape, found))) if found else None


def redacted(text: str) -> str:
    """Without this process's secrets, and what looks like a password, a key or a token."""
    if _known is not None:
        text = _known.sub("***", text)
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def set_up(env: Mapping[str, str], stream: TextIO | None = None) -> None:
    """Loggers below `fenliu`, and those that tell of its errors, write to `stream` (stderr), secrets cut out.

    Doing it again changes the form.
    """
    know_secrets(env)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if env.get("FENLIU_LOG", "").strip() == JSON else PlainLines())
    for name in (_ROOT, *_OTHERS):
        log = logging.getLogger(name)
        for old in [one for one in log.handlers if isinstance(one.formatter, JsonLines | PlainLines)]:
            log.removeHandler(old)
        log.addHandler(handler)
        log.propagate = False
