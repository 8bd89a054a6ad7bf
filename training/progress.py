"""What a job tells people while it runs: a spinner and a line a step on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

PIPED_WIDTH: Final = 132  # columns where no terminal says how many: a file, a pipe, CI


def wide_console() -> Console:
    """Standard output, wide enough for a table where no terminal sets its width."""
    made = Console()
    return made if made.is_terminal or "COLUMNS" in os.environ else Console(width=PIPED_WIDTH)


@dataclass(slots=True)
class StepRecord:
    """One step of a run. `skipped`: its results were there already, from the same inputs."""

    name: str
    seconds: float = 0.0
    skipped: bool = False
    notes: list[str] = field(default_factory=list)


class Telling:
    """Collects the steps, and prints them unless `console` is None."""

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self._bar: tuple[Progress, TaskID] | None = None
        self.steps: list[StepRecord] = []

    @contextmanager
    def step(self, name: str) -> Iterator[StepRecord]:
        """Time a step; its notes are printed as they come, a closing line when it ends well."""
        record = StepRecord(name)
        self.steps.append(record)
        started = time.perf_counter()
        console = self._console
        live = console is not None and console.is_terminal
        with self._spinning(console, name) if console is not None and live else nullcontext():
            try:
                yield record
            finally:
                record.seconds = time.perf_counter() - started
        took = "as before, skipped" if record.skipped else f"{record.seconds:.1f} s"
        self._print(f"[bold]{name}[/] [dim]({took})[/]")
        for note in record.notes:
            self._print(f"  {escape(note)}")

    @contextmanager
    def _spinning(self, console: Console, name: str) -> Iterator[None]:
        """A spinner, which `counted` turns into a bar; gone when the step ends."""
        columns = (SpinnerColumn(), TextColumn(f"[bold]{name}[/] …"), TextColumn("{task.description}"))
        with Progress(*columns, console=console, transient=True) as shown:
            self._bar = shown, shown.add_task("", total=None)
            try:
                yield
            finally:
                self._bar = None

    def counted(self, total: int, what: str) -> Callable[[int], None]:
        """The open step does `total` things: call with how many were just done. Shown on a terminal."""
        if self._bar is None:
            return lambda _: None
        bar, task = self._bar
        bar.columns = (
            *bar.columns[:2],
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} " + escape(what)),
            TimeElapsedColumn(),
        )
        bar.reset(task, total=total)
        return lambda done: bar.advance(task, done)

    def line(self, text: str) -> None:
        self._print(escape(text))

    def _print(self, text: str) -> None:
        if self._console is not None:
            self._console.print(text, highlight=False, soft_wrap=True)


@contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for work that knows how far it is: call with (done, total)."""
    columns = (
        "{task.description}",
        BarColumn(),
        "{task.completed:,.0f}/{task.total:,.0f}",
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
