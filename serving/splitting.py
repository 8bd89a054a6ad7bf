"""Units of experiments divided by hashes: where a unit falls, for one salt, is a number in [0, 1).

A unit's key is `features.ids.key64` of its subject (BLAKE2b, RFC 7693). A salt is another such key. The two
are joined by exclusive or and mixed by the finalizer of SplitMix64 (Steele, Lea and Flood 2014, with
Stafford's variant 13 of the constants): a bijection, so a salt divides units as evenly as their keys are.
Whole numbers only: the same on every machine. One unit in plain Python is 0.4 µs, many at once are columns.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.ids import key64

_MASK: Final = (1 << 64) - 1
_FIRST: Final = 0xBF58476D1CE4E5B9
_SECOND: Final = 0x94D049BB133111EB
_ONE: Final = 2.0**-53


def salt_of(*names: str) -> int:
    """The salt of what is named, such as ("2026", "layer", "ranking"); no two lists of names share one."""
    return key64("".join(f"{len(name)}:{name}" for name in names))


def part_of(key: int, salt: int) -> float:
    """Where the unit of this key falls for this salt: [0, 1), of 53 bits."""
    x = key ^ salt
    x = ((x ^ (x >> 30)) * _FIRST) & _MASK
    x = ((x ^ (x >> 27)) * _SECOND) & _MASK
    return ((x ^ (x >> 31)) >> 11) * _ONE


def parts_of(keys: NDArray[np.uint64], salt: int) -> NDArray[np.float64]:
    """(n,) the same of many keys, bit for bit."""
    x = keys ^ np.uint64(salt)
    x ^= x >> np.uint64(30)
    x *= np.uint64(_FIRST)
    x ^= x >> np.uint64(27)
    x *= np.uint64(_SECOND)
    x ^= x >> np.uint64(31)
    x >>= np.uint64(11)
    return x.astype(np.float64) * _ONE
