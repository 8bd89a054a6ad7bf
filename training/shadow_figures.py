"""What a candidate bundle did beside the live one on the same pages: sums, what they say, and the limits.

Two kinds of figures. Of every page that was decided again: which places differ, how full it is, what failed,
how far its mean score lies from the live one's, what it cost. Of displays that became ripe: what both bundles
said of the very places that were displayed, against the clicks that came. The live bundle chose what was
displayed, and chose most of what it overestimates; the candidate did not, so a little of its lead is that.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import log, sqrt
from statistics import median
from typing import Any, Final

import numpy as np

from serving.domain import Decision
from serving.score_drift import LEAST, Reference
from training.gate import Refusal
from training.ope.release import LEAST_FILL, Z
from training.ranker_gate import FEWEST, TOLERATED, Sum, summed

SIDES: Final = ("live", "candidate")
DEPTHS: Final = (1, 5, 10)
ALL: Final = "all"
OTHER: Final = "other reasons"
MOST_REASONS: Final = 40  # prices have a version every few seconds
_LEAST_P: Final = 1e-7

Place = tuple[int, int]  # item key, campaign key
Pair = tuple[Decision, Decision]  # the live bundle's page, the candidate's


@dataclass(frozen=True, slots=True)
class Limits:
    """What stops a release. Of what the log cannot tell (too few pages of a surface, too few clicks of a
    slot) nothing is held against a candidate but `pages`.
    """

    pages: int = 200  # decided again, at least
    drift: float = 0.25  # stability index of pages' mean scores, by surface
    calibration: float = round(TOLERATED[1] - 1.0, 6)  # Σp/Σy: into 1 ± this its interval must reach,
    # unless the live bundle's lies no nearer to 1: what both have wrong a release does not make worse
    loss: float = 0.01  # of the live bundle's log loss: so much more is not worse yet
    fill: float = LEAST_FILL  # of the places that the live bundle fills
    degraded: float = 0.001  # of the pages, degraded where the live bundle's are not, less the reverse


@dataclass(slots=True)
class SlotSums:
    places: int = 0
    differ: int = 0
    pages: int = 0
    overlap: Counter[int] = field(default_factory=Counter)  # by depth, sums of parts
    deep: Counter[int] = field(default_factory=Counter)  # by depth, pages that are as deep


class Figures:
    """Sums over pages; `document()` says what they come to so far."""

    def __init__(self) -> None:
        self.seen = self.sampled = self.compared = self.as_logged = self.failed = 0
        self.left_out = Counter[str]()
        self.rows_unread = 0
        self.plans = Counter[str]()
        self.killed_pages = 0  # on which something was switched off
        self.first, self.last = float("inf"), 0.0
        self._slots: dict[str, SlotSums] = {}
        self._places, self._asked = Counter[str](), 0
        self._degraded: dict[str, Counter[str]] = {side: Counter() for side in SIDES}
        self._degraded_pages, self._degraded_alone = Counter[str](), Counter[str]()
        self._took = {side: array("f") for side in SIDES}
        self._scores: dict[str, dict[str, array[float]]] = {}  # surface -> side -> of pages
        self.ripe_pages = self.shown_pages = 0
        self.unscored = Counter[str]()
        self._names: dict[str, int] = {}
        self._joined: list[tuple[float, ...]] = []  # page, slot, places, clicks, p and loss of both

    def leave(self, reason: str) -> None:
        """A page that is not compared."""
        known = reason[:160] in self.left_out or len(self.left_out) < MOST_REASONS
        self.left_out[reason[:160] if known else OTHER] += 1

    def page(self, surface: str, at: float, pair: Pair, took_us: tuple[float, float]) -> None:
        """A page that both have decided."""
        self.compared += 1
        self.first, self.last = min(self.first, at), max(self.last, at)
        names = [asked.spec.name for asked in pair[0].query.slots]
        sides = [_by_slot(decision) for decision in pair]
        for name in dict.fromkeys((*names, *(slot for side in sides for slot in side))):
            self._compare(name, *(side.get(name, {}) for side in sides))
        self._asked += sum(asked.count for asked in pair[0].query.slots)
        scores = self._scores.setdefault(surface, {side: array("d") for side in SIDES})
        lost = [set(decision.degraded) for decision in pair]
        for side, mine, others in zip(SIDES, lost, reversed(lost), strict=True):
            self._degraded[side].update(mine)
            self._degraded_pages[side] += bool(mine)
            self._degraded_alone[side] += bool(mine - others)  # what both miss is no bundle's doing
        for side, decision, us in zip(SIDES, pair, took_us, strict=True):
            placed = decision.placements
            self._places[side] += len(placed)
            self._took[side].append(us)
            if placed:
                scores[side].append(sum(one.score for one in placed) / len(placed))

    def _compare(self, name: str, live: Mapping[int, Place], other: Mapping[int, Place]) -> None:
        sums = self._slots.setdefault(name, SlotSums())
        places = live.keys() | other.keys()
        sums.places += len(places)
        sums.differ += sum(live.get(at) != other.get(at) for at in places)
        sums.pages += bool(places)
        deepest = max(places, default=-1) + 1
        for depth in (one for one in DEPTHS if one <= deepest):
            tops = [{item for at, (item, _) in side.items() if at < depth} for side in (live, other)]
            most = max(map(len, tops))
            sums.deep[depth] += 1
            sums.overlap[depth] += len(tops[0] & tops[1]) / most if most else 1.0  # type: ignore[assignment]

    def joined(self, found: Sequence[tuple[str, bool, float, float]]) -> None:
        """Displays of one page: slot, whether it was clicked, what the live and the candidate said of it."""
        page = float(self.shown_pages)
        self.shown_pages += 1
        sums: dict[str, list[float]] = {}
        for slot, clicked, *chances in found:
            one = sums.setdefault(slot, [0.0] * 6)
            one[0] += 1.0
            one[1] += clicked
            for side, p in enumerate(chances):
                sure = min(max(p, _LEAST_P), 1.0 - _LEAST_P)
                one[2 + side] += p
                one[4 + side] -= log(sure if clicked else 1.0 - sure)
        for slot, one in sums.items():
            self._joined.append((page, float(self._names.setdefault(slot, len(self._names))), *one))

    def document(self) -> dict[str, Any]:
        """JSON-able. Shares are parts of one; None: too little to tell."""
        told = self._displays()
        return {
            "since": self.first if self.compared else None,
            "until": self.last if self.compared else None,
            "pages": {
                "seen": self.seen,
                "sampled": self.sampled,
                "compared": self.compared,
                "left_out": dict(self.left_out.most_common()),
                "candidate_failed": self.failed,
                "live_as_logged": _part(self.as_logged, self.compared),
                "with_kills": self.killed_pages,
                "plans": dict(self.plans),
                "unreadable_rows": self.rows_unread,
            },
            "places": self._differing(),
            "fill": {side: _part(self._places[side], self._asked) for side in SIDES},
            "degraded": {
                side: {
                    "pages": _part(self._degraded_pages[side], self.compared),
                    "alone": _part(self._degraded_alone[side], self.compared),
                    "causes": dict(self._degraded[side].most_common()),
                }
                for side in SIDES
            },
            "drift": {surface: self._drift(surface) for surface in sorted(self._scores)},
            "us_per_page": {side: median(took) if (took := self._took[side]) else None for side in SIDES},
            "displays": {
                "ripe_pages": self.ripe_pages,
                "displayed_pages": self.shown_pages,
                "left_out": dict(self.unscored),
                **told,
            },
        }

    def _differing(self) -> dict[str, Any]:
        slots = {
            name: {
                "places": one.places,
                "differ": _part(one.differ, one.places),
                "overlap": {str(k): one.overlap[k] / one.deep[k] for k in DEPTHS if one.deep[k]},
            }
            for name, one in sorted(self._slots.items())
            if one.places
        }
        places = sum(one.places for one in self._slots.values())
        differ = sum(one.differ for one in self._slots.values())
        return {"compared": places, "differ": _part(differ, places), "by_slot": slots}

    def _drift(self, surface: str) -> float | None:
        live, other = (self._scores[surface][side] for side in SIDES)
        reference = Reference.of(live) if len(other) >= LEAST else None
        if reference is None:
            return None
        counts = [0] * len(reference.counts)
        for one in other:
            counts[bisect_left(reference.cuts, one)] += 1
        return reference.distance(counts)

    def _displays(self) -> dict[str, Any]:
        if not self._joined:
            return {"places": 0, "clicks": 0, "log_loss": None, "calibration": {side: {} for side in SIDES}}
        page, slot, places, clicks, *of_sides = np.array(self._joined, np.float64).T
        n = places.sum()
        gap = np.bincount(page.astype(np.int64), of_sides[3] - of_sides[2])
        mean = float(gap.sum() / n)
        spread = gap - mean * np.bincount(page.astype(np.int64), places)  # pages are what is independent
        half = Z * sqrt(float((spread**2).sum())) / float(n)
        losses = {side: float(of_sides[2 + k].sum() / n) for k, side in enumerate(SIDES)}
        sums = {side: self._sums(of_sides[k], clicks, page, slot) for k, side in enumerate(SIDES)}
        return {
            "places": int(n),
            "clicks": int(clicks.sum()),
            "log_loss": {**losses, "difference": [mean, mean - half, mean + half]},
            "calibration": sums,
        }

    def _sums(self, p: Any, clicks: Any, page: Any, slot: Any) -> dict[str, dict[str, float]]:
        found = {ALL: summed(p, clicks, page)}
        for name, code in sorted(self._names.items()):
            here = slot == code
            found[name] = summed(p[here], clicks[here], page[here], at_once=len(self._names))
        return {name: _plain(one) for name, one in found.items()}


def refusals(document: Mapping[str, Any], limits: Limits) -> list[Refusal]:
    """Every limit that the candidate does not keep, in words."""
    found: list[Refusal] = []

    def against(code: str, text: str) -> None:
        found.append(Refusal(code, text))

    pages = document["pages"]
    if pages["compared"] < limits.pages:
        why = "; ".join(f"{n:,} {reason}" for reason, n in list(pages["left_out"].items())[:3])
        left = f" (left out: {why})" if why else ""
        against(
            "too_few_pages", f"{pages['compared']:,} pages were compared of {limits.pages:,} needed{left}"
        )
    if pages["candidate_failed"]:
        against("failed", f"it could not decide {pages['candidate_failed']:,} pages that the live bundle did")
    fill = document["fill"]
    if fill["live"] is not None and fill["candidate"] < limits.fill * fill["live"]:
        text = f"it fills {fill['candidate']:.2%} of the places asked for, the live bundle {fill['live']:.2%}"
        against("fill", text)
    lost = {side: document["degraded"][side]["alone"] or 0.0 for side in SIDES}
    if lost["candidate"] > lost["live"] + limits.degraded:
        causes = ", ".join(document["degraded"]["candidate"]["causes"])
        against(
            "degraded",
            f"{lost['candidate']:.2%} of its pages are degraded where the live bundle's are not ({causes})",
        )
    for surface, one in document["drift"].items():
        if one is not None and not one <= limits.drift:
            text = f"scores of {surface} lie {one:.3f} from the live bundle's (stability index), more than"
            against("drift", f"{text} {limits.drift}")
    displays = document["displays"]
    for slot, one in _untrue(displays, limits.calibration).items():
        beside = displays["calibration"]["live"][slot]["ratio"]
        if _off(one["ratio"]) > _off(beside):
            text = (
                f"{slot}: expected over real clicks {one['ratio']:.3f} ({one['low']:.3f} to"
                f" {one['high']:.3f}; {one['clicks']:,} clicks), farther off than the live bundle's"
                f" {beside:.3f}"
            )
            against("calibration", text)
    if (loss := displays["log_loss"]) is not None and loss["difference"][1] > limits.loss * loss["live"]:
        gap, low, high = (one / loss["live"] for one in loss["difference"])
        text = (
            f"its log loss on {displays['places']:,} displays is {gap:+.1%} of the live bundle's (95 %"
            f" interval {low:+.1%} to {high:+.1%}), more than {limits.loss:.0%} worse beyond doubt"
        )
        against("log_loss", text)
    return found


def not_told(document: Mapping[str, Any], limits: Limits) -> list[str]:
    """What the pages seen could not tell, and so stopped nothing; and what is wrong with both bundles."""
    drift, displays = document["drift"], document["displays"]
    found = [
        f"drift of {name}: fewer than {LEAST} pages with a place"
        for name, one in drift.items()
        if one is None
    ]
    if displays["log_loss"] is None:
        return [*found, "log loss and calibration: no display is ripe yet"]
    few = [name for name, one in displays["calibration"]["candidate"].items() if one["clicks"] < FEWEST]
    found += [f"calibration of {', '.join(few)}: fewer than {FEWEST} clicks"] if few else []
    for slot, one in _untrue(displays, limits.calibration).items():
        beside = displays["calibration"]["live"][slot]["ratio"]
        if _off(one["ratio"]) <= _off(beside):
            text = f"calibration of {slot} is off by {one['ratio']:.3f}, and no less the live bundle's"
            found.append(f"{text} by {beside:.3f}")
    return found


def limits_told(limits: Limits) -> dict[str, float]:
    return asdict(limits)


def _untrue(displays: Mapping[str, Any], tolerated: float) -> dict[str, Mapping[str, float]]:
    """The candidate's sums whose interval does not reach into what is tolerated."""
    return {
        slot: one
        for slot, one in displays["calibration"]["candidate"].items()
        if one["clicks"] >= FEWEST and not (one["low"] <= 1.0 + tolerated and one["high"] >= 1.0 - tolerated)
    }


def _off(ratio: float) -> float:
    """How far a ratio lies from 1, over and under alike."""
    return abs(log(ratio)) if ratio > 0 else float("inf")


def _by_slot(decision: Decision) -> dict[str, dict[int, Place]]:
    """Slot -> position -> what stands there."""
    found: dict[str, dict[int, Place]] = {}
    for one in decision.placements:
        name = decision.query.slots[one.slot].spec.name
        found.setdefault(name, {})[one.position] = one.key, one.campaign_key
    return found


def _plain(one: Sum) -> dict[str, float]:
    return one.to_json()


def _part(some: float, whole: float) -> float | None:
    return some / whole if whole else None
