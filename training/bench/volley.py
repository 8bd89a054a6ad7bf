"""The load generator in a process of its own, so that it never waits for the service's interpreter lock."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from training.bench.load import Outcome, closed_loop, open_loop

SLACK_S: Final = 60.0  # beyond what a run says it takes


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and the requests as bytes on the wire; they are sent in turns."""

    host: str
    port: int
    requests: list[bytes]


class Volley:
    """Fires at targets known from the start: sent once to the process, which stays until the block ends."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_aim, initargs=(dict(targets),))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def closed(self, name: str, *, connections: int, seconds: float, warm_up: float = 1.0) -> Outcome:
        """See load.closed_loop; waits for its end."""
        fired = self._pool.submit(_closed, name, connections, seconds, warm_up)
        return fired.result(warm_up + seconds + SLACK_S)

    def open(self, name: str, *, rate: float, seconds: float, connections: int = 32) -> Future[Outcome]:
        """See load.open_loop; goes on while the caller does something else."""
        return self._pool.submit(_open, name, rate, seconds, connections)


_TARGETS: dict[str, Target] = {}  # of the generator's process


def _aim(targets: dict[str, Target]) -> None:
    _TARGETS.update(targets)
    gc.collect()
    gc.freeze()


def _closed(name: str, connections: int, seconds: float, warm_up: float) -> Outcome:
    aim = _TARGETS[name]
    return _run(
        closed_loop(
            aim.host, aim.port, aim.requests, connections=connections, seconds=seconds, warm_up=warm_up
        )
    )


def _open(name: str, rate: float, seconds: float, connections: int) -> Outcome:
    aim = _TARGETS[name]
    return _run(
        open_loop(aim.host, aim.port, aim.requests, rate=rate, seconds=seconds, connections=connections)
    )


def _run(shots: Coroutine[Any, Any, Outcome]) -> Outcome:
    with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
        return runner.run(shots)


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop
