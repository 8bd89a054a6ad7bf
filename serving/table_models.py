"""Models that are tables: popularity by segment, and neighbours by conditional probability."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from serving.domain import Scores
from serving.tables import Neighbours, Popular, place_of
from serving.taste import KindRows, Tabled, Taste, evidence, load_array, save_arrays

if TYPE_CHECKING:
    from features.transforms import History


class PopularModel(Tabled):
    """Popularity by segment as a model: everybody of a segment has the same taste."""

    name: ClassVar[str] = "popular"
    __slots__ = ("kinds", "popular")

    def __init__(self, popular: Popular, kinds: NDArray[np.uint8]) -> None:
        self.popular = popular
        self.kinds = KindRows(kinds)

    @property
    def n_items(self) -> int:
        return self.popular.n_items

    def represent(self, history: History, tokens: NDArray[np.uint32], segment: int) -> Taste:  # noqa: ARG002
        """The segment's share per item (n_items,) f4."""
        row = self.popular.row_of(segment)
        return Taste(self.popular.shares[row], row > 0)

    def save(self, folder: Path) -> None:
        self.popular.save(folder)
        save_arrays(folder, kinds=self.kinds.codes)
        _write_spec(folder, model=self.name)

    @classmethod
    def load(cls, folder: Path) -> PopularModel:
        kinds: Any = load_array(folder, "kinds")
        return cls(Popular.load(folder), kinds)


class NeighbourModel(Tabled):
    """score(j) = (sum_i w_i p(j | i) + m prior(j)) / (sum_i w_i + m): neighbours, shrunk to popularity.

    `w` is the evidence of a history's weight. With no history that is the prior itself: `prior`
    (1 + segments, n_items), row 0 everybody's, row i that of `segments[i - 1]`: the probability that such a
    person has the item, on the scale of the neighbour weights; `pseudo` is m.
    """

    name: ClassVar[str] = "neighbours"
    __slots__ = ("kinds", "neighbours", "prior", "pseudo", "segments")

    def __init__(
        self,
        neighbours: Neighbours,
        prior: Scores,
        segments: NDArray[np.uint16],
        kinds: NDArray[np.uint8],
        *,
        pseudo: float,
    ) -> None:
        self.neighbours, self.prior, self.segments, self.pseudo = neighbours, prior, segments, pseudo
        self.kinds = KindRows(kinds)

    @property
    def n_items(self) -> int:
        return self.neighbours.n_items

    def represent(self, history: History, tokens: NDArray[np.uint32], segment: int) -> Taste:  # noqa: ARG002
        """One score per item (n_items,) f4."""
        place = place_of(self.segments, segment) + 1
        prior = self.prior[place]
        inside = history.rows < self.n_items
        if not inside.any():
            return Taste(prior, place > 0)
        weights = evidence(history.weights[inside])
        scores = self.neighbours.gather(history.rows[inside], weights)
        scores += np.float32(self.pseudo) * prior
        scores /= np.float32(float(weights.sum()) + self.pseudo)
        return Taste(scores, True)

    def save(self, folder: Path) -> None:
        self.neighbours.save(folder)
        save_arrays(folder, prior=self.prior, segments=self.segments, kinds=self.kinds.codes)
        _write_spec(folder, model=self.name, pseudo=self.pseudo)

    @classmethod
    def load(cls, folder: Path) -> NeighbourModel:
        part: dict[str, Any] = {name: load_array(folder, name) for name in ("prior", "segments", "kinds")}
        pseudo = float(json.loads((folder / "model.json").read_text())["pseudo"])
        return cls(Neighbours.load(folder), part["prior"], part["segments"], part["kinds"], pseudo=pseudo)


class EaseModel(NeighbourModel):
    """EASE (Steck 2019) as served: score(j) = (sum_i w_i B_ij + m prior(j)) / (sum_i w_i + m).

    There is no vector of a customer: what they did a second ago counts at once. `neighbours` holds of each
    item j the weights B_ij of largest size, those below zero included; the divisor is the same for all items
    and changes no order. For a small catalogue `whole` (n_items, n_items) is all of B: on 3,706 items the
    200 largest alone cost 2 % of the quality, and rows of a matrix are read as fast as a table of them.
    """

    name: ClassVar[str] = "ease"
    __slots__ = ("whole",)

    def __init__(
        self,
        neighbours: Neighbours,
        prior: Scores,
        segments: NDArray[np.uint16],
        kinds: NDArray[np.uint8],
        *,
        pseudo: float,
        whole: Scores | None = None,
    ) -> None:
        super().__init__(neighbours, prior, segments, kinds, pseudo=pseudo)
        self.whole = whole

    @property
    def n_items(self) -> int:
        return len(self.kinds.codes)

    def represent(self, history: History, tokens: NDArray[np.uint32], segment: int) -> Taste:
        """One score per item (n_items,) f4."""
        inside = history.rows < self.n_items
        if self.whole is None or not inside.any():
            return super().represent(history, tokens, segment)
        weights = evidence(history.weights[inside])
        prior = self.prior[place_of(self.segments, segment) + 1]
        scores = weights @ self.whole.take(history.rows[inside], axis=0)
        scores += np.float32(self.pseudo) * prior
        scores /= np.float32(float(weights.sum()) + self.pseudo)
        return Taste(scores, True)

    def save(self, folder: Path) -> None:
        super().save(folder)
        if self.whole is not None:
            save_arrays(folder, whole=self.whole)

    @classmethod
    def load(cls, folder: Path) -> EaseModel:
        part: dict[str, Any] = {name: load_array(folder, name) for name in ("prior", "segments", "kinds")}
        pseudo = float(json.loads((folder / "model.json").read_text())["pseudo"])
        whole: Any = load_array(folder, "whole") if (folder / "whole.npy").exists() else None
        given = (Neighbours.load(folder), part["prior"], part["segments"], part["kinds"])
        return cls(*given, pseudo=pseudo, whole=whole)


def _write_spec(folder: Path, **spec: object) -> None:
    (folder / "model.json").write_text(json.dumps(spec, indent=1, sort_keys=True) + "\n")
