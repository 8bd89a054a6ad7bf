"""Intervals of an off-policy estimate: bootstrap, and a bound that needs no large sample."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.ope.estimators import Codes, Parts

ROUNDS: Final = 1_000
BLOCK: Final = 50
Floats = NDArray[np.float64]


def bootstrap(
    parts: Parts, rng: np.random.Generator, *, alpha: float = 0.05, rounds: int = ROUNDS
) -> tuple[float, float]:
    """The percentile interval over rounds drawn anew (Efron 1979): what is drawn must be independent, so the
    parts of customers' rounds are those `by` customer."""
    return bootstraps({"": parts}, rng, alpha=alpha, rounds=rounds)[""]


def bootstraps(
    parts: Mapping[str, Parts], rng: np.random.Generator, *, alpha: float = 0.05, rounds: int = ROUNDS
) -> dict[str, tuple[float, float]]:
    """The same of several estimates of one log, by the same draws."""
    values: dict[str, list[Floats]] = {name: [] for name in parts}
    sizes = {len(one.top) for one in parts.values()}
    for done in range(0, rounds, BLOCK):
        counts = {n: resampled(rng, n, min(BLOCK, rounds - done)) for n in sorted(sizes)}
        for name, one in parts.items():
            values[name].append(_of(one, counts[len(one.top)]))
    cuts = [alpha / 2, 1 - alpha / 2]
    found = {name: np.quantile(np.concatenate(each), cuts) for name, each in values.items()}
    return {name: (float(low), float(high)) for name, (low, high) in found.items()}


def resampled(rng: np.random.Generator, n: int, rounds: int) -> Floats:
    """(rounds, n) how often each round is drawn."""
    drawn = rng.integers(0, n, (rounds, n))
    counts = np.empty((rounds, n))
    for at in range(rounds):
        counts[at] = np.bincount(drawn[at], minlength=n)
    return counts


def by_counts(parts: Parts, counts: Floats, *, alpha: float = 0.05) -> tuple[float, float]:
    """The percentile interval by counts that were drawn before: the same for many estimates of one size."""
    low, high = np.quantile(_of(parts, counts), [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def _of(parts: Parts, counts: Floats) -> Floats:
    top = counts @ parts.top
    if len(parts.bottom) == 1:
        mean: Floats = top / counts.shape[1] / parts.bottom[0]
        return mean
    bottom = counts @ parts.bottom
    ratio: Floats = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
    return ratio


def empirical_bernstein(
    parts: Parts, width: float, *, unit: Codes | None = None, alpha: float = 0.05
) -> tuple[float, float]:
    """Holds for any n (Maurer and Pontil 2009): mean ± √(2·variance·ln(4/α)/n) + 7·width·ln(4/α)/(3(n − 1)).

    `width`: of the range in which `top` lies for certain, known without looking at what was drawn. `unit`:
    whose rounds they are; then their sums are what is independent, each of as many rounds as it has at most.
    Only for estimates that are plain means: ValueError for a ratio.
    """
    if len(parts.bottom) != 1:
        raise ValueError("a self-normalised estimate is a ratio: take its bootstrap")
    top = parts.top
    if unit is not None:
        counts = np.bincount(unit)
        scale = len(counts) / len(top)
        top, width = parts.by(unit).top * scale, width * float(counts.max()) * scale
    n, told = len(top), log(4 / alpha)
    spread = float(top.var(ddof=1)) if n > 1 else width**2
    radius = sqrt(2 * spread * told / n) + 7 * width * told / (3 * max(n - 1, 1))
    return parts.value - radius, parts.value + radius
