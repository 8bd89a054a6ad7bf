"""Sample ratio mismatch: arms that are not as large as they were assigned to be. Then nothing else counts.

(Fabijan et al. 2019.) A chi-square test on units, and the same within segments: where the loss sits says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

ALPHA: Final = 0.001


@dataclass(frozen=True, slots=True)
class Mismatch:
    """`segments`: p of the test within each; `causes`: what to look at first."""

    p: float
    counts: Mapping[str, int]
    expected: Mapping[str, float]
    segments: Mapping[str, float]
    causes: tuple[str, ...]

    @property
    def found(self) -> bool:
        return self.p < ALPHA


def chi_square(counts: Sequence[float], weights: Sequence[float]) -> float:
    """p of counts that were assigned in proportion to weights; 1 without any."""
    seen, parts = np.asarray(counts, np.float64), np.asarray(weights, np.float64)
    expected = seen.sum() * parts / parts.sum()
    if seen.sum() == 0:
        return 1.0
    return float(stats.chi2.sf(((seen - expected) ** 2 / expected).sum(), len(seen) - 1))


def mismatch(
    counts: Mapping[str, int],
    weights: Mapping[str, float],
    *,
    segments: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
    crossed: int = 0,
    degraded: Mapping[str, float] | None = None,
) -> Mismatch:
    """`counts` and `weights` by arm; `segments`: dimension -> value -> counts in the arms' order; `crossed`:
    units that were seen in two arms; `degraded`: part of each arm's pages on a lower rung.
    """
    arms = list(counts)
    parts = [weights[arm] for arm in arms]
    p = chi_square([counts[arm] for arm in arms], parts)
    total = sum(counts.values())
    within = {
        f"{dimension}: {value}": chi_square(list(seen), parts)
        for dimension, values in (segments or {}).items()
        for value, seen in values.items()
    }
    causes = _causes(p, total, within, crossed, degraded or {}) if p < ALPHA else ()
    expected = {arm: total * part / sum(parts) for arm, part in zip(arms, parts, strict=True)}
    return Mismatch(p, dict(counts), expected, within, causes)


def _causes(
    p: float, total: int, within: Mapping[str, float], crossed: int, degraded: Mapping[str, float]
) -> tuple[str, ...]:
    found = []
    bad = sorted((value, name) for name, value in within.items() if value < ALPHA / max(1, len(within)))
    fine = [name for name, value in within.items() if value >= 0.01]
    for _, name in bad[:3]:
        found.append(_about(name, everywhere=not fine))
    if crossed > 0.001 * total:
        found.append(
            f"{crossed} units were seen in two arms and left out: a salt, a weight or a range was changed"
            " while it ran, or visitors were linked to customers who were enrolled already"
        )
    if degraded and max(degraded.values()) - min(degraded.values()) > 0.005:
        worst = max(degraded, key=lambda arm: degraded[arm])
        found.append(
            f"{worst} answers {degraded[worst]:.1%} of its pages on a lower rung: the arm is slow or"
            " fails, and whom it fails leaves"
        )
    if not found:
        found.append(
            f"p = {p:.1g}, alike everywhere: events of one arm are lost or filtered on the way (a client"
            " that crashes, a bot filter), or the arm's weight was changed while it ran"
        )
    return tuple(found)


def _about(name: str, *, everywhere: bool) -> str:
    if everywhere:
        return f"worst in {name}, but nowhere well: look at logging before segments"
    dimension = name.partition(":")[0]
    why = {
        "first day": "the share or a weight changed that day, or a release broke one arm then",
        "subject": "visitors and customers are joined differently in the arms",
        "channel": "one client does not report one of the arms",
        "known before": "one arm keeps or loses those who come back",
    }.get(dimension, "what differs there between the arms")
    return f"only in {name}: {why}"
