"""The loop of `serving.newcomers`: predicted chances by what was told of new items."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.compiled import loops


@loops
def correct(
    rows: NDArray[np.int32],
    score: NDArray[np.float32],
    mean: NDArray[np.float32],
    better: NDArray[np.float32],
) -> None:
    """Fills `better` (n,): P(clicked | displayed) of `rows` (n,) by `score` (n,), times the row's `mean`; no
    more than 1 where it was no more."""
    for i in range(len(rows)):
        better[i] = min(score[i] * mean[rows[i]], max(score[i], np.float32(1)))
