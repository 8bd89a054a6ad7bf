"""How far an evaluation is: a bar on a terminal; elsewhere (a pipe, a file, CI) a line every few seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

EVERY_S: Final = 10.0
Begin = Callable[[int, str], Callable[[int], None]]
"""Begin something of so many parts, in words; what is returned is told of parts done."""


@contextmanager
def telling(console: Console, every_s: float = EVERY_S) -> Iterator[Begin]:
    """Shows the latest that was begun until the end of the block."""
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        )
        with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
            yield _bar(bars)
        return
    lines = _Lines(console)
    over = threading.Event()

    def run() -> None:
        while not over.wait(every_s):
            lines.say()

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield lines.begin
    finally:
        over.set()
        thread.join()


def _bar(bars: Progress) -> Begin:
    def begin(total: int, what: str) -> Callable[[int], None]:
        for task in bars.task_ids:
            bars.remove_task(task)
        task = bars.add_task(what, total=total)
        return lambda done: bars.advance(task, done)

    return begin


class _Lines:
    """What runs now, as a line when asked."""

    def __init__(self, console: Console) -> None:
        self._console, self._lock = console, threading.Lock()
        self._now: tuple[str, int, float] | None = None
        self._done = 0

    def begin(self, total: int, what: str) -> Callable[[int], None]:
        with self._lock:
            mine = self._now = what, total, time.monotonic()
            self._done = 0

        def told(done: int) -> None:
            with self._lock:
                if self._now is mine:
                    self._done += done

        return told

    def say(self) -> None:
        with self._lock:
            if self._now is None:
                return
            what, total, since = self._now
            far = f", {self._done:,} of {total:,}" if total > 1 else ""
            said = f"  … {what}{far}, {time.monotonic() - since:.0f} s"
        self._console.print(said, highlight=False, markup=False, soft_wrap=True)
        self._console.file.flush()
