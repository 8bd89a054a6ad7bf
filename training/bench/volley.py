"""The load generator in a process of its own, so that it never waits for the service's interpreter lock."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, Self

from training.bench.load import Outcome, closed_loop, open_loop

SLACK_S: Final = 60.0  # beyond what a run says it takes


class VolleyError(RuntimeError):
    """The generator's process ended, said nothing in time, or met an error of its own."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and the requests as bytes on the wire; they are sent in turns."""

    host: str
    port: int
    requests: list[bytes]


@dataclass(frozen=True, slots=True)
class Shots:
    """A run that goes on in the generator's process."""

    _pipe: Connection
    _seconds: float

    def done(self) -> bool:
        return self._pipe.poll()

    def result(self) -> Outcome:
        """Waits for the end. Raises VolleyError."""
        if not self._pipe.poll(self._seconds + SLACK_S):
            raise VolleyError(f"a run of {self._seconds:g} s has not ended after {SLACK_S:g} s more")
        try:
            outcome: Outcome | str = self._pipe.recv()
        except EOFError:
            raise VolleyError("the generator's process ended before its run did") from None
        if isinstance(outcome, str):
            raise VolleyError(outcome)
        return outcome


class Volley:
    """Fires at targets known from the start: sent once to the process, which stays until the block ends.

    One run at a time: take the result of one before beginning the next.
    """

    def __init__(self, targets: Mapping[str, Target]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, dict(targets)), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is seen when the process ends

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join(5.0)
        self._pipe.close()

    def closed(self, name: str, *, connections: int, seconds: float, warm_up: float = 1.0) -> Outcome:
        """See load.closed_loop; waits for its end. Raises VolleyError."""
        asked = {"connections": connections, "seconds": seconds, "warm_up": warm_up}
        return self._begin(closed_loop, name, asked, warm_up + seconds).result()

    def open(self, name: str, *, rate: float, seconds: float, connections: int = 32) -> Shots:
        """See load.open_loop; goes on while the caller does something else."""
        return self._begin(
            open_loop, name, {"rate": rate, "seconds": seconds, "connections": connections}, seconds
        )

    def _begin(self, loop: Loop, name: str, asked: dict[str, float], seconds: float) -> Shots:
        try:
            self._pipe.send((loop, name, asked))
        except OSError:
            raise VolleyError("the generator's process has ended") from None
        return Shots(self._pipe, seconds)


Loop = Callable[..., Coroutine[Any, Any, Outcome]]


def _work(pipe: Connection, targets: dict[str, Target]) -> None:
    """The process: runs what it is told until the other end closes."""
    gc.collect()
    gc.freeze()
    while True:
        try:
            loop, name, asked = pipe.recv()
        except EOFError:
            return
        aim = targets[name]
        try:
            with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
                pipe.send(runner.run(loop(aim.host, aim.port, aim.requests, **asked)))
        except Exception as problem:
            pipe.send(f"{name}: {type(problem).__name__}: {problem}")


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop
