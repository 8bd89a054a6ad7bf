"""A time limit that tells a late answer from one that was not read yet.

A loop that is busy for longer than the limit finds the timer due and the answer waiting in the socket, and
uvloop runs timers first: a store that answered in half a millisecond would be called late, and left alone for
it. So a limit that is over waits until the loop has looked at its sockets once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

HOPS: Final = 2  # turns of the loop until everything that has arrived was read, whichever order it keeps


class Limit:
    """Calls `over` when the time is up and whatever had arrived by then has been read."""

    __slots__ = ("_handle", "_loop", "_over")

    def __init__(self, seconds: float, over: Callable[[], Any]) -> None:
        self._loop, self._over = asyncio.get_running_loop(), over
        self._handle: asyncio.Handle = self._loop.call_later(seconds, self._due, HOPS)

    def cancel(self) -> None:
        self._handle.cancel()

    def _due(self, hops: int) -> None:
        if hops:
            self._handle = self._loop.call_soon(self._due, hops - 1)
        else:
            self._over()


class patience:  # noqa: N801 - a context manager that reads as asyncio.timeout does
    """As `asyncio.timeout`, by such a limit: `async with patience(0.25): …`. Raises TimeoutError."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._expired = seconds, False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit needs a task to cancel")
        self._task, self._cancelling = task, task.cancelling()
        self._limit = Limit(self._seconds, self._cancel)
        return self

    def _cancel(self) -> None:
        self._expired = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limit.cancel()
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
