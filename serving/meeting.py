"""What campaigns met on the way to a page, and what dropped whom, by loops: asked of every page."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit
from serving.page_state import I4, I8, O_CAMPAIGN

U4 = NDArray[np.uint32]


@jit
def met(
    running: NDArray[np.bool_], campaign: I4, row: I4, at: I8, rows: I4, drops: U4, offers: I8, room: I4,
    counter_of: I4, where: I4,
) -> tuple[I4, I4, U4, I4, I4]:  # fmt: skip
    """Of `serving.domain.Met`: running, looked_at, drops, permitted, full.

    `running` (C,); `campaign` and `row` (O,) of the offer table, of which the page looked at the places `at`
    (k,); `rows` (f,) of all that was proposed, and what dropped them; `offers` (m, 15) that stood for a
    place; `room` (R,) counters, and their campaigns; `where` (N,) by rows of the catalogue is scratch,
    whatever it holds.
    """
    here, n = np.empty(len(running), np.int32), 0
    for c in range(len(running)):
        if running[c]:
            here[n] = c
            n += 1
    for i in range(len(rows)):
        where[rows[i]] = i
    looked, why = np.empty(len(at), np.int32), np.zeros(len(at), np.uint32)
    for j in range(len(at)):
        looked[j] = campaign[at[j]]
        i = where[row[at[j]]]
        if 0 <= i < len(rows) and rows[i] == row[at[j]]:
            why[j] = drops[i]
    stood = np.empty(len(offers), np.int32)
    for j in range(len(offers)):
        stood[j] = offers[j, O_CAMPAIGN]
    full, f = np.empty(len(room), np.int32), 0
    for r in range(len(room)):
        if counter_of[r] >= 0 and room[r] <= 0:
            full[f] = counter_of[r]
            f += 1
    return here[:n], looked, why, stood, full[:f]


@jit
def counted(drops: U4) -> tuple[U4, I8]:
    """The distinct masks but 0, in the order in which they are met, and how many candidates have each."""
    masks, many, n = np.empty(len(drops), np.uint32), np.empty(len(drops), np.int64), 0
    for i in range(len(drops)):
        if not drops[i]:
            continue
        at = 0
        while at < n and masks[at] != drops[i]:
            at += 1
        if at == n:
            masks[n], many[n] = drops[i], 0
            n += 1
        many[at] += 1
    return masks[:n], many[:n]
