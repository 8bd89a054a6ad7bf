"""Where a store is: its URL, as redis-py reads it, less what the service would not heed.

`redis://[user:password@]host:port/db`, `rediss://…` (TLS) and `unix://[user:password@]/path?db=n`; query
parameters of TLS: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs=none`. Passwords never
reach a message.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

from redis.connection import parse_url

from features.store import StoreUnavailable

DEFAULT_PORT: Final = 6379
_OPTIONS: Final = frozenset(("db", "username", "password"))
_TLS: Final = frozenset(("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"))
_FORM: Final = "a store URL reads redis://, rediss:// or unix://, [user:password@]host:port/db-number"


class BadStoreUrl(ValueError):
    """A store URL that cannot be read."""


class Refused(StoreUnavailable):
    """The store answered with an error; `code` is its first word."""

    def __init__(self, text: str) -> None:
        super().__init__(f"the store refused: {text}")
        self.text = text
        self.code = text.partition(" ")[0]


@dataclass(frozen=True, slots=True)
class Address:
    """One server and database: `path` of a unix socket, or `host` and `port`."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: tuple[tuple[str, str], ...] | None = None

    @property
    def name(self) -> str:
        """For messages: no secret in it."""
        return self.path or f"{self.host}:{self.port}"

    @property
    def greeting(self) -> tuple[tuple[bytes, ...], ...]:
        """The commands that make a fresh connection ours."""
        commands: list[tuple[bytes, ...]] = []
        if self.password is not None:
            names = (self.username,) if self.username else ()
            commands.append((b"AUTH", *(part.encode() for part in (*names, self.password))))
        if self.db:
            commands.append((b"SELECT", b"%d" % self.db))
        return tuple(commands)

    def tls_context(self) -> ssl.SSLContext | None:
        if self.tls is None:
            return None
        options = dict(self.tls)
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if options.get("ssl_cert_reqs") == "none":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
        return context


def as_user(url: str, name: str, password: str) -> str:
    """The same store for another of its users."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{quote(name, safe='')}:{quote(password, safe='')}@{place}").geturl()


def parse_address(url: str) -> Address:
    """Raises BadStoreUrl, without repeating the URL: it may hold a password."""
    try:
        parts = urlsplit(url)
        known: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py's has no types
    except ValueError:
        raise BadStoreUrl(_FORM) from None  # not `from` it: its text may be a part of the URL
    folder = parts.path.strip("/")
    if parts.scheme == "unix" and not folder:
        raise BadStoreUrl("a unix:// store URL names the socket's path: unix:///folder/valkey.sock")
    if parts.scheme != "unix" and folder and not folder.isdecimal():
        raise BadStoreUrl(_FORM)
    tls = parts.scheme == "rediss"
    if unknown := dict(parse_qsl(parts.query)).keys() - (_OPTIONS | _TLS if tls else _OPTIONS):
        raise BadStoreUrl(f"a {parts.scheme}:// store URL has no option {', '.join(sorted(unknown))}")
    options = tuple(sorted((name, known.pop(name)) for name in _TLS & known.keys()))
    known.pop("connection_class", None)
    return Address(**known, tls=options if tls else None)
