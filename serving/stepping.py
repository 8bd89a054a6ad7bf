"""Work in steps: a generator that stops between its stages, taken alone or beside others of its kind.

A page's stages are all of the program once through, and what one leaves in the processor's caches is gone
when the next page needs it. Side by side, a stage is done for all pages before the next one begins.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Steps = Generator[None, None, T]


def whole(steps: Steps[T]) -> T:
    """All of it, at once."""
    try:
        while True:
            next(steps)
    except StopIteration as done:
        result: T = done.value
        return result


def side_by_side(some: Sequence[Steps[T]]) -> list[T | Exception]:
    """What each gives, or the exception it ended by: a step of each in turn, until all have ended."""
    ended: dict[int, T | Exception] = {}
    going = list(enumerate(some))
    while going:
        left = []
        for at, steps in going:
            try:
                next(steps)
            except StopIteration as done:
                ended[at] = done.value
            except Exception as problem:
                ended[at] = problem
            else:
                left.append((at, steps))
        going = left
    return [ended[at] for at in range(len(some))]


def at_once(call: Callable[P, T]) -> Callable[P, Steps[T]]:
    """A function as a single step."""

    def steps(*args: P.args, **kwargs: P.kwargs) -> Steps[T]:
        return call(*args, **kwargs)
        yield

    return steps
