"""A page's placements column by column: transposed once, for token, bytes, served record and memory.

Forty placements of twenty fields read one by one, by each of the four, cost more than all else they do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple, TypeVar, overload

import numpy as np

from serving.domain import Placement

T = TypeVar("T")
MOST_PACKERS: Final = 1024
_DTYPES: Final = {"Q": "<u8", "I": "<u4", "B": "u1", "f": "<f4"}


class Columns(NamedTuple):
    """The fields of serving.domain.Placement, each a column in page order."""

    slot: Sequence[int] = ()
    position: Sequence[int] = ()
    row: Sequence[int] = ()
    key: Sequence[int] = ()
    score: Sequence[float] = ()
    origin: Sequence[int] = ()
    reason: Sequence[int] = ()
    creative: Sequence[int] = ()
    creative_key: Sequence[int] = ()
    flags: Sequence[int] = ()
    propensity: Sequence[float] = ()
    campaign: Sequence[int] = ()
    campaign_key: Sequence[int] = ()
    value: Sequence[float] = ()
    base: Sequence[float] = ()
    tag: Sequence[float] = ()
    rule: Sequence[int] = ()
    by: Sequence[int] = ()
    capped: Sequence[bool] = ()
    shown: Sequence[float] = ()
    units: Sequence[tuple[float, float, float]] = ()

    @classmethod
    def of(cls, placements: Sequence[Placement]) -> Columns:
        if isinstance(placements, Placements):
            return placements.columns
        return cls(*zip(*placements, strict=True)) if placements else cls()


class Placements(Sequence[Placement]):
    """Placements that are columns until somebody asks for one of them."""

    __slots__ = ("_made", "columns")

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self._made: tuple[Placement, ...] | None = None

    @property
    def made(self) -> tuple[Placement, ...]:
        if self._made is None:
            self._made = tuple(map(Placement._make, zip(*self.columns, strict=True)))
        return self._made

    def __len__(self) -> int:
        return len(self.columns.slot)

    @overload
    def __getitem__(self, index: int) -> Placement: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Placement, ...]: ...
    def __getitem__(self, index: int | slice) -> Placement | tuple[Placement, ...]:
        return self.made[index]

    def __iter__(self) -> Iterator[Placement]:
        return iter(self.made)

    def __eq__(self, other: object) -> bool:
        return self.made == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.made)

    def __repr__(self) -> str:
        return repr(self.made)


class Later(Mapping[int, T]):
    """Something by the index of a place in the page, made when one of it is asked for."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], Mapping[int, T]]) -> None:
        self._make = make
        self._made: Mapping[int, T] | None = None

    @property
    def made(self) -> Mapping[int, T]:
        if self._made is None:
            self._made = self._make()
        return self._made

    def __getitem__(self, index: int) -> T:
        return self.made[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self.made)

    def __len__(self) -> int:
        return len(self.made)

    def __repr__(self) -> str:
        return repr(self.made)


def packed(code: str, column: Sequence[float]) -> bytes:
    """Little-endian bytes; `code`: Q, I, B or f, as struct has them."""
    try:
        return _packer(code, len(column)).pack(*column)
    except OverflowError:  # beyond what four bytes of a float hold: infinite there
        with np.errstate(over="ignore"):
            return np.array(column, _DTYPES[code]).tobytes()


@lru_cache(MOST_PACKERS)
def _packer(code: str, many: int) -> Struct:
    return Struct(f"<{many}{code}")
