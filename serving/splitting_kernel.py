"""Where a unit falls for a salt, in compiled code: `serving.splitting.part_of`, bit for bit."""

from __future__ import annotations

import numpy as np

from features.compiled import loops


@loops
def part(x: np.uint64) -> float:
    """`x`: key and salt joined by exclusive or."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return float(x >> np.uint64(11)) * 2.0**-53
