"""Live logs written where the store has none: for history that did not come in through the service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from redis import Redis

from features.live_store import live_keys
from features.redis_plain import opened
from features.views import LOG_TTL

PIECE: Final = 2000  # subjects a pipeline


class Logs(NamedTuple):
    """One subject's packed RECENT and CONTACT logs, oldest entry first; either may be empty."""

    subject: str
    recent: bytes
    contact: bytes


Fill = Callable[[Sequence[Logs], Callable[[int, int], None] | None], int]


@contextmanager
def filling(url: str, what: str) -> Iterator[Fill | None]:
    """A function that writes logs, or None when the store was filled with `what` before.

    Where a log exists it is left as it is. The store remembers `what` once the block ends well, for as long
    as the logs live. Raises StoreUnavailable.
    """
    mark = f"lv:filled:{what}".encode()
    with opened(url) as client:
        if client.exists(mark):
            yield None
            return
        yield lambda logs, progress: _write(client, logs, progress)
        client.set(mark, b"1", ex=LOG_TTL)


def _write(client: Redis, logs: Sequence[Logs], progress: Callable[[int, int], None] | None) -> int:
    for at in range(0, len(logs), PIECE):
        pipe = client.pipeline(transaction=False)
        for one in logs[at : at + PIECE]:
            keys = live_keys(one.subject)
            for key, log in ((keys.recent, one.recent), (keys.contact, one.contact)):
                if log:
                    pipe.set(key, log, nx=True, ex=LOG_TTL)
        pipe.execute()
        if progress is not None:
            progress(min(at + PIECE, len(logs)), len(logs))
    return len(logs)
