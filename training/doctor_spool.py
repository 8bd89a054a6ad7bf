"""What `fenliu doctor` finds about the spool, where acknowledged events wait while the log is away."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Final, Literal

from features.redis_address import Refused
from features.redis_plain import opened
from features.spool_look import inspected
from features.store import StoreUnavailable
from serving.settings import MEMORY_LEVEL, SYNCED_LEVEL, Settings

Said = tuple[str, Literal["ok", "warn", "bad"], str, str]  # of a doctor.Finding
TIMEOUT_S: Final = 3.0
DAY_S: Final = 86_400.0


def spool(settings: Settings, now: Callable[[], float]) -> Iterator[Said]:
    """Whether the log can do what the level asks, and what the folder is like."""
    if settings.durability == SYNCED_LEVEL and settings.log_url is not None:
        try:
            with opened(settings.log_url, TIMEOUT_S) as store:
                store.execute_command("WAITAOF", 1, 0, 1)  # type: ignore[no-untyped-call]  # redis-py's has no types
        except Refused as no:
            remedy = "Valkey, or Redis from 7.2 on, with appendonly yes, and +waitaof for its user"
            yield ("durability", "bad", f"{SYNCED_LEVEL}: {no}", remedy)
        except StoreUnavailable:
            pass  # told of the store
    if settings.durability == MEMORY_LEVEL:
        yield ("durability", "warn", "an acknowledged event is in memory only", "FENLIU_DURABILITY=stream")
        return
    if not settings.spool_mb:
        yield ("spool", "warn", "none: events get 503 while the log is away", "set FENLIU_SPOOL_MB")
        return
    folder = settings.spool_folder
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not os.access(there, os.W_OK):
        yield ("spool", "bad", f"{folder} cannot be written", "set FENLIU_SPOOL, or change its owner")
        return
    free, wanted = shutil.disk_usage(there).free, settings.spool_mb * settings.replicas << 20
    if free < wanted:
        said = f"{folder}: {free >> 20:,} MiB free, {wanted >> 20:,} may be needed"
        yield ("spool", "warn", said, "make room, or set FENLIU_SPOOL_MB lower")
    found = list(inspected(folder))
    if damaged := sum(one.damaged for one in found):
        yield ("spool", "bad", f"{damaged:,} bytes are damaged", "fenliu spool verify; look at the disk")
    left = [one for segment in found if not segment.held for one in segment.records]
    if left:
        days = (now() - min(one.at for one in left)) / DAY_S
        said = f"{len(left):,} events of processes that ended, the oldest {days:.1f} days old"
        yield ("spool", "warn", said, "start the service, or: fenliu spool drain")
    elif not damaged and free >= wanted:
        waiting = sum(len(one.records) for one in found)
        yield ("spool", "ok", f"{folder}, {waiting:,} events wait; level {settings.durability}", "")
