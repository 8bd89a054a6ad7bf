"""Are the ranker's probabilities true? Σp over Σy of displays that it has not seen, with its interval.

A forest may order displays well and still count on a fifth more clicks than come: prices, goals and the
currency of a page are made of these sums. So beside the log loss, which hardly feels it, the sums decide: the
95 % interval of Σp/Σy must reach into what is tolerated. Pages are the unit: places of one page share its
customer's mood. With few clicks the interval is wide, and little is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.ranker import Answer
from training.ranker_fit import LEVEL_RIDGE, Floats, Rows, expected, level_of, logistic

TOLERATED: Final = (0.97, 1.03)
EARLIER: Final = 0.6  # of the held-out displays, in time: those that levels are learnt from
FEWEST: Final = 30  # clicks below which a sum says nothing


@dataclass(frozen=True, slots=True)
class Sum:
    """Σp/Σy with its 95 % interval, and the clicks that it stands on."""

    ratio: float
    low: float
    high: float
    clicks: int

    @property
    def true(self) -> bool:
        """Whether the interval reaches into what is tolerated; with too few clicks nobody knows."""
        return self.clicks < FEWEST or (self.low <= TOLERATED[1] and self.high >= TOLERATED[0])

    @property
    def decided(self) -> bool:
        """Whether the clicks are enough to tell 3 % apart from nothing."""
        return self.high - self.low <= TOLERATED[1] - TOLERATED[0]

    def to_json(self) -> dict[str, float]:
        return {
            "ratio": round(self.ratio, 4), "low": round(self.low, 4), "high": round(self.high, 4),
            "clicks": self.clicks,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Check:
    """`found`: the sums by slot; after new levels were learnt, those of the later displays. `note`: what was
    wrong and what came of it, "" where nothing was.
    """

    found: dict[str, Sum]
    levelled: bool
    refused: bool
    note: str

    def to_json(self) -> dict[str, Any]:
        sums = {name: one.to_json() for name, one in self.found.items()}
        return {"sums": sums, "levelled": self.levelled, "tolerated": list(TOLERATED), "note": self.note}


def check(answer: Answer, rows: Rows, slots: Sequence[str]) -> Check:
    """Of displays after all that it learnt from. Where sums are wrong, its levels are learnt anew from the
    earlier of these displays and the later ones judge; where they are wrong still, it is refused.
    """
    label = rows.clicked.astype(np.float64)
    p = expected(answer, rows)
    found = sums(p, label, rows, slots)
    first = wrong(found)
    if not first:
        return Check(found, levelled=False, refused=False, note="")
    early = rows.at <= np.quantile(rows.at, EARLIER)
    mended = levelled(answer, p[early], label[early], rows.slot[early])
    rest = rows.take(~early)
    found = sums(expected(mended, rest), label[~early], rest, slots)
    if second := wrong(found):
        note = f"not calibrated, nor after its levels were learnt anew: {'; '.join(second)}"
        return Check(found, levelled=True, refused=True, note=note)
    note = f"levels learnt anew from the newest displays: {'; '.join(first)}"
    return Check(found, levelled=True, refused=False, note=note)


def summed(p: Floats, label: Floats, page: NDArray[Any], at_once: int = 1) -> Sum:
    """Of displays (m): the ratio, its interval by the delta method over pages (equal `page` = one page);
    of so many that are looked at `at_once` all hold together at 95 % (Bonferroni).
    """
    clicks = float(label.sum())
    if clicks <= 0:
        return Sum(float("inf") if p.sum() > 0 else 1.0, 0.0, float("inf"), 0)
    ratio = float(p.sum()) / clicks
    _, group = np.unique(page, return_inverse=True)
    left = np.bincount(group, p - ratio * label)
    z = NormalDist().inv_cdf(1.0 - 0.025 / at_once)
    half = z * float(np.sqrt((left**2).sum())) / clicks
    return Sum(ratio, ratio - half, ratio + half, int(clicks))


def sums(p: Floats, label: Floats, rows: Rows, slots: Sequence[str]) -> dict[str, Sum]:
    """Of all displays (`all`), and of each slot that was displayed; a page is a moment."""
    found = {"all": summed(p, label, rows.at)}
    for code in np.unique(rows.slot).tolist():
        here = rows.slot == code
        name = slots[code] if code < len(slots) else "other"
        found[name] = summed(p[here], label[here], rows.at[here], at_once=max(len(slots), 1))
    return found


def wrong(found: dict[str, Sum]) -> list[str]:
    """The sums that are not true, in words."""
    return [
        f"{name}: expected over real clicks {one.ratio:.3f} ({one.low:.3f} to {one.high:.3f}; {one.clicks:,})"
        for name, one in found.items()
        if not one.true
    ]


def levelled(answer: Answer, p: Floats, label: Floats, slot: NDArray[np.int64]) -> Answer:
    """The answer with the levels that its newest displays ask for, of which it said `p` (m,) without having
    learnt from them: all displays' first, then each slot's, drawn to that.
    """
    p = np.clip(p, 1e-7, 1 - 1e-7)
    raw = np.log(p / (1 - p))
    level = answer.level.astype(np.float64)
    shift = _drawn(raw, label)
    level, raw = level + shift, raw + shift
    for code in range(len(level) - 1):
        here = slot == code
        if here.any():
            level[code] += _drawn(raw[here], label[here])
    return replace(answer, level=level.astype(np.float32))


def _drawn(raw: Floats, label: Floats) -> float:
    """The likeliest shift of the log-odds, drawn to none by as many answers as `LEVEL_RIDGE`."""
    p = logistic(raw)
    curve = float((p * (1 - p)).sum())
    return level_of(raw, label) * curve / (curve + LEVEL_RIDGE)
