"""The Woodbury solve of `serving.vector_model`, as loops: a customer's vector from a prior and a history."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit

F4 = NDArray[np.float32]
F8 = NDArray[np.float64]


@jit
def folded(vectors: F4, solved: F4, rows: NDArray[np.int32], extra: F8, prior: F8) -> F4:
    """(d,) `prior` updated by h items: vectors (n, d), solved = vectors · A⁻¹, extra (h,) = c − 1 >= 0.

    With D = diag(extra) and G = Y A⁻¹ Yᵀ, (I + D G) z = D y is solved as (I + √D G √D) u = √D y, z = √D u:
    symmetric and positive definite, so by Cholesky. Inner loops run along rows and never sum into one number
    where they need not: so they are vectorised, and give the same bits on every run.
    """
    h, d = len(rows), vectors.shape[1]
    y, s = np.empty((h, d), np.float64), np.empty((h, d), np.float64)
    across = np.empty((d, h), np.float64)  # s, transposed
    root = np.sqrt(extra)
    x = prior.copy()
    for i in range(h):
        for c in range(d):
            y[i, c] = vectors[rows[i], c]
            s[i, c] = across[c, i] = solved[rows[i], c]
            x[c] += (1.0 + extra[i]) * s[i, c]
    lower, u = np.zeros((h, h), np.float64), np.empty(h, np.float64)
    for i in range(h):
        for c in range(d):
            one = root[i] * y[i, c]
            for j in range(i + 1):
                lower[i, j] += one * across[c, j]
        said = 0.0
        for c in range(d):
            said += y[i, c] * x[c]
        u[i] = root[i] * said
        for j in range(i + 1):
            lower[i, j] *= root[j]
        lower[i, i] += 1.0
    for i in range(h):  # Cholesky by rows, and L v = √D y on the way
        for j in range(i):
            lower[i, j] /= lower[j, j]
            u[i] -= lower[i, j] * u[j]
            for k in range(j + 1, i + 1):
                lower[i, k] -= lower[i, j] * lower[k, j]
        lower[i, i] = np.sqrt(lower[i, i])
        u[i] /= lower[i, i]
    for i in range(h - 1, -1, -1):  # Lᵀ u = v
        u[i] /= lower[i, i]
        for j in range(i):
            u[j] -= lower[i, j] * u[i]
    for i in range(h):
        for c in range(d):
            x[c] -= root[i] * u[i] * s[i, c]
    return x.astype(np.float32)
