"""Where a store is: its URL read once, and a plain blocking connection for bulk writes and process control.

`redis://[user:password@]host:port/db`, `rediss://…` (TLS) and `unix://[user:password@]/path?db=n`; query
parameters of TLS: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs=none`. Passwords never
reach a message.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from features.store import StoreUnavailable

DEFAULT_PORT: Final = 6379


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


def parse_address(url: str) -> Address:
    """Raises BadStoreUrl, without repeating the URL: it may hold a password."""
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        username = unquote(parts.username) if parts.username else None
        password = unquote(parts.password) if parts.password is not None else None
        if parts.scheme == "unix":
            if not parts.path:
                raise BadStoreUrl("a unix:// store URL names the socket's path: unix:///folder/valkey.sock")
            return Address(
                path=unquote(parts.path), db=int(options.get("db", "0")), username=username, password=password
            )
        if parts.scheme not in ("redis", "rediss"):
            raise BadStoreUrl(f"a store URL begins with redis://, rediss:// or unix://, not {parts.scheme!r}")
        return Address(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or DEFAULT_PORT,
            db=int(parts.path.strip("/") or options.get("db", "0")),
            username=username,
            password=password,
            tls=tuple(sorted(options.items())) if parts.scheme == "rediss" else None,
        )
    except BadStoreUrl:
        raise
    except ValueError as error:
        raise BadStoreUrl("a store URL reads redis://[user:password@]host:port/db-number") from error


def pack(*parts: bytes) -> bytes:
    """One command in RESP."""
    return b"".join((b"*%d\r\n" % len(parts), *(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)))


Reply = bytes | int | list["Reply"] | None


class Wire:
    """A blocking connection. For batch work and process control; never on an event loop."""

    def __init__(self, address: Address, timeout_s: float = 10.0) -> None:
        try:
            self._socket = _dial(address, timeout_s)
            self._stream = self._socket.makefile("rb", 1 << 16)
            for command in address.greeting:
                self.call(*command)
        except Refused:
            self.close()
            raise
        except OSError as error:
            raise StoreUnavailable(f"no store at {address.name}: {error}") from error

    def call(self, *parts: bytes) -> Reply:
        """Raises Refused when the answer is an error."""
        self.send((pack(*parts),))
        return self.reply()

    def send(self, chunks: Iterable[bytes | memoryview]) -> None:
        with _lost():
            for chunk in chunks:
                self._socket.sendall(chunk)

    def exactly(self, size: int) -> bytes:
        with _lost():
            data: bytes = self._stream.read(size)
        if len(data) < size:
            raise StoreUnavailable("the store closed the connection")
        return data

    def line(self) -> bytes:
        with _lost():
            line: bytes = self._stream.readline()
        if not line.endswith(b"\r\n"):
            raise StoreUnavailable("the store closed the connection")
        return line[:-2]

    def reply(self) -> Reply:
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            raise Refused(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.exactly(int(rest) + 2)[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [self.reply() for _ in range(int(rest))]
        raise StoreUnavailable(f"not a store: it answered {line[:40]!r}")

    def close(self) -> None:
        if hasattr(self, "_stream"):
            self._stream.close()
        if hasattr(self, "_socket"):
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"the connection to the store was lost: {error}") from error


def _dial(address: Address, timeout_s: float) -> socket.socket:
    if address.path is not None:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(timeout_s)
        try:
            link.connect(address.path)
        except OSError:
            link.close()
            raise
        return link
    link = socket.create_connection((address.host, address.port), timeout_s)
    try:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = address.tls_context()
        return link if context is None else context.wrap_socket(link, server_hostname=address.host)
    except OSError:
        link.close()
        raise
