"""The blend's logit of candidates, by a loop; `serving.blend` says what it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.compiled import loops

I4 = NDArray[np.int32]
F4 = NDArray[np.float32]


def against(rows: I4, model: F4, fatigue: F4, slope: F4, with_model: F4, without: F4, tires: F4) -> F4:
    """(n,) the logit with its sign turned, kept within 15 of 0: what the logistic function's power is of.

    `model` and `fatigue` (n,) of the candidates `rows`, empty where there is none; NaN where the model says
    nothing of an item. The other columns are by row, as `serving.blend.Looks` and the slope of fatigue.
    """
    out = np.empty(len(rows), np.float32)
    _against(rows, model, fatigue, slope, with_model, without, tires, out)
    return out


@loops
def _against(
    rows: I4, model: F4, fatigue: F4, slope: F4, with_model: F4, without: F4, tires: F4, out: F4
) -> None:
    for k in range(len(rows)):
        row = rows[k]
        logit = without[row]
        if len(model) and model[k] == model[k]:
            logit = slope[row] * model[k] + with_model[row]
        if len(fatigue):
            logit += tires[row] * fatigue[k]
        out[k] = min(max(-logit, np.float32(-15)), np.float32(15))
