"""The compiled loop of iALS: block-wise Newton steps of one side's rows, the other side fixed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.compiled import unlocked

Floats = NDArray[np.float32]


@unlocked
def improve_rows(
    rows: Floats,
    other: Floats,
    gram: Floats,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    weight: Floats,
    ridge: Floats,
    block: int,
    first: int,
    end: int,
) -> None:
    """Move `rows[first:end]` (n, d), in place, to the minimum of their terms, `block` dimensions at a time.

    Row r's terms are Σ_j weight_j (y_j·x − 1)² + xᵀ gram x + ridge_r |x|² over its entries in the CSR, y_j
    being `other[indices_j]`; `gram` (d, d) already holds the unobserved weight. A row without entries
    becomes zero, which is its minimum. With `block` ≥ d one step is the exact solution; with smaller blocks
    each step is exact in its block given the rest (Rendle et al. 2021, "iALS++"): the objective never rises.
    """
    d = other.shape[1]
    for r in range(first, end):
        start = indptr[r]
        n = indptr[r + 1] - start
        x = rows[r]
        if n == 0:
            x[:] = np.float32(0.0)
            continue
        miss = np.empty(n, np.float32)  # 1 - y·x
        for j in range(n):
            y = other[indices[start + j]]
            said = np.float32(0.0)
            for k in range(d):
                said += y[k] * x[k]
            miss[j] = np.float32(1.0) - said
        for low in range(0, d, block):
            width = min(block, d - low)
            scaled = np.empty((n, width), np.float32)
            step = np.empty(width, np.float32)
            for k in range(width):
                pull = ridge[r] * x[low + k]
                for m in range(d):
                    pull += gram[low + k, m] * x[m]
                step[k] = -pull
            for j in range(n):
                y = other[indices[start + j]]
                v = weight[start + j]
                root = np.float32(np.sqrt(v))
                gain = v * miss[j]
                for k in range(width):
                    scaled[j, k] = root * y[low + k]
                    step[k] += gain * y[low + k]
            curve = np.dot(scaled.T, scaled)
            for k in range(width):
                for m in range(width):
                    curve[k, m] += gram[low + k, low + m]
                curve[k, k] += ridge[r]
            factor = np.linalg.cholesky(curve)
            for k in range(width):
                value = step[k]
                for m in range(k):
                    value -= factor[k, m] * step[m]
                step[k] = value / factor[k, k]
            for k in range(width - 1, -1, -1):
                value = step[k] / factor[k, k]
                step[k] = value
                for m in range(k):
                    step[m] -= factor[k, m] * value
            for k in range(width):
                x[low + k] += step[k]
            if low + width < d:
                for j in range(n):
                    y = other[indices[start + j]]
                    said = np.float32(0.0)
                    for k in range(width):
                        said += y[low + k] * step[k]
                    miss[j] -= said
