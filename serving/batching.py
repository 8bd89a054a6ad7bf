"""`POST /v1/recommend:batch`: the pages of thousands of customers in one call, a JSON document a line.

Every page is decided, reserved, signed and logged as one that was asked for alone; only nobody waits for it.
So a few at a time are made, between the pages that somebody does wait for, and none while those are many.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Self

import orjson

from serving.asked import surface_of
from serving.errors import Problem
from serving.holder import Holder
from serving.recommender import Recommender
from serving.wire import BatchAsk, RecommendAsk

TOGETHER: Final = 8  # pages made at once: what somebody who waits may find before them
BUSY: Final = 0.25  # share of the places taken by pages that somebody waits for: above it none is made
PAUSE_S: Final = 0.005
PAGE_S: Final = 2.0  # to make one


class Batching:
    """One call at a time in a process."""

    def __init__(self, holder: Holder, recommender: Recommender) -> None:
        self._holder, self._recommender = holder, recommender
        self._running = False

    def lines(self, ask: BatchAsk, request_id: str | None) -> Lines:
        """`{"user_id", "page"}` or `{"user_id", "problem"}` of each customer, in the order of the ids.

        Raises Problem for what is wrong with all of them, and `overloaded` while another call runs.
        """
        surface_of(self._holder.live.plan, one_of(ask, ask.user_ids[0]), "page")
        if self._running:
            raise Problem("overloaded", "another batch is being decided here; try again when it is done")
        self._running = True
        return Lines(self._recommender, ask, request_id, self._done)

    def _done(self) -> None:
        self._running = False


class Lines:
    """The answer in parts; `aclose` ends it wherever it is, and has to be called."""

    def __init__(
        self, recommender: Recommender, ask: BatchAsk, request_id: str | None, done: Callable[[], None]
    ) -> None:
        self._recommender, self._ask, self._id, self._done = recommender, ask, request_id, done
        self._at = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        some = self._ask.user_ids[self._at : self._at + TOGETHER]
        if not some:
            raise StopAsyncIteration
        while self._recommender.load > BUSY:
            await asyncio.sleep(PAUSE_S)
        self._at += len(some)
        return b"".join(await asyncio.gather(*map(self._line, some)))

    async def aclose(self) -> None:
        self._at = len(self._ask.user_ids)
        self._done()

    async def _line(self, user: str) -> bytes:
        due = time.monotonic() + PAGE_S
        try:
            page = await self._recommender.unhurried(one_of(self._ask, user), self._id, due)
        except Problem as problem:
            return b'{"user_id":%b,"problem":%b}\n' % (orjson.dumps(user), problem.body())
        return b'{"user_id":%b,"page":%b}\n' % (orjson.dumps(user), page)


def one_of(ask: BatchAsk, user: str) -> RecommendAsk:
    """The request of one customer."""
    return RecommendAsk.model_construct(
        request_id=ask.request_id, user_id=user, visitor_id=None, session_id=None, surface=ask.surface,
        slots=ask.slots, context=ask.context, events=[], options=ask.options,
    )  # fmt: skip
