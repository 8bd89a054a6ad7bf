"""The page while it is made: what was chosen for each slot, and which rows are taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from serving.domain import PINNED, SlotRequest
from serving.surfaces import Recipe


class Chosen(NamedTuple):
    """One place: the item, what is rendered of it, and what put it there."""

    row: int
    score: float
    origin: int
    creative: int
    flags: int
    campaign: int = -1
    value: float = 0.0  # CNY per display, with lever and prices
    base: float = 0.0
    tag: float = 0.0
    rule: int = 0
    by: int = -1  # campaign that the rule is of
    capped: bool = False
    pin: int = -1  # position that is its own
    spare: Chosen | None = None  # stands in where the ledger refuses


@dataclass(slots=True, eq=False)
class Filling:
    """One slot while the page is made."""

    index: int
    asked: SlotRequest
    recipe: Recipe
    count: int
    excluded: frozenset[int]  # rows
    chosen: list[Chosen] = field(default_factory=list)
    supply: Iterator[Chosen] = field(default_factory=chain)

    @property
    def short(self) -> bool:
        return len(self.chosen) < self.count

    @property
    def must_fill(self) -> bool:
        """A slot whose showing costs something may stay empty."""
        return self.asked.spec.interruption <= 0


@dataclass(slots=True, eq=False)
class Making:
    """All slots of one page; no row stands twice."""

    slots: list[Filling]
    taken: dict[int, int] = field(default_factory=dict)  # row -> index of its slot

    def place(self, slot: Filling, chosen: Chosen) -> None:
        slot.chosen.append(chosen)
        self.taken[chosen.row] = slot.index


def seated(chosen: list[Chosen]) -> list[Chosen]:
    """The slot once it is filled: what is pinned stands at its position, if the slot reaches so far."""
    if all(one.pin in (-1, at) for at, one in enumerate(chosen)):
        return chosen
    pinned = {one.pin: one for one in reversed(chosen) if 0 <= one.pin < len(chosen)}
    pinned |= {at: one for at, one in enumerate(chosen) if one.pin == at}
    free = iter([one for one in chosen if pinned.get(one.pin) is not one])
    seated = [pinned[at] if at in pinned else next(free) for at in range(len(chosen))]
    return [
        one if one.pin in (-1, at) else one._replace(flags=one.flags & ~PINNED, pin=-1)
        for at, one in enumerate(seated)
    ]


def is_free(chosen: Chosen) -> bool:
    """Whether nothing but its value put it there."""
    return chosen.campaign < 0 and not chosen.capped and not chosen.flags & PINNED
