"""What every served model shares: the port, the customer's taste, and ranking within an item kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS
from serving.domain import Proposal, Rows, Scores

if TYPE_CHECKING:
    from features.transforms import History


class Taste(NamedTuple):
    """What one model makes of one customer. Opaque outside the model that made it.

    `values` is the customer's vector (d,) or one score per item (n_items,), as the model likes;
    `informed` is False when neither history nor profile said anything, so that only the prior speaks.
    """

    values: NDArray[np.float32]
    informed: bool


class ServedModel(Protocol):
    """A fitted model as the service asks it; evaluation asks the very same object. Pure and thread-safe.

    Rows are those of one bundle. A score is NaN where the model has nothing to say about an item: rows
    from `n_items` on (the overlay's) and items it has no vector for.
    """

    @property
    def name(self) -> str: ...

    @property
    def n_items(self) -> int: ...

    @property
    def kinds(self) -> KindRows: ...

    def represent(self, history: History, tokens: NDArray[np.uint32], segment: int) -> Taste:
        """From item rows with weights > 0, the most recent last; profile tokens; a segment (0 unknown)."""

    def score(self, taste: Taste, rows: Rows) -> Scores:
        """One score per row, the higher the better; NaN where not known."""

    def score_all(self, taste: Taste) -> Scores:
        """The scores of rows 0..n_items-1."""

    def nearest(self, taste: Taste, k: int, kind: int) -> Proposal:
        """At most `k` items of one kind (a code of `features.ids.KINDS`), best first."""

    def save(self, folder: Path) -> None:
        """Write `.npy` arrays and `model.json` into an existing or new folder."""


def best_rows(scores: NDArray[np.floating], k: int) -> NDArray[np.intp]:
    """Positions of the `k` highest finite scores, best first; ties go to the lower position."""
    clean = np.where(np.isfinite(scores), scores, -np.inf)
    if k < len(clean):
        cut = np.partition(clean, len(clean) - k)[len(clean) - k]
        above = np.flatnonzero(clean > cut)
        level = np.flatnonzero(clean == cut)[: k - len(above)]
        chosen = np.sort(np.concatenate((above, level)))
    else:
        chosen = np.arange(len(clean))
    order = chosen[np.argsort(-clean[chosen], kind="stable")]
    return order[np.isfinite(clean[order])]


class KindRows:
    """The rows of each item kind, ascending."""

    __slots__ = ("codes", "rows")

    def __init__(self, codes: NDArray[np.uint8]) -> None:
        self.codes = codes
        self.rows: tuple[Rows, ...] = tuple(
            np.flatnonzero(codes == code).astype(np.int32) for code in range(len(KINDS))
        )

    def best(self, scores: Scores, k: int, kind: int) -> Proposal:
        """The `k` best rows of a kind by a score per item."""
        rows = self.rows[kind]
        mine = scores[rows]
        at = best_rows(mine, k)
        return Proposal(rows[at], mine[at].astype(np.float32, copy=False))


class Tabled:
    """Of a model whose taste is one score per item: everything after `represent` is looking it up."""

    __slots__ = ()

    kinds: KindRows

    def score(self, taste: Taste, rows: Rows) -> Scores:
        return scores_of(taste.values, rows)

    def score_all(self, taste: Taste) -> Scores:
        return taste.values

    def nearest(self, taste: Taste, k: int, kind: int) -> Proposal:
        return self.kinds.best(taste.values, k, kind)


def evidence(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a history's weight counts as: log(1 + w), so that the thousandth transfer adds little."""
    return np.log1p(weights)


def scores_of(table: Scores, rows: Rows) -> Scores:
    """`table[rows]`, NaN for rows beyond the table (items that came after the bundle)."""
    n = len(table)
    if not len(rows):
        return np.empty(0, np.float32)
    if int(rows.max()) < n:
        return table[rows].astype(np.float32, copy=False)
    found = np.full(len(rows), np.nan, np.float32)
    inside = rows < n
    found[inside] = table[rows[inside]]
    return found


def save_arrays(folder: Path, **arrays: NDArray[np.generic]) -> None:
    """One little-endian C-ordered `.npy` file per array."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)


def load_array(folder: Path, name: str) -> NDArray[np.generic]:
    """A memory-mapped array as `save_arrays` wrote it (small ones are read).

    Copy on write, so that it is shared by all that map it, and of one type with arrays in memory: compiled
    loops would be compiled anew for one that is read-only.
    """
    path = folder / f"{name}.npy"
    small = path.stat().st_size < 1 << 16
    array: NDArray[np.generic] = np.load(path, mmap_mode=None if small else "c", allow_pickle=False)
    return array.view(np.ndarray)  # np.memmap itself is a subclass, whose every slice costs a microsecond
