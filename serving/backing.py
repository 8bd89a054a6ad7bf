"""The stores a process runs on: those that are configured, or the embedded one, started and stopped here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from features.embedded import open_store_url
from serving.settings import Settings


@contextmanager
def backed(settings: Settings) -> Iterator[Settings]:
    """Settings in which every role has a URL. The embedded store starts only where one has none.

    Raises features.embedded.EmbeddedError when it cannot be started.
    """
    if None not in settings.store_urls.values():
        yield settings
        return
    store = open_store_url(None, settings.home / "store")
    try:
        yield settings.with_store(store.url)
    finally:
        store.close()
