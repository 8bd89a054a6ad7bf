"""A step taken again and again while the service runs, and giving up the lead at its end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Final

from features.store import StoreUnavailable
from serving.control import Control

RESIGN_S: Final = 1.0
SPREAD: Final = (0.8, 1.2)


class Turns:
    """Takes `step`, which raises nothing, about every `every_s` seconds; the first after a wait of `first`
    times as long, each next one after `spread` times: so that replicas do not all ask at once.
    """

    def __init__(
        self,
        step: Callable[[], Awaitable[object]],
        every_s: float,
        name: str,
        *,
        first: tuple[float, float] = SPREAD,
        spread: tuple[float, float] = SPREAD,
    ) -> None:
        self._step, self._every_s, self._name = step, every_s, name
        self._first, self._spread = first, spread
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """Safe to call twice, and before the start."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        jitter = random.Random()
        await asyncio.sleep(self._every_s * jitter.uniform(*self._first))
        while True:
            await self._step()
            await asyncio.sleep(self._every_s * jitter.uniform(*self._spread))


async def resign(control: Control, role: str, candidate: str) -> None:
    """So that another leads at once, if control answers in time."""
    with contextlib.suppress(StoreUnavailable, TimeoutError):
        async with asyncio.timeout(RESIGN_S):
            await control.resign(role, candidate)
