"""Python's garbage collector told what a replica's heap is like, once it has loaded what it serves.

A page allocates some thousand objects and keeps none, all freed by reference counting. With the defaults the
collector looks through the young ones several times a page, and now and then through everything there is:
libraries, bundle, plan; that stalls all pages in flight.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 50_000  # allocations beyond frees before the youngest are looked through
THRESHOLDS: Final = (YOUNG, 20, 20)


def settle() -> None:
    """Collect once, then leave what is there out of all later collections. Called when a server has started.

    A bundle that is replaced later is freed by reference counting all the same.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
