"""What operators have stopped, as a page asks of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from features.ids import key32


class Switch(Protocol):
    """`serving.control.Kill`."""

    @property
    def scope(self) -> str: ...
    @property
    def id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Kills:
    """What is stopped, at once and everywhere: keys (32 bits) of creatives and slots, item ids."""

    everything: bool = False
    items: frozenset[str] = frozenset()
    creatives: frozenset[int] = frozenset()
    slots: frozenset[str] = frozenset()
    campaigns: frozenset[str] = frozenset()

    @classmethod
    def of(cls, kills: Iterable[Switch]) -> Kills:
        named: dict[str, set[str]] = {"item": set(), "creative": set(), "slot": set(), "campaign": set()}
        everything = False
        for kill in kills:
            if kill.scope in named:
                named[kill.scope].add(kill.id)
            else:  # `everything`, or a scope of a later version: what is not understood stops the most
                everything = True
        return cls(
            everything,
            frozenset(named["item"]),
            frozenset(key32(name) for name in named["creative"]),
            frozenset(named["slot"]),
            frozenset(named["campaign"]),
        )
