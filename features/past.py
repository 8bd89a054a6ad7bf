"""Loops over a customer's logs and over sorted keys: what `features.transforms` and lookups are made of.

What fades does so by a power of our own, of sums and products alone: NumPy's gives other last bits on other
processors, and the compiler's others again, where the twins over many customers (training, replay) must give
the same numbers.
"""

from __future__ import annotations

from math import factorial
from math import log as ln
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import loops

I4 = NDArray[np.int32]
I8 = NDArray[np.int64]
F4 = NDArray[np.float32]
F8 = NDArray[np.float64]
U8 = NDArray[np.uint64]

_TERMS: Final = tuple(ln(2) ** k / factorial(k) for k in range(14))  # of 2 ** r by Taylor
_OLDEST: Final = -1000.0  # halvings; beyond, nothing is left (IEEE 754 binary64 has 1022)


@loops
def halved(times: float) -> float:
    """2 ** −times, for times >= 0: exact for whole numbers, else to the last bit or two.

    The nearest whole power, times 2 ** r for the rest |r| <= 1/2: the term after the last is below 1e-17.
    """
    x = -times
    if not x > _OLDEST:
        return 0.0
    whole = np.floor(x + 0.5)
    rest = x - whole
    power = 0.0
    for k in range(13, -1, -1):
        power = power * rest + _TERMS[k]
    return power * np.int64((np.int64(whole) + 1023) << 52).view(np.float64)


def faded(age: F8, half_life: float) -> F8:
    """(n,) what is left of one after each age: half after each half-life; of the future all is left."""
    left = np.empty(len(age))
    _faded(np.asarray(age, np.float64), 1.0 / half_life, left)
    return left


@loops
def _faded(age: F8, rate: float, left: F8) -> None:
    for k in range(len(age)):
        left[k] = halved(max(age[k], 0.0) * rate)


class Directory:
    """Where keys of 64 bits stand among many, each looked up in one step or two.

    Keys are hashes, so those of one beginning are few: `first` says for each beginning where they begin.
    """

    __slots__ = ("_first", "_order", "_shift", "_sorted")

    def __init__(self, sorted_keys: U8, order: I4) -> None:
        """`sorted_keys` (n,), ascending; `order` (n,) what is said of each."""
        bits = max(1, len(sorted_keys).bit_length())  # one to two beginnings a key
        self._shift = 64 - bits
        begins = np.arange((1 << bits) + 1)
        self._first = np.searchsorted(sorted_keys >> np.uint64(self._shift), begins).astype(np.int32)
        self._sorted, self._order = sorted_keys, order

    def of(self, keys: U8) -> I4:
        """(m,) what is said of each key, −1 of one that is not there."""
        found = np.empty(len(keys), np.int32)
        _looked_up(np.array(keys, np.uint64), self._sorted, self._order, self._first, self._shift, found)
        return found


@loops
def _looked_up(keys: U8, sorted_keys: U8, order: I4, first: I4, shift: int, found: I4) -> None:
    for j in range(len(keys)):
        begin = keys[j] >> np.uint64(shift)
        found[j] = -1
        for at in range(first[begin], first[begin + np.uint64(1)]):
            if sorted_keys[at] == keys[j]:
                found[j] = order[at]


def liked(
    log: NDArray[np.void], rows: I4, now: float, half_life: float, acted: int, by_what: F4, by_action: F4
) -> tuple[I4, F4]:
    """The items of a RECENT log that a customer is drawn to, the one with the latest entry last, and their
    weights: of each the sum over its entries, in order of time, where it is positive.

    `rows` (n,) of the entries' items, −1 left out; `half_life` in seconds; weights `by_what` (256,), and of
    what-code `acted` `by_action` (65,536,).
    """
    n = len(log)
    kept, weights = np.empty(n, np.int32), np.empty(n, np.float32)
    scratch, total = np.empty((3, n), np.int64), np.empty(n)
    many = _liked(
        own(log), rows, now, 1.0 / half_life, acted, by_what, by_action, scratch, total, kept, weights
    )
    return kept[:many], weights[:many]


@loops
def _liked(
    log: NDArray[np.void], rows: I4, now: float, rate: float, acted: int, by_what: F4, by_action: F4,
    scratch: I8, total: F8, kept: I4, weights: F4,
) -> int:  # fmt: skip
    n = len(rows)
    order, item, place = scratch
    for j in range(n):  # by time, of equal ones the first first: nearly always they are in order already
        k = j
        while k > 0 and log[order[k - 1]]["at"] > log[j]["at"]:
            order[k] = order[k - 1]
            k -= 1
        order[k] = j
    many = 0
    for j in range(n - 1, -1, -1):  # the latest entry of an item gives it its place
        entry = order[j]
        row = rows[entry]
        place[entry] = -1
        if row >= 0:
            k = 0
            while k < many and item[k] != row:
                k += 1
            if k == many:
                item[k], total[k] = row, 0.0
                many += 1
            place[entry] = k
    for j in range(n):
        entry = order[j]
        if place[entry] >= 0:
            what = log[entry]["what"]
            weight = by_action[log[entry]["action"]] if what == acted else by_what[what]
            left = halved(max(now - log[entry]["at"], 0.0) * rate)
            total[place[entry]] += np.float64(weight) * left
    at = 0
    for k in range(many - 1, -1, -1):
        if total[k] > 0:
            kept[at], weights[at] = item[k], total[k]
            at += 1
    return at


def tired(
    log: NDArray[np.void], item: I4, rows: I4, now: float, window: float, half_life: float,
    displayed: int, clicked: int,
) -> F4:  # fmt: skip
    """(n,) fatigue of the candidates `rows`, ascending: the displays of the last `window` seconds since each
    one's last click, halved every `half_life` seconds.

    `log`: a CONTACT log, `item` the rows that its entries are about, −1 not known.
    """
    found = np.empty(len(rows), np.float32)
    place, click, total = np.empty(len(log), np.int64), np.empty(len(rows)), np.empty(len(rows))
    codes = (displayed, clicked)
    _tired(own(log), item, rows, now, now - window, 1.0 / half_life, codes, place, click, total, found)
    return found


@loops
def _tired(
    log: NDArray[np.void], item: I4, rows: I4, now: float, since: float, rate: float, codes: tuple[int, int],
    place: I8, click: F8, total: F8, found: F4,
) -> None:  # fmt: skip
    displayed, clicked = codes
    for k in range(len(rows)):
        click[k], total[k] = -1.0, 0.0
    for j in range(len(log)):
        place[j] = -1
        if item[j] >= 0:
            at = _place(rows, item[j])
            if at < len(rows) and rows[at] == item[j]:
                place[j] = at
                if log[j]["what"] == clicked:
                    click[at] = max(click[at], np.float64(log[j]["at"]))
    for j in range(len(log)):
        at, shown = place[j], np.float64(log[j]["at"])
        if at >= 0 and log[j]["what"] == displayed and shown > since and shown > click[at]:
            total[at] += halved(max(now - shown, 0.0) * rate)
    for k in range(len(rows)):
        found[k] = total[k]


@loops
def _place(rows: I4, row: np.int32) -> int:
    """Where it stands among ascending rows, or else would be near; halves without a branch to guess."""
    low, left = 0, len(rows)
    while left > 1:
        half = left >> 1
        low += half if rows[low + half - 1] < row else 0
        left -= half
    return low


def own(log: NDArray[Any]) -> NDArray[Any]:
    """The log as the loops were compiled for it: in one piece and read-only, as it is where it comes from a
    store. Another type would cost a compilation."""
    flags = log.flags
    if flags.c_contiguous and not flags.writeable:
        return log
    return np.frombuffer(log.tobytes(), log.dtype)
