"""What may stand at a place in the way of creatives and how often each, remembered for the loop that draws.

A choice is worked out when a page first meets it, and holds for one version of the bandit: a view that is
taught another one begins with none.
"""

from __future__ import annotations

from threading import Lock
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.creatives_kernel import MANY, MOST, NAMES, TOLD_APART, keep

MOST_KEPT: Final = 20_000


class CreativeAsked(NamedTuple):
    """What a choice depends on, beside the version."""

    row: int
    creative: int  # the page's own, by its index
    campaign: int  # −1 none
    bit: int  # number of the slot's bit: its layout and its budget for exploring
    cell: int  # of the bandit


class CreativeChoice(NamedTuple):
    """Of an item's creatives at a place: indices, the page's own first, their key32s and chances."""

    creatives: tuple[int, ...]
    keys: tuple[int, ...]
    chances: tuple[float, ...]


class Kept(NamedTuple):
    """`names`, `rows`: what serving.creatives_kernel.draw looks at; `made`: the choices by their number."""

    names: NDArray[np.int64]
    rows: NDArray[np.float64]
    made: list[CreativeChoice]


class CreativeChoices:
    """`kept` is read once by a page: another thread may begin anew.

    Memory is that of what is kept: of arrays of noughts the system gives the pages that are written to.
    """

    __slots__ = ("_lock", "kept")

    def __init__(self) -> None:
        self.kept = Kept(np.zeros((1, 3), np.int64), np.zeros((1, 1 + 2 * MOST)), [])
        self._lock = Lock()

    def keep(self, asked: CreativeAsked, choice: CreativeChoice) -> None:
        """Nothing is kept of items with more creatives than are told apart."""
        many = len(choice.creatives)
        if many > MOST or not 0 <= asked.creative < TOLD_APART:
            return
        with self._lock:
            if not self.kept.made or len(self.kept.made) >= MOST_KEPT:
                self.kept = Kept(np.zeros((NAMES, 3), np.int64), np.zeros((MOST_KEPT, 1 + 2 * MOST)), [])
            names, rows, made = self.kept
            at = len(made)
            rows[at, MANY], rows[at, 1 : 1 + many] = many, choice.creatives
            rows[at, 1 + MOST : 1 + MOST + len(choice.chances)] = choice.chances
            made.append(choice)
            keep(*asked, at, names)  # last: what is found is whole
