"""How far the scores of pages have moved from those that the bundle was published with.

A bundle's manifest holds, by surface, the deciles of the mean score of pages: logged pages, decided again by
that very bundle (training/score_reference.py). The pages of the last hour are counted in the same bins, and
the distance is the population stability index, Σ (p − q)·ln(p / q): 0 the same, above 0.25 by common usage
another population. A bundle that says nothing, or nothing that can be read, exports nothing.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isfinite, log
from typing import Any, Final, NamedTuple, Self

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

LOG: Final = logging.getLogger("fenliu.drift")
KEY: Final = "scores"  # in the manifest
BINS: Final = 10
LEAST: Final = 200  # pages of a surface, for a reference of its own
LEAST_SEEN: Final = 500  # pages of the window; fewer move the index by more than 0.02 by chance
PART_S: Final = 300.0
PARTS: Final = 12  # of the window
ABOVE: Final = 1.0001  # a cut lies this much above its score: pages that are all alike stay in one bin


class Reference(NamedTuple):
    """`counts[i]`: pages with cuts[i − 1] < score <= cuts[i]; one count more than there are cuts."""

    cuts: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, scores: Sequence[float]) -> Self | None:
        """By the deciles of pages' mean scores; None of too few."""
        if len(scores) < LEAST:
            return None
        ordered = sorted(scores)
        deciles = {ordered[len(ordered) * tenth // BINS - 1] for tenth in range(1, BINS)}
        cuts = tuple(sorted({float(f"{one * ABOVE:.6g}") for one in deciles}))
        counts = [0] * (len(cuts) + 1)
        for one in ordered:
            counts[bisect_left(cuts, one)] += 1
        return cls(cuts, tuple(counts))

    def to_json(self) -> dict[str, Any]:
        return {"cuts": list(self.cuts), "counts": list(self.counts)}

    @classmethod
    def read(cls, said: Any) -> Self:
        """Raises ValueError, TypeError, KeyError or OverflowError for what is no reference."""
        made = cls(tuple(map(float, said["cuts"])), tuple(map(int, said["counts"])))
        rising = all(isfinite(one) for one in made.cuts) and list(made.cuts) == sorted(set(made.cuts))
        if not rising or len(made.counts) != len(made.cuts) + 1 or min(made.counts) < 0:
            raise ValueError("not rising cuts with one count more")
        if sum(made.counts) < LEAST:
            raise ValueError(f"of fewer than {LEAST} pages")
        return made

    def distance(self, seen: Sequence[int]) -> float:
        """The index of counts in the same bins; half a page more in each keeps empty ones finite."""
        total, own = sum(seen) + 0.5 * len(seen), sum(self.counts) + 0.5 * len(seen)
        shares = [((n + 0.5) / total, (m + 0.5) / own) for n, m in zip(seen, self.counts, strict=True)]
        return sum((p - q) * log(p / q) for p, q in shares)


def references(manifest: Mapping[str, Any]) -> dict[str, Reference]:
    """By surface, of a bundle's manifest; what cannot be read is left out and said."""
    said, found = manifest.get(KEY) or {}, dict[str, Reference]()
    try:
        for surface, one in said.items():
            found[str(surface)] = Reference.read(one)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as problem:
        LOG.warning("the bundle's reference of scores cannot be read, so drift is not told: %s", problem)
        return {}
    return found


class ScoreDrift(Collector):
    """Of one replica, over the last hour; registered once per process. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._bundle = clock, ""
        self._references: dict[str, Reference] = {}
        self._part, self._counts = 0, dict[str, list[int]]()
        self._past: deque[tuple[int, dict[str, list[int]]]] = deque(maxlen=PARTS - 1)

    def expect(self, bundle: str, manifest: Mapping[str, Any]) -> None:
        """What runs from now on; what was counted of another bundle is forgotten."""
        if bundle != self._bundle:
            self._bundle, self._references = bundle, references(manifest)
            self._counts = {}
            self._past.clear()

    def add(self, bundle: str, surface: str, score: float) -> None:
        """A page of the rung `full`, after it was answered, by its mean score."""
        reference = self._references.get(surface)
        if reference is None or bundle != self._bundle:
            return
        part = int(self._clock() // PART_S)
        if part != self._part:
            self._past.append((self._part, self._counts))
            self._part, self._counts = part, {}
        counts = self._counts.get(surface)
        if counts is None:
            counts = self._counts[surface] = [0] * len(reference.counts)
        counts[bisect_left(reference.cuts, score)] += 1

    def describe(self) -> Iterable[Metric]:
        return (self._family(),)

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        since = int(self._clock() // PART_S) - PARTS
        parts = [counts for part, counts in (*self._past, (self._part, self._counts)) if part > since]
        for surface, reference in self._references.items():
            seen = [counts[surface] for counts in parts if surface in counts]
            sums = [sum(column) for column in zip(*seen, strict=True)]
            if sum(sums) >= LEAST_SEEN:
                family.add_metric([surface], reference.distance(sums))
        yield family

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "fenliu_score_drift",
            "distance of the last hour's mean scores of pages from the bundle's own: stability index",
            labels=["surface"],
        )
