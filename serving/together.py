"""Pages whose customers are known in the same turn of the event loop, decided side by side.

Never waits for more: what has come by the end of the turn is decided, and a page that nobody is beside is
decided where it stands. Between `MOST` of them the loop sees to everything else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from serving.domain import Decision, Effort
from serving.stepping import Steps, side_by_side, whole

MOST: Final = 8  # at once: twice as many save nothing more, and each waits for all


class Decided(NamedTuple):
    decision: Decision
    seconds: float  # that it took, a fair share where others were beside it


Begin = Callable[[], tuple[Effort, Steps[Decision]]]
"""Called when the page's turn comes; chooses the rung."""
Begun = list[tuple[Steps[Decision], asyncio.Future[Decided]]]


class Together:
    """Of one event loop. `monotonic` in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._waiting: deque[tuple[Begin, asyncio.Future[Decided]]] = deque()

    async def decided(self, begin: Begin, *, alone: bool) -> Decided:
        """Raises what the page's stages raise. `alone`: there is nobody whom it could be decided beside."""
        if alone:
            began = self._monotonic()
            decision = whole(begin()[1])
            return Decided(decision, self._monotonic() - began)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Decided] = loop.create_future()
        self._waiting.append((begin, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._turn)
        return await future

    def _turn(self) -> None:
        for begun in self._begun().values():  # by rung: what one costs is not charged to another
            began = self._monotonic()
            results = side_by_side([steps for steps, _ in begun])
            each = (self._monotonic() - began) / len(begun)
            for (_, future), result in zip(begun, results, strict=True):
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(Decided(result, each))
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)

    def _begun(self) -> dict[Effort, Begun]:
        """The next ones that somebody still waits for, by rung."""
        begun: dict[Effort, Begun] = {}
        for _ in range(min(MOST, len(self._waiting))):
            begin, future = self._waiting.popleft()
            if future.done():
                continue
            try:
                effort, steps = begin()
            except Exception as problem:
                future.set_exception(problem)
            else:
                begun.setdefault(effort, []).append((steps, future))
        return begun
