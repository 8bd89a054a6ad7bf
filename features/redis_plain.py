"""A plain blocking client, redis-py's, for batch work and process control; never on an event loop.

redis-py's own waits are a service's worst case (5 s, ten retries): here they are given, and nothing is tried
twice. Its errors become the port's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import Connection
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from features.redis_address import Refused, parse_address
from features.store import StoreUnavailable

TIMEOUT_S: Final = 10.0


def plain_client(url: str, timeout_s: float = TIMEOUT_S) -> Redis:
    """Opens nothing; a connection that was lost between two commands is made again. Raises BadStoreUrl.

    redis-py tells the server its own name at each connection, and must: its pool refuses a connection that
    has something to read, and reading those answers is what takes TLS's session tickets away.
    """
    parse_address(url)
    return Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )


@contextmanager
def opened(url: str, timeout_s: float = TIMEOUT_S) -> Iterator[Redis]:
    """A connected client. Raises Refused for an error reply, StoreUnavailable for none."""
    with plain_client(url, timeout_s) as client:
        client.connection_pool.release(_connected(client, url))
        with told(_lost(url)):
            yield client


@contextmanager
def piped(url: str, timeout_s: float = TIMEOUT_S) -> Iterator[Pipe]:
    """One connection, for commands that were packed elsewhere. Raises as `opened` does."""
    with plain_client(url, timeout_s) as client:
        yield Pipe(_connected(client, url), _lost(url))


@dataclass(frozen=True, slots=True)
class Pipe:
    """A connection of redis-py's; the caller knows how many replies are due."""

    connection: Connection
    lost: str

    def send(self, commands: bytes) -> None:
        with told(self.lost):
            self.connection.send_packed_command((commands,))  # type: ignore[no-untyped-call]  # it has no types

    def settle(self, count: int) -> None:
        """Read that many replies. Raises Refused for the first that is an error."""
        with told(self.lost):
            for _ in range(count):
                self.connection.read_response()


@contextmanager
def told(what: str) -> Iterator[None]:
    """redis-py's error replies become Refused, its other errors StoreUnavailable, led by `what`."""
    try:
        yield
    except RedisError as error:
        if error.status_code is not None:  # redis-py has taken the first word off the text
            raise Refused(f"{error.status_code} {error}") from error
        if isinstance(error, ResponseError):
            raise Refused(str(error)) from error
        raise StoreUnavailable(f"{what}: {error}") from error


def _connected(client: Redis, url: str) -> Connection:
    with told(f"no store at {parse_address(url).name}"):
        return client.connection_pool.get_connection()


def _lost(url: str) -> str:
    return f"the connection to the store at {parse_address(url).name} was lost"
