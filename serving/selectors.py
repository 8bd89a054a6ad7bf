"""Which of the ranked candidates a slot shows first."""

from __future__ import annotations

from dataclasses import dataclass

from serving.pipeline import Selector


@dataclass(frozen=True)
class BestFirst(Selector):
    """By score, from the sources that count for the layout."""

    origins: int

    def select(self, positions: list[int]) -> list[int]:
        return positions
