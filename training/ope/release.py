"""The release gate on logged traffic: would this plan or bundle have earned less, and what would it show?

Pages that held lotteries are decided again by the candidate. Its value is the doubly robust estimate; what it
is compared with is what was earned on the very same places, so the interval is of the paired difference, by
customer. Beside it stand the shares of kinds by slot and how full the pages are. A candidate is stopped where
it is worse beyond doubt; where the log cannot tell, that is said and stops nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from features.ids import KINDS
from serving.domain import Decision
from serving.live import Live
from training.lake import Lake
from training.ope.candidate import Views
from training.ope.diagnostics import diagnose
from training.ope.estimators import Logged, Parts, dr
from training.ope.policies import Clicks, as_logged, rewards, rounds_of
from training.replay import Record, records

MARGIN: Final = 0.05  # relative: so much less is not worse yet
LEAST_FILL: Final = 0.98  # of the places that were filled
PAGES: Final = 5_000
DAYS: Final = 7.0
Z: Final = 1.959964
DAY_S: Final = 86_400.0


@dataclass
class Shares:
    """Placements by (slot, kind)."""

    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    places: int = 0

    def by_slot(self) -> dict[str, dict[str, float]]:
        totals: Counter[str] = Counter()
        for (slot, _), n in self.kinds.items():
            totals[slot] += n
        found: dict[str, dict[str, float]] = {}
        for (slot, kind), n in sorted(self.kinds.items()):
            found.setdefault(slot, {})[kind] = n / totals[slot]
        return found


@dataclass(frozen=True, slots=True)
class Release:
    """`difference` (estimate, low, high): candidate − logged, of a place; None: it cannot be told."""

    pages: int
    left_out: int
    rounds: int
    same: float
    logged: float
    difference: tuple[float, float, float] | None
    warnings: tuple[str, ...]
    before: Shares
    after: Shares

    def stopped(self, margin: float = MARGIN) -> list[str]:
        """Why it may not be released; empty: nothing is known against it."""
        found = []
        if self.difference is not None and self.difference[2] < -margin * self.logged:
            gap, low, high = self.difference
            found.append(
                f"on {self.rounds:,} places of {self.pages:,} logged pages it would have earned"
                f" {gap / self.logged:+.1%} of {self.logged:.5f} (95 % interval {low / self.logged:+.1%} to"
                f" {high / self.logged:+.1%}), more than {margin:.0%} less beyond doubt"
            )
        if self.before.places and self.after.places < LEAST_FILL * self.before.places:
            found.append(
                f"it fills {self.after.places:,} places of {self.pages:,} logged pages where"
                f" {self.before.places:,} were filled"
            )
        return found

    def document(self, margin: float = MARGIN) -> dict[str, Any]:
        return {
            "pages": self.pages,
            "left_out": self.left_out,
            "rounds": self.rounds,
            "same_first_choice": self.same,
            "logged": self.logged,
            "difference": None if self.difference is None else list(self.difference),
            "warnings": list(self.warnings),
            "filled": [self.before.places, self.after.places],
            "kinds": {"before": self.before.by_slot(), "after": self.after.by_slot()},
            "stopped": self.stopped(margin),
        }


def released(
    lake: Lake, candidate: Views, until: float, *, seed: int = 0, days: float = DAYS, most: int = PAGES
) -> Release | None:
    """On the lake's pages of the days up to `until`; None where none of them held a lottery."""
    since = until - days * DAY_S
    earned = rewards(lake, since, until)
    return appraised(records(lake, since, until), candidate, earned, seed=seed, most=most)


def appraised(
    logged: Iterable[Record], candidate: Views, earned: Clicks, *, seed: int = 0, most: int = PAGES
) -> Release | None:
    before, after = Shares(), Shares()
    kind_of: dict[int, int] = {}
    met: set[tuple[str, str]] = set()

    def watch(record: Record, decision: Decision, live: Live) -> None:
        if (content := (live.bundle.version, live.content)) not in met:
            met.add(content)
            for view in (*live.others, live):
                kind_of.update(zip(view.keys.tolist(), view.kind_of, strict=True))
        slots = np.frombuffer(record["place_slot"], "u1").tolist()
        for slot, key in zip(slots, np.frombuffer(record["items"], "<u8").tolist(), strict=True):
            before.kinds[record["slots"][slot], _kind(kind_of.get(key, -1))] += 1
        kinds = live.of(decision).kind_of
        for place in decision.placements:
            name = decision.query.slots[place.slot].spec.name
            after.kinds[name, _kind(kinds[place.row])] += 1
        before.places += len(slots)
        after.places += len(decision.placements)

    found = rounds_of(logged, candidate, earned, most=most, watch=watch)
    if not found.rounds:
        lost = tuple(f"{times:,} pages cannot be decided again: {why}" for why, times in found.why.items())
        return Release(0, found.left_out, 0, 0.0, 0.0, None, lost, before, after) if lost else None
    seen = as_logged(found, np.random.default_rng(seed))
    diagnosis = diagnose(seen)
    paired = None if diagnosis.refused or not seen.reward.any() else _paired(seen)
    return Release(
        found.pages, found.left_out, len(found.rounds), found.same, float(seen.reward.mean()), paired,
        diagnosis.warnings, before, after,
    )  # fmt: skip


def _paired(seen: Logged) -> tuple[float, float, float]:
    """The mean of v + w·(r − q) − r over places, and its 95 % interval: customers are what is independent."""
    each = Parts(dr(seen).top - seen.reward).by(seen.unit)
    return each.value, each.value - Z * each.error, each.value + Z * each.error


def _kind(code: int) -> str:
    return KINDS[code] if 0 <= code < len(KINDS) else "unknown"


def told(release: Release | None, margin: float = MARGIN) -> Mapping[str, Any]:
    """For reports."""
    if release is None:
        return {"missing": "no page of the last days held a lottery: give a slot `explore`, serve, ingest"}
    return release.document(margin)
