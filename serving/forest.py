"""A small forest as plain arrays, and what it says of a matrix of features. No learning library is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.ranking_kernel import trees
from serving.taste import load_array, save_arrays

MOST_LEAVES: Final = 16
_ARRAYS: Final = ("feature", "threshold", "mask", "starts", "leaves")


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """T trees of at most 16 leaves; nodes (N,) tree by tree: see `features.ranking_kernel.trees`.

    Raises ValueError where arrays do not fit or are not finite.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    mask: NDArray[np.uint16]
    starts: NDArray[np.int32]
    leaves: NDArray[np.float32]

    def __post_init__(self) -> None:
        nodes, count = len(self.feature), len(self.leaves)
        if (
            len(self.threshold) != nodes
            or len(self.mask) != nodes
            or self.leaves.shape != (count, MOST_LEAVES)
        ):
            raise ValueError(
                f"a forest of {nodes} nodes and {self.leaves.shape} leaves does not fit together"
            )
        if len(self.starts) != count + 1 or self.starts[0] != 0 or self.starts[-1] != nodes:
            raise ValueError("the trees' nodes do not add up")
        if (np.diff(self.starts) < 0).any() or (np.diff(self.starts) >= MOST_LEAVES).any():
            raise ValueError(f"a tree may have at most {MOST_LEAVES} leaves")
        if (
            not (np.isfinite(self.threshold).all() and np.isfinite(self.leaves).all())
            or (self.mask == 0).any()
        ):
            raise ValueError("thresholds and leaves must be finite, and a tree must keep a leaf")

    @classmethod
    def nothing(cls) -> Forest:
        """That adds 0 to everything."""
        whole, part = np.zeros(0, np.int32), np.zeros(0, np.float32)
        return cls(
            whole, part, np.zeros(0, np.uint16), np.zeros(1, np.int32), np.zeros((0, MOST_LEAVES), np.float32)
        )

    def add(self, matrix: NDArray[np.float32], logit: NDArray[np.float32], shared: int = 0) -> None:
        """Adds what the trees say of the columns of `matrix` (features, n) to `logit` (n,) f4; its first
        `shared` rows hold one value each.
        """
        reached = np.empty(len(logit), np.uint16)
        trees(
            matrix, self.feature, self.threshold, self.mask, self.starts, self.leaves, reached, shared, logit
        )

    def check(self, features: int) -> None:
        """Raises ValueError where a node asks for a feature that there is not."""
        if len(self.feature) and not 0 <= int(self.feature.min()) <= int(self.feature.max()) < features:
            raise ValueError(
                f"a forest over {int(self.feature.max()) + 1} features, not {features}: train again"
            )

    def save(self, folder: Path) -> None:
        save_arrays(folder, **{name: getattr(self, name) for name in _ARRAYS})

    @classmethod
    def load(cls, folder: Path) -> Forest:
        return cls(**{name: np.array(load_array(folder, name)) for name in _ARRAYS})
