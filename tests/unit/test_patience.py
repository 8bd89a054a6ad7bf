"""A time limit that lets what has arrived be read before it says late."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
import uvloop

from features.patience import patience

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def run(story, loop):
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(story())


@pytest.mark.parametrize("loop", LOOPS)
def test_an_answer_that_lay_there_while_the_loop_was_busy_is_in_time(loop):
    async def story():
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            async with patience(0.005):
                theirs.send(b"x")
                asyncio.get_running_loop().call_soon(time.sleep, 0.02)
                return await reader.readexactly(1)
        finally:
            writer.close()
            theirs.close()

    assert run(story, loop) == b"x"


@pytest.mark.parametrize("loop", LOOPS)
def test_what_does_not_come_is_late(loop):
    async def story():
        with pytest.raises(TimeoutError):
            async with patience(0.002):
                await asyncio.sleep(5)
        assert not asyncio.current_task().cancelling()
        async with patience(5):
            await asyncio.sleep(0)
        with pytest.raises(KeyError):
            async with patience(0.001):
                raise KeyError("its own")

    run(story, loop)


def test_a_cancelled_task_stays_cancelled():
    async def story():
        async def work():
            async with patience(5):
                await asyncio.sleep(5)

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(story, LOOPS[0])
