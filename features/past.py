"""Loops over a customer's logs and over sorted keys: what `features.transforms` and lookups are made of.

What needs a power or a logarithm is given: NumPy's differ from the compiler's in the last bit, and the twins
over many customers (training, replay) must give the same numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit

I4 = NDArray[np.int32]
I8 = NDArray[np.int64]
F4 = NDArray[np.float32]
F8 = NDArray[np.float64]


@jit
def places_of(keys: NDArray[np.uint64], sorted_keys: NDArray[np.uint64], order: I4) -> I4:
    """(m,) `order` at each key's place among the ascending `sorted_keys`, −1 where it is not among them."""
    found, n = np.empty(len(keys), np.int32), len(sorted_keys)
    for j in range(len(keys)):
        key, low, high = keys[j], 0, n
        while low < high:
            middle = (low + high) // 2
            if sorted_keys[middle] < key:
                low = middle + 1
            else:
                high = middle
        found[j] = order[low] if low < n and sorted_keys[low] == key else -1
    return found


@jit
def liked(
    log: NDArray[np.void], rows: I4, order: I8, faded: F8, acted: int, by_what: F4, by_action: F4
) -> tuple[I4, F4]:
    """The items of a RECENT log that a customer is drawn to, the one with the latest entry last, and their
    weights: of each the sum over its entries, in order of time, where it is positive.

    `rows` (n,) of the entries' items, −1 left out; `order` (n,) of time; `faded` (n,) decay to now; weights
    `by_what` (256,), and of what-code `acted` `by_action` (65,536,).
    """
    n = len(order)
    item, total = np.empty(n, np.int32), np.zeros(n, np.float64)
    many = 0
    for j in range(n - 1, -1, -1):  # the latest entry of an item gives it its place
        row = rows[order[j]]
        known = row < 0
        for k in range(many):
            known = known or item[k] == row
        if not known:
            item[many] = row
            many += 1
    for j in range(n):
        entry = order[j]
        for k in range(many):
            if item[k] == rows[entry]:
                what = log[entry]["what"]
                weight = by_action[log[entry]["action"]] if what == acted else by_what[what]
                total[k] += np.float64(weight) * faded[entry]
                break
    kept, weights = np.empty(many, np.int32), np.empty(many, np.float32)
    at = 0
    for k in range(many - 1, -1, -1):
        if total[k] > 0:
            kept[at], weights[at] = item[k], total[k]
            at += 1
    return kept[:at], weights[:at]


@jit
def telling_keys(
    log: NDArray[np.void], displayed: int, clicked: int, since: float
) -> tuple[I8, NDArray[np.uint64]]:
    """Positions of the entries of a CONTACT log that fatigue depends on, and their items."""
    at, keys = np.empty(len(log), np.int64), np.empty(len(log), np.uint64)
    n = 0
    for entry in range(len(log)):
        what = log[entry]["what"]
        if what == clicked or (what == displayed and log[entry]["at"] > since):
            at[n], keys[n] = entry, log[entry]["item"]
            n += 1
    return at[:n], keys[:n]


@jit
def tired(log: NDArray[np.void], told: I8, item: I4, rows: I4, faded: F8, displayed: int) -> F4:
    """Fatigue of the candidates `rows` (n,), ascending: the decayed displays since each one's last click.

    `told` (m,) positions in the log, `item` (m,) the rows they are about, `faded` (m,) their decay.
    """
    n = len(rows)
    place = np.empty(len(told), np.int64)
    click, total = np.full(n, -1.0), np.zeros(n, np.float64)
    for j in range(len(told)):
        at = np.searchsorted(rows, item[j])
        place[j] = at if at < n and rows[at] == item[j] else -1
        if place[j] >= 0 and log[told[j]]["what"] != displayed:
            click[place[j]] = max(click[place[j]], np.float64(log[told[j]]["at"]))
    for j in range(len(told)):
        entry = log[told[j]]
        if place[j] >= 0 and entry["what"] == displayed and entry["at"] > click[place[j]]:
            total[place[j]] += faded[j]
    return total.astype(np.float32)


def own(log: NDArray[Any]) -> NDArray[Any]:
    """The log as the loops were compiled for it: in one piece and not read-only. A copy of a few kilobytes
    costs less than a microsecond; another type would cost a compilation."""
    return np.array(log)
