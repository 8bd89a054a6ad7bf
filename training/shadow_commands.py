"""`fenliu bundle shadow`: live traffic decided again by a candidate bundle, in a process of its own."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import orjson
from rich.console import Console
from rich.live import Live as Shown
from rich.markup import escape

from features.log import EventLog
from features.redis_log import RedisLog
from features.store import StoreUnavailable
from serving import permits
from serving.backing import backed
from serving.log_tail import Tail
from serving.plans import PlanShelf
from serving.registry import Registry
from serving.settings import Settings
from training.commands import lake_of
from training.desk import desk_of
from training.lives import Lives
from training.progress import wide_console
from training.shadow import Shadow, told
from training.shadow_figures import Limits, limits_told, not_told, refusals
from training.shadow_inputs import TailedInputs
from training.shadow_report import table_of, write_shadow
from training.usage import UsageError

LOG: Final = logging.getLogger("fenliu.shadow")
PART: Final = 250  # entries of a shard at once: records are held until all shards have had their turn
MOST: Final = 2_000  # a step
PAUSE_S: Final = 1.0

Document = dict[str, Any]


def bundle_shadow(args: argparse.Namespace, given: Settings) -> int:
    """Exit status 1 where a limit is not kept. Raises UsageError, RegistryError, BundleError."""
    permits.may_trace(desk_of(given).who)
    if not 0 < args.share <= 1:
        raise UsageError(f"--share is a part of the pages above 0 and at most 1, not {args.share}")
    if (args.minutes is None) == (not args.once):
        raise UsageError("say for how long: --once (what the log holds) or --minutes N (from now on)")
    registry = Registry(given.registry_url)
    live = registry.live()
    if live is None:
        raise UsageError("no bundle is live: there is nothing to compare with, promote the first one")
    loader = registry.loader(given.bundles)
    candidate = loader(args.version)
    with backed(given) as settings, RedisLog(settings.log_url or "") as log:
        inputs = TailedInputs(lake_of(given), log)
        lives = Lives(inputs, loader, PlanShelf(given.registry_url))
        began = time.time()
        shadow = Shadow(
            lives, inputs, candidate, live,
            share=args.share, since=0.0 if args.once else began, ripe_s=args.ripe, most=args.pages,
        )  # fmt: skip
        limits = limits_of(args)

        def now() -> Document:
            return document(shadow, args.version, live, args.share, limits)

        end = None if args.once else began + 60.0 * args.minutes
        with _drawing(None if args.json else wide_console()) as draw:
            follow(shadow, log, 0.0 if args.once else began, end, lambda: draw(now))
        found = now()
    return _told(args, found)


def limits_of(args: argparse.Namespace) -> Limits:
    given = {name: getattr(args, f"limit_{name}") for name in limits_told(Limits())}
    return Limits(**{name: value for name, value in given.items() if value is not None})


def document(shadow: Shadow, version: str, live: str, share: float, limits: Limits) -> Document:
    found = dict(told(shadow, version, live, share))
    stopped = [{"code": one.code, "text": one.text} for one in refusals(found, limits)]
    return found | {"limits": limits_told(limits), "refusals": stopped, "not_told": not_told(found, limits)}


def follow(
    shadow: Shadow,
    log: EventLog,
    since: float,
    end: float | None,
    show: Callable[[], None],
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Until the log was read to its end; with `end` (POSIX seconds), until then: a store that is away
    meanwhile is waited for. Raises StoreUnavailable without `end`, or when it is away at the end.

    When as many pages are decided as may be, only their displays and clicks are waited for.
    """
    tail = Tail(log, since, part=PART, most=MOST)
    while True:
        try:
            for payloads in tail.read():
                shadow.take(payloads)
            shadow.settle()
        except StoreUnavailable as away:
            if end is None or clock() >= end:
                raise
            LOG.warning("the log is waited for: %s", away)
            sleep(PAUSE_S)
            continue
        if tail.caught_up:
            shadow.ripen(clock())
        show()
        if end is None:
            if tail.caught_up:
                return
        elif clock() >= end or (shadow.full and tail.caught_up and not shadow.unripe):
            return
        elif tail.caught_up:
            sleep(min(PAUSE_S, max(end - clock(), 0.0)))


Draw = Callable[[Callable[[], Document]], None]


@contextmanager
def _drawing(console: Console | None) -> Iterator[Draw]:
    """A table that is drawn anew as figures come: on a terminal. Elsewhere nothing until the end."""
    if console is None or not console.is_terminal:
        yield lambda _: None
        return
    with Shown(console=console, auto_refresh=False, transient=True) as shown:
        yield lambda now: shown.update(table_of(now()), refresh=True)


def _told(args: argparse.Namespace, found: Document) -> int:
    report = write_shadow(found, args.out) if args.out is not None else None
    if args.json:
        print(orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY).decode())
        return 1 if found["refusals"] else 0
    console = wide_console()
    console.print(table_of(found))
    lines = [f"[bold]{one['code']}[/]: {escape(one['text'])}" for one in found["refusals"]]
    lines += [f"not told: {escape(one)}" for one in found["not_told"]]
    if report is not None:
        lines.append(f"report: {escape(str(report))}")
    lines.append("limits are not kept" if found["refusals"] else "every limit is kept")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    return 1 if found["refusals"] else 0
