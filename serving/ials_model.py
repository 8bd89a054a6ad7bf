"""iALS as served: a customer is folded in by the very equation that training solves for a user.

    (Σ v y yᵀ + α₀ G + ρ(n) I) x = Σ v y + c/(c + h) · (α₀ G + ρ(0) I) m,       ρ(n) = λ (n + α₀ N)^ν

over the h items of the history with weight v = log2(1 + w), n = Σ v, N items in the catalogue (Rendle et al.
2021, "Revisiting the Performance of iALS on Item Recommendation Benchmarks"); m = mean + Σ W over the tokens
is what the profile says, c the items that it is worth. Without history x is exactly m. The item vectors are
stored rotated so that their Gram matrix G is diagonal: the system without history is then diagonal whatever
the ridge, and a history of h < d items costs one solve in h (Woodbury), not in d.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.index import ItemIndex
from serving.taste import Taste, load_array, save_arrays
from serving.vector_model import Floats, ItemVectors, Prior

if TYPE_CHECKING:
    from features.transforms import History

_LOG2: Final = math.log(2.0)


class Ridge(NamedTuple):
    """ρ(n) = `regularization` · (n + `base`) ^ `exponent`; `base` is α₀ N with `unobserved` α₀."""

    regularization: float
    unobserved: float
    exponent: float
    base: float

    def of(self, n: float) -> float:
        return self.regularization * float((n + self.base) ** self.exponent)


class IalsModel(ItemVectors):
    """Rotated item vectors (n_items, d), the diagonal of their Gram matrix, ridge, prior, and the index."""

    name: ClassVar[str] = "ials"
    __slots__ = ("ridge", "spectrum", "strength")

    def __init__(
        self,
        vectors: Floats,
        kinds: NDArray[np.uint8],
        prior: Prior,
        *,
        ridge: Ridge,
        strength: float,
        index: ItemIndex | None = None,
    ) -> None:
        """`vectors` must have a diagonal Gram matrix; `strength` is c: the items that the prior is worth."""
        super().__init__(vectors, kinds, prior, index)
        self.ridge, self.strength = ridge, strength
        self.spectrum: NDArray[np.float64] = np.einsum("ij,ij->j", vectors, vectors, dtype=np.float64)

    def represent(self, history: History, tokens: NDArray[np.uint32], segment: int) -> Taste:  # noqa: ARG002
        """The customer's vector (d,) f4. The segment speaks through its token."""
        rows, weights = self.usable(history)
        known = self.prior.rows(tokens)
        prior = self.prior.mean.astype(np.float64)
        if len(known):
            prior = prior + self.prior.weights.take(known, axis=0).sum(axis=0, dtype=np.float64)
        if not len(rows):
            return Taste(prior.astype(np.float32), bool(len(known)))
        weights = weights / _LOG2
        n = float(weights.sum())
        plain = self.ridge.unobserved * self.spectrum
        right = self.strength / (self.strength + len(rows)) * (plain + self.ridge.of(0.0)) * prior
        y = self.vectors.take(rows, axis=0).astype(np.float64)
        right += weights @ y
        diagonal = plain + self.ridge.of(n)
        if len(rows) > self.width:
            system = y.T @ (weights[:, None] * y)
            system.flat[:: self.width + 1] += diagonal
            return Taste(np.linalg.solve(system, right).astype(np.float32), True)
        x = right / diagonal
        s = y / diagonal
        inner = weights[:, None] * (y @ s.T)
        inner.flat[:: len(rows) + 1] += 1.0
        x -= np.linalg.solve(inner, weights * (y @ x)) @ s
        return Taste(x.astype(np.float32), True)

    def with_index(self, index: ItemIndex) -> IalsModel:
        """The same model with another index."""
        return IalsModel(
            self.vectors, self.kinds.codes, self.prior, ridge=self.ridge, strength=self.strength, index=index
        )

    def save(self, folder: Path) -> None:
        save_arrays(
            folder,
            vectors=self.vectors,
            kinds=self.kinds.codes,
            prior_mean=self.prior.mean,
            prior_tokens=self.prior.tokens,
            prior_weights=self.prior.weights,
        )
        self.index.save(folder / "index")
        spec = {"model": self.name, "ridge": self.ridge._asdict(), "strength": self.strength}
        (folder / "model.json").write_text(json.dumps(spec, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path) -> IalsModel:
        spec = json.loads((folder / "model.json").read_text())
        names = ("vectors", "kinds", "prior_mean", "prior_tokens", "prior_weights")
        part: dict[str, Any] = {name: load_array(folder, name) for name in names}
        return cls(
            part["vectors"],
            part["kinds"],
            Prior(part["prior_mean"], part["prior_tokens"], part["prior_weights"]),
            ridge=Ridge(**spec["ridge"]),
            strength=spec["strength"],
            index=ItemIndex.load(folder / "index", part["vectors"]),
        )
