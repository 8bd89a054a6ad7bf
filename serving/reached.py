"""Counting in a customer's contact log, by a loop: what caps allow is asked of it for every page."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit

U8 = NDArray[np.uint64]
SCOPES: Final = ("item", "campaign", "category", "slot", "creative", "channel", "org")  # fields of CONTACT


@jit
def reached(log: NDArray[np.void], what: int, scope: int, keys: U8, since: float) -> tuple[int, float]:
    """How many entries of a CONTACT log, as `read_only` gives it, say `what` of one of the keys (k,) in
    a scope (index in SCOPES) at `since` or later; and when the last one did, however long ago: −1 never.
    """
    many, last = 0, -1.0
    for entry in log:
        if entry["what"] != what:
            continue
        key = np.uint64(0)
        if scope == 0:
            key = entry["item"]
        elif scope == 1:
            key = np.uint64(entry["campaign"])
        elif scope == 2:
            key = np.uint64(entry["category"])
        elif scope == 3:
            key = np.uint64(entry["slot"])
        elif scope == 4:
            key = np.uint64(entry["creative"])
        elif scope == 5:
            key = np.uint64(entry["channel"])
        else:
            key = np.uint64(entry["org"])
        named = False
        for one in keys:
            named = named or one == key
        if named:
            at = float(entry["at"])
            many += 1 if at >= since else 0
            last = max(last, at)
    return many, last


def read_only(log: NDArray[np.void]) -> NDArray[np.void]:
    """The log as the loop is compiled for it: what a store gave may not be written, so nothing may."""
    if not log.flags.writeable:
        return log
    view = log.view()
    view.flags.writeable = False
    return view
