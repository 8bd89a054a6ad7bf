"""Several models as one: a weighted sum of their scores, each standardised within the customer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from serving.domain import Proposal, Rows, Scores
from serving.taste import KindRows, ServedModel, Taste, scores_of

if TYPE_CHECKING:
    from features.transforms import History


class EnsembleModel:
    """score(j) = sum_m weight_m (s_m(j) - mean s_m) / deviation s_m, over the items of the catalogue.

    Items without a score by a model take that model's lowest; those that no model scores have none. All parts
    read the same history.
    """

    name: ClassVar[str] = "ensemble"
    __slots__ = ("kinds", "parts", "weights")

    def __init__(self, parts: Sequence[ServedModel], weights: Sequence[float]) -> None:
        """Raises ValueError where parts are of different catalogues, or weights do not match them."""
        if not parts or len(parts) != len(weights) or len({part.n_items for part in parts}) > 1:
            raise ValueError("an ensemble is of one or more models of one catalogue, with a weight for each")
        self.parts, self.weights = tuple(parts), tuple(map(float, weights))
        self.kinds: KindRows = parts[0].kinds

    @property
    def n_items(self) -> int:
        return self.parts[0].n_items

    def represent(self, history: History, tokens: NDArray[np.uint32], segment: int) -> Taste:
        """One score per item (n_items,) f4."""
        total = np.zeros(self.n_items, np.float32)
        unknown = np.ones(self.n_items, np.bool_)
        informed = False
        for part, weight in zip(self.parts, self.weights, strict=True):
            taste = part.represent(history, tokens, segment)
            scores = part.score_all(taste)
            informed |= taste.informed
            unknown &= ~np.isfinite(scores)
            total += np.float32(weight) * standardised(scores)
        total[unknown] = np.nan
        return Taste(total, informed)

    def score(self, taste: Taste, rows: Rows) -> Scores:
        return scores_of(taste.values, rows)

    def score_all(self, taste: Taste) -> Scores:
        return taste.values

    def nearest(self, taste: Taste, k: int, kind: int) -> Proposal:
        return self.kinds.best(taste.values, k, kind)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for place, part in enumerate(self.parts):
            part.save(folder / f"part-{place}")
        spec = {"model": self.name, "weights": self.weights}
        (folder / "model.json").write_text(json.dumps(spec, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path, load: Callable[[Path], ServedModel]) -> EnsembleModel:
        """`load` reads a part."""
        weights = json.loads((folder / "model.json").read_text())["weights"]
        return cls([load(folder / f"part-{place}") for place in range(len(weights))], weights)


def standardised(scores: Scores) -> Scores:
    """To mean 0 and deviation 1 where scored; what has none takes the lowest. Zeros if all are equal."""
    known = np.isfinite(scores)
    if not known.any():
        return np.zeros(len(scores), np.float32)
    mine = scores[known] if not known.all() else scores
    mean, deviation = float(mine.mean(dtype=np.float64)), float(mine.std(dtype=np.float64))
    if not deviation > 1e-12 * max(abs(mean), 1.0):
        return np.zeros(len(scores), np.float32)
    found = ((scores - np.float32(mean)) / np.float32(deviation)).astype(np.float32)
    if not known.all():
        found[~known] = found[known].min()
    return found
