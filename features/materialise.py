"""A key space written to a server: in bulk, then counted, and a sample re-read bit for bit."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from features.bulk import BulkError, Progress, bulk_write, verify
from features.keyspace import KeySpace, KeySpaceError, ViewBatch, assembled


def materialise(
    url: str,
    version: str,
    batches: Iterable[ViewBatch],
    *,
    rng: np.random.Generator,
    sample: int = 1000,
    ttl_s: float | None = None,
    progress: Progress | None = None,
) -> KeySpace:
    """Write every batch under `version`, count it and re-read a sample bit for bit; the space to swap to.

    A view may come in several batches of one watermark. `ttl_s` None: each view's own. Raises KeySpaceError
    for ids that come twice and for what the store does not hold as written, StoreUnavailable when it does
    not answer.
    """

    def write(batch: ViewBatch) -> None:
        try:
            bulk_write(url, batch.view, version, batch.ids, batch.blobs, ttl_s, progress)
            verify(url, batch.view, version, batch.ids, batch.blobs, sample, rng)
        except BulkError as error:
            raise KeySpaceError(f"{batch.view.name} of {version} is not as written: {error}") from error

    return assembled(version, batches, write)
