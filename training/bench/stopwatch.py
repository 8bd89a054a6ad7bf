"""Where a process spends its time, by stage: functions wrapped in place, each charged with its own time only.

A stage's time is the thread's processor time, and exclusive: what it calls of another stage is that one's.
Coroutines are timed step by step, so that what a stage waits for costs it nothing. One thread only.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from time import thread_time
from types import TracebackType
from typing import Any, Self

Target = tuple[Any, str]  # what holds the function, and its name there


class Stopwatch:
    """`seconds` and `calls` by stage, while the block lasts."""

    def __init__(self, stages: Mapping[str, Sequence[Target]]) -> None:
        self._stages = stages
        self._held: list[tuple[Any, str, Any]] = []
        self._open: list[float] = []  # of each stage that is running, what inner ones took
        self.seconds = dict.fromkeys(stages, 0.0)
        self.calls = dict.fromkeys(stages, 0)

    def __enter__(self) -> Self:
        for stage, targets in self._stages.items():
            for holder, name in targets:
                was = inspect.getattr_static(holder, name)
                self._held.append((holder, name, was))
                setattr(holder, name, self._wrapped(stage, was))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._held:
            holder, name, was = self._held.pop()
            setattr(holder, name, was)

    def reset(self) -> None:
        for stage in self._stages:
            self.seconds[stage], self.calls[stage] = 0.0, 0

    def _wrapped(self, stage: str, function: Any) -> Any:
        if isinstance(function, staticmethod):
            return staticmethod(self._wrapped(stage, function.__func__))
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def stepped(*args: Any, **kwargs: Any) -> Any:
                self.calls[stage] += 1
                return await _Steps(self, stage, function(*args, **kwargs))

            return stepped

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.calls[stage] += 1
            return self.step(stage, function, *args, **kwargs)

        return timed

    def step(self, stage: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call it, and charge the stage."""
        self._open.append(0.0)
        began = thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            took = thread_time() - began
            self.seconds[stage] += took - self._open.pop()
            if self._open:
                self._open[-1] += took


class _Steps:
    """A coroutine, each of whose steps is charged to a stage."""

    def __init__(self, watch: Stopwatch, stage: str, inner: Any) -> None:
        self._watch, self._stage, self._inner = watch, stage, inner

    def __await__(self) -> Generator[Any, Any, Any]:
        sent: Any = None
        failed: BaseException | None = None
        while True:
            try:
                if failed is not None:
                    waited = self._watch.step(self._stage, self._inner.throw, failed)
                else:
                    waited = self._watch.step(self._stage, self._inner.send, sent)
            except StopIteration as done:
                return done.value
            sent = failed = None
            try:
                sent = yield waited
            except BaseException as raised:  # whatever it is, it is the inner one's to meet
                failed = raised
