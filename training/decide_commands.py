"""`fenliu decide`: the pages of a list of customers, decided offline over Ray, written as NDJSON."""

from __future__ import annotations

import argparse
import gzip
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from features.ids import BadId, check_id
from serving.backing import backed
from serving.offline import decided, parts, public
from serving.settings import Settings
from serving.wire import MAX_BATCH, BatchAsk, parse

PART: Final = 1_000  # customers a call: a worker opens what is live once and then takes many


class ListError(ValueError):
    """A list or an option that cannot be used; says which."""


Mapped = Callable[[Callable[..., bytes], Iterable[tuple[Settings, BatchAsk]]], Iterator[bytes]]
Spread = Callable[[int], AbstractContextManager[Mapped]]


def run(args: argparse.Namespace, settings: Settings, spread: Spread, console: Console) -> int:
    """Exit status. Raises ListError, Problem, StoreUnavailable, OSError."""
    users = read_ids(args.customers)
    ask = parse(BatchAsk, _asked(args, users))
    began = time.perf_counter()
    with backed(settings) as complete, _output(args.out) as out:
        calls = ((public(complete), part) for part in parts(ask, users, PART))
        with alone() if args.processes == 1 else spread(args.processes) as mapped, _bar() as bar:
            task = bar.add_task("deciding", total=len(users))
            done = 0
            for lines in mapped(decided, calls):
                out.write(lines)
                done = min(done + PART, len(users))
                bar.update(task, completed=done)
    took = time.perf_counter() - began
    console.print(f"{len(users):,} customers in {took:.1f} s: {len(users) / took:,.0f} customers/s")
    return 0


def _asked(args: argparse.Namespace, users: list[str]) -> dict[str, object]:
    try:
        context = orjson.loads(args.context)
    except orjson.JSONDecodeError as bad:
        raise ListError(f"--context is not JSON: {bad}") from None
    asked: dict[str, object] = {
        "user_ids": users[:MAX_BATCH],
        "context": context,
        "request_id": args.id or f"offline-{int(time.time())}",
    }
    if args.surface:
        asked["surface"] = args.surface
    if args.slot:
        asked["slots"] = [_slot(one) for one in args.slot]
    return asked


def _slot(text: str) -> dict[str, object]:
    name, equals, count = text.partition("=")
    if equals and not count.isdecimal():
        raise ListError(f"--slot {text}: write NAME or NAME=COUNT")
    return {"slot": name, "count": int(count)} if equals else {"slot": name}


def read_ids(path: Path) -> list[str]:
    """The ids of a file. Raises ListError naming the line of the first that is none."""
    if not path.is_file():
        raise ListError(f"{path} is no file: --customers takes one of ids, one a line")
    opened = gzip.open if path.suffix == ".gz" else open
    users: list[str] = []
    with opened(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            text = line.split(",")[0].strip().strip('"')
            if not text or (number == 1 and text in ("user_id", "user", "customer", "id")):
                continue
            try:
                users.append(check_id(text))
            except BadId as bad:
                raise ListError(f"{path}, line {number}: {bad}") from None
    if not users:
        raise ListError(f"{path} holds no customer: put an id on each line")
    return users


@contextmanager
def alone() -> Iterator[Mapped]:
    """In this process, one part after another."""
    yield lambda function, calls: (function(*call) for call in calls)


@contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    """A file that is there only when it is whole."""
    if path is None:
        yield sys.stdout.buffer
        return
    draft = path.with_name(f"{path.name}.part")
    with draft.open("wb") as out:
        yield out
    draft.replace(path)


def _bar() -> Progress:
    return Progress(
        "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True),
    )  # fmt: skip
