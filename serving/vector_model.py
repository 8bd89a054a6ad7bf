"""ALS as served: a customer's vector is a prior from the profile, updated by what they did.

    x = (Yt Y + Yt (C - I) Y + (lambda + tau) I)^-1 (Yt C p + tau m),      m = mean + sum of W over the tokens

over the items of the history, with confidence c = 1 + alpha * log(1 + weight) (Hu, Koren, Volinsky 2008): a
posterior mean. With no history it is A^-1 tau m, which is what training makes W for: a new customer takes the
same path. By the Woodbury identity it costs one solve in the history's size h, not in d: with
A = Yt Y + (lambda + tau) I, S = Y A^-1 (stored) and D = diag(c - 1),

    x = g - S_ht (I + D Y_h S_ht)^-1 D Y_h g,      g = S_ht c + tau A^-1 m.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from serving.domain import Proposal, Rows, Scores
from serving.fold_in import Room, Solved, folded
from serving.index import ItemIndex
from serving.taste import KindRows, Taste, evidence, load_array, save_arrays

if TYPE_CHECKING:
    from features.transforms import History

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prior:
    """The customer before any history: `mean` (d,) plus the rows of `weights` (t, d) whose token is set.

    `tokens` (t,) u4, ascending. A token that training did not know says nothing.
    """

    mean: Floats
    tokens: NDArray[np.uint32]
    weights: Floats
    _row: dict[int, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = {token: row for row, token in enumerate(self.tokens.tolist())}
        object.__setattr__(self, "_row", rows)

    def rows(self, tokens: NDArray[np.uint32]) -> NDArray[np.intp]:
        """Rows of `weights` for the tokens that are known."""
        row = self._row
        return np.array([row[token] for token in tokens.tolist() if token in row], np.intp)


class ItemVectors:
    """What every model of item vectors shares: the vectors (n_items, d), their kinds and their index.

    An item whose vector is zero was met by nobody: it has no score, and says nothing in a history.
    """

    name: ClassVar[str]
    __slots__ = ("_without", "has_vector", "index", "kinds", "prior", "vectors")

    def __init__(
        self, vectors: Floats, kinds: NDArray[np.uint8], prior: Prior, index: ItemIndex | None
    ) -> None:
        """`index` None: exact."""
        self.vectors, self.prior = vectors, prior
        self.kinds = KindRows(kinds)
        self.has_vector: NDArray[np.bool_] = np.asarray((vectors != 0).any(axis=1))
        self._without = np.flatnonzero(~self.has_vector)
        self.index = index or self._exact()

    def _exact(self) -> ItemIndex:
        return ItemIndex.flat(self.vectors, [rows[self.has_vector[rows]] for rows in self.kinds.rows])

    @property
    def n_items(self) -> int:
        return len(self.vectors)

    @property
    def width(self) -> int:
        return int(self.vectors.shape[1])

    def usable(self, history: History) -> tuple[Rows, NDArray[np.float64]]:
        """Items that have a vector (not the overlay's, not those nobody met), and their evidence."""
        rows, weights = self._met(history)
        return rows, evidence(weights).astype(np.float64)

    def _met(self, history: History) -> History:
        inside = history.rows < self.n_items
        if not inside.all():
            history = type(history)(history.rows[inside], history.weights[inside])
        if len(self._without):
            kept = self.has_vector[history.rows]
            if not kept.all():
                return type(history)(history.rows[kept], history.weights[kept])
        return history

    def score(self, taste: Taste, rows: Rows) -> Scores:
        found = np.full(len(rows), np.nan, np.float32)
        inside = rows < self.n_items
        inside[inside] = self.has_vector[rows[inside]]
        found[inside] = self.vectors[rows[inside]] @ taste.values
        return found

    def score_all(self, taste: Taste) -> Scores:
        scores: Scores = self.vectors @ taste.values
        if len(self._without):
            scores[self._without] = np.nan
        return scores

    def nearest(self, taste: Taste, k: int, kind: int) -> Proposal:
        return self.index.search(taste.values, k, kind)


class VectorModel(ItemVectors):
    """Item vectors (n_items, d), their Gram matrix, the prior, and one index per item kind."""

    name: ClassVar[str] = "als"
    __slots__ = ("_solved", "alpha", "gram", "regularization", "solved", "tau")

    def __init__(
        self,
        vectors: Floats,
        kinds: NDArray[np.uint8],
        prior: Prior,
        *,
        regularization: float,
        tau: float,
        alpha: float,
        index: ItemIndex | None = None,
        gram: NDArray[np.float64] | None = None,
        solved: Floats | None = None,
    ) -> None:
        """`index` None: exact. `gram` (d, d) and `solved` (n_items, d) are computed when not given."""
        super().__init__(vectors, kinds, prior, index)
        self.regularization, self.tau, self.alpha = regularization, tau, alpha
        if gram is None:
            wide = vectors.astype(np.float64)
            gram = wide.T @ wide
        self.gram: NDArray[np.float64] = gram
        inverse = np.linalg.inv(self._system())
        self.solved: Floats = (vectors @ inverse).astype(np.float32) if solved is None else solved
        mean, weights = tau * (prior.mean @ inverse), (tau * (prior.weights @ inverse)).astype(np.float32)
        room = Room.of(self.width, self.width)
        self._solved = Solved(vectors, self.solved, self.has_vector, mean, weights, alpha, room)

    def _system(self) -> NDArray[np.float64]:
        ridge = self.regularization + self.tau
        system: NDArray[np.float64] = self.gram + ridge * np.eye(self.width)
        return system

    def represent(self, history: History, tokens: NDArray[np.uint32], segment: int) -> Taste:  # noqa: ARG002
        """The customer's vector (d,) f4. The segment speaks through its token."""
        known = self.prior.rows(tokens)
        if len(history.rows) > self.width:
            history = self._met(history)
            if len(history.rows) > self.width:
                return Taste(self._direct(*self.usable(history), known), True)
        x, count = folded(self._solved, history.rows, evidence(history.weights), known)
        return Taste(x, count > 0 or len(known) > 0)

    def _direct(self, rows: Rows, weights: NDArray[np.float64], known: NDArray[np.intp]) -> Floats:
        """The same by a solve in d: cheaper once the history is longer than the vector is wide."""
        y = self.vectors[rows].astype(np.float64)
        extra = self.alpha * weights
        system = self._system() + y.T @ (extra[:, None] * y)
        prior = self.prior.mean.astype(np.float64) + self.prior.weights[known].sum(axis=0, dtype=np.float64)
        x: NDArray[np.float64] = np.linalg.solve(system, y.T @ (1.0 + extra) + self.tau * prior)
        return x.astype(np.float32)

    def with_index(self, index: ItemIndex) -> VectorModel:
        """The same model with another index."""
        return VectorModel(
            self.vectors,
            self.kinds.codes,
            self.prior,
            regularization=self.regularization,
            tau=self.tau,
            alpha=self.alpha,
            index=index,
            gram=self.gram,
            solved=self.solved,
        )

    def save(self, folder: Path) -> None:
        save_arrays(
            folder,
            vectors=self.vectors,
            solved=self.solved,
            gram=self.gram,
            kinds=self.kinds.codes,
            prior_mean=self.prior.mean,
            prior_tokens=self.prior.tokens,
            prior_weights=self.prior.weights,
        )
        self.index.save(folder / "index")
        spec = {
            "model": self.name,
            "regularization": self.regularization,
            "tau": self.tau,
            "alpha": self.alpha,
        }
        (folder / "model.json").write_text(json.dumps(spec, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path) -> VectorModel:
        spec = json.loads((folder / "model.json").read_text())
        part: dict[str, Any] = {
            name: load_array(folder, name)
            for name in (
                "vectors",
                "solved",
                "gram",
                "kinds",
                "prior_mean",
                "prior_tokens",
                "prior_weights",
            )
        }
        return cls(
            part["vectors"],
            part["kinds"],
            Prior(part["prior_mean"], part["prior_tokens"], part["prior_weights"]),
            regularization=spec["regularization"],
            tau=spec["tau"],
            alpha=spec["alpha"],
            index=ItemIndex.load(folder / "index", part["vectors"]),
            gram=part["gram"],
            solved=part["solved"],
        )
