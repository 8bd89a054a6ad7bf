"""Several models as one: a weighted sum of their scores, each standardised within the customer.

Of who did little the sum is drawn to what their segment likes: `prior` counts as much as `worth` items of a
history, and alone where there is none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from serving.domain import Scores
from serving.taste import KindRows, ServedModel, Tabled, Taste

if TYPE_CHECKING:
    from features.transforms import History


class EnsembleModel(Tabled):
    """score(j) = sum_m weight_m (s_m(j) - mean s_m) / deviation s_m, over the items of the catalogue; with a
    prior p and h items of history (h · that, standardised again, + worth · p standardised) / (h + worth).

    Items without a score by a model take that model's lowest; those that no model scores have none. All parts
    read the same history.
    """

    name: ClassVar[str] = "ensemble"
    __slots__ = ("kinds", "parts", "prior", "weights", "worth")

    def __init__(
        self,
        parts: Sequence[ServedModel],
        weights: Sequence[float],
        prior: ServedModel | None = None,
        worth: float = 0.0,
    ) -> None:
        """`prior` speaks for those of whom little is known, as much as `worth` items of a history.

        Raises ValueError where parts are of different catalogues, or weights do not match them.
        """
        if not parts or len(parts) != len(weights) or len({part.n_items for part in parts}) > 1:
            raise ValueError("an ensemble is of one or more models of one catalogue, with a weight for each")
        self.parts, self.weights = tuple(parts), tuple(map(float, weights))
        self.prior, self.worth = prior, float(worth)
        self.kinds: KindRows = parts[0].kinds

    @property
    def n_items(self) -> int:
        return self.parts[0].n_items

    def represent(self, history: History, tokens: NDArray[np.uint32], segment: int) -> Taste:
        """One score per item (n_items,) f4."""
        informed = False
        start: Taste | None = None
        if self.prior is not None and self.worth:
            start = self.prior.represent(history, tokens, segment)
            informed = start.informed

        def parts() -> list[Scores]:
            nonlocal informed
            tastes = [part.represent(history, tokens, segment) for part in self.parts]
            informed = any(taste.informed for taste in tastes)
            return [part.score_all(taste) for part, taste in zip(self.parts, tastes, strict=True)]

        prior = None if start is None or self.prior is None else self.prior.score_all(start)
        known = int(np.count_nonzero(history.rows < self.n_items))
        values = self.mixed(parts, prior, known)
        return Taste(values, informed)

    def mixed(self, parts: Callable[[], Sequence[Scores]], prior: Scores | None, known: int) -> Scores:
        """One score per item (n_items,) f4 from those of each part, not asked for where `known`, the items of
        the history, are none and there is a `prior`.
        """
        if prior is None:
            return self.whole(parts())
        if not known:
            return standardised(prior)
        return drawn(self.whole(parts()), prior, self.worth / (self.worth + known))

    def whole(self, parts: Sequence[Scores]) -> Scores:
        """The sum alone."""
        total = np.zeros(self.n_items, np.float32)
        unknown = np.ones(self.n_items, np.bool_)
        for scores, weight in zip(parts, self.weights, strict=True):
            unknown &= ~np.isfinite(scores)
            total += np.float32(weight) * standardised(scores)
        total[unknown] = np.nan
        return total

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for place, part in enumerate(self.parts):
            part.save(folder / f"part-{place}")
        if self.prior is not None:
            self.prior.save(folder / "prior")
        spec = {"model": self.name, "weights": self.weights, "worth": self.worth}
        (folder / "model.json").write_text(json.dumps(spec, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path, load: Callable[[Path], ServedModel]) -> EnsembleModel:
        """`load` reads a part."""
        spec = json.loads((folder / "model.json").read_text())
        parts = [load(folder / f"part-{place}") for place in range(len(spec["weights"]))]
        prior = load(folder / "prior") if (folder / "prior").exists() else None
        return cls(parts, spec["weights"], prior, spec.get("worth", 0.0))


def drawn(scores: Scores, prior: Scores, share: float) -> Scores:
    """`scores` drawn to the prior's by a share, both standardised; NaN where `scores` are."""
    found = np.float32(1.0 - share) * standardised(scores) + np.float32(share) * standardised(prior)
    found[~np.isfinite(scores)] = np.nan
    return found


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
